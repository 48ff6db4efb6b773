"""What driver and workers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from suite.core.records import Numerics, Objective, Status, Trial
from suite.planning.plan import Plan
from suite.storage.base import SweepStorage
from suite.storage.journal import TrialHistory


@dataclass(frozen=True)
class SweepContext:
    """What all packs of a sweep have in common; sent to each node once.

    Attributes:
        storage: where the sweep is kept.
        token: this launch's token.
        datasets: key -> reference to a ``data.Dataset`` in Ray's object store.
        weights: key -> reference to ``models.Weights``.
        objective, numerics: of the sweep.
        limit_batches: for ``--smoke``.
        activations: whether finished trials draw their activation sheets.
        search_path: where the user's modules are.
        hang_after_s: seconds without a step until a trial counts as hung; 0 = never.
    """

    storage: SweepStorage
    token: str
    datasets: Mapping[str, Any]
    weights: Mapping[str, Any]
    objective: Objective
    numerics: Numerics
    limit_batches: int | None
    activations: bool
    search_path: tuple[str, ...]
    hang_after_s: float = 0.0


def share(
    plan: Plan, storage: SweepStorage, token: str, numerics: Numerics, limit_batches: int | None
) -> SweepContext:
    """What all packs have in common: images and weights go into Ray's object store, once."""
    return SweepContext(
        storage=storage,
        token=token,
        datasets={key: ray.put(dataset) for key, dataset in plan.datasets.items()},
        weights={key: ray.put(weights) for key, weights in plan.weights.items()},
        objective=plan.spec.objective,
        numerics=numerics,
        limit_batches=limit_batches,
        activations=plan.spec.activations,
        search_path=(str(plan.spec.folder),),
        hang_after_s=plan.spec.resources.hang_after_s,
    )


@dataclass(frozen=True)
class TrialRequest:
    """What a worker is asked to train.

    Attributes:
        trial: the trial.
        data, weights: keys of its data set and its weights in ``SweepContext``; None = none.
        recorded: its last epoch that the journal holds; 0 = none.
    """

    trial: Trial
    data: str
    weights: str | None
    recorded: int = 0


@dataclass(frozen=True)
class EpochEvent:
    """A trial completed an epoch."""

    trial_id: str
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class EndEvent:
    """A trial ended, or was interrupted.

    Attributes:
        facts: of the journal's ``end`` entry: of a finished trial those of ``TrialFacts``; else
            ``reason``, and ``halt`` if the whole sweep must stop, with why.
    """

    trial_id: str
    status: Status
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImagesEvent:
    """Images of a trial were written.

    Attributes:
        images: of the journal's ``images`` entry: those of ``DrawnMaps``.
    """

    trial_id: str
    images: Mapping[str, Any]


@dataclass(frozen=True)
class WarningEvent:
    """A line for the user about a trial."""

    trial_id: str
    text: str


TrialEvent = EpochEvent | EndEvent | ImagesEvent | WarningEvent


def request_trial(history: TrialHistory, data: str, weights: str | None) -> TrialRequest:
    """The request for a trial, from what the journal knows of it."""
    return TrialRequest(history.trial, data, weights, recorded=len(history.records))
