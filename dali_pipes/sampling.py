"""Which frames of a video the network sees.

The rules are those of MMAction2 0.x (SampleFrames, DenseSampleFrames; one of 1.x), in its order of
floating-point operations; TSN, arXiv:1608.00859.  Frames are 0-based.  `num_frames` is (N,) int64, each >= 1;
a row of the result holds the frames of one video, frame after frame of clip after clip.  What runs past the
end of a video goes on at its start (`past_end` "loop"), or repeats the last frame of its clip
("repeat_last").
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dali_pipes.fractions import Floats, Ints, scaled_ints

PastEnd = Literal["loop", "repeat_last"]


def random_segments(
    num_frames: Ints,
    fractions: Floats,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    past_end: PastEnd = "loop",
) -> Ints:
    """One random clip from each of `num_segments` equal parts of the video: SampleFrames in training.

    Args:
        fractions: (N, num_segments) in [0, 1): where in its part each clip starts.

    Returns (N, num_segments * clip_len).
    """
    length, span = num_frames[:, None], clip_len * frame_interval
    starts = np.maximum(length - span + 1, 0)  # possible clip starts
    segment, index = starts // num_segments, np.arange(num_segments)
    in_segments = index * segment + scaled_ints(fractions, np.maximum(segment, 1))
    anywhere = np.sort(scaled_ints(fractions, np.maximum(starts, 1)), axis=1)
    spread = np.rint(index * (starts / num_segments)).astype(np.int64)
    long_enough = length > max(num_segments, span)
    offsets = np.where(segment > 0, in_segments, np.where(long_enough, anywhere, spread))
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def middle_segments(
    num_frames: Ints,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    twice: bool = False,
    past_end: PastEnd = "loop",
) -> Ints:
    """The clip in the middle of each of `num_segments` equal parts: SampleFrames in testing.

    Args:
        twice: after these also the clip at the start of each part (twice_sample).  Of a video that is shorter
            than a clip the reference then takes the clips once; here they come twice, which leaves their mean
            as it is.

    Returns (N, num_segments * clip_len), or twice as many columns.
    """
    segment = np.maximum(num_frames - clip_len * frame_interval + 1, 0)[:, None] / num_segments
    starts = np.arange(num_segments) * segment
    offsets = np.floor(starts + segment / 2.0)
    if twice:  # the reference leaves the starts as they are until the very end
        offsets = np.concatenate([offsets, starts], axis=1)
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def spread_segments(
    num_frames: Ints,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    twice: bool = False,
    past_end: PastEnd = "loop",
) -> Ints:
    """Clips at equal distances, the first at the start of the video and the last at its end: SampleFrames of
    MMAction2 1.x in testing, for clips of several frames.

    Args:
        twice: as many again at the same distances, which go on at the start of the video (twice_sample).

    Returns (N, num_segments * clip_len), or twice as many columns.
    """
    room = np.maximum(num_frames - (clip_len - 1) * frame_interval - 1, 0)[:, None]
    num_clips = num_segments * (2 if twice else 1)
    offsets = room // 2
    if num_clips > 1:
        offsets = np.rint(np.arange(num_clips) * (room / max(num_segments - 1, 1))).astype(np.int64)
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def random_dense(
    num_frames: Ints,
    fractions: Floats,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    dense_range: int = 64,
    past_end: PastEnd = "loop",
) -> Ints:
    """Clips evenly spread over `dense_range` frames from a random start on: DenseSampleFrames in training.

    Args:
        fractions: (N,) in [0, 1): the start.  The reference never draws the last one that would fit.

    Returns (N, num_segments * clip_len).
    """
    start = scaled_ints(fractions, np.maximum(num_frames - dense_range, 1))
    offsets = np.arange(num_segments) * (dense_range // num_segments) + start[:, None]
    return _clip_frames(offsets % num_frames[:, None], num_frames, clip_len, frame_interval, past_end)


def all_dense(
    num_frames: Ints,
    *,
    num_segments: int,
    clip_len: int,
    frame_interval: int,
    dense_range: int = 64,
    num_positions: int = 10,
    past_end: PastEnd = "loop",
) -> Ints:
    """The same from `num_positions` starts over the whole video: DenseSampleFrames in testing.

    Returns (N, num_positions * num_segments * clip_len), start after start.
    """
    last = np.maximum(num_frames - dense_range, 0)[:, None]
    # As np.linspace computes them, one video by itself; of several it may take another order of operations.
    starts = (np.arange(num_positions) * (last / max(num_positions - 1, 1))).astype(np.int64)
    if num_positions > 1:
        starts[:, -1:] = last
    offsets = starts[:, :, None] + np.arange(num_segments) * (dense_range // num_segments)
    offsets = offsets.reshape(len(num_frames), -1) % num_frames[:, None]  # (N, P, K) -> (N, P * K)
    return _clip_frames(offsets, num_frames, clip_len, frame_interval, past_end)


def untrimmed_frames(num_frames: int, *, clip_len: int, clip_interval: int, frame_interval: int = 1) -> Ints:
    """A clip around every `clip_interval`-th frame, however many that are: UntrimmedSampleFrames, for
    features along a long video.  Indices beyond an end of the video are that end.

    As their number depends on the video, this is for one video at a time, and no batch has them.

    Returns (num_clips * clip_len,).

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


def choose_parts(parts: Sequence[np.ndarray], fractions: Floats, *, only_positive: bool) -> tuple[Ints, Ints]:
    """(N,) first frames and (N,) numbers of frames of one part of each of N untrimmed videos.  OmniSource,
    arXiv:2003.13042.

    Args:
        parts: of each video (P, 3), a row a part: first frame, number of frames, 1 where it is positive;
            those first.
        fractions: (N,) in [0, 1): which part.
    """
    counts = np.array([table[:, 2].sum() if only_positive else len(table) for table in parts])
    places = scaled_ints(fractions, counts)
    rows = np.array([table[place, :2] for table, place in zip(parts, places, strict=True)], np.int64)
    return rows[:, 0], rows[:, 1]


def _clip_frames(
    offsets: Ints | Floats, num_frames: Ints, clip_len: int, frame_interval: int, past_end: PastEnd
) -> Ints:
    """Frames of the clips that start at `offsets` (N, K): (N, K * clip_len)."""
    frames = offsets[:, :, None] + np.arange(clip_len) * frame_interval  # (N, K, L)
    length = num_frames[:, None, None]
    if past_end == "loop":
        frames = frames % length
    else:
        last = np.max(frames, axis=2, keepdims=True, where=frames < length, initial=0)
        frames = np.where(frames < length, frames, last)
    return frames.reshape(len(num_frames), -1).astype(np.int64)
