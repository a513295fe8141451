"""From decoded frames to the crops that the network sees: on the CPU with OpenCV, on the GPU with DALI's
operators.

Both resize with plain bilinear interpolation (half-pixel centres, clamped edges, no antialiasing, rounded to
uint8), which is OpenCV's INTER_LINEAR and the reference's.  On the CPU OpenCV does it several times faster
than `fn.resize`.
"""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode


class CpuCropper:
    """The function that the graph calls on the CPU with a batch of decoded samples, an entry a sample."""

    def __init__(self, *, crop_size: int, num_threads: int):
        self.crop_size = crop_size
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="crops")
        cv2.setNumThreads(0)  # the pool above is all the parallelism there is

    def __call__(
        self,
        frames: list[np.ndarray],
        sizes: list[np.ndarray],
        windows: list[np.ndarray],
        flips: list[np.ndarray],
    ) -> list[np.ndarray]:
        """`sizes`: width and height of the visible part, then width and height to scale it to."""
        visible = [clip[:, : size[1], : size[0]] for clip, size in zip(frames, sizes, strict=True)]
        scaled = [size[2:] for size in sizes]
        crop_sizes = [self.crop_size] * len(frames)
        return list(self._pool.map(crop_frames, visible, scaled, windows, flips, crop_sizes))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def crop_frames(
    frames: np.ndarray, scaled_size: np.ndarray, windows: np.ndarray, flips: np.ndarray, crop_size: int
) -> np.ndarray:
    """Scale frames, cut windows out of them, scale each window to a square, mirror some.

    Args:
        frames: (T, H, W, 3) uint8.
        scaled_size: (2,), width and height that frames are scaled to first; skipped where they have it
            already.
        windows: (num_crops, 4), x1, y1, x2, y2 in the scaled frame, half-open.
        flips: (num_crops,), nonzero where the crop is mirrored.
        crop_size: side of the result in pixels.

    Returns:
        (num_crops * T, crop_size, crop_size, 3) uint8, crop after crop.
    """
    num_frames = len(frames)
    crops = np.empty((len(windows) * num_frames, crop_size, crop_size, 3), np.uint8)
    width, height = map(int, scaled_size)
    boxes = [tuple(map(int, window)) for window in windows]
    for number, frame in enumerate(frames):
        if frame.shape[:2] != (height, width):
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        for crop, (x1, y1, x2, y2) in enumerate(boxes):
            target = crops[crop * num_frames + number]
            patch = frame[y1:y2, x1:x2]
            if patch.shape[:2] != (crop_size, crop_size):
                patch = cv2.resize(patch, (crop_size, crop_size), interpolation=cv2.INTER_LINEAR)
            if flips[crop]:
                cv2.flip(patch, 1, dst=target)
            else:
                target[...] = patch
    return crops


def graph_crops(
    frames: DataNode,
    scaled_size: tuple[DataNode, DataNode] | None,
    windows: DataNode,
    flips: DataNode,
    *,
    num_crops: int,
    crop_size: int,
    resize_windows: bool,
) -> DataNode:
    """`crop_frames` as graph nodes, on the device of `frames` (layout FHWC).

    `scaled_size` is None where all frames have that size already; `resize_windows` False where all windows
    have crop_size.
    """
    if scaled_size is not None:
        width, height = scaled_size
        size = fn.cast(fn.stack(height, width), dtype=types.FLOAT)
        frames = fn.resize(frames, size=size, interp_type=types.INTERP_LINEAR, antialias=False)
    crops = []
    for number in range(num_crops):
        window = windows[number]
        start = fn.stack(window[1], window[0])
        shape = fn.stack(window[3] - window[1], window[2] - window[0])
        crop = fn.slice(frames, start, shape, axis_names="HW")
        if resize_windows:
            crop = fn.resize(
                crop, size=[crop_size, crop_size], interp_type=types.INTERP_LINEAR, antialias=False
            )
        crops.append(fn.flip(crop, horizontal=fn.cast(flips[number], dtype=types.INT32)))
    return crops[0] if num_crops == 1 else fn.cat(*crops, axis=0)
