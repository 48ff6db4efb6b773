"""Who hears a SIGTERM: the main thread, and no other thread or process that is started beside it.

Ray puts handlers of its own in place while it starts, one of them in C++, which end the process at
once. Whatever thread the kernel hands a signal to would run them; one that waits for the main
thread meets the suite's again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """A SIGTERM, where nothing has to be saved yet."""


def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """A handler that raises ``Terminated``."""
    raise Terminated


@contextmanager
def deaf() -> Iterator[None]:
    """What starts within, threads and processes, is deaf to SIGTERM, and so is this thread until
    the end.
    """
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def start(thread: threading.Thread) -> None:
    """Start a thread that is deaf to SIGTERM."""
    with deaf():
        thread.start()
