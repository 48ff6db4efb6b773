"""Where two arms of a sweep go wrong: what is said and drawn of their stored predictions.

The networks of the seeds that both arms finished are paired; figures are means over them.
"""

from __future__ import annotations

import base64
import io
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from suite import analysis, tracking
from suite.analysis import predictions
from suite.analysis.predictions import Interval, Predictions, Telling
from suite.core.errors import SuiteError, UsageError
from suite.core.records import Numerics, Status
from suite.report import error_figures
from suite.report.error_figures import Drawing
from suite.report.formatting import figure, p_value, points, some
from suite.report.runs import in_plan, parsed
from suite.tracking import SweepRuns, TrialRun

PREDICTIONS, IMAGES = "predictions.npz", "test_images.npz"
TILES = 16  # images of each kind that are shown
_SWAPS = 3  # changed confusions that are named

Pair = tuple[int, str]  # seed, numerics


@dataclass(frozen=True)
class Tile:
    """A test image in the page.

    Attributes:
        address: the picture itself, as an address.
        truth: the name of its class; mistaken: what the arm that is wrong takes it for.
        score: how many networks of either arm are right, "" where each arm has one.
    """

    address: str
    truth: str
    mistaken: str
    score: str


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


@dataclass(frozen=True)
class Duel:
    """Two arms' networks on the images that all of them were tested on, pair by pair.

    Attributes:
        seeds: of each pair.
        ours, theirs: one for each seed.
        left_out: what could not be compared; sentences.
    """

    seeds: tuple[int, ...]
    ours: tuple[Predictions, ...]
    theirs: tuple[Predictions, ...]
    left_out: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """N."""
        return len(self.ours[0].labels)


def section(runs: SweepRuns, uri: str, baseline: str, winner: str) -> Errors | None:
    """What the report says of the errors of two arms; None where neither has a finished trial.

    Args:
        baseline, winner: names of arms; equal = only one is looked at.
    """
    if not any(run.arm in (baseline, winner) for run in _finished(runs)):
        return None
    found = duel(runs, uri, winner, baseline)
    if isinstance(found, str):
        return Errors(baseline, winner, missing=(f"Errors cannot be shown: {found}.",))
    names, images = _names(runs, uri, found.ours[0].logits.shape[1])
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
    tiles, missing = _tiles(found, baseline, winner, names, images)
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
    found = duel(runs, uri, a, b) if a in arms else _two(trials[a], trials[b], uri)
    if isinstance(found, str):
        return [f"{a} and {b} cannot be compared: {found}."]
    lines = [f"{a} less {b}, on {_count(found.images, 'test image')}"]
    lines += [f"  {line}" for line in _by_seed(found)] if a in arms else []
    lines += ["", *_pooled(found, a, b)]
    return [*lines, *found.left_out]


def _two(ours: TrialRun, theirs: TrialRun, uri: str) -> Duel | str:
    """Two trials as a pair, whatever their seeds."""
    if _of_other_data(ours, theirs):
        return "they were tested on different data"
    told = (
        []
        if _pair(ours)[1] == _pair(theirs)[1]
        else ["The two trials ran with different numerics."]
    )
    try:
        return _align([(ours.seed, _load(uri, ours), _load(uri, theirs))], told, 0)
    except (SuiteError, ValueError, OSError) as error:
        return _brief(error)


# ---- what is read ----------------------------------------------------------------------------------------------------


def duel(runs: SweepRuns, uri: str, ours: str, theirs: str) -> Duel | str:
    """The predictions of two arms in pairs of one seed and the same numerics, or why there are none."""
    a, b = (
        {_pair(run): run for run in _finished(runs) if run.arm == arm} for arm in (ours, theirs)
    )
    for arm, has in ((ours, a), (theirs, b)):
        if not has:
            return f"no trial of {arm} has finished"
    pairs = sorted(set(a) & set(b))
    if not pairs:
        return f"{ours} and {theirs} have no finished seed of the same numerics in common"
    told: list[str] = []
    loaded: list[tuple[int, Predictions, Predictions]] = []
    for pair in pairs:
        try:
            loaded.append((pair[0], _load(uri, a[pair]), _load(uri, b[pair])))
        except (SuiteError, ValueError, OSError) as error:
            told.append(f"Seed {pair[0]} is left out: {_brief(error)}.")
    if not loaded:
        return f"there are no predictions of a seed that both have ({_brief(told[0])})"
    if _of_other_data(a[pairs[0]], b[pairs[0]]):
        return f"{ours} and {theirs} were tested on different data"
    return _align(loaded, told, len(a) + len(b) - 2 * len(pairs))


