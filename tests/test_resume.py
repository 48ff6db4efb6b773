"""Stops of every kind, and what the next launch makes of them: real processes, real signals, a
real MLflow store.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alone import alone
from conftest import SWEEP, Folder

pytestmark = pytest.mark.slow


def epochs_done(count: int) -> Any:
    return lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= count


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The curves of the sweep file when nothing disturbs it."""
    folder = Folder(tmp_path_factory.mktemp("unbroken"))
    folder.write()
    folder.sweep()
    assert folder.runs() == dict.fromkeys(folder.curves(), "FINISHED") and len(folder.curves()) == 4
    assert folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    return folder.curves()


@pytest.mark.fault(1, 3, 4)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full),
        (signal.SIGKILL, -9),
    ],
    ids=["INT", "TERM", "KILL"],
)
def test_a_stopped_sweep_goes_on_to_the_numbers_of_an_unbroken_one(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    folder.write()
    steps = str(tmp_path / "steps")
    process = folder.start(SLOW="0.1", STEPS=steps)
    folder.wait_for(process, epochs_done(3))
    before = folder.curves()
    # Ctrl-C in a terminal reaches the whole foreground group, as does what `timeout` sends; a kill
    # reaches one process
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    if number != signal.SIGKILL:
        assert "launch the same command again" in output
        assert "RUNNING" not in [*folder.runs().values(), *folder.parents()]
        assert "KILLED" in folder.runs().values()
    folder.sweep(STEPS=steps)
    if number != signal.SIGKILL:  # which costs what came after the last checkpoint, at most 30 s
        assert len(Path(steps).read_text().split()) == 4 * 4 * 8, (
            "trials, epochs, steps: none was made twice"
        )
    curves = folder.curves()
    assert curves == alone(folder.path, tmp_path / "alone", monkeypatch) and len(curves) == 4
    assert all(
        curves[name][epoch] == before[name][epoch] for name in before for epoch in before[name]
    )
    assert folder.runs() == dict.fromkeys(curves, "FINISHED")
    assert folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    if number == signal.SIGKILL:
        folder.assert_reported()


def test_ctrl_c_costs_no_step(folder: Folder) -> None:
    """A stop in the middle of an epoch writes a checkpoint there."""
    folder.write(seeds=[0], parameters=None)
    steps = folder.path / "steps"
    process = folder.start(SLOW="0.3", STEPS=str(steps))
    # eight an epoch: in the middle of the second
    folder.wait_for(process, lambda _: steps.exists() and len(steps.read_text().split()) >= 11)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    (trial,) = (folder.path / "runs" / "tiny" / "trials").iterdir()
    names = [path.name for path in (trial / "checkpoints").iterdir()]
    within = [
        name for name in names if re.fullmatch(r"e\d+-?s\d+", name) and not name.endswith("s000000")
    ]
    assert within, f"no checkpoint within an epoch: {names}"
    folder.sweep(STEPS=str(steps))
    assert len(steps.read_text().split()) == 4 * 8, "epochs, steps: none was made twice"
    assert set(folder.runs().values()) == {"FINISHED"}


@pytest.mark.fault(38)
def test_a_finished_sweep_launched_again_runs_only_what_is_new_or_forced(folder: Folder) -> None:
    folder.write(seeds=[0], parameters={"train.lr": {"values": [0.05]}})
    folder.sweep()

    def starts() -> list[str]:
        return [entry["id"] for entry in folder.journal if entry["kind"] == "start"]

    assert len(starts()) == 1 == len(folder.runs())
    before = folder.metric_rows()
    done = folder.sweep("--resume")
    assert "already complete (1/1" in done.stdout
    assert folder.metric_rows() == before

    folder.write(seeds=[0, 1])  # another seed and another arm
    folder.sweep()
    assert len(starts()) == len(set(starts())) == 4 == len(folder.runs())
    assert set(folder.runs().values()) == {"FINISHED"}
    assert [entry["seeds"] for entry in folder.journal if entry["kind"] == "look"] == [[0], [0, 1]]
    tags = folder.query("select value from tags where key = 'suite.looks'")
    assert tags == [('{"planned": [], "made": ["0", "0-1"]}',)]

    first = folder.query("select run_uuid from runs where lifecycle_stage = 'active'")
    folder.sweep("--force", "--only", "lr=0.05")
    second = folder.query("select run_uuid from runs where lifecycle_stage = 'active'")
    assert len(starts()) == 6 and len(first) == len(second) == 5
    assert len(set(first) & set(second)) == 3, "only the forced arm gets new runs"
    assert all(len(values) == 1 for values in folder.metric_rows().values())

    # an arm that is dropped from the file stays, and says that it is no longer in the plan
    folder.write(seeds=[0, 1], parameters={"train.lr": {"values": [0.2]}})
    folder.sweep()
    assert len(starts()) == 6 and len(folder.runs()) == 4
    assert sum(entry["kind"] == "look" for entry in folder.journal) == 2, (
        "the same seeds again are no further look"
    )
    rows = folder.query(
        "select t.value, count(*) from tags t join runs r using (run_uuid) "
        "where t.key = 'suite.in_plan' and r.lifecycle_stage = 'active' group by t.value"
    )
    assert dict(rows) == {"true": 2, "false": 2}


@pytest.mark.fault(36)
def test_a_second_process_is_refused_while_the_first_runs(folder: Folder) -> None:
    folder.write(seeds=[0])
    process = folder.start(SLOW="1")
    folder.wait_for(process, epochs_done(1))
    before = folder.journal
    done = folder.sweep(code=5)
    assert f"process {process.pid}" in done.stderr
    folder.wait_for(process, epochs_done(sum(entry["kind"] == "epoch" for entry in before) + 1))
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143 and "launch the same command again" in output, output
    assert folder.journal[: len(before)] == before
    assert sum(entry["kind"] == "launch" for entry in folder.journal) == 1
    assert set(folder.runs().values()) == {"KILLED"}


@pytest.mark.full
def test_a_torn_last_line_of_the_journal_is_dropped(
    folder: Folder, unbroken: dict[str, Any]
) -> None:
    folder.write()
    process = folder.start(SLOW="0.05")
    folder.wait_for(process, epochs_done(4))
    process.kill()
    process.communicate()
    journal = folder.path / "runs" / "tiny" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"seq": 99999, "ts_ms": 1, "kind": "epo')
    folder.sweep()
    assert folder.curves() == unbroken
    folder.assert_tracked()


@pytest.mark.full
def test_the_budget_stops_cleanly_and_the_next_launch_goes_on(
    folder: Folder, unbroken: dict[str, Any]
) -> None:
    folder.write()
    done = folder.sweep("--budget", "14s", SLOW="0.3")
    assert "budget of 14 s" in done.stdout
    assert "RUNNING" not in folder.runs().values()
    assert folder.curves() != unbroken
    folder.sweep()
    assert folder.curves() == unbroken


def test_resume_without_anything_to_resume_is_an_error_and_writes_nothing(folder: Folder) -> None:
    folder.write()
    done = folder.sweep("--resume", code=2)
    assert "nothing to resume" in done.stderr
    assert not (folder.path / "runs").exists() and not (folder.path / "mlflow.db").exists()


def alias(folder: Folder) -> list[str]:
    """The run behind the alias ``champion``."""
    rows = folder.query(
        "select v.run_id from registered_model_aliases a join model_versions v "
        "on v.name = a.name and v.version = a.version where a.alias = 'champion'"
    )
    return [run for (run,) in rows]


@pytest.mark.full
def test_going_back_to_an_earlier_plan_brings_its_champion_back_and_forces_only_its_trials(
    folder: Folder,
) -> None:
    folder.write(seeds=[0], checkpoints={"keep": 1})
    folder.sweep()
    first = alias(folder)
    folder.sweep("train.epochs=2")
    second = alias(folder)
    assert len(first) == len(second) == 1 and first != second
    back = folder.sweep()
    assert "already complete" in back.stdout and "models:/tiny@champion" in back.stdout
    assert alias(folder) == first
    with sqlite3.connect(folder.path / "mlflow.db") as store:  # as if it had never been registered
        store.execute("update model_versions set run_id = 'gone' where run_id = ?", first)
    lost = folder.sweep()
    assert "so it is not registered" in lost.stdout and "seed=0, not registered" in lost.stdout
    assert alias(folder) == []
    ids = set(folder.query("select run_uuid from runs where lifecycle_stage = 'active'"))
    folder.sweep("train.epochs=2", "--force", "--only", "lr=0.05")
    after = set(folder.query("select run_uuid from runs where lifecycle_stage = 'active'"))
    assert len(after) == len(ids) == 5 and len(ids & after) == 4, "the other plan's runs stay"


def test_trials_not_yet_done_start_anew_where_the_precision_is_another_one_now(
    folder: Folder,
) -> None:
    """One trial has ended, one has begun, one only stands in the plan: what each says of its
    numerics is true.
    """
    folder.write(seeds=[0], parameters={"train.lr": {"values": [0.05, 0.1, 0.2]}})
    process = folder.start("--max-concurrent", "1", SLOW="0.1")
    folder.wait_for(process, epochs_done(5))
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[0] and process.returncode == 130
    before = folder.curves()
    assert {name: len(curve) for name, curve in before.items()} == {
        "lr=0.05 seed=0": 4,
        "lr=0.1 seed=0": 1,
    }
    dies = (
        "import os; from suite.launch.ledger import Ledger\n"
        "Ledger.clear_folders = lambda _, items: items and os._exit(9)\n"
    )
    (folder.path / "dies.py").write_text(dies + "from suite.sweep.__main__ import main\nmain()")
    died = folder.run(
        "sweep.yaml", "train.precision=bf16", module="dies"
    )  # once they are forgotten, all still there
    assert died.returncode == 9 and len(folder.curves()) == 1
    assert list((folder.path / "runs" / "tiny" / "trials").glob("*/checkpoints/*")), (
        "nothing to take up by mistake"
    )
    said = " ".join((died.stdout + folder.sweep("train.precision=bf16").stdout).split())
    assert "what was trained in fp32 is kept as it is" in said
    assert (
        "of the trials that had begun with other numerics, 1 not yet done will start anew" in said
    )
    after = folder.curves()
    assert after["lr=0.05 seed=0"] == before["lr=0.05 seed=0"] and len(after["lr=0.1 seed=0"]) == 4
    assert after["lr=0.1 seed=0"][1] != before["lr=0.1 seed=0"][1], "its first epoch is in bf16 too"
    planned = {
        entry["name"]: entry["numerics"]["precision"]
        for entry in folder.journal
        if entry["kind"] == "trial"
    }
    assert planned == {"lr=0.05 seed=0": "fp32", "lr=0.1 seed=0": "bf16", "lr=0.2 seed=0": "bf16"}
    tagged = folder.query(
        "select r.name, t.value from runs r join tags t on t.run_uuid = r.run_uuid and t.key = "
        "'suite.numerics' "
        "where r.lifecycle_stage = 'active'"
    )
    assert {
        name: json.loads(text)["precision"] for name, text in tagged if name in planned
    } == planned
    folder.assert_tracked()
    assert folder.runs() == dict.fromkeys(planned, "FINISHED")


@pytest.mark.full
def test_another_precision_is_said_and_numerics_of_a_first_launch_stay(folder: Folder) -> None:
    auto = {**SWEEP["trial"], "train": {**SWEEP["trial"]["train"], "precision": "auto"}}
    folder.write(trial=auto, seeds=[0], parameters={"train.lr": {"values": [0.05]}})
    folder.sweep()
    chosen = next(entry for entry in folder.journal if entry["kind"] == "launch")["numerics"]
    journal = folder.path / "runs" / "tiny" / "journal.jsonl"
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen["precision"]]
    unsummed = re.sub(
        r', "crc": "[0-9a-f]{8}"}$', "}", journal.read_text(), flags=re.MULTILINE
    )  # as older ones are
    text = unsummed.replace(f'"precision": "{chosen["precision"]}"', f'"precision": "{other}"')
    assert f'"precision": "{other}"' in text, (
        "the journal is written in another form than this test knows"
    )
    journal.write_text(text)
    folder.write(trial=auto, seeds=[0, 1], parameters={"train.lr": {"values": [0.05]}})
    folder.sweep()
    second = [entry for entry in folder.journal if entry["kind"] == "trial"][-1]
    assert second["seed"] == 1 and second["numerics"]["precision"] == other, (
        "a second launch does not measure again"
    )
    said = folder.sweep(f"train.precision={chosen['precision']}").stdout
    assert f"what was trained in {other} is kept as it is" in said
