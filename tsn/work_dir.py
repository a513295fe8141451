"""The directory of a run: what may be started in it, and where to go on."""

from pathlib import Path

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
