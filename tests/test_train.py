"""train.py as a user runs it, on invented data: what it writes, refuses, and how it goes on after any
interruption."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fake_training
import pytest
import torch

from tsn.checkpoint import load_checkpoint, save_checkpoint
from tsn.errors import UserError

CONFIG = """
model: {num_classes: 3, backbone: resnet18, pretrained: none, dropout: 0.5}
data:
  train: {shards: fake, num_segments: 2, batch_size: 4}
  val: {shards: fake, num_segments: 2, batch_size: 3}
  test: {shards: fake, num_segments: 2, batch_size: 3}
schedule: {epochs: 3, milestones: [2]}
optim: {lr: 0.1, base_batch_size: 4}
train: {val_every_epochs: 2, log_every_steps: 4}
"""
TIMES = ("clips_per_s", "data_wait", "gpu_memory_bytes", "left_s", "videos_per_s")
"""What differs between two runs that do the same."""

SCRIPT = Path(fake_training.__file__)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cfg") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def train():
    """train.main on fake loaders, in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name in fake_training.FAKES:
            patch.setattr(fake_training.launch, name, getattr(fake_training.launch, name))
        fake_training.install_fakes()
        yield fake_training.load_entry_point(fake_training.ROOT / "train.py")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(train, cfg, tmp_path_factory) -> Path:
    """The work directory of a run that nothing interrupted."""
    work_dir = tmp_path_factory.mktemp("run") / "finished"
    assert train.main(["--cfg", str(cfg), "--work-dir", str(work_dir)]) == 0
    return work_dir


def records_of(work_dir: Path) -> list[dict]:
    lines = (work_dir / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_run(found: Path, expected: Path) -> None:
    """The same log and the same final state, bit for bit."""
    assert records_of(found) == records_of(expected)
    one, other = load_checkpoint(found / "last.pt"), load_checkpoint(expected / "last.pt")
    assert one.run == other.run
    for name, tensor in other.model.items():
        assert torch.equal(one.model[name], tensor), name
    for index, state in other.optimizer["state"].items():
        assert torch.equal(one.optimizer["state"][index]["momentum_buffer"], state["momentum_buffer"])


def test_a_setting_given_twice_is_refused(train, tmp_path):
    options = ["--cfg", "mini.yaml", "--work-dir", str(tmp_path / "run")]
    twice = ["optim.lr=1", "schedule.epochs=3", "optim.lr=2"]
    with pytest.raises(UserError, match=r"^command line: optim\.lr: given 2 times \(1, 2\); give it once$"):
        train.main([*options, *twice])
    with pytest.raises(UserError, match=r"train\.seed: given 2 times \(3, 4\)"):
        train.main([*options, "--seed", "3", "train.seed=4"])


def test_a_run_leaves_its_config_log_curves_and_checkpoints(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "best.pt",
        "config.yaml",
        "last.pt",
        "log.jsonl",
        "tensorboard",
    ]
    records = records_of(finished)
    assert [(r["kind"], r["epoch"], r["step"]) for r in records] == [
        ("train", 1, 4),
        ("train", 2, 8),
        ("train", 2, 12),
        ("val", 2, 12),
        ("train", 3, 16),
        ("train", 3, 18),
        ("val", 3, 18),
    ]
    assert [r["lr"] for r in records if r["kind"] == "train"] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])
    assert records[-2]["loss"] < records[0]["loss"]
    last, best = load_checkpoint(finished / "last.pt"), load_checkpoint(finished / "best.pt")
    assert (last.epoch, last.run.step, last.world_size, last.config_name) == (3, 18, 1, "tiny")
    validated = {r["epoch"]: r["top1"] for r in records if r["kind"] == "val"}
    assert best.epoch == best.run.best_epoch == max(validated, key=lambda epoch: (validated[epoch], -epoch))
    assert best.run.best == max(validated.values())


def test_the_same_command_gives_the_same_run_and_another_seed_another(train, cfg, finished, tmp_path):
    train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path / "again")])
    assert_same_run(tmp_path / "again", finished)
    train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path / "other"), "--seed", "1", "schedule.epochs=1"])
    assert records_of(tmp_path / "other")[0]["loss"] != records_of(finished)[0]["loss"]


