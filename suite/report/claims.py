"""What the study "ResNet-18 on CIFAR-10" claims, each reproduced or not, where a sweep has the arms to tell.

A claim about a difference is reproduced, or not, where a sign-flip test over seeds says so; a claim that two are the
same, where the interval of their difference lies within the margin; that one net overfits, where all of its seeds do,
or none. Each needs as many seeds as any verdict. All else cannot be told, and its figures stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from suite import analysis
from suite.analysis import LEAST_SEEDS, Pair, at_chosen, finished_by_pair, last, paired
from suite.journal import TrialHistory
from suite.records import TEST_ACC, TRAIN_ACC, VAL_ACC, VAL_LOSS, Objective
from suite.report.parts import Table
from suite.report.roles import Roles
from suite.report.stored import Rules
from suite.report.words import figure, points, some

REPRODUCED, NOT_REPRODUCED, UNKNOWN = "reproduced", "not reproduced", "cannot be told"
OVERFITS_BEFORE = 10  # epochs
RISE = 0.01  # of the lowest validation loss: less is no rise but noise and rounding
_NO_PAIR = "No seed that both finished with the same numerics."

ByPair = Mapping[Pair, TrialHistory]


@dataclass(frozen=True)
class Claim:
    """One claim, what became of it, and the figures that say so.

    Attributes:
        rule: by what it was judged, where that is no test of a difference; a sentence.
    """

    text: str
    outcome: str
    figures: str
    rule: str = ""


def claims(items: Sequence[TrialHistory], roles: Roles, rules: Rules) -> list[Claim]:
    """The claims that the sweep's arms allow to be looked at."""
    trials = finished_by_pair(items)
    found: list[Claim] = []
    for random, pretrained in roles.weights:
        found.append(_overfits(random, trials.get(random, {})))
        found.append(_faster(f"Pretrained ({pretrained}) learns faster than a random start ({random})",
                             trials.get(pretrained, {}), trials.get(random, {})))  # fmt: skip
    for deep, short in roles.heads:
        found.append(_faster(f"Config1 ({short}) learns faster than Config2 ({deep})",
                             trials.get(short, {}), trials.get(deep, {})))  # fmt: skip
        found.append(_same(f"Config1 ({short}) and Config2 ({deep}) end alike",
                           trials.get(short, {}), trials.get(deep, {}), rules))  # fmt: skip
    for free, frozen in roles.freezing:
        found.append(_same(f"Freezing ({frozen}) costs nothing against learning all weights ({free})",
                           trials.get(frozen, {}), trials.get(free, {}), rules, no_worse=True))  # fmt: skip
    for shallow, deep in roles.depths:
        found.append(_degrades(shallow, deep, trials.get(shallow, {}), trials.get(deep, {}), rules))
    return found


def table(found: Sequence[Claim]) -> Table | None:
    """The claims as a table; None where there are none."""
    if not found:
        return None
    caption = (
        "Claims of the study that this sweep repeats. A difference counts where a two-sided sign-flip test over at "
        f"least {LEAST_SEEDS} seeds has p < {analysis.ALPHA:g}; each claim is tested by itself. “Epochs to the same "
        "accuracy”: until a trial reaches the lower one of the two arms’ best validation accuracies of that seed."
    )
    caption = " ".join([caption, *dict.fromkeys(claim.rule for claim in found if claim.rule)])
    rows = tuple((claim.text, claim.figures, claim.outcome) for claim in found)
    return Table("claims", ("Claim", "Figures", "Outcome"), rows, caption, told=True)


# ---- the kinds of claims ---------------------------------------------------------------------------------------------


_OVERFITS = (
    f"Overfitting is no test of a difference: it counts where in every seed, of at least {LEAST_SEEDS}, the validation "
    f"loss is lowest before epoch {OVERFITS_BEFORE} and at the last epoch at least {100 * RISE:g} % above that."
)


def _overfits(arm: str, trials: ByPair) -> Claim:
    text = f"The random start ({arm}) overfits before epoch {OVERFITS_BEFORE}: its validation loss rises again"
    losses = [known for item in trials.values() if (known := _by_epoch(item, VAL_LOSS))]
    if not losses:
        return Claim(text, UNKNOWN, "No validation loss of a finished trial.", _OVERFITS)
    lowest = [min(known, key=lambda epoch: known[epoch]) for known in losses]
    rose = [_rises_to_the_end(known, known[epoch]) for known, epoch in zip(losses, lowest, strict=True)]
    early = [epoch < OVERFITS_BEFORE and higher for epoch, higher in zip(lowest, rose, strict=True)]
    short = any(max(known) < OVERFITS_BEFORE and not higher for known, higher in zip(losses, rose, strict=True))
    told = (
        f"Lowest validation loss at epoch {_range(lowest)}, at the last epoch at least {100 * RISE:g} % above that in "
        f"{sum(rose)} of {some(len(rose), 'seed')}{_few(len(rose))}."
    )
    if short:
        told += f" The trials were shorter than {OVERFITS_BEFORE} epochs."
    gaps = [gap for item in trials.values() if (gap := _gap(item)) is not None]
    if gaps:
        told += (
            f" Training less validation accuracy at the last epoch: {points(TRAIN_ACC, sum(gaps) / len(gaps))} points."
        )
    return Claim(text, _all_or_none(early, short), told, _OVERFITS)


def _rises_to_the_end(losses: Mapping[int, float], lowest: float) -> bool:
    end = losses[max(losses)]
    return end > lowest and end >= (1 + RISE) * lowest


