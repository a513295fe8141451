"""train.py and eval.py on machines that share no disk: processes with a directory each, on invented data."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import test_train
from test_train import assert_same_run, command, free_port

from tsn.checkpoint import load_checkpoint, save_checkpoint

cfg, train = test_train.cfg, test_train.train  # fixtures


def run_on_two_machines(
    machines: list[Path], *arguments: list[str], script: str = "train.py"
) -> list[subprocess.CompletedProcess[str]]:
    """An entry point on two ranks, each with a current directory of its own, as two machines without a common
    disk have; `arguments` of both, or of each."""
    place = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    place |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            command(1, *own, script=script),
            cwd=machine,
            env=os.environ | place | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (machine, own) in enumerate(zip(machines, 2 * arguments, strict=False))
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def test_machines_need_no_common_disk_to_resume(cfg, tmp_path):
    apart, together = [tmp_path / "a", tmp_path / "b"], [tmp_path / "c"] * 2
    for machine in (*apart, together[0]):
        machine.mkdir()
    options = ["--cfg", str(cfg), "--work-dir", "run", "--resume", "auto"]
    for epochs in (2, 3):
        for machines in (apart, together):
            for done in run_on_two_machines(machines, [*options, f"schedule.epochs={epochs}"]):
                assert done.returncode == 0, done.stderr
    assert not (tmp_path / "b" / "run").exists()
    assert_same_run(tmp_path / "a" / "run", tmp_path / "c" / "run")


def test_ranks_that_were_started_differently_are_refused(cfg, tmp_path):
    options = ["--cfg", str(cfg), "--work-dir", "run"]
    for done in run_on_two_machines([tmp_path] * 2, options, [*options, "optim.lr=0.5"]):
        assert done.returncode == 2
        assert "error: optim.lr: 0.5 on rank 1, 0.1 on rank 0\nall ranks must run the same" in done.stderr
    assert not (tmp_path / "run").exists()


def test_ranks_that_test_different_checkpoints_are_refused(cfg, train, tmp_path):
    machines = [tmp_path / "a", tmp_path / "b"]
    assert train.main(["--cfg", str(cfg), "--work-dir", str(tmp_path / "run"), "schedule.epochs=1"]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    for size_bytes, machine in enumerate(machines):
        machine.mkdir()
        save_checkpoint(machine / "tested.pt", replace(checkpoint, log_size_bytes=size_bytes))
    options = ["--checkpoint", "tested.pt", "--out", "result.json"]
    for done in run_on_two_machines(machines, options, script="scripts/eval.py"):
        assert done.returncode == 2
        assert "error: checkpoint: " in done.stderr and "all ranks must run the same" in done.stderr
    assert not list(tmp_path.rglob("result.json"))
