"""Functions for worker processes, which must be able to import them."""

import os
import signal
import time
from pathlib import Path

from shards.encoding import PackedSample, Rejected, Task, pack_video

DEADLY = "v05.avi"


def square_slowly_if_even(number: int) -> int:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return number * number


def die_at_multiples_of_five(number: int) -> int:
    if number % 10 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 5 == 0:
        os._exit(7)
    return number


def die_once_at_multiples_of_five(task: tuple[str, int]) -> tuple[int, int]:
    """Number of the task, and how many others were in work. `task`: a directory to leave notes in, number."""
    directory, number = Path(task[0]), task[1]
    note = directory / f"{number}.died"
    if number % 5 == 0 and not note.exists():
        note.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    at_work = directory / f"{number}.works"
    at_work.touch()
    time.sleep(0.05 if number % 5 == 0 else 0.01)
    others = len(list(directory.glob("*.works"))) - 1
    at_work.unlink()
    return number, others


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError(f"cannot do {number}")
    return number


def echo_process_id(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def pack_video_or_die(task: Task) -> PackedSample | Rejected:
    if task.source.name == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return pack_video(task)
