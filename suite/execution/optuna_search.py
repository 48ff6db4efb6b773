"""Suggesting the next arm from what earlier ones achieved: Optuna behind two verbs, ask and tell.

The journal is the record; the study lives in memory and is rebuilt from it at each launch, so two
sweeps never mix, nothing is left RUNNING by a crash, and no pickle is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from suite.config.space import Choices, Parameter, Point, Space, show
from suite.core.records import Objective, stream

optuna.logging.set_verbosity(optuna.logging.WARNING)
Labels = Mapping[str, Any]  # parameter -> label of its choice, or its number


class OptunaSearch:
    """TPE over a space (Bergstra et al. 2011; multivariate, as Optuna 5 does it); several
    objectives: Pareto.

    Suggestions repeat for the same history told in the same order; with trials running side by side
    that order depends on their speed, so what repeats exactly is each trial, not the search.

    Args:
        space: what varies.
        objectives: one, or several for a Pareto search.
        name: the sweep's; its suggestions are its own.
        known: labels and objective values (None = failed) of the trials in the journal that have
            ended.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        name: str,
        known: Iterable[tuple[Labels, Sequence[float] | None]] = (),
    ) -> None:
        self.space = space
        past = [
            frozen
            for labels, values in known
            if (frozen := self._frozen(labels, values)) is not None
        ]
        sampler = optuna.samplers.TPESampler(seed=stream(len(past), f"search:{name}") % 2**32)
        directions = [objective.goal for objective in objectives]
        self.study = optuna.create_study(directions=directions, sampler=sampler, study_name=name)
        self.study.add_trials(past)
        self._asked: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, Point]:
        """A suggestion, and the number to tell its outcome under."""
        trial = self.study.ask()
        self._asked[trial.number] = trial
        return trial.number, self.space.walk(lambda parameter: _suggest(trial, parameter))

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """The outcome of a suggestion; None = it failed. NaN must never come here."""
        trial = self._asked.pop(number)
        if values is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, list(values))

    def add(self, labels: Labels, values: Sequence[float] | None) -> None:
        """The outcome of a trial that was not asked for here: the baseline's, or one begun in an
        earlier launch.
        """
        frozen = self._frozen(labels, values)
        if frozen is not None:
            self.study.add_trial(frozen)

    def _frozen(
        self, labels: Labels, values: Sequence[float] | None
    ) -> optuna.trial.FrozenTrial | None:
        """A past trial, or None where the space has changed so that it is no point of it."""
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}

        def recall(parameter: Parameter) -> Any:
            label = labels[parameter.name]
            params[parameter.name] = _encode(parameter, label)
            distributions[parameter.name] = _distribution(parameter)
            return label

        try:
            self.space.walk(recall)
            state = TrialState.COMPLETE if values is not None else TrialState.FAIL
            return create_trial(
                params=params, distributions=distributions, values=values, state=state
            )
        except (KeyError, ValueError):
            return None


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    if isinstance(parameter, Choices):
        names = _names(parameter)
        return parameter.labels[names.index(trial.suggest_categorical(parameter.name, names))]
    if parameter.whole:
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high))
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choices):
        return CategoricalDistribution(_names(parameter))
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _encode(parameter: Parameter, label: Any) -> Any:
    if isinstance(parameter, Choices):
        return _names(parameter)[parameter.labels.index(label)]
    return int(label) if parameter.whole else float(label)


def _names(parameter: Choices) -> list[str]:
    """Categories as text: Optuna warns of other types and then cannot compute importances of
    them.
    """
    return [f"{index}:{show(label)}" for index, label in enumerate(parameter.labels)]


def quiet() -> None:
    """Keep Optuna's experimental-feature warnings from the user's console."""
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
