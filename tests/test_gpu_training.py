"""Training on the GPU against training on the CPU, which other tests prove.

`make test-gpu` runs these where a GPU is promised; elsewhere they skip.  With TSN_TEST_DEVICE=cpu the CPU
takes the GPU's place, which proves nothing but that the tests themselves run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_shards import write_shards
from test_train import SCRIPT, assert_same_run, wait_for

import launch
from tsn.checkpoint import load_checkpoint
from tsn.config_io import load_config
from tsn.engine import autocast

FORCED = os.environ.get("TSN_TEST_DEVICE") == "cpu"
DEVICE = "cpu" if FORCED else "cuda"
pytestmark = [] if FORCED else [pytest.mark.gpu]

ROOT = Path(__file__).resolve().parent.parent
NUM_CLASSES, NUM_TRAIN, NUM_VAL = 4, 32, 12
FIRST_LOSS_BAND = 0.02
"""How far the first steps' losses may be from the CPU's: JPEG decoders differ by 2 levels, rarely more."""
BF16_LOSS_BAND = 0.15
"""How far the loss in bf16 may be from that in fp32 in any record of a run, as a share of the first loss."""
LOGITS_BAND = 1e-2
"""How far logits of the compiled network may be from those of the eager one, both in bf16."""


def coloured_video(label: int, seed: int) -> list[np.ndarray]:
    """Six frames whose colour tells the class, within noise that is smooth enough for JPEG."""
    draw = np.random.default_rng([label, seed])
    x, y = np.arange(64), np.arange(48)[:, None]
    waves = 30 * np.sin(x / draw.uniform(4, 9) + draw.uniform(0, 6)) * np.sin(y / draw.uniform(4, 9))
    colour = np.array([(60, 120, 180), (180, 60, 120), (120, 180, 60), (150, 150, 150)][label])
    frame = np.clip(waves[..., None] + colour + draw.normal(0, 15, 3), 0, 255).astype(np.uint8)
    return [frame] * 6


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> Path:
    """mini.yaml's recipe on shards of a few small frames."""
    folder = tmp_path_factory.mktemp("shards")
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        videos = [coloured_video(i % NUM_CLASSES, i + 1000 * (split == "val")) for i in range(count)]
        write_shards(folder / split, videos, num_classes=NUM_CLASSES)
    path = folder / "small.yaml"
    size = "num_segments: 2, short_side: 48, crop_size: 32"
    path.write_text(
        f"""
model: {{num_classes: {NUM_CLASSES}, backbone: resnet18, pretrained: none, dropout: 0.0}}
data:
  train: {{shards: {folder}/train, {size}, batch_size: 4, shuffle_buffer: 8}}
  val: {{shards: {folder}/val, {size}, batch_size: 4}}
  test: {{shards: {folder}/val, {size}, batch_size: 4}}
  num_threads: 2
schedule: {{epochs: 20, kind: cosine, warmup_epochs: 1}}
optim: {{lr: 0.1, base_batch_size: 4}}
train: {{val_every_epochs: 5, log_every_steps: 2}}
"""
    )
    return path


def command(cfg: Path, work_dir: Path, *options: str) -> list[str]:
    """train.py on `cfg`, with a small network unless the options name one; it goes on where it was."""
    names_one = any(option.startswith("model.backbone=") for option in options)
    script = [str(ROOT / "train.py")] if names_one else [str(SCRIPT), "real", "train.py"]
    settings = ["--cfg", str(cfg), "--work-dir", str(work_dir), "--resume", "auto", *options]
    return [sys.executable, *script, *settings]


