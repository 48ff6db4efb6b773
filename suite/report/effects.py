"""The report's section on effects: main effects, importance, and the cost of accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from suite import analysis
from suite.config.space import show
from suite.core.records import Status
from suite.report.dot_plots import Dot, Dots, Mark, Scatter
from suite.report.elements import Picture, Section
from suite.report.figures import Style
from suite.report.formatting import heading, label, names, scale, some
from suite.report.runs import Rules
from suite.report.slice_plots import Point, Slice, Slices, levels
from suite.storage.journal import TrialHistory

_MAX_DOTS = 60  # rows of a figure
_SLICES = 9  # panels
_NAMED = 12  # arms up to which all are named, not only the best
Looks = dict[str, Style]


def section(
    items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules, looks: Looks, search: bool
) -> Section:
    """The section on effects; empty if the sweep has none to show."""
    effects = [] if search else _effects(items, rules)
    sentences, important = _searched(items, rules) if search else ((), [])
    return Section(
        "matters",
        "What mattered",
        sentences,
        (),
        (*effects, *important, *_costs(arms, rules, looks)),
    )


def _effects(items: Sequence[TrialHistory], rules: Rules) -> list[Picture]:
    metric = rules.tested
    effects = analysis.main_effects(items, rules.objective, metric)
    settings = dict.fromkeys(effect.setting for effect in effects)
    if len(settings) < 2 and all(effect.arms < 2 for effect in effects):
        return []  # one setting varies: the main table says it all
    factor = scale(metric)
    dots = tuple(
        Dot(
            effect.setting,
            effect.level,
            effect.mean * factor,
            _by(effect.low, factor),
            _by(effect.high, factor),
        )
        for effect in effects
    )
    caption = (
        f"Main effects: {label(metric).lower()} at a value of a setting, less the mean over that "
        "setting's values, averaged over arms that differ in this setting alone; 95 % Student "
        "interval over seeds, not adjusted for the number of values."
    )
    if len(dots) > _MAX_DOTS:
        caption += f" The first {_MAX_DOTS} of {len(dots)} are drawn."
    alt = f"Main effects of {', '.join(settings)} on {label(metric).lower()}, with intervals."
    unit = "points" if factor > 1 else metric
    return [
        Picture(
            "effects",
            alt,
            caption,
            Dots(dots[:_MAX_DOTS], f"Difference of {label(metric).lower()}, {unit}"),
        )
    ]


def _by(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _searched(items: Sequence[TrialHistory], rules: Rules) -> tuple[tuple[str, ...], list[Picture]]:
    """Of a search's first seed; trials stopped early count with the figure that stopped them."""
    ended = [trial for trial in items if trial.status in (Status.FINISHED, Status.STOPPED)]
    first = ended[0].trial.seed if ended else 0
    known = [
        (trial, chosen.metrics[rules.objective.name])
        for trial in ended
        if trial.trial.seed == first and (chosen := rules.objective.chosen(trial.curve)) is not None
    ]
    points = [(trial.trial.settings, value) for trial, value in known]
    shares = analysis.importance(points, rules.objective.goal, rules.bounds)
    sliced = _slices(known, rules, [share.name for share in shares])
    if not shares:
        least = analysis.MIN_TRIALS
        return (
            f"Importance of the parameters: too few trials ({len(points)}; at least {least} are "
            "needed).",
        ), sliced
    dots = tuple(
        Dot("", share.name, 100 * share.share, 100 * share.low, 100 * share.high)
        for share in shares[:_MAX_DOTS]
    )
    caption = (
        "Importance (PED-ANOVA, arXiv 2304.10255): each parameter's share of what sets the best "
        f"tenth of {some(len(points), 'trial')} apart in {label(rules.objective.name).lower()}; "
        "95 % bootstrap interval over trials. Trials that were stopped early count with their last "
        "figure."
    )
    alt = f"Importance of {', '.join(share.name for share in shares)}, in percent, with intervals."
    return _importance(shares), [
        Picture("importance", alt, caption, Dots(dots, "Importance, %")),
        *sliced,
    ]


