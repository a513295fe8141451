"""Reading checkpoint files of strangers without executing anything that they contain.

torch's weights-only unpickler builds tensors and plain containers and refuses everything else.  MMAction2's
files carry, beside the weights, objects of its own (log histories, numpy scalars).  They are not needed, so
each foreign class is replaced by an inert placeholder: its module is not imported and none of its code runs.
"""

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tsn.errors import UserError

_LEGACY_PICKLES = 4
"""A file of torch < 1.6 starts with four pickles: a magic number, a version, the machine's sizes, the
content."""

_PYTHON3_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""torch.save writes pickles of protocol 2, which names these modules as Python 2 did."""


class Placeholder:
    """Stands for an object of a class that is not loaded; accepts whatever its pickle does to it and keeps
    nothing."""

    def __new__(cls, *_args: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _empty_bytes() -> bytes:
    """What `bytes` does in a pickle of protocol 2, which has no other way to write b""."""
    return b""


def load_without_executing(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU; objects of foreign classes come back as `Placeholder`.

    Raises:
        UserError: there is no such file, it is no checkpoint, or its pickle asks for something that is
            refused.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        foreign = [
            (_empty_bytes if name == "builtins.bytes" else Placeholder, name)
            for name in sorted(_names_in_pickle(path))
        ]
        # Names that torch itself allows (tensors, OrderedDict) keep their meaning: they are looked up first.
        with torch.serialization.safe_globals(foreign):  # pyright: ignore[reportArgumentType]
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path}: refused, because reading it would execute what it contains "
            f"({_first_telling_line(reason)}); save its state dict alone with torch.save and use that file"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: damaged, or not a file written by torch.save; copy it again, or take another"
        ) from error


def _first_telling_line(lines: list[str]) -> str:
    telling = [line.strip() for line in lines if "nsupported" in line or "locked" in line or "GLOBAL" in line]
    return (telling or lines or ["no reason given"])[0]


def _names_in_pickle(path: Path) -> set[str]:
    """Every `module.name` that the pickles in a file of `torch.save` refer to.  Nothing is unpickled."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not names:
                raise ValueError("it holds no data.pkl")
            with archive.open(names[0]) as stream:
                return _names_in_stream(stream)  # pyright: ignore[reportArgumentType]
    with path.open("rb") as stream:
        return set().union(*(_names_in_stream(stream) for _ in range(_LEGACY_PICKLES)))


def _names_in_stream(stream: BinaryIO) -> set[str]:
    arguments = (
        str(argument) for opcode, argument, _ in pickletools.genops(stream) if opcode.name == "GLOBAL"
    )
    pairs = (argument.split(" ", 1) for argument in arguments)
    return {f"{_PYTHON3_NAMES.get(module, module)}.{name}" for module, name in pairs}
