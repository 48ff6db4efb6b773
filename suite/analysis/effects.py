"""Main effects of a grid, importance in a search, and the Pareto front of the arms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite.analysis.significance import interval
from suite.analysis.verdicts import Pair, values_by_pair
from suite.config.space import show
from suite.core.records import Objective, Status
from suite.storage.journal import TrialHistory

MIN_TRIALS = 20  # with fewer, no importance is given
RESAMPLES = 200
_TOP, _MIN_TOP = 0.1, 5  # the share and the least number of trials that count as the best


@dataclass(frozen=True)
class Effect:
    """What one value of a setting does, on average over the other settings.

    Attributes:
        setting, level: its name and the value as text.
        arms: how many arms the mean is of.
        mean, low, high: the figure less the mean over all of the setting's values, with a 95 %
            interval over seeds; the bounds are None with one seed.
    """

    setting: str
    level: str
    arms: int
    mean: float
    low: float | None
    high: float | None


def main_effects(items: Iterable[TrialHistory], objective: Objective, metric: str) -> list[Effect]:
    """Main effects of the settings that vary, over arms that differ in this setting alone.

    A setting without such arms (named recipes) has no main effect. Means are over the seeds that
    all these arms have with the same numerics.
    """
    items = [trial for trial in items if trial.status is Status.FINISHED]
    settings = {
        trial.trial.arm: {name: show(value) for name, value in trial.trial.settings.items()}
        for trial in items
    }
    values = values_by_pair(items, objective, metric)
    names = dict.fromkeys(name for by_name in settings.values() for name in by_name)
    return [effect for name in names for effect in _effects(name, settings, values)]


def _effects(
    name: str, settings: Mapping[str, Mapping[str, str]], values: Mapping[str, Mapping[Pair, float]]
) -> list[Effect]:
    cells = _cells(name, {arm: settings[arm] for arm in values if arm in settings})
    levels = list(dict.fromkeys(level for cell in cells for level in cell))
    cells = [cell for cell in cells if len(cell) == len(levels)]
    arms = [arm for cell in cells for arm in cell.values()]
    pairs = sorted(set.intersection(*(set(values[arm]) for arm in arms))) if arms else []
    if not pairs:
        return []
    means = np.array(
        [
            [np.mean([values[cell[level]][pair] for cell in cells]) for level in levels]
            for pair in pairs
        ]
    )
    means -= means.mean(axis=1, keepdims=True)
    spans = [interval(column.tolist()) for column in means.T]
    return [
        Effect(name, level, len(cells), float(mean), low, high)
        for level, (mean, low, high) in zip(levels, spans, strict=True)
        if mean is not None
    ]


def _cells(name: str, settings: Mapping[str, Mapping[str, str]]) -> list[dict[str, str]]:
    """Level -> arm, for each combination of the other settings with several levels."""
    groups: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
    for arm, own in settings.items():
        if name in own:
            rest = frozenset((key, value) for key, value in own.items() if key != name)
            groups.setdefault(rest, {})[own[name]] = arm
    return [group for group in groups.values() if len(group) > 1]


# ---- searches ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bounds:
    """The range that a search drew a parameter from."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Importance:
    """A parameter's share of the total importance, with a 95 % bootstrap interval over trials."""

    name: str
    share: float
    low: float
    high: float


def importance(
    points: Sequence[tuple[Mapping[str, Any], float]], goal: str, bounds: Mapping[str, Bounds]
) -> list[Importance]:
    """PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255), largest share first.

    Empty with fewer than ``MIN_TRIALS`` trials.

    Args:
        points: settings and figure of each trial.
        goal: ``maximize`` or ``minimize``.
        bounds: parameters that are ranges; all others are choices.
    """
    if len(points) < MIN_TRIALS or len({value for _, value in points}) < 2:
        return []
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trials = _frozen(points, bounds)
        shares = _shares(trials, goal)
        random = np.random.default_rng(0)
        draws = random.integers(0, len(trials), (RESAMPLES, len(trials)))
        drawn = [_shares([trials[index] for index in draw], goal) for draw in draws]
    importances = []
    for name, share in shares.items():
        resampled = [draw_shares.get(name, 0.0) for draw_shares in drawn]
        low, high = np.quantile(resampled, (0.025, 0.975))
        importances.append(Importance(name, share, float(low), float(high)))
    return sorted(importances, key=lambda importance: -importance.share)


def standing_out(shares: Sequence[Importance]) -> list[Importance]:
    """The parameters whose whole interval lies above an equal share."""
    return [share for share in shares if share.low > 1 / len(shares)]


def _shares(trials: Sequence[Any], goal: str) -> dict[str, float]:
    import optuna

    study = optuna.create_study(direction=goal)
    study.add_trials(trials)
    top = min(0.5, max(_TOP, _MIN_TOP / len(trials)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top)
    importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in importances.items()}


def _frozen(
    points: Sequence[tuple[Mapping[str, Any], float]], bounds: Mapping[str, Bounds]
) -> list[Any]:
    """Optuna's trials."""
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import create_trial

    kinds: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for settings, _ in points for name in settings):
        span = bounds.get(name)
        if span is None:
            kinds[name] = CategoricalDistribution(
                sorted({show(settings[name]) for settings, _ in points if name in settings})
            )
        elif span.whole:
            kinds[name] = IntDistribution(int(span.low), int(span.high))
        else:
            kinds[name] = FloatDistribution(span.low, span.high, log=span.log)
    trials = []
    for settings, value in points:
        params = {name: _inside(label, bounds.get(name)) for name, label in settings.items()}
        trials.append(
            create_trial(
                params=params, distributions={name: kinds[name] for name in params}, value=value
            )
        )
    return trials


def _inside(label: Any, bounds: Bounds | None) -> Any:
    """The baseline of a search may lie outside its ranges."""
    if bounds is None:
        return show(label)
    inside = min(max(float(label), bounds.low), bounds.high)
    return int(inside) if bounds.whole else inside


# ---- cost ----------------------------------------------------------------------------------------


def front(points: Sequence[tuple[float, float]], rising: bool = True) -> list[int]:
    """The Pareto front of (cost, figure): places of the points that no other beats, by cost."""
    order = sorted(
        range(len(points)), key=lambda i: (points[i][0], -points[i][1] if rising else points[i][1])
    )
    undominated: list[int] = []
    for i in order:
        if not undominated or (
            points[i][1] > points[undominated[-1]][1]
            if rising
            else points[i][1] < points[undominated[-1]][1]
        ):
            undominated.append(i)
    return undominated
