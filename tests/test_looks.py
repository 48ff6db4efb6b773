"""Looks at verdicts: planned ones, in rounds until arms are decided, and those that come with
added seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import Folder
from rich.console import Console

from suite.analysis.levels import look_levels
from suite.config import Arm, SweepSpec, load
from suite.console.board import Board
from suite.core.records import Looks, Trial
from suite.launch import Options
from suite.launch.launcher import Launch
from suite.launch.ranking import rank
from suite.planning.estimate import _few_unseen_seeds
from suite.planning.plan import Plan
from suite.planning.rounds import looks_at, rounds
from suite.storage.folder_storage import FolderStorage
from suite.storage.journal import History
from suite.tracking import MemoryStore, Projection, looks_of, search_seed_of
from suite.tracking.looks import MAX_LENGTH, looks_tag

PLANNED: dict[str, Any] = {
    "trial": {
        "data": {"name": "digits", "image_size": 8, "train_size": 400},
        "model": {"arch": "tiny_net:build"},
        "train": {"epochs": 3, "batch_size": 50, "lr": 0.2, "precision": "fp32"},
    },
    "parameters": {"train.lr": {"values": [0.2, 0.199, 0.000001]}},
    "baseline": {"train.lr": 0.2},
    "seeds": {"at_least": 8, "at_most": 10, "until": "decided", "step": 2},
}
LOST, OPEN, BASE = "lr=1e-06", "lr=0.199", "lr=0.2"


def seeds_by_arm(folder: Folder) -> dict[str, list[int]]:
    """Seeds of the trials in the last plan, by arm."""
    trials = {entry["id"]: entry for entry in folder.journal if entry["kind"] == "trial"}
    plan = [entry for entry in folder.journal if entry["kind"] == "plan"][-1]["ids"]
    arms: dict[str, list[int]] = {}
    for trial in plan:
        arms.setdefault(trials[trial]["arm"], []).append(trials[trial]["seed"])
    return {arm: sorted(seeds) for arm, seeds in arms.items()}


def looks(folder: Folder) -> list[list[int]]:
    return [entry["seeds"] for entry in folder.journal if entry["kind"] == "look"]


def tag(folder: Folder, key: str) -> str:
    rows = folder.query(
        "select t.value from tags t join tags k on k.run_uuid = t.run_uuid and k.key = "
        "'suite.kind' "
        "and k.value = 'sweep' where t.key = ?",
        key,
    )
    return str(rows[0][0]) if rows else ""


@pytest.mark.slow
@pytest.mark.full
def test_decided_arms_get_no_more_seeds_and_a_killed_sweep_goes_on_as_the_unbroken_one(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder.write(**PLANNED)
    process = folder.start(SLOW="0.01")
    folder.wait_for(process, lambda journal: any(entry["kind"] == "look" for entry in journal))
    process.kill()
    process.communicate()
    assert looks(folder) == [list(range(8))]
    done = folder.sweep()
    assert "look 2 of 2: 10 seeds; decided: none; 1 arm undecided at the last look" in done.stdout
    assert "seeds until decided: 28 of at most 30 trials were needed" in done.stdout
    expected = {BASE: list(range(10)), OPEN: list(range(10)), LOST: list(range(8))}
    assert seeds_by_arm(folder) == expected
    assert looks(folder) == [list(range(8)), list(range(10))]

    unbroken = Folder(tmp_path_factory.mktemp("unbroken"))
    unbroken.write(**PLANNED)
    whole = unbroken.sweep()
    assert f"look 1 of 2: 8 seeds; decided: {LOST}; 1 arm goes on" in whole.stdout
    assert seeds_by_arm(unbroken) == expected and looks(unbroken) == looks(folder)
    assert unbroken.curves() == folder.curves()

    made = looks_of({"suite.looks": tag(folder, "suite.looks")})
    assert made == Looks((tuple(range(8)), tuple(range(10))), (tuple(range(8)), tuple(range(10))))
    starts = Counter(entry["id"] for entry in folder.journal if entry["kind"] == "start")
    again = folder.sweep()
    assert "already complete (28/28 trials" in again.stdout and looks(folder) == [
        list(range(8)),
        list(range(10)),
    ]
    assert starts == Counter(entry["id"] for entry in folder.journal if entry["kind"] == "start")
    assert set(folder.runs().values()) == {"FINISHED"} and len(folder.runs()) == 28
    shown = folder.sweep("--dry-run", COLUMNS="160").stdout
    assert "0 trials to run" in shown and "look 2 of 2: 10 seeds, on record" in shown


# ---- rounds, from a journal that is made up ------------------------------------------------------

GRID = """\
name: looks
trial: {data: {name: digits}}
parameters:
  train.lr: {values: [0.1, 0.2, 0.3, 0.4]}
