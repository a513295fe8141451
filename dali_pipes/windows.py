"""Crop windows: MultiScaleCrop, RandomResizedCrop and the test crops of MMAction2.

A window is (x1, y1, x2, y2), half-open, in pixels of the scaled frame.  Every function takes `sizes`, (N, 2)
int64, width and height of the scaled frames of N videos, and returns int64 (N, num_crops, 4); all frames of a
video share them.  A `crop_size` is (width, height).
"""

from itertools import product

import numpy as np

from dali_pipes.fractions import Floats, Ints, scaled_ints

NUM_CANDIDATES = 10
"""RandomResizedCrop draws this many windows and takes the first that fits."""
NUM_FRACTIONS = 2 * NUM_CANDIDATES + 2
"""Draws that the window of one video takes at most."""

_FIXED_POSITIONS = {
    5: ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    13: (
        *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
        *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
    ),
}  # (x, y) in quarters of the room that the window leaves


def scaled_sizes(
    sizes: Ints,
    *,
    short_side: int | None = None,
    frame_size: tuple[int, int] | None = None,
    keep_aspect: bool = False,
) -> Ints:
    """(N, 2), width and height that frames are scaled to: Resize.

    Args:
        sizes: (N, 2), width and height of the frames as they are stored.
        short_side: of the scaled frame, aspect kept.
        frame_size: in place of it, (width, height) of the scaled frame; with `keep_aspect` the longer and the
            shorter side of the box that it fits into, lying or standing.  Both None: unchanged.
    """
    if frame_size is not None and not keep_aspect:
        return np.broadcast_to(np.array(frame_size), sizes.shape)
    if frame_size is not None:
        box = max(frame_size) / sizes.max(axis=1), min(frame_size) / sizes.min(axis=1)
        factors = np.minimum(*box)
    elif short_side is not None:
        factors = short_side / sizes.min(axis=1)
    else:
        return sizes
    return (sizes * factors[:, None] + 0.5).astype(np.int64)


def too_small_sizes(
    widths: tuple[int, int],
    heights: tuple[int, int],
    max_short_side: int,
    *,
    crop_size: tuple[int, int],
    short_side: int | None = None,
    frame_size: tuple[int, int] | None = None,
    keep_aspect: bool = False,
) -> Ints | None:
    """Sizes of stored frames, one of which is there for certain, that once scaled a crop does not fit into.

    Each extreme is a side of some frame, whose other side lies anywhere between the extremes of that side.
    Exact where all frames have one size; else None may also mean that it cannot be known from the extremes.

    Args:
        widths, heights: smallest and largest of the stored frames.
        max_short_side: largest short side of them.
        short_side, frame_size, keep_aspect: as `scaled_sizes` takes them.

    Returns:
        (2, 2): the first and the last size that the frame can have; equal if it is known.
    """
    for side, known, other in ((0, widths, heights), (1, heights, widths)):
        for extreme in known:
            sizes = np.full((other[1] - other[0] + 1, 2), extreme)
            sizes[:, 1 - side] = np.arange(other[0], other[1] + 1)
            sizes = sizes[sizes.min(axis=1) <= max_short_side]
            scaled = scaled_sizes(
                sizes, short_side=short_side, frame_size=frame_size, keep_aspect=keep_aspect
            )
            if np.any(scaled < crop_size, axis=1).all():
                return sizes[[0, -1]]
    return None


def multi_scale_windows(
    sizes: Ints,
    fractions: Floats,
    *,
    crop_size: tuple[int, int],
    scales: tuple[float, ...],
    max_scale_gap: int,
    num_fixed_crops: int | None,
) -> Ints:
    """Random sizes out of `scales` at a random one of 5 or 13 fixed positions, or (None) anywhere.
    TSN, arXiv:1608.00859.

    Args:
        fractions: (N, 3 or more) in [0, 1): for the size, and for the position.
    """
    places = range(len(scales))
    pairs = np.array([(w, h) for w, h in product(places, places) if abs(w - h) <= max_scale_gap])
    chosen = np.array(scales)[pairs[scaled_ints(fractions[:, 0], len(pairs))]]  # (N, 2)
    crops = (sizes.min(axis=1, keepdims=True) * chosen).astype(np.int64)
    crops = np.where(np.abs(crops - crop_size) < 3, crop_size, crops)
    room = sizes - crops
    if num_fixed_crops is None:
        corners = scaled_ints(fractions[:, 1:3], room + 1)
    else:
        positions = np.array(_FIXED_POSITIONS[num_fixed_crops])
        corners = positions[scaled_ints(fractions[:, 1], len(positions))] * (room // 4)
    return _windows(corners[:, None], crops[:, None])


def random_resized_windows(
    sizes: Ints,
    fractions: Floats,
    *,
    area_range: tuple[float, float],
    aspect_range: tuple[float, float],
) -> Ints:
    """A window of random area (fraction of the frame's) and random aspect (width over height), anywhere
    inside.

    Where none of the candidates fits, the centred square of the short side.

    Args:
        fractions: (N, `NUM_FRACTIONS`) in [0, 1): area and aspect of each candidate, and the position.
    """
    of_area, of_aspect, place = np.split(fractions, [NUM_CANDIDATES, 2 * NUM_CANDIDATES], axis=1)
    area = _between(of_area, *area_range) * sizes.prod(axis=1, keepdims=True)
    aspect = np.exp(_between(of_aspect, *np.log(aspect_range)))
    candidates = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=2))).astype(np.int64)
    fits = np.all(candidates <= sizes[:, None], axis=2)  # (N, candidates)
    first, found = np.argmax(fits, axis=1), np.any(fits, axis=1, keepdims=True)
    crops = np.where(found, candidates[np.arange(len(sizes)), first], sizes.min(axis=1, keepdims=True))
    room = sizes - crops
    corners = np.where(found, scaled_ints(place, room + 1), room // 2)
    return _windows(corners[:, None], crops[:, None])


def test_windows(sizes: Ints, *, crop_size: tuple[int, int], num_crops: int) -> Ints:
    """The windows of CenterCrop (1), ThreeCrop (3) or TenCrop (10), in the reference's order.

    Of ten crops every second one is the mirror image of the one before: `test_flips`.
    """
    room = (sizes - crop_size)[:, None]  # (N, 1, 2)
    match num_crops:
        case 1:
            corners = room // 2
        case 3:  # the crop is as high or as wide as the frame: the windows move along the other side only
            corners = np.array([0, 2, 1])[:, None] * (room // 2)
        case 10:
            corners = np.repeat(_FIXED_POSITIONS[5], 2, axis=0) * (room // 4)
        case _:
            raise ValueError(f"num_crops: got {num_crops}, expected 1, 3 or 10")
    return _windows(corners, np.array(crop_size))


def placed_windows(sizes: Ints, fractions: Floats, *, crop_size: tuple[int, int]) -> Ints:
    """A window anywhere inside; `fractions` (N, 2) in [0, 1) say where, in x and y."""
    corners = scaled_ints(fractions, sizes - crop_size + 1)
    return _windows(corners[:, None], np.array(crop_size))


def test_flips(num_crops: int) -> list[bool]:
    """Which of the windows of `test_windows` are mirrored."""
    return [num_crops == 10 and place % 2 == 1 for place in range(num_crops)]


def _between(fractions: Floats, low: float, high: float) -> Floats:
    return low + fractions * (high - low)


def _windows(corners: Ints, crops: Ints) -> Ints:
    """(N, num_crops, 4) from the upper left corners and the sizes, (N, num_crops, 2) each."""
    return np.concatenate([corners, corners + crops], axis=2)
