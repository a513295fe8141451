import json
from collections import Counter

import numpy as np
import pytest

from dali_pipes import windows
from tsn.config_io import load_config
from tsn.errors import UserError

SCALES = (1.0, 0.875, 0.75, 0.66)


def draws(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, windows.NUM_FRACTIONS))


def multi_scale(sizes, *, crop_size=224, scales=SCALES, gap=1, fixed=5, seed=3):
    crop_size = tuple(np.broadcast_to(crop_size, 2).tolist())
    options = {"crop_size": crop_size, "scales": scales, "max_scale_gap": gap, "num_fixed_crops": fixed}
    return windows.multi_scale_windows(np.array(sizes), draws(len(sizes), seed), **options)[:, 0]


def random_resized(sizes, *, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), seed=3):
    options = {"area_range": area, "aspect_range": aspect}
    return windows.random_resized_windows(np.array(sizes), draws(len(sizes), seed), **options)[:, 0]


def reference_scaled_size(width: int, height: int, short_side: int) -> list[int]:
    factor = short_side / min(width, height)
    return [int(width * factor + 0.5), int(height * factor + 0.5)]


def test_scaled_size_is_the_references_for_many_sizes():
    rng = np.random.default_rng(0)
    sizes = [[340, 256], [256, 340], [455, 256], *rng.integers(16, 2000, (300, 2)).tolist()]
    for short_side in (256, 128, 320):
        for size, scaled in zip(sizes, scale(sizes, short_side=short_side), strict=True):
            assert scaled == reference_scaled_size(*size, short_side)


def test_scaled_size_is_the_stored_one_without_a_short_side():
    assert scale([[35, 27]]) == [[35, 27]]


def test_frames_are_scaled_to_an_exact_size_or_to_fit_into_a_box():
    sizes = [[640, 360], [360, 640], [100, 80]]
    assert scale(sizes, frame_size=(340, 256)) == [[340, 256]] * 3
    assert scale(sizes, frame_size=(340, 256), keep_aspect=True) == [[340, 191], [191, 340], [320, 256]]


def scale(sizes, **options) -> list[list[int]]:
    return windows.scaled_sizes(np.array(sizes), **options).tolist()


def too_small(sizes, **options) -> list[list[int]] | None:
    """As for shards of frames of these sizes."""
    widths, heights = np.array(sizes).T
    short_sides = np.minimum(widths, heights)
    extremes = (widths.min(), widths.max()), (heights.min(), heights.max())
    found = windows.too_small_sizes(extremes[0], extremes[1], short_sides.max(), **options)
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ([[160, 128]], {"frame_size": (36, 36), "keep_aspect": True}, [[160, 128], [160, 128]]),  # 36 x 29
        ([[160, 128]], {"frame_size": (40, 32), "keep_aspect": True}, None),
        ([[160, 128]], {"frame_size": (36, 36)}, None),
        ([[160, 128]], {"frame_size": (36, 31)}, [[160, 128], [160, 128]]),
        ([[160, 128]], {"short_side": 31}, [[160, 128], [160, 128]]),
        ([[160, 128]], {}, None),
        ([[160, 128], [60, 31]], {}, [[60, 31], [160, 31]]),  # of the lowest the width is not known
        ([[455, 256], [256, 340]], {"frame_size": (36, 36), "keep_aspect": True}, [[455, 256], [455, 256]]),
        ([[128, 128], [160, 160], [160, 128]], {"frame_size": (36, 36), "keep_aspect": True}, None),
    ],
)
def test_frames_are_too_small_for_a_crop_where_one_must_be(sizes, options, expected):
    assert too_small(sizes, crop_size=(32, 32), **options) == expected


def test_one_size_of_frames_is_too_small_for_a_crop_exactly_where_it_is_and_several_never_are_wrongly():
    rng = np.random.default_rng(4)
    found = set()
    for _ in range(2000):
        sizes = rng.integers(10, 90, (rng.integers(1, 4), 2))
        crop_size, frame_size = (tuple(rng.integers(10, 60, 2).tolist()) for _ in range(2))
        options = [
            {"short_side": int(rng.integers(10, 60))},
            {"frame_size": frame_size, "keep_aspect": bool(rng.integers(2))},
            {},
        ][rng.integers(3)]
        is_small = bool(np.any(np.array(scale(sizes, **options)) < crop_size))
        is_found = too_small(sizes, crop_size=crop_size, **options) is not None
        assert is_found == is_small if len(sizes) == 1 else is_found <= is_small
        found.add((len(sizes) == 1, is_small, is_found))
    assert len(found) == 5  # all that can be


