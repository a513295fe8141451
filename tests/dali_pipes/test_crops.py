import json

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_pipes.crops import CpuCropper, crop_frames, graph_train_crop, scaled_flow
from dali_pipes.nodes import constant

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
    crops = crop_frames(frames, np.array([60, 50]), boxes, np.array([False, True, False]), crop_size=(32, 32))
    assert crops.shape == (6, 32, 32, 3)
    assert (crops[:2] == frames[:, 5:37, 3:35]).all()
    assert (crops[2:4] == frames[:, 5:37, 3:35][:, :, ::-1]).all()
    assert (crops[4:] == frames[:, 18:50, 28:60]).all()


@pytest.mark.parametrize("crop", [crop_frames, lambda *args, **options: run_graph_crops(*args, **options)])
def test_crops_may_be_wider_than_high(crop):
    frames = noise(1, 60, 50)
    boxes, flips = np.array([[3, 5, 43, 25], [0, 0, 60, 50]]), np.array([True, False])
    crops = crop(frames, np.array([60, 50]), boxes, flips, crop_size=(40, 20))
    assert crops.shape == (2, 20, 40, 3)
    assert (crops[0] == frames[0, 5:25, 3:43][:, ::-1]).all()
    assert np.abs(crops[1] - bilinear(frames[0], 40, 20)).max() <= 1.01


@pytest.mark.parametrize("box", [(10, 4, 50, 48), (0, 0, 20, 13), (7, 7, 8, 8)])
def test_windows_are_scaled_bilinearly_without_antialiasing(box):
    frames = noise(1, 60, 50)
    x1, y1, x2, y2 = box
    (crop,) = crop_frames(frames, np.array([60, 50]), np.array([box]), np.array([False]), crop_size=(24, 24))
    exact = bilinear(frames[0, y1:y2, x1:x2], 24, 24)
    assert np.abs(crop - exact).max() <= 1.01
    assert np.abs(crop - np.rint(exact)).mean() < 0.3


def test_frames_are_scaled_to_their_short_side_first():
    frames = noise(1, 80, 64)
    (crop,) = crop_frames(
        frames, np.array([40, 32]), np.array([[4, 0, 36, 32]]), np.array([False]), crop_size=(32, 32)
    )
    exact = bilinear(frames[0], 40, 32)[:, 4:36]
    assert np.abs(crop - exact).max() <= 1.01


def test_padding_of_the_codec_is_cut_off_before_scaling():
    frames = noise(1, 42, 40)
    frames[:, 35:] = 255  # padding, as rows 35..39 and columns 41..42
    frames[:, :, 41:] = 255
    visible = frames[:, :35, :41]
    cropper = CpuCropper(crop_size=(20, 20), invert_mirrored_x=False, num_threads=1)
    arguments = (np.array([[0, 0, 41, 35]]), np.array([False]))
    (crop,) = cropper([frames], [np.array([41, 35, 41, 35])], *([a] for a in arguments))
    assert (crop == crop_frames(visible, np.array([41, 35]), *arguments, crop_size=(20, 20))).all()
    cropper.close()


def golden_frames(case: dict) -> np.ndarray:
    """The rule of synthetic_pixels_0x.json: (T, H, W, 3), or of flow (2 T, H, W, 1), x and y in turn."""
    width, height = case["image_wh"]
    flow = case["modality"] == "Flow"
    shape = (height, width, 1) if flow else (height, width, 3)
    frames = []
    for number in range(case["num_clips"] * case["clip_len"]):
        for plane in range(2 if flow else 1):
            state = np.random.RandomState(case["seed"] * 1000 + 10 * number + plane)
            frame = state.randint(0, 256, shape[:2] if flow else shape, dtype=np.uint8).reshape(shape)
            padded = np.pad(frame.astype(np.int64), ((4, 4), (4, 4), (0, 0)), mode="edge")
            total = sum(padded[i : i + height, j : j + width] for i in range(9) for j in range(9))
            frames.append((total / 81 + 0.5).astype(np.uint8))
    return np.stack(frames)


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
        flips = np.array(["Flip" in steps])
    else:
        x, y = (width - side) // 4, (height - side) // 4
        corners = [(0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)]
        corners = [corner for corner in corners for _ in range(2)]
        flips = np.arange(10) % 2 == 1
    boxes = np.array([(x, y, x + side, y + side) for x, y in corners])
    return np.array([width, height]), boxes, flips, side