def _all_or_none(early: Sequence[bool], short: bool) -> str:
    """Whether every seed overfitted early, or none did though all ran long enough to."""
    if len(early) < LEAST_SEEDS:
        return UNKNOWN
    return REPRODUCED if all(early) else UNKNOWN if any(early) or short else NOT_REPRODUCED


def _by_epoch(item: TrialHistory, metric: str) -> dict[int, float]:
    return {record.epoch: record.metrics[metric] for record in item.curve if metric in record.metrics}


def _gap(item: TrialHistory) -> float | None:
    train, val = last(item, TRAIN_ACC), last(item, VAL_ACC)
    return None if train is None or val is None else train - val


def _faster(text: str, ours: ByPair, theirs: ByPair) -> Claim:
    """That ``ours`` reaches the same validation accuracy in fewer epochs than ``theirs``."""
    objective = Objective(VAL_ACC)
    a: dict[Pair, float] = {}
    b: dict[Pair, float] = {}
    for pair in sorted(set(ours) & set(theirs)):
        bests = analysis.best(ours[pair], objective), analysis.best(theirs[pair], objective)
        if bests[0] is not None and bests[1] is not None:
            target = min(bests[0], bests[1])
            a[pair] = float(analysis.reached(ours[pair], objective, target) or 0)
            b[pair] = float(analysis.reached(theirs[pair], objective, target) or 0)
    if not a:
        return Claim(text, UNKNOWN, f"{_NO_PAIR[:-1]} and validation accuracies.")
    means = sum(a.values()) / len(a), sum(b.values()) / len(b)
    told = f"Epochs to the same accuracy: {means[0]:.1f} against {means[1]:.1f}; fewer in "
    return _told(text, told, paired(b, a))


def _degrades(shallow: str, deep: str, light: ByPair, heavy: ByPair, rules: Rules) -> Claim:
    text = f"The deeper plain net ({deep}) is worse than the shallower one ({shallow}), in training too"
    told, outcomes = [], []
    for metric in (TRAIN_ACC, TEST_ACC):
        values = [at_chosen(trials, rules.objective, metric) for trials in (light, heavy)]
        differences = paired(values[0], values[1])
        if not differences:
            return Claim(text, UNKNOWN, _NO_PAIR)
        outcomes.append(_decided(differences))
        both = set(values[0]) & set(values[1])
        means = [1 - np.mean([each[pair] for pair in sorted(both)]) for each in values]
        kind = "Training" if metric == TRAIN_ACC else "test"
        told.append(f"{kind} error {figure(metric, float(means[1]))} against {figure(metric, float(means[0]))} %")
    outcome = outcomes[0] if outcomes[0] == outcomes[1] else NOT_REPRODUCED if NOT_REPRODUCED in outcomes else UNKNOWN
    return Claim(text, outcome, f"{', '.join(told)}; {_enough(len(differences))}.")


def _same(text: str, ours: ByPair, theirs: ByPair, rules: Rules, no_worse: bool = False) -> Claim:
    """That ``ours`` ends as well as ``theirs``, or with ``no_worse`` that it ends no worse."""
    metric = rules.tested
    differences = paired(*(at_chosen(trials, rules.objective, metric) for trials in (ours, theirs)))
    mean, low, high = analysis.interval(list(differences.values()))
    if mean is None:
        return Claim(text, UNKNOWN, _NO_PAIR)
    span = f" [{points(metric, low)}, {points(metric, high)}]" if low is not None and high is not None else ""
    unit = " points" if metric.endswith("acc") else ""
    figures = f"Difference of {metric}: {points(metric, mean)}{span}{unit}, margin {points(metric, rules.margin)[1:]}; "
    figures += f"{_enough(len(differences))}."
    if len(differences) < LEAST_SEEDS or low is None or high is None:
        return Claim(text, UNKNOWN, figures)
    rising = analysis.rises(metric)
    worst = low if rising else -high
    within = -rules.margin <= low and high <= rules.margin
    if within or (no_worse and worst >= -rules.margin):
        return Claim(text, REPRODUCED, figures)
    sign = _decided({seed: value if rising else -value for seed, value in differences.items()})
    differs = sign == NOT_REPRODUCED if no_worse else sign != UNKNOWN
    return Claim(text, NOT_REPRODUCED if differs else UNKNOWN, figures)


# ---- over seeds ------------------------------------------------------------------------------------------------------


def _told(text: str, told: str, differences: Mapping[int, float]) -> Claim:
    """A claim that is true where the differences are above zero."""
    above = sum(value > 0 for value in differences.values())
    seeds = some(len(differences), "seed")
    return Claim(text, _decided(differences), f"{told}{above} of {seeds}{_few(len(differences))}.")


def _decided(differences: Mapping[int, float]) -> str:
    """Whether differences are above zero (reproduced), below it, or neither for all that can be told."""
    if len(differences) < LEAST_SEEDS:
        return UNKNOWN
    values = np.array([list(differences.values())]).T
    if float(analysis.adjusted_p(values)[0]) >= analysis.ALPHA:
        return UNKNOWN
    return REPRODUCED if values.mean() > 0 else NOT_REPRODUCED


def _few(seeds: int) -> str:
    """What is said behind a number of seeds that cannot tell."""
    return "" if seeds >= LEAST_SEEDS else f"; too few seeds, {LEAST_SEEDS} are needed to tell"


def _enough(seeds: int) -> str:
    return some(seeds, "seed") + ("" if seeds >= LEAST_SEEDS else f", of {LEAST_SEEDS} needed to tell")


def _range(values: Iterable[int]) -> str:
    values = sorted(values)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