def test_multi_scale_windows_snap_to_the_width_and_the_height_of_a_crop_that_is_no_square():
    out = multi_scale([[150, 100]] * 2000, crop_size=(89, 73))
    assert set((out[:, 2] - out[:, 0]).tolist()) == {100, 89, 75, 66}
    assert set((out[:, 3] - out[:, 1]).tolist()) == {100, 87, 73, 66}


def test_multi_scale_windows_lie_anywhere_where_no_positions_are_fixed():
    out = multi_scale([[50, 40]] * 4000, crop_size=30, scales=(0.75,), gap=0, fixed=None)
    assert set(out[:, 0].tolist()) == set(range(21))
    assert set(out[:, 1].tolist()) == set(range(11))
    assert (out[:, 2:] - out[:, :2] == 30).all()


def test_three_crops_lie_along_the_side_that_is_longer_than_they_are():
    (out,) = windows.test_windows(np.array([[300, 200]]), crop_size=(300, 100), num_crops=3)
    assert out.tolist() == [[0, 0, 300, 100], [0, 100, 300, 200], [0, 50, 300, 150]]


def test_multi_scale_sizes_are_truncated_and_snap_to_the_crop_size():
    base = 100  # 0.66 * 100 is 66 exactly in float64; a size within 2 of crop_size becomes it
    out = multi_scale([[150, base]] * 2000, crop_size=89)
    widths = set((out[:, 2] - out[:, 0]).tolist())
    assert widths == {100, 89, 75, 66}  # 87 is within 2 of 89


def test_multi_scale_windows_stay_inside_any_frame():
    rng = np.random.default_rng(1)
    sizes = rng.integers(120, 700, (3000, 2))
    out = multi_scale(sizes.tolist(), crop_size=112, fixed=13)
    assert (out[:, :2] >= 0).all()
    assert (out[:, 2:] <= sizes).all()


def test_random_resized_windows_stay_inside_any_frame():
    rng = np.random.default_rng(2)
    sizes = rng.integers(8, 700, (3000, 2))
    out = random_resized(sizes.tolist())
    assert (out[:, :2] >= 0).all()
    assert (out[:, 2:] <= sizes).all()
    assert (out[:, 2:] > out[:, :2]).all()


def test_random_resized_falls_back_to_the_centred_square():
    out = random_resized([[400, 20]] * 50, area=(0.9, 1.0))
    assert out.tolist() == [[190, 0, 210, 20]] * 50


def test_windows_of_ranks_differ_through_the_seed():
    assert (random_resized([[340, 256]] * 8, seed=1) != random_resized([[340, 256]] * 8, seed=2)).any()


def test_unknown_number_of_crops_is_refused():
    with pytest.raises(ValueError, match="num_crops: got 4, expected 1, 3 or 10"):
        windows.test_windows(np.array([[340, 256]]), crop_size=(224, 224), num_crops=4)


