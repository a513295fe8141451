"""Which frames of a video the network sees, as DALI graph nodes.

The rules are those of MMAction2 0.x (SampleFrames, DenseSampleFrames; one of 1.x), in its order of
floating-point operations; TSN, arXiv:1608.00859.  Frames are 0-based.  `num_frames` is an INT32 scalar node
>= 1; the functions return INT32 nodes, frame after frame of clip after clip.  What runs past the end of a
video goes on at its start (`past_end` "loop"), or repeats the last frame of its clip ("repeat_last").
"""

from typing import Literal

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

PastEnd = Literal["loop", "repeat_last"]


def random_segments(
    num_frames: DataNode,
    fractions: DataNode,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    past_end: PastEnd = "loop",
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
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def middle_segments(
    num_frames: DataNode,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    twice: bool = False,
    past_end: PastEnd = "loop",
) -> DataNode:
    """The clip in the middle of each of `num_segments` equal parts: SampleFrames in testing.

    Args:
        twice: after these also the clip at the start of each part (twice_sample), unless the video is shorter
            than a clip.

    Returns (num_segments * clip_len,), or twice as many.
    """
    span = clip_len * frame_interval
    segment = float64(math.max(num_frames - (span - 1), 0)) / float64(num_segments)
    starts = float64_range(num_segments) * segment
    offsets = floor_int(starts + segment / 2.0)
    if twice:
        offsets = fn.cat(offsets, floor_int(starts), axis=0)
        offsets = offsets[: select(num_frames >= span, 2 * num_segments, num_segments)]
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def spread_segments(
    num_frames: DataNode,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    twice: bool = False,
    past_end: PastEnd = "loop",
) -> DataNode:
    """Clips at equal distances, the first at the start of the video and the last at its end: SampleFrames of
    MMAction2 1.x in testing, for clips of several frames.

    Args:
        twice: as many again at the same distances, which go on at the start of the video (twice_sample).

    Returns (num_segments * clip_len,), or twice as many.
    """
    room = math.max(num_frames - (clip_len - 1) * frame_interval - 1, 0)
    num_clips = num_segments * (2 if twice else 1)
    if num_clips == 1:
        offsets = fn.reshape(room // 2, shape=[1])
    else:
        step = float64(room) / float64(max(num_segments - 1, 1))
        offsets = round_half_even_int(float64_range(num_clips) * step)
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def random_dense(
    num_frames: DataNode,
    fraction: DataNode,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    dense_range: int = 64,
    past_end: PastEnd = "loop",
) -> DataNode:
    """Clips evenly spread over `dense_range` frames from a random start on: DenseSampleFrames in training.

    Args:
        fraction: (1,) FLOAT64 in [0, 1): the start.  The reference never draws the last one that would fit.

    Returns (num_segments * clip_len,).
    """
    start = scaled_int(fraction, math.max(num_frames - dense_range, 1))
    offsets = _wrapped(_constant(np.arange(num_segments) * (dense_range // num_segments)) + start, num_frames)
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def all_dense(
    num_frames: DataNode,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    dense_range: int = 64,
    num_positions: int = 10,
    past_end: PastEnd = "loop",
) -> DataNode:
    """The same from `num_positions` starts over the whole video: DenseSampleFrames in testing.

    Returns (num_positions * num_segments * clip_len,), start after start.
    """
    last = math.max(num_frames - dense_range, 0)
    step = float64(last) / float64(max(num_positions - 1, 1))
    starts = floor_int(float64_range(num_positions) * step)
    if num_positions > 1:
        final = _constant(np.arange(num_positions) == num_positions - 1)
        starts = select(final > 0, last, starts)
    offsets = _constant(np.arange(num_segments) * (dense_range // num_segments))
    offsets = fn.reshape(fn.reshape(starts, shape=[-1, 1]) + offsets, shape=[-1])  # (P, 1) + (N,) -> (P * N,)
    return _clip_frames(_wrapped(offsets, num_frames), num_frames, clip_len, frame_interval, past_end)


def untrimmed_frames(
    num_frames: int, *, clip_len: int, clip_interval: int, frame_interval: int = 1
) -> np.ndarray:
    """A clip around every `clip_interval`-th frame, however many that are: UntrimmedSampleFrames, for
    features along a long video.  Indices beyond an end of the video are that end.

    As the number of clips depends on the video, this is for one video at a time, outside of the graph.

    Returns (num_clips * clip_len,) int64.

    Raises:
        ValueError: the video has no such frame: it is shorter than half an interval.
    """
    centres = np.arange(clip_interval // 2, num_frames, clip_interval)
    if not centres.size:
        raise ValueError(
            f"{num_frames} frames: too short for clips every {clip_interval} frames, the first of which lies "
            f"around frame {clip_interval // 2}"
        )
    steps = np.arange(-(clip_len // 2), clip_len - clip_len // 2) * frame_interval
    return np.clip(centres[:, None] + steps, 0, num_frames - 1).reshape(-1)


def choose_part(parts: DataNode, fraction: DataNode, *, only_positive: bool) -> tuple[DataNode, DataNode]:
    """First frame and number of frames of one part of an untrimmed video.  OmniSource, arXiv:2003.13042.

    Args:
        parts: (P, 3) INT32, a row a part: first frame, number of frames, 1 where it is positive; those first.
        fraction: (1,) FLOAT64 in [0, 1): which part.
    """
    count = total(parts[:, 2]) if only_positive else parts.shape()[0]
    row = parts[scaled_int(fraction, count)[0]]
    return row[0], row[1]


def _clip_frames(
    offsets: DataNode, num_frames: DataNode, clip_len: int, frame_interval: int, past_end: PastEnd
) -> DataNode:
    """Frames of the clips that start at `offsets` (N,)."""
    steps = _constant(np.arange(clip_len)[None] * frame_interval)
    frames = fn.reshape(offsets, shape=[-1, 1]) + steps  # (N, 1) + (1, L) -> (N, L)
    if past_end == "loop":
        frames = _wrapped(frames, num_frames)
    else:
        inside = int32(frames < num_frames)
        last = fn.reductions.max(inside * frames, axes=[1], keep_dims=True)
        frames = select(inside > 0, frames, last)
    return fn.reshape(frames, shape=[-1])


def _wrapped(indices: DataNode, num_frames: DataNode) -> DataNode:
    return indices - (indices // num_frames) * num_frames


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
