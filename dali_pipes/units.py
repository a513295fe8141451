"""Reads from a tar just the units that the sampled frames need, and joins them.

Why not in DALI: its WebDataset reader copies every member that it is asked for, a video of 4 MB for 3 frames
of 17 KB. So the reader delivers the small members only (table, header, labels), and this function, called by
the graph with the frames that it has drawn, reads the units themselves.  docs/log.md has the figures.
"""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path

import numpy as np

from shards import h264
from shards.manifest import ShardError
from shards.sample import META_FIELDS
from shards.stream import VideoError

TAR_BLOCK = 512
_MAX_OPEN_FILES = 256
_SIZE_FIELD = slice(124, 136)  # of a tar header: octal digits
_RESTART = tuple(np.array([0xFF, 0xD0 + number], np.uint8) for number in range(8))
_END = np.array([0xFF, 0xD9], np.uint8)

META = {name: place for place, name in enumerate(META_FIELDS)}
"""Where each field stands in a `meta.npy` array."""


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
    """The function that the graph calls with a batch of samples, lists of arrays with one entry a sample.

    Attributes:
        failure: the message of the error that ended the pipeline, if it was raised here.
        recent: places of the samples of the last batches, for errors that DALI raises without naming a
            sample.
    """

    def __init__(self, *, codec: str, num_threads: int, max_batches_ahead: int):
        self.codec = codec
        self.failure: str | None = None
        self.recent: deque[list[Place]] = deque(maxlen=max_batches_ahead + 2)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="units")

    def stitched(
        self,
        json_sources: list[np.ndarray],
        jsons: list[np.ndarray],
        metas: list[np.ndarray],
        tables: list[np.ndarray],
        heads: list[np.ndarray],
        frames: list[np.ndarray],
    ) -> list[np.ndarray]:
        """mjpeg: one tall JPEG picture a sample, the pictures of `frames` (T,) from top to bottom."""
        places = self._locate(json_sources, jsons)
        return self._run(_stitch_sample, places, metas, tables, heads, frames)

    def decoded(
        self,
        json_sources: list[np.ndarray],
        jsons: list[np.ndarray],
        metas: list[np.ndarray],
        tables: list[np.ndarray],
        frames: list[np.ndarray],
    ) -> list[np.ndarray]:
        """h264: the frames themselves, (T, padded_height, padded_width, 3) uint8, decoded by FFmpeg."""
        places = self._locate(json_sources, jsons)
        return self._run(_decode_sample, places, metas, tables, frames)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _locate(self, json_sources: list[np.ndarray], jsons: list[np.ndarray]) -> list[Place]:
        places = []
        for source, text in zip(json_sources, jsons, strict=True):
            tar, key, header_offset = stream_place(source.tobytes(), text.size)
            places.append(Place(tar, key, header_offset + TAR_BLOCK))
        self.recent.append(places)
        return places

    def _run(self, function, places: list[Place], *columns: list[np.ndarray]) -> list[np.ndarray]:
        try:
            return list(self._pool.map(function, [self.codec] * len(places), places, *columns))
        except (ShardError, VideoError, OSError) as error:
            self.failure = str(error)
            raise


@lru_cache(maxsize=_MAX_OPEN_FILES)
def _open_tar(path: str) -> FileIO:
    """An open tar; closed when it is the longest unused one and no thread reads from it any more."""
    tar = FileIO(path)
    os.posix_fadvise(tar.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: the next unit is elsewhere
    return tar


def _stitch_sample(
    codec: str, place: Place, meta: np.ndarray, table: np.ndarray, head: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """One tall picture; the same bytes as `shards.jpeg.stitch` makes, read straight into their place."""
    units = table[frames].tolist()
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
    _read_units(codec, place, targets)
    return picture


def _decode_sample(
    codec: str, place: Place, meta: np.ndarray, table: np.ndarray, frames: np.ndarray
) -> np.ndarray:
    """Frames of the GOPs that hold `frames`."""
    frames_per_unit = int(meta[META["frames_per_unit"]])
    needed = np.unique(frames // frames_per_unit)
    lengths = table[needed, 1]
    starts = np.cumsum(lengths) - lengths
    stream = np.empty(int(lengths.sum()), np.uint8)
    compact = np.zeros_like(table)
    compact[needed] = np.stack([starts, lengths], axis=1)
    targets = [
        (int(table[unit, 0]), stream[start : start + length])
        for unit, start, length in zip(needed.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    ]
    _read_units(codec, place, targets)
    try:
        return h264.decode_frames(stream, compact, frames_per_unit, frames.tolist())
    except VideoError as error:
        raise ShardError(f"{place}: {error}; check the directory with scripts/verify_shards.py") from error


def _read_units(codec: str, place: Place, targets: list[tuple[int, np.ndarray]]) -> None:
    """Fill each target, a uint8 array, with the bytes of the stream from its start on."""
    tar = _open_tar(place.tar)
    header = os.pread(tar.fileno(), TAR_BLOCK, place.offset - TAR_BLOCK)
    name = f"{place.key}.{codec}"
    if not header.startswith(name.encode() + b"\0"):
        raise ShardError(f"{place}: no member {name} follows json; check with scripts/verify_shards.py")
    size = int(header[_SIZE_FIELD].rstrip(b" \0"), 8)
    for start, target in targets:
        if not 0 <= start <= size - target.size:
            raise ShardError(
                f"{place}: frames.npy points at bytes {start} to {start + target.size} of {name}, "
                f"which has {size}; check with scripts/verify_shards.py"
            )
        read = os.preadv(tar.fileno(), [target.data], place.offset + start)
        if read != target.size:
            raise ShardError(
                f"{place}: {name}: read {read} of {target.size} bytes; "
                "the tar is cut off, copy or pack it again"
            )
