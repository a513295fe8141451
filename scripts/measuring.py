"""How the benchmarks time things that work ahead of their consumer."""

import time
from collections.abc import Iterator
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
