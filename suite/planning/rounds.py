"""The rounds of a sweep with planned looks, recomputed from the journal: which trials come next,
what is decided.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from suite import analysis
from suite.config import Arm, SweepSpec
from suite.core.records import Looks, Trial
from suite.planning.plan import Plan
from suite.storage.journal import History, TrialHistory


@dataclass(frozen=True)
class Round:
    """The trials of a sweep up to one of its planned looks.

    Attributes:
        number: of the look, from 1.
        seeds: those of the look.
        arms: the arms that run the new seeds of this round.
        pairs: all trials up to the look, those of earlier rounds first.
        ended: whether every trial has ended, so that the verdicts can be looked at.
        decided: arms whose verdict this look decided.
        undecided: arms that need more seeds after this look.
        going: the names of the undecided arms and of their baselines.
    """

    number: int
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[Arm, Trial], ...]
    ended: bool = False
    decided: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    going: frozenset[str] = frozenset()


def rounds(plan: Plan, history: History) -> list[Round]:
    """All rounds whose trials have ended, and after them the one to run, if any.

    The same journal always gives the same rounds, so a launch goes on wherever the last one ended.
    """
    known: list[Round] = []
    arms, pairs = plan.spec.arms_list, ()  # type: tuple[Arm, ...], tuple[tuple[Arm, Trial], ...]
    before: Collection[int] = ()
    for number, seeds in enumerate(plan.spec.looks, start=1):
        pairs = (*pairs, *plan.trials(arms, [seed for seed in seeds if seed not in before]))
        present = _looked_at(plan.spec, history, Round(number, seeds, arms, pairs))
        known.append(present)
        arms, before = tuple(arm for arm in arms if arm.name in present.going), seeds
        if not present.ended or not arms:
            break
    return known


def looks_at(spec: SweepSpec, history: History, number: int) -> Looks:
    """The planned looks, with those made up to this one in the order of the journal.

    Looks made without this plan have spent some of the error.
    """
    missing = [seeds for seeds in spec.looks[:number] if seeds not in history.looks]
    other_plan = any(planned != spec.looks for planned in history.look_plans)
    return Looks(planned=spec.looks, made=(*history.looks, *missing), open=other_plan)


def _looked_at(spec: SweepSpec, history: History, present: Round) -> Round:
    """The round with its verdicts, if all of its trials have ended."""
    items = [history.trials[trial.id] for _, trial in present.pairs if trial.id in history.trials]
    if len(items) < len(present.pairs) or not all(item.ended for item in items):
        return present
    looks = looks_at(spec, history, present.number)
    frame = analysis.compare(items, spec.objective, spec.metrics[0].margin, looks=looks)
    decided = frame.loc[frame["decided at"] == len(present.seeds), "arm"]
    undecided = analysis.undecided(frame)
    return Round(
        present.number,
        present.seeds,
        present.arms,
        present.pairs,
        ended=True,
        decided=tuple(map(str, decided)),
        undecided=tuple(undecided),
        going=_with_baselines(items, undecided),
    )


def _with_baselines(items: Sequence[TrialHistory], undecided: Sequence[str]) -> frozenset[str]:
    against = analysis.baselines(items)
    return frozenset({*undecided, *(against[arm] for arm in undecided)})
