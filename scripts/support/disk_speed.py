"""How fast a disk delivers single units from anywhere in a directory of shards."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.manifest import Manifest, ShardFile

NUM_THREADS = 8
MAX_TARS = 100
"""All are open at once, and a process may have about 1,000 files."""


@dataclass(frozen=True)
class DiskSpeed:
    """Attributes:
    reads_per_s, bytes_per_read: units read, by all threads together, and their size.
    device_bytes_per_s: what the disk itself moved for that, read-ahead included; None where unknown.
    """

    reads_per_s: float
    bytes_per_read: float
    device_bytes_per_s: float | None

    @property
    def asked_bytes_per_s(self) -> float:
        return self.reads_per_s * self.bytes_per_read


def measure_disk(
    directory: Path, manifest: Manifest, *, max_reads: int = 2000, limit_s: float = 5.0
) -> DiskSpeed:
    """Read units of the mean size from random places of MAX_TARS tars at most, after dropping these from the
    page cache."""
    unit_bytes = max(1, manifest.size_bytes // max(1, manifest.num_frames))
    order = np.random.default_rng(0).permutation(len(manifest.shards))
    shards = [manifest.shards[number] for number in sorted(order[:MAX_TARS])]
    places = _random_places(shards, unit_bytes, max_reads)
    with _opened([directory / shard.name for shard in shards]) as files:
        for file in files:
            os.fsync(file)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        before, start = _device_bytes(), time.perf_counter()

        def read(place: tuple[int, int]) -> int:
            if time.perf_counter() - start > limit_s:
                return 0
            return len(os.pread(files[place[0]], unit_bytes, place[1]))

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            sizes = [size for size in pool.map(read, places) if size]
        seconds, moved = time.perf_counter() - start, _device_bytes()
    return DiskSpeed(
        reads_per_s=len(sizes) / seconds,
        bytes_per_read=sum(sizes) / len(sizes),
        device_bytes_per_s=None if before is None or moved is None else (moved - before) / seconds,
    )


def _random_places(shards: Sequence[ShardFile], unit_bytes: int, max_reads: int) -> list[tuple[int, int]]:
    """(shard, offset), each place at most once, in random order."""
    slots = [
        (number, offset)
        for number, shard in enumerate(shards)
        for offset in range(
            0, max(1, shard.size_bytes - unit_bytes), unit_bytes * 8
        )  # far apart: no neighbours
    ]
    chosen = np.random.default_rng(0).permutation(len(slots))[:max_reads]
    return [slots[place] for place in chosen]


@contextmanager
def _opened(paths: list[Path]) -> Iterator[list[int]]:
    files: list[int] = []
    try:
        for path in paths:
            files.append(os.open(path, os.O_RDONLY))
        yield files
    finally:
        for file in files:
            os.close(file)


def _device_bytes() -> int | None:
    """What this process has made the disks read so far; None where the kernel does not count it."""
    path = Path("/proc/self/io")
    try:
        fields = dict(line.split(": ") for line in path.read_text().splitlines())
    except OSError:
        return None
    return int(fields["read_bytes"])


def read_ahead_file(directory: Path) -> Path | None:
    """The kernel's read-ahead setting, in KB, of the block device under `directory`; None: no such device."""
    device = os.stat(directory).st_dev
    node = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (node, node.resolve().parent):  # a partition has its queue in its disk's folder
        path = place / "queue" / "read_ahead_kb"
        if path.exists():
            return path
    return None