def environment(device: str) -> dict[str, str]:
    """For the CPU, a machine without a GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return os.environ | {"OMP_NUM_THREADS": "1"} | hidden


def train(cfg: Path, work_dir: Path, *options: str, device: str = DEVICE) -> list[dict]:
    """Train to the end; the records of the log."""
    done = subprocess.run(
        command(cfg, work_dir, *options), env=environment(device), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]


def interrupt(cfg: Path, work_dir: Path, signum: int, *options: str, device: str = DEVICE) -> int:
    """Train until a checkpoint is there, send the signal; the step of the checkpoint that is left.

    options: with `train.save_every_steps=1`, so that a checkpoint comes soon.
    """
    process = subprocess.Popen(
        command(cfg, work_dir, *options),
        env=environment(device),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = load_checkpoint(work_dir / "last.pt").run.step if (work_dir / "last.pt").exists() else 0
    wait_for(work_dir / "last.pt", process)
    while load_checkpoint(work_dir / "last.pt").run.step <= before + 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signum)
    process.wait(timeout=120)
    return load_checkpoint(work_dir / "last.pt").run.step


def losses(records: list[dict]) -> np.ndarray:
    return np.array([record["loss"] for record in records if record["kind"] == "train"])


def best_top1(records: list[dict]) -> float:
    return max(record["top1"] for record in records if record["kind"] == "val")


@pytest.fixture(scope="module")
def fp32_records(cfg, tmp_path_factory) -> list[dict]:
    return train(cfg, tmp_path_factory.mktemp("fp32") / "run", "train.amp=false")


def test_training_reaches_what_it_reaches_on_the_cpu(cfg, fp32_records, tmp_path):
    on_cpu = train(cfg, tmp_path / "cpu", device="cpu")
    assert best_top1(on_cpu) >= 0.9
    assert best_top1(fp32_records) >= best_top1(on_cpu) - 1 / NUM_VAL
    assert abs(losses(fp32_records)[0] - losses(on_cpu)[0]) < FIRST_LOSS_BAND
    assert losses(fp32_records)[-1] < 0.5 * losses(fp32_records)[0]


def test_the_loss_in_bf16_stays_near_that_in_fp32(cfg, fp32_records, tmp_path):
    expected, found = losses(fp32_records), losses(train(cfg, tmp_path / "bf16", "train.amp=true"))
    assert np.abs(found - expected).max() < BF16_LOSS_BAND * expected[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_a_deterministic_run_is_the_same(cfg, tmp_path, signum):
    options = ("--deterministic", "train.save_every_steps=1", "schedule.epochs=4", "model.backbone=resnet18")
    train(cfg, tmp_path / "whole", *options)
    step = interrupt(cfg, tmp_path / "parts", signum, *options)
    assert 0 < step < load_checkpoint(tmp_path / "whole" / "last.pt").run.step
    train(cfg, tmp_path / "parts", *options)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def scores_of(cfg: Path, checkpoint: Path, device: str, out: Path) -> np.ndarray:
    """What scripts/eval.py says of the test set, (N, num_classes)."""
    script = [str(SCRIPT), "real", "scripts/eval.py", "--cfg", str(cfg), "--checkpoint", str(checkpoint)]
    settings = ["--scores", str(out), "data.device=cpu", "train.amp=false"]
    done = subprocess.run(
        [sys.executable, *script, *settings], env=environment(device), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.load(out)["scores"]


def test_a_checkpoint_goes_from_the_gpu_to_the_cpu_and_back(cfg, tmp_path):
    """Its weights do: they are tested alike, and trained on.  A run itself goes on where it began."""
    options = ("schedule.epochs=8", "train.amp=false")
    first = losses(train(cfg, tmp_path / "0", *options))
    for number, (device, other) in enumerate(((DEVICE, "cpu"), ("cpu", DEVICE))):
        last = tmp_path / str(number) / "last.pt"
        found = [
            scores_of(cfg, last, each, tmp_path / f"{number}-{place}.npz")
            for place, each in enumerate((device, other))
        ]
        np.testing.assert_allclose(*found, atol=0.02, rtol=0.02)  # convolutions on the GPU are in TF32
        pretrained = (*options, f"model.pretrained={last}")
        further = losses(train(cfg, tmp_path / str(number + 1), *pretrained, device=other))
        assert further[0] < 0.7 * first[0]
    if not FORCED:
        last = tmp_path / "0" / "last.pt"
        auto = command(cfg, tmp_path / "refused", *options)
        resume = [str(last) if part == "auto" else part for part in auto]
        done = subprocess.run(resume, env=environment("cpu"), capture_output=True, text=True)
        assert "cannot be resumed: the loader's state was saved with other settings" in done.stderr
        assert "device: 'gpu, for a GPU', now 'cpu'" in done.stderr


def test_weights_answer_alike_on_the_gpu_and_on_the_cpu(cfg, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = launch.build_network(load_config(str(cfg), []).config).eval()
    clips = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(clips)
        found = model.to(DEVICE)(clips.to(DEVICE)).cpu()
        again = model.to("cpu")(clips)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(again, expected), "the way there and back changes nothing"


def test_the_compiled_network_gives_the_same_logits_in_bf16(cfg):
    model = launch.build_network(load_config(str(cfg), []).config).eval().to(DEVICE)
    clips = torch.randint(0, 256, (3, 4, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    with torch.inference_mode(), autocast(clips.device, amp=True):
        eager = model(clips).float()
        model.compile()
        compiled = model(clips).float()
    assert (compiled - eager).abs().max() < LOGITS_BAND


def test_a_compiled_run_trains(cfg, fp32_records, tmp_path):
    found = losses(train(cfg, tmp_path / "run", "train.amp=false", "train.compile=true"))
    assert abs(found[0] - losses(fp32_records)[0]) < FIRST_LOSS_BAND
    assert found[-1] < 0.5 * found[0]


def weights_of(tmp_path: Path, num_ranks: int, *options: str) -> dict[str, torch.Tensor]:
    """What `gpu_ranks.py` has after its updates."""
    out = tmp_path / "weights.pt"
    start = [sys.executable]
    if num_ranks > 1 or "--ddp" in options:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    script = [str(ROOT / "tests" / "gpu_ranks.py"), str(out), "--device", DEVICE, *options]
    done = subprocess.run([*start, *script], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.parametrize(
    ("num_ranks", "parts", "options"), [(2, 1, ()), (1, 2, ()), (2, 2, ()), (2, 1, ("--bn",))]
)
def test_ranks_and_accumulation_agree_with_the_single_process(tmp_path, num_ranks, parts, options):
    """BatchNorm's statistics can be over ranks, but not over the batches of an accumulated update."""
    if options and DEVICE == "cpu":
        pytest.skip("SyncBatchNorm needs a GPU")
    expected = weights_of(tmp_path, 1, *options)
    found = weights_of(tmp_path, num_ranks, "--parts", str(parts), *options)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("parts", ["1", "2"])
def test_ddp_over_nccl_with_one_rank_is_the_plain_network(tmp_path, parts):
    expected = weights_of(tmp_path, 1, "--parts", parts)
    found = weights_of(tmp_path, 1, "--parts", parts, "--ddp")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_one_rank_under_torchrun_is_the_single_process(cfg, tmp_path):
    options = ("--deterministic", "schedule.epochs=2", "train.amp=false")
    train(cfg, tmp_path / "alone", *options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    start = [*torchrun, *command(cfg, tmp_path / "ranks", *options)[1:]]
    done = subprocess.run(start, env=environment(DEVICE), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "ranks", tmp_path / "alone")
