"""How the benchmarks time things that work ahead of their consumer."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch


def time_steady(batches: Iterator[Any], num_ready: int, num_batches: int) -> float:
    """Seconds that the endless `batches` take for `num_batches` in the steady state.

    num_ready: how many may have been made ahead while nobody was timing; as many are taken and not counted.
    """
    for _ in range(num_ready):
        next(batches)
    wait_for_gpu()
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    """Returns when the GPU, if there is one, has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Rate:
    """What an endless iterator gave: items a second, and the seconds of wall clock and CPU of them all."""

    per_s: float
    wall_s: float
    cpu_s: float


def rate_for(items: Iterator[Any], num_ready: int, seconds: float) -> Rate:
    """The steady state of `items`, measured for about `seconds`, and for two items at least.

    num_ready: how many may have been made ahead; as many are taken first and not counted.
    """
    for _ in range(num_ready):
        next(items)
    wait_for_gpu()
    start, cpu_start, count = time.perf_counter(), time.process_time(), 0
    while count < 2 or time.perf_counter() - start < seconds:
        next(items)
        count += 1
    wait_for_gpu()
    wall_s = time.perf_counter() - start
    return Rate(count / wall_s, wall_s, time.process_time() - cpu_start)


class Budget:
    """Time that a benchmark may take."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.perf_counter() + limit_s

    @property
    def left_s(self) -> float:
        return self._end - time.perf_counter()


def used_gpu_gb() -> float | None:
    """Memory of the GPU that is in use, by whomever; None without one."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9
