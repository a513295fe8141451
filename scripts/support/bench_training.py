"""Training in figures: on batches that lie on the device already, and on the real pipeline."""

import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import launch
from support.bench_inputs import SCRIPTS
from support.bench_loader import iter_forever
from support.bench_model import (
    ONE_PROCESS,
    UNMEASURED,
    count_macs,
    peak_memory,
    pick_device,
    reset_peak,
    synthetic_clips,
    wait_for,
)
from support.bench_report import Row
from tsn.config_io import NamedConfig
from tsn.data import Loader
from tsn.run import Run

TRAIN_COLUMNS = {
    "variant": "variant",
    "clips_per_s": "clips/s",
    "images_per_s": "images/s",
    "arithmetic_share": "share of the GPU's arithmetic",
    "data_wait": "time waiting for data",
    "peak_memory_gb": "peak memory, GB",
}
MATRIX_SIDE = 8192
STEPS_AHEAD = 3
CUDA_GRAPHS = "reduce-overhead"
"""What torch.compile calls them."""


@dataclass(frozen=True)
class SyntheticBatch:
    clips: Tensor
    labels: Tensor
    sample_ids: Tensor


class SyntheticLoader:
    """The same noise again and again, on the device: what training is when data costs nothing."""

    def __init__(self, named: NamedConfig, device: torch.device, *, num_batches: int = 100_000) -> None:
        config = named.config
        size = config.data.train.batch_size
        self.num_samples = size * num_batches
        self._num_batches = num_batches
        clips = synthetic_clips(config, config.data.train, num_videos=size, device=device)
        ids = torch.arange(size)
        labels = (ids % config.model.num_classes).to(device)
        if config.model.loss == "bce":
            labels = torch.nn.functional.one_hot(labels, config.model.num_classes).to(torch.uint8)
        self._batch = SyntheticBatch(clips, labels, ids)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[SyntheticBatch]:
        for _ in range(self._num_batches):
            yield self._batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

    def close(self) -> None:
        pass


class EndlessLoader:
    """The real pipeline's batches without an end, so that no epoch ends inside a measurement."""

    def __init__(self, loader: Any) -> None:
        self._loader, self.num_samples = loader, loader.num_samples
        self._batches = iter_forever(loader)

    def __len__(self) -> int:
        return 100_000

    def __iter__(self) -> Iterator[Any]:
        return self._batches

    def discard(self, num_batches: int) -> None:
        """Throw away what was made ahead."""
        for _ in range(num_batches):
            next(self._batches)

    def close(self) -> None:
        self._loader.close()


def build_run(named: NamedConfig, loader: Loader, *, compile_mode: str | None = None) -> Run:
    """A run as train.py builds it, which writes nothing, on the main source alone; `compile_mode` is of
    torch.compile."""
    torch.backends.cudnn.benchmark = True
    device = pick_device()
    run = Run(
        named,
        model=launch.build_network(named.config),
        train_loader=loader,
        val_loader=loader,
        world=ONE_PROCESS,
        device=device,
        work_dir=Path("unused"),
    )
    if compile_mode:
        torch._dynamo.reset()  # it remembers shapes of other runs, and would compile for any
        torch._dynamo.utils.counters.clear()
        compiled: Any = torch.compile(run.model, mode=compile_mode, dynamic=False)
        run.trained = compiled
    return run


def time_training(
    named: NamedConfig, loader: Loader, *, seconds: float, compile_mode: str | None = None
) -> Row:
    """Steps of a run in its steady state; a real loader begins with nothing made ahead."""
    config = named.config
    device = pick_device()
    reset_peak(device)
    run = build_run(named, loader, compile_mode=compile_mode)
    steps = run.iter_steps()
    for _ in range(5 if device.type == "cuda" else 1):
        next(steps)
    if isinstance(loader, EndlessLoader):
        loader.discard(config.data.prefetch + 1)
    wait_for(device)
    if device.type == "cuda" and not compile_mode:
        # Memory to try out convolutions in is not needed again; that of CUDA graphs is.
        torch.cuda.reset_peak_memory_stats(device)
    run.waits.take()
    ends: deque[torch.cuda.Event] = deque()
    start, num_steps = time.perf_counter(), 0
    while num_steps < 2 or time.perf_counter() - start < seconds:
        next(steps)
        num_steps += 1
        if device.type == "cuda":  # the host keeps a lead, but none that makes its clock tell nothing
            ends.append(torch.cuda.Event())
            ends[-1].record()
            if len(ends) > STEPS_AHEAD:
                ends.popleft().synchronize()
    wait_for(device)
    elapsed_s = time.perf_counter() - start
    clips_per_s = num_steps * run.global_batch_size / elapsed_s
    images = config.data.train.num_segments
    return {
        "clips_per_s": clips_per_s,
        "images_per_s": clips_per_s * images,
        "data_wait": run.waits.take() / elapsed_s,
    } | peak_memory(device, reserved=compile_mode == CUDA_GRAPHS)


def time_synthetic(named: NamedConfig, *, seconds: float, compile_mode: str | None = None) -> Row:
    loader: Any = SyntheticLoader(named, pick_device())
    row = time_training(named, loader, seconds=seconds, compile_mode=compile_mode)
    skipped = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    if compile_mode == CUDA_GRAPHS and skipped:
        row["status"] = f"(no CUDA graphs of {skipped} parts)"
    return row


