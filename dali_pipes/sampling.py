"""Which frames of a video the network sees, as DALI graph nodes.

The rules are those of MMAction2 0.x (SampleFrames, DenseSampleFrames), in its order of floating-point
operations; TSN, arXiv:1608.00859.  Frames are 0-based.  `num_frames` is an INT32 scalar node >= 1; the
functions return INT32 nodes, frame after frame of clip after clip.  What runs past the end of a video goes on
at its start.
"""

import numpy as np
from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode

from dali_pipes.graph_math import (
    INT32,
    constant,
    float64,
    float64_range,
    floor_int,
    int32,
    round_half_even_int,
    scaled_int,
    select,
    total,
)

DENSE_RANGE = 64
"""Dense sampling spreads the clips over this many frames."""

DENSE_POSITIONS = 10
"""Dense sampling in testing starts at this many places of the video."""


def random_segments(
    num_frames: DataNode, fractions: DataNode, *, num_segments: int, clip_len: int, frame_interval: int
) -> DataNode:
    """One random clip from each of `num_segments` equal parts of the video: SampleFrames in training.

    Args:
        fractions: (num_segments,) FLOAT64 in [0, 1): where in its part each clip starts.

    Returns (num_segments * clip_len,).
    """
    span = clip_len * frame_interval
    starts = num_frames - (span - 1)  # possible clip starts; not positive where the video is too short
    segment = math.max(starts, 0) // num_segments
    index = _constant(np.arange(num_segments))
    offsets = index * segment + scaled_int(fractions, math.max(segment, 1))
    step = float64(math.max(starts, 0)) / float64(num_segments)
    spread = round_half_even_int(float64_range(num_segments) * step)
    offsets = select(segment > 0, offsets, spread)
    if span > 1:  # with single frames no video is both longer than its segments and too short to fill them
        drawn = _ascending(scaled_int(fractions, math.max(starts, 1)), num_segments)
        long_enough = int32(num_frames > max(num_segments, span))
        crowded = int32(segment == 0) * long_enough
        offsets = select(crowded > 0, drawn, offsets)
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def middle_segments(
    num_frames: DataNode, *, num_segments: int, clip_len: int, frame_interval: int
) -> DataNode:
    """The clip in the middle of each of `num_segments` equal parts: SampleFrames in testing.

    Returns (num_segments * clip_len,).
    """
    span = clip_len * frame_interval
    segment = float64(math.max(num_frames - (span - 1), 0)) / float64(num_segments)
    offsets = floor_int(float64_range(num_segments) * segment + segment / 2.0)
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def random_dense(
    num_frames: DataNode, fraction: DataNode, *, num_segments: int, clip_len: int, frame_interval: int
) -> DataNode:
    """Clips evenly spread over `DENSE_RANGE` frames from a random start on: DenseSampleFrames in training.

    Args:
        fraction: (1,) FLOAT64 in [0, 1): the start.  The reference never draws the last one that would fit.

    Returns (num_segments * clip_len,).
    """
    start = scaled_int(fraction, math.max(num_frames - DENSE_RANGE, 1))
    offsets = _constant(np.arange(num_segments) * (DENSE_RANGE // num_segments)) + start
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def all_dense(num_frames: DataNode, *, num_segments: int, clip_len: int, frame_interval: int) -> DataNode:
    """The same from `DENSE_POSITIONS` starts over the whole video: DenseSampleFrames in testing.

    Returns (DENSE_POSITIONS * num_segments * clip_len,), start after start.
    """
    last = math.max(num_frames - DENSE_RANGE, 0)
    step = float64(last) / float64(DENSE_POSITIONS - 1)
    starts = floor_int(float64_range(DENSE_POSITIONS) * step)
    final = _constant(np.arange(DENSE_POSITIONS) == DENSE_POSITIONS - 1)
    starts = select(final > 0, last, starts)
    offsets = _constant(np.arange(num_segments) * (DENSE_RANGE // num_segments))
    offsets = fn.reshape(fn.reshape(starts, shape=[-1, 1]) + offsets, shape=[-1])  # (P, 1) + (N,) -> (P * N,)
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def choose_part(parts: DataNode, fraction: DataNode, *, only_positive: bool) -> tuple[DataNode, DataNode]:
    """First frame and number of frames of one part of an untrimmed video.  OmniSource, arXiv:2003.13042.

    Args:
        parts: (P, 3) INT32, a row a part: first frame, number of frames, 1 where it is positive; those first.
        fraction: (1,) FLOAT64 in [0, 1): which part.
    """
    count = total(parts[:, 2]) if only_positive else parts.shape()[0]
    row = parts[scaled_int(fraction, count)[0]]
    return row[0], row[1]


def _clip_frames(offsets: DataNode, num_frames: DataNode, *, clip_len: int, frame_interval: int) -> DataNode:
    """Frames of the clips that start at `offsets` (N,)."""
    if clip_len > 1:
        steps = _constant(np.arange(clip_len)[None] * frame_interval)
        frames = fn.reshape(offsets, shape=[-1, 1]) + steps  # (N, 1) + (1, L) -> (N, L)
        offsets = fn.reshape(frames, shape=[-1])
    return offsets - (offsets // num_frames) * num_frames


def _ascending(values: DataNode, length: int) -> DataNode:
    """`values` (length,) sorted ascending.  DALI has no sort: every value is counted into its place."""
    column = fn.reshape(values, shape=[length, 1])
    row = fn.reshape(values, shape=[1, length])
    place = np.arange(length)
    earlier = _constant(place[None] < place[:, None])
    below = int32(row < column) + int32(row == column) * earlier
    rank = fn.reshape(fn.reductions.sum(below, axes=[1], dtype=INT32), shape=[length, 1])
    here = int32(rank == _constant(place[None]))  # (value, place)
    return fn.reductions.sum(here * column, axes=[0], dtype=INT32)


def _constant(values: np.ndarray) -> DataNode:
    return constant(values.astype(np.int32))
