"""The replay of searches over a recorded grid counts what it should: epochs, what was seen, what
would be chosen.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.search import (
    Listed,
    Suggested,
    Table,
    asha,
    at,
    extract,
    load,
    percent,
    replay,
    score,
    shuffled,
)
from suite.storage.journal import Journal

RATES = (0.01, 0.1, 1.0)
TINY = Table(
    ("train.lr",),
    tuple((rate,) for rate in RATES),
    ((0.1, 0.2, 0.3), (0.2, 0.5, 0.9), (0.4, 0.4, 0.4)),
)


def plane() -> Table:
    """Nine arms of nine epochs that rise as straight lines; the higher at the end, the higher at
    any time.
    """
    labels = tuple((lr, decay) for lr in RATES for decay in (0.0, 0.1, 0.2))
    ends = [0.10, 0.12, 0.14, 0.50, 0.90, 0.52, 0.30, 0.32, 0.34]
    return Table(
        ("train.lr", "train.weight_decay"),
        labels,
        tuple(tuple(end * epoch / 9 for epoch in range(1, 10)) for end in ends),
    )


def test_a_table_that_can_be_worked_out_by_hand() -> None:
    """One worker, in order: 3 epochs of the first arm, then the second arm's third epoch is the
    best: the sixth.
    """
    trail = replay(TINY, Listed([0, 1, 2]), workers=1)
    assert trail.values == [0.1, 0.2, 0.3, 0.3, 0.5, 0.9, 0.9, 0.9, 0.9]
    assert trail.arms == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert trail.epochs_to(0.9) == 6
    assert trail.epochs_to(0.91) == math.inf
    assert trail.regret(TINY, 4) == pytest.approx(
        0.6
    )  # the first arm would be chosen, and comes to 0.3
    assert trail.regret(TINY, 100) == 0.0


def test_two_workers_pay_for_both() -> None:
    trail = replay(TINY, Listed([0, 1, 2]))
    assert len(trail.arms) == TINY.total == 9
    assert trail.values[:6] == [0.1, 0.2, 0.2, 0.5, 0.5, 0.9]
    assert trail.epochs_to(0.9) == 6  # three of the second arm, three of the first beside it


def test_a_choice_is_worth_what_it_comes_to_at_full_length() -> None:
    """The arm that leads after one epoch is chosen, though the value seen of it is not what it
    is worth.
    """
    table = Table(("train.lr",), TINY.labels, ((0.5, 0.6, 0.6), (0.2, 0.5, 0.9), (0.4, 0.4, 0.4)))
    trail = replay(table, Listed([0, 1, 2]), workers=3)
    assert trail.regret(table, 1) == pytest.approx(0.3)


def test_a_searcher_that_knows_the_answer_needs_the_winners_epochs() -> None:
    table = plane()
    trail = replay(table, Listed([table.winner]), workers=1)
    assert trail.epochs_to(table.final[table.winner]) == len(trail.arms) == table.epochs
    found = score([table], [(0, trail)])
    assert found.reached == (pytest.approx(9 / 81),)
    assert found.regrets == found.ends == (0.0,)
    assert found.elsewhere == ()


def test_the_choice_is_judged_on_the_other_seed_too() -> None:
    """Chosen on the first seed after three of nine epochs: the first arm; on the second seed it
    is the best.
    """
    other = Table(TINY.names, TINY.labels, (TINY.curves[1], TINY.curves[0], TINY.curves[2]))
    found = score([TINY, other], [(0, replay(TINY, Listed([0, 1, 2]), workers=1))])
    assert found.regrets == (pytest.approx(60.0),)
    assert found.elsewhere == (0.0,)


def test_random_search_takes_what_it_must_on_average() -> None:
    """One best arm of nine in random order: on average the fifth is it."""
    table = plane()
    trails = [replay(table, shuffled(table, turn), workers=1) for turn in range(400)]
    mean = sum(trail.epochs_to(0.9) for trail in trails) / len(trails)
    assert mean == pytest.approx(5 * 9, rel=0.06)
    assert all(len(trail.arms) == table.total for trail in trails)


def test_asha_stops_what_it_must() -> None:
    """Best first, then worse and worse: every later one is stopped at the first rung."""
    table = plane()
    order = sorted(range(9), key=lambda arm: -table.final[arm])
    trail = replay(table, Listed(order), asha(table, grace=3, factor=3), workers=1)
    assert len(trail.arms) == 9 + 8 * 3
    assert trail.epochs_to(0.9) == 9


def test_asha_stops_nothing_that_is_better_than_all_before() -> None:
    """Worst first: each is the best of its rung, so none is stopped."""
    table = plane()
    order = sorted(range(9), key=lambda arm: table.final[arm])
    assert len(replay(table, Listed(order), asha(table), workers=1).arms) == table.total


def test_asha_compares_the_best_epoch_so_far() -> None:
    """A third epoch that happens to be bad does not stop the arm that was best before it."""
    curves = ((0.5, 0.5, 0.5, 0.5), (0.7, 0.7, 0.1, 0.9))
    table = Table(("train.lr",), TINY.labels[:2], curves)
    assert replay(table, Listed([0, 1]), asha(table), workers=1).values[-1] == 0.9


@pytest.mark.parametrize("lr_range", [False, True])
def test_optuna_is_asked_and_told(lr_range: bool) -> None:
    table = plane()
    searcher = Suggested(table, "test", lr_range)
    trail = replay(table, searcher)
    told = [trial for trial in searcher.search.study.trials if trial.state.is_finished()]
    if lr_range:  # each suggestion is a trial of its own
        assert len(trail.arms) == table.total and len(told) == 9
    else:  # no arm is paid for twice
        assert len(trail.arms) % 9 == 0 and len(trail.arms) <= table.total
        assert len(told) == len(trail.arms) / 9 + searcher.repeats
    assert {trial.value for trial in told if trial.value is not None} <= {
        *table.final,
        *sum(table.curves, ()),
    }
    again = replay(table, Suggested(table, "test", lr_range))
    assert again == trail


def test_the_nearest_recorded_rate_stands_for_one_between() -> None:
    table = plane()
    lr, decay = table.space(lr_range=True).parameters
    assert table.at({"train.lr": lr.choose(0.3), "train.weight_decay": decay.choose(0.1)}) == 4
    assert table.at({"train.lr": lr.choose(0.4), "train.weight_decay": decay.choose(0.1)}) == 7


def test_a_failed_arm_costs_its_epochs_and_says_nothing_at_its_end() -> None:
    table = Table(("train.lr",), TINY.labels, (TINY.curves[0], TINY.curves[1][:1], TINY.curves[2]))
    told: list[tuple[str, float | None]] = []
    searcher = Listed([0, 1, 2])
    searcher.tell = lambda trial, value: told.append((trial, value))  # type: ignore[method-assign]
    assert len(replay(table, searcher, workers=1).arms) == table.total == 7
    assert told == [("0", 0.3), ("1", None), ("2", 0.4)]


def test_quantiles_take_those_that_never_got_there() -> None:
    values = [0.1, 0.2, 0.3, math.inf, math.inf]
    assert (at(values, 0.5), at(values, 0.9)) == (0.3, math.inf)
    assert (percent(at(values, 0.5)), percent(math.inf)) == ("30.0 %", "never")


def test_the_csv_of_a_journal_is_the_table(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for arm, curve in enumerate(TINY.curves):
        about = {
            "id": str(arm),
            "arm": str(arm),
            "seed": 0,
            "name": str(arm),
            "settings": {},
            "config": {},
        }
        journal.append("trial", **about, choices={"train.lr": RATES[arm]})
        journal.append("start", id=str(arm), epoch=0)
        for epoch, value in enumerate(curve, start=1):
            journal.append("epoch", id=str(arm), epoch=epoch, metrics={"val/acc": value})
        journal.append("end", id=str(arm), status="finished", epochs=3)
    journal.close()
    extract(tmp_path, tmp_path / "grid.csv")
    assert load(tmp_path / "grid.csv") == [TINY]
