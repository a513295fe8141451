"""Real videos against what MMAction2 makes of them: frames, crops, pixels."""

import hashlib
import json

import numpy as np
import pytest
from frame_shards import write_shards

from dali_pipes.crops import crop_frames
from dali_pipes.loader import build_eval_loader
from shards.video import open_video
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
NUM_CROPS = {"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}


@pytest.fixture(scope="module")
def cases(golden):
    """Each pair of video and protocol once; that the reference's two decoders agree was checked when made."""
    data = json.loads((golden / "video_pixels_0x.json").read_text())["cases"]
    return [case for case in data if case["steps"][0]["type"] == "DecordInit"]


@pytest.fixture(scope="module")
def videos(test_data, cases):
    """Decoded frames of the golden videos by checksum."""
    found = {}
    for path in sorted((test_data / "full_videos").glob("*.mp4")):
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        if checksum in {case["sha256"] for case in cases}:
            with open_video(path) as video:
                found[checksum] = list(video.iter_frames())
    return found


def protocol(case) -> tuple[int, int]:
    """Segments and crops of a golden case."""
    steps = {step["type"]: step for step in case["steps"]}
    return steps["SampleFrames"]["num_clips"], next(NUM_CROPS[name] for name in NUM_CROPS if name in steps)


def test_data_config(directory, num_segments: int, num_crops: int) -> EvalDataConfig:
    return EvalDataConfig(
        shards=str(directory), num_segments=num_segments, num_crops=num_crops, batch_size=1, short_side=256
    )


test_data_config.__test__ = False


def load_all(directory, num_segments: int, num_crops: int) -> dict:
    """The test batches of a shard directory by sample id."""
    split = test_data_config(directory, num_segments, num_crops)
    data = DataConfig(TrainDataConfig(shards="none"), split, split, device="cpu")
    loader = build_eval_loader(data, split, rank=0, world_size=1, local_rank=0, local_world_size=1)
    batches = {int(batch.sample_ids): batch for batch in loader}
    loader.close()
    return batches


def views_of(clips: np.ndarray) -> np.ndarray:
    """(V, 3, H, W) float32 normalised as the reference normalises."""
    return ((clips.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2)


def test_crops_of_decoded_frames_equal_the_golden_pixels(videos, cases):
    assert len(cases) >= 4
    for case in cases:
        frames = np.stack(videos[case["sha256"]])
        assert len(frames) == case["total_frames"]
        frames = frames[case["frame_inds"]]
        assert np.abs(frames.mean(axis=(1, 2)) - case["decoded_frame_channel_mean"]).max() < 0.05
        width, height = case["frame_wh"]
        _, num_crops = protocol(case)
        boxes, flips = boxes_of(num_crops, width, height)
        views = views_of(crop_frames(frames, np.array([width, height]), boxes, flips, crop_size=(224, 224)))
        assert list(views.shape) == case["out_shape"]
        assert np.abs(views.mean(axis=(2, 3)) - case["crop_channel_mean"]).max() < 0.02
        assert np.abs(views.std(axis=(2, 3)) - case["crop_channel_std"]).max() < 0.02
        found = np.array([views[tuple(point)] for point in case["sampled_points_mchw"]])
        assert np.abs(found - case["sampled_values"]).max() < 2.1 / STD.min()


def boxes_of(num_crops: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows and flips written out by hand for 224 pixels."""
    x, y = width - 224, height - 224
    if num_crops == 1:
        corners = [(x // 2, y // 2)]
    else:
        x, y = x // 4, y // 4
        corners = [(0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)]
        corners = [corner for corner in corners for _ in range(2)]
    return np.array([(x, y, x + 224, y + 224) for x, y in corners]), np.arange(len(corners)) % 2 == 1


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_shards_give_the_golden_frames_and_windows_and_nearly_its_pixels(videos, cases, tmp_path, codec):
    order = sorted(videos)
    directory = write_shards(tmp_path, [videos[name] for name in order], codec=codec, quality=85)
    for num_segments, num_crops in sorted({protocol(case) for case in cases}):
        batches = load_all(directory, num_segments, num_crops)
        for case in cases:
            if protocol(case) != (num_segments, num_crops):
                continue
            batch = batches[order.index(case["sha256"])]
            assert batch.frame_indices[0].tolist() == case["frame_inds"]
            boxes, flips = boxes_of(num_crops, *case["frame_wh"])
            assert batch.windows[0].tolist() == boxes.tolist()
            assert batch.flips[0].tolist() == flips.tolist()
            levels = (
                views_of(batch.clips[0].cpu().numpy()).mean(axis=(2, 3)) - case["crop_channel_mean"]
            ) * STD
            assert np.abs(levels.mean(axis=0)).max() < 0.5
            assert np.abs(levels).max() < (0.5 if codec == "mjpeg" else 1.0)
