"""Selection is by validation: the ranking of arms and the champion, where validation and test
disagree.
"""

from __future__ import annotations

from suite.analysis import rank_arms
from suite.core.records import EpochRecord, Objective, Status, Trial
from suite.launch import best_trial
from suite.storage.journal import TrialHistory


def item(arm: str, seed: int, *epochs: tuple[float, float]) -> TrialHistory:
    """A finished trial of (validation accuracy, test accuracy) by epoch."""
    records = {
        e: EpochRecord(e, {"val/acc": v, "test/acc": t}) for e, (v, t) in enumerate(epochs, start=1)
    }
    return TrialHistory(
        Trial(f"{arm}{seed}", arm, seed, f"{arm} seed={seed}"), {}, records, Status.FINISHED
    )


TRIALS = [
    item("a", 0, (0.5, 0.9), (0.7, 0.1)),
    item("a", 1, (0.6, 0.9), (0.8, 0.2)),
    item("b", 0, (0.6, 0.8), (0.5, 0.99)),
    item("b", 1, (0.65, 0.9), (0.5, 0.99)),
]
ACC = Objective("val/acc")


def test_arms_are_ranked_by_validation() -> None:
    assert rank_arms(TRIALS, ACC) == ["a", "b"]
    assert rank_arms(TRIALS, Objective("val/acc", "maximize", "last")) == ["a", "b"]


def test_the_champion_is_the_best_by_validation_of_its_arm() -> None:
    winner = best_trial(TRIALS[:2], ACC)
    assert winner is not None and winner.trial.seed == 1
    assert best_trial([], ACC) is None
