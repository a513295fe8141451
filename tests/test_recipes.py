"""Every kind of recipe on a few invented videos, through train.py and the real loader: each loss falls."""

import os
import shutil
import signal
from pathlib import Path

import fake_training
import numpy as np
import pytest
import torch
from frame_shards import write_shards
from test_train import assert_same_run, records_of

from tsn.checkpoint import load_checkpoint
from tsn.errors import UserError

NUM_CLASSES = 4

BASE = """
model: {{num_classes: 4, backbone: resnet18, pretrained: none, dropout: 0.1{model}}}
data:
  train: {{shards: {shards}/train, {size}, batch_size: 4, crop: random_resized, shuffle_buffer: 8{train}}}
  val: {{shards: {shards}/val, {size}, batch_size: 3{val}}}
  test: {{shards: {shards}/val, {size}, batch_size: 3{val}}}
  num_threads: 1
  {data}
schedule: {{epochs: 4{schedule}}}
optim: {{lr: {lr}, base_batch_size: 4{optim}}}
train: {{val_every_epochs: 4, log_every_steps: 5{more}}}
"""
SIZE = "num_segments: 2, short_side: 48, crop_size: 32"


@pytest.fixture(scope="module")
def train():
    """train.main with a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_training.launch, "build_network", fake_training.build_tiny_network)
        yield fake_training.load_entry_point(fake_training.ROOT / "train.py")


def class_videos(count: int, *, num_frames: int, channels: int = 3) -> list[list[np.ndarray]]:
    """Noise whose channels' means tell the class (the sample's number modulo NUM_CLASSES)."""
    draws = np.random.default_rng(0)
    videos = []
    for sample_id in range(count):
        mean = 40 + 50 * ((sample_id + np.arange(channels)) % NUM_CLASSES)
        frames = draws.integers(-30, 30, (num_frames, 48, 64, channels)) + mean
        videos.append(list(frames.astype(np.uint8)))
    return videos


def write_split_pair(folder: Path, *, num_frames: int = 4, channels: int = 3, labels_of=None) -> Path:
    for split, count in (("train", 20), ("val", 8)):
        videos = class_videos(count, num_frames=num_frames, channels=channels)
        labels = [labels_of(i) for i in range(count)] if labels_of else None
        write_shards(folder / split, videos, labels=labels, num_classes=NUM_CLASSES)
    return folder


def write_config(path: Path, shards: Path, *, size: str = SIZE, lr: float = 0.2, **parts: str) -> Path:
    """BASE with more settings in its sections."""
    blank = dict.fromkeys(("model", "train", "val", "data", "schedule", "optim", "more"), "")
    path.write_text(BASE.format(shards=shards, size=size, lr=lr, **{**blank, **parts}))
    return path


def losses_of(work_dir: Path, key: str = "loss") -> list[float]:
    return [record[key] for record in records_of(work_dir) if record["kind"] == "train"]


def run(train, cfg: Path, work_dir: Path, *options: str) -> Path:
    assert train.main(["--cfg", str(cfg), "--work-dir", str(work_dir), *options]) == 0
    return work_dir


def stop_and_resume_at_every_step(train, cfg: Path, work_dir: Path, monkeypatch, num_steps: int) -> None:
    original = train.Run.iter_steps

    def iter_steps(run):
        for index, _ in enumerate(original(run)):
            if index == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield

    options = ["--cfg", str(cfg), "--work-dir", str(work_dir), "--resume", "auto"]
    with monkeypatch.context() as patch:
        patch.setattr(train.Run, "iter_steps", iter_steps)
        assert [train.main(options) for _ in range(num_steps)] == [130] * num_steps, "one step each time"
    assert train.main(options) == 0


def test_several_labels_a_video(train, tmp_path):
    shards = write_split_pair(tmp_path, labels_of=lambda i: [i % NUM_CLASSES, (i + 1) % NUM_CLASSES])
    cfg = write_config(
        tmp_path / "cfg.yaml",
        shards,
        model=", loss: bce, loss_weight: 16",
        lr=0.02,
        optim=", param_groups: tsm_fc_lr5, grad_clip: 20",
        more=", best_metric: mmit_mean_average_precision",
    )
    work_dir = run(train, cfg, tmp_path / "run")
    losses = losses_of(work_dir)
    assert losses[-1] < 0.8 * losses[0]
    *_, validation = records_of(work_dir)
    checkpoint = load_checkpoint(work_dir / "best.pt")
    assert checkpoint.run.best == validation["mmit_mean_average_precision"]
    assert [group["lr_factor"] for group in checkpoint.optimizer["param_groups"]] == [1, 1, 5, 10]


def test_a_metric_of_one_label_is_refused_for_several(train, tmp_path):
    shards = write_split_pair(tmp_path, labels_of=lambda i: [i % NUM_CLASSES, (i + 1) % NUM_CLASSES])
    cfg = write_config(tmp_path / "cfg.yaml", shards, model=", loss: bce", more=", best_metric: top5")
    with pytest.raises(
        UserError, match=r"data.train.shards: .*several labels, for which train.best_metric=top5"
    ):
        run(train, cfg, tmp_path / "run")


def test_optical_flow(train, tmp_path):
    shards = write_split_pair(tmp_path, num_frames=12, channels=2)
    cfg = write_config(tmp_path / "cfg.yaml", shards, size=f"{SIZE}, clip_len: 5", model=", modality: flow")
    losses = losses_of(run(train, cfg, tmp_path / "run", "data.train.flip=0"))
    assert losses[-1] < 0.8 * losses[0]


def test_dense_sampling(train, tmp_path):
    shards = write_split_pair(tmp_path, num_frames=68)
    cfg = write_config(
        tmp_path / "cfg.yaml", shards, train=", sampling: dense", val=", sampling: dense, num_crops: 10"
    )
    work_dir = run(train, cfg, tmp_path / "run")
    losses = losses_of(work_dir)
    assert losses[-1] < 0.8 * losses[0]
    assert records_of(work_dir)[-1]["top1"] > 0.5


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Videos, images and untrimmed videos in two parts, of which the first (its second half) is positive."""
    folder = write_split_pair(tmp_path_factory.mktemp("sources"))
    images = class_videos(9, num_frames=1)
    write_shards(folder / "images", images, num_classes=NUM_CLASSES)
    parts = np.array([[2, 2, 1], [0, 2, 0]], np.int32)
    write_shards(folder / "untrimmed", class_videos(8, num_frames=4), num_classes=NUM_CLASSES, parts=parts)
    return folder


