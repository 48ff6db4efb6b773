"""Which arm and which trial lead."""

from __future__ import annotations

from collections.abc import Sequence

from suite.analysis import baselines, lost_seeds, rank_arms
from suite.core.records import Objective
from suite.launch.ledger import Ledger
from suite.storage.journal import TrialHistory


def rank(ledger: Ledger, finished: Sequence[TrialHistory]) -> list[str]:
    """Arms by their mean, best first.

    Arms that lost seeds come last: only their lucky seeds count.
    """
    lost = arms_with_lost_seeds(ledger)
    return sorted(rank_arms(finished, ledger.spec.objective), key=lambda arm: arm in lost)


def arms_with_lost_seeds(ledger: Ledger) -> set[str]:
    """Arms that failed, or were stopped, on seeds that their baseline finished."""
    history = ledger.history
    items = [item for item in history.in_plan() if ledger.counts_for_verdicts(item)]
    planned = {(item.trial.arm, item.trial.seed) for item in items}
    removed = (  # taking failed seeds out of the file does not undo their loss
        []
        if ledger.spec.search
        else [
            item
            for item in history.trials.values()
            if (item.trial.arm, item.trial.seed) not in planned
        ]
    )
    return set(lost_seeds([*items, *removed], baselines(items)))


def best_trial(items: Sequence[TrialHistory], objective: Objective) -> TrialHistory | None:
    """The trial with the best value."""
    best: tuple[TrialHistory, float] | None = None
    for item in items:
        value = item.value(objective)
        if value is not None and objective.better(value, best[1] if best else None):
            best = (item, value)
    return best[0] if best else None
