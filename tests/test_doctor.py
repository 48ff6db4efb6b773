"""``python -m suite.doctor``: what it finds after a crash and an outage, and what it mends."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import SWEEP, TINY, Folder, _empty_store

from suite import doctor
from suite.storage.journal import Lock
from suite.system import environment

pytestmark = pytest.mark.slow

OFTEN = TINY.replace(
    "import os, time\n",
    "import os, time\nimport suite.training.state\n\nsuite.training.state.SAVE_EVERY_S = 0.0\n",
)


def look(folder: Folder, *arguments: str, code: int) -> str:
    done = subprocess.run(
        folder.command(*arguments, module="suite.doctor"),
        cwd=folder.path,
        env=folder.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def epochs_done(count: int) -> Any:
    return lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= count


def test_a_killed_sweep_is_found_closed_and_goes_on(folder: Folder) -> None:
    """SIGKILL with two trials running, then a flipped bit and a half-written checkpoint."""
    (folder.path / "tiny_net.py").write_text(OFTEN)
    folder.write(
        seeds=[0], trial=SWEEP["trial"] | {"train": SWEEP["trial"]["train"] | {"epochs": 10}}
    )
    process = folder.start(SLOW="0.1")
    folder.wait_for(
        process,
        lambda journal: len({entry["id"] for entry in journal if entry["kind"] == "epoch"}) == 2,
    )
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    workers = [
        one
        for one in below
        if one.is_running() and one.name().startswith("ray::") and one.name()[-5:] != "Agent"
    ]
    psutil.wait_procs(
        workers, timeout=30
    )  # until then they may write; Ray's agents go a minute later
    newest = sorted((folder.path / "runs").rglob("last.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    (newest.parent.parent / ".tmp-abc").mkdir()

    def seen() -> dict[Path, int]:
        places = (folder.path / "runs").rglob("*")
        return {
            path: path.stat().st_mtime_ns
            for path in places
            if path.is_file() and path.name != "lock"
        }

    before, running = seen(), folder.runs()
    said = look(folder, code=6)
    assert "its process died, 2 trials were running" in said
    assert (
        "1 damaged checkpoints" in said
        and str(newest.parent) in said
        and "1 half-written checkpoints" in said
    )
    assert "problems found" in said
    assert seen() == before and folder.runs() == running, "looking changes nothing"
    assert "RUNNING" in folder.runs().values()

    said = look(folder, "--fix", code=0)
    assert (
        "closed" in said and "set aside" in said and "removed" in said and "no problem left" in said
    )
    assert set(folder.runs().values()) == {"KILLED"} and folder.parents() == ["KILLED"]
    assert "no problem left" in look(folder, code=0)
    folder.sweep()
    assert set(folder.runs().values()) == {"FINISHED"} and folder.parents() == ["FINISHED"]
    folder.assert_tracked()


def test_a_damaged_journal_and_low_disks_are_said(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder.path / "runs" / "bad"
    place.mkdir(parents=True)
    (place / "journal.jsonl").write_text(
        '{"seq": 1, "kind": "stop"}\nnonsense\n{"seq": 3, "kind": "stop"}\n'
    )
    monkeypatch.setattr(doctor, "MIN_FREE", 2**60)
    found = list(
        doctor.examine(folder.path / "runs", f"sqlite:///{folder.path}/mlflow.db", fix=False)
    )
    bad = {finding.about: finding for finding in found if not finding.well}
    assert (
        "journal.jsonl:2: the journal is damaged" in bad["bad"].text
        and "backup" in bad["bad"].remedy
    )
    assert {"disk, results", "disk, cache", "disk, Ray's files"} <= bad.keys()
    assert not (Path(folder.path) / "mlflow.db").exists(), "looking makes no store"


def what_an_outage_left_is_sent(folder: Folder) -> None:
    """The cursor is behind: as after a sweep that ended with exit code 4."""
    rows = folder.metric_rows()
    run = folder.query(
        "select run_uuid from runs r join tags t using (run_uuid) where t.key = 'suite.trial'"
    )[0][0]
    with sqlite3.connect(folder.path / "mlflow.db") as connection:
        connection.execute(
            "delete from metrics where run_uuid = ? and step > 2 and key like 'train/%'", (run,)
        )
    cursor = folder.path / "runs" / "tiny" / "tracking.json"
    cursor.write_text(cursor.read_text().replace('"seq": ', '"seq": 1, "was": '))
    said = look(folder, code=6)
    assert "entries are not there yet" in said and "Send them with --fix." in said
    assert "entries sent: all" in look(folder, "--fix", code=0)
    assert folder.metric_rows() == rows
    folder.assert_tracked()

    # another store than the one that it was tracked in must not get a second copy
    said = look(folder, "--fix", "--tracking-uri", "sqlite:///other.db", code=6)
    assert "it was tracked in another store" in said and not (folder.path / "other.db").exists()


def test_a_sweep_that_runs_outages_results_that_changed_and_folders_that_cannot_be_used_are_said(
    folder: Folder,
) -> None:
    folder.write(parameters=None, seeds=[0], activations=False, checkpoints={"keep": 1})
    folder.sweep()
    lock = Lock(folder.path / "runs" / "tiny")
    try:
        assert "running: process" in look(folder, "--fix", code=0), "it is left alone"
    finally:
        lock.release()
    what_an_outage_left_is_sent(folder)
    for name in ("best.pt", "predictions.npz"):
        (file,) = (folder.path / "runs").rglob(name)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    said = look(folder, code=6)
    assert "2 files differ from what was written" in said and "best.pt" in said
    journal = folder.path / "runs" / "tiny" / "journal.jsonl"
    journal.unlink()
    journal.mkdir()
    assert "the journal cannot be read: Is a directory" in look(folder, code=6)
    (folder.path / "file").touch()
    assert f"{folder.path}/file is not a folder" in look(folder, "--storage-path", "file", code=6)


def test_an_empty_folder_is_well(folder: Folder) -> None:
    said = look(folder, code=0)
    assert (
        "versions: Python" in said
        and "GPUs: " in said
        and "mlflow.db: can be used" in said
        and "no problem left" in said
        and not (folder.path / "runs").exists()
    )


def ill(folder: Folder) -> dict[str, doctor.Finding]:
    """What is not well, by what it is about; the command ends with 6 then."""
    found = list(
        doctor.examine(folder.path / "runs", f"sqlite:///{folder.path}/mlflow.db", fix=False)
    )
    return {
        finding.about.partition(" in sqlite")[0]: finding for finding in found if not finding.well
    }


def test_old_packages_are_said(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ill(folder) == {}
    monkeypatch.setattr(
        environment, "_version", {"torch": "2.9.1", "mlflow": "3.10.0", "ray": "2.60.0"}.__getitem__
    )
    assert ill(folder).keys() == {"versions"}
    said = ill(folder)["versions"]
    assert (
        "torch must be 2.10 or later, got 2.9.1" in said.text
        and "mlflow must be 3.11 or later" in said.text
    )
    assert "ray" not in said.text and said.remedy == "pip install -r requirements.txt"


def test_gpus_that_torch_cannot_use_are_said(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver sees two: torch was made without CUDA, then it can use one, then both."""
    programs = folder.path / "bin"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(
        "#!/bin/sh\necho 'GPU 0: H200'; echo '  MIG 1g'; echo 'GPU 1: H200'\n"
    )
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"H200 no. {number}")
    for usable in (0, 1, 2):
        monkeypatch.setattr(torch.cuda, "is_available", lambda usable=usable: usable > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda usable=usable: usable)
        said = doctor._gpus()
        assert (ill(folder).keys() == {"GPUs"}) is (usable < 2)
        if usable < 2:
            assert f"the driver sees 2, torch {torch.__version__} can use {usable}" in said.text
            assert "CUDA_VISIBLE_DEVICES" in said.remedy
        else:
            assert said.text == "H200 no. 0, H200 no. 1"


def test_a_store_of_another_schema_is_said(folder: Folder) -> None:
    shutil.copy(_empty_store(), folder.path / "mlflow.db")
    assert "mlflow.db: can be used" in look(folder, code=0)
    with sqlite3.connect(folder.path / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = '0123456789ab'")
    before = (folder.path / "mlflow.db").read_bytes()
    said = look(folder, "--fix", code=6)
    assert (
        "does not fit the installed MLflow: found 0123456789ab" in said
        and "mlflow db upgrade" in said
    )
    assert (folder.path / "mlflow.db").read_bytes() == before, "it is not migrated"
