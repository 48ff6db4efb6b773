"""The shipped sweep files on real CIFAR-10 images and pretrained weights, each cut to a minute."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, mlflow_ui, needed
from conftest import REPO, Folder

IMAGES, WEIGHTS = os.environ.get("SUITE_CIFAR10"), os.environ.get("SUITE_TINYIMAGENET_WEIGHTS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_images,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not IMAGES, reason="set SUITE_CIFAR10 to the unpacked CIFAR-10 image folder"
    ),
]
pretrained = pytest.mark.skipif(
    not WEIGHTS, reason="set SUITE_TINYIMAGENET_WEIGHTS to pretrained weights"
)


def some_images(folder: Path, each: int) -> Path:
    """Links to so many images of each class: to decode all 60,000 takes half a minute."""
    for part in ("train", "test"):
        for there in Path(str(IMAGES)).expanduser().joinpath(part).iterdir():
            (folder / "images" / part / there.name).mkdir(parents=True)
            for file in sorted(there.iterdir())[:each]:
                (folder / "images" / part / there.name / file.name).symlink_to(file.resolve())
    return folder / "images"


class Shipped(Folder):
    """A user's folder with a copy of a shipped file, as sweep.yaml."""

    def __init__(self, path: Path, name: str, *overrides: str) -> None:
        super().__init__(path)
        self.name = name
        shutil.copy(REPO / "search_spaces" / f"{name}.yaml", path / "sweep.yaml")
        self.overrides = ["data.name=folder", f"data.root={some_images(path, 250)}", *overrides]

    def command(self, *arguments: str, module: str = "suite.sweep") -> list[str]:
        file, *rest = arguments
        return super().command(file, *self.overrides, *rest, module=module)


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The README's short command, on fewer images and two arms."""
    folder = Shipped(
        tmp_path_factory.mktemp("augmented"),
        "augmentation",
        "seeds=[0]",
        "train.epochs=2",
        "model.arch=resnet20",
        "data.train_size=400",
        "data.val_size=200",
        "data.test_size=200",
    )
    folder.sweep("--only", "augment=flip", "--only", "augment=crop+flip+cutout", timeout=500)
    return folder


def test_the_augmentation_sweep_is_tracked(augmented: Shipped) -> None:
    assert Counter(augmented.runs().values()) == {"FINISHED": 2} and augmented.parents() == [
        "FINISHED"
    ]
    augmented.assert_tracked()


@pytest.mark.full  # tests/test_ui.py looks at a smaller sweep in the same way
@pytest.mark.browser
@needed
def test_the_augmentation_sweep_can_be_browsed(augmented: Shipped) -> None:
    run = dict(augmented.query("select name, run_uuid from runs"))
    with mlflow_ui(augmented) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        base = f"{url}/#/experiments/1/runs"
        page.goto(f"{base}?workflowType=machine_learning")
        page.get_by_role("link", name="augmentation", exact=True).last.wait_for()
        page.locator(".ag-row").first.locator("button").first.click()
        for name in augmented.runs():
            page.get_by_role("link", name=name, exact=True).first.wait_for()
        page.goto(f"{base}/{run['augment=flip seed=0']}/model-metrics")
        page.get_by_placeholder("Search metric charts").fill(
            "/acc"
        )  # charts below the fold are not drawn
        page.wait_for_function(  # curves of two epochs: paths of more than one point
            "[...document.querySelectorAll('path.js-line')].filter(p => "
            "p.getAttribute('d').includes('L')).length >= 2"
        )
        page.goto(f"{base}/{run['augment=flip seed=0']}/artifacts")
        page.reload()
        for file in ("config.yaml", "environment.json", "predictions.npz"):
            page.get_by_text(file).first.wait_for()


@pretrained
@pytest.mark.full
def test_pretrained_arms_are_above_the_random_start_at_equal_epochs(tmp_path: Path) -> None:
    folder = Shipped(
        tmp_path,
        "transfer",
        "seeds=[0]",
        "train.epochs=3",
        "train.batch_size=32",
        f"model.imagenet_file={WEIGHTS}",
        "data.train_size=2000",
        "data.val_size=300",
        "data.test_size=200",
    )
    folder.sweep(timeout=500)
    last = {name.split()[0]: epochs[3]["val/acc"] for name, epochs in folder.curves().items()}
    assert set(last) == {"scratch", "finetune", "config1", "config2"}
    assert min(last["finetune"], last["config1"], last["config2"]) > last["scratch"] + 0.05, last


@pretrained
@pytest.mark.full
def test_the_joint_search_killed_in_the_middle_is_finished(tmp_path: Path) -> None:
    folder = Shipped(
        tmp_path,
        "joint",
        "run_cap=4",
        "confirm.top=1",
        "seeds=[0,1]",
        "train.epochs=3",
        "train.batch_size=32",
        "early_terminate.grace_epochs=1",
        f"model.imagenet_file={WEIGHTS}",
        "data.train_size=800",
        "data.val_size=200",
        "data.test_size=200",
    )
    process = folder.start()
    folder.wait_for(process, ripe)
    process.kill()
    process.communicate()
    before = folder.journal
    folder.sweep()
    assert set(folder.runs().values()) == {"FINISHED"} and folder.parents() == ["FINISHED"]
    trials = [entry["id"] for entry in folder.journal if entry["kind"] == "trial"]
    assert len(folder.runs()) == len(trials) == len(set(trials))
    folder.assert_tracked()  # no epoch twice, none missing
    assert folder.journal[: len(before)] == before


def ripe(journal: list[dict[str, Any]]) -> bool:
    """Some trial has ended, and one that runs has epochs behind it."""
    running = {entry["id"] for entry in journal if entry["kind"] == "start"}
    running -= {entry["id"] for entry in journal if entry["kind"] == "end"}
    return len(running) < sum(entry["kind"] == "start" for entry in journal) and any(
        entry["kind"] == "epoch" and entry["id"] in running for entry in journal
    )
