"""train.py and eval.py on real shards through the real loader: resuming bit for bit, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fake_training
import numpy as np
import psutil
import pytest
from frame_shards import write_shards
from test_train import assert_same_run, command, records_of, wait_for
from video_factory import numbered_frame

from shards.manifest import load_manifest, write_manifest
from tsn.checkpoint import load_checkpoint
from tsn.errors import UserError

NUM_TRAIN, NUM_VAL = 27, 7


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """`train` and `val`: 27 and 7 videos of 5 classes, each with frames of its own."""
    folder = tmp_path_factory.mktemp("shards")
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        videos = [[numbered_frame(20 * i + t) for t in range(6)] for i in range(count)]
        write_shards(folder / split, videos, samples_per_shard=10)
    return folder


@pytest.fixture(scope="module")
def cfg(shards) -> Path:
    path = shards / "tiny.yaml"
    size = "num_segments: 2, short_side: 48, crop_size: 32"
    path.write_text(
        f"""
model: {{num_classes: 5, backbone: resnet18, pretrained: none, dropout: 0.5}}
data:
  train: {{shards: {shards}/train, {size}, batch_size: 4, crop: random_resized, shuffle_buffer: 8}}
  val: {{shards: {shards}/val, {size}, batch_size: 3}}
  test: {{shards: {shards}/val, {size}, batch_size: 3}}
  num_threads: 1
schedule: {{epochs: 3}}
optim: {{lr: 0.1, base_batch_size: 4}}
train: {{val_every_epochs: 2, log_every_steps: 4}}
"""
    )
    return path


@pytest.fixture(scope="module")
def train():
    """train.main with a small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_training.launch, "build_network", fake_training.build_tiny_network)
        yield fake_training.load_entry_point(fake_training.ROOT / "train.py")


@pytest.fixture(scope="module")
def finished(train, cfg, shards) -> Path:
    """The work directory of a run that nothing interrupted."""
    assert train.main(["--cfg", str(cfg), "--work-dir", str(shards / "run")]) == 0
    return shards / "run"


@pytest.fixture(scope="module")
def evaluate(train):
    return fake_training.load_entry_point(fake_training.ROOT / "scripts" / "eval.py").main


def test_stopped_at_every_step_and_resumed_a_run_is_the_same(train, cfg, finished, tmp_path, monkeypatch):
    original = train.Run.iter_steps

    def iter_steps(run):
        for index, _ in enumerate(original(run)):
            if index == 0:
                os.kill(os.getpid(), signal.SIGINT)
            yield

    monkeypatch.setattr(train.Run, "iter_steps", iter_steps)
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    codes = [train.main(options) for _ in range(18)]
    assert codes == [130] * 18, "one step each time"
    assert train.main(options) == 0
    assert_same_run(tmp_path, finished)


def test_killed_at_any_moment_and_resumed_a_run_of_two_ranks_is_the_same(cfg, tmp_path):
    options = ["--cfg", str(cfg), "train.save_every_steps=1", "data.train.batch_size=2", "schedule.epochs=20"]
    start = command(2, *options, script="train.py", loaders="real")
    subprocess.run([*start, "--work-dir", str(tmp_path / "whole")], check=True, capture_output=True)
    killed = [*start, "--work-dir", str(tmp_path / "killed"), "--resume", "auto"]
    process = subprocess.Popen(killed, stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "killed" / "last.pt", process)
    time.sleep(0.2)
    # The ranks have sessions of their own, and would go on without torchrun.
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    process.wait()
    step = load_checkpoint(tmp_path / "killed" / "last.pt").run.step
    assert 0 < step < load_checkpoint(tmp_path / "whole" / "last.pt").run.step
    subprocess.run(killed, check=True, capture_output=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_recomputing_activations_changes_nothing_alone_or_over_ranks(cfg, tmp_path):
    """With the real network, whose blocks it is about; the tiny one of other tests has none."""
    options = ["--cfg", str(cfg), "schedule.epochs=1", "train.log_every_steps=1", "train.val_every_epochs=1"]
    for num_ranks in (1, 2):
        runs = []
        for recompute in ("false", "true"):
            work_dir = tmp_path / f"{num_ranks}-{recompute}"
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
            start = [sys.executable, *torchrun, str(fake_training.ROOT / "train.py"), *options]
            settings = [f"train.recompute={recompute}", "--work-dir", str(work_dir)]
            subprocess.run([*start, *settings], check=True, capture_output=True)
            runs.append(work_dir)
        assert len(records_of(runs[0])) > 3
        assert_same_run(*runs)


def test_sets_that_number_their_classes_differently_are_refused(train, cfg, shards, tmp_path):
    other = shutil.copytree(shards / "val", tmp_path / "val")
    manifest = load_manifest(other)
    first, second, *rest = manifest.classes
    write_manifest(other, replace(manifest, classes=(second, first, *rest)))
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path / "run"), f"data.val.shards={other}"]
    with pytest.raises(
        UserError, match=r"^data\.val\.shards: its class names differ from those of data\.train"
    ):
        train.main(options)


