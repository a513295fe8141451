"""The files that a script is told to write."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from tsn.files import write_atomically


def output_faults(outputs: dict[str, Path | None], *, overwrite: bool) -> list[str]:
    """Why these files, by option, will not be written."""
    faults, options = [], {}
    for option, path in outputs.items():
        if path is None:
            continue
        other = options.setdefault(path.resolve(), option)
        if other != option:
            faults.append(f"{option} {path}: is the file of {other}; name another")
        elif not path.parent.is_dir():
            faults.append(f"{option} {path}: there is no directory {path.parent}")
        elif path.is_dir():
            faults.append(f"{option} {path}: is a directory; name a file")
        elif os.path.lexists(path) and not overwrite:
            faults.append(f"{option} {path}: exists already; name another file, or add --overwrite")
        else:
            try:
                NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp").close()
            except OSError as error:
                faults.append(f"{option} {path}: cannot be written ({error.strerror}); name another place")
    return faults


def attempt(output: str, write: Callable[[], object]) -> list[str]:
    """Write one output, so that those after it are tried whatever becomes of it.

    Args:
        output: option and path, or what else the user knows it by.

    Returns:
        Why it could not be written, or nothing.
    """
    try:
        write()
    except FileExistsError:
        return [f"{output}: has appeared since the start and was not replaced; name another file"]
    except OSError as error:
        return [f"{output}: could not be written ({error.strerror or error}); name another place"]
    return []


def write_json(path: Path, content: dict[str, Any], *, overwrite: bool) -> None:
    """Write what a script found.

    Raises:
        FileExistsError: without `overwrite`, and the file exists.
        OSError: it cannot be written.
    """
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()), overwrite=overwrite)


def print_lines(lines: Sequence[str]) -> None:
    """Print, and make sure that it has left the process.

    Raises:
        OSError: nobody reads standard output any more, or it is a file on a full disk.  What is still printed
            then goes nowhere, so that the process can leave without failing at it once more.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise
