"""Every pipeline on the GPU against the same pipeline on the CPU, whose frames and pixels other tests prove.

`make test-gpu` runs these where a GPU is promised; elsewhere they skip.  With TSN_TEST_DEVICE=cpu the CPU
takes the place of the GPU, which proves nothing but that the tests themselves run.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable

import cv2
import numpy as np
import psutil
import pytest
import torch
from frame_shards import Video, numbered_videos, smooth_video, write_shards
from loader_factory import eval_loader, ids, train_loader
from video_factory import numbered_frame, read_number

from dali_pipes.loader import Batch, Loader
from shards import jpeg
from shards.manifest import ShardError
from shards.reading import ShardDataset

FORCED = os.environ.get("TSN_TEST_DEVICE") == "cpu"
DEVICE = "cpu" if FORCED else "gpu"
pytestmark = [] if FORCED else [pytest.mark.gpu]

MAX_LEVELS, MEAN_LEVELS = 2, 0.5
"""How far JPEG pixels may be from the CPU's, at most and on average; one level more after a resize."""
OUTLIERS, OUTLIER_LEVELS = 1e-3, 4
"""The share of values that may be further off than that, and by how much.  Decoders that are right, but round
elsewhere, are 3 levels apart in 1 to 4 of 10,000 values (FFmpeg and libjpeg-turbo, on the pictures of these
tests); where chroma is repeated in place of interpolated, it is 1,000 of them."""
SMOOTH = [smooth_video(9, (341, 257), seed=seed) for seed in range(8)]
WHOLE = {"short_side": 256, "crop_size": 224}
RESIZED = {"crop": "random_resized", "crop_size": 224, "num_segments": 3, "flip": 0.5}


