"""The directory of a run: what may be started in it, who writes into it, and where to go on."""

import fcntl
import sys
from pathlib import Path
from typing import BinaryIO

from tsn.errors import UserError

FILES = ("config.yaml", "log.jsonl", "last.pt", "best.pt")


def find_checkpoint(work_dir: Path, resume: str | None) -> Path | None:
    """The checkpoint from which a run in `work_dir` goes on; None: it starts from the beginning.

    Args:
        resume: None, a path, or `auto`: from `last.pt`, and from the beginning where there is none yet.

    Raises:
        UserError: it can be no directory, it holds a run that would be overwritten, or the checkpoint does
            not exist.
    """
    file = next((path for path in (work_dir, *work_dir.parents) if path.is_file()), None)
    if file:
        raise UserError(
            f"--work-dir {work_dir}: {file} is a file; name a directory, which need not exist yet"
        )
    existing = [name for name in FILES if (work_dir / name).exists()]
    if resume is None:
        if existing:
            raise UserError(
                f"{work_dir}: already holds a run ({', '.join(existing)}); go on with it with --resume auto, "
                "or choose another --work-dir.  Nothing was changed"
            )
        return None
    if resume == "auto":
        if "last.pt" in existing or "best.pt" not in existing:
            return work_dir / "last.pt" if "last.pt" in existing else None
        raise UserError(f"{work_dir}: holds best.pt but no last.pt; say from which file with --resume PATH")
    path = Path(resume)
    if not path.is_file():
        raise UserError(f"--resume {resume}: no such file; give a checkpoint such as last.pt, or auto")
    if existing and path.resolve().parent != work_dir.resolve():
        raise UserError(
            f"{work_dir}: already holds a run ({', '.join(existing)}) other than that of {path}; "
            "choose another --work-dir.  Nothing was changed"
        )
    return path


class WorkDirClaim:
    """Keeps other processes from writing into a work directory, by a lock on its `log.jsonl`, until it is
    closed or the process ends."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None

    def take(self, work_dir: Path, *, create: bool = False) -> None:
        """Claim `work_dir`.

        Args:
            create: make it, with a log, where there is none; otherwise a directory without one is nobody's.

        Raises:
            UserError: another process has claimed it, or it cannot be written.
        """
        log = work_dir / "log.jsonl"
        if self._file or not (create or log.is_file()):
            return
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            file = log.open("ab")
        except OSError as error:
            raise UserError(f"{log}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UserError(
                f"{work_dir}: another run is writing here (`fuser {log}` says which); wait for its end or "
                "stop it, or choose another --work-dir.  Nothing was changed"
            ) from error
        except OSError as error:
            print(f"{work_dir}: not locked against a second run: {error.strerror}", file=sys.stderr)
        self._file = file

    def close(self) -> None:
        """Others may write now."""
        if self._file:
            self._file.close()
        self._file = None
