"""Leaving in good order on Ctrl-C and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether this process was asked to stop.  Ranks must agree before they act on it."""

    signum: int = 0
    """The signal that asked; 0: none did."""


@contextmanager
def listen_for_stop() -> Iterator[StopRequest]:
    """Note Ctrl-C and SIGTERM instead of dying from them.

    A second signal changes nothing: torchrun passes on what the terminal has sent to all its processes
        already.
    """
    request = StopRequest()

    def note(signum: int, _frame: object) -> None:
        request.signum = signum

    previous = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
