"""One row per trial, one row per arm: figures over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite.analysis.significance import interval
from suite.analysis.verdicts import tested
from suite.core.records import TEST_ACC, TRAIN_ACC, VAL_ACC, Objective
from suite.storage.journal import TrialHistory

_TRIAL_COLUMNS = ["arm", "seed", "status", "epochs", "best_epoch", "reason", "trial", "run_id"]


def trials_frame(
    items: Iterable[TrialHistory], objective: Objective, run_ids: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One row per trial: arm, seed, settings, status, and its figures at the chosen epoch."""
    rows: list[dict[str, Any]] = []
    for trial in items:
        chosen = objective.chosen(trial.curve)
        rows.append(
            {
                "arm": trial.trial.arm,
                "seed": trial.trial.seed,
                **trial.trial.settings,
                "status": str(trial.status),
                "epochs": len(trial.records),
                "best_epoch": chosen.epoch if chosen else None,
                **(dict(chosen.metrics) if chosen else {}),
                "reason": trial.reason,
                "trial": trial.trial.id,
                "run_id": (run_ids or {}).get(trial.trial.id, ""),
            }
        )
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=_TRIAL_COLUMNS)


def figure_interval(
    metric: str, values: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """``interval`` of a figure; that of an accuracy ends at 0 and at 1."""
    mean, low, high = interval(values)
    if low is None or high is None or not metric.endswith("acc"):
        return mean, low, high
    return mean, max(0.0, low), min(1.0, high)


def arms_frame(trials: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """One row per arm, best first: seeds, means and 95 % intervals of metric and accuracies.

    Only finished trials count towards the figures: those stopped early had another budget.
    """
    wanted = (objective.name, TRAIN_ACC, VAL_ACC, TEST_ACC, tested(objective))
    columns = [name for name in dict.fromkeys(wanted) if name in trials]
    rows = []
    for arm, group in trials.groupby("arm", sort=False):
        done = group[group["status"] == "finished"]
        row: dict[str, Any] = {
            "arm": arm,
            "seeds": len(done),
            "failed": int((group["status"] == "failed").sum()),
            "stopped": int((group["status"] == "stopped").sum()),
        }
        for column in columns:
            mean, low, high = figure_interval(column, done[column].dropna().tolist())
            row |= {column: mean, f"{column} low": low, f"{column} high": high}
        rows.append(row)
    frame = (
        pd.DataFrame(rows) if rows else pd.DataFrame(columns=["arm", "seeds", "failed", "stopped"])
    )
    if objective.name not in frame:
        return frame
    return frame.sort_values(
        objective.name,
        ascending=objective.goal == "minimize",
        na_position="last",
        ignore_index=True,
    )


def rank_arms(items: Iterable[TrialHistory], objective: Objective) -> list[str]:
    """Arms by their mean of the metric, best first; arms without a value are left out."""
    values: dict[str, list[float]] = {}
    for trial in items:
        chosen = objective.chosen(trial.curve)
        if chosen is not None:
            values.setdefault(trial.trial.arm, []).append(chosen.metrics[objective.name])
    sign = -1 if objective.goal == "maximize" else 1
    return sorted(values, key=lambda arm: sign * sum(values[arm]) / len(values[arm]))