@pytest.fixture(scope="module")
def omnisource(sources) -> Path:
    size = "short_side: 48, crop_size: 32, shuffle_buffer: 8"
    return write_config(
        sources / "omnisource.yaml",
        sources,
        lr=0.03,
        data=f"""auxiliary_every: 3
  auxiliary:
    - name: images
      train: {{shards: {sources}/images, {size}, num_segments: 1, batch_size: 3, class_balance: 0.5}}
    - name: untrimmed
      batches: 2
      train: {{shards: {sources}/untrimmed, {size}, num_segments: 2, batch_size: 3, parts: positive}}""",
    )


def test_several_sources_and_resuming_at_every_step(train, omnisource, tmp_path, monkeypatch):
    counted = []
    original = fake_training.launch.build_auxiliary_loaders

    def build(config, world):
        loaders = original(config, world)
        counted.extend(loaders)
        return loaders

    with monkeypatch.context() as patch:
        patch.setattr(fake_training.launch, "build_auxiliary_loaders", build)
        whole = run(train, omnisource, tmp_path / "whole")
    # 20 main updates; after 1, 4, ..., 19 of them one batch of images and two of untrimmed videos.
    assert [loader.epoch * len(loader) + loader.step for loader in counted] == [7, 14]
    for key in ("loss", "loss/images", "loss/untrimmed"):
        losses = losses_of(whole, key)
        assert len(losses) == 4
        assert losses[-1] < losses[0], key
    assert [r["step"] for r in records_of(whole) if r["kind"] == "train"] == [5, 10, 15, 20]

    stop_and_resume_at_every_step(train, omnisource, tmp_path / "parts", monkeypatch, num_steps=20)
    assert_same_run(tmp_path / "parts", whole)


def test_a_source_may_move_but_not_change(train, omnisource, sources, tmp_path):
    """Its settings are those of the run, its place is not."""
    work_dir = run(train, omnisource, tmp_path / "run", "schedule.epochs=1")
    shutil.copytree(sources / "images", tmp_path / "images")
    moved = omnisource.read_text().replace(f"{sources}/images", f"{tmp_path}/images")
    (tmp_path / "moved.yaml").write_text(moved)
    run(train, tmp_path / "moved.yaml", work_dir, "--resume", "auto", "schedule.epochs=1")
    text = omnisource.read_text().replace("batches: 2", "batches: 3")
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(
        UserError, match=r"cannot be resumed: data.auxiliary\[1\].batches: 2 in the check.*3 now"
    ):
        run(train, tmp_path / "other.yaml", work_dir, "--resume", "auto", "schedule.epochs=1")


def test_sources_that_do_not_fit_are_named(train, omnisource, sources, tmp_path):
    (tmp_path / "missing.yaml").write_text(omnisource.read_text().replace("/images", "/imges"))
    with pytest.raises(UserError, match=r"data.auxiliary\[0\].train.shards: .*imges"):
        run(train, tmp_path / "missing.yaml", tmp_path / "run")
    write_shards(sources / "others", class_videos(4, num_frames=1), num_classes=NUM_CLASSES + 1)
    (tmp_path / "classes.yaml").write_text(omnisource.read_text().replace("/images", "/others"))
    with pytest.raises(UserError, match=r"data.auxiliary\[0\].train.shards: .*others holds 5 classes"):
        run(train, tmp_path / "classes.yaml", tmp_path / "run")


def test_a_modern_recipe_and_resuming_at_every_step(train, sources, tmp_path, monkeypatch):
    cfg = write_config(
        tmp_path / "cfg.yaml",
        sources,
        model=", label_smoothing: 0.1",
        train=", color_jitter: 0.2",
        schedule=", kind: cosine, warmup_epochs: 1",
        more=", mixup: 0.2, ema: 0.5",
    )
    whole = run(train, cfg, tmp_path / "whole")
    losses = losses_of(whole)
    assert losses[-1] < losses[0]
    checkpoint = load_checkpoint(whole / "last.pt")
    assert checkpoint.trained is not None
    assert not torch.equal(checkpoint.trained["fc.weight"], checkpoint.model["fc.weight"])
    stop_and_resume_at_every_step(train, cfg, tmp_path / "parts", monkeypatch, num_steps=20)
    assert_same_run(tmp_path / "parts", whole)
    other = load_checkpoint(tmp_path / "parts" / "last.pt").trained
    assert other is not None
    for name, tensor in checkpoint.trained.items():
        assert torch.equal(tensor, other[name]), name


def test_batchnorm_keeps_its_statistics_where_wanted(train, sources, tmp_path):
    cfg = write_config(tmp_path / "cfg.yaml", sources, more=", norm_eval: true, sync_bn: true")
    model = load_checkpoint(run(train, cfg, tmp_path / "run") / "last.pt").model
    assert not model["backbone.1.running_mean"].any()
    assert (model["backbone.1.running_var"] == 1).all()
    assert not (model["backbone.1.weight"] == 1).all()