def _importance(shares: Sequence[analysis.Importance]) -> tuple[str, ...]:
    """Which parameters matter more than an equal share; nothing to say of a single one."""
    if len(shares) < 2:
        return ()
    chosen = [share.name for share in analysis.standing_out(shares)]
    equal = f"the equal share of {100 / len(shares):.0f} %"
    if not chosen:
        return (f"No parameter stands out: no interval lies above {equal}.",)
    return (f"Above {equal} with its whole interval: {names(chosen)}.",)


def _slices(
    known: Sequence[tuple[TrialHistory, float]], rules: Rules, ranked: Sequence[str]
) -> list[Picture]:
    """Each trial's figure against each parameter that varies, the most important first."""
    varied: dict[str, set[str]] = {}
    for trial, _ in known:
        for name, value in trial.trial.settings.items():
            varied.setdefault(name, set()).add(show(value))
    names = [name for name in dict.fromkeys([*ranked, *varied]) if len(varied.get(name, ())) > 1]
    if not names:
        return []
    metric = rules.objective.name
    best = (max if rules.objective.goal == "maximize" else min)(value for _, value in known)
    caption = (
        f"{label(metric)} of each trial against each parameter. Hollow: stopped early, with its "
        "last "
        "figure; in the second colour: the best. A pattern in one panel may come from another "
        "parameter."
    )
    if len(names) > _SLICES:
        caption += f" The {'most important' if ranked else 'first'} {_SLICES} of {len(names)}."
    shown = tuple(_slice(name, known, rules, best) for name in names[:_SLICES])
    alt = f"{label(metric)} of {some(len(known), 'trial')} against {', '.join(names[:_SLICES])}."
    return [Picture("slices", alt, caption, Slices(shown, heading(metric)))]


def _slice(
    name: str, known: Sequence[tuple[TrialHistory, float]], rules: Rules, best: float
) -> Slice:
    metric, bounds = rules.objective.name, rules.bounds.get(name)
    having = [(trial, value) for trial, value in known if name in trial.trial.settings]
    values = [trial.trial.settings[name] for trial, _ in having]
    ordered: tuple[str, ...] = () if bounds else levels([show(value) for value in values])
    places = [float(value) if bounds else ordered.index(show(value)) for value in values]
    points = tuple(
        Point(place, value * scale(metric), trial.status is Status.FINISHED, value == best)
        for place, (trial, value) in zip(places, having, strict=True)
    )
    return Slice(name, points, ordered, bool(bounds and bounds.log))


def _costs(arms: pd.DataFrame, rules: Rules, looks: Looks) -> list[Picture]:
    """The tested figure against time and against trainable weights."""
    metric = rules.tested if rules.tested in arms else rules.objective.name
    axes = {
        "time": ("seconds", "Time to train, s", 1.0),
        "size": ("trainable", "Trainable parameters, millions", 1e-6),
    }
    pictures = []
    for name, (column, below, unit) in axes.items():
        if metric not in arms or column not in arms:
            continue
        known = arms[arms[metric].notna() & arms[column].notna()]
        if len(known) < 2 or (name == "size" and known[column].nunique() < 2):
            continue
        cost = [float(value) * unit for value in known[column]]
        values = [float(value) for value in known[metric]]
        best = analysis.front(list(zip(cost, values, strict=True)), analysis.rises(metric))
        others = [place for place in range(len(known)) if place not in best]
        order = [*best, *(others if len(known) <= _NAMED else ())]
        numbers = {place: number for number, place in enumerate(order, start=1)}
        marks = tuple(
            Mark(str(arm), x, y * scale(metric), looks[arm], numbers.get(place, 0), place in best)
            for place, (arm, x, y) in enumerate(zip(known["arm"], cost, values, strict=True))
        )
        caption = (
            f"{label(metric)} against {below.partition(',')[0].lower()}, mean over an arm's "
            "finished "
            "seeds. The line joins the arms of the Pareto front: no other arm is both cheaper and "
            "better. Differences along it may be chance."
        )
        alt = (
            f"{label(metric)} against {below.lower()}: {some(len(best), 'arm')} of {len(known)} on "
            "the Pareto front."
        )
        pictures.append(Picture(name, alt, caption, Scatter(marks, below, heading(metric))))
    return pictures
