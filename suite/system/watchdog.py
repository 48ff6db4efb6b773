"""A watchdog over a worker: when nothing has moved for too long, every stack goes on file and the
process ends.

Ray Tune waits for a hung trial for ever. The clock is ``faulthandler``'s, which runs in C: it ends
a step too that never lets go of Python's lock. Ray then starts another worker, as for one that
died; ``trainable.Member`` finds the file and says why.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

STACK_FILE = "stack.txt"
ARM_EVERY_S = 1.0  # setting the clock anew takes a thread's start, so not at each step


class Watchdog:
    """One for a process.

    Args:
        seconds: without a sign of life until the process is ended; 0 = never.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file: IO[str] | None = None
        self._armed = 0.0

    @contextmanager
    def over(self, folder: Path) -> Iterator[None]:
        """Watch until the block ends; ``folder/stack.txt`` has the stacks if it never does."""
        if not self._seconds or self._file is not None:
            yield
            return
        path = folder / STACK_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w")
        except OSError:  # a full or read-only disk: the trial itself will say so
            yield
            return
        try:
            self._arm()
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None
            with suppress(OSError):
                path.unlink()

    def alive(self) -> None:
        """A sign of life."""
        if self._file is not None and time.monotonic() - self._armed >= min(
            ARM_EVERY_S, self._seconds / 10
        ):
            self._arm()

    def _arm(self) -> None:
        assert self._file is not None
        self._armed = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, file=self._file, exit=True)
