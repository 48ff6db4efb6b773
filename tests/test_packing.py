"""Which trials make a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from suite.core.records import Trial
from suite.execution.packs import MOST, packs
from tests.conftest import Folder
from tests.training import trial


def arm(number: int, seed: int = 0, **settings: Any) -> Trial:
    made = trial("resnet18", seed, settings.pop("augment", "flip"), **settings)
    return Trial(
        f"{number:016d}", f"arm{number}", seed, f"arm{number} seed={seed}", config=made.config
    )


FROZEN = {"model__freeze_depth": 7, "model__freeze_batchnorm": True}


def sizes(trials: list[Trial], size: Any = "auto", slots: int = 2) -> list[int]:
    return [len(pack) for pack in packs(trials, size, slots)]


def test_trials_that_share_augmented_features_run_together_on_all_slots() -> None:
    trials = [arm(number, lr=0.01 * (number + 1), **FROZEN) for number in range(12)]
    assert (
        sizes(trials) == [6, 6]
        and sizes(trials, slots=1) == [6, 6]
        and sizes(trials, slots=4) == [3, 3, 3, 3]
    )
    assert sizes(trials[:2]) == [1, 1], "two slots are better filled than shared"
    assert sizes(trials[:2], slots=1) == [2]
    assert all(
        count <= MOST for count in sizes([arm(number, **FROZEN) for number in range(50)], slots=1)
    )
    assert [one.id for pack in packs(trials, "auto", 2) for one in pack] == [
        one.id for one in trials
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1}, {"augment": "crop"}, {"batch_size": 20}, {"model__freeze_depth": 6},
        {"data__train_size": 20},
        {"last_batch": "spread"},
        {"model__weights": "other.pth"}, {"model__freeze_batchnorm": False},
        {"cache_prefix": "off"},
    ],
    ids=str,
)  # fmt: skip
def test_trials_that_share_nothing_run_apart(other: dict[str, Any]) -> None:
    assert sizes([arm(0, **FROZEN), arm(1, **(FROZEN | other))], slots=1) == [1, 1]


@pytest.mark.parametrize(
    "alone", [{"augment": "none"}, {"model__freeze_depth": 0}, {"model__freeze_batchnorm": False}]
)
def test_what_needs_no_pack_gets_none(alone: dict[str, Any]) -> None:
    assert sizes([arm(number, **(FROZEN | alone)) for number in range(4)], slots=1) == [1, 1, 1, 1]


def test_a_pack_that_was_asked_for_has_that_size() -> None:
    trials = [arm(number, augment="none") for number in range(5)]
    assert sizes(trials, 2) == [2, 2, 1] and sizes(trials, 1) == [1] * 5
    assert sizes([*trials, arm(5, augment="none", batch_size=20)], 4) == [4, 1, 1], (
        "of the same shapes"
    )
    assert sizes([*trials, arm(5, augment="none", last_batch="keep")], 4) == [4, 1, 1], (
        "of the same batches"
    )


def write(folder: Folder, **train: str) -> None:
    """A sweep file of frozen layers."""
    arms = {
        "plain": {"train.lr": 0.05}, "lower": {"train.lr": 0.01},
        "flipped": {"augment": "flip"}, "flipped lower": {"augment": "flip", "train.lr": 0.01},
    }  # fmt: skip
    settings = {
        "data": {"name": "digits", "image_size": 8, "train_size": 200},
        "model": {"arch": "resnet20", "freeze_depth": 3, "freeze_batchnorm": True},
        "train": {"epochs": 2, "batch_size": 50, "precision": "fp32"} | train,
    }
    folder.write(parameters=None, arms=arms, seeds=[0], trial=settings, activations=False)


def test_a_plan_says_which_frozen_layers_are_run_once(folder: Folder) -> None:
    write(folder)
    said = folder.sweep("--dry-run").stdout
    assert "2 of 4 arms: features of the 3 frozen layers are computed once and kept" in said
    assert "2 of 4 arms: features of the 3 frozen layers are kept for validation and test" in said


@pytest.mark.full
def test_a_sweep_shares_frozen_layers_and_its_runs_say_so(folder: Folder, tmp_path: Path) -> None:
    """Real workers: kept features, a pack in lockstep; both give the numbers of running all
    layers.
    """
    write(folder)
    folder.sweep("--max-concurrent", "1")
    ends = {entry["id"]: entry["prefix"] for entry in folder.journal if entry["kind"] == "end"}
    names = {entry["id"]: entry["arm"] for entry in folder.journal if entry["kind"] == "trial"}
    ways = {names[key]: way for key, way in ends.items()}
    assert ways["plain"] == ways["lower"] == "3 layers, features kept of all images"
    shared = (
        "3 layers, features kept of validation and test images, augmented ones shared in the pack"
    )
    assert ways["flipped"] == ways["flipped lower"] == shared
    tags = folder.query("select t.value from tags t where t.key = 'suite.prefix'")
    assert sorted(value for (value,) in tags) == sorted(ways.values())
    (tmp_path / "whole").mkdir()
    whole = Folder(tmp_path / "whole")
    write(whole, cache_prefix="off")
    whole.sweep("--max-concurrent", "1")
    assert {entry["prefix"] for entry in whole.journal if entry["kind"] == "end"} == {
        "run each time: train.cache_prefix is off"
    }
    assert whole.curves() == folder.curves()
