"""When test images are evaluated: the same figures at the epoch that counts, wherever they are
read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training import (
    ACC,
    LAST_LOSS,
    everything,
    finish,
    images,
    plain,
    replace,
    stopping_at,
    training,
    trial,
)

from suite import replay
from suite.config.evaluation import EpochImages, evaluation_share, test_schedule
from suite.core.records import TEST_ACC, TEST_BALANCED, TEST_LOSS, Objective, Trial
from suite.storage.journal import History
from suite.tracking import MemoryStore, Projection
from suite.training.trainer import Trainer

TEST = (TEST_LOSS, TEST_ACC, TEST_BALANCED)
PICKY: dict[str, Any] = {
    "seed": 2,
    "epochs": 6,
    "lr": 1.0,
    "augment": "flip+cutout",
}  # the best epoch is not the last


def run(
    folder: Path, objective: Objective = ACC, **settings: Any
) -> tuple[Trainer, dict[str, Any]]:
    made = finish(training(trial(**(PICKY | settings)), folder, objective=objective))
    return made, made.finish()


def test_epochs(made: Trainer) -> list[int]:
    return [record.epoch for record in made.records if TEST_ACC in record.metrics]


test_epochs.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("images_of", "schedule", "share"),
    [
        (EpochImages(44_928, 5000, 10_000), "every", 5000 / 49_928),  # CIFAR-10
        (EpochImages(4992, 556, 10_000), "last", 10_556 / 3 / (4992 + 10_556 / 3)),
        (EpochImages(1200, 300, 600), "every", 0.2),  # exactly a fifth
        (EpochImages(1199, 300, 600), "last", 300 / 1499),
    ],
)
def test_auto_is_every_up_to_a_fifth_of_an_epoch(
    images_of: EpochImages, schedule: str, share: float
) -> None:
    assert test_schedule("auto", images_of) == schedule
    assert evaluation_share("every", images_of) == pytest.approx(share)
    for given in ("every", "best", "last"):
        assert test_schedule(given, images_of) == given  # type: ignore[arg-type]


test_schedule.__test__ = False  # type: ignore[attr-defined]


def test_the_share_of_a_trial_counts_each_evaluation() -> None:
    """By hand: 10 epochs of 90 training images, 30 to validate, 60 to test; a forward pass is a
    third of a step.
    """
    counts = EpochImages(90, 30, 60)
    assert evaluation_share("every", counts, 10) == pytest.approx(300 / 1200)
    assert evaluation_share("best", counts, 10) == pytest.approx(300 / 1200)
    assert evaluation_share("last", counts, 10) == pytest.approx(120 / 1020)


@pytest.mark.parametrize(
    "settings", [{}, {"ema": 0.7}, {"model__freeze_depth": 2, "model__freeze_batchnorm": True}]
)
@pytest.mark.parametrize(
    "objective", [ACC, replace(ACC, strategy="last"), LAST_LOSS], ids=["best", "last", "loss"]
)
def test_last_gives_the_figures_of_every(
    tmp_path: Path, objective: Objective, settings: dict[str, Any]
) -> None:
    """Bit for bit: test figures, predictions, ``best.pt`` and all figures of the other splits."""
    every, facts = run(tmp_path / "every", objective, evaluate_test="every", **settings)
    chosen = every.records[facts["best_epoch"] - 1]
    assert test_epochs(every) == [1, 2, 3, 4, 5, 6] and facts["test"] == {}
    last, ours = run(tmp_path / "last", objective, evaluate_test="last", **settings)
    assert test_epochs(last) == []
    assert ours["test"] == {name: chosen.metrics[name] for name in TEST}
    assert ours["files"] == facts["files"] and ours["best_epoch"] == facts["best_epoch"]
    kept = [
        [{k: v for k, v in each.items() if k not in TEST} for each in plain(x.records)]
        for x in (every, last)
    ]
    assert kept[0] == kept[1]
    if objective is ACC and not settings:
        assert facts["best_epoch"] < 6, (
            "or nothing is shown: the network must have gone on from its best epoch"
        )


@pytest.mark.parametrize("objective", [ACC, replace(ACC, strategy="last")], ids=["best", "last"])
def test_best_tests_each_epoch_that_is_the_best_so_far(
    tmp_path: Path, objective: Objective
) -> None:
    every, facts = run(tmp_path / "every", objective, evaluate_test="every")
    values = [record.metrics["val/acc"] for record in every.records]
    expected = [
        epoch
        for epoch, value in enumerate(values, start=1)
        if value > max(values[: epoch - 1], default=-1)
    ]
    assert expected != [1, 2, 3, 4, 5, 6], "or nothing is shown"
    best, ours = run(tmp_path / "best", objective, evaluate_test="best")
    assert test_epochs(best) == expected
    for epoch in expected:
        assert all(
            best.records[epoch - 1].metrics[name] == every.records[epoch - 1].metrics[name]
            for name in TEST
        )
    chosen = facts["best_epoch"]
    found = ours["test"] or best.records[chosen - 1].metrics
    assert all(found[name] == every.records[chosen - 1].metrics[name] for name in TEST)
    assert (ours["test"] == {}) == (chosen in expected) and ours["files"] == facts["files"]


@pytest.mark.parametrize("schedule", ["best", "last"])
def test_a_stop_changes_no_bit_of_it(tmp_path: Path, schedule: str) -> None:
    """At some steps, and between the last epoch and the end, where a worker may be lost."""
    whole, facts = run(tmp_path / "whole", evaluate_test=schedule, epochs=3)
    for step in (1, 5, 9):
        folder = tmp_path / str(step)
        stopped = training(whole.trial, folder, should_stop=stopping_at(step))
        while stopped.train_epoch() is not None:
            pass
        resumed = finish(training(whole.trial, folder))
        assert resumed.finish() == facts
    again = training(whole.trial, tmp_path / "whole")
    assert again.complete and again.finish() == facts and again.finish() == facts


def test_nothing_is_drawn_or_changed_by_the_evaluation_at_the_end(tmp_path: Path) -> None:
    made = finish(training(trial(**PICKY, evaluate_test="last"), tmp_path))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    rng = torch.get_rng_state()
    made.finish()
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert everything(made)


def entries(facts: dict[str, Any], made: Trainer) -> list[dict[str, Any]]:
    """A journal of one finished trial, as the driver writes it."""
    one = made.trial
    planned = {
        "id": one.id,
        "arm": one.arm,
        "seed": 0,
        "name": one.name,
        "settings": {},
        "config": dict(one.config),
    }
    listed: list[dict[str, Any]] = [
        {"kind": "launch", "id": "j", "token": "t"},
        {"kind": "plan", "ids": [one.id], "baseline": {}},
        {"kind": "trial", **planned},
        {"kind": "start", "id": one.id, "epoch": 0},
        *(
            {"kind": "epoch", "id": one.id, "epoch": r.epoch, "metrics": dict(r.metrics)}
            for r in made.records
        ),
        {"kind": "end", "id": one.id, "status": "finished", **facts},
    ]
    return [
        {"seq": number, "ts_ms": 1000 * number, **entry}
        for number, entry in enumerate(listed, start=1)
    ]


def test_the_figures_of_the_end_are_in_the_history_and_in_tracking(tmp_path: Path) -> None:
    made, facts = run(tmp_path, evaluate_test="last")
    journal, epoch = entries(facts, made), facts["best_epoch"]
    item = History(journal).trials[made.trial.id]
    assert [record.epoch for record in item.curve if TEST_ACC in record.metrics] == [epoch]
    chosen = ACC.chosen(item.curve)
    assert chosen is not None and {name: chosen.metrics[name] for name in TEST} == facts["test"]
    tracker = Projection(MemoryStore("s", "j"), tmp_path)
    for entry in [*journal, *journal[-1:]]:  # the last one twice, as after a lost answer
        tracker.apply(entry)
    run_id = tracker.run_id(made.trial.id)
    stored = next(each for each in tracker.read("s").trials if each.run_id == run_id)
    assert {name: stored.metrics[name] for name in TEST} == {
        n: {epoch: v} for n, v in facts["test"].items()
    }


def test_an_end_without_them_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    made, facts = run(tmp_path, evaluate_test="every", epochs=2)
    del facts["test"]  # as older journals have it
    item = History(entries(facts, made)).trials[made.trial.id]
    assert plain(item.curve) == plain(made.records)


@pytest.mark.parametrize("evaluate_test", ["last", "every"])
def test_a_replay_compares_the_test_figures_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate_test: str
) -> None:
    from types import SimpleNamespace

    from suite import restore

    made, facts = run(tmp_path / "recorded", evaluate_test=evaluate_test, epochs=3)
    metrics: dict[str, dict[int, float]] = {}
    for record in made.records:
        for name, value in record.metrics.items():
            metrics.setdefault(name, {})[record.epoch] = value
    for name, value in facts["test"].items():
        metrics.setdefault(name, {})[facts["best_epoch"]] = value

    def answer(uri: str, reference: str) -> Any:
        stored = SimpleNamespace(tags={}, metrics=metrics, run_id="r")
        trained = {"trial": made.trial, "objective": ACC, "numerics": made.numerics, "run": stored}
        return SimpleNamespace(dataset=images, weights=lambda: None, **trained)

    monkeypatch.setattr(restore, "restore", answer)
    told = CliRunner().invoke(
        replay.main, ["r", "--tracking-uri", "sqlite:///x.db", "--out", str(tmp_path / "again")]
    )
    assert told.exit_code == 0, told.output
    metrics[TEST_ACC][facts["best_epoch"]] += 0.01
    told = CliRunner().invoke(
        replay.main, ["r", "--tracking-uri", "sqlite:///x.db", "--out", str(tmp_path / "other")]
    )
    assert (
        told.exit_code == 3
        and f"epoch {facts['best_epoch']}" in told.output
        and TEST_ACC in told.output
    )


def test_a_trial_without_test_figures_still_writes_predictions_of_its_best_epoch(
    tmp_path: Path,
) -> None:
    made, facts = run(tmp_path, evaluate_test="last")
    with np.load(tmp_path / "predictions.npz") as stored:
        right = (stored["logits"].argmax(1) == stored["labels"]).mean()
    assert right == facts["test"][TEST_ACC] and isinstance(made.trial, Trial)
