"""What driver and workers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ray

from suite.core.records import Numerics, Objective
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


def payload(history: TrialHistory, data: str, weights: str | None) -> dict[str, Any]:
    """What a worker is told of a trial: itself, where its data and weights are, how far the
    journal has it.
    """
    return {
        "trial": asdict(history.trial),
        "data": data,
        "weights": weights,
        "known": len(history.records),
    }
