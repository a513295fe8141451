"""Folders of small numbered pictures, as frame extraction leaves them: RGB frames, flow, parts of videos."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from video_factory import numbered_frame, write_numbered_video


def write_numbered_frames(
    directory: Path,
    numbers: Iterable[int],
    *,
    template: str = "img_{:05}.jpg",
    start_index: int = 1,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """Write an RGB picture for each number, the first in file `start_index`; `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers, start=start_index):
        Image.fromarray(numbered_frame(number, size)).save(directory / template.format(i), quality=95)
    return directory


def numbered_flow(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """(H, W, 2) uint8 flow: x shows `number`, y `number + 1` (read with `read_number` as one channel)."""
    return np.stack([numbered_frame(n, size)[..., 0] for n in (number, number + 1)], axis=-1)


def write_numbered_flow(
    directory: Path,
    numbers: Iterable[int],
    *,
    template: str = "{}_{:05d}.jpg",
    start_index: int = 1,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """Write a pair of grey pictures for each number, the first pair as number `start_index`; `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers, start=start_index):
        for axis, plane in zip("xy", np.moveaxis(numbered_flow(number, size), -1, 0), strict=True):
            Image.fromarray(plane).save(directory / template.format(axis, i), quality=95)
    return directory


def write_numbered_parts(directory: Path, num_frames: Iterable[int]) -> Path:
    """Write part_0.mp4 ... with so many frames each, numbered on from part to part; `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    first = 0
    for part, count in enumerate(num_frames):
        write_numbered_video(directory / f"part_{part}.mp4", count, first_number=first)
        first += count
    return directory