@pytest.mark.parametrize("steps", [range(1, 19, 3), range(2, 19, 3), range(3, 19, 3)])
def test_stopped_at_any_step_and_resumed_a_run_is_the_same(
    train, cfg, finished, tmp_path, monkeypatch, steps
):
    """Ctrl-C at each of these steps, in and between epochs, each time resumed."""
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    sent = interrupt_at(train, monkeypatch, set(steps))
    for _ in range(len(steps) + 1):
        code = train.main(options)
        if code == 0:
            break
        assert code == 128 + signal.SIGINT
        assert load_checkpoint(tmp_path / "last.pt").run.step == sent[-1], "it stops at once"
    assert code == 0
    assert sent == list(steps)
    assert_same_run(tmp_path, finished)


def interrupt_at(train, monkeypatch, stop_steps: set[int]) -> list[int]:
    """Send this process SIGINT at each of `stop_steps`, once; returns the list of those that were sent."""
    sent: list[int] = []
    original = train.Run.iter_steps

    def iter_steps(run):
        for _ in original(run):
            if run.state.step in stop_steps and run.state.step not in sent:
                sent.append(run.state.step)
                os.kill(os.getpid(), signal.SIGINT)
            yield

    monkeypatch.setattr(train.Run, "iter_steps", iter_steps)
    return sent


def test_a_signal_during_validation_ends_it_and_it_is_done_again(train, cfg, finished, tmp_path, monkeypatch):
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    original = fake_training.FakeLoader._batch

    def interrupt(loader, ids):
        if not loader.train:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(loader, ids)

    with monkeypatch.context() as patch:
        patch.setattr(fake_training.FakeLoader, "_batch", interrupt)
        assert train.main(options) == 128 + signal.SIGTERM
    assert load_checkpoint(tmp_path / "last.pt").run.step == 12
    assert not (tmp_path / "best.pt").exists()
    assert train.main(options) == 0
    assert_same_run(tmp_path, finished)


def test_a_finished_run_is_resumed_without_doing_anything(train, cfg, finished):
    before = (finished / "log.jsonl").read_bytes(), (finished / "last.pt").read_bytes()
    assert train.main(["--cfg", str(cfg), "--work-dir", str(finished), "--resume", "auto"]) == 0
    assert ((finished / "log.jsonl").read_bytes(), (finished / "last.pt").read_bytes()) == before


def test_nothing_is_overwritten_without_resume(train, cfg, finished):
    before = (finished / "last.pt").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run .*--resume auto"):
        train.main(["--cfg", str(cfg), "--work-dir", str(finished)])
    assert (finished / "last.pt").read_bytes() == before


def test_another_config_is_refused_on_resuming(train, cfg, finished):
    with pytest.raises(
        UserError, match=r"last.pt: cannot be resumed: optim.lr: 0.1 in the checkpoint, 0.5 now"
    ):
        train.main(["--cfg", str(cfg), "--work-dir", str(finished), "--resume", "auto", "optim.lr=0.5"])


def test_fewer_videos_than_an_update_needs_are_refused_before_anything_is_written(train, cfg, tmp_path):
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path / "run"), "train.accumulate=7"]
    with pytest.raises(
        UserError,
        match=r"27 videos are fewer than one update needs: 28 .*batch_size 4 x 1 ranks x "
        r"train.accumulate 7",
    ):
        train.main(options)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_ends_the_run_and_spares_the_checkpoint(train, cfg, finished, tmp_path):
    with pytest.raises(
        UserError, match=r"the loss is infinite or not a number, at step 4 .*smaller optim.lr"
    ):
        train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path), "optim.lr=1e30", "optim.grad_clip=0"])
    assert not (tmp_path / "last.pt").exists()


def test_a_gradient_that_ruins_the_weights_spares_the_checkpoint(train, cfg, tmp_path, monkeypatch):
    original, calls = torch.nn.utils.clip_grad_norm_, []

    def ruin(parameters, max_norm):
        parameters = list(parameters)
        calls.append(max_norm)
        if len(calls) == 4:
            parameters[0].grad.fill_(float("inf"))
        return original(parameters, max_norm)

    monkeypatch.setattr("tsn.engine.nn.utils.clip_grad_norm_", ruin)
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "train.save_every_steps=1"]
    with pytest.raises(UserError, match="a weight is infinite or not a number, at step 4 "):
        train.main(options)
    assert load_checkpoint(tmp_path / "last.pt").run.step == 3


def test_fewer_epochs_than_were_trained_are_refused_on_resuming(train, cfg, tmp_path, monkeypatch):
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    interrupt_at(train, monkeypatch, {15})
    assert train.main([*options, "schedule.epochs=8"]) == 128 + signal.SIGINT
    with pytest.raises(UserError, match=r"it is at step 15, and schedule\.epochs 2 are 12 steps; set more"):
        train.main([*options, "schedule.epochs=2"])


