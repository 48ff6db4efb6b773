"""How fast: epochs until a figure is reached, and seconds."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from suite.analysis.significance import interval
from suite.analysis.verdicts import baselines, finished_by_pair
from suite.core.records import EPOCH_SECONDS, Objective
from suite.storage.journal import TrialHistory


def best(item: TrialHistory, objective: Objective) -> float | None:
    """The best figure that a trial had in any epoch."""
    chosen = Objective(objective.name, objective.goal).chosen(item.curve)
    return chosen.metrics[objective.name] if chosen else None


def reached(item: TrialHistory, objective: Objective, target: float) -> int | None:
    """The first epoch with a figure no worse than ``target``; None if there is none."""
    for record in item.curve:
        value = record.metrics.get(objective.name)
        if value is not None and not objective.better(target, value):
            return record.epoch
    return None


def epochs_to_baseline(items: Iterable[TrialHistory], objective: Objective) -> pd.DataFrame:
    """One row per arm: epochs until its trials reach the best figure of the baseline's trial with the same seed.

    Numerics must be the same too: a trial computed otherwise is not compared.

    Returns:
        Columns arm, "epochs to baseline" (mean over the seeds that reach it), "reach baseline" (how many do),
        "of baseline" (how many there are to compare).
    """
    items = list(items)
    trials = finished_by_pair(items)
    against = baselines(items)
    marked = {item.trial.arm for item in items if item.entry.get("baseline")}
    rows = []
    for arm in dict.fromkeys(item.trial.arm for item in items):
        base = trials.get(arm if arm in marked else against.get(arm, ""), {})
        found = [
            reached(item, objective, target)
            for pair, item in trials.get(arm, {}).items()
            if pair in base and (target := best(base[pair], objective)) is not None
        ]
        epochs = [epoch for epoch in found if epoch is not None]
        rows.append((arm, sum(epochs) / len(epochs) if epochs else None, len(epochs), len(found)))
    names = ["arm", "epochs to baseline", "reach baseline", "of baseline"]
    return pd.DataFrame(rows, columns=names).astype({names[1]: float})


def training_seconds(items: Iterable[TrialHistory]) -> pd.DataFrame:
    """One row per arm: mean seconds that its finished trials trained, with a 95 % interval; waiting is not counted.

    Returns:
        Columns arm, seconds, "seconds low", "seconds high".
    """
    items = list(items)
    trials = finished_by_pair(items)
    names = ["arm", "seconds", "seconds low", "seconds high"]
    rows = []
    for arm in dict.fromkeys(item.trial.arm for item in items):
        spent = [
            sum(_seconds(item)) for item in trials.get(arm, {}).values() if any(_seconds(item))
        ]
        rows.append((arm, *interval(spent)))
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[1:], float))


def _seconds(item: TrialHistory) -> list[float]:
    return [record.metrics.get(EPOCH_SECONDS, 0.0) for record in item.curve]


def last(item: TrialHistory, metric: str) -> float | None:
    """A figure at the last epoch that has it."""
    known = [record.metrics[metric] for record in item.curve if metric in record.metrics]
    return known[-1] if known else None