def test_test_windows_equal_the_golden_cases(golden):
    kinds = {"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}
    checked = Counter()
    for case in json.loads((golden / "crops_0x.json").read_text())["deterministic"]:
        crop_size, num_crops = case["args"]["crop_size"], kinds[case["type"]]
        crop_size = tuple(np.broadcast_to(crop_size, 2).tolist())
        if case["crops"] == "assertion error":
            checked["refused"] += 1
            continue  # see test_three_crops_that_no_side_fits_are_refused
        (out,) = windows.test_windows(np.array([case["image_wh"]]), crop_size=crop_size, num_crops=num_crops)
        assert out.tolist() == [crop["box"] for crop in case["crops"]], case
        assert windows.test_flips(num_crops) == [crop["flipped"] for crop in case["crops"]]
        checked[num_crops] += 1
    assert set(checked) == {1, 3, 10, "refused"}


def test_three_crops_that_no_side_fits_are_refused(golden):
    cases = json.loads((golden / "crops_0x.json").read_text())["deterministic"]
    cases = [case for case in cases if case["crops"] == "assertion error"]
    assert cases
    for case in cases:
        settings = [f"data.test.frame_size={case['image_wh']}", "data.test.num_crops=3"]
        with pytest.raises(UserError, match="it must be as wide or as high as frame_size"):
            load_config("k400.yaml", [*settings, f"data.test.crop_size={case['args']['crop_size']}"])


def test_scaled_size_equals_the_golden_cases(golden):
    kinds = Counter()
    for case in json.loads((golden / "crops_0x.json").read_text())["resize"]:
        width, height = case["args"]["scale"]
        options: dict = {"frame_size": (width, height), "keep_aspect": case["args"].get("keep_ratio", True)}
        if width == -1:
            options = {"short_side": height}
        assert scale([case["image_wh"]], **options) == [case["out_wh"]], case
        kinds[tuple(options.values())] += 1
    assert len(kinds) == 3


def assert_same_distribution(counts: Counter, expected: dict[str, int]):
    """Two samples of the same size: the same set of values, and chi-square within 5 sigma."""
    assert set(counts) == set(expected)
    if len(expected) > 1:
        statistic = sum((counts[key] - n) ** 2 / (counts[key] + n) for key, n in expected.items())
        freedom = len(expected) - 1
        assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_multi_scale_windows_have_the_golden_distribution(golden):
    data = json.loads((golden / "random_crops_0x.json").read_text())
    cases = [case for case in data["cases"] if case["type"] == "MultiScaleCrop"]
    assert cases
    for case in cases:
        args = case["args"]
        out = multi_scale(
            [case["image_wh"]] * data["draws"],
            crop_size=args["input_size"],
            scales=tuple(args["scales"]),
            gap=args["max_wh_scale_gap"],
            fixed=args.get("num_fixed_crops", 5),
        )
        sizes = [f"{x2 - x1}x{y2 - y1}" for x1, y1, x2, y2 in out.tolist()]
        assert_same_distribution(Counter(sizes), case["size_histogram_wxh"])
        for size, expected in case["offset_histogram_by_size"].items():
            offsets = Counter(
                f"{box[0]},{box[1]}" for box, own in zip(out, sizes, strict=True) if own == size
            )
            assert set(offsets) == set(expected)
            scale = sum(offsets.values()) / sum(expected.values())
            for offset, count in expected.items():
                assert abs(offsets[offset] - count * scale) < 6 * np.sqrt(2 * count)


def test_random_resized_windows_have_the_golden_distribution(golden):
    data = json.loads((golden / "random_crops_0x.json").read_text())
    cases = [case for case in data["cases"] if case["type"] == "RandomResizedCrop"]
    assert cases
    for case in cases:
        width, height = case["image_wh"]
        out = random_resized([case["image_wh"]] * data["draws"]).astype(float)
        crop_width, crop_height = out[:, 2] - out[:, 0], out[:, 3] - out[:, 1]
        area = crop_width * crop_height / (width * height)
        error = np.sqrt(2 / data["draws"])  # of the difference of two means, in standard deviations
        mean, deviation = case["area_fraction_mean_std"]
        assert abs(area.mean() - mean) < 5 * deviation * error
        assert abs(area.std() - deviation) < 5 * deviation * error
        mean, deviation = case["aspect_mean_std"]
        assert abs((crop_width / crop_height).mean() - mean) < 5 * deviation * error
        for axis, room in ((0, width - crop_width), (1, height - crop_height)):
            relative = (out[:, axis] / np.maximum(room, 1))[room > 0]
            mean, deviation = case[f"rel_{'xy'[axis]}_offset_mean_std"]
            assert abs(relative.mean() - mean) < 5 * deviation * error + 0.01
        expected = np.array(case["area_hist_20bins_0_1"])
        found = np.histogram(area, bins=20, range=(0, 1))[0]
        assert (np.abs(found - expected) <= 5 * np.sqrt(found + expected) + 1).all()
