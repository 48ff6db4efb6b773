"""Differences to the baseline, paired by seed, and what may be said of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from suite.analysis.power import detectable
from suite.analysis.signs import ALPHA, LEAST_SEEDS, adjusted_p, interval
from suite.journal import TrialHistory
from suite.records import SPLIT_METRICS, TEST_ACC, Numerics, Objective, Status

MARGIN = 0.005  # half a percentage point of accuracy
BETTER, WORSE, EQUIVALENT, INCONCLUSIVE = "better", "worse", "equivalent", "inconclusive"
TOO_FEW, BASELINE, NO_BASELINE = "too few seeds", "baseline", "no baseline"
NOT_CONFIRMED = "not confirmed"

LEAST_FREEDOM = 4  # with four a standard deviation is known to between 0.6 and 2.9 times it


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


def compare(
    items: Iterable[TrialHistory],
    objective: Objective,
    margin: float = MARGIN,
    confirmed: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row per arm: its paired difference to the baseline, with a 95 % interval, adjusted p and verdict.

    Pairs are finished trials of one seed with the same numerics; trials stopped early are left out. Arms with fewer
    than ``LEAST_SEEDS`` pairs are not tested. The interval covers seeds, not the choice of test images.

    Args:
        margin: differences up to it do not matter.
        confirmed: of a search, the arms that ran on all seeds: only they are compared. None = every arm is.

    Returns:
        Columns arm, against, pairs, difference (arm less baseline, in the unit of ``tested(objective)``),
        "difference low", "difference high", p, "smallest difference" (that would have been seen, see
        ``power.detectable``), verdict.
    """
    items = list(items)
    marked = {item.trial.arm for item in items if item.entry.get("baseline")}
    left_out = {item.trial.arm for item in items if confirmed is not None and item.trial.arm not in confirmed} - marked
    against = {arm: base for arm, base in baselines(items).items() if arm not in left_out}
    values = values_by_pair(items, objective, tested(objective))
    differences = {arm: paired(values.get(arm, {}), values.get(base, {})) for arm, base in against.items()}
    fixed = dict.fromkeys(marked, BASELINE) | dict.fromkeys(left_out, NOT_CONFIRMED)
    arms = list(dict.fromkeys(item.trial.arm for item in items))
    return _judged(arms, against, differences, fixed, margin, rises(tested(objective)))


def compare_sweeps(
    items: Iterable[TrialHistory],
    others: Iterable[TrialHistory],
    objective: Objective,
    other: Objective,
    margin: float = MARGIN,
) -> pd.DataFrame:
    """The same for the arms that two sweeps share: the first sweep's less the other's, paired by seed.

    Args:
        objective, other: of the first sweep and of the other. Each chooses the epochs of its own trials alone.

    Raises:
        ValueError: the two are tested by different figures, between which there is no difference.
    """
    metric = tested(objective)
    if tested(other) != metric:
        raise ValueError(f"sweeps must be tested by the same figure, got {metric} and {tested(other)}")
    ours, theirs = values_by_pair(items, objective, metric), values_by_pair(others, other, metric)
    differences = {arm: paired(values, theirs[arm]) for arm, values in ours.items() if arm in theirs}
    against = {arm: arm for arm in differences}
    return _judged(list(differences), against, differences, {}, margin, rises(metric))


def _judged(
    arms: Sequence[str],
    against: Mapping[str, str],
    differences: Mapping[str, Mapping[int, float]],
    fixed: Mapping[str, str],
    margin: float,
    rising: bool,
) -> pd.DataFrame:
    """The table of ``compare``; ``fixed`` are the verdicts of arms that are not tested."""
    tested_arms = {arm: pairs for arm, pairs in differences.items() if len(pairs) >= LEAST_SEEDS}
    p = _adjusted_by_arm(tested_arms)
    rows = []
    for arm in arms:
        pairs = differences.get(arm, {})
        mean, low, high = interval(list(pairs.values()))
        smallest = None
        if arm in tested_arms:
            smallest = detectable(len(pairs), len(tested_arms)) * float(np.std(list(pairs.values()), ddof=1))
        word = fixed.get(arm) or (verdict(low, high, p.get(arm), margin, rising) if arm in against else NO_BASELINE)
        rows.append((arm, against.get(arm, ""), len(pairs), mean, low, high, p.get(arm), smallest, word))
    frame = pd.DataFrame(rows, columns=_COMPARED)
    return frame.astype(dict.fromkeys(_COMPARED[3:8], float))


_COMPARED = [
    "arm", "against", "pairs", "difference", "difference low", "difference high", "p", "smallest difference", "verdict",
]  # fmt: skip


def spread(
    items: Iterable[TrialHistory], objective: Objective, confirmed: Collection[str] | None = None
) -> float | None:
    """The standard deviation over seeds of a paired difference, pooled over the arms that have two pairs or more.

    None where fewer than ``LEAST_FREEDOM`` degrees of freedom say it.
    """
    items = list(items)
    values = values_by_pair(items, objective, tested(objective))
    found = [
        list(pairs.values())
        for arm, base in baselines(items).items()
        if (confirmed is None or arm in confirmed)
        and len(pairs := paired(values.get(arm, {}), values.get(base, {}))) > 1
    ]
    freedom = sum(len(one) - 1 for one in found)
    squares = sum(float(np.var(one, ddof=1)) * (len(one) - 1) for one in found)
    return float(np.sqrt(squares / freedom)) if freedom >= LEAST_FREEDOM else None


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


# What makes two trials a pair: their seed, and their numerics. Trials of different numerics are never compared, so
# whatever is paired is looked up by this and never by the seed alone.
Pair = tuple[int, str]


def finished_by_pair(items: Iterable[TrialHistory]) -> dict[str, dict[Pair, TrialHistory]]:
    """Arm -> pair -> trial, of those that finished: those stopped early had another budget."""
    found: dict[str, dict[Pair, TrialHistory]] = {}
    for item in items:
        if item.status is Status.FINISHED:
            key = item.trial.seed, Numerics.key(item.entry.get("numerics"))
            found.setdefault(item.trial.arm, {})[key] = item
    return found


def at_chosen(trials: Mapping[Pair, TrialHistory], objective: Objective, metric: str) -> dict[Pair, float]:
    """Pair -> a figure at the epoch that speaks for the trial, where there is one."""
    chosen = {key: objective.chosen(item.curve) for key, item in trials.items()}
    return {key: one.metrics[metric] for key, one in chosen.items() if one is not None and metric in one.metrics}


def values_by_pair(items: Iterable[TrialHistory], objective: Objective, metric: str) -> dict[str, dict[Pair, float]]:
    """Arm -> pair -> a figure at the epoch that speaks for the trial; finished trials only."""
    found = {arm: at_chosen(trials, objective, metric) for arm, trials in finished_by_pair(items).items()}
    return {arm: values for arm, values in found.items() if values}


def paired(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[int, float]:
    """Seed -> difference, where both have a value of equal numerics."""
    return {key[0]: value - theirs[key] for key, value in ours.items() if key in theirs}


def _adjusted_by_arm(differences: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Arm -> adjusted p, of its differences by seed."""
    seeds = sorted({seed for pairs in differences.values() for seed in pairs})
    table = np.array([[pairs.get(seed, np.nan) for pairs in differences.values()] for seed in seeds], dtype=float)
    return dict(zip(differences, map(float, adjusted_p(table)), strict=True)) if differences else {}
