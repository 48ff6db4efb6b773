"""A launch that ends at any sync, rename or removal, by SIGKILL or by a power cut, and the launch
after it.

The oracle is bit for bit: what an undisturbed launch leaves in journal, checkpoints and MLflow.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Folder
from fault_table import FULL, Tally

sys.path.insert(0, str(Path(__file__).parent))
from inline import Processes, cut_power, points

# third parties' own, in the process that makes the store
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch).*"),
    pytest.mark.timeout(900),
]

EPOCHS, ARMS = 3, 2
PARTS = 6 if FULL else 1  # all points take long: spread over the processes that run tests
KILLED = -signal.SIGKILL
CUTS = {"": "SIGKILL", "content": "power cut", "names": "power cut, names lost"}


@pytest.fixture(scope="session")  # in `make faults` these tests are spread among others
def processes() -> Processes:
    return Processes()


@pytest.fixture(scope="session")  # in `make faults` these tests are spread among others
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with an MLflow store in it that has seen another sweep: making one takes
    seconds.
    """
    from suite.tracking import MlflowStore, Projection, default_artifacts, default_uri

    path = tmp_path_factory.mktemp("empty")
    folder = Folder(path)
    folder.write(
        trial={
            "data": {
                "name": "digits",
                "image_size": 8,
                "train_size": 100,
                "val_size": 50,
                "test_size": 50,
            },
            "model": {"arch": "tiny_net:build"},
            "train": {"epochs": EPOCHS, "batch_size": 50, "lr": 0.05, "precision": "fp32"},
        },
        checkpoints={"keep": 1},
        seeds=[0],
        activations=False,
    )
    uri = default_uri("sqlite:///mlflow.db", path)
    entry = {
        "seq": 1,
        "ts_ms": 1,
        "kind": "launch",
        "token": "t",
        "numerics": {},
        "text": "",
        "file": "",
        "data": {},
    }
    Projection(MlflowStore("another", uri, default_artifacts(uri), "j")).apply(entry)
    return path