def run_scaled_flow(pictures: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """`scaled_flow` on the CPU, in the shape of `pictures`."""
    _, height, width, _ = pictures.shape

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        node = fn.reshape(types.Constant(pictures.reshape(-1), device="cpu"), shape=list(pictures.shape))
        return scaled_flow(
            node, types.Constant(factors.astype(np.float32), device="cpu"), crop_size=(width, height)
        )

    pipeline = graph()
    pipeline.build()
    return np.array(pipeline.run()[0].at(0)).reshape(pictures.shape)


def test_flow_is_scaled_with_its_frame_around_no_motion():
    pictures = np.array([0, 128, 255, 130, 0, 128, 255, 130], np.uint8).reshape(2, 2, 2, 1)
    scaled = run_scaled_flow(pictures, np.array([2.0, 0.5])).reshape(2, 4)
    assert scaled.tolist() == [[-128, 128, 382, 132], [64, 128, 191.5, 129]]


def test_crops_equal_the_golden_pixels(golden):
    cases = json.loads((golden / "synthetic_pixels_0x.json").read_text())["cases"]
    assert {case["modality"] for case in cases} == {"RGB", "Flow"}
    assert any(step.get("adjust_magnitude") for case in cases for step in case["steps"])
    for case in cases:
        size, boxes, flips, side = golden_windows(case)
        flow = case["modality"] == "Flow"
        inverted = flow and len(boxes) == 1  # Flip inverts x, TenCrop does not
        crops = crop_frames(
            golden_frames(case), size, boxes, flips, crop_size=(side, side), invert_mirrored_x=inverted
        )
        if any(step.get("adjust_magnitude") for step in case["steps"]):
            crops = run_scaled_flow(crops, size / case["image_wh"])
        if flow:
            views = ((crops.astype(np.float64) - 128) / 128).reshape(case["out_shape"])
        else:
            values = (crops.astype(np.float64) - MEAN) / STD
            if any(step.get("to_bgr") for step in case["steps"]):
                values = (crops[..., ::-1].astype(np.float64) - MEAN) / STD
            views = values.transpose(0, 3, 1, 2)
        assert list(views.shape) == case["out_shape"]
        found = np.array([views[tuple(point)] for point in case["sampled_points"]])
        resized = [int(n) for n in size] != case["image_wh"] or side != boxes[0][2] - boxes[0][0]
        tolerance = (0.008 if flow else 0.018) if resized else 1e-5
        assert np.abs(found - case["sampled_values"]).max() <= tolerance
        assert np.abs(views.mean(axis=(2, 3)) - case["channel_mean"]).max() < 0.002
        assert np.abs(views.std(axis=(2, 3)) - case["channel_std"]).max() < 0.002


def run_graph_crops(
    frames, size, boxes, flips, *, crop_size: tuple[int, int], invert_mirrored_x: bool = False
) -> np.ndarray:
    """`graph_train_crop` for each box on the CPU, where DALI has the same operators as on the GPU."""
    scaled = frames.shape[2:0:-1] != tuple(size)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def graph():
        node = types.Constant(frames.reshape(-1), device="cpu")
        node = fn.reshape(node, shape=list(frames.shape), layout="FHWC")
        crops = [
            graph_train_crop(
                node,
                constant(np.array(size[::-1], np.float32)) if scaled else None,
                constant(box[1::-1].astype(np.int32)),
                constant((box[3:1:-1] - box[1::-1]).astype(np.int32)),
                constant(np.array(flip)),
                crop_size=crop_size,
                invert_mirrored_x=invert_mirrored_x,
            )
            for box, flip in zip(boxes, flips, strict=True)
        ]
        return tuple(crops)

    pipeline = graph()
    pipeline.build()
    return np.concatenate([crops.at(0) for crops in pipeline.run()])


@pytest.mark.parametrize("crop", [crop_frames, run_graph_crops])
def test_flow_is_inverted_in_x_alone_and_only_where_mirrored(crop):
    frames = noise(4, 60, 50)[..., :1]
    boxes = np.array([[3, 5, 35, 37], [20, 10, 52, 42]])
    flips = np.array([True, False])
    crops = crop(frames, np.array([60, 50]), boxes, flips, crop_size=(32, 32), invert_mirrored_x=True)
    mirrored = frames[:, 5:37, 3:35][:, :, ::-1]
    assert crops.shape == (8, 32, 32, 1)
    assert (crops[0:4:2] == 255 - mirrored[::2]).all()
    assert (crops[1:4:2] == mirrored[1::2]).all()
    assert (crops[4:] == frames[:, 10:42, 20:52]).all()
    crops = crop(frames, np.array([60, 50]), boxes, flips, crop_size=(32, 32))
    assert (crops[:4] == mirrored).all()


def test_graph_crops_copy_the_same_windows():
    frames = noise(2, 60, 50)
    boxes = np.array([[3, 5, 35, 37], [3, 5, 35, 37], [28, 18, 60, 50]])
    arguments = (frames, np.array([60, 50]), boxes, np.array([False, True, False]))
    assert (
        run_graph_crops(*arguments, crop_size=(32, 32)) == crop_frames(*arguments, crop_size=(32, 32))
    ).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(60, 50), (45, 38), (101, 84)])
def test_graph_crops_scale_to_within_a_grey_level(size, channels):
    frames = noise(2, 60, 50)[..., :channels]
    boxes = np.array([[1, 2, 40, 38], [0, 0, 20, 13]])
    arguments = (frames, np.array(size), boxes, np.array([True, False]))
    found = run_graph_crops(*arguments, crop_size=(24, 24)).astype(int)
    difference = np.abs(found - crop_frames(*arguments, crop_size=(24, 24)))
    assert difference.max() <= (1 if size == (60, 50) else 2)  # rounded once, or twice
    assert difference.mean() < 0.3
