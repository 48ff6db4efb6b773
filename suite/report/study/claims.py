"""What the study "ResNet-18 on CIFAR-10" claims, each reproduced or not, where a sweep has the arms
to tell.

A claim about a difference is reproduced, or not, if the interval of the difference excludes zero. A
claim that two arms are the same is reproduced if the interval lies within the margin, and refuted
if all of it lies outside. That one net overfits is reproduced if all of its seeds do, and refuted
if none does. Each needs as many seeds as any verdict. All else cannot be told, and its figures
stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from suite import analysis
from suite.analysis import MIN_SEEDS, Pair, at_chosen, finished_by_pair, last, paired
from suite.core.records import TEST_ACC, TRAIN_ACC, VAL_ACC, VAL_LOSS, Objective
from suite.report.elements import Table
from suite.report.formatting import figure, percent, percentage_points, some
from suite.report.runs import Rules
from suite.report.study.study_arms import StudyArms
from suite.storage.journal import TrialHistory

REPRODUCED, NOT_REPRODUCED, UNKNOWN = "reproduced", "not reproduced", "cannot be told"
OVERFITS_BEFORE = 10  # epochs
RISE = 0.01  # of the lowest validation loss: less is no rise but noise and rounding
OWN_FRACTION = 0.9  # of an arm's own last accuracy
_NO_PAIR = "No seed that both finished with the same numerics."

ByPair = Mapping[Pair, TrialHistory]
Epochs = tuple[float, float]  # of the one arm and of the other


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


def claims(items: Sequence[TrialHistory], roles: StudyArms, rules: Rules) -> list[Claim]:
    """The claims that the sweep's arms allow to be looked at."""
    judged = analysis.without_search_seed(items, rules.confirmed, rules.search_seed)
    trials = finished_by_pair(judged)
    level = rules.level(1)
    found: list[Claim] = []
    for random, pretrained in roles.weights:
        found.append(_overfits(random, trials.get(random, {})))
        found.append(
            _faster(
                f"Pretrained ({pretrained}) learns faster than a random start ({random})",
                trials.get(pretrained, {}),
                trials.get(random, {}),
                level,
            )
        )
    for deep, short in roles.heads:
        found.append(_faster(f"Config1 ({short}) learns faster than Config2 ({deep})",
                             trials.get(short, {}), trials.get(deep, {}), level))  # fmt: skip
        found.append(_same(f"Config1 ({short}) and Config2 ({deep}) end alike",
                           trials.get(short, {}), trials.get(deep, {}), rules))  # fmt: skip
    for free, frozen in roles.freezing:
        found.append(
            _same(
                f"Freezing ({frozen}) costs nothing against learning all weights ({free})",
                trials.get(frozen, {}),
                trials.get(free, {}),
                rules,
                no_worse=True,
            )
        )
    found += _freezing_and_head(roles, trials, rules)
    for shallow, deep in roles.depths:
        found.append(_degrades(shallow, deep, trials.get(shallow, {}), trials.get(deep, {}), rules))
    doubtful = {
        *analysis.lost_seeds(judged),
        *(item.trial.arm for item in judged if not item.ended),
    }
    return [_cautious(claim, doubtful) for claim in found]


def _cautious(claim: Claim, doubtful: Collection[str]) -> Claim:
    """The claim without an outcome if one of its arms lost seeds, or has trials that have not
    ended.
    """
    arms = [arm for arm in doubtful if f"({arm})" in claim.text]
    if not arms or claim.outcome == UNKNOWN:
        return claim
    why = f" Not judged: {', '.join(sorted(arms))} lost seeds, or has trials that have not ended."
    return replace(claim, outcome=UNKNOWN, figures=claim.figures + why)


