"""Writing one shard: a reproducible tar and its index, under their final names only when complete."""

import hashlib
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from shards.files import publish, write_atomically
from shards.index import Index, Member, format_index
from shards.manifest import ShardFile

_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)


class ShardWriter:
    """Writes the samples of one shard to `<name>.tmp`; `close` gives it its name.

    The bytes depend on nothing but the samples: times, owners and modes are fixed.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / name
        self._temporary = self._path.with_name(name + ".tmp")
        self._file = open(self._temporary, "wb")  # noqa: SIM115 (closed by `close` or `discard`)
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._index: Index = {}

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample; `members` are written in their order."""
        entries = []
        for name, content in members.items():
            header = tarfile.TarInfo(f"{key}.{name}")
            header.size, header.mode = len(content), 0o444
            self._write(header.tobuf(tarfile.USTAR_FORMAT))
            entries.append(Member(name, self._size_bytes, len(content)))
            self._write(content)
            self._write(bytes(-len(content) % tarfile.BLOCKSIZE))
        self._index[key] = tuple(entries)

    def close(self) -> ShardFile | None:
        """Finish tar and index on the disk. A shard without a sample leaves no file and gives None."""
        if not self._index:
            self.discard()
            return None
        self._write(_END_OF_ARCHIVE)
        self._write(bytes(-self._size_bytes % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        text = format_index(self._index.items())
        shard = ShardFile(
            name=self._path.name,
            num_samples=len(self._index),
            size_bytes=self._size_bytes,
            sha256=self._sha256.hexdigest(),
            index_sha256=hashlib.sha256(text.encode()).hexdigest(),
        )
        publish(self._temporary, self._path)
        write_atomically(self._path.with_suffix(".idx"), text)
        return shard

    def discard(self) -> None:
        """Give up: remove what was written."""
        with suppress(OSError):  # a full disk refuses what was not written yet, which nobody needs
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._size_bytes += len(content)
