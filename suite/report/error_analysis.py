"""Where two arms of a sweep go wrong: what is said and drawn of their stored predictions.

The networks of the seeds that both arms finished are paired; figures are means over them.
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
from suite.report.error_images import Tile, choose_tiles, class_names_and_images
from suite.report.formatting import figure, p_value, points, some
from suite.report.paired_predictions import Duel, duel, finished_runs, pair_trials
from suite.report.runs import in_plan
from suite.tracking import SweepRuns

_SWAPS = 3  # changed confusions that are named


@dataclass(frozen=True)
class Errors:
    """The part of a report about errors; sentences and pictures, nothing escaped.

    Attributes:
        baseline, winner: the two arms; equal where there is only one.
        said: sentences.
        missing: what is not there, and why; sentences.
        drawings: the figures.
        tiles: heading -> test images on which the two differ most.
    """

    baseline: str
    winner: str
    said: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tiles: tuple[tuple[str, tuple[Tile, ...]], ...] = ()


def section(runs: SweepRuns, uri: str, baseline: str, winner: str) -> Errors | None:
    """What the report says of the errors of two arms; None where neither has a finished trial.

    Args:
        baseline, winner: names of arms; equal = only one is looked at.
    """
    if not any(run.arm in (baseline, winner) for run in finished_runs(runs)):
        return None
    found = duel(runs, uri, winner, baseline)
    if isinstance(found, str):
        return Errors(baseline, winner, missing=(f"Errors cannot be shown: {found}.",))
    names, images = class_names_and_images(runs, uri, found.ours[0].logits.shape[1])
    shown = Errors(
        baseline,
        winner,
        tuple(
            _sentences(found, baseline, winner, names)
            if baseline != winner
            else _alone(found, runs, winner)
        ),
        found.left_out,
        tuple(_drawings(found, baseline, winner, names)),
    )
    if baseline == winner:
        return shown
    tiles, missing = choose_tiles(found, baseline, winner, names, images)
    return replace(shown, tiles=tiles, missing=(*shown.missing, *missing))


def compare(runs: SweepRuns, uri: str, a: str, b: str) -> list[str]:
    """Lines for the console: two arms seed by seed, then all seeds together; or one trial against another.

    Args:
        a, b: names of two arms, or names or run ids of two trials.

    Raises:
        UsageError: there are no two such. What is missing otherwise is said in the lines.
    """
    if a == b:
        raise UsageError(f"--compare must name two arms or two trials, got {a!r} twice")
    arms = list(dict.fromkeys(run.arm for run in runs.trials if in_plan(run)))
    trials = {name: run for run in runs.trials if in_plan(run) for name in (run.name, run.run_id)}
    unknown = [name for name in (a, b) if name not in arms and name not in trials]
    if unknown or (a in arms) != (b in arms):
        raise UsageError(
            f"--compare must name two arms or two trials of the sweep, got {', '.join(map(repr, unknown or (a, b)))}",
            remedy=f"Its arms: {', '.join(arms) or 'none'}; its trials are called 'ARM seed=N'.",
        )
    found = duel(runs, uri, a, b) if a in arms else pair_trials(trials[a], trials[b], uri)
    if isinstance(found, str):
        return [f"{a} and {b} cannot be compared: {found}."]
    lines = [f"{a} less {b}, on {_count(found.images, 'test image')}"]
    lines += [f"  {line}" for line in _by_seed(found)] if a in arms else []
    lines += ["", *_pooled(found, a, b)]
    return [*lines, *found.left_out]


# ---- what is said ----------------------------------------------------------------------------------------------------


def _alone(found: Duel, runs: SweepRuns, arm: str) -> Iterable[str]:
    """Of one arm, and why it stands alone: there is no other, or none that the sweep would compare it with."""
    others = any(run.arm != arm for run in finished_runs(runs))
    why = "No other arm stands beside it."
    if others:
        why = (
            "Which arm to set beside it the sweep does not say, for want of one baseline: "
            f"python -m suite.report {runs.sweep} --compare A B sets any two side by side."
        )
    yield (
        f"{arm} gives the right class for {_percent(predictions.rates(found.ours).mean())} % of "
        f"{_count(found.images, 'test image')}{_over(found)}. {why} Expected calibration error: "
        f"{_points(predictions.calibration(found.ours).error, sign=False)}."
    )


def _sentences(found: Duel, baseline: str, winner: str, names: Sequence[str]) -> Iterable[str]:
    yield from _pooled(found, winner, baseline)
    changed = predictions.swaps(found.ours, found.theirs, _SWAPS)
    if changed:
        listed = "; ".join(
            f"“{names[one.truth]}” taken for “{names[one.answer]}”, {_percent(one.before)} → {_percent(one.after)} %"
            for one in changed
        )
        yield f"The confusions that changed most from {baseline} to {winner}: {listed} of the class's images."
    errors = [predictions.calibration(side).error for side in (found.theirs, found.ours)]
    yield (
        f"Expected calibration error, the mean distance between what a network claims and how often it is right: "
        f"{baseline} {_points(errors[0], sign=False)}, {winner} {_points(errors[1], sign=False)} "
        f"({predictions.BINS} equal bins of the highest probability, Guo et al. 2017)."
    )


def _by_seed(found: Duel) -> Iterable[str]:
    """One line for each pair of networks."""
    for seed, ours, theirs in zip(found.seeds, found.ours, found.theirs, strict=True):
        change = predictions.bootstrap(ours.correct.astype(np.int64) - theirs.correct)
        test = predictions.mcnemar(ours, theirs)
        yield (
            f"seed {seed}: {_percent(ours.correct.mean())} % and {_percent(theirs.correct.mean())} %, difference "
            f"{_interval(change)}; right alone {test.ours:,} and {test.theirs:,}, McNemar p {_p(test.p)}"
        )


def _pooled(found: Duel, ours: str, theirs: str) -> Iterable[str]:
    """All pairs together: what holds for these networks, and what seeds have to say."""
    pairs = len(found.seeds)
    by_image = predictions.differences(found.ours, found.theirs)
    change = predictions.bootstrap(by_image / pairs)
    accuracy = [_percent(predictions.rates(side).mean()) for side in (found.ours, found.theirs)]
    yield (
        f"On {_count(found.images, 'test image')}{_over(found)}, {ours} is right on {accuracy[0]} % and {theirs} on "
        f"{accuracy[1]} %: a difference of {_interval(change)} points (paired bootstrap, "
        f"{predictions.DRAWS:,} draws of the test images)."
    )
    yield _mcnemar(found, by_image, ours, theirs)
    yield (
        f"Both are about {'this pair of networks' if pairs == 1 else f'these {pairs} pairs of networks'} and other test"
        f" images like these, not about other seeds. {_seeds(found, change.value)}"
    )


def _mcnemar(found: Duel, by_image: npt.NDArray[np.int64], ours: str, theirs: str) -> str:
    if len(found.seeds) == 1:
        test = predictions.mcnemar(found.ours[0], found.theirs[0])
        return (
            f"{test.ours:,} images are right with {ours} alone and {test.theirs:,} with {theirs} alone: "
            f"{_chance(test.p)} (McNemar's exact test, p {_p(test.p)})."
        )
    p = predictions.pooled_p(by_image)
    return (
        f"More networks of {ours} are right on {int((by_image > 0).sum()):,} images, more of {theirs} on "
        f"{int((by_image < 0).sum()):,}: {_chance(p)} (McNemar's exact test with the image as the unit, because "
        f"answers of several networks to one image are not independent; p {_p(p)})."
    )


def _chance(p: float) -> str:
    return (
        "more than chance between images"
        if p < analysis.ALPHA
        else "no more than chance between images would do"
    )


def _seeds(found: Duel, value: float) -> str:
    """What the differences between seeds say; a verdict on arms needs them.

    Args:
        value: their mean, as it was said before: another way of adding would round it otherwise.
    """
    values = [
        float(ours.correct.mean() - theirs.correct.mean())
        for ours, theirs in zip(found.ours, found.theirs, strict=True)
    ]
    _, low, high = analysis.interval(values)
    if low is None or high is None:
        return "One seed cannot say what another would do."
    few = (
        f"; {some(len(values), 'seed')} are too few for a verdict"
        if len(values) < analysis.LEAST_SEEDS
        else ""
    )
    if len(values) > 1 and min(values) < 0 < max(values):
        few = f"; the pairs disagree about the better arm{few}"
    interval = _interval(Interval(value, low, high))
    return f"Over seeds the difference is {interval} points (paired Student interval{few})."


def _over(found: Duel) -> str:
    return (
        f", mean over {some(len(found.seeds), 'seed')}"
        if len(found.seeds) > 1
        else f", seed {found.seeds[0]}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(value: float) -> str:
    return figure("acc", value)


def _points(value: float, sign: bool = True) -> str:
    return points("acc", value) if sign else f"{figure('acc', value)} points"


def _interval(change: Interval) -> str:
    return f"{_points(change.value)} [{_points(change.low)}, {_points(change.high)}]"


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _drawings(found: Duel, baseline: str, winner: str, names: Sequence[str]) -> Iterable[Drawing]:
    one = baseline == winner
    arms = [(winner, found.ours)] if one else [(baseline, found.theirs), (winner, found.ours)]
    matrices = [(arm, predictions.shares(predictions.confusion(many))) for arm, many in arms]
    over = _over(found).lstrip(", ")
    yield Drawing(
        "confusion",
        f"Confusion matrices of {' and '.join(arm for arm, _ in arms)}; the changes that matter are in the text.",
        "Of the test images of a class (row), the percentage that was given each class (column); shades grow with the "
        f"square root, so that rare confusions show; {over}.",
        error_figures.confusion(matrices, names),
        most=32 if one else 0,
    )
    if not one:
        changes = predictions.class_changes(found.ours, found.theirs)
        yield Drawing(
            "classes",
            f"Change of each class's accuracy from {baseline} to {winner}.",
            f"Accuracy on the test images of each class, from {baseline} to {winner}, {over}, and its change with a "
            "95 % interval, paired by image (Agresti and Min, 2005); filled where it excludes zero. Each interval is "
            "on its own: of twenty classes in which nothing changed, one is filled by chance.",
            error_figures.classes(changes, names),
        )
    curves = [(arm, predictions.calibration(many)) for arm, many in arms]
    yield Drawing(
        "calibration",
        f"Reliability of {' and '.join(arm for arm, _ in arms)}.",
        "How often an answer is right, by the probability that the network gave it: on the dotted line it means what "
        "it says, below it claims too much. Beneath, how many answers lie where. Bins of fewer than ten answers are "
        f"left out of the curve; {over}.",
        error_figures.calibration(curves, baseline),
        most=40,
    )
