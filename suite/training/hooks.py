"""How a trainer talks to the process that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _never() -> bool:
    return False


def _always() -> bool:
    return True


def _ignore(_: object) -> None:
    pass


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class TrainingHooks:
    """Callables that a trainer calls; by default it runs undisturbed.

    Attributes:
        should_stop: asked before each step; True ends the epoch there, with a checkpoint.
        owns_sweep: asked before a checkpoint or a result is put in place; False = write nothing.
        on_checkpoint: gets each checkpoint's folder once it is in place. Its OSError is a warning.
        warn: gets a line for the user.
        heartbeat: called after each batch without a training step. ``should_stop`` marks the steps.
    """

    should_stop: Callable[[], bool] = _never
    owns_sweep: Callable[[], bool] = _always
    on_checkpoint: Callable[[Path], None] = _ignore
    warn: Callable[[str], None] = _ignore
    heartbeat: Callable[[], None] = _nothing
