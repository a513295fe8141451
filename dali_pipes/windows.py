"""Crop windows, as DALI graph nodes: MultiScaleCrop, RandomResizedCrop and the test crops of MMAction2.

A window is (x1, y1, x2, y2), half-open, in pixels of the scaled frame.  Every function takes `width` and
`height` of that frame, INT32 scalar nodes, and returns INT32 (num_crops, 4); all frames of a video share
them.  A `crop_size` is (width, height).
"""

import math as pymath
from itertools import product

import numpy as np
from nvidia.dali import fn, math
from nvidia.dali.data_node import DataNode

from dali_pipes.graph_math import (
    constant,
    float64,
    floor_int,
    int32,
    random_int,
    round_half_even_int,
    scaled_int,
    stack,
    total,
)

NUM_CANDIDATES = 10
"""RandomResizedCrop draws this many windows and takes the first that fits."""

_FIXED_POSITIONS = {
    5: ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    13: (
        *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
        *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
    ),
}  # (x, y) in quarters of the room that the window leaves


def scaled_size(
    width: DataNode,
    height: DataNode,
    *,
    short_side: int | None = None,
    frame_size: tuple[int, int] | None = None,
    keep_aspect: bool = False,
) -> tuple[DataNode, DataNode]:
    """Width and height that a frame is scaled to: Resize.

    Args:
        width, height: of the frame as it is stored.
        short_side: of the scaled frame, aspect kept.
        frame_size: in place of it, (width, height) of the scaled frame; with `keep_aspect` the longer and the
            shorter side of the box that it fits into, lying or standing.  Both None: unchanged.
    """
    if frame_size is not None and not keep_aspect:
        return constant(np.array(frame_size[0], np.int32)), constant(np.array(frame_size[1], np.int32))
    short = float64(math.min(width, height))
    if frame_size is not None:
        by_long = float64(max(frame_size)) / float64(math.max(width, height))
        factor = math.min(by_long, float64(min(frame_size)) / short)
    elif short_side is not None:
        factor = float64(short_side) / short
    else:
        return width, height
    return floor_int(float64(width) * factor + 0.5), floor_int(float64(height) * factor + 0.5)


def multi_scale_window(
    width: DataNode,
    height: DataNode,
    *,
    crop_size: tuple[int, int],
    scales: tuple[float, ...],
    max_scale_gap: int,
    num_fixed_crops: int | None,
) -> DataNode:
    """Random sizes out of `scales` at a random one of 5 or 13 fixed positions, or (None) anywhere.
    TSN, arXiv:1608.00859."""
    base = float64(math.min(width, height))
    sizes = stack(*[floor_int(base * float64(scale)) for scale in scales])
    places = range(len(scales))
    pairs = [(w, h) for w, h in product(places, places) if abs(w - h) <= max_scale_gap]
    pair = _random_row(pairs)
    crop_width, crop_height = (_snapped(sizes, side)[pair[axis]] for axis, side in enumerate(crop_size))
    room_x, room_y = width - crop_width, height - crop_height
    if num_fixed_crops is None:
        return _windows([(random_int(room_x + 1), random_int(room_y + 1), crop_width, crop_height)])
    position = _random_row(_FIXED_POSITIONS[num_fixed_crops])
    return _windows([(position[0] * (room_x // 4), position[1] * (room_y // 4), crop_width, crop_height)])


def random_resized_window(
    width: DataNode, height: DataNode, *, area_range: tuple[float, float], aspect_range: tuple[float, float]
) -> DataNode:
    """A window of random area (fraction of the frame's) and random aspect (width over height), anywhere
    inside.

    Where none of the candidates fits, the centred square of the short side.
    """
    area = float64(fn.random.uniform(range=list(area_range), shape=[NUM_CANDIDATES])) * (width * height)
    log_aspect = [pymath.log(aspect) for aspect in aspect_range]
    aspect = math.exp(float64(fn.random.uniform(range=log_aspect, shape=[NUM_CANDIDATES])))
    widths = round_half_even_int(math.sqrt(area * aspect))
    heights = round_half_even_int(math.sqrt(area / aspect))
    fits = int32(widths <= width) * int32(heights <= height)
    priority = fits * constant(np.arange(NUM_CANDIDATES, 0, -1, dtype=np.int32))
    best = fn.reductions.max(priority)
    first = fits * int32(priority == best)  # one-hot, or all zero where nothing fits
    none = int32(best == 0)
    square = math.min(width, height)
    crop_width = total(first * widths) + none * square
    crop_height = total(first * heights) + none * square
    x = (1 - none) * random_int(width - crop_width + 1) + none * ((width - crop_width) // 2)
    y = (1 - none) * random_int(height - crop_height + 1) + none * ((height - crop_height) // 2)
    return _windows([(x, y, crop_width, crop_height)])


def test_windows(
    width: DataNode, height: DataNode, *, crop_size: tuple[int, int], num_crops: int
) -> DataNode:
    """The windows of CenterCrop (1), ThreeCrop (3) or TenCrop (10), in the reference's order.

    Of ten crops every second one is the mirror image of the one before: `test_flips`.
    """
    room_x, room_y = width - crop_size[0], height - crop_size[1]
    match num_crops:
        case 1:
            corners = [(room_x // 2, room_y // 2)]
        case 3:  # the crop is as high or as wide as the frame: the windows move along the other side only
            step_x, step_y = room_x // 2, room_y // 2
            corners = [(0 * step_x, 0 * step_y), (2 * step_x, 2 * step_y), (step_x, step_y)]
        case 10:
            step_x, step_y = room_x // 4, room_y // 4
            corners = [(x * step_x, y * step_y) for x, y in _FIXED_POSITIONS[5] for _ in (False, True)]
        case _:
            raise ValueError(f"num_crops: got {num_crops}, expected 1, 3 or 10")
    return _windows([(x, y, *crop_size) for x, y in corners])


def placed_window(
    width: DataNode, height: DataNode, place: DataNode, *, crop_size: tuple[int, int]
) -> DataNode:
    """A window anywhere inside; `place` (2,) FLOAT64 in [0, 1) says where, in x and y."""
    x = scaled_int(place[0], width - crop_size[0] + 1)
    y = scaled_int(place[1], height - crop_size[1] + 1)
    return _windows([(x, y, *crop_size)])


def test_flips(num_crops: int) -> list[bool]:
    """Which of the windows of `test_windows` are mirrored."""
    return [num_crops == 10 and place % 2 == 1 for place in range(num_crops)]


def _snapped(sizes: DataNode, side: int) -> DataNode:
    """The sizes, those within 2 pixels of `side` replaced by it."""
    near = int32(math.abs(sizes - side) < 3)
    return near * side + (1 - near) * sizes


def _random_row(rows: list[tuple[int, ...]] | tuple[tuple[int, ...], ...]) -> DataNode:
    """One of the rows, each equally likely: INT32 (row length,)."""
    return constant(np.array(rows, dtype=np.int32))[random_int(len(rows))]


def _windows(corner_and_size: list[tuple]) -> DataNode:
    """(num_crops, 4) from (x, y, width, height) each."""
    return stack(*[stack(x, y, x + width, y + height) for x, y, width, height in corner_and_size])
