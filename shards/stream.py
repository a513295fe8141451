"""One video as a stream of units that can be decoded alone, and the errors of packing one."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Codec = Literal["mjpeg", "h264"]
Modality = Literal["rgb", "flow"]
MAX_STREAM_BYTES = 2**31 - 1  # the frame table is int32: DALI slices with nothing wider


class VideoError(Exception):
    """A video that cannot be packed; the message is the reason that `rejected.jsonl` gives."""


@dataclass(frozen=True)
class EncodedStream:
    """A video encoded for random access.

    Attributes:
        codec: "mjpeg" or "h264".
        data: the elementary stream.
        units: (num_units, 2) int32, start and length in bytes of each unit inside `data`. A unit of mjpeg is
            the entropy-coded scan of one picture, a unit of h264 one closed GOP. Flow: x0 y0 x1 y1 ...
        head: header of a stitched JPEG picture, from SOI to the end of SOS; empty for h264.
        height_offset: where in `head` the picture height stands, 2 bytes, big-endian; 0 for h264.
        num_frames: frames in the stream; one of flow is a pair of pictures.
        width, height: visible pixels.
        padded_height: rows of a coded picture; those from `height` on repeat the last visible one.
        frames_per_unit: 1 for mjpeg, the GOP length for h264 (the last GOP may be shorter).
    """

    codec: Codec
    data: bytes
    units: np.ndarray
    head: bytes
    height_offset: int
    num_frames: int
    width: int
    height: int
    padded_height: int
    frames_per_unit: int

    @property
    def channels(self) -> int:
        """Of a decoded frame: 3 (RGB), or 2 (x and y of optical flow, each stored as a grey picture)."""
        num_components = self.head[self.height_offset + 4 : self.height_offset + 5]  # of the SOF segment
        return 2 if num_components == b"\x01" else 3

    @property
    def pictures_per_frame(self) -> int:
        """Coded pictures in a frame: 2 for flow, otherwise 1."""
        return 2 if self.channels == 2 else 1


def unit_table(lengths: list[tuple[int, int]]) -> np.ndarray:
    """(num_units, 2) int32 table from (bytes before the unit's own data, bytes of the unit) given one after
    another.

    Args:
        lengths: for each unit how many bytes lie between the end of the previous unit and its start, and its
            length.

    Raises:
        VideoError: the stream is longer than the int32 table can address.
    """
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64).reshape(-1))
    if ends.size and ends[-1] > MAX_STREAM_BYTES:
        raise VideoError(
            f"the encoded stream takes {ends[-1] / 2**30:.1f} GiB and 2 GiB is the most: "
            "pack smaller frames (--size), fewer (--frame-stride), or cut the video into clips"
        )
    starts, stops = ends[0::2], ends[1::2]
    return np.stack([starts, stops - starts], axis=1).astype(np.int32)


def pad_frame(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """`frame` (H, W, C) uint8 grown to (rows, columns, C) at the bottom and the right by repeating its
    edge."""
    height, width = frame.shape[:2]
    if (height, width) == (rows, columns):
        return np.ascontiguousarray(frame)
    return np.pad(frame, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
