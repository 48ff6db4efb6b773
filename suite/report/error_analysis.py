"""Where two arms of a sweep go wrong: sentences and figures from their stored predictions.

Networks are paired by the seeds that both arms finished; figures are means over these networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from suite import analysis
from suite.analysis import predictions
from suite.analysis.predictions import Interval
from suite.core.errors import UsageError
from suite.report import error_figures
from suite.report.error_figures import Drawing
from suite.report.error_images import TileGroup, class_names_and_images, tile_groups
from suite.report.formatting import figure, p_value, percentage_points, some
from suite.report.paired_predictions import (
    PairedPredictions,
    finished_runs,
    pair_arms,
    pair_trials,
)
from suite.report.runs import in_plan
from suite.tracking import SweepRuns

_MAX_SWAPS = 3  # changed confusions that are named


@dataclass(frozen=True)
class Errors:
    """The part of a report about errors; values, nothing escaped.

    Attributes:
        baseline, winner: the two arms; equal if there is only one.
        sentences: what the predictions show.
        notes: sentences about what is missing, and why.
        drawings: the figures.
        tiles: heading -> test images on which the two differ most.
    """

    baseline: str
    winner: str
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tiles: tuple[TileGroup, ...] = ()


def section(runs: SweepRuns, uri: str, baseline: str, winner: str) -> Errors | None:
    """The report's part about the errors of two arms; None if neither has a finished trial.

    Args:
        baseline, winner: names of arms; equal = only one is shown.
    """
    if not any(run.arm in (baseline, winner) for run in finished_runs(runs)):
        return None
    pairs = pair_arms(runs, uri, winner, baseline)
    if isinstance(pairs, str):
        return Errors(baseline, winner, notes=(f"Errors cannot be shown: {pairs}.",))
    names, images = class_names_and_images(runs, uri, pairs.ours[0].logits.shape[1])
    alone = baseline == winner
    sentences = (
        _one_arm(pairs, runs, winner) if alone else _two_arms(pairs, baseline, winner, names)
    )
    drawings = tuple(_drawings(pairs, baseline, winner, names))
    errors = Errors(baseline, winner, tuple(sentences), pairs.notes, drawings)
    if alone:
        return errors
    tiles, notes = tile_groups(pairs, baseline, winner, names, images)
    return replace(errors, tiles=tiles, notes=(*errors.notes, *notes))


def compare(runs: SweepRuns, uri: str, a: str, b: str) -> list[str]:
    """Lines for the console: two arms seed by seed, then all seeds together; or two trials.

    Args:
        a, b: names of two arms, or names or run ids of two trials.

    Raises:
        UsageError: the sweep has no such arms or trials. Other gaps are named in the lines.
    """
    if a == b:
        raise UsageError(f"--compare must name two arms or two trials, got {a!r} twice")
    arms = list(dict.fromkeys(run.arm for run in runs.trials if in_plan(run)))
    trials = {name: run for run in runs.trials if in_plan(run) for name in (run.name, run.run_id)}
    unknown = [name for name in (a, b) if name not in arms and name not in trials]
    if unknown or (a in arms) != (b in arms):
        names = ", ".join(map(repr, unknown or (a, b)))
        raise UsageError(
            f"--compare must name two arms or two trials of the sweep, got {names}",
            remedy=f"Its arms: {', '.join(arms) or 'none'}; its trials are named 'ARM seed=N'.",
        )
    are_arms = a in arms
    pairs = pair_arms(runs, uri, a, b) if are_arms else pair_trials(trials[a], trials[b], uri)
    if isinstance(pairs, str):
        return [f"{a} and {b} cannot be compared: {pairs}."]
    lines = [f"{a} less {b}, on {_count(pairs.images, 'test image')}"]
    lines += [f"  {line}" for line in _by_seed(pairs)] if are_arms else []
    lines += ["", *_pooled(pairs, a, b)]
    return [*lines, *pairs.notes]


# ---- sentences -----------------------------------------------------------------------------------


def _one_arm(pairs: PairedPredictions, runs: SweepRuns, arm: str) -> Iterable[str]:
    """One arm, and why it stands alone."""
    if any(run.arm != arm for run in finished_runs(runs)):
        why = (
            "The sweep has no single baseline, so no comparison arm was chosen; compare any two "
            f"with python -m suite.report {runs.sweep} --compare A B."
        )
    else:
        why = "No other arm has finished a trial."
    calibration = predictions.calibration(pairs.ours)
    yield (
        f"{arm} gives the right class for {_percent(predictions.rates(pairs.ours).mean())} % of "
        f"{_count(pairs.images, 'test image')}{_over(pairs)}. {why} "
        f"Expected calibration error: {_percent(calibration.error)} points."
    )


def _two_arms(
    pairs: PairedPredictions, baseline: str, winner: str, names: Sequence[str]
) -> Iterable[str]:
    yield from _pooled(pairs, winner, baseline)
    swaps = predictions.swaps(pairs.ours, pairs.theirs, _MAX_SWAPS)
    if swaps:
        listed = "; ".join(
            f"“{names[swap.truth]}” taken for “{names[swap.answer]}”, "
            f"{_percent(swap.before)} → {_percent(swap.after)} %"
            for swap in swaps
        )
        yield (
            f"The confusions that changed most from {baseline} to {winner}: {listed} of the "
            "class's images."
        )
    ours, theirs = (predictions.calibration(side).error for side in (pairs.ours, pairs.theirs))
    yield (
        "Expected calibration error, the mean distance between a network's probability for its "
        f"answer and the share of right answers: {baseline} {_percent(theirs)} points, {winner} "
        f"{_percent(ours)} points ({predictions.BINS} equal bins of the highest probability, "
        "Guo et al. 2017)."
    )


def _by_seed(pairs: PairedPredictions) -> Iterable[str]:
    """One line for each pair of networks."""
    for seed, ours, theirs in zip(pairs.seeds, pairs.ours, pairs.theirs, strict=True):
        change = predictions.bootstrap(ours.correct.astype(np.int64) - theirs.correct)
        test = predictions.mcnemar(ours, theirs)
        yield (
            f"seed {seed}: {_percent(ours.correct.mean())} % and {_percent(theirs.correct.mean())} "
            f"%, difference {_interval(change)}; right alone {test.ours:,} and {test.theirs:,}, "
            f"McNemar p {_p(test.p)}"
        )


def _pooled(pairs: PairedPredictions, ours: str, theirs: str) -> Iterable[str]:
    """All pairs together: the result for these networks, and the result over seeds."""
    count = len(pairs.seeds)
    by_image = predictions.differences(pairs.ours, pairs.theirs)
    change = predictions.bootstrap(by_image / count)
    accuracy = [_percent(predictions.rates(side).mean()) for side in (pairs.ours, pairs.theirs)]
    yield (
        f"On {_count(pairs.images, 'test image')}{_over(pairs)}, {ours} is right on {accuracy[0]} "
        "% "
        f"and {theirs} on {accuracy[1]} %: a difference of {_interval(change)} points (paired "
        f"bootstrap, {predictions.DRAWS:,} draws of the test images)."
    )
    yield _mcnemar(pairs, by_image, ours, theirs)
    networks = "this pair of networks" if count == 1 else f"these {count} pairs of networks"
    yield (
        f"Both are about {networks} and other test images like these, not about other seeds. "
        f"{_over_seeds(pairs, change.value)}"
    )


def _mcnemar(
    pairs: PairedPredictions, by_image: npt.NDArray[np.int64], ours: str, theirs: str
) -> str:
    if len(pairs.seeds) == 1:
        test = predictions.mcnemar(pairs.ours[0], pairs.theirs[0])
        return (
            f"{test.ours:,} images are right with {ours} alone and {test.theirs:,} with {theirs} "
            f"alone: {_chance(test.p)} (McNemar's exact test, p {_p(test.p)})."
        )
    p = predictions.pooled_p(by_image)
    return (
        f"More networks of {ours} are right on {int((by_image > 0).sum()):,} images, more of "
        f"{theirs} on {int((by_image < 0).sum()):,}: {_chance(p)} (McNemar's exact test with the "
        "image as the unit, because answers of several networks to one image are not independent; "
        f"p {_p(p)})."
    )


def _chance(p: float) -> str:
    if p < analysis.ALPHA:
        return "more than chance between images explains"
    return "no more than chance between images explains"


def _over_seeds(pairs: PairedPredictions, mean: float) -> str:
    """The differences of the seeds; a verdict on arms needs them.

    Args:
        mean: their mean as printed before; another order of addition may round otherwise.
    """
    differences = [
        float(ours.correct.mean() - theirs.correct.mean())
        for ours, theirs in zip(pairs.ours, pairs.theirs, strict=True)
    ]
    _, low, high = analysis.interval(differences)
    if low is None or high is None:
        return "One seed says nothing about other seeds."
    limits = ""
    if len(differences) > 1 and min(differences) < 0 < max(differences):
        limits += "; the pairs disagree about the better arm"
    if len(differences) < analysis.MIN_SEEDS:
        limits += f"; {some(len(differences), 'seed')} are too few for a verdict"
    interval = _interval(Interval(mean, low, high))
    return f"Over seeds the difference is {interval} points (paired Student interval{limits})."


def _over(pairs: PairedPredictions) -> str:
    if len(pairs.seeds) == 1:
        return f", seed {pairs.seeds[0]}"
    return f", mean over {some(len(pairs.seeds), 'seed')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(value: float) -> str:
    return figure("acc", value)


def _points(value: float) -> str:
    return percentage_points("acc", value)


def _interval(change: Interval) -> str:
    return f"{_points(change.value)} [{_points(change.low)}, {_points(change.high)}]"


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


# ---- figures -------------------------------------------------------------------------------------


def _drawings(
    pairs: PairedPredictions, baseline: str, winner: str, names: Sequence[str]
) -> Iterable[Drawing]:
    arms = [(winner, pairs.ours)]
    if baseline != winner:
        arms.insert(0, (baseline, pairs.theirs))
    yield _confusion(pairs, arms, names)
    if baseline != winner:
        yield _class_changes(pairs, baseline, winner, names)
    curves = [(arm, predictions.calibration(side)) for arm, side in arms]
    yield Drawing(
        "calibration",
        f"Reliability of {' and '.join(arm for arm, _ in arms)}.",
        "The share of right answers, by the probability that the network gave its answer: on the "
        "dotted line the two agree, below it the network is overconfident. Beneath: the share of "
        "answers in each bin. The curve leaves out bins of fewer than ten answers; "
        f"{_over(pairs).lstrip(', ')}.",
        error_figures.calibration(curves, baseline),
        most=40,
    )


def _confusion(
    pairs: PairedPredictions,
    arms: Sequence[tuple[str, Sequence[predictions.Predictions]]],
    names: Sequence[str],
) -> Drawing:
    matrices = [(arm, predictions.shares(predictions.confusion(side))) for arm, side in arms]
    listed = " and ".join(arm for arm, _ in arms)
    return Drawing(
        "confusion",
        f"Confusion matrices of {listed}; the text names the largest changes.",
        "The percentage of each class's test images (row) that were given each class (column). "
        "Shades grow with the square root, so that rare confusions show; "
        f"{_over(pairs).lstrip(', ')}.",
        error_figures.confusion(matrices, names),
        most=32 if len(arms) == 1 else 0,
    )


def _class_changes(
    pairs: PairedPredictions, baseline: str, winner: str, names: Sequence[str]
) -> Drawing:
    changes = predictions.class_changes(pairs.ours, pairs.theirs)
    return Drawing(
        "classes",
        f"Change of each class's accuracy from {baseline} to {winner}.",
        f"Accuracy on the test images of each class, from {baseline} to {winner}, "
        f"{_over(pairs).lstrip(', ')}, and its change with a 95 % interval, paired by image "
        "(Agresti and Min, 2005); filled if the interval excludes zero. The intervals are not "
        "adjusted for their number: of twenty classes without a change, one is filled by chance.",
        error_figures.classes(changes, names),
    )