def table(found: Sequence[Claim], level: float = analysis.FIRST_LOOK) -> Table | None:
    """The claims as a table; None if there are none.

    Args:
        level: at which each claim is judged.
    """
    if not found:
        return None
    caption = (
        "Claims of the study that this sweep repeats. A difference counts if its sign-flip "
        "interval, "
        f"over at least {MIN_SEEDS} seeds at a level of {percent(level)}, excludes zero; each "
        "claim is "
        "tested by itself."
    )
    caption = " ".join([caption, *dict.fromkeys(claim.rule for claim in found if claim.rule)])
    rows = tuple((claim.text, claim.figures, claim.outcome) for claim in found)
    return Table("claims", ("Claim", "Figures", "Outcome"), rows, caption, ends_in_verdict=True)


# ---- the kinds of claims -------------------------------------------------------------------------


_OVERFITS = (
    "Overfitting is no test of a difference: it counts where in every seed, of at least "
    f"{MIN_SEEDS}, the validation "
    f"loss is lowest before epoch {OVERFITS_BEFORE} and at the last epoch at least {100 * RISE:g} "
    "% above that."
)


def _overfits(arm: str, trials: ByPair) -> Claim:
    text = (
        f"The random start ({arm}) overfits before epoch {OVERFITS_BEFORE}: its validation "
        "loss rises again"
    )
    losses = [known for item in trials.values() if (known := _by_epoch(item, VAL_LOSS))]
    if not losses:
        return Claim(text, UNKNOWN, "No validation loss of a finished trial.", _OVERFITS)
    lowest = [min(known, key=lambda epoch: known[epoch]) for known in losses]
    rose = [
        _rises_to_the_end(known, known[epoch]) for known, epoch in zip(losses, lowest, strict=True)
    ]
    early = [epoch < OVERFITS_BEFORE and higher for epoch, higher in zip(lowest, rose, strict=True)]
    short = any(
        max(known) < OVERFITS_BEFORE and not higher
        for known, higher in zip(losses, rose, strict=True)
    )
    told = (
        f"Lowest validation loss at epoch {_range(lowest)}, at the last epoch at least "
        f"{100 * RISE:g} % above that in "
        f"{sum(rose)} of {some(len(rose), 'seed')}{_few(len(rose))}."
    )
    if short:
        told += f" The trials were shorter than {OVERFITS_BEFORE} epochs."
    gaps = [gap for item in trials.values() if (gap := _gap(item)) is not None]
    if gaps:
        told += (
            " Training less validation accuracy at the last epoch: "
            f"{percentage_points(TRAIN_ACC, sum(gaps) / len(gaps))} points."
        )
    return Claim(text, _all_or_none(early, short), told, _OVERFITS)


def _rises_to_the_end(losses: Mapping[int, float], lowest: float) -> bool:
    end = losses[max(losses)]
    return end > lowest and end >= (1 + RISE) * lowest


def _all_or_none(early: Sequence[bool], short: bool) -> str:
    """Whether every seed overfitted early, or none did though all ran long enough to."""
    if len(early) < MIN_SEEDS:
        return UNKNOWN
    return REPRODUCED if all(early) else UNKNOWN if any(early) or short else NOT_REPRODUCED


def _by_epoch(item: TrialHistory, metric: str) -> dict[int, float]:
    return {
        record.epoch: record.metrics[metric] for record in item.curve if metric in record.metrics
    }


def _gap(item: TrialHistory) -> float | None:
    train, val = last(item, TRAIN_ACC), last(item, VAL_ACC)
    return None if train is None or val is None else train - val


_FASTER = (
    "“Learns faster” is judged twice, and reproduced only if both say so: by the epochs to the "
    "same "
    "accuracy (the lower one of the two arms’ best validation accuracies of that seed), which an "
    "arm "
    "that ends higher reaches sooner without learning faster, and by the epochs to "
    f"{100 * OWN_FRACTION:.0f} % of each arm’s own last validation accuracy."
)


