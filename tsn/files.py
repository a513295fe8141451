"""Writing files so that under their final name there is only ever a whole one."""

import glob
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_ABANDONED_S = 3600
"""So long after its last byte a temporary file is taken for what a kill left."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, make sure it is on disk, and give it the final name.

    The temporary name is of this call alone: processes may write one `path` at the same time.  What a kill
    leaves is removed by the first write of `path` an hour later.

    Args:
        overwrite: replace what has the name.  False: never, whoever wrote it and when.

    Raises:
        FileExistsError: without `overwrite`, and something has the name; it is left as it is.
        OSError: the file cannot be written; nothing is left of it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            _remove_abandoned(path, now=os.fstat(stream.fileno()).st_mtime)
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        (os.replace if overwrite else _rename_without_replacing)(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_without_replacing(temporary: Path, path: Path) -> None:
    """Give the file its final name.  Of several processes at the same name one succeeds, the others get
    FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here, as on FAT and some network file systems
        path.touch(exist_ok=False)  # takes the name
        os.replace(temporary, path)


def _remove_abandoned(path: Path, *, now: float) -> None:
    """Remove temporary files of `path` that nobody writes any more; `now`, in seconds, is by the file
    system's clock, as theirs."""
    for old in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        try:
            if now - old.stat().st_mtime > _ABANDONED_S:
                old.unlink()
        except OSError:  # another process was faster, or it is another user's: not worth a failure
            continue
