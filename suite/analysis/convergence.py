"""Epochs until a figure is reached, and training seconds."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from suite.analysis.significance import interval
from suite.analysis.verdicts import baselines, finished_by_pair
from suite.core.records import EPOCH_SECONDS, Objective
from suite.storage.journal import TrialHistory


def best(trial: TrialHistory, objective: Objective) -> float | None:
    """The best figure that a trial had in any epoch."""
    chosen = Objective(objective.name, objective.goal).chosen(trial.curve)
    return chosen.metrics[objective.name] if chosen else None


def reached(trial: TrialHistory, objective: Objective, target: float) -> int | None:
    """The first epoch with a figure no worse than ``target``; None if there is no such epoch."""
    for record in trial.curve:
        value = record.metrics.get(objective.name)
        if value is not None and not objective.better(target, value):
            return record.epoch
    return None


def epochs_to_baseline(items: Iterable[TrialHistory], objective: Objective) -> pd.DataFrame:
    """One row per arm: epochs until its trials reach the best figure of the baseline.

    Trials are compared with the baseline's of the same seed and numerics.

    Returns:
        Columns arm, "epochs to baseline" (mean over the seeds that reach it), "reach baseline"
        (their number), "of baseline" (the number of seeds compared).
    """
    items = list(items)
    trials = finished_by_pair(items)
    against = baselines(items)
    marked = {trial.trial.arm for trial in items if trial.entry.get("baseline")}
    rows = []
    for arm in dict.fromkeys(trial.trial.arm for trial in items):
        base = trials.get(arm if arm in marked else against.get(arm, ""), {})
        reached_at = [
            reached(trial, objective, target)
            for pair, trial in trials.get(arm, {}).items()
            if pair in base and (target := best(base[pair], objective)) is not None
        ]
        epochs = [epoch for epoch in reached_at if epoch is not None]
        rows.append(
            (arm, sum(epochs) / len(epochs) if epochs else None, len(epochs), len(reached_at))
        )
    names = ["arm", "epochs to baseline", "reach baseline", "of baseline"]
    return pd.DataFrame(rows, columns=names).astype({names[1]: float})


def training_seconds(items: Iterable[TrialHistory]) -> pd.DataFrame:
    """One row per arm: mean training seconds of its finished trials, with a 95 % interval.

    Returns:
        Columns arm, seconds, "seconds low", "seconds high".
    """
    items = list(items)
    trials = finished_by_pair(items)
    names = ["arm", "seconds", "seconds low", "seconds high"]
    rows = []
    for arm in dict.fromkeys(trial.trial.arm for trial in items):
        spent = [
            sum(_seconds(trial)) for trial in trials.get(arm, {}).values() if any(_seconds(trial))
        ]
        rows.append((arm, *interval(spent)))
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[1:], float))


def _seconds(trial: TrialHistory) -> list[float]:
    return [record.metrics.get(EPOCH_SECONDS, 0.0) for record in trial.curve]


def last(trial: TrialHistory, metric: str) -> float | None:
    """A figure at the last epoch that has it."""
    known = [record.metrics[metric] for record in trial.curve if metric in record.metrics]
    return known[-1] if known else None