baseline: {train.lr: 0.1}
seeds: {at_least: 8, at_most: 12, until: decided, step: 2}
"""


class MadeUpPlan:
    """Trials of a sweep file, without images and weights."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec

    def trial(self, arm: Arm, seed: int) -> Trial:
        return Trial(f"{arm.name} {seed}", arm.name, seed, f"{arm.name} seed={seed}", arm.settings)

    def trials(
        self, arms: Iterable[Arm], seeds: Iterable[int] | None = None
    ) -> list[tuple[Arm, Trial]]:
        return [(arm, self.trial(arm, seed)) for seed in seeds or self.spec.seeds for arm in arms]


def made_up_plan(folder: Path, text: str = GRID, *overrides: str) -> Plan:
    file = folder / "x.yaml"
    file.write_text(text)
    return cast(Plan, MadeUpPlan(load(file, overrides)))


class MadeUpLaunch:
    """A launch whose trials end as the test says, without Ray and training."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.lines: list[str] = []
        console = Console(quiet=True)
        board = Board("looks", History(), plan.spec.objectives, console)
        board.warn = self.lines.append  # type: ignore[method-assign]

        def make_tracker(journal: str) -> Projection:
            return Projection(MemoryStore("looks", journal), folder)

        self.launch = Launch(plan, FolderStorage(folder / "runs"), make_tracker, Options(), board)
        self.plan = plan

    def add(self, arm: str, seed: int, value: float, status: str = "finished") -> None:
        launch, by_name = self.launch.ledger, {each.name: each for each in self.plan.spec.arms_list}
        trial = self.plan.trial(by_name[arm], seed)
        baseline = self.plan.spec.is_baseline(by_name[arm])
        launch.record(
            "trial",
            id=trial.id,
            arm=arm,
            seed=seed,
            name=trial.name,
            settings={},
            config={},
            baseline=baseline,
        )
        launch.record("start", id=trial.id, epoch=0)
        launch.record("epoch", id=trial.id, epoch=1, metrics={"val/acc": value, "test/acc": value})
        launch.record("end", id=trial.id, status=status, epochs=1, best_value=value)

    @property
    def champion(self) -> str | None:
        """The arm of the champion."""
        champion = self.launch.champion
        return self.launch.ledger.history.trials[champion].trial.arm if champion else None

    def close(self) -> None:
        self.launch.sender.close()
        self.launch.ledger.journal.close()
        self.launch.retention.close(cancel=False)


Make = Callable[..., MadeUpLaunch]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Make]:
    """Makes a launch of a sweep file's text."""
    launches: list[MadeUpLaunch] = []

    def make(text: str = GRID, *overrides: str) -> MadeUpLaunch:
        launches.append(MadeUpLaunch(made_up_plan(tmp_path, text, *overrides), tmp_path))
        return launches[-1]

    yield make
    for each in launches:
        each.close()


def noise(seed: int, size: float) -> float:
    """Alternating, so that the differences to the baseline are centred at the arm's own shift."""
    return size * (1 if seed % 2 else -1) * (1 + seed / 10)


SHIFTS = {
    "lr=0.1": (0.5, 0.0),
    "lr=0.2": (0.7, 0.002),
    "lr=0.3": (0.5, 0.03),
    "lr=0.4": (0.5, 0.0004),
}
"""Arm -> level and noise: the baseline, a better arm, an undecided one, an equivalent one."""


def ended(
    made: Make, seeds: Iterable[int], arms: Iterable[str] = SHIFTS, *overrides: str
) -> MadeUpLaunch:
    launch = made(GRID, *overrides)
    for arm in arms:
        level, size = SHIFTS[arm]
        for seed in seeds:
            launch.add(arm, seed, level + noise(seed, size))
    return launch


def test_the_first_round_is_all_arms_on_the_seeds_of_the_first_look(tmp_path: Path) -> None:
    (first,) = rounds(made_up_plan(tmp_path), History())
    assert not first.ended and first.number == 1 and len(first.pairs) == 4 * 8
    assert {trial.seed for _, trial in first.pairs} == set(range(8))


def test_decided_arms_leave_and_the_baseline_goes_on_with_the_undecided(made: Make) -> None:
    launch = ended(
        made, range(8), ("lr=0.1", "lr=0.2", "lr=0.3"), "parameters.train.lr.values=[0.1,0.2,0.3]"
    )
    first, second = rounds(launch.plan, launch.launch.ledger.history)
    assert first.ended and first.decided == ("lr=0.2",) and first.undecided == ("lr=0.3",)
    new = {(trial.arm, trial.seed) for _, trial in second.pairs if trial.seed >= 8}
    assert new == {("lr=0.1", 8), ("lr=0.1", 9), ("lr=0.3", 8), ("lr=0.3", 9)}
    assert second.pairs[: 3 * 8] == first.pairs


