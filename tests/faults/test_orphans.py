"""A worker whose launch is over while it trains on: another launch owns the folder.

With Ray: ``test_signals.py``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from fault_table import Tally
from training import training, trial

from suite.core.records import Trial
from suite.execution.shared import EpochEvent, TrialRequest
from suite.execution.worker import TrialRunner
from suite.storage.folder_storage import FolderStorage, FolderTrialStorage
from suite.storage.journal import LAUNCH_FILE


def written_after_a_takeover(folder: Path) -> set[str]:
    """Train a trial whose folder another launch takes over after the first of three epochs; the
    files it wrote then.
    """
    (folder / LAUNCH_FILE).write_text("mine")
    shared = SimpleNamespace(
        storage=FolderStorage(folder), token="mine", activations=False, limit_batches=None
    )
    given = asdict(trial(epochs=3))
    member = TrialRunner(shared, TrialRequest(Trial(**given), "data", None))  # type: ignore[arg-type]
    member.training = training(
        Trial(**given),
        member.folder,
        should_stop=member._should_stop,
        owns_sweep=member.storage.owns_sweep,
    )
    assert isinstance(member.advance()[-1], EpochEvent)
    (folder / LAUNCH_FILE).write_text("another's")

    def seen() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before = seen()
    while not member.done:
        member.advance()
    member.suspend()
    after = seen()
    return {
        path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    }


@pytest.mark.fault(5)
def test_what_an_orphan_trains_is_written_nowhere(tmp_path: Path, tally: Tally) -> None:
    assert written_after_a_takeover(tmp_path) == set()
    tally.add()


@pytest.mark.fault(5, control=True)
def test_one_that_does_not_look_whose_folder_it_is_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken build."""
    monkeypatch.setattr(FolderTrialStorage, "owns_sweep", lambda self: True)
    assert "predictions.npz" in written_after_a_takeover(tmp_path)
