"""Writing files so that a crash leaves either the old one or the new one, never half of one; checksums."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 2**22


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` by way of `path.tmp`; when this returns it is on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as target:
        target.write(text)
        target.flush()
        os.fsync(target.fileno())
    publish(temporary, path)


def publish(temporary: Path, path: Path) -> None:
    """Give a file that is wholly on the disk its final name, and put the name on the disk, too."""
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def to_json(value: Any) -> str:
    """`value` as indented JSON text, the same for equal values."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