def test_a_round_ends_when_each_of_its_trials_has_ended(made: Make) -> None:
    launch = ended(made, range(7))
    (first,) = rounds(launch.plan, launch.launch.ledger.history)
    assert not first.ended
    for arm in SHIFTS:
        launch.add(arm, 7, 0.1, "failed")
    assert rounds(launch.plan, launch.launch.ledger.history)[0].ended, (
        "failed trials have ended, too"
    )


def test_nothing_is_left_once_every_arm_is_decided_or_seeds_are_used_up(made: Make) -> None:
    launch = ended(
        made, range(8), ("lr=0.1", "lr=0.2", "lr=0.4"), "parameters.train.lr.values=[0.1,0.2,0.4]"
    )
    (only,) = rounds(launch.plan, launch.launch.ledger.history)
    assert only.ended and not only.going and set(only.decided) == {"lr=0.2", "lr=0.4"}


def test_the_last_look_ends_the_rounds_with_arms_undecided(made: Make) -> None:
    launch = ended(made, range(12), ("lr=0.1", "lr=0.3"), "parameters.train.lr.values=[0.1,0.3]")
    known = rounds(launch.plan, launch.launch.ledger.history)
    assert [taken.ended for taken in known] == [True] * 3 and known[-1].undecided == ("lr=0.3",)


def test_each_of_several_baselines_goes_on_as_long_as_one_of_its_arms(
    tmp_path: Path, made: Make
) -> None:
    text = GRID.replace(
        "parameters:\n", "parameters:\n  augment: {values: [none, flip]}\n"
    ).replace("[0.1, 0.2, 0.3, 0.4]", "[0.1, 0.2]")
    launch = made(text)
    for arm in launch.plan.spec.arms_list:
        level, size = SHIFTS["lr=0.2" if "lr=0.2" in arm.name else "lr=0.1"]
        size = 0.03 if arm.name == "augment=flip lr=0.2" else size
        level = 0.5 if arm.name == "augment=flip lr=0.2" else level
        for seed in range(8):
            launch.add(arm.name, seed, level + noise(seed, size))
            trial = launch.launch.ledger.history.trials[f"{arm.name} {seed}"]
            trial.trial.settings.update(arm.settings)  # type: ignore[attr-defined]
    second = rounds(launch.plan, launch.launch.ledger.history)[1]
    assert {arm.name for arm in second.arms} == {"augment=flip lr=0.1", "augment=flip lr=0.2"}


def test_looks_under_the_sweeps_own_plan_share_its_constant_level(made: Make) -> None:
    launch = made().launch.ledger
    planned = launch.spec.looks
    assert looks_at(launch.spec, launch.history, 1) == Looks(planned, planned[:1], open=False)
    launch.record("launch", id="1", looks=[list(seeds) for seeds in planned])
    launch.record("look", seeds=list(planned[0]))
    kept = looks_at(launch.spec, launch.history, 2)
    assert kept == Looks(planned, planned[:2], open=False), "the second is not on record yet"
    assert len(set(look_levels(kept, 3))) == 1
    launch.record("launch", id="1", looks=[[0, 1, 2, 3, 4, 5], list(planned[0])])
    launch.record("look", seeds=list(planned[1]))
    changed = looks_at(launch.spec, launch.history, 3)
    assert changed == Looks(planned, planned, open=True), "a look was made under another plan"


def test_an_arm_with_too_few_pairs_gets_more_seeds_and_is_undecided_at_the_last_look(
    made: Make,
) -> None:
    launch = ended(made, range(8), ("lr=0.1",), "parameters.train.lr.values=[0.1,0.2]")
    for seed in range(8):
        launch.add("lr=0.2", seed, 0.7, "finished" if seed < 4 else "failed")
    first, second = rounds(launch.plan, launch.launch.ledger.history)
    assert first.ended and not first.decided and first.undecided == ("lr=0.2",)
    assert {trial.seed for _, trial in second.pairs} == set(range(10))
    for seed in range(8, 12):
        launch.add("lr=0.1", seed, 0.5)
        launch.add("lr=0.2", seed, 0.7, "failed")
    last = rounds(launch.plan, launch.launch.ledger.history)[-1]
    assert last.ended and last.number == 3 and last.undecided == ("lr=0.2",)


# ---- looks on record -----------------------------------------------------------------------------

