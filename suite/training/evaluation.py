"""Predictions, and what follows from an epoch's figures.

Legend: N images, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from suite.core import records
from suite.core.errors import DivergedError
from suite.core.records import EpochRecord, Numerics, Objective
from suite.training import memory, precision
from suite.training.frozen_prefix import Inputs
from suite.training.metrics import scores
from suite.training.state import TrainingState


class Evaluator:
    """Evaluates the network of one trial.

    Args:
        inputs: what the network is fed.
        objective: decides whether the test images are evaluated.
        numerics: of the forward pass.
        heartbeat: called after each batch.
    """

    def __init__(
        self,
        inputs: Inputs,
        objective: Objective,
        numerics: Numerics,
        heartbeat: Callable[[], None],
    ) -> None:
        self._inputs, self._objective = inputs, objective
        self._numerics, self._heartbeat = numerics, heartbeat

    def predict(self, network: nn.Module, part: str) -> tuple[Tensor, Tensor]:
        """Logits, float32 (N, K), and labels, int64 (N,), of a part of the split in its order."""
        after_prefix = self._inputs.after_prefix(network.eval())
        pairs = []
        with torch.inference_mode():
            for inputs, labels in self._inputs.eval_batches(part):
                pairs.append((precision.forward(after_prefix, inputs, self._numerics), labels))
                self._heartbeat()
        logits, targets = zip(*pairs, strict=True)
        return torch.cat(logits), torch.cat(targets)

    def evaluate(self, state: TrainingState) -> tuple[dict[str, float], Tensor | None]:
        """All figures of the epoch in progress, whose last step is done.

        Returns:
            The figures, and the logits of the test images if they were evaluated.
        """
        started, images, totals = time.perf_counter(), self._inputs.images, state.totals
        figures, test_logits = totals.figures(), None
        if len(images.val):
            figures |= scores("val", *self.predict(state.evaluated, "val"))
        schedule, earlier = images.test_schedule, state.records
        if len(images.test) and is_test_due(schedule, self._objective, figures, earlier):
            test_logits, labels = self.predict(state.evaluated, "test")
            figures |= scores("test", test_logits, labels)
        return figures | {
            records.EPOCH_SECONDS: totals.seconds + time.perf_counter() - started,
            records.IMAGES_PER_SECOND: totals.count / max(totals.seconds, 1e-9),
            records.LEARNING_RATE: state.optimizer.param_groups[-1]["lr"],
            records.MEMORY_GIB: memory.in_use_gib(torch.device(self._numerics.device)),
        }, test_logits


def require_finite(figures: Mapping[str, float], epoch: int) -> None:
    """Raises DivergedError if a figure is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise DivergedError(f"diverged in epoch {epoch}: {name} is {value}")


def is_test_due(
    schedule: Literal["every", "best", "last"],
    objective: Objective,
    figures: Mapping[str, float],
    earlier: list[EpochRecord],
) -> bool:
    """Whether the epoch evaluates the test images.

    Args:
        figures: of the epoch so far: training and validation.
        earlier: the records of the epochs before.
    """
    if schedule != "best":
        return schedule == "every"
    if objective.name not in figures:  # seconds or memory, which are known only after evaluation
        return True
    best = _best(objective, earlier)
    previous = best.metrics[objective.name] if best else None
    return objective.better(figures[objective.name], previous)


def is_out_of_patience(
    patience: int | None, objective: Objective, epochs: list[EpochRecord]
) -> bool:
    """Whether the last ``patience`` epochs brought no improvement."""
    best = _best(objective, epochs)
    return patience is not None and best is not None and len(epochs) - best.epoch >= patience


def _best(objective: Objective, epochs: list[EpochRecord]) -> EpochRecord | None:
    return replace(objective, strategy="best").chosen(epochs)


def clock(device: torch.device) -> float:
    """Seconds, read after the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