def test_several_labels_a_video_train_with_bce_and_its_own_metric(train, cfg, tmp_path):
    options = ["model.loss=bce", "model.loss_weight=10", "schedule.epochs=1", "data.train.batch_size=8"]
    assert train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path), *options]) == 0
    *_, validation = records_of(tmp_path)
    assert {"mean_average_precision", "mmit_mean_average_precision"} < set(validation)
    assert load_checkpoint(tmp_path / "best.pt").run.best == validation["mean_average_precision"]


def test_accumulation_makes_fewer_steps_and_a_larger_batch(train, cfg, tmp_path, capsys):
    options = ["train.accumulate=2", "schedule.epochs=1", "train.log_every_steps=1"]
    train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path), *options])
    assert "3 steps of 8 videos an epoch (batch_size 4 x 1 ranks x accumulate 2)" in capsys.readouterr().out
    records = records_of(tmp_path)
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3]
    assert records[0]["lr"] == pytest.approx(0.2), "scaled linearly to 8 videos an update"


def test_a_fault_ends_as_one_clean_message_and_exit_code_2(train, cfg, tmp_path, capsys):
    arguments = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "optim.lrr=3"]
    with pytest.raises(SystemExit, match="2"):
        fake_training.launch.run_main(lambda: train.main(arguments))
    assert capsys.readouterr().err == 'error: command line: optim.lrr: unknown key; did you mean "lr"?\n'


# What follows runs as processes of its own.


def command(num_ranks: int, *arguments: str, script: str = "train.py", loaders: str = "fake") -> list[str]:
    """The command line of an entry point with a small network; under torchrun for several ranks."""
    start = [str(SCRIPT), loaders, script, *arguments]
    if num_ranks == 1:
        return [sys.executable, *start]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_ranks)]
    return [*torchrun, "--master-port", str(free_port()), *start]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_the_best_checkpoint_is_that_of_the_validation_set_in_force(train, cfg, tmp_path, capsys):
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    train.main([*options, "schedule.epochs=2"])
    best = load_checkpoint(tmp_path / "best.pt").run
    last = load_checkpoint(tmp_path / "last.pt")
    save_checkpoint(tmp_path / "last.pt", replace(last, run=replace(last.run, best=2.0)))
    train.main([*options, "schedule.epochs=3", "data.val.batch_size=2"])
    assert load_checkpoint(tmp_path / "last.pt").run.best == 2.0
    train.main([*options, "schedule.epochs=4", "data.val.num_segments=3"])
    assert "data.val is not what best.pt was chosen on" in capsys.readouterr().out
    after = load_checkpoint(tmp_path / "best.pt").run
    assert after.best_epoch == 4 and after.best_on != best.best_on


def test_a_full_disk_ends_in_one_message(train, cfg, tmp_path):
    os.symlink("/dev/full", tmp_path / "log.jsonl")
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be written: No space left on device"):
        train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"])


def test_a_second_run_in_the_same_directory_is_refused_while_the_first_is_there(train, cfg, tmp_path):
    options = ["--cfg", str(cfg), "--work-dir", str(tmp_path), "--resume", "auto"]
    slow = [*options, "data.train.shards=slow", "train.save_every_steps=1"]
    process = subprocess.Popen(command(1, *slow), stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "last.pt", process)
    with pytest.raises(
        UserError, match=r"another run is writing here .* stop it, or choose another --work-dir"
    ):
        train.main([*options, "data.train.shards=slow", "train.save_every_steps=1"])
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    assert train.main([*options, "data.train.shards=slow", "train.save_every_steps=1"]) == 0


def wait_for(path: Path, process: subprocess.Popen, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


def test_all_ranks_stop_at_the_same_step_when_one_is_asked(cfg, tmp_path):
    options = [
        "--cfg",
        str(cfg),
        "--work-dir",
        str(tmp_path),
        "data.train.shards=slow",
        "schedule.epochs=1000",
    ]
    process = subprocess.Popen(
        command(2, *options, "train.log_every_steps=1"),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "last.pt", process)
    worker = next(pid for pid in children_of(process.pid) if b"RANK=1" in environment_of(pid))
    os.kill(worker, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert "stopped by signal 15 at step" in out
    checkpoint = load_checkpoint(tmp_path / "last.pt")
    positions = {(rank["loader"]["epoch"], rank["loader"]["step"]) for rank in checkpoint.ranks}
    assert positions == {divmod(checkpoint.run.step, checkpoint.steps_per_epoch)}


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