LISTED = GRID.replace("{at_least: 8, at_most: 12, until: decided, step: 2}", "[0, 1]")


def test_a_look_is_on_record_once_and_again_when_seeds_were_added(made: Make) -> None:
    launch = made(LISTED)
    launch.add("lr=0.1", 0, 0.5)
    launch.add("lr=0.2", 0, 0.5)
    launch.launch.ledger.record_look()
    launch.launch.ledger.record_look()
    assert launch.launch.ledger.history.looks == [(0,)]
    launch.add("lr=0.1", 3, 0.5)
    launch.launch.ledger.record(
        "trial", id="x", arm="lr=0.2", seed=3, name="x", settings={}, config={}
    )
    launch.launch.ledger.record_look()
    assert launch.launch.ledger.history.looks == [(0,)], "a trial has not ended"
    launch.launch.ledger.record("end", id="x", status="failed", epochs=0)
    launch.launch.ledger.record_look()
    assert launch.launch.ledger.history.looks == [(0,), (0, 3)]


def test_looks_stay_on_record_when_trials_are_forgotten_and_in_older_journals_there_are_none() -> (
    None
):
    trial = {"id": "t", "arm": "a", "seed": 0, "name": "a", "settings": {}, "config": {}}
    entries = [{"kind": "trial", **trial}, {"kind": "end", "id": "t", "status": "finished"}]
    assert History(entries).looks == []
    entries += [
        {"kind": "look", "seeds": [0]},
        {"kind": "forget", "id": "t"},
        {"kind": "look", "seeds": [0, 1]},
    ]
    assert History(entries).looks == [(0,), (0, 1)]


def test_of_a_search_only_the_seeds_that_confirm_are_looked_at(made: Make) -> None:
    launch = made(LISTED.replace("[0, 1]", "[0, 1, 2]"), "method=random", "run_cap=4")
    for arm in ("lr=0.1", "lr=0.2", "lr=0.3"):
        launch.add(arm, 0, 0.5)
    launch.launch.ledger.confirmed = ["lr=0.1", "lr=0.2"]
    for arm in launch.launch.ledger.confirmed:
        for seed in (1, 2):
            launch.add(arm, seed, 0.5)
    launch.launch.ledger.record_look()
    assert launch.launch.ledger.history.looks == [(1, 2)]


@pytest.mark.parametrize(
    "seeds", [(0,), (0, 1, 2), (3, 1, 2, 9), tuple(range(0, 40, 2)), (2**32 - 1,)]
)
def test_a_tag_gives_back_the_looks(seeds: tuple[int, ...]) -> None:
    text = looks_tag([seeds], [seeds, (0,)])
    ordered = tuple(sorted(seeds))
    assert looks_of({"suite.looks": text}) == Looks((ordered,), (ordered, (0,)))


def test_a_tag_is_never_too_long_and_a_foreign_one_is_no_error() -> None:
    scattered = [tuple(range(0, 2 * size, 2)) for size in range(8, 60)]
    text = looks_tag(scattered[:3], scattered)
    assert len(text) <= MAX_LENGTH
    found = looks_of({"suite.looks": text})
    assert found.planned == tuple(scattered[:3]) and found.made[-1] == scattered[-1]
    for foreign in (
        "",
        "x",
        "[]",
        "{}",
        '{"made": [1]}',
        '{"made": ["a-b"]}',
        '{"made": ["0-99999999999"]}',
    ):
        assert looks_of({"suite.looks": foreign}) == Looks()
    assert looks_of({}) == Looks() and looks_tag([], []) == ""


@pytest.mark.parametrize(
    ("tags", "seed"),
    [({"suite.search_seed": "3"}, 3), ({"suite.search_seed": ""}, None), ({}, None)],
)
def test_the_seed_of_a_search_is_read_from_its_tag(tags: dict[str, str], seed: int | None) -> None:
    assert search_seed_of(tags) == seed


# ---- the champion and lost seeds -----------------------------------------------------------------


def test_an_arm_that_lost_seeds_is_no_champion_however_lucky_the_others_were(made: Make) -> None:
    launch = made(LISTED)
    for seed in (0, 1):
        launch.add("lr=0.1", seed, 0.5)
        launch.add("lr=0.3", seed, 0.6)
    launch.add("lr=0.2", 0, 0.9)
    launch.add("lr=0.2", 1, 0.1, "failed")
    finished = [
        item for item in launch.launch.ledger.history.in_plan() if item.status == "finished"
    ]
    assert rank(launch.launch.ledger, finished) == ["lr=0.3", "lr=0.1", "lr=0.2"]
    launch.launch._select_champion()
    assert launch.champion == "lr=0.3"