def textured_video(num_frames: int, size: tuple[int, int], seed: int) -> Video:
    """Noise in colour that was blurred a little: what wrong chroma or a damaged seam shows on."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), np.uint8)
    return [cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in noise]


def both(build: Callable[..., Loader], directory, **options) -> tuple[Loader, Loader]:
    """The same loader on the CPU and on the GPU."""
    return build(directory, **options), build(directory, device=DEVICE, **options)


def assert_alike(on_cpu: Batch, on_gpu: Batch, *, max_levels: float, mean_levels: float = MEAN_LEVELS):
    for name in ("labels", "sample_ids", "frame_indices", "windows", "flips"):
        assert torch.equal(getattr(on_cpu, name).cpu(), getattr(on_gpu, name).cpu()), name
    assert on_gpu.clips.is_cuda or FORCED
    assert on_gpu.clips.shape == on_cpu.clips.shape
    levels = (on_cpu.clips.cpu().float() - on_gpu.clips.cpu().float()).abs()
    shares = {limit: float((levels > limit).float().mean()) for limit in (0.5, 1.5, 2.5, 4.5, 8.5)}
    measured = f"mean {levels.mean():.3f}, most {levels.max():g}, shares further off than a limit: {shares}"
    print(measured)  # shown with -rP
    assert (levels > max_levels).float().mean() <= OUTLIERS, measured
    assert levels.max() <= max_levels + OUTLIER_LEVELS, measured
    assert levels.mean() <= mean_levels, measured


@pytest.mark.parametrize("subsampling", ["422", "444"])
@pytest.mark.parametrize("crop", ["center", "multi_scale", "random_resized"])
def test_training_batches(tmp_path, subsampling, crop):
    directory = write_shards(tmp_path, SMOOTH, subsampling=subsampling)
    options = {"num_segments": 3, "crop": crop, "crop_size": 224, "flip": 0.5}
    on_cpu, on_gpu = both(train_loader, directory, short_side=None if crop == "center" else 256, **options)
    for _ in range(3):
        for pair in zip(on_cpu, on_gpu, strict=True):
            assert_alike(*pair, max_levels=MAX_LEVELS + (crop != "center") * 2)


@pytest.mark.parametrize("subsampling", ["422", "444"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_each_of_the_two_decoders_on_its_own(tmp_path, share, subsampling):
    """The JPEG engines, and the rest of nvJPEG: DALI splits a batch between them."""
    videos = [textured_video(5, (340, 256), seed) for seed in range(40)]
    directory = write_shards(tmp_path, videos, subsampling=subsampling)
    on_cpu, on_gpu = both(train_loader, directory, crop_size=224, num_segments=3, batch_size=40)
    on_gpu = Loader(dataclasses.replace(on_gpu._spec, hw_decoder_load=share))
    for pair in zip(on_cpu, on_gpu, strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


@pytest.mark.skipif(FORCED, reason="asks the GPU's decoders")
@pytest.mark.parametrize("num_pictures", [1, 3, 25, 64])
@pytest.mark.parametrize("kind", ["422", "444", "grey"])
def test_stitched_pictures_are_decoded_by_the_gpu_and_not_by_a_silent_fallback(kind, num_pictures):
    """Where none of its decoders takes a picture, DALI has the CPU decode it and says nothing."""
    from nvidia import nvimgcodec as codec

    video = textured_video(64, (340, 256), 0)
    if kind == "grey":
        video = [frame[..., :2] for frame in video]
    stream = jpeg.encode_pictures(video, quality=85, subsampling="422" if kind == "grey" else kind)
    scans = [stream.data[start : start + length] for start, length in stream.units[:num_pictures].tolist()]
    picture = jpeg.stitch(stream.head, stream.height_offset, stream.padded_height, scans)
    answers = {}
    for backend in (codec.BackendKind.HW_GPU_ONLY, codec.BackendKind.HYBRID_CPU_GPU):
        try:
            image = codec.Decoder(backends=[codec.Backend(backend)]).decode(picture)
        except RuntimeError as error:  # no such decoder: the engines need the driver's video library
            answers[backend.name] = str(error)
        else:
            answers[backend.name] = None if image is None else image.shape[:2]
    assert answers["HYBRID_CPU_GPU"] == (num_pictures * 256, 340), answers
    if torch.cuda.get_device_capability() in ((8, 0), (9, 0)):  # A100, H100 and H200 have engines
        assert answers["HW_GPU_ONLY"] == (num_pictures * 256, 340), answers


@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_frames_of_an_exact_size_and_crops_wider_than_high(tmp_path, build):
    directory = write_shards(tmp_path, SMOOTH)
    options = {"crop": "multi_scale"} if build is train_loader else {"num_crops": 10}
    options |= {"num_segments": 3, "frame_size": (300, 200), "crop_size": (128, 96)}
    for pair in zip(*both(build, directory, **options), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 2)


@pytest.mark.parametrize("scale_flow", [False, True])
@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_flow(tmp_path, build, scale_flow):
    directory = write_shards(tmp_path, [smooth_video(20, (341, 257), 2, seed) for seed in range(8)])
    options = RESIZED if build is train_loader else WHOLE | {"num_crops": 10, "num_segments": 3}
    for on_cpu, on_gpu in zip(
        *both(build, directory, clip_len=5, scale_flow=scale_flow, **options), strict=True
    ):
        assert on_gpu.clips.dtype == (torch.float32 if scale_flow else torch.uint8)
        assert_alike(on_cpu, on_gpu, max_levels=(MAX_LEVELS + 2) * (4 if scale_flow else 1), mean_levels=2)


@pytest.mark.parametrize("num_crops", [1, 3, 10])
def test_testing_batches(tmp_path, num_crops):
    directory = write_shards(tmp_path, [smooth_video(30, (340, 256), seed=seed) for seed in range(6)])
    options = WHOLE | {"num_crops": num_crops, "crop_size": 256 if num_crops == 3 else 224}
    for pair in zip(*both(eval_loader, directory, num_segments=25, **options), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


@pytest.mark.parametrize("num_segments", [3, 8, 25, 64, 70])
@pytest.mark.parametrize("width", [339, 340, 341, 347])
def test_tall_pictures_of_any_width_and_more_than_one(tmp_path, num_segments, width):
    """70 frames of 256 rows are more than a picture may have."""
    directory = write_shards(tmp_path, [smooth_video(70, (width, 256), seed=seed) for seed in range(3)])
    for pair in zip(*both(eval_loader, directory, num_segments=num_segments, **WHOLE), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


def test_sizes_may_differ_inside_a_batch(tmp_path):
    sizes = [(340, 256), (256, 340), (455, 256), (301, 227)]
    directory = write_shards(tmp_path, [smooth_video(9, size) for size in sizes])
    for pair in zip(*both(eval_loader, directory, num_segments=5, num_crops=10, **WHOLE), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 1)


def test_subsampled_rows_differ_at_the_seams_only(tmp_path):
    directory = write_shards(
        tmp_path, [smooth_video(9, (340, 256), seed=seed) for seed in range(4)], subsampling="420"
    )
    for pair in zip(*both(eval_loader, directory, num_segments=8, **WHOLE), strict=True):
        assert_alike(*pair, max_levels=64)


@pytest.mark.parametrize("build", [train_loader, eval_loader])
def test_h264_against_ffmpeg(tmp_path, build):
    videos = [smooth_video(12, (352, 256), seed=seed) for seed in range(4)]
    directory = write_shards(tmp_path, videos, codec="h264")
    options = RESIZED if build is train_loader else WHOLE | {"num_segments": 5}
    for pair in zip(*both(build, directory, **options), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS)


def test_colours_are_jittered_alike(tmp_path):
    directory = write_shards(tmp_path, SMOOTH)
    for pair in zip(*both(train_loader, directory, color_jitter=0.4, **RESIZED), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 4, mean_levels=1)


def test_several_labels_and_balanced_classes(tmp_path):
    labels = [[number % 5, (number + 1) % 5] for number in range(8)]
    several = write_shards(tmp_path / "several", SMOOTH, labels=labels)
    for pair in zip(*both(train_loader, several, **RESIZED), strict=True):
        assert_alike(*pair, max_levels=MAX_LEVELS + 2)
    balanced = write_shards(tmp_path / "balanced", SMOOTH, labels=[[0]] * 6 + [[1]] * 2)
    on_cpu, on_gpu = both(train_loader, balanced, class_balance=0.0, **RESIZED)
    for _ in range(2):
        for pair in zip(on_cpu, on_gpu, strict=True):
            assert_alike(*pair, max_levels=MAX_LEVELS + 2)


def test_an_undecodable_picture_names_shard_and_key(tmp_path):
    whole = write_shards(tmp_path / "whole", numbered_videos(20, size=(48, 48)))
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    member = next(
        m for m in ShardDataset(damaged)._load_index("shard-000001.tar")["00000013"] if m.name == "head"
    )
    with open(damaged / "shard-000001.tar", "r+b") as file:
        file.seek(member.offset)
        file.write(bytes(member.size_bytes))
    with pytest.raises(ShardError, match=r"shard-000001\.tar:00000013"):
        ids(train_loader(damaged, device=DEVICE))


def test_a_restored_loader_goes_on_bit_for_bit(tmp_path):
    directory = write_shards(tmp_path, [smooth_video(9, (341, 257), seed=seed) for seed in range(14)])
    loader, restored = (train_loader(directory, device=DEVICE, **RESIZED) for _ in range(2))
    batches = iter(loader)
    next(batches)
    restored.load_state_dict(loader.state_dict())
    for expected, batch in zip(batches, restored, strict=True):
        assert torch.equal(expected.clips, batch.clips)


def test_a_batch_that_is_kept_is_not_overwritten(tmp_path):
    directory = write_shards(tmp_path, [smooth_video(9, (341, 257), seed=seed) for seed in range(40)])
    kept = [(batch.clips, batch.clips.clone()) for batch in train_loader(directory, device=DEVICE, **RESIZED)]
    assert len(kept) == 10
    assert all(torch.equal(clips, copy) for clips, copy in kept)


@pytest.mark.skipif(FORCED, reason="there is no queue of work on the CPU")
def test_a_batch_that_is_dropped_is_not_overwritten_before_it_was_used(tmp_path):
    directory = write_shards(tmp_path, [smooth_video(9, (341, 257), seed=seed) for seed in range(40)])
    expected = [batch.clips.double().sum() for batch in train_loader(directory, device=DEVICE, **RESIZED)]
    torch.cuda.synchronize()
    found = []
    for batch in train_loader(directory, device=DEVICE, **RESIZED):
        torch.cuda._sleep(
            200_000_000
        )  # a tenth of a second: what follows is still waiting when it is dropped
        found.append(batch.clips.double().sum())
        del batch
    assert torch.equal(torch.stack(found), torch.stack(expected))


def test_memory_is_flat_over_many_batches(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(40, num_frames=9, size=(340, 256)))
    loader = train_loader(directory, device=DEVICE, batch_size=8, **RESIZED)
    used = []
    while len(used) < 2000:
        for _ in loader:
            free, total = (0, 0) if FORCED else torch.cuda.mem_get_info()
            used.append((psutil.Process().memory_info().rss, total - free))
    early, late = np.array(used[400:600]).mean(axis=0), np.array(used[-200:]).mean(axis=0)
    assert ((late - early) < 2**26).all()


def test_a_frame_is_the_one_that_was_drawn(tmp_path):
    video = [numbered_frame(number, (224, 224)) for number in range(60)]
    directory = write_shards(tmp_path, [video] * 8)
    for batch in train_loader(directory, device=DEVICE, num_segments=8, crop_size=224):
        numbers = [[read_number(frame) for frame in clip] for clip in batch.clips.cpu().numpy()]
        assert numbers == batch.frame_indices.tolist()