def _faster(text: str, ours: ByPair, theirs: ByPair, level: float) -> Claim:
    """That ``ours`` learns in fewer epochs than ``theirs``: to a common accuracy and to its own."""
    common = _by_pair(_epochs_to_common, ours, theirs)
    own = _by_pair(_epochs_to_own, ours, theirs)
    if not common or not own:
        return Claim(text, UNKNOWN, f"{_NO_PAIR[:-1]} and validation accuracies.", _FASTER)
    outcomes, parts = [], []
    for goal, counts in (
        ("the same accuracy", common),
        (f"{100 * OWN_FRACTION:.0f} % of its own last accuracy", own),
    ):
        fewer = {pair[0]: slow - fast for pair, (fast, slow) in counts.items()}
        outcomes.append(_decided(fewer, level))
        means = [float(np.mean(side)) for side in zip(*counts.values(), strict=True)]
        above = sum(value > 0 for value in fewer.values())
        parts.append(
            f"Epochs to {goal}: {means[0]:.1f} against {means[1]:.1f}; fewer in {above} of "
            f"{some(len(fewer), 'seed')}"
        )
    outcome = outcomes[0] if outcomes[0] == outcomes[1] else UNKNOWN
    return Claim(text, outcome, f"{'. '.join(parts)}{_few(len(common))}.", _FASTER)


def _by_pair(
    count: Callable[[TrialHistory, TrialHistory], Epochs | None], ours: ByPair, theirs: ByPair
) -> dict[Pair, Epochs]:
    """Pair -> epochs of both, where they can be counted."""
    counted = {pair: count(ours[pair], theirs[pair]) for pair in sorted(set(ours) & set(theirs))}
    return {pair: epochs for pair, epochs in counted.items() if epochs is not None}


def _epochs_to_common(ours: TrialHistory, theirs: TrialHistory) -> Epochs | None:
    """Epochs of both until the lower one of their best accuracies."""
    objective = Objective(VAL_ACC)
    bests = analysis.best(ours, objective), analysis.best(theirs, objective)
    if bests[0] is None or bests[1] is None:
        return None
    return _epochs(ours, theirs, (min(bests[0], bests[1]),) * 2)


def _epochs_to_own(ours: TrialHistory, theirs: TrialHistory) -> Epochs | None:
    """Epochs of both until a fraction of what each ends with."""
    ends = last(ours, VAL_ACC), last(theirs, VAL_ACC)
    if ends[0] is None or ends[1] is None:
        return None
    return _epochs(ours, theirs, (OWN_FRACTION * ends[0], OWN_FRACTION * ends[1]))


def _epochs(ours: TrialHistory, theirs: TrialHistory, targets: tuple[float, float]) -> Epochs:
    objective = Objective(VAL_ACC)
    fast, slow = (
        float(analysis.reached(trial, objective, target) or 0)
        for trial, target in zip((ours, theirs), targets, strict=True)
    )
    return fast, slow


def _degrades(shallow: str, deep: str, light: ByPair, heavy: ByPair, rules: Rules) -> Claim:
    text = (
        f"The deeper plain net ({deep}) is worse than the shallower one ({shallow}), in "
        "training too"
    )
    told, outcomes = [], []
    for metric in (TRAIN_ACC, TEST_ACC):
        values = [at_chosen(trials, rules.objective, metric) for trials in (light, heavy)]
        differences = paired(values[0], values[1])
        if not differences:
            return Claim(text, UNKNOWN, _NO_PAIR)
        outcomes.append(_decided(differences, rules.level(1), rules.margin))
        both = set(values[0]) & set(values[1])
        means = [1 - np.mean([each[pair] for pair in sorted(both)]) for each in values]
        kind = "Training" if metric == TRAIN_ACC else "test"
        told.append(
            f"{kind} error {figure(metric, float(means[1]))} against "
            f"{figure(metric, float(means[0]))} %"
        )
    outcome = (
        outcomes[0]
        if outcomes[0] == outcomes[1]
        else NOT_REPRODUCED
        if NOT_REPRODUCED in outcomes
        else UNKNOWN
    )
    return Claim(text, outcome, f"{', '.join(told)}; {_enough(len(differences))}.")