def test_each_video_is_tested_once_under_its_name_whatever_the_ranks(finished, evaluate, tmp_path):
    arguments = ["--checkpoint", str(finished / "last.pt"), "--test-crops", "10", "--test-segments", "4"]
    out = tmp_path / "result.json"
    evaluate([*arguments, "--scores", str(tmp_path / "1.npz"), "--out", str(out)])
    result = json.loads(out.read_text())
    assert (result["num_samples"], result["views"]) == (NUM_VAL, 40)
    assert result["config"]["data"]["test"]["crop_size"] == [32, 32]
    alone = np.load(tmp_path / "1.npz")
    assert alone["names"].tolist() == [f"video_{i}.mp4" for i in range(NUM_VAL)]
    assert alone["labels"].tolist() == [i % 5 for i in range(NUM_VAL)]
    other = [*arguments, "data.test.batch_size=1", "--scores", str(tmp_path / "3.npz")]
    other += ["--out", str(tmp_path / "3.json")]
    subprocess.run(
        command(3, *other, script="scripts/eval.py", loaders="real"), check=True, capture_output=True
    )
    assert json.loads((tmp_path / "3.json").read_text())["world_size"] == 3
    together = np.load(tmp_path / "3.npz")
    assert together["names"].tolist() == alone["names"].tolist()
    np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-5, rtol=0)


def test_validation_and_eval_agree(finished, evaluate, tmp_path):
    evaluate(["--checkpoint", str(finished / "last.pt"), "--out", str(tmp_path / "r.json")])
    validated = records_of(finished)[-1]
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["top1"] == validated["top1"]


def refused(train, cfg, tmp_path, *overrides) -> str:
    """The message with which train.py refuses to start; nothing may have been written."""
    with pytest.raises(UserError, match=r".") as caught:
        train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path / "run"), *overrides])
    assert not (tmp_path / "run").exists()
    return str(caught.value)


def test_shards_that_are_missing_are_named_with_their_key(train, cfg, tmp_path):
    message = refused(train, cfg, tmp_path, "data.train.shards=/nowhere", "data.val.shards=/neither")
    assert "data.train.shards: /nowhere" in message
    assert "data.val.shards: /neither" in message, "all at once"


def test_shards_of_another_class_count_are_refused(train, cfg, tmp_path):
    message = refused(train, cfg, tmp_path, "model.num_classes=6")
    assert "holds 5 classes, and model.num_classes is 6; set the one or name other shards" in message


def test_an_index_that_does_not_fit_its_tar_is_refused(train, cfg, shards, tmp_path):
    shutil.copytree(shards / "val", tmp_path / "val")
    index = tmp_path / "val" / "shard-000000.idx"
    index.write_text(index.read_text().replace("label.npy", "label.npz"))
    message = refused(train, cfg, tmp_path, f"data.val.shards={tmp_path}/val")
    assert message.startswith("data.val.shards: ")
    assert "shard-000000.idx" in message


def test_a_manifest_of_another_version_is_refused(train, cfg, shards, tmp_path):
    shutil.copytree(shards / "val", tmp_path / "val")
    manifest = tmp_path / "val" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    message = refused(train, cfg, tmp_path, f"data.val.shards={tmp_path}/val")
    assert "data.val.shards" in message
    assert "99" in message


def test_fewer_videos_than_a_global_batch_are_refused(train, cfg, tmp_path):
    assert "27" in refused(train, cfg, tmp_path, "data.train.batch_size=28")
    assert "27 videos are fewer than one update needs: 28" in refused(
        train, cfg, tmp_path, "train.accumulate=7"
    )


def test_a_run_is_not_resumed_on_another_data_set(train, cfg, shards, finished, tmp_path):
    write_shards(tmp_path / "other", [[numbered_frame(i)] for i in range(NUM_TRAIN)], samples_per_shard=10)
    before = (finished / "last.pt").read_bytes()
    options = ["--cfg", str(cfg), "--work-dir", str(finished), "--resume", "auto"]
    with pytest.raises(UserError, match=r"last.pt: cannot be resumed: .*samples: "):
        train.main([*options, f"data.train.shards={tmp_path}/other"])
    assert (finished / "last.pt").read_bytes() == before


def test_a_config_with_several_labels_needs_bce(train, cfg, tmp_path):
    labels = [[0, 1], *([[i % 5] for i in range(1, 8)])]
    write_shards(tmp_path / "multi", [[numbered_frame(0)]] * 8, labels=labels)
    message = refused(train, cfg, tmp_path, f"data.val.shards={tmp_path}/multi")
    assert "holds videos of several labels, and model.loss is cross_entropy; use model.loss=bce" in message
