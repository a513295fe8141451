"""A process pool that survives the death of its workers.

`concurrent.futures` gives up as a whole when one process dies, and does not say over which task. Here the
task whose process died yields a `Died`, a new process takes the place, and the work goes on.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_PER_WORKER = 2  # one in work, one that it finds when it comes back
_WINDOW_PER_WORKER = 4  # results that wait in memory for a slow task before them, and tasks in work
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
    """A process, and the numbered tasks that it was given and has not answered, oldest first."""

    process: BaseProcess
    connection: Connection
    tasks: deque[tuple[int, Any]] = field(default_factory=deque)

    def give(self, numbered_task: tuple[int, Any]) -> None:
        self.tasks.append(numbered_task)
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: `receive` finds out
            self.connection.send(numbered_task[1])

    def receive(self) -> tuple[int, Any]:
        """Number and result of the oldest task; waits for it."""
        number, _ = self.tasks.popleft()
        try:
            succeeded, result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return number, Died(self.process.exitcode or 0)
        if not succeeded:
            raise result
        return number, result

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Processes that apply one function; a context manager, whose end ends them.

    They start with the first tasks and stay for the next.
    """

    def __init__(self, function: Callable[[Task], Result], num_workers: int) -> None:
        """`function` is importable by name; what it takes, returns and raises can be pickled."""
        self._function = function
        self._num_workers = num_workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes, also in the middle of their tasks."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def run_in_order(self, tasks: Iterable[Task]) -> Generator[Any, None, None]:
        """Yield the result of each task, or `Died`, in the order of the tasks. What the function raises is
        raised.

        Tasks are read as the work goes on: a few for each process are begun and not yet yielded. Closed
        before its end, it stops the pool.
        """
        if not self._workers:
            self._workers = [_start(self._function) for _ in range(self._num_workers)]
        window = _WINDOW_PER_WORKER * self._num_workers
        numbered = enumerate(tasks)
        done: dict[int, Any] = {}
        num_begun = num_yielded = 0
        try:
            while True:
                num_begun += _hand_out(numbered, self._workers, at_most=window - (num_begun - num_yielded))
                if num_begun == num_yielded:
                    return
                done |= _collect(self._workers, self._function)
                while num_yielded in done:
                    yield done.pop(num_yielded)
                    num_yielded += 1
        finally:
            if num_begun != num_yielded:
                self.stop()


def _start(function: Callable) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(theirs, function), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _hand_out(numbered: Iterator[tuple[int, Any]], workers: list[_Worker], *, at_most: int) -> int:
    """Give tasks to the workers that have fewest; the number given."""
    for count in range(at_most):
        worker = min(workers, key=lambda worker: len(worker.tasks))
        numbered_task = next(numbered, None) if len(worker.tasks) < _TASKS_PER_WORKER else None
        if numbered_task is None:
            return count
        worker.give(numbered_task)
    return at_most


def _collect(workers: list[_Worker], function: Callable) -> dict[int, Any]:
    """Wait for a result; those that are there, by number. A dead worker is replaced, and its other tasks
    go on."""
    ready = wait([worker.connection for worker in workers if worker.tasks])
    results = {}
    for place, worker in enumerate(workers):
        if worker.connection not in ready:
            continue
        number, result = worker.receive()
        results[number] = result
        if isinstance(result, Died):
            worker.stop()
            workers[place] = _start(function)
            for numbered_task in worker.tasks:
                workers[place].give(numbered_task)
    return results


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
