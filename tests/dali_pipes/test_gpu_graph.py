"""The graph that a GPU runs, on DALI's CPU backend, against the graph of the CPU: all but the decoder and the
device is what a GPU would run."""

import dataclasses

import pytest
import torch
from frame_shards import smooth_video, write_shards
from loader_factory import eval_loader, ids, train_loader

from dali_pipes import pipeline, spec
from dali_pipes.loader import Loader
from shards.manifest import ShardError


@pytest.fixture
def decoding_on_the_cpu(monkeypatch):
    original = pipeline.fn.decoders.image

    def decode(picture, **options):
        return original(picture, **options | {"device": "cpu"})

    monkeypatch.setattr(pipeline.fn.decoders, "image", decode)


def gpu_form(loader: Loader) -> Loader:
    return Loader(dataclasses.replace(loader._spec, device="gpu"))


SIZES = [(61, 43), (45, 61), (50, 50), (77, 41)]
"""Of the videos of one batch."""


@pytest.mark.usefixtures("decoding_on_the_cpu")
@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(
    "split",
    [
        {"crop": "center", "crop_size": 32},
        {"crop": "random_resized", "crop_size": (32, 24), "flip": 0.5},
        {"crop": "multi_scale", "short_side": 48, "crop_size": 32, "flip": 0.5},
        {"crop": "random_resized", "frame_size": (60, 48), "crop_size": 32},
        {"num_crops": 10, "crop_size": 32},
        {"num_crops": 3, "short_side": 40, "crop_size": 40},
        {"num_crops": 10, "frame_size": (60, 48), "crop_size": (40, 30)},
    ],
)
def test_its_batches_are_those_of_the_cpu(tmp_path, split, flow):
    videos = [smooth_video(12, size, 2 if flow else 3, seed) for seed, size in enumerate(SIZES)]
    directory = write_shards(tmp_path, videos, subsampling="444")
    build = train_loader if "crop" in split else eval_loader
    options = {"num_segments": 2, "clip_len": 3} if flow else {"num_segments": 3}
    on_cpu = build(directory, scale_flow=flow, **options, **split)
    (one,), (other,) = on_cpu, gpu_form(on_cpu)
    for name in ("labels", "sample_ids", "frame_indices", "windows", "flips"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.clips.dtype == other.clips.dtype == (torch.float32 if flow else torch.uint8)
    assert one.clips.shape == other.clips.shape
    levels = (one.clips.float() - other.clips.float()).abs()
    assert levels.max() <= (8 if flow else 2)  # displacements are multiplied by up to 4
    assert levels.mean() < 0.5


@pytest.mark.usefixtures("decoding_on_the_cpu")
def test_tall_pictures_come_in_several_stacks(tmp_path, monkeypatch):
    monkeypatch.setitem(spec._MAX_ROWS, "gpu", 48 * 2)
    directory = write_shards(tmp_path, [smooth_video(12, (61, 43), 3, seed) for seed in range(4)])
    on_cpu = eval_loader(directory, num_segments=5, crop_size=40)
    (one,), (other,) = on_cpu, gpu_form(on_cpu)
    assert torch.equal(one.clips, other.clips)


@pytest.mark.usefixtures("decoding_on_the_cpu")
def test_rows_that_only_pad_a_picture_are_never_seen(tmp_path):
    # 42 is within 2 pixels of the crop, so the window becomes as high as the crop: 44, of which 42 are there.
    directory = write_shards(tmp_path, [smooth_video(5, (80, 42), 3, seed) for seed in range(8)])
    options = {"crop": "multi_scale", "scales": (1.0,), "max_scale_gap": 0, "crop_size": 44}
    with pytest.raises(ShardError, match=r"its window x .*, y .* does not lie inside a frame of 80 x 42"):
        ids(gpu_form(train_loader(directory, **options)))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_clips_and_labels_leave_on_the_gpu_wherever_frames_are_decoded(tmp_path, codec, device):
    """DALI places operators while a graph is defined, so this needs no GPU."""
    directory = write_shards(
        tmp_path, [smooth_video(12, (64, 48), seed=seed) for seed in range(4)], codec=codec
    )
    for loader in (
        train_loader(directory, crop="random_resized", color_jitter=0.4),
        eval_loader(directory, num_crops=10, crop_size=32),
    ):
        spec = dataclasses.replace(loader._spec, device=device, device_id=0)
        files = [(spec.directory / s.name, spec.directory / s.index_name) for s in spec.manifest.shards]
        place = {"batch_size": 4, "num_threads": 1, "device_id": 0}
        graph = pipeline._graph(spec, loader._units, loader._cropper, files, **place)
        graph._build_graph()
        devices = dict(zip(pipeline.OUTPUTS, (node.device for node in graph._graph_outputs), strict=True))
        on_gpu = {name for name, where in devices.items() if where == "gpu"}
        assert on_gpu == {"clips", "labels"}
