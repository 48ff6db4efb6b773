"""Predictions, and what follows from an epoch's figures.

Legend: N images, B images of a batch, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from suite.core.errors import DivergedError
from suite.core.records import EpochRecord, Numerics, Objective
from suite.training import precision


def predict(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    numerics: Numerics,
    heartbeat: Callable[[], None],
) -> tuple[Tensor, Tensor]:
    """Logits, float32 (N, K), and labels, int64 (N,), of all batches in their order.

    Args:
        network: in evaluation mode.
        batches: inputs as the network takes them, and labels.
        heartbeat: called after each batch.
    """
    pairs = []
    with torch.inference_mode():
        for inputs, labels in batches:
            pairs.append((precision.forward(network, inputs, numerics), labels))
            heartbeat()
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def require_finite(figures: Mapping[str, float], epoch: int) -> None:
    """Raises DivergedError if a figure is NaN or infinite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise DivergedError(f"diverged in epoch {epoch}: {name} is {value}")


def is_test_due(
    schedule: Literal["every", "best", "last"],
    objective: Objective,
    figures: Mapping[str, float],
    records: list[EpochRecord],
) -> bool:
    """Whether the epoch evaluates the test images.

    Args:
        figures: of the epoch so far: training and validation.
        records: of earlier epochs.
    """
    if schedule != "best":
        return schedule == "every"
    if objective.name not in figures:  # seconds or memory, which are known only after evaluation
        return True
    best = _best(objective, records)
    previous = best.metrics[objective.name] if best else None
    return objective.better(figures[objective.name], previous)


def is_out_of_patience(
    patience: int | None, objective: Objective, records: list[EpochRecord]
) -> bool:
    """Whether the last ``patience`` epochs brought no improvement."""
    best = _best(objective, records)
    return patience is not None and best is not None and len(records) - best.epoch >= patience


def _best(objective: Objective, records: list[EpochRecord]) -> EpochRecord | None:
    return replace(objective, strategy="best").chosen(records)


def clock(device: torch.device) -> float:
    """Seconds, read after the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
