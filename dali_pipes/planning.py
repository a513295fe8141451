"""What is decided about a batch before anything of it is read or decoded: frames, sizes, windows, flips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dali_pipes import sampling, windows
from dali_pipes.fractions import Floats, Ints, hashed_fractions
from shards.manifest import Manifest
from shards.sample import META_FIELDS
from tsn.config import EvalDataConfig, TrainDataConfig

META = {name: place for place, name in enumerate(META_FIELDS)}
"""Where each field stands in a `meta.npy` array."""


@dataclass(frozen=True)
class Plan:
    """What becomes of N videos.

    Attributes:
        frame_indices: (N, T), 0-based source frames.
        sizes: (N, 2), width and height of the stored frames.
        scaled_sizes: (N, 2), of the frames after scaling.
        windows: (N, num_crops, 4), x1, y1, x2, y2 in the scaled frame, half-open.
        flips: (N, num_crops) bool, which crops are mirrored.
    """

    frame_indices: Ints
    sizes: Ints
    scaled_sizes: Ints
    windows: Ints
    flips: np.ndarray


def crop_fault(data: TrainDataConfig | EvalDataConfig, manifest: Manifest) -> str | None:
    """What is wrong where a crop of fixed size does not fit into frames, as far as the manifest tells."""
    if isinstance(data, TrainDataConfig) and data.crop != "center":
        return None
    sizes = windows.too_small_sizes(
        (manifest.min_width, manifest.max_width),
        (manifest.min_height, manifest.max_height),
        manifest.max_short_side,
        crop_size=data.crop_size,
        short_side=data.short_side,
        frame_size=data.frame_size,
        keep_aspect=data.keep_aspect,
    )
    if sizes is None:
        return None
    scaled = _scaled(data, sizes)
    frames = _span(sizes) if np.array_equal(sizes, scaled) else f"{_span(sizes)}, scaled to {_span(scaled)},"
    return (
        f"frames of {frames} are smaller than crop_size {list(data.crop_size)}: choose a smaller "
        "crop_size, or a larger short_side or frame_size"
    )


def _span(sizes: Ints) -> str:
    return " to ".join(dict.fromkeys(f"{width} x {height}" for width, height in sizes.tolist()))


def num_fractions(data: TrainDataConfig) -> int:
    """Random numbers that one video takes: part, flip, window, frames."""
    return 2 + windows.NUM_FRACTIONS + data.num_segments


def plan_training(
    data: TrainDataConfig, meta: Ints, fractions: Floats, parts: Sequence[np.ndarray] = ()
) -> Plan:
    """Random frames and windows.

    Args:
        meta: (N, fields), the `meta.npy` of each video.
        fractions: (N, `num_fractions(data)`), uniform in [0, 1).
        parts: the `parts.npy` of each video; only where `data.parts` asks for them.
    """
    of_part, of_flip = fractions[:, 0], fractions[:, 1]
    of_window, of_frames = np.split(fractions[:, 2:], [windows.NUM_FRACTIONS], axis=1)
    first, num_frames = np.zeros(len(meta), np.int64), meta[:, META["num_frames"]]
    if data.parts != "whole":
        only_positive = data.parts == "positive"
        first, num_frames = sampling.choose_parts(parts, of_part, only_positive=only_positive)
    if data.sampling == "dense":
        frames = sampling.random_dense(
            num_frames, of_frames[:, 0], dense_range=data.dense_range, **_clips(data)
        )
    else:
        frames = sampling.random_segments(num_frames, of_frames, **_clips(data))
    sizes, scaled = _sizes(data, meta)
    match data.crop:
        case "multi_scale":
            boxes = windows.multi_scale_windows(
                scaled,
                of_window,
                crop_size=data.crop_size,
                scales=data.scales,
                max_scale_gap=data.max_scale_gap,
                num_fixed_crops=data.num_fixed_crops,
            )
        case "random_resized":
            boxes = windows.random_resized_windows(
                scaled, of_window, area_range=data.area_range, aspect_range=data.aspect_range
            )
        case "center":
            boxes = windows.test_windows(scaled, crop_size=data.crop_size, num_crops=1)
    return Plan(first[:, None] + frames, sizes, scaled, boxes, (of_flip < data.flip)[:, None])


def plan_testing(data: EvalDataConfig, meta: Ints) -> Plan:
    """The same frames and windows in every run; what is random depends on the sample's id alone."""
    num_frames, ids = meta[:, META["num_frames"]], meta[:, META["sample_id"]]
    match data.sampling:
        case "segments":
            frames = sampling.middle_segments(num_frames, twice=data.twice, **_clips(data))
        case "spread":
            frames = sampling.spread_segments(num_frames, twice=data.twice, **_clips(data))
        case "dense":
            frames = sampling.all_dense(
                num_frames,
                dense_range=data.dense_range,
                num_positions=data.dense_positions,
                **_clips(data),
            )
        case "random_segments":
            fractions = hashed_fractions(ids, data.num_segments)
            frames = sampling.random_segments(num_frames, fractions, **_clips(data))
    sizes, scaled = _sizes(data, meta)
    if data.random_crop:
        fractions = hashed_fractions(ids, data.num_segments + 2)  # the first are those of the frames
        place = fractions[:, data.num_segments :]
        boxes = windows.placed_windows(scaled, place, crop_size=data.crop_size)
    else:
        boxes = windows.test_windows(scaled, crop_size=data.crop_size, num_crops=data.num_crops)
    flips = np.broadcast_to(windows.test_flips(data.num_crops), (len(meta), data.num_crops))
    return Plan(frames, sizes, scaled, boxes, flips)


def _clips(data: TrainDataConfig | EvalDataConfig) -> dict[str, Any]:
    return {
        "num_segments": data.num_segments,
        "clip_len": data.clip_len,
        "frame_interval": data.frame_interval,
        "past_end": data.past_end,
    }


def _sizes(data: TrainDataConfig | EvalDataConfig, meta: Ints) -> tuple[Ints, Ints]:
    """Of the stored frames, and of the scaled ones."""
    sizes = meta[:, [META["width"], META["height"]]]
    return sizes, _scaled(data, sizes)


def _scaled(data: TrainDataConfig | EvalDataConfig, sizes: Ints) -> Ints:
    return windows.scaled_sizes(
        sizes, short_side=data.short_side, frame_size=data.frame_size, keep_aspect=data.keep_aspect
    )
