"""That each setting reaches the rule that it is for, and each rule draws of its own."""

import numpy as np
import pytest

from dali_pipes.planning import META, num_fractions, plan_testing, plan_training
from tsn.config import EvalDataConfig, TrainDataConfig


def meta_of(num_frames: list[int], size: tuple[int, int] = (340, 256)) -> np.ndarray:
    meta = np.zeros((len(num_frames), len(META)), np.int64)
    meta[:, META["sample_id"]] = np.arange(len(num_frames))
    meta[:, META["num_frames"]] = num_frames
    meta[:, [META["width"], META["height"]]] = size
    return meta


def draws(data: TrainDataConfig, num_videos: int) -> np.ndarray:
    return np.random.default_rng(0).random((num_videos, num_fractions(data)))


@pytest.mark.parametrize("crop", ["multi_scale", "random_resized"])
def test_what_is_drawn_of_a_video_does_not_hang_together(crop):
    data = TrainDataConfig(shards="", num_segments=3, crop=crop, num_fixed_crops=None)
    plan = plan_training(data, meta_of([300] * 4000), draws(data, 4000))
    x1, y1, x2, y2 = plan.windows[:, 0].T
    room_x, room_y = np.maximum(340 - (x2 - x1), 1), np.maximum(256 - (y2 - y1), 1)
    drawn = np.column_stack(
        [plan.frame_indices, plan.flips[:, 0], x2 - x1, (y2 - y1) / (x2 - x1), x1 / room_x, y1 / room_y]
    )
    related = np.abs(np.corrcoef(drawn.T) - np.eye(drawn.shape[1]))
    related[4, 5] = related[5, 4] = 0  # a wide window is no high one
    related[4:6, 6:] = related[6:, 4:6] = 0  # where a window fills the frame, there is no place to draw
    assert related.max() < 0.07


def test_videos_are_mirrored_as_often_as_asked():
    for share in (0.0, 0.25, 1.0):
        data = TrainDataConfig(shards="", flip=share)
        plan = plan_training(data, meta_of([300] * 4000), draws(data, 4000))
        assert plan.flips.shape == (4000, 1)
        assert plan.flips.mean() == pytest.approx(share, abs=0.03 * (0 < share < 1))


def test_frames_of_a_part_lie_in_it():
    data = TrainDataConfig(shards="", num_segments=4, parts="positive")
    parts = [np.array([[first, 8, 1], [100, 50, 0]]) for first in range(200, 300)]
    plan = plan_training(data, meta_of([400] * 100), draws(data, 100), parts)
    relative = plan.frame_indices - np.arange(200, 300)[:, None]
    for segment in range(4):
        assert set(relative[:, segment].tolist()) == {2 * segment, 2 * segment + 1}


def test_sizes_differ_by_video():
    data = EvalDataConfig(shards="", short_side=128, crop_size=(100, 60))
    meta = np.concatenate([meta_of([30]), meta_of([30], size=(256, 512))])
    plan = plan_testing(data, meta)
    assert plan.sizes.tolist() == [[340, 256], [256, 512]]
    assert plan.scaled_sizes.tolist() == [[170, 128], [128, 256]]
    assert plan.windows.tolist() == [[[35, 34, 135, 94]], [[14, 98, 114, 158]]]
    assert plan.flips.tolist() == [[False], [False]]


def test_random_testing_is_that_of_the_sample_whatever_stands_beside_it():
    data = EvalDataConfig(shards="", sampling="random_segments", random_crop=True)
    meta = meta_of([300] * 50)
    together, alone = plan_testing(data, meta), [plan_testing(data, meta[i : i + 1]) for i in range(50)]
    assert together.frame_indices.tolist() == [plan.frame_indices[0].tolist() for plan in alone]
    assert together.windows.tolist() == [plan.windows[0].tolist() for plan in alone]
    assert len(np.unique(together.frame_indices, axis=0)) > 40
    assert len(np.unique(together.windows, axis=0)) > 40
