"""What must change no number: packs, reused workers, neighbours, a killed sweep, another folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import alone, ends
from conftest import SWEEP, TINY, Folder

from suite.system import environment

pytestmark = pytest.mark.slow

# A network that says in which process it was trained.
SAYS = """

def says(num_classes):
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    return Tiny(num_classes)
"""
ARMS: dict[str, Any] = {
    "first": {},
    "other": {"train.lr": 0.2, "train.batch_size": 25, "augment": "flip+cutout+mixup"},
    "again": {"train.patience": 90},  # another id, but the same computation as "first"
}


def write(folder: Folder, **changes: Any) -> None:
    (folder.path / "tiny_net.py").write_text(TINY + SAYS)
    folder.write(parameters=None, **({"arms": ARMS, "seeds": [0]} | changes))


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, set[str]]]:
    """first, other, again: one after the other in one worker; and the worker's process ids."""
    folder = Folder(tmp_path_factory.mktemp("reused"))
    write(folder, trial=_with(arch="tiny_net:says"))
    pids = folder.path / "pids"
    folder.sweep("--max-concurrent", "1", PIDS=str(pids))
    return folder, set(pids.read_text().split()) - {str(os.getpid())}


def _with(arch: str) -> dict[str, Any]:
    return {
        "data": {"name": "digits", "image_size": 8, "train_size": 400},
        "model": {"arch": arch},
        "train": {"epochs": 3, "batch_size": 50, "lr": 0.05, "precision": "fp32", "ema": 0.9},
    }


def test_a_reused_worker_gives_each_trial_the_numbers_it_has_alone(
    reused: tuple[Folder, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A, B, A."""
    folder, pids = reused
    curves = folder.curves()
    assert list(curves) == ["first seed=0", "other seed=0", "again seed=0"] and all(
        map(len, curves.values())
    )
    assert len(pids) <= 2, f"the driver, which looks at the network, and one worker; found {pids}"
    assert curves["first seed=0"] == curves["again seed=0"] != curves["other seed=0"]
    monkeypatch.setenv("PIDS", os.devnull)
    assert curves == alone(folder.path, tmp_path, monkeypatch)


@pytest.mark.skipif(environment.cores() < 2, reason="two trials at once need two cores")
def test_trials_shorter_than_a_worker_s_start_have_all_workers(folder: Folder) -> None:
    """Tune would end a starting worker each time that another became free, and all trials would
    run in one.
    """
    folder.write(
        trial=SWEEP["trial"] | {"train": SWEEP["trial"]["train"] | {"epochs": 1}},
        seeds=[0, 1, 2, 3, 4],
    )
    steps = folder.path / "steps"
    folder.sweep(STEPS=str(steps), SLOW="0.25")
    shares = Counter(steps.read_text().split())
    assert len(shares) == 2 and sum(shares.values()) == 10 * 8, shares
    assert min(shares.values()) >= 2 * 8, "one of them trained next to nothing"


@pytest.mark.full
def test_another_folder_and_neighbours_change_neither_ids_nor_numbers(
    reused: tuple[Folder, set[str]], folder: Folder
) -> None:
    write(folder, trial=_with(arch="tiny_net:says"))
    folder.sweep(PIDS=os.devnull)
    ids = [
        {entry["name"]: entry["id"] for entry in each.journal if entry["kind"] == "trial"}
        for each in (folder, reused[0])
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 3
    assert folder.curves() == reused[0].curves()
    starts = [
        (entry["kind"], entry["id"])
        for entry in folder.journal
        if entry["kind"] in ("start", "end")
    ]
    assert starts[1][0] == "start", "two of them must have run side by side"


@pytest.mark.full
def test_a_pack_gives_each_trial_its_own_numbers_failures_and_resume(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two packs of three, one of which diverges; killed in the middle, they go on."""
    arms: dict[str, Any] = {
        "diverges": {"train.lr": 1e30},
        "fine": {},
        "other": {"train.lr": 0.2, "augment": "flip"},
    }
    folder.write(
        parameters=None,
        arms=arms,
        seeds=[0, 1],
        resources={"cpu": 1, "pack": 3},
        trial=_with("tiny_net:build"),
    )
    process = folder.start(SLOW="0.1")
    folder.wait_for(
        process, lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= 5
    )
    process.kill()
    process.communicate()
    before = folder.curves()
    assert 0 < sum(map(len, before.values())) < 12
    assert sum(bool(epochs) for epochs in before.values()) >= 2, "a pack's trials must run together"
    done = folder.sweep(code=3)
    assert "came out differently" not in done.stdout
    curves = folder.curves()
    healthy = [f"{arm} seed={seed}" for arm in ("fine", "other") for seed in (0, 1)]
    assert {name: len(epochs) for name, epochs in curves.items()} == dict.fromkeys(healthy, 3)
    assert all(
        curves[name][epoch] == before[name][epoch] for name in before for epoch in before[name]
    )
    failed = dict.fromkeys(["diverges seed=0", "diverges seed=1"], "FAILED")
    assert folder.runs() == dict.fromkeys(healthy, "FINISHED") | failed
    for name, each in ends(folder.journal).items():
        assert each[-1]["status"] == ("failed" if "diverges" in name else "finished")
        assert (
            "diverged in epoch 1" in each[-1]["reason"]
            if "diverges" in name
            else not each[-1].get("reason")
        )
        assert sum(entry["status"] in ("failed", "finished") for entry in each) == 1, (
            "a trial ends once"
        )
    folder.assert_tracked()
    expected = alone(folder.path, tmp_path / "alone", monkeypatch)
    assert curves == {name: curve for name, curve in expected.items() if curve}
