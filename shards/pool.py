"""A process pool that survives the death of its workers.

`concurrent.futures` gives up as a whole when one process dies, and does not say over which task. Here a new
process takes the place, the work goes on, and the task is tried once more, by a new process and while no
other is in work: it may have suffered for the others, as when memory runs out, or someone ended the process.
If that one dies, too, the task yields a `Died`.
"""

import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_CGROUP = Path("/sys/fs/cgroup")
_TASKS_PER_WORKER = 2  # one in work, one that it finds when it comes back
_WINDOW_PER_WORKER = 4  # results that wait in memory for a slow task before them, and tasks in work
# Processes are started afresh: nothing of the parent's threads and open files is inherited.
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Died:
    """In place of a result: the process that worked on the task alone ended without one."""

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

    def receive(self) -> tuple[tuple[int, Any], Any]:
        """The oldest task and its result; waits for it."""
        task = self.tasks.popleft()
        try:
            succeeded, result = self.connection.recv()
        except (EOFError, OSError):  # the latter where it died in the middle of the answer
            self.process.join()
            return task, Died(self.process.exitcode or 0)
        if not succeeded:
            raise result
        return task, result

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def available_cores() -> int:
    """`core_share`, rounded up: how many processes or threads can be kept busy."""
    return max(1, math.ceil(core_share()))


def core_share() -> float:
    """CPU cores that this process may use, by affinity and by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(_CGROUP)
    return float(cores) if quota is None else min(cores, quota)


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores that a control group may keep busy, or None without a limit; version 2, then version 1."""
    with suppress(OSError):
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError):
        limit = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return None if limit < 0 else limit / period  # -1: no limit
    return None


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
        died: deque[tuple[int, Any]] = deque()
        num_begun = num_yielded = 0
        try:
            while True:
                if not died:
                    at_most = window - (num_begun - num_yielded)
                    num_begun += _hand_out(numbered, self._workers, at_most=at_most)
                elif not any(worker.tasks for worker in self._workers):
                    done |= self._try_alone(died.popleft())
                if num_begun == num_yielded:
                    return
                for task, result in _collect(self._workers, self._function):
                    if isinstance(result, Died):
                        died.append(task)
                    else:
                        done[task[0]] = result
                while num_yielded in done:
                    yield done.pop(num_yielded)
                    num_yielded += 1
        finally:
            if num_begun != num_yielded:
                self.stop()

    def _try_alone(self, numbered_task: tuple[int, Any]) -> dict[int, Any]:
        """Its number, and the result or a second `Died`."""
        self._workers[0].stop()  # it may be dead itself: of an idle one nobody hears
        self._workers[0] = _start(self._function)
        self._workers[0].give(numbered_task)
        return {number: result for (number, _), result in _collect(self._workers, self._function)}


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


def _collect(workers: list[_Worker], function: Callable) -> list[tuple[tuple[int, Any], Any]]:
    """Wait for a result, if any task is in work; all that are there, each with its task. A dead worker is
    replaced, and its other tasks go on."""
    at_work = [worker.connection for worker in workers if worker.tasks]
    ready = wait(at_work) if at_work else []
    results = []
    for place, worker in enumerate(workers):
        if worker.connection not in ready:
            continue
        task, result = worker.receive()
        results.append((task, result))
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
