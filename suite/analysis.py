"""Pure: trials -> tables, curves, verdicts. No drawing, no store, no torch.

The unit is the seed: an arm's figure is the mean over its seeds, with a Student interval over them. A difference to
the baseline is paired by seed, and is one of the test figure at the epoch that validation chose.

Trials come as ``TrialHistory``, from the journal or read back from MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from suite.journal import TrialHistory
from suite.records import SPLIT_METRICS, TEST_ACC, TRAIN_ACC, VAL_ACC, EpochRecord, Objective, Status

CONFIDENCE = 0.95
ALPHA = 0.05  # family-wise: of all "better" and "worse" of a sweep together
MARGIN = 0.005  # half a percentage point of accuracy
LEAST_SEEDS = 6  # with five, no sign-flip test can reach p < 0.05: the smallest p is 2 / 2^5
EXACT_SEEDS = 12  # up to here all 2^n sign vectors are tried
RANDOM_FLIPS = 10_000  # beyond, so many of them

BETTER, WORSE, EQUIVALENT, INCONCLUSIVE = "better", "worse", "equivalent", "inconclusive"
TOO_FEW, BASELINE, NO_BASELINE = "too few seeds", "baseline", "no baseline"

Array = npt.NDArray[np.float64]

_TRIAL_COLUMNS = ["arm", "seed", "status", "epochs", "best_epoch", "reason", "trial", "run_id"]


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
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=_TRIAL_COLUMNS)


def arms_frame(trials: pd.DataFrame, objective: Objective) -> pd.DataFrame:
    """One row per arm, best first: seeds, mean and 95 % interval of the metric and of the accuracies.

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
            mean, low, high = interval(done[column].dropna().tolist())
            row |= {column: mean, f"{column} low": low, f"{column} high": high}
        rows.append(row)
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["arm", "seeds", "failed", "stopped"])
    if objective.name not in frame:
        return frame
    return frame.sort_values(
        objective.name, ascending=objective.goal == "minimize", na_position="last", ignore_index=True
    )


def interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float | None, float | None, float | None]:
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


# ---- verdicts --------------------------------------------------------------------------------------------------------


def tested(objective: Objective) -> str:
    """The test figure that verdicts are about: the objective's own, on the test images; the accuracy if it has none."""
    name = f"test/{objective.name.partition('/')[2]}"
    return name if name in SPLIT_METRICS else TEST_ACC


def rises(metric: str) -> bool:
    """Whether more of a figure is better."""
    return not metric.endswith("loss")


def baselines(items: Iterable[TrialHistory]) -> dict[str, str]:
    """Arm -> the baseline that it is compared with; arms that have none, and baselines, are left out.

    Of several baselines it is the one whose remaining settings are the arm's: those in which the baselines differ.
    """
    items = list(items)
    arms = {item.trial.arm: item.trial.settings for item in items}
    marked = list(dict.fromkeys(item.trial.arm for item in items if item.entry.get("baseline")))
    if len(marked) == 1:
        return {arm: marked[0] for arm in arms if arm != marked[0]}
    shared = _shared([arms[arm] for arm in marked])
    found: dict[str, str] = {}
    for arm, settings in arms.items():
        fitting = [one for one in marked if arm not in marked and _pairs(arms[one]) - shared <= _pairs(settings)]
        if len(fitting) == 1:
            found[arm] = fitting[0]
    return found


def _pairs(settings: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key, repr(value)) for key, value in settings.items()}


def _shared(settings: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """What the baselines have in common: what the sweep file asks of a baseline."""
    return set.intersection(*map(_pairs, settings)) if settings else set()


def compare(items: Iterable[TrialHistory], objective: Objective, margin: float = MARGIN) -> pd.DataFrame:
    """One row per arm: its paired difference to the baseline, with a 95 % interval, adjusted p and verdict.

    Pairs are finished trials of one seed with the same numerics; trials stopped early are left out. Arms with fewer
    than ``LEAST_SEEDS`` pairs are not tested. The interval covers seeds, not the choice of test images.

    Returns:
        Columns arm, against, pairs, difference (arm less baseline, in the unit of ``tested(objective)``),
        "difference low", "difference high", p, verdict.
    """
    items = list(items)
    against = baselines(items)
    marked = {item.trial.arm for item in items if item.entry.get("baseline")}
    values = _values_by_pair(items, objective)
    differences = {arm: _differences(values.get(arm, {}), values.get(base, {})) for arm, base in against.items()}
    p = _adjusted_by_arm({arm: pairs for arm, pairs in differences.items() if len(pairs) >= LEAST_SEEDS})
    rising = rises(tested(objective))
    rows = []
    for arm in dict.fromkeys(item.trial.arm for item in items):
        pairs = differences.get(arm, {})
        mean, low, high = interval(list(pairs.values()))
        if arm in marked:
            word = BASELINE
        else:
            word = verdict(low, high, p.get(arm), margin, rising) if arm in against else NO_BASELINE
        rows.append((arm, against.get(arm, ""), len(pairs), mean, low, high, p.get(arm), word))
    names = ["arm", "against", "pairs", "difference", "difference low", "difference high", "p", "verdict"]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[3:7], float))


