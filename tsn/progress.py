"""What a run tells: a line on the terminal, the same as a record of `log.jsonl`, and as curves in
TensorBoard."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from tsn.errors import UserError

_VAL_FACTS = ("epoch", "step", "num_samples", "videos_per_s")
"""What a validation record holds beside the metrics."""


class RunLog:
    """The log of one run, kept by rank 0 in the work directory."""

    def __init__(self, work_dir: Path, *, resume_size_bytes: int = 0, resume_step: int = 0) -> None:
        """Open the log; records after the first `resume_size_bytes` belong to steps that will be made
        again."""
        # TensorBoard takes seconds to import, so only who writes a log pays for it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._file = (work_dir / "log.jsonl").open("ab", buffering=0)
        if self._file.tell() > resume_size_bytes:
            self._file.truncate(resume_size_bytes)
        self._curves = SummaryWriter(str(work_dir / "tensorboard"), purge_step=resume_step + 1)

    @property
    def size_bytes(self) -> int:
        """Length of `log.jsonl` now."""
        return self._file.seek(0, 2)

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Tell a record of `kind` train or val in all three places.  It holds `epoch` and `step`.

        Raises:
            UserError: it cannot be written, e.g. because the disk is full.
        """
        print(format_line(kind, record), flush=True)
        line = json.dumps({"kind": kind, **record}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise UserError(
                f"{self._file.name}: cannot be written: {error.strerror}.  Make room and go on with "
                "--resume auto"
            ) from error
        for name, value in record.items():
            if name not in ("epoch", "step", "num_steps") and isinstance(value, int | float):
                self._curves.add_scalar(f"{kind}/{name}", value, record["step"])
        self._curves.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()
        self._curves.close()


class Pace:
    """Speed since the last record, and from all of them the time that is left."""

    def __init__(self) -> None:
        self._begun = 0.0  # where the time since the last record begins, moved by pauses
        self._stopped: float | None = None
        self._new_steps = 0
        self._seconds, self._steps = 0.0, 0

    def start(self) -> None:
        """Steps begin, or go on after a pause, e.g. a validation, whose time does not count."""
        now = time.perf_counter()
        self._begun = now if self._stopped is None else self._begun + now - self._stopped

    def stop(self) -> None:
        """A pause begins."""
        self._stopped = time.perf_counter()

    def count_step(self) -> None:
        """A step was made since the start."""
        self._new_steps += 1

    def take(self, *, num_steps: int, num_videos: int, steps_left: int, waited_s: float) -> dict[str, float]:
        """Fields of a record, for the `num_steps` steps since the last one, of which a run that was resumed
        has not made all itself."""
        now = time.perf_counter()
        elapsed, self._begun = max(now - self._begun, 1e-9), now
        own_steps, self._new_steps = self._new_steps, 0
        self._seconds += elapsed
        self._steps += own_steps
        return {
            "clips_per_s": num_videos * own_steps / num_steps / elapsed,
            "data_wait": min(waited_s / elapsed, 1.0),
            "gpu_memory_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            "left_s": self._seconds / self._steps * steps_left,
        }


def format_line(kind: str, record: dict[str, Any]) -> str:
    """A record of `RunLog.write` as one line for a person."""
    if kind == "val":
        metrics = "  ".join(f"{key} {value:.4f}" for key, value in record.items() if key not in _VAL_FACTS)
        return (
            f"epoch {record['epoch']:>3}  validation of {record['num_samples']} videos: {metrics}  "
            f"{record['videos_per_s']:.1f} videos/s"
        )
    memory = record["gpu_memory_bytes"]
    return (
        f"epoch {record['epoch']:>3}  step {record['step']}/{record['num_steps']}  "
        f"loss {record['loss']:.4f}  top1 {record['top1']:.3f}  lr {record['lr']:.3g}  "
        f"{record['clips_per_s']:.1f} clips/s  data wait {record['data_wait']:.0%}"
        + (f"  GPU memory {memory / 2**30:.1f} GiB" if memory else "")
        + f"  left {format_duration(record['left_s'])}"
    )


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03 below an hour."""
    minutes, seconds_ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_:02}" if hours else f"{minutes}:{seconds_:02}"
