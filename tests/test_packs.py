"""The numbers of a trial are its own: whatever runs with it, before it or beside it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The curves of each trial when it has a process of its own: one launch for each."""
    curves: dict[str, Any] = {}
    for arm in ("lr=0.05", "lr=0.2"):
        folder = Folder(tmp_path_factory.mktemp("alone"))
        folder.write(seeds=[0])
        folder.sweep("--only", arm, "--no-report")
        curves |= folder.curves()
    assert set(curves) == {"lr=0.05 seed=0", "lr=0.2 seed=0"}
    assert curves["lr=0.05 seed=0"] != curves["lr=0.2 seed=0"]
    return curves


def test_a_pack_of_two_gives_each_the_numbers_it_has_alone(folder: Folder, alone: dict[str, Any]) -> None:
    folder.write(seeds=[0], resources={"cpu": 1, "pack": 2})
    folder.sweep()
    assert folder.curves() == alone
    kinds = [(entry["kind"], entry["id"]) for entry in folder.journal if entry["kind"] in ("epoch", "end")]
    first = next(place for place, (kind, _) in enumerate(kinds) if kind == "end")
    assert len({trial for _, trial in kinds[:first]}) == 2, "the two did not run together"
    assert set(folder.runs().values()) == {"FINISHED"} and len(folder.runs()) == 2
    folder.assert_tracked()


def test_a_worker_used_again_changes_no_number(folder: Folder, alone: dict[str, Any]) -> None:
    """One worker trains A, B, then A and B with another seed, then A again: A is what it is in a process of its own."""
    folder.write(seeds=[0, 1])
    folder.sweep("--max-concurrent", "1", "--no-report")
    first = folder.curves()
    assert {name: first[name] for name in alone} == alone
    folder.sweep("--force", "--only", "lr=0.05", "--max-concurrent", "1", "--no-report")
    again: dict[str, Any] = {}
    names = {entry["id"]: entry["name"] for entry in folder.journal if entry["kind"] == "trial"}
    forgotten = max(entry["seq"] for entry in folder.journal if entry["kind"] == "forget")
    for entry in folder.journal:
        if entry["kind"] == "epoch" and entry["seq"] > forgotten:
            own = {k: v for k, v in entry["metrics"].items() if not k.startswith(("time/", "memory/"))}
            again.setdefault(names[entry["id"]], {})[entry["epoch"]] = own
    assert again["lr=0.05 seed=0"] == alone["lr=0.05 seed=0"]
    assert again["lr=0.05 seed=1"] == first["lr=0.05 seed=1"]


def test_a_pack_that_is_killed_goes_on_trial_by_trial(folder: Folder, alone: dict[str, Any]) -> None:
    folder.write(seeds=[0], resources={"cpu": 1, "pack": 2})
    process = folder.start("--no-report", SLOW="0.1")
    folder.wait_for(process, lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= 3)
    process.kill()
    process.communicate()
    folder.sweep("--no-report")
    assert folder.curves() == alone
    folder.assert_tracked()