def _same(
    text: str, ours: ByPair, theirs: ByPair, rules: Rules, no_worse: bool = False, note: str = ""
) -> Claim:
    """That ``ours`` ends as well as ``theirs``, or with ``no_worse`` that it ends no worse.

    Refuted only if the whole interval lies outside the margin.
    """
    metric = rules.tested
    differences = paired(*(at_chosen(trials, rules.objective, metric) for trials in (ours, theirs)))
    if not differences:
        return Claim(text, UNKNOWN, _NO_PAIR, note)
    mean = sum(differences.values()) / len(differences)
    span = _interval(differences, rules.level(1), rules.margin)
    shown = (
        f" [{percentage_points(metric, span[0])}, {percentage_points(metric, span[1])}]"
        if span
        else ""
    )
    unit = " points" if metric.endswith("acc") else ""
    figures = (
        f"Difference of {metric}: {percentage_points(metric, mean)}{shown}{unit}, margin "
        f"{figure(metric, rules.margin)}; {_enough(len(differences))}."
    )
    if span is None:
        return Claim(text, UNKNOWN, figures, note)
    low, high = span if analysis.rises(metric) else (-span[1], -span[0])
    within = -rules.margin <= low and (no_worse or high <= rules.margin)
    outside = high < -rules.margin or (low > rules.margin and not no_worse)
    outcome = REPRODUCED if within else NOT_REPRODUCED if outside else UNKNOWN
    return Claim(text, outcome, figures, note)


def _freezing_and_head(
    roles: StudyArms, trials: Mapping[str, ByPair], rules: Rules
) -> Iterable[Claim]:
    """Frozen arms that also have another head, for free arms without a frozen arm of their own
    head.
    """
    separated = {free for free, _ in roles.freezing}
    for free, frozen in roles.freezing_and_head:
        if free not in separated:
            yield _same(
                f"Freezing together with another head ({frozen}) costs nothing against learning "
                f"all weights ({free})",
                trials.get(frozen, {}),
                trials.get(free, {}),
                rules,
                no_worse=True,
                note=_TWO_CAUSES,
            )


_TWO_CAUSES = (
    "“Together with another head”: the two arms differ in their heads as well, so the difference "
    "is "
    "not that of freezing. An arm with frozen layers and the head of the other one would tell."
)


# ---- over seeds ----------------------------------------------------------------------------------


def _interval(
    differences: Mapping[int, float], level: float, margin: float = 0.0
) -> tuple[float, float] | None:
    """The sign-flip interval of one difference; None if the seeds are too few for the level."""
    if len(differences) < MIN_SEEDS:
        return None
    values = np.array([list(differences.values())]).T
    span = analysis.simultaneous(values, margin, level)
    low, high = float(span.low[0]), float(span.high[0])
    return None if np.isnan(low) or np.isnan(high) else (low, high)


def _decided(differences: Mapping[int, float], level: float, margin: float = 0.0) -> str:
    """Whether differences are above zero (reproduced), below it, or neither for all that can be
    told.
    """
    span = _interval(differences, level, margin)
    if span is None or span[0] <= 0 <= span[1]:
        return UNKNOWN
    return REPRODUCED if span[0] > 0 else NOT_REPRODUCED


def _few(seeds: int) -> str:
    """What is said behind a number of seeds that cannot tell."""
    return "" if seeds >= MIN_SEEDS else f"; too few seeds, {MIN_SEEDS} are needed to tell"


def _enough(seeds: int) -> str:
    return some(seeds, "seed") + ("" if seeds >= MIN_SEEDS else f", of {MIN_SEEDS} needed to tell")


def _range(values: Iterable[int]) -> str:
    values = sorted(values)
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
