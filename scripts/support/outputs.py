"""The files that a script is told to write."""

from pathlib import Path
from tempfile import NamedTemporaryFile


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
        elif path.exists() and not overwrite:
            faults.append(f"{option} {path}: exists already; name another file, or add --overwrite")
        else:
            try:
                NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.").close()
            except OSError as error:
                faults.append(f"{option} {path}: cannot be written ({error.strerror}); name another place")
    return faults