def count_test_images(runs: SweepRuns, uri: str, arms: Iterable[str]) -> int | None:
    """How many test images the networks of these arms were tested on, by the first file that can be read."""
    wanted = set(arms)
    for run in _finished(runs):
        if run.arm in wanted:
            try:
                return len(_load(uri, run).labels)
            except (SuiteError, ValueError, OSError):
                continue
    return None


def _align(
    loaded: Sequence[tuple[int, Predictions, Predictions]], told: list[str], alone: int
) -> Duel | str:
    """The pairs on the images that all of their networks were tested on."""
    many = [one for _, *pair in loaded for one in pair]
    try:
        common = predictions.shared(many)
    except ValueError as error:
        return str(error)
    most = max(len(one.index) for one in many)
    if len(common[0].index) < most:
        told.append(
            f"The trials were tested on different images; what follows is about the {len(common[0].index):,} of up to "
            f"{most:,} that all of them share."
        )
    if alone:
        told.append(
            f"{some(alone, 'trial')} without a partner of the same seed and numerics: left out here."
        )
    return Duel(
        tuple(seed for seed, *_ in loaded), tuple(common[::2]), tuple(common[1::2]), tuple(told)
    )


def _finished(runs: SweepRuns) -> list[TrialRun]:
    return [run for run in runs.trials if in_plan(run) and run.status == Status.FINISHED]


def _pair(run: TrialRun) -> Pair:
    return run.seed, Numerics.key(parsed(run.tags.get("suite.numerics")))


def _of_other_data(a: TrialRun, b: TrialRun) -> bool:
    """Whether two trials' test images are of two data sets; the same images in another size are the same images."""
    if a.tags.get("suite.data_digest") == b.tags.get("suite.data_digest"):
        return False
    return any(a.params.get(name) != b.params.get(name) for name in ("data.name", "data.root"))


def _load(uri: str, run: TrialRun) -> Predictions:
    with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
        return Predictions.read(tracking.download(uri, run.run_id, PREDICTIONS, Path(folder)))


def _brief(error: object) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__


@dataclass(frozen=True, eq=False)
class Images:
    """Test images that the sweep kept: uint8 (M, H, W, 3), and their rows in the data set's test images."""

    pixels: npt.NDArray[np.uint8]
    row: dict[int, int]


def _names(runs: SweepRuns, uri: str, classes: int) -> tuple[list[str], Images | None]:
    """The names of the classes, and the kept images; numbers and None where the store has none."""
    names = parsed(runs.parent.tags.get("suite.classes"))
    images = None
    try:
        with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
            path = tracking.download(uri, runs.parent.run_id, IMAGES, Path(folder))
            with path.open("rb") as opened, np.load(opened) as file:
                images = Images(
                    file["images"], {int(index): row for row, index in enumerate(file["index"])}
                )
                names = names or [str(name) for name in file["classes"]]
    except (SuiteError, OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error):
        pass
    if not isinstance(names, list) or len(names) != classes:
        names = [f"class {number}" for number in range(classes)]
    return [str(name) for name in names], images


# ---- what is said ----------------------------------------------------------------------------------------------------


def _alone(found: Duel, runs: SweepRuns, arm: str) -> Iterable[str]:
    """Of one arm, and why it stands alone: there is no other, or none that the sweep would compare it with."""
    others = any(run.arm != arm for run in _finished(runs))
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


def _tiles(
    found: Duel, baseline: str, winner: str, names: Sequence[str], images: Images | None
) -> tuple[tuple[tuple[str, tuple[Tile, ...]], ...], tuple[str, ...]]:
    """The images on which the two arms differ most, either way; and what is missing."""
    if images is None:
        return (), (
            "The test images on which they differ most cannot be shown: the sweep kept none (no test_images.npz).",
        )
    groups = []
    for right, wrong, arm, other in (
        (found.ours, found.theirs, winner, baseline),
        (found.theirs, found.ours, baseline, winner),
    ):
        best = predictions.telling(right, wrong, found.images)
        kept = [one for one in best if one.index in images.row][:TILES]
        if kept:
            heading = f"Right with {arm}, wrong with {other}"
            groups.append(
                (heading, tuple(_tile(one, names, images, len(found.seeds)) for one in kept))
            )
    if not groups:
        return (), (
            "None of the images on which they differ most is among those that the sweep kept.",
        )
    return tuple(groups), ()


def _tile(one: Telling, names: Sequence[str], images: Images, seeds: int) -> Tile:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images.pixels[images.row[one.index]]).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    score = (
        f"{round(one.ours * seeds)} of {seeds} against {round(one.theirs * seeds)}"
        if seeds > 1
        else ""
    )
    return Tile(address, names[one.label], names[one.mistaken], score)
