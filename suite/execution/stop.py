"""The request to stop a launch cleanly: by signal, by budget, or by the caller."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


STOP_WITHIN_S = 8.0  # from a stop's request until workers are ended by force


ONE_SIGNAL_S = (
    0.1  # `timeout` signals its child and then its child's group: that is no second request
)


class Stop:
    """A request to stop cleanly: by signal, by budget, or by the caller.

    Args:
        tell_workers: called once, at the request.
    """

    def __init__(self, tell_workers: Callable[[], None]) -> None:
        self._tell_workers = tell_workers
        self.signal: int | None = None
        self.reason = ""
        self.problem = ""
        self.since: float | None = None
        self._signalled = 0.0  # when the signal came
        self._say: Callable[[str], None] = lambda text: None

    @property
    def requested(self) -> bool:
        """Whether it was asked for."""
        return self.since is not None

    @property
    def overdue(self) -> bool:
        """Whether workers had their time to save."""
        return self.since is not None and time.monotonic() - self.since > STOP_WITHIN_S

    def request(self, reason: str) -> None:
        """Ask workers to save and return, and the driver to start nothing more."""
        if self.since is None:
            self.since, self.reason = time.monotonic(), reason
            self._tell_workers()

    def give_up(self, problem: str) -> None:
        """Stop because the environment does not allow to go on."""
        self.problem = self.problem or problem
        self.request(problem)

    @contextmanager
    def on_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """SIGINT and SIGTERM request a stop; another one, later, ends the process at once."""
        self._say = say
        kept = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in kept.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, again after ``ray.init``, which takes SIGTERM for itself.

        Only the main thread can.
        """
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number and time.monotonic() - self._signalled < ONE_SIGNAL_S:
            return
        if self.signal is not None:
            os._exit(128 + number)
        self.signal, self._signalled = number, time.monotonic()
        self.request(signal.Signals(number).name)
        self._say("stopping: each trial saves where it is; again = at once")


class StoppedError(Exception):
    """A stop was asked for before there was anything to stop."""
