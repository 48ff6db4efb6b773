"""Processes side by side: each in a folder of its own, timed from its start to its end, in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Span:
    """When a process began and ended, in seconds since 1970."""

    started: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


def timed(folder: Path, *arguments: str) -> Span:
    """Run ``python -m ARGUMENTS`` in ``folder``, with an empty cache of the suite.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SUITE_CACHE": str(folder / "cache")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.time()
    with (folder / "output.txt").open("w+") as output:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=output, check=False
        )
        ended = time.time()
        if done.returncode:
            output.seek(0)
            raise RuntimeError(
                f"{' '.join(arguments)} ended with {done.returncode}:\n{output.read()[-3000:]}"
            )
    return Span(started, ended)


def middle(values: Sequence[float], digits: int = 1) -> str:
    """``median (lowest to highest)``."""
    return (
        f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to "
        f"{max(values):.{digits}f})"
    )


def ratio(peer: Sequence[float], ours: Sequence[float]) -> str:
    """How many times ours goes into the peer's, pair by pair: ``median (lowest to highest)``."""
    return middle([theirs / own for theirs, own in zip(peer, ours, strict=True)], 2)