@pytest.fixture(scope="session")  # in `make faults` these tests are spread among others
def unbroken(processes: Processes, empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What is left where nothing happens."""
    folder = fresh(empty, tmp_path_factory.mktemp("unbroken") / "it")
    assert processes.launch(folder) == 0, (folder / "output.txt").read_text()
    return left(folder)


def fresh(empty: Path, target: Path) -> Path:
    """A user's folder before the launch."""
    shutil.copytree(empty, target)
    for name in ("mlflow.db-wal", "mlflow.db-shm"):
        (target / name).unlink(missing_ok=True)
    return target


Left = dict[str, Any]


def left(folder: Path) -> Left:
    """All that a launch left which the machine has no say in; checks on the way that nothing is
    there twice.
    """
    seen = Folder.__new__(Folder)
    seen.path, seen.name = folder, "tiny"
    curves = seen.curves()
    rows = {
        key: values
        for key, values in seen.metric_rows().items()
        if not key[1].startswith(("time/", "memory/"))
    }
    assert all(len(values) == 1 for values in rows.values()), "a metric row was doubled"
    names = {entry["id"]: entry["name"] for entry in seen.journal if entry["kind"] == "trial"}
    kept: dict[str, Any] = {}
    for trial, name in names.items():
        place = folder / "runs" / "tiny" / "trials" / trial
        with np.load(place / "predictions.npz") as arrays:
            logits = arrays["logits"].tobytes()
        best = place / "best.pt"
        model = torch.load(best, weights_only=True)["model"] if best.exists() else {}
        kept[name] = logits, {key: value.numpy().tobytes() for key, value in model.items()}
        assert not (place / "checkpoints").exists(), "checkpoints of a finished trial were left"
    last = {entry["id"]: entry["status"] for entry in seen.journal if entry["kind"] == "end"}
    return {
        "curves": curves,
        "rows": rows,
        "runs": seen.runs(),
        "parents": seen.parents(),
        "ends": {names[trial]: status for trial, status in last.items()},
        "kept": kept,
        "champion": [names[entry["id"]] for entry in seen.journal if entry["kind"] == "champion"][
            -1:
        ],
    }


def durable(folder: Path) -> int:
    """Epochs that need not be trained again: of ended trials all, of others those of the newest
    good checkpoint.
    """
    from suite.storage import checkpoint

    journal = folder / "runs" / "tiny" / "journal.jsonl"
    ended = set()
    for line in journal.read_text().splitlines() if journal.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["kind"] == "end" and entry["status"] == "finished":
            ended.add(entry["id"])
    found = EPOCHS * len(ended)
    for trial in (folder / "runs" / "tiny" / "trials").glob("*"):
        if trial.name not in ended:
            whole = [
                path
                for path in checkpoint._candidates(trial / "checkpoints")
                if not checkpoint._damage(path, trial.name)
            ]
            found += int(whole[0].name[1:6]) if whole else 0
    return found


def tracked(folder: Path) -> int:
    """Epochs that MLflow has been told of."""
    seen = Folder.__new__(Folder)
    seen.path = folder
    return sum(key == "val/acc" for _, key, _ in seen.metric_rows())


def recorded(folder: Path) -> int:
    """Epochs in the journal."""
    journal = folder / "runs" / "tiny" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return sum(json.loads(line)["kind"] == "epoch" for line in lines)


def noted(folder: Path, name: str) -> int:
    """Epochs in a file of ``inline``: ``trained``, or ``told`` to listeners of the journal."""
    path = folder / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def survive(
    processes: Processes, folder: Path, unbroken: Left, at: int, cut: str, build: str = ""
) -> bool:
    """Crash at a point, launch again, compare; whether there was a crash: this time it may have
    had fewer points.
    """
    code = processes.launch(folder, at, build)
    if code == 0:
        return False
    assert code == KILLED, (folder / "output.txt").read_text()
    told = noted(folder, "told")
    assert tracked(folder) <= told <= EPOCHS * ARMS
    if cut:
        cut_power(folder, names=cut == "names")
    safe, before = durable(folder), noted(folder, "trained")
    assert min(safe, recorded(folder)) >= told, (
        f"point {at}: others were told of {told} epochs, and fewer are safe"
    )
    code = processes.launch(folder, 0, "" if build.endswith("_synced") else build)
    assert code == 0, f"point {at}: exit code {code}\n{(folder / 'output.txt').read_text()}"
    assert noted(folder, "trained") - before <= EPOCHS * ARMS - safe, (
        f"point {at}: an epoch with a good checkpoint was trained again"
    )
    found = left(folder)
    for what, value in unbroken.items():
        assert found[what] == value, f"point {at}: {what} differ"
    return True


def chosen(total: int, count: int, seed: int) -> list[int]:
    """Crash points spread over a launch, one drawn from each stretch."""
    drawn = random.Random(seed)
    width = total / count
    return sorted(
        {1 + min(total - 1, int(width * (number + drawn.random()))) for number in range(count)}
    )


@pytest.mark.slow
@pytest.mark.fault(4, 23, 41)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("cut", CUTS, ids=list(CUTS.values()))
def test_a_crash_at_any_point_loses_and_doubles_nothing(
    processes: Processes,
    empty: Path,
    unbroken: Left,
    tmp_path: Path,
    tally: Tally,
    cut: str,
    part: int,
) -> None:
    whole = fresh(empty, tmp_path / "whole")
    assert processes.launch(whole) == 0
    total = points(whole)
    every = 3 if cut == "content" else 1  # of these few find what the other two do not
    asked = list(
        range(1 + part, total + 1, PARTS * every) if FULL else chosen(total, 8, seed=len(cut))
    )
    for at in asked:
        folder = fresh(empty, tmp_path / f"{at}")
        tally.add(int(survive(processes, folder, unbroken, at, cut)))
        shutil.rmtree(folder)
    assert tally.faults >= 0.8 * len(asked), "points that were never reached are no crashes"
    if part == 0:
        tally.figures[f"points of a launch, {CUTS[cut]}"] = str(total)


@pytest.mark.slow
@pytest.mark.fault(4, 23)
def test_a_crash_after_a_crash_after_a_crash(
    processes: Processes, empty: Path, unbroken: Left, tmp_path: Path, tally: Tally
) -> None:
    """One folder that is killed again and again, each time a little later than it was taken up."""
    drawn = random.Random(7)
    for number in range(8 if FULL else 1):
        folder = fresh(empty, tmp_path / f"{number}")
        for _ in range(6):
            code = processes.launch(folder, 3 + drawn.randrange(45))
            if code == 0:
                break
            assert code == KILLED, (folder / "output.txt").read_text()
            if drawn.random() < 0.6:
                cut_power(folder, names=drawn.random() < 0.5)
            tally.add()
        assert processes.launch(folder) == 0, (folder / "output.txt").read_text()
        found = left(folder)
        for what, value in unbroken.items():
            assert found[what] == value, f"{what} differ"


@pytest.mark.slow
@pytest.mark.fault(4, 23, control=True, full=True)
@pytest.mark.parametrize(
    ("build", "cut", "least"),  # found: 10, 23, 22, 19
    [
        ("checkpoints_in_place", "", 5), ("nothing_synced", "content", 18),
        ("folders_not_synced", "names", 17),
        ("runs_by_memory", "", 14),
    ],
)  # fmt: skip
def test_broken_builds_do_not_survive(
    processes: Processes,
    empty: Path,
    unbroken: Left,
    tmp_path: Path,
    build: str,
    cut: str,
    least: int,
) -> None:
    whole = fresh(empty, tmp_path / "whole")
    assert processes.launch(whole, 0, build) == 0, "undisturbed, a broken build must do its work"
    failed = 0
    for at in chosen(points(whole), 24, seed=1):
        folder = fresh(empty, tmp_path / f"{at}")
        try:
            survive(processes, folder, unbroken, at, cut, build)
        except (AssertionError, OSError, ValueError, RuntimeError, EOFError):
            failed += 1
        shutil.rmtree(folder)
    assert failed >= least, (
        f"{build} fails at {failed} of 24 crashes, not {least}: the harness sees too little"
    )


@pytest.mark.slow
@pytest.mark.fault(25)
def test_a_folder_that_was_moved_goes_on(
    processes: Processes, empty: Path, unbroken: Left, tmp_path: Path, tally: Tally
) -> None:
    folder = fresh(empty, tmp_path / "here")
    assert processes.launch(folder, 60) == KILLED
    moved = folder.rename(tmp_path / "there")
    assert processes.launch(moved) == 0, (moved / "output.txt").read_text()
    found = left(moved)
    assert found["curves"] == unbroken["curves"] and found["runs"] == unbroken["runs"]
    tally.add()


@pytest.mark.slow
@pytest.mark.fault(41)
def test_a_clock_that_stepped_back_changes_nothing(
    processes: Processes, empty: Path, unbroken: Left, tmp_path: Path, tally: Tally
) -> None:
    """The next launch's clock is an hour behind: order comes from sequence numbers, newest from
    what was done.
    """
    folder = fresh(empty, tmp_path / "it")
    assert processes.launch(folder, 80) == KILLED
    ahead = 3600
    for path in (folder / "runs").rglob("*"):
        os.utime(path, (path.stat().st_atime + ahead, path.stat().st_mtime + ahead))
    journal = folder / "runs" / "tiny" / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    for entry in entries:
        del entry["crc"]
    journal.write_text(
        "".join(
            json.dumps(entry | {"ts_ms": entry["ts_ms"] + 1000 * ahead}) + "\n" for entry in entries
        )
    )
    assert processes.launch(folder) == 0, (folder / "output.txt").read_text()
    found = left(folder)
    for what in ("curves", "runs", "parents", "ends", "kept"):
        assert found[what] == unbroken[what], f"{what} differ"
    assert Counter(len(values) for values in found["rows"].values()) == {1: len(unbroken["rows"])}
    tally.add()
