"""From decoded frames to the crops that the network sees: on the CPU with OpenCV, on the GPU with DALI's
operators.

Both resize with plain bilinear interpolation (half-pixel centres, clamped edges, no antialiasing, rounded to
uint8), which is OpenCV's INTER_LINEAR and the reference's.  On the CPU OpenCV does it several times faster
than `fn.resize`.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode

from dali_pipes.nodes import FLOAT, LINEAR, UINT8, constant, int32
from dali_pipes.windows import test_flips


class CpuCropper:
    """The function that the graph calls on the CPU with a batch of decoded samples, an entry a sample."""

    def __init__(self, *, crop_size: tuple[int, int], invert_mirrored_x: bool, num_threads: int):
        self._crop = partial(crop_frames, crop_size=crop_size, invert_mirrored_x=invert_mirrored_x)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="crops")
        self._results: list[np.ndarray] = []
        cv2.setNumThreads(0)  # the pool above is all the parallelism there is

    def __call__(
        self,
        frames: list[np.ndarray],
        sizes: list[np.ndarray],
        windows: list[np.ndarray],
        flips: list[np.ndarray],
    ) -> list[np.ndarray]:
        """One array for each sample, valid until the next call: DALI copies what it is given.

        Args:
            sizes: width and height of the visible part, then width and height to scale it to.
        """
        visible = [clip[:, : size[1], : size[0]] for clip, size in zip(frames, sizes, strict=True)]
        scaled = [size[2:] for size in sizes]
        self._results += [np.empty(0, np.uint8)] * (len(frames) - len(self._results))
        results = self._results[: len(frames)]
        self._results[: len(frames)] = self._pool.map(self._crop, visible, scaled, windows, flips, results)
        return self._results[: len(frames)]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def crop_frames(
    frames: np.ndarray,
    scaled_size: np.ndarray,
    windows: np.ndarray,
    flips: np.ndarray,
    result: np.ndarray | None = None,
    *,
    crop_size: tuple[int, int],
    invert_mirrored_x: bool = False,
) -> np.ndarray:
    """Scale frames, cut windows out of them, scale each window to the crop size, mirror some.

    Args:
        frames: (T, H, W, C) uint8; C is 3, or 1 for the pictures of flow, x and y in turn.
        scaled_size: (2,), width and height that frames are scaled to first; skipped where they have it.
        windows: (num_crops, 4), x1, y1, x2, y2 in the scaled frame, half-open, and inside of it.
        flips: (num_crops,), nonzero where the crop is mirrored.
        result: an array to write into if its shape fits: fresh memory costs a third more.
        crop_size: (crop_width, crop_height) of the result in pixels.
        invert_mirrored_x: every second picture is horizontal flow, which changes its sign when mirrored.

    Returns:
        (num_crops * T, crop_height, crop_width, C) uint8, crop after crop.
    """
    num_frames, channels = len(frames), frames.shape[-1]
    crop_width, crop_height = crop_size
    shape = (len(windows) * num_frames, crop_height, crop_width, channels)
    crops = result if result is not None and result.shape == shape else np.empty(shape, np.uint8)
    width, height = map(int, scaled_size)
    boxes = [tuple(map(int, window)) for window in windows]
    for number, frame in enumerate(frames):
        if frame.shape[:2] != (height, width):
            frame = _resize(frame, width, height)
        for crop, (x1, y1, x2, y2) in enumerate(boxes):
            target = crops[crop * num_frames + number]
            patch = frame[y1:y2, x1:x2]
            if patch.shape[:2] != (crop_height, crop_width):
                patch = _resize(patch, crop_width, crop_height, target)
            if flips[crop]:
                cv2.flip(patch, 1, dst=target)
                if invert_mirrored_x and number % 2 == 0:
                    np.bitwise_xor(target, 255, out=target)  # 255 - value
            elif patch is not target:
                target[...] = patch
    return crops


def _resize(frame: np.ndarray, width: int, height: int, target: np.ndarray | None = None) -> np.ndarray:
    """(height, width, C), in `target` if there is one; OpenCV drops a channel axis of length 1."""
    resized = cv2.resize(frame, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    assert target is None or resized.ctypes.data == target.ctypes.data, "OpenCV has not used `target`"
    return target if target is not None else resized.reshape(height, width, -1)


def graph_train_crop(
    frames: DataNode,
    scaled_size: DataNode | None,
    corner: DataNode,
    extent: DataNode,
    flip: DataNode,
    *,
    crop_size: tuple[int, int],
    invert_mirrored_x: bool = False,
) -> DataNode:
    """`crop_frames` with one window as graph nodes, on the device of `frames` (layout FHWC).

    Args:
        scaled_size: (2,) FLOAT, height and width; None where all frames have that size already.
        corner, extent: (2,) INT32, y and x of the window's upper left corner, and its height and width.
        flip: () BOOL.
    """
    height_width = [crop_size[1], crop_size[0]]
    crop: Any = fn.slice(_scaled(frames, scaled_size), start=corner, shape=extent, axis_names="HW")
    crop = fn.resize(crop, size=height_width, interp_type=LINEAR, antialias=False)
    mirrored = int32(flip)
    # It only mirrors here.  `fn.flip` does the same, but on a GPU with a kernel for each sample.
    crop = fn.crop_mirror_normalize(
        crop, mirror=mirrored, dtype=UINT8, output_layout="FHWC", mean=[0.0], std=[1.0]
    )
    return _inverted_x(crop, mirrored, *crop_size) if invert_mirrored_x else crop


def graph_test_crops(
    frames: DataNode,
    scaled_size: DataNode | None,
    corners: DataNode,
    *,
    num_crops: int,
    crop_size: tuple[int, int],
) -> DataNode:
    """`crop_frames` with the windows of `windows.test_windows`, as graph nodes.

    Args:
        scaled_size: (2,) FLOAT, height and width; None where all frames have that size already.
        corners: (num_crops, 2) INT32, y and x of the windows' upper left corners.
    """
    scaled, height_width = _scaled(frames, scaled_size), [crop_size[1], crop_size[0]]
    crops: list[Any] = []
    for number, mirrored in enumerate(test_flips(num_crops)):
        if mirrored:  # the window is the one before it
            crops.append(fn.flip(crops[-1], horizontal=1))
        else:
            crops.append(fn.slice(scaled, start=corners[number], shape=height_width, axis_names="HW"))
    joined: Any = crops[0] if num_crops == 1 else fn.cat(*crops, axis=0)
    return joined


def _scaled(frames: DataNode, size: DataNode | None) -> Any:
    return frames if size is None else fn.resize(frames, size=size, interp_type=LINEAR, antialias=False)


def color_jitter(clips: DataNode, strength: float) -> DataNode:
    """Change brightness, contrast and saturation of (V, H, W, 3) uint8, the same for all frames of a video.

    Each factor is uniform in [1 - strength, 1 + strength].
    """
    brightness, contrast, saturation = (
        fn.random.uniform(range=[1 - strength, 1 + strength]) for _ in range(3)
    )
    clips = fn.reshape(clips, layout="FHWC")
    return fn.color_twist(clips, brightness=brightness, contrast=contrast, saturation=saturation)


def scaled_flow(pictures: DataNode, factors: DataNode, *, crop_size: tuple[int, int]) -> DataNode:
    """Displacements multiplied by the factor by which their frame was scaled: adjust_magnitude.

    Args:
        pictures: (P, H, W, 1) uint8, x and y in turn; 128 is no motion.
        factors: (2,) FLOAT, in x and in y.

    Returns (P / 2, 2, H, W) float32 on the same scale; not rounded, and not clipped to 0..255.
    """
    factors = fn.reshape(factors, shape=[1, 2, 1, 1])
    pairs = fn.reshape(pictures, shape=[-1, 2, crop_size[1], crop_size[0]], layout="")
    factors = factors.gpu() if pictures.device == "gpu" else factors
    return (fn.cast(pairs, dtype=FLOAT) - 128.0) * factors + 128.0


def _inverted_x(crop: DataNode, mirrored: DataNode, crop_width: int, crop_height: int) -> DataNode:
    """255 - value in every second picture, beginning with the first, where `mirrored` is 1."""
    x_only = constant(np.array([255, 0], np.int32).reshape(1, 2, 1, 1))
    mask = fn.cast(x_only * mirrored, dtype=UINT8)
    pairs = fn.reshape(crop, shape=[-1, 2, crop_height, crop_width], layout="")
    pairs = pairs ^ (mask.gpu() if crop.device == "gpu" else mask)  # x ^ 255 is 255 - x
    return fn.reshape(pairs, shape=[-1, crop_height, crop_width, 1], layout="FHWC")
