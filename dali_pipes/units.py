"""Reads from a tar just the units that the sampled frames need, and joins them.

Why not in DALI: its WebDataset reader copies every member that it is asked for, a video of 4 MB for 3 frames
of 17 KB.  So the reader delivers the small members only (table, header, labels), and this reads the units of
the frames that were chosen.  The kernel is told of all units of a batch before the first is read, so that a
disk gets them at once without a thread for each.  docs/log.md has the figures.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path

import numpy as np

from dali_pipes.planning import META
from shards import h264
from shards.manifest import ShardError
from shards.stream import VideoError

TAR_BLOCK = 512
_MAX_OPEN_FILES = 256
_SIZE_FIELD = slice(124, 136)  # of a tar header: octal digits
_RESTART = tuple(np.array([0xFF, 0xD0 + number], np.uint8) for number in range(8))
_END = np.array([0xFF, 0xD9], np.uint8)


Rows = Sequence[np.ndarray] | np.ndarray
"""An array for each sample of a batch."""


@dataclass(frozen=True)
class Place:
    """Where a stream lies: its tar, its sample's key, and the offset of its first byte in the tar."""

    tar: str
    key: str
    offset: int

    def __str__(self) -> str:
        return f"{Path(self.tar).name}:{self.key}"


def stream_place(json_source: bytes, json_size: int) -> tuple[str, str, int]:
    """Tar, key, and offset of the tar header after `json`, from the `source_info` that DALI gives `json`."""
    tar, offset, member = json_source.decode().rsplit(":", 2)
    end = int(offset) + json_size
    return tar, member.removesuffix(".json"), -(-end // TAR_BLOCK) * TAR_BLOCK


class UnitReader:
    """Reads the units of a batch of samples; arguments are lists with one entry a sample.

    Attributes:
        failure: the message of the error that ended the pipeline, if it was raised here.
        recent: places of the samples of the last batches, for errors that DALI raises without naming a
            sample.
    """

    def __init__(self, *, codec: str, num_threads: int, max_batches_ahead: int):
        self.failure: str | None = None
        self.recent: deque[list[Place]] = deque(maxlen=max_batches_ahead + 2)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="h264") if codec == "h264" else None

    def locate(self, json_sources: Rows, jsons: Rows) -> list[Place]:
        """Where the streams lie, from the `json` members and what DALI says of them."""
        places = []
        for source, text in zip(json_sources, jsons, strict=True):
            tar, key, header_offset = stream_place(source.tobytes(), text.size)
            places.append(Place(tar, key, header_offset + TAR_BLOCK))
        self.recent.append(places)
        return places

    def stitched(
        self,
        places: Sequence[Place],
        metas: Rows,
        tables: Rows,
        heads: Rows,
        pictures: Rows,
    ) -> list[np.ndarray]:
        """mjpeg: one tall JPEG picture a sample, the pictures `pictures` (T,) from top to bottom."""
        rows = [_rows(*sample).tolist() for sample in zip(places, tables, pictures, strict=True)]
        tars = [_announce("mjpeg", place, units) for place, units in zip(places, rows, strict=True)]
        return [_stitch(*sample) for sample in zip(tars, places, metas, rows, heads, strict=True)]

    def decoded(
        self,
        places: Sequence[Place],
        metas: Rows,
        tables: Rows,
        frames: Rows,
    ) -> list[np.ndarray]:
        """h264: the frames themselves, (T, padded_height, padded_width, 3) uint8, decoded by FFmpeg."""
        assert self._pool is not None, "of another codec"
        needed, tars = [], []
        for place, meta, table, chosen in zip(places, metas, tables, frames, strict=True):
            needed.append(np.unique(chosen // int(meta[META["frames_per_unit"]])))
            tars.append(_announce("h264", place, _rows(place, table, needed[-1]).tolist()))
        return list(self._pool.map(_decode, tars, places, metas, tables, needed, frames))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """Keep the message of an error that is raised inside, which DALI would bury in its own."""
        try:
            yield
        except (ShardError, VideoError, OSError) as error:
            self.failure = self.failure or str(error)  # DALI may go on with a batch ahead after the first
            raise


@lru_cache(maxsize=_MAX_OPEN_FILES)
def _open_tar(path: str) -> FileIO:
    """An open tar; closed when it is the longest unused one and no thread reads from it any more."""
    tar = FileIO(path)
    os.posix_fadvise(tar.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: the next unit is elsewhere
    return tar


def _rows(place: Place, table: np.ndarray, units: np.ndarray) -> np.ndarray:
    if units.max() >= len(table):
        raise ShardError(
            f"{place}: frames.npy has {len(table)} units, and number {units.max()} is wanted; check with "
            "scripts/verify_shards.py"
        )
    return table[units]


def _announce(codec: str, place: Place, units: Sequence[Sequence[int]]) -> FileIO:
    """Tell the kernel which bytes, (start, length) in the stream, will be read; the open tar to read from.

    Raises:
        ShardError: the stream is not where it should be, or the table points outside of it.
    """
    tar = _open_tar(place.tar)
    header = os.pread(tar.fileno(), TAR_BLOCK, place.offset - TAR_BLOCK)
    name = f"{place.key}.{codec}"
    if not header.startswith(name.encode() + b"\0"):
        raise ShardError(f"{place}: no member {name} follows json; check with scripts/verify_shards.py")
    size = int(header[_SIZE_FIELD].rstrip(b" \0"), 8)
    for start, length in units:
        if not 0 <= start < start + length <= size:
            raise ShardError(
                f"{place}: frames.npy points at bytes {start} to {start + length} of {name}, "
                f"which has {size}; check with scripts/verify_shards.py"
            )
        os.posix_fadvise(tar.fileno(), place.offset + start, length, os.POSIX_FADV_WILLNEED)
    return tar


def _stitch(
    tar: FileIO, place: Place, meta: np.ndarray, units: list[list[int]], head: np.ndarray
) -> np.ndarray:
    """One tall picture; the same bytes as `shards.jpeg.stitch` makes, read straight into their place."""
    height = int(meta[META["padded_height"]]) * len(units)
    picture = np.empty(head.size + sum(length for _, length in units) + 2 * len(units), np.uint8)
    picture[: head.size] = head
    at = int(meta[META["height_offset"]])
    picture[at : at + 2] = height >> 8, height & 255
    position, targets = head.size, []
    for number, (start, length) in enumerate(units):
        targets.append((start, picture[position : position + length]))
        position += length
        picture[position : position + 2] = _RESTART[number % 8]
        position += 2
    picture[-2:] = _END
    _read_units(tar, place, targets)
    return picture


def _decode(
    tar: FileIO,
    place: Place,
    meta: np.ndarray,
    table: np.ndarray,
    needed: np.ndarray,
    frames: np.ndarray,
) -> np.ndarray:
    """`frames`, out of the GOPs `needed`."""
    frames_per_unit = int(meta[META["frames_per_unit"]])
    lengths = table[needed, 1]
    starts = np.cumsum(lengths) - lengths
    stream = np.empty(int(lengths.sum()), np.uint8)
    compact = np.zeros_like(table)
    compact[needed] = np.stack([starts, lengths], axis=1)
    targets = [
        (int(table[unit, 0]), stream[start : start + length])
        for unit, start, length in zip(needed.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    ]
    _read_units(tar, place, targets)
    try:
        return h264.decode_frames(stream, compact, frames_per_unit, frames.tolist())
    except VideoError as error:
        raise ShardError(f"{place}: {error}; check the directory with scripts/verify_shards.py") from error


def _read_units(tar: FileIO, place: Place, targets: list[tuple[int, np.ndarray]]) -> None:
    """Fill each target, a uint8 array, with the bytes of the stream from its start on."""
    for start, target in targets:
        read = os.preadv(tar.fileno(), [target.data], place.offset + start)
        if read != target.size:
            raise ShardError(
                f"{place}: read {read} of {target.size} bytes of a unit; the tar is cut off, copy or pack it "
                "again"
            )
