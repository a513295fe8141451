import json

import numpy as np
import pytest

from nvidia.dali import fn, pipeline_def, types

from dali_pipes.crops import CpuCropper, crop_frames, graph_crops

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])


def bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Half-pixel centres, clamped edges, no antialiasing; float64, not rounded."""

    def taps(size: int, new_size: int):
        at = (np.arange(new_size) + 0.5) * size / new_size - 0.5
        low = np.floor(at).astype(int)
        return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), at - low

    top, bottom, v = taps(image.shape[0], height)
    left, right, u = taps(image.shape[1], width)
    image = image.astype(float)
    rows = image[top] * (1 - v)[:, None, None] + image[bottom] * v[:, None, None]
    return rows[:, left] * (1 - u)[:, None] + rows[:, right] * u[:, None]


def noise(num_frames: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8)


def test_windows_of_the_crop_size_are_copied_and_mirrored():
    frames = noise(2, 60, 50)
    boxes = np.array([[3, 5, 35, 37], [3, 5, 35, 37], [28, 18, 60, 50]])
    crops = crop_frames(frames, np.array([60, 50]), boxes, np.array([False, True, False]), 32)
    assert crops.shape == (6, 32, 32, 3)
    assert (crops[:2] == frames[:, 5:37, 3:35]).all()
    assert (crops[2:4] == frames[:, 5:37, 3:35][:, :, ::-1]).all()
    assert (crops[4:] == frames[:, 18:50, 28:60]).all()


@pytest.mark.parametrize("box", [(10, 4, 50, 48), (0, 0, 20, 13), (7, 7, 8, 8)])
def test_windows_are_scaled_bilinearly_without_antialiasing(box):
    frames = noise(1, 60, 50)
    x1, y1, x2, y2 = box
    (crop,) = crop_frames(frames, np.array([60, 50]), np.array([box]), np.array([False]), 24)
    exact = bilinear(frames[0, y1:y2, x1:x2], 24, 24)
    assert np.abs(crop - exact).max() <= 1.01
    assert np.abs(crop - np.rint(exact)).mean() < 0.3


def test_frames_are_scaled_to_their_short_side_first():
    frames = noise(1, 80, 64)
    (crop,) = crop_frames(frames, np.array([40, 32]), np.array([[4, 0, 36, 32]]), np.array([False]), 32)
    exact = bilinear(frames[0], 40, 32)[:, 4:36]
    assert np.abs(crop - exact).max() <= 1.01


def test_padding_of_the_codec_is_cut_off_before_scaling():
    frames = noise(1, 42, 40)
    frames[:, 35:] = 255  # padding, as rows 35..39 and columns 41..42
    frames[:, :, 41:] = 255
    visible = frames[:, :35, :41]
    cropper = CpuCropper(crop_size=20, num_threads=1)
    arguments = (np.array([[0, 0, 41, 35]]), np.array([False]))
    (crop,) = cropper([frames], [np.array([41, 35, 41, 35])], *([a] for a in arguments))
    assert (crop == crop_frames(visible, np.array([41, 35]), *arguments, 20)).all()
    cropper.close()


def golden_frame(case: dict, number: int) -> np.ndarray:
    """The generation rule of synthetic_pixels_0x.json."""
    width, height = case["image_wh"]
    state = np.random.RandomState(case["seed"] * 1000 + 10 * number)
    frame = state.randint(0, 256, (height, width, 3), dtype=np.uint8)
    padded = np.pad(frame.astype(np.int64), ((4, 4), (4, 4), (0, 0)), mode="edge")
    total = sum(padded[i : i + height, j : j + width] for i in range(9) for j in range(9))
    return (total / 81 + 0.5).astype(np.uint8)


def golden_windows(case: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Scaled size, windows, flips and crop size of the steps of a golden case."""
    width, height = case["image_wh"]
    steps = {step["type"]: step for step in case["steps"]}
    if steps["Resize"].get("keep_ratio") is False:
        side = steps["Resize"]["scale"][0]
        return np.array([width, height]), np.array([[0, 0, width, height]]), np.array(["Flip" in steps]), side
    factor = steps["Resize"]["scale"][1] / min(width, height)
    width, height = int(width * factor + 0.5), int(height * factor + 0.5)
    side = 224
    if "CenterCrop" in steps:
        corners = [((width - side) // 2, (height - side) // 2)]
    else:
        x, y = (width - side) // 4, (height - side) // 4
        corners = [(0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)]
        corners = [corner for corner in corners for _ in range(2)]
    boxes = np.array([(x, y, x + side, y + side) for x, y in corners])
    return np.array([width, height]), boxes, np.arange(len(boxes)) % 2 == 1, side


def test_crops_equal_the_golden_pixels(golden):
    cases = json.loads((golden / "synthetic_pixels_0x.json").read_text())["cases"]
    cases = [case for case in cases if case["modality"] == "RGB"]
    assert len(cases) >= 4
    for case in cases:
        frames = np.stack([golden_frame(case, number) for number in range(case["num_clips"])])
        size, boxes, flips, side = golden_windows(case)
        crops = crop_frames(frames, size, boxes, flips, side)
        if any(step.get("to_bgr") for step in case["steps"]):
            crops = crops[..., ::-1]
        values = (crops.astype(np.float64) - MEAN) / STD
        views = values.transpose(0, 3, 1, 2)
        assert list(views.shape) == case["out_shape"]
        found = np.array([views[tuple(point)] for point in case["sampled_points"]])
        resized = [int(n) for n in size] != case["image_wh"] or side != boxes[0][2] - boxes[0][0]
        assert np.abs(found - case["sampled_values"]).max() <= (0.018 if resized else 1e-5)
        assert np.abs(views.mean(axis=(2, 3)) - case["channel_mean"]).max() < 0.002
        assert np.abs(views.std(axis=(2, 3)) - case["channel_std"]).max() < 0.002


def run_graph_crops(frames, size, boxes, flips, side, *, scaled: bool) -> np.ndarray:
    """`graph_crops` on the CPU, where DALI has the same operators as on the GPU."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        node = types.Constant(frames.reshape(-1), device="cpu")
        node = fn.reshape(node, shape=list(frames.shape), layout="FHWC")
        return graph_crops(
            node,
            tuple(types.Constant(np.int32(length), device="cpu") for length in size) if scaled else None,
            types.Constant(boxes.astype(np.int32), device="cpu"),
            types.Constant(flips, device="cpu"),
            num_crops=len(boxes),
            crop_size=side,
            resize_windows=any((x2 - x1, y2 - y1) != (side, side) for x1, y1, x2, y2 in boxes.tolist()),
        )

    pipeline = graph()
    pipeline.build()
    return np.array(pipeline.run()[0].at(0))


def test_graph_crops_copy_the_same_windows():
    frames = noise(2, 60, 50)
    boxes = np.array([[3, 5, 35, 37], [3, 5, 35, 37], [28, 18, 60, 50]])
    arguments = (frames, np.array([60, 50]), boxes, np.array([False, True, False]), 32)
    assert (run_graph_crops(*arguments, scaled=False) == crop_frames(*arguments)).all()


@pytest.mark.parametrize("size", [(60, 50), (45, 38), (101, 84)])
def test_graph_crops_scale_to_within_a_grey_level(size):
    frames = noise(2, 60, 50)
    boxes = np.array([[1, 2, 40, 38], [0, 0, 20, 13]])
    arguments = (frames, np.array(size), boxes, np.array([True, False]), 24)
    found = run_graph_crops(*arguments, scaled=size != (60, 50)).astype(int)
    difference = np.abs(found - crop_frames(*arguments))
    assert difference.max() <= (1 if size == (60, 50) else 2)  # rounded once, or twice
    assert difference.mean() < 0.3