def time_real(named: NamedConfig, *, seconds: float) -> Row:
    loader: Any = EndlessLoader(launch.build_train_loader(named.config, ONE_PROCESS))
    try:
        return time_training(named, loader, seconds=seconds)
    finally:
        loader.close()


def training_flops(named: NamedConfig) -> float:
    """Floating-point operations of a step for one clip: the backward pass takes twice the forward's."""
    device = pick_device()
    model = launch.build_network(named.config).to(device)
    clips = synthetic_clips(named.config, named.config.data.train, num_videos=1, device=device)
    return 3 * 2 * count_macs(model, clips)


@cache
def arithmetic_rate(seconds: float = 1.0) -> float | None:
    """Floating-point operations a second of a large bf16 matrix product; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        torch.mm(a, b)
    torch.cuda.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            torch.mm(a, b)
        torch.cuda.synchronize()
        count += 10
    return count * 2 * MATRIX_SIDE**3 / (time.perf_counter() - start)


def profile_steps(named: NamedConfig, loader: Loader, *, num_steps: int = 50) -> dict[str, Any]:
    """The share of time in which the GPU was idle in `num_steps` steps, and the five costliest operations of
    a few more.

    Returns:
        {"operations": [{"name", "share", "ms_per_step"}, ...], "gpu_idle": a fraction, or None on the CPU}
    """
    on_gpu = pick_device().type == "cuda"
    run = build_run(named, loader)
    steps = run.iter_steps()
    for _ in range(5 if on_gpu else 1):
        next(steps)
    kinds = torch.profiler.ProfilerActivity
    gpu_idle = None
    if on_gpu:  # without the CPU's part, which costs time of its own
        gpu_idle = idle_share(kernel_times(profile_next(steps, num_steps, [kinds.CUDA])))
    num_steps = min(num_steps, 10)
    profile = profile_next(steps, num_steps, [kinds.CPU, *([kinds.CUDA] if on_gpu else [])])
    # Time on the GPU is counted under the operation that asked for it, and under the kernel again.
    costs = [
        (event.key, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profile.key_averages()
        if event.device_type.name == "CPU" and not event.is_user_annotation
    ]
    total = sum(cost for _, cost in costs)
    costliest = sorted(costs, key=lambda pair: -pair[1])[:5]
    return {
        "operations": [
            {"name": name[:90], "share": cost / total, "ms_per_step": cost / 1000 / num_steps}
            for name, cost in costliest
        ],
        "gpu_idle": gpu_idle,
    }


def profile_next(steps: Iterator[None], num_steps: int, activities: list[Any]) -> Any:
    wait_for(pick_device())
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(num_steps):
            next(steps)
        wait_for(pick_device())
    return profile


def kernel_times(profile: Any) -> list[tuple[float, float]]:
    """Begin and end of everything that ran on the busiest stream of the GPU, in microseconds.

    That is the stream of the training; decoding has others.
    """
    streams: dict[int, list[tuple[float, float]]] = {}
    for event in profile.events():
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            times = streams.setdefault(event.device_resource_id, [])
            times.append((event.time_range.start, event.time_range.end))
    return max(streams.values(), key=lambda times: sum(end - begin for begin, end in times))


def idle_share(times: list[tuple[float, float]]) -> float:
    """The fraction of the time from the first begin to the last end in which nothing ran."""
    ordered = sorted(times)
    busy, reached = 0.0, ordered[0][0]
    for begin, end in ordered:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - ordered[0][0])


def time_to_first_step(
    cfg: str, overrides: list[str], work_dir: Path, *, limit_s: float = 120.0
) -> float | None:
    """Seconds from the command `train.py --cfg ...` to the first step's record; None: none came in time."""
    command = [sys.executable, str(SCRIPTS.parent / "train.py"), "--cfg", cfg, "--work-dir", str(work_dir)]
    settings = [*UNMEASURED, "train.log_every_steps=1", *overrides]
    settings = list(
        {setting.partition("=")[0]: setting for setting in settings}.values()
    )  # the last one wins
    start = time.perf_counter()
    with open(work_dir.with_suffix(".log"), "w") as log:
        process = subprocess.Popen([*command, *settings], stdout=log, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None and time.perf_counter() - start < limit_s:
            if has_record(work_dir / "log.jsonl"):
                return time.perf_counter() - start
            time.sleep(0.05)
        return time.perf_counter() - start if has_record(work_dir / "log.jsonl") else None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def has_record(log: Path) -> bool:
    """Whether a run has logged a step."""
    if not log.exists():
        return False
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
    return any(json.loads(line)["kind"] == "train" for line in lines)


def time_checkpoint(named: NamedConfig, work_dir: Path) -> float:
    """Seconds that writing `last.pt` takes."""
    loader: Any = SyntheticLoader(named, pick_device(), num_batches=8)
    run = build_run(named, loader)
    next(run.iter_steps())
    run.work_dir = work_dir
    work_dir.mkdir()
    run.start_log(None)
    wait_for(pick_device())
    start = time.perf_counter()
    run.save("last.pt")
    return time.perf_counter() - start
