"""Every pipeline on the GPU against the same pipeline on the CPU, whose frames and pixels other tests prove.

`make test-gpu` runs these where a GPU is promised; elsewhere they skip.
"""

import numpy as np
import psutil
import pytest
import torch
from frame_shards import numbered_videos, smooth_video, write_shards
from video_factory import numbered_frame, read_number

from dali_pipes.loader import Batch, Loader, build_eval_loader, build_train_loader
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig

pytestmark = pytest.mark.gpu

MAX_LEVELS, MEAN_LEVELS = 2, 0.5
"""How far JPEG pixels may be from the CPU's, at most and on average; one level more after a resize."""


def loaders(directory, *, training: bool, **split) -> tuple[Loader, Loader]:
    """The same loader on the CPU and on the GPU."""
    return tuple(make_loader(directory, device, training=training, **split) for device in ("cpu", "gpu"))


def make_loader(directory, device: str, *, training: bool, scale_flow: bool = False, **split) -> Loader:
    train = {name: value for name, value in split.items() if name in TrainDataConfig.__annotations__}
    test = {name: value for name, value in split.items() if name in EvalDataConfig.__annotations__}
    data = DataConfig(
        train=TrainDataConfig(**{"shards": str(directory), "batch_size": 4, "shuffle_buffer": 16} | train),
        val=EvalDataConfig(shards=str(directory)),
        test=EvalDataConfig(**{"shards": str(directory), "batch_size": 4} | test),
        device=device,
        num_threads=2,
        scale_flow=scale_flow,
    )
    place = {"rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1}
    return (
        build_train_loader(data, seed=1, **place) if training else build_eval_loader(data, data.test, **place)
    )


def assert_alike(on_cpu: Batch, on_gpu: Batch, *, max_levels: float, mean_levels: float = MEAN_LEVELS):
    for name in ("labels", "sample_ids", "frame_indices", "windows", "flips"):
        assert torch.equal(getattr(on_cpu, name).cpu(), getattr(on_gpu, name).cpu()), name
    assert on_gpu.clips.is_cuda
    assert on_gpu.clips.shape == on_cpu.clips.shape
    levels = (on_cpu.clips.cpu().int() - on_gpu.clips.cpu().int()).abs()
    assert levels.max() <= max_levels
    assert levels.float().mean() <= mean_levels


@pytest.mark.parametrize("subsampling", ["422", "444"])
@pytest.mark.parametrize("crop", ["center", "multi_scale", "random_resized"])
def test_training_batches(tmp_path, subsampling, crop):
    videos = [smooth_video(9, (341, 257), seed=seed) for seed in range(8)]
    directory = write_shards(tmp_path, videos, subsampling=subsampling)
    options = {"num_segments": 3, "crop": crop, "short_side": None if crop == "center" else 256}
    on_cpu, on_gpu = loaders(directory, training=True, **options)
    for _ in range(3):
        for pair in zip(on_cpu, on_gpu, strict=True):
            assert_alike(*pair, max_levels=MAX_LEVELS + (crop != "center") * 2)


@pytest.mark.parametrize("training", [True, False])
def test_frames_of_an_exact_size_and_crops_wider_than_high(tmp_path, training):
    directory = write_shards(tmp_path, [smooth_video(9, (341, 257), seed=seed) for seed in range(8)])
    options = {"num_segments": 3, "frame_size": (300, 200), "crop_size": (128, 96)}
    crop = {"crop": "multi_scale"} if training else {"num_crops": 10}
    for pair in zip(*loaders(directory, training=training, **options, **crop), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 2)


@pytest.mark.parametrize("scale_flow", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_flow(tmp_path, training, scale_flow):
    videos = [smooth_video(20, (341, 257), 2, seed) for seed in range(8)]
    directory = write_shards(tmp_path, videos)
    crop = {"crop": "random_resized"} if training else {"num_crops": 10}
    options = {"num_segments": 3, "clip_len": 5, "training": training, "scale_flow": scale_flow}
    for on_cpu, on_gpu in zip(*loaders(directory, **options, **crop), strict=True):
        assert on_gpu.clips.dtype == (torch.float32 if scale_flow else torch.uint8)
        assert_alike(on_cpu, on_gpu, max_levels=(MAX_LEVELS + 2) * (4 if scale_flow else 1), mean_levels=2)


@pytest.mark.parametrize("num_crops", [1, 3, 10])
def test_testing_batches(tmp_path, num_crops):
    directory = write_shards(tmp_path, [smooth_video(30, (340, 256), seed=seed) for seed in range(6)])
    size = 256 if num_crops == 3 else 224
    on_cpu, on_gpu = loaders(directory, training=False, num_segments=25, num_crops=num_crops, crop_size=size)
    for pair in zip(on_cpu, on_gpu, strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


@pytest.mark.parametrize("num_segments", [3, 8, 25, 64])
@pytest.mark.parametrize("width", [339, 340, 341, 347])
def test_tall_pictures_of_any_width(tmp_path, num_segments, width):
    directory = write_shards(tmp_path, [smooth_video(70, (width, 256))] * 4)
    on_cpu, on_gpu = loaders(directory, training=False, num_segments=num_segments)
    for pair in zip(on_cpu, on_gpu, strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


def test_sizes_may_differ_inside_a_batch(tmp_path):
    sizes = [(340, 256), (256, 340), (455, 256), (301, 227)]
    directory = write_shards(tmp_path, [smooth_video(9, size) for size in sizes])
    on_cpu, on_gpu = loaders(directory, training=False, num_segments=5, num_crops=10)
    for pair in zip(on_cpu, on_gpu, strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 1)


def test_subsampled_rows_differ_at_the_seams_only(tmp_path):
    directory = write_shards(
        tmp_path, [smooth_video(9, (340, 256), seed=seed) for seed in range(4)], subsampling="420"
    )
    on_cpu, on_gpu = loaders(directory, training=False, num_segments=8)
    for cpu_batch, gpu_batch in zip(on_cpu, on_gpu, strict=True):
        levels = (cpu_batch.clips.cpu().int() - gpu_batch.clips.cpu().int()).abs().float()
        assert levels.mean() <= MEAN_LEVELS


def test_h264_against_ffmpeg(tmp_path):
    directory = write_shards(
        tmp_path, [smooth_video(12, (352, 256), seed=seed) for seed in range(4)], codec="h264"
    )
    on_cpu, on_gpu = loaders(directory, training=False, num_segments=5)
    for pair in zip(on_cpu, on_gpu, strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


def test_a_restored_loader_goes_on_bit_for_bit(tmp_path):
    directory = write_shards(tmp_path, [smooth_video(9, (341, 257), seed=seed) for seed in range(14)])
    options = {"training": True, "num_segments": 3, "crop": "random_resized"}
    loader, restored = make_loader(directory, "gpu", **options), make_loader(directory, "gpu", **options)
    batches = iter(loader)
    next(batches)
    restored.load_state_dict(loader.state_dict())
    for expected, batch in zip(batches, restored, strict=True):
        assert torch.equal(expected.clips, batch.clips)


def test_memory_is_flat_over_many_batches(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(40, num_frames=9, size=(340, 256)))
    loader = make_loader(directory, "gpu", training=True, num_segments=3, crop="random_resized", batch_size=8)
    used = []
    while len(used) < 2000:
        for _ in loader:
            free, total = torch.cuda.mem_get_info()
            used.append((psutil.Process().memory_info().rss, total - free))
    early, late = np.array(used[400:600]).mean(axis=0), np.array(used[-200:]).mean(axis=0)
    assert ((late - early) < 2**26).all()


def test_a_frame_is_the_one_that_was_drawn(tmp_path):
    video = [numbered_frame(number, (224, 224)) for number in range(60)]
    directory = write_shards(tmp_path, [video] * 8)
    loader = make_loader(
        directory, "gpu", training=True, num_segments=8, short_side=None, crop="center", flip=0.0
    )
    for batch in loader:
        numbers = [[read_number(frame) for frame in clip] for clip in batch.clips.cpu().numpy()]
        assert numbers == batch.frame_indices.tolist()
