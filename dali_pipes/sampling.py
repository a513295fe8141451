"""Which frames of a video the network sees, as DALI graph nodes.

The rules are those of MMAction2 0.x (SampleFrames), in its order of floating-point operations; TSN,
arXiv:1608.00859. Frames are 0-based.  All functions take `num_frames`, an INT32 scalar node >= 1, and return
INT32 nodes.
"""

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode

from dali_pipes.graph_math import float64, float64_range, floor_int, random_int, round_half_even_int, select


def train_frames(num_frames: DataNode, *, num_segments: int, clip_len: int, frame_interval: int) -> DataNode:
    """One random clip from each of `num_segments` equal parts of the video.

    Returns (num_segments * clip_len,), clip after clip.
    """
    span = clip_len * frame_interval
    starts = num_frames - (span - 1)  # possible clip starts; not positive where the video is too short
    segment = math.max(starts, 0) // num_segments
    index = types.Constant(np.arange(num_segments, dtype=np.int32), device="cpu")
    offsets = index * segment + random_int(math.max(segment, 1), shape=[num_segments])

    step = float64(math.max(starts, 0)) / float64(num_segments)
    spread = round_half_even_int(float64_range(num_segments) * step)
    offsets = select(segment > 0, offsets, spread)
    if span > 1:  # with single frames no video is both longer than its segments and too short to fill them
        drawn = _ascending(random_int(math.max(starts, 1), shape=[num_segments]), num_segments)
        crowded = fn.cast(segment == 0, dtype=types.INT32) * fn.cast(
            num_frames > max(num_segments, span), dtype=types.INT32
        )
        offsets = select(crowded > 0, drawn, offsets)
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def test_frames(num_frames: DataNode, *, num_segments: int, clip_len: int, frame_interval: int) -> DataNode:
    """The clip in the middle of each of `num_segments` equal parts of the video.

    Returns (num_segments * clip_len,), clip after clip.
    """
    span = clip_len * frame_interval
    segment = float64(math.max(num_frames - (span - 1), 0)) / float64(num_segments)
    offsets = floor_int(float64_range(num_segments) * segment + segment / 2.0)
    return _clip_frames(offsets, num_frames, clip_len=clip_len, frame_interval=frame_interval)


def _clip_frames(offsets: DataNode, num_frames: DataNode, *, clip_len: int, frame_interval: int) -> DataNode:
    """Frames of the clips that start at `offsets` (N,); past its end a video starts again."""
    if clip_len > 1:
        steps = types.Constant(np.arange(clip_len, dtype=np.int32)[None] * frame_interval, device="cpu")
        frames = fn.reshape(offsets, shape=[-1, 1]) + steps  # (N, 1) + (1, L) -> (N, L)
        offsets = fn.reshape(frames, shape=[-1])
    return offsets - (offsets // num_frames) * num_frames


def _ascending(values: DataNode, length: int) -> DataNode:
    """`values` (length,) sorted ascending.  DALI has no sort: every value is counted into its place."""
    column = fn.reshape(values, shape=[length, 1])
    row = fn.reshape(values, shape=[1, length])
    place = np.arange(length, dtype=np.int32)
    earlier = types.Constant((place[None] < place[:, None]).astype(np.int32), device="cpu")
    below = fn.cast(row < column, dtype=types.INT32) + fn.cast(row == column, dtype=types.INT32) * earlier
    rank = fn.reshape(fn.reductions.sum(below, axes=[1], dtype=types.INT32), shape=[length, 1])
    here = fn.cast(rank == types.Constant(place[None], device="cpu"), dtype=types.INT32)  # (value, place)
    return fn.reductions.sum(here * column, axes=[0], dtype=types.INT32)
