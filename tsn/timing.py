"""How long training waits for data."""

import time
from types import TracebackType

import torch


class WaitTimer:
    """Time lost to data, measured around fetching a batch: `with waits: batch = next(batches)`.

    On a GPU the host runs ahead, and its waiting costs nothing while the GPU has work.  There, marks in the
    GPU's own queue before and after fetching tell how long the GPU had nothing to do between two steps.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._started = 0.0
        self._marks: list[torch.cuda.Event] = []

    def __enter__(self) -> None:
        if self._on_gpu:
            self._mark()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on_gpu:
            self._mark()
        else:
            self._seconds += time.perf_counter() - self._started

    def take(self) -> float:
        """Seconds lost since the last call.  On a GPU, call it after the device has been waited for."""
        if self._on_gpu:
            begins, ends = self._marks[::2], self._marks[1::2]
            self._seconds = (
                sum(begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)) / 1000
            )
            self._marks = []
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _mark(self) -> None:
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        self._marks.append(mark)
