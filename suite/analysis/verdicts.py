"""Differences to the baseline, paired by seed, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from suite.analysis.dunnett import MIN_BLOCKS
from suite.core.records import SPLIT_METRICS, TEST_ACC, Numerics, Objective, Status
from suite.storage.journal import TrialHistory

MARGIN = 0.005  # half a percentage point of accuracy
BETTER, WORSE, EQUIVALENT, INCONCLUSIVE = "better", "worse", "equivalent", "inconclusive"
TOO_FEW, BASELINE, NO_BASELINE = "too few seeds", "baseline", "no baseline"
NOT_CONFIRMED = "not confirmed"
UNFINISHED = "unfinished"  # planned trials have not ended: looking now would be one more look
BETTER_OF_FINISHED = "better on the seeds it finished"
WORSE_OF_FINISHED = "worse on the seeds the baseline finished"
EQUIVALENT_OF_FINISHED = "equivalent on the seeds both finished"

MIN_FREEDOM = 4  # with four a standard deviation is known to between 0.6 and 2.9 times it


def tested(objective: Objective) -> str:
    """The figure that verdicts are about: the objective's, on the test images; else accuracy."""
    name = f"test/{objective.name.partition('/')[2]}"
    return name if name in SPLIT_METRICS else TEST_ACC


def rises(metric: str) -> bool:
    """Whether more of a figure is better."""
    return not metric.endswith("loss")


def baselines(items: Iterable[TrialHistory]) -> dict[str, str]:
    """Arm -> the baseline that it is compared with; arms that have one.

    Of several baselines, an arm's is the one that agrees with it in the settings in which the
    baselines differ.
    """
    items = list(items)
    arms = {trial.trial.arm: trial.trial.settings for trial in items}
    marked = list(dict.fromkeys(trial.trial.arm for trial in items if trial.entry.get("baseline")))
    if len(marked) == 1:
        return {arm: marked[0] for arm in arms if arm != marked[0]}
    shared = _shared([arms[arm] for arm in marked])
    against: dict[str, str] = {}
    for arm, settings in arms.items():
        fitting = [
            base
            for base in marked
            if arm not in marked and _pairs(arms[base]) - shared <= _pairs(settings)
        ]
        if len(fitting) == 1:
            against[arm] = fitting[0]
    return against


def _pairs(settings: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key, repr(value)) for key, value in settings.items()}


def _shared(settings: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """What the baselines have in common: what the sweep file asks of a baseline."""
    return set.intersection(*map(_pairs, settings)) if settings else set()


def spread(
    items: Iterable[TrialHistory], objective: Objective, confirmed: Collection[str] | None = None
) -> float | None:
    """The standard deviation over seeds of a paired difference, pooled over arms with two pairs.

    None with fewer than ``MIN_FREEDOM`` degrees of freedom.
    """
    items = list(items)
    values = values_by_pair(items, objective, tested(objective))
    differences = [
        list(pairs.values())
        for arm, base in baselines(items).items()
        if (confirmed is None or arm in confirmed)
        and len(pairs := paired(values.get(arm, {}), values.get(base, {}))) > 1
    ]
    freedom = sum(len(by_seed) - 1 for by_seed in differences)
    squares = sum(float(np.var(by_seed, ddof=1)) * (len(by_seed) - 1) for by_seed in differences)
    return float(np.sqrt(squares / freedom)) if freedom >= MIN_FREEDOM else None


def verdict(
    low: float | None, high: float | None, p: float | None, margin: float, rising: bool
) -> str:
    """The word for one arm, from its interval alone.

    Args:
        low, high: the simultaneous interval of the difference to the baseline.
            NaN = without an end: after many looks the level can be below the smallest p.
        p: None = the arm was not tested.
        margin: differences up to it do not matter.
        rising: whether more of the figure is better.
    """
    if p is None or low is None or high is None:
        return TOO_FEW
    if -margin <= low and high <= margin:
        return EQUIVALENT
    if np.isnan(low) or np.isnan(high) or low <= 0 <= high:
        return INCONCLUSIVE
    return BETTER if (low > 0) == rising else WORSE


# Two trials are a pair if seed and numerics are equal. Trials of different numerics are never
# compared, so pairs are looked up by this key, not by the seed alone.
Pair = tuple[int, str]


def finished_by_pair(items: Iterable[TrialHistory]) -> dict[str, dict[Pair, TrialHistory]]:
    """Arm -> pair -> trial, of those that finished: those stopped early had another budget."""
    by_arm: dict[str, dict[Pair, TrialHistory]] = {}
    for trial in items:
        if trial.status is Status.FINISHED:
            key = trial.trial.seed, Numerics.key(trial.entry.get("numerics"))
            by_arm.setdefault(trial.trial.arm, {})[key] = trial
    return by_arm


def at_chosen(
    trials: Mapping[Pair, TrialHistory], objective: Objective, metric: str
) -> dict[Pair, float]:
    """Pair -> the figure at the trial's chosen epoch, if it has one."""
    chosen = {key: objective.chosen(trial.curve) for key, trial in trials.items()}
    return {
        key: record.metrics[metric]
        for key, record in chosen.items()
        if record is not None and metric in record.metrics
    }


def values_by_pair(
    items: Iterable[TrialHistory], objective: Objective, metric: str
) -> dict[str, dict[Pair, float]]:
    """Arm -> pair -> the figure at the trial's chosen epoch; finished trials only."""
    by_arm = {
        arm: at_chosen(trials, objective, metric) for arm, trials in finished_by_pair(items).items()
    }
    return {arm: values for arm, values in by_arm.items() if values}


def paired(ours: Mapping[Pair, float], theirs: Mapping[Pair, float]) -> dict[int, float]:
    """Seed -> difference, if both have a value with equal numerics."""
    return {key[0]: value - theirs[key] for key, value in ours.items() if key in theirs}


def pairing_gain(items: Iterable[TrialHistory], objective: Objective) -> float | None:
    """The gain of pairing by seed: variance of an unpaired difference over that of a paired one.

    Pooled over the arms with three pairs or more; below 1, pairing lost. None if no arm has them.
    """
    trials = list(items)
    values = values_by_pair(trials, objective, tested(objective))
    unpaired = together = 0.0
    for arm, base in baselines(trials).items():
        ours, theirs = values.get(arm, {}), values.get(base, {})
        shared = sorted(set(ours) & set(theirs))
        if len(shared) >= MIN_BLOCKS:
            a = np.array([ours[pair] for pair in shared])
            b = np.array([theirs[pair] for pair in shared])
            unpaired += float(np.var(a, ddof=1) + np.var(b, ddof=1))
            together += float(np.var(a - b, ddof=1))
    return unpaired / together if together > 0 else None


def without_search_seed(
    items: Iterable[TrialHistory], confirmed: Collection[str] | None, search_seed: int | None
) -> list[TrialHistory]:
    """The trials that may speak for the arms of a search: of confirmed arms, the unseen seeds only.

    The seed that the search chose arms by flatters the chosen ones.
    """
    return [
        trial
        for trial in items
        if search_seed is None
        or trial.trial.seed != search_seed
        or trial.trial.arm not in (confirmed or ())
    ]
