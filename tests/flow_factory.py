"""Optical flow of real videos, in files as frame extraction leaves them: grey JPEGs of x and of y.

A displacement of -20 to +20 pixels is a level of 0 to 255, what is larger is cut; no motion is 127.5, which
rounds to 128.
"""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np

BOUND = 20.0  # pixels
TEMPLATE = "{}_{:05d}.jpg"


def iter_frames(video: Path) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 RGB, decoded by OpenCV."""
    capture = cv2.VideoCapture(str(video))
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def flow_levels(frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    """(H, W, 2) uint8: where each pixel of `frame` has gone to in `following`, x to the right and y down.

    Both frames are (H, W, 3) uint8 RGB.
    """
    dis = cv2.DISOpticalFlow_create(  # pyright: ignore[reportAttributeAccessIssue]
        cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
    )
    grey = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (frame, following)]
    pixels = np.clip(dis.calc(*grey, None), -BOUND, BOUND)
    return np.rint((pixels + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)


def write_flow(directory: Path, video: Path, *, stride: int) -> int:
    """Write the flow from every `stride`-th frame to the next such one, the first pair of files as number 1.

    Returns the number of pairs of files.
    """
    directory.mkdir(parents=True)
    number = 0
    for number, pair in enumerate(pairwise(islice(iter_frames(video), 0, None, stride)), start=1):
        for axis, plane in zip("xy", np.moveaxis(flow_levels(*pair), -1, 0), strict=True):
            path = directory / TEMPLATE.format(axis, number)
            cv2.imwrite(str(path), plane, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return number
