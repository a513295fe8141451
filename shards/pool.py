"""A process pool that survives the death of its workers.

`concurrent.futures` gives up as a whole when one process dies, and does not say over which task. Here the task whose
process died yields a `Died`, a new process takes the place, and the work goes on.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

# Processes are started afresh: nothing of the parent's threads and open files is inherited.
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Died:
    """In place of a result: the process that worked on the task ended without one."""

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"its process ended with exit code {self.exit_code}"
        return f"its process was killed by {signal.Signals(-self.exit_code).name}"


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task_number: int | None = None


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, num_workers: int, window: int
) -> Iterator[Result | Died]:
    """Apply `function` to each task in `num_workers` processes; yield the results in the order of the tasks.

    Args:
        function: importable by name, like each task and result picklable. An exception that it raises is raised here.
        tasks: read as the work goes on.
        num_workers: processes.
        window: tasks begun but not yet yielded, at most: it bounds the results that wait in memory.
    """
    numbered = enumerate(tasks)
    workers = [_start(function) for _ in range(num_workers)]
    done: dict[int, Result | Died] = {}
    next_number, exhausted = 0, False
    try:
        while True:
            for worker in workers:
                begun = sum(w.task_number is not None for w in workers) + len(done)
                if worker.task_number is None and begun < window and not exhausted:
                    exhausted = not _send_next(worker, numbered)
            busy = {
                worker.connection: i for i, worker in enumerate(workers) if worker.task_number is not None
            }
            if not busy and not done:
                return
            for connection in wait(list(busy)) if next_number not in done else []:
                place = busy[connection]
                number = workers[place].task_number
                done[number] = _receive(workers[place])
                if isinstance(done[number], Died):
                    workers[place] = _start(function)
            while next_number in done:
                yield done.pop(next_number)
                next_number += 1
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()
            worker.connection.close()


def _start(function: Callable) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _send_next(worker: _Worker, numbered: Iterator[tuple[int, Task]]) -> bool:
    number, task = next(numbered, (None, None))
    if number is None:
        return False
    worker.task_number = number
    with suppress(
        BrokenPipeError, ConnectionResetError
    ):  # died while idle: found out when its result is read
        worker.connection.send(task)
    return True


def _receive(worker: _Worker) -> object:
    worker.task_number = None
    try:
        succeeded, result = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        worker.connection.close()
        return Died(worker.process.exitcode)
    if not succeeded:
        raise result
    return result


def _serve(connection: Connection, function: Callable) -> None:
    """The life of a worker process: it ends when the other side does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = connection.recv()
            try:
                answer = (True, function(task))
            except Exception as error:
                answer = (False, error)
            connection.send(answer)
