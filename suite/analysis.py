"""Pure: trials -> tables. No drawing, no store, no torch.

The unit is the seed: an arm's figure is the mean over its seeds, with a Student interval over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite.journal import TrialHistory
from suite.records import Objective

CONFIDENCE = 0.95


def trials_frame(
    items: Iterable[TrialHistory], objective: Objective, run_ids: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """One row per trial: what it is, where it stands, and all figures at the epoch that speaks for it."""
    rows: list[dict[str, Any]] = []
    for item in items:
        chosen = objective.chosen(item.curve)
        rows.append(
            {
                "arm": item.trial.arm,
                "seed": item.trial.seed,
                **item.trial.settings,
                "status": str(item.status),
                "epochs": len(item.records),
                "best_epoch": chosen.epoch if chosen else None,
                **(dict(chosen.metrics) if chosen else {}),
                "reason": item.reason,
                "trial": item.trial.id,
                "run_id": (run_ids or {}).get(item.trial.id, ""),
            }
        )
    return pd.DataFrame(rows)


def arms_frame(trials: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """One row per arm, best first: seeds, mean and 95 % interval of the metric and of the test accuracy."""
    columns = [name for name in (objective.name, "train/acc", "val/acc", "test/acc") if name in trials]
    columns = list(dict.fromkeys(columns))
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
            mean, low, high = interval(done[column].dropna().tolist())
            row |= {column: mean, f"{column} low": low, f"{column} high": high}
        rows.append(row)
    frame = pd.DataFrame(rows)
    if objective.name not in frame:
        return frame
    return frame.sort_values(
        objective.name, ascending=objective.goal == "minimize", na_position="last", ignore_index=True
    )


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None, float | None]:
    """Mean and Student confidence interval over seeds; the bounds are None below two values."""
    count = len(values)
    if count == 0:
        return None, None, None
    mean = sum(values) / count
    if count == 1:
        return mean, None, None
    from scipy import stats  # a second to import: only where an interval is asked for

    spread = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * spread / count**0.5
    return mean, mean - half, mean + half


def rank_arms(items: Iterable[TrialHistory], objective: Objective) -> list[str]:
    """Arms by the mean of the metric over their seeds, best first; arms without a value are left out."""
    values: dict[str, list[float]] = {}
    for item in items:
        chosen = objective.chosen(item.curve)
        if chosen is not None:
            values.setdefault(item.trial.arm, []).append(chosen.metrics[objective.name])
    sign = -1 if objective.goal == "maximize" else 1
    return sorted(values, key=lambda arm: sign * sum(values[arm]) / len(values[arm]))