def verdict(low: float | None, high: float | None, p: float | None, margin: float, rising: bool) -> str:
    """The word for one arm.

    Args:
        low, high: the interval of the difference to the baseline.
        p: adjusted for the number of arms; None = it was not tested.
        margin: differences up to it do not matter.
        rising: whether more of the figure is better.
    """
    if p is None or low is None or high is None:
        return TOO_FEW
    if -margin <= low and high <= margin:
        return EQUIVALENT
    if p >= ALPHA:
        return INCONCLUSIVE
    return BETTER if (low + high > 0) == rising else WORSE


Pair = tuple[int, str]  # seed, numerics


def _values_by_pair(items: Iterable[TrialHistory], objective: Objective) -> dict[str, dict[Pair, float]]:
    """Arm -> (seed, numerics) -> the test figure at the epoch that speaks for the trial; finished trials only."""
    values: dict[str, dict[Pair, float]] = {}
    for item in items:
        chosen = objective.chosen(item.curve) if item.status is Status.FINISHED else None
        if chosen is not None and tested(objective) in chosen.metrics:
            key = item.trial.seed, json.dumps(item.entry.get("numerics"), sort_keys=True)
            values.setdefault(item.trial.arm, {})[key] = chosen.metrics[tested(objective)]
    return values


def _differences(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[int, float]:
    """Seed -> difference, where both have a value."""
    return {key[0]: value - theirs[key] for key, value in ours.items() if key in theirs}


def _adjusted_by_arm(differences: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Arm -> adjusted p, of its differences by seed."""
    seeds = sorted({seed for pairs in differences.values() for seed in pairs})
    table = np.array([[pairs.get(seed, np.nan) for pairs in differences.values()] for seed in seeds], dtype=float)
    return dict(zip(differences, map(float, adjusted_p(table)), strict=True)) if differences else {}


def adjusted_p(differences: Array) -> Array:
    """Two-sided p of each arm, adjusted for their number: step-down max-T over sign flips (Westfall and Young, 1993).

    One sign per seed is flipped for all arms at once, so that their common baseline and seeds are accounted for. The
    hypothesis of an arm is that its differences are as likely to have the one sign as the other.

    Args:
        differences: (seeds, arms); NaN where an arm lacks a seed.

    Returns:
        (arms,)
    """
    statistics = _statistics(differences, sign_flips(len(differences)))
    order = np.argsort(-statistics[0], kind="stable")
    p = np.empty(len(order))
    largest = np.zeros(len(statistics))
    for arm in order[::-1]:  # from the least: the largest of those that are left at its step
        largest = np.maximum(largest, statistics[:, arm])
        p[arm] = np.mean(largest >= statistics[0, arm])
    p[order] = np.maximum.accumulate(p[order])
    return p


def sign_flips(seeds: int) -> Array:
    """Vectors of signs, (vectors, seeds), the first one all +1: all that there are, or many drawn ones."""
    if seeds <= EXACT_SEEDS:
        bits = np.arange(2**seeds)[:, None] >> np.arange(seeds) & 1
        return np.where(bits, -1.0, 1.0)
    drawn = np.where(np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, seeds)), -1.0, 1.0)
    return np.vstack([np.ones(seeds), drawn])


def _statistics(differences: Array, flips: Array) -> Array:
    """|t| of each arm under each vector of signs, (vectors, arms).

    Flips leave the sum of squares as it is, so t follows from the sum alone; rounded, so that what is equal stays so.
    """
    count = np.sum(~np.isnan(differences), axis=0)
    known = np.nan_to_num(differences)
    squares = np.sum(known**2, axis=0)
    share = (flips @ known) ** 2 / np.where(squares > 0, count * squares, 1.0)
    share = np.clip(np.round(share, 12), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt((count - 1) * share / (1.0 - share)), dtype=np.float64)


# ---- curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """An arm's course over the epochs that all of its trials have.

    Attributes:
        epochs: completed epochs.
        mean, low, high: over seeds; the lowest and the highest seed.
        seeds: how many trials it is drawn from.
        status: theirs; of trials that did not finish only where the arm has none that did.
    """

    arm: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int
    status: Status


def curves(items: Iterable[TrialHistory], metric: str) -> list[Curve]:
    """One curve per arm that has anything to show; failed trials are left out."""
    arms: dict[str, list[TrialHistory]] = {}
    for item in items:
        if any(metric in record.metrics for record in item.curve):
            arms.setdefault(item.trial.arm, []).append(item)
    return [curve for arm, trials in arms.items() if (curve := _curve(arm, trials, metric)) is not None]


def _curve(arm: str, trials: Sequence[TrialHistory], metric: str) -> Curve | None:
    for status in (Status.FINISHED, Status.STOPPED, Status.RUNNING, Status.INTERRUPTED):
        chosen = [_by_epoch(item.curve, metric) for item in trials if item.status is status]
        epochs = sorted(set.intersection(*map(set, chosen))) if chosen else []
        if epochs:
            table = np.array([[values[epoch] for epoch in epochs] for values in chosen])
            mean, low, high = table.mean(axis=0), table.min(axis=0), table.max(axis=0)
            return Curve(arm, tuple(epochs), _floats(mean), _floats(low), _floats(high), len(chosen), status)
    return None


def _by_epoch(records: Iterable[EpochRecord], metric: str) -> dict[int, float]:
    return {record.epoch: record.metrics[metric] for record in records if metric in record.metrics}


def _floats(values: Array) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
