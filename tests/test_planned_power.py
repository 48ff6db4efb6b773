"""``--dry-run`` says how many seeds the question needs: against numbers worked out by hand."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Folder
from made_up import sweep_of

from suite import analysis
from suite.config import SweepSpec, load
from suite.planning import power
from suite.planning.plan import Plan
from suite.planning.power import seed_advice
from suite.storage.journal import Journal

DIGITS = {"name": "digits", "image_size": 16}  # 359 test images


def planned(path: Path, **changes: Any) -> Plan:
    from suite.planning.plan import prepare

    folder = Folder(path)
    keys: dict[str, Any] = {
        "trial": {"data": DIGITS, "model": {"arch": "resnet20"}, "train": {"epochs": 1}},
        "parameters": {"augment": {"values": ["none", "flip", "crop"]}},
        "baseline": {"augment": "none"},
        "seeds": [0, 1, 2, 3, 4, 5],
        "metric": {"name": "val/acc", "goal": "maximize"},
        "early_terminate": None,
    }
    spec: SweepSpec = load(folder.write(**(keys | changes)))
    return prepare(spec)


def sizes(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(\d+\.\d+) points", line)]


def test_without_finished_trials_the_spread_is_a_lower_bound_and_says_so(tmp_path: Path) -> None:
    lines = seed_advice(planned(tmp_path), tmp_path)
    spread = 100 * (2 * 0.2 / (2 * 359)) ** 0.5
    assert "lower bound" in lines[1] and "20.0 % (assumed)" in lines[1] and "N = 359" in lines[1]
    assert sizes(lines[1]) == [round(spread, 2)]
    own = spread * analysis.detectable(6, 2)
    assert (
        sizes(lines[0])[:2] == [pytest.approx(own, abs=0.02)] * 2
        and "this file's 6 seeds" in lines[0]
    )
    expected = [spread * analysis.seed_power(2)[seeds] for seeds in (8, 10, 16)]
    assert sizes(lines[0])[2:] == pytest.approx(expected, abs=0.006)
    assert lines[2] == "a true difference of the margin, 0.50 points, needs more than 16 seeds"


@pytest.mark.parametrize("published", [0.95, [0.94, 0.96]])
def test_the_error_comes_from_the_published_figure_of_the_baseline(
    tmp_path: Path, published: Any
) -> None:
    plan = planned(tmp_path, reference={"augment=none": {"test/acc": published}})
    line = seed_advice(plan, tmp_path)[1]
    assert "5.0 % (from `reference`)" in line
    assert sizes(line) == [round(100 * (2 * 0.05 / (2 * 359)) ** 0.5, 2)]


def test_the_spread_of_finished_trials_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path)
    values = list(np.random.default_rng(0).normal(0.6, 0.01, 6))
    finished = sweep_of({"base": [0.6] * 6, "b": values})
    monkeypatch.setattr(power.History, "in_plan", lambda _: finished)
    lines = seed_advice(plan, tmp_path)
    spread = 100 * float(np.std(values, ddof=1))
    assert "of this sweep's finished trials" in lines[1] and sizes(lines[1]) == [round(spread, 2)]
    assert sizes(lines[0])[2] == pytest.approx(spread * analysis.seed_power(2)[8], abs=0.006)


def write_sweep(
    folder: Path, plan: Plan, *, images: str = "", ended: bool = True, **other: Any
) -> Path:
    """The journal of a sweep of this plan's trials, with the figures of ``SEEN``.

    Args:
        images: the digest of its images; "" = the plan's.
        other: settings of the trials that differ, e.g. ``train={"epochs": 2}``.
    """
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl", print, lambda *_: None)
    journal.append("journal", id=folder.name)
    trials = [(arm, trial) for arm, trial in plan.trials(plan.spec.arms_list) if trial.arm in SEEN]
    for arm, trial in trials:
        config = {
            name: trial.config[name] | other.get(name, {}) for name in ("data", "model", "train")
        }
        journal.append(
            "trial",
            **(asdict(trial) | {"config": config}),
            digests={"data": images or plan.dataset(arm.config).digest},
            baseline=plan.spec.is_baseline(arm),
        )
        value = SEEN[trial.arm][trial.seed]
        journal.append("start", id=trial.id, epoch=0)
        journal.append("epoch", id=trial.id, epoch=1, metrics={"val/acc": value, "test/acc": value})
        if ended or trial is not trials[-1][1]:
            journal.append("end", id=trial.id, status="finished", epochs=1)
    journal.append("plan", ids=[trial.id for _, trial in trials])
    journal.close()
    return folder / "journal.jsonl"


SEEN = {"augment=none": [0.6] * 6, "augment=flip": [0.61, 0.62, 0.6, 0.63, 0.59, 0.605]}
SPREAD = round(100 * float(np.std(SEEN["augment=flip"], ddof=1)), 2)


def test_a_finished_sweep_of_the_same_kind_in_the_folder_gives_the_spread(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        trial={"data": DIGITS, "model": {"arch": "resnet20"}, "train": {"epochs": 1, "lr": 0.02}},
    )
    write_sweep(tmp_path / "older", planned(tmp_path))
    lines = seed_advice(plan, tmp_path / "new")
    assert "of the finished sweep 'older' (same images, sizes, network and epochs)" in lines[1]
    assert sizes(lines[1]) == [SPREAD] and "lower bound" not in lines[1]


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"epochs": 2}},
        {"model": {"arch": "resnet18"}},
        {"data": {"train_size": 100}},
        {"images": "0" * 16},
        {"ended": False},
    ],
)
def test_a_sweep_of_another_kind_or_an_unfinished_one_gives_no_spread(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    plan = planned(tmp_path)
    write_sweep(tmp_path / "older", plan, **other)
    assert "lower bound" in seed_advice(plan, tmp_path / "new")[1]


def test_a_damaged_journal_of_another_sweep_is_passed_over(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    write_sweep(tmp_path / "older", plan)
    damaged = write_sweep(tmp_path / "newer", plan)
    damaged.write_text("{\n" + damaged.read_text())
    assert "finished sweep 'older'" in seed_advice(plan, tmp_path / "new")[1]


def test_the_seed_of_a_search_is_no_part_of_the_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(
        tmp_path, method="random", run_cap=4, seeds=list(range(7)),
        parameters={"train.lr": {"min": 0.01, "max": 0.1}}, baseline={"train.lr": 0.05},
    )  # fmt: skip
    values = list(np.random.default_rng(0).normal(0.6, 0.01, 6))
    finished = sweep_of({"base": [0.6] * 7, "b": [0.99, *values]})
    monkeypatch.setattr(power.History, "in_plan", lambda _: finished)
    lines = seed_advice(plan, tmp_path)
    assert sizes(lines[1]) == [round(100 * float(np.std(values, ddof=1)), 2)]
    assert "this file's 6 seeds" in lines[0], "the seventh is the search's own"


def test_few_seeds_see_nothing_and_planned_looks_are_judged_at_their_level(tmp_path: Path) -> None:
    few = seed_advice(planned(tmp_path, seeds=[0, 1]), tmp_path)
    assert "none with this file's 2 seeds" in few[0]
    rounds = {"at_least": 8, "at_most": 16, "until": "decided"}
    lines = seed_advice(planned(tmp_path, seeds=rounds), tmp_path)
    own, sixteen = sizes(lines[0])[0], sizes(lines[0])[-1]
    assert "at most 16 seeds" in lines[0] and sixteen < own < 1.25 * sixteen, (
        "three looks cost some power"
    )


def test_a_sweep_without_verdicts_gets_no_advice(tmp_path: Path) -> None:
    assert seed_advice(planned(tmp_path, baseline=None), tmp_path) == []


def test_many_arms_are_scaled_from_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation of 40 arms takes ten seconds; the scaled size is that of the simulation to 5
    %.
    """
    level = 0.02
    asked: list[int] = []
    simulate = analysis.detectable
    monkeypatch.setattr(
        analysis, "detectable", lambda *a, **k: asked.append(a[1]) or simulate(*a, **k)
    )
    found = power._size(7, 16, level)
    assert asked == [8] and found == pytest.approx(simulate(7, 16, level=level), rel=0.05)


@pytest.mark.slow
def test_a_dry_run_shows_it(folder: Folder) -> None:
    folder.write(seeds=[0, 1, 2, 3, 4, 5], baseline="lr=0.05")
    shown = " ".join(folder.sweep("--dry-run", COLUMNS="160").stdout.split())
    assert "smallest difference seen with 80 % power:" in shown and "lower bound" in shown
