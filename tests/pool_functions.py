"""Functions for worker processes, which must be able to import them."""

import os
import signal
import time
from multiprocessing.connection import Connection
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
    """Number of the task, and how many others were in work. `task`: a directory to leave notes in, number.
    5 dies by SIGKILL, 10 by SIGTERM, 15 by an exit, 20 in the middle of its answer."""
    directory, number = Path(task[0]), task[1]
    note = directory / f"{number}.died"
    if number % 5 == 0 and not note.exists():
        note.touch()
        if number == 20:
            Connection.send = _send_half_and_die
            return number, 0
        if number == 15:
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM if number == 10 else signal.SIGKILL)
    at_work = directory / f"{number}.works"
    at_work.touch()
    time.sleep(0.05 if number % 5 == 0 else 0.01)
    others = len(list(directory.glob("*.works"))) - 1
    at_work.unlink()
    return number, others


def _send_half_and_die(connection: Connection, _: object) -> None:
    os.write(connection.fileno(), (1000).to_bytes(4, "big") + b"of which five come")
    os.kill(os.getpid(), signal.SIGKILL)


def die_once_with_another(task: tuple[str, int]) -> int:
    """Own process id. `task`: a file to note a death in; a process to end before the own one, once, or 0."""
    note, other = Path(task[0]), task[1]
    if other and not note.exists():
        note.touch()
        time.sleep(0.1)  # by now it is idle
        os.kill(other, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


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
