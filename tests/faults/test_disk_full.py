"""Disks that fill and empty again (tmpfs), and folders that cannot be written.

Needs root for the mounts.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alone import alone
from conftest import SWEEP, TINY, Folder
from fault_table import Tally

from suite.core.errors import EnvironmentProblem
from suite.storage.journal import Journal, read
from suite.system import disk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A checkpoint of every epoch, of a network with some megabytes to keep.
WIDE = (
    TINY.replace(
        "import os, time\n",
        "import os, time\nimport suite.training.state\n\nsuite.training.state.SAVE_EVERY_S = 0.0\n",
    )
    + """

class Wide(Tiny):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc = nn.Sequential(nn.Linear(8, 40000), nn.Linear(40000, num_classes))


def wide(num_classes):
    return Wide(num_classes)
"""
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 120 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("no small disk can be mounted here: that needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """A file that leaves so many bytes free."""
    ballast = place / "ballast"
    with (
        contextlib.suppress(OSError),
        ballast.open("wb", buffering=0) as file,
    ):  # others write there too
        while (left := disk.free(place) - leave) > 0:
            file.write(b"\0" * min(left, 2**20))
    return ballast


def wide_sweep(folder: Folder) -> None:
    (folder.path / "tiny_net.py").write_text(WIDE)
    trial = {**SWEEP["trial"], "model": {"arch": "tiny_net:wide"}}
    folder.write(
        trial={**trial, "train": {**trial["train"], "epochs": 8, "lr": 0.001}},
        parameters=None,
        seeds=[0],
    )


def epochs_done(count: int) -> Any:
    return lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= count


def start(folder: Folder, storage: Path) -> subprocess.Popen[str]:
    """The sweep with its results on the small disk; ``folder.journal`` reads from there."""
    (folder.path / "runs").symlink_to(storage)
    return folder.start(SLOW="0.05")


@pytest.mark.fault(19, 20, full=True)
def test_a_full_disk_that_gets_room_again_costs_nothing(
    folder: Folder, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    wide_sweep(folder)
    process = start(folder, small)
    folder.wait_for(process, epochs_done(2))
    ballast = fill(small, 0)
    time.sleep(8)  # the disk stays full for that long, whatever is tried meanwhile
    assert process.poll() is None, process.communicate()[0]
    ballast.unlink()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "No space left on device" in output and "free at" in output and "Traceback" not in output
    assert folder.runs() == {"tiny seed=0": "FINISHED"} or set(folder.runs().values()) == {
        "FINISHED"
    }
    folder.assert_tracked()
    assert folder.curves() == alone(folder.path, tmp_path / "alone", monkeypatch)
    tally.add()


@pytest.mark.fault(19, 20, full=True)
def test_a_disk_that_stays_full_ends_the_sweep_with_six_and_it_goes_on_later(
    folder: Folder, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    wide_sweep(folder)
    process = start(folder, small)
    folder.wait_for(process, epochs_done(3))
    ballast = fill(small, 0)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 6, output
    assert "disk full" in output or "cannot be written" in output
    assert "Traceback" not in output, output
    ballast.unlink()
    folder.sweep()
    assert set(folder.runs().values()) == {"FINISHED"} and folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    assert folder.curves() == alone(folder.path, tmp_path / "alone", monkeypatch)
    tally.add()


@pytest.mark.fault(19)
def test_too_little_room_at_the_start_is_refused(folder: Folder, small: Path, tally: Tally) -> None:
    wide_sweep(folder)
    fill(small, 5 * 2**20)
    done = folder.sweep("--storage-path", str(small), code=6)
    assert "disk full: checkpoints need" in done.stderr and "5 MiB free" in done.stderr, done.stderr
    assert [path.name for path in small.iterdir()] == ["ballast"] and not (
        folder.path / "mlflow.db"
    ).exists()
    tally.add()


@pytest.mark.fault(20, full=True)
def test_a_full_disk_below_the_database_is_waited_for(
    folder: Folder, small: Path, tally: Tally
) -> None:
    folder.write(parameters=None, seeds=[0])
    uri = f"sqlite:///{small}/mlflow.db"
    process = folder.start("--tracking-uri", uri, SLOW="0.1")
    folder.wait_for(process, epochs_done(1))
    ballast = fill(small, 0)
    folder.wait_for(process, epochs_done(4))
    ballast.unlink()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    with sqlite3.connect(small / "mlflow.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        found = connection.execute(
            "select count(*), count(distinct step) from metrics m join runs r using (run_uuid) "
            "where m.key = 'val/acc' and r.lifecycle_stage = 'active'"
        ).fetchone()
    assert found == (4, 4)
    tally.add()


@pytest.mark.fault(20)
def test_the_journal_waits_for_room_and_has_no_hole(small: Path, tally: Tally) -> None:
    told: list[str] = []
    path = small / "sweep" / "journal.jsonl"
    journal = Journal(path, told.append)
    journal.append("epoch", id="t", epoch=1)
    assert journal.flush(10)
    ballast = fill(small, 0)
    for number in range(2, 200):
        journal.append("epoch", id="t", epoch=number, metrics={"val/acc": 0.5, "text": "x" * 100})
    assert not journal.flush(2.5)
    ballast.unlink()
    assert journal.flush(10)
    journal.close()
    assert [entry["epoch"] for entry in read(path)] == list(range(1, 200))
    assert ["no entry fits" in told[0], "nothing is lost" in told[1], len(told)] == [True, True, 2]
    tally.add()


@pytest.mark.fault(20)
def test_a_journal_is_given_up_when_it_is_closed_on_a_full_disk(small: Path, tally: Tally) -> None:
    path = small / "journal.jsonl"
    journal = Journal(path)
    journal.append("epoch", id="t", epoch=1)
    assert journal.flush(10)
    ballast = fill(small, 0)
    journal.append("epoch", id="t", epoch=2, metrics={"text": "x" * 10_000})
    assert not journal.flush(0.5)
    began = time.monotonic()
    journal.close()
    assert time.monotonic() - began < 5
    ballast.unlink()
    assert [entry["epoch"] for entry in read(path)] == [1]
    tally.add()


@pytest.mark.fault(24)
def test_a_read_only_folder_is_refused_before_anything_starts(
    folder: Folder, small: Path, tally: Tally
) -> None:
    folder.write()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    done = folder.sweep("--storage-path", str(small / "runs"), code=6)
    assert "the folder for results must be writable" in done.stderr and str(small) in done.stderr
    assert not (folder.path / "mlflow.db").exists() and not (folder.path / "runs").exists()
    tally.add()


def test_a_sentence_about_room(tmp_path: Path) -> None:
    assert disk.lacking(tmp_path, 0, "checkpoints") == ""
    text = disk.lacking(tmp_path / "not" / "there", 2**60, "checkpoints")
    assert text.startswith("disk full: checkpoints need 1073741824 GiB, ") and text.endswith(
        "there"
    )
    assert issubclass(EnvironmentProblem, Exception)