def test_trials_that_early_termination_stopped_in_a_grid_are_lost_seeds(made: Make) -> None:
    launch = made(LISTED, "early_terminate={type: asha}")
    for seed in (0, 1):
        launch.add("lr=0.1", seed, 0.5)
    launch.add("lr=0.2", 0, 0.9)
    launch.add("lr=0.2", 1, 0.4, "stopped")
    launch.launch._select_champion()
    assert launch.champion == "lr=0.1"


def test_without_an_arm_that_lost_no_seed_there_is_no_champion_and_a_line_says_why(
    made: Make,
) -> None:
    launch = made(LISTED)
    launch.add("lr=0.1", 0, 0.5)
    launch.add("lr=0.2", 0, 0.9)
    launch.launch._select_champion()
    assert launch.champion == "lr=0.2"
    launch.add("lr=0.1", 1, 0.5, "failed")
    launch.add("lr=0.2", 1, 0.9)
    launch.add("lr=0.2", 2, 0.5, "failed")
    launch.add("lr=0.1", 2, 0.9)
    launch.launch._select_champion()
    assert launch.champion is None
    assert any("no champion: every arm lost seeds" in line for line in launch.lines)


def test_an_arm_whose_failed_seeds_were_taken_out_of_the_file_is_no_champion(made: Make) -> None:
    launch = made(LISTED.replace("[0, 1]", "[0]"))
    ids = []
    for arm, values in {"lr=0.1": (0.5, 0.5), "lr=0.2": (0.9, None), "lr=0.3": (0.6, 0.6)}.items():
        for seed, value in enumerate(values):
            launch.add(arm, seed, value or 0.1, "finished" if value else "failed")
            ids += [f"{arm} {seed}"] if seed == 0 else []
    launch.launch.ledger.record("plan", ids=ids)
    assert {item.trial.seed for item in launch.launch.ledger.history.in_plan()} == {0}
    launch.launch._select_champion()
    assert launch.champion == "lr=0.3"


def test_a_search_is_won_on_unseen_seeds_and_its_early_stops_are_no_losses(made: Make) -> None:
    launch = made(LISTED, "method=random", "run_cap=4", "early_terminate={type: asha}")
    launch.add("lr=0.1", 0, 0.5)
    launch.add("lr=0.2", 0, 0.99)
    launch.add("lr=0.3", 0, 0.7, "stopped")
    launch.add("lr=0.4", 0, 0.95)
    launch.launch.ledger.confirmed = ["lr=0.1", "lr=0.2", "lr=0.3"]
    for arm, value in (("lr=0.1", 0.5), ("lr=0.2", 0.6), ("lr=0.3", 0.8)):
        launch.add(arm, 1, value)
    launch.launch._select_champion()
    assert launch.champion == "lr=0.3", "seed 0 chose the arms, and flatters the chosen"
    assert launch.launch.ledger.history.champion == "lr=0.3 1"


# ---- the plan, before anything runs --------------------------------------------------------------


def test_a_dry_run_shows_each_look_with_its_level_and_the_least_and_most_trials(
    folder: Folder,
) -> None:
    folder.write(**PLANNED)
    shown = " ".join(folder.sweep("--dry-run", COLUMNS="160").stdout.split())
    assert "look 1 of 2: 8 seeds, at most 24 trials of 3 arms, two-sided error level 0.0" in shown
    levels = [float(text) for text in re.findall(r"two-sided error level ([\d.]+)", shown)]
    planned = Looks(planned=(tuple(range(8)), tuple(range(10))))
    assert levels == [pytest.approx(look_levels(planned, 2)[0], abs=5e-5)] * 2, levels
    assert "look 2 of 2: 10 seeds, at most 30 trials of 3 arms, two-sided error level 0.0" in shown
    assert "24 trials to run, 72 epochs" in shown
    assert "at least 24 trials, about" in shown and "at most 30, about" in shown
    assert not (folder.path / "runs").exists()


@pytest.mark.parametrize(
    ("seeds", "noted"),
    [("[0,1,2]", "there are 2"), ("[0]", "there are 0"), ("[0,1,2,3,4,5,6]", "")],
)
def test_a_search_with_too_few_unseen_seeds_for_verdicts_gets_a_note(
    tmp_path: Path, seeds: str, noted: str
) -> None:
    plan = made_up_plan(tmp_path, LISTED, "method=random", "run_cap=3", f"seeds={seeds}")
    notes = _few_unseen_seeds(plan.spec)
    assert [("give at least 7 seeds" in note, noted in note) for note in notes] == (
        [(True, True)] if noted else []
    )
