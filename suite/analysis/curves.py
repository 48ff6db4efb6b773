"""An arm's metric by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from suite.core.records import EpochRecord, Status
from suite.storage.journal import TrialHistory

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """An arm's metric, over the epochs that all of its trials have.

    Attributes:
        epochs: completed epochs.
        mean, low, high: over seeds; the lowest and the highest seed.
        seeds: the number of trials.
        status: of these trials; not "finished" only if the arm has no finished trial.
    """

    arm: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int
    status: Status


def curves(items: Iterable[TrialHistory], metric: str) -> list[Curve]:
    """One curve per arm with values; failed trials are left out."""
    arms: dict[str, list[TrialHistory]] = {}
    for trial in items:
        if any(metric in record.metrics for record in trial.curve):
            arms.setdefault(trial.trial.arm, []).append(trial)
    return [
        curve for arm, trials in arms.items() if (curve := _curve(arm, trials, metric)) is not None
    ]


def _curve(arm: str, trials: Sequence[TrialHistory], metric: str) -> Curve | None:
    for status in (Status.FINISHED, Status.STOPPED, Status.RUNNING, Status.INTERRUPTED):
        chosen = [_by_epoch(trial.curve, metric) for trial in trials if trial.status is status]
        epochs = sorted(set.intersection(*map(set, chosen))) if chosen else []
        if epochs:
            table = np.array([[values[epoch] for epoch in epochs] for values in chosen])
            mean, low, high = table.mean(axis=0), table.min(axis=0), table.max(axis=0)
            return Curve(
                arm, tuple(epochs), _floats(mean), _floats(low), _floats(high), len(chosen), status
            )
    return None


def _by_epoch(records: Iterable[EpochRecord], metric: str) -> dict[int, float]:
    return {record.epoch: record.metrics[metric] for record in records if metric in record.metrics}


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
