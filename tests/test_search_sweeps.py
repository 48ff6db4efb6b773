"""Searches: Optuna and random, stopped early, killed in the middle, confirmed on seeds that they
have not seen.
"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Folder

from suite.config.space import Choice, Choices, Condition, Range, Space
from suite.core.records import Objective
from suite.execution.optuna_search import OptunaSearch

SEARCH: dict[str, Any] = {
    "method": "optuna",
    "run_cap": 8,
    "parameters": {
        "train.lr": {"min": 0.001, "max": 1.0, "distribution": "log_uniform"},
        "augment": {"values": ["none", "flip"]},
    },
    "baseline": {"train.lr": 0.05, "augment": "none"},
    "early_terminate": {"type": "asha", "grace_epochs": 1, "reduction_factor": 2},
    "confirm": {"top": 2},
    "seeds": [0, 1],
}


def ends(folder: Folder) -> dict[str, dict[str, Any]]:
    """The last end of each trial, by name."""
    names = {entry["id"]: entry["name"] for entry in folder.journal if entry["kind"] == "trial"}
    return {names[entry["id"]]: entry for entry in folder.journal if entry["kind"] == "end"}


@pytest.mark.slow
@pytest.mark.full
def test_a_search_killed_in_the_middle_finishes_without_a_double(folder: Folder) -> None:
    folder.write(**SEARCH)
    process = folder.start(SLOW="0.05")
    folder.wait_for(process, lambda journal: sum(entry["kind"] == "end" for entry in journal) >= 3)
    process.kill()
    process.communicate()
    before = {
        name: entry
        for name, entry in ends(folder).items()
        if entry["status"] in ("finished", "stopped")
    }
    done = folder.sweep()
    assert "confirming" in done.stdout
    trials = [entry for entry in folder.journal if entry["kind"] == "trial"]
    assert sum(entry["seed"] == 0 for entry in trials) == SEARCH["run_cap"]
    last = ends(folder)
    stopped = [name for name, entry in last.items() if entry["status"] == "stopped"]
    assert stopped and all(last[name]["reason"].startswith("asha") for name in stopped)
    # what had ended before the kill was not run again
    starts = [entry["id"] for entry in folder.journal if entry["kind"] == "start"]
    for name, entry in before.items():
        assert last[name]["seq"] == entry["seq"] and starts.count(entry["id"]) == 1, name
    # the confirmed arms and the baseline ran at full length on the seed that the search had not
    # seen
    confirmed = next(entry for entry in reversed(folder.journal) if entry["kind"] == "plan")[
        "confirmed"
    ]
    assert "lr=0.05 augment=none" in confirmed and len(confirmed) in (2, 3)
    for arm in confirmed:
        assert last[f"{arm} seed=1"]["status"] == "finished"
        assert sorted(folder.curves()[f"{arm} seed=1"]) == [1, 2, 3, 4]
    unconfirmed = [
        entry for entry in trials if entry["seed"] == 1 and entry["arm"] not in confirmed
    ]
    assert not unconfirmed
    champion = next(
        entry["id"] for entry in reversed(folder.journal) if entry["kind"] == "champion"
    )
    assert champion in {entry["id"] for entry in trials if entry["seed"] == 1}
    assert [entry["seeds"] for entry in folder.journal if entry["kind"] == "look"] == [[1]]
    assert folder.query("select value from tags where key = 'suite.search_seed'") == [("0",)]
    assert "RUNNING" not in [*folder.runs().values(), *folder.parents()]
    assert len(folder.runs()) == len(trials)
    folder.assert_tracked()
    again = folder.sweep()
    assert "already complete" in again.stdout and len(folder.runs()) == len(trials)


@pytest.mark.slow
@pytest.mark.full
def test_a_random_search_with_median_stopping(folder: Folder) -> None:
    early = {"type": "median", "grace_epochs": 1, "min_trials": 2}
    folder.write(
        **(SEARCH | {"method": "random", "run_cap": 5, "early_terminate": early, "baseline": None})
    )
    folder.sweep()
    trials = [entry for entry in folder.journal if entry["kind"] == "trial"]
    assert (
        sum(entry["seed"] == 0 for entry in trials) == 5
        and sum(entry["seed"] == 1 for entry in trials) == 2
    )
    assert set(folder.runs().values()) == {"FINISHED"}


@pytest.mark.slow
def test_a_pareto_search_has_no_champion(folder: Folder) -> None:
    folder.write(
        **(
            SEARCH
            | {
                "run_cap": 3,
                "early_terminate": None,
                "baseline": None,
                "confirm": None,
                "seeds": [0],
            }
        ),
        metric=[{"name": "val/acc"}, {"name": "time/epoch_s"}],
    )
    folder.sweep()
    assert len(folder.runs()) == 3
    assert not any(entry["kind"] == "champion" for entry in folder.journal)


# ---- Optuna behind ask and tell ------------------------------------------------------------------

SPACE = Space(
    (
        Choices("head", (Choice("linear", {}), Choice("wide", {"model.head.hidden": [64, 32]}))),
        Range("train.lr", 1e-4, 0.1, "log_uniform"),
        Range("depth", 1, 5, "int_uniform", (Condition("head", ("wide",)),)),
    )
)
GOAL = (Objective("val/acc"),)


def test_a_study_rebuilt_from_the_journal_knows_what_it_knew() -> None:
    study = OptunaSearch(SPACE, GOAL, "s")
    known = []
    for value in (0.3, 0.5, None, 0.4):
        number, point = study.ask()
        values = None if value is None else [value]
        study.tell(number, values)
        known.append(({name: choice.label for name, choice in point.items()}, values))
    again = OptunaSearch(SPACE, GOAL, "s", known)
    for one, two in zip(study.study.trials, again.study.trials, strict=True):
        assert (one.state, one.values) == (two.state, two.values)
        assert two.params == pytest.approx(
            one.params, rel=1e-5
        )  # a label has six digits, and is what is trained
    assert again.study.best_value == 0.5


def test_a_conditional_parameter_is_only_asked_where_it_counts() -> None:
    study = OptunaSearch(SPACE, GOAL, "conditions")
    points = []
    for _ in range(20):
        number, point = study.ask()
        study.tell(number, [0.1])
        points.append(point)
    assert {("depth" in point) == (point["head"].label == "wide") for point in points} == {True}
    assert {point["head"].label for point in points} == {"linear", "wide"}


def test_a_known_trial_that_the_space_no_longer_holds_is_left_out() -> None:
    known = [
        ({"head": "narrow", "train.lr": 0.01}, [0.9]),
        ({"head": "linear", "train.lr": 0.01}, [0.5]),
    ]
    assert len(OptunaSearch(SPACE, GOAL, "s", known).study.trials) == 1


# ---- early stopping, keyed by our ids ------------------------------------------------------------


def curves(count: int = 12, epochs: int = 9) -> list[tuple[str, list[float]]]:
    import random

    draw = random.Random(3)
    return [
        (f"t{number}", [draw.random() * epoch / epochs for epoch in range(1, epochs + 1)])
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize("later", [0, 1, 2])
def test_a_replayed_rule_decides_as_the_unbroken_one(kind: str, later: int) -> None:
    """Trials run two at a time; the journal's entries up to the kill bring a new rule to where
    the old one was.
    """
    from suite.config import AshaConfig, MedianConfig
    from suite.execution.early_stopping import EarlyStop

    rule = (
        AshaConfig(grace_epochs=1, reduction_factor=3)
        if kind == "asha"
        else MedianConfig(min_trials=3)
    )
    waiting, running, journal = curves(), [], []
    unbroken, stops = EarlyStop(rule, Objective("val/acc"), 9), []
    while waiting or running:
        running += [[*waiting.pop(0), 0] for _ in range(min(2 - len(running), len(waiting)))]
        for trial in list(running):
            name, values, _ = trial
            trial[2] += 1
            metrics = {"val/acc": values[trial[2] - 1]}
            journal.append(
                {
                    "seq": len(journal) + 1,
                    "kind": "epoch",
                    "id": name,
                    "epoch": trial[2],
                    "metrics": metrics,
                }
            )
            stops.append(unbroken.feed(name, trial[2], metrics))
            if stops[-1] or trial[2] == len(values):
                running.remove(trial)
    where = [place for place, stop in enumerate(stops) if stop]
    killed_after = where[len(where) // 2] + later
    assert where[0] < killed_after <= where[-1] and not all(stops)

    resumed = EarlyStop(rule, Objective("val/acc"), 9)
    names = {name for name, _ in curves()}
    known = resumed.replay(journal[:killed_after], names)
    assert known == {
        entry["id"] for entry, stop in zip(journal[:killed_after], stops, strict=False) if stop
    }
    rest = [
        resumed.feed(entry["id"], entry["epoch"], entry["metrics"])
        for entry in journal[killed_after:]
    ]
    assert rest == stops[killed_after:]
    again = [resumed.feed(entry["id"], entry["epoch"], entry["metrics"]) for entry in journal]
    assert not any(again), "an epoch that was fed before is not judged again"


def test_asha_judges_a_trial_by_its_best_epoch_so_far() -> None:
    from suite.config import AshaConfig
    from suite.execution.early_stopping import EarlyStop

    rules = EarlyStop(AshaConfig(grace_epochs=2, reduction_factor=2), Objective("val/acc"), 8)
    for name in ("a", "b"):
        assert not rules.feed(name, 1, {"val/acc": 0.5}) and not rules.feed(
            name, 2, {"val/acc": 0.5}
        )
    rules.feed("c", 1, {"val/acc": 0.9})
    assert not rules.feed("c", 2, {"val/acc": 0.1}), "it has been better than that"
    rules.feed("d", 1, {"val/acc": 0.1})
    assert rules.feed("d", 2, {"val/acc": 0.1})


def test_a_grace_longer_than_the_training_is_no_mistake() -> None:
    from suite.config import AshaConfig
    from suite.execution.early_stopping import EarlyStop

    rules = EarlyStop(AshaConfig(grace_epochs=5), Objective("val/acc"), 2)
    assert not any(rules.feed(name, epoch, {"val/acc": 0.1}) for name in "abc" for epoch in (1, 2))
