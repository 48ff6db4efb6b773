"""How journal entries become runs in a store.

========  ==========================================================================================
launch    the parent run: RUNNING, tags, the sweep file, environment.json; RUNNING trials -> KILLED
plan      plan.json and ``suite.planned`` on the parent; ``suite.in_plan``, ``suite.baseline`` on
          the trials
trial     noted until the trial starts, so that MLflow's duration of a run is the trial's
start     a child run: RUNNING, params (the flattened config), config.yaml, tags, the data set as an
          input
epoch     metrics, step = epoch, at the journal's time
end       FINISHED (finished, stopped), FAILED, KILLED (interrupted); tags; the metric
          ``best/value``; test figures of the best epoch that its ``epoch`` entry lacks, step = that
          epoch
file      an artifact
images    images that MLflow's page steps through, stored as by ``mlflow.log_image``; metrics
drop      the artifact ``checkpoints/best.pt`` is deleted, and the tag ``suite.checkpoint`` says so
forget    the run is deleted (MLflow keeps it until ``mlflow gc``); ``start`` creates another
look      ``suite.looks`` on the parent: the seeds of planned looks and of those taken
champion  ``suite.champion`` on the parent and on the winner
close     the parent: FINISHED or KILLED; ``suite.counts``
========  ==========================================================================================

Idempotent: each run stores its last applied entry in the tag ``suite.seq``, and in ``suite.born``
the ``forget`` entry that it was created after; older entries are skipped. Metrics need no such tag:
MLflow stores equal (name, step, time, value) once.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from suite.storage.journal import Entry
from suite.tracking.port import RunStore, SweepRuns
from suite.tracking.runs import RunTable
from suite.tracking.sweep_entries import SweepEntries
from suite.tracking.sweep_state import SweepState
from suite.tracking.trial_entries import TrialEntries

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class Projection:
    """The tracker (see ``port.Tracker``): applies journal entries to a store of runs."""

    def __init__(self, store: RunStore, folder: Path | None = None) -> None:
        """
        Args:
            store: where the runs are; it names the sweep and the journal.
            folder: the journal's folder, which the paths of ``file`` entries are relative to.
        """
        self.store = store
        folder = (folder or Path()).absolute()
        self.home = f"{socket.gethostname()}:{folder}"
        self._state = SweepState()
        self._runs = RunTable(store)
        self._sweep = SweepEntries(
            self._runs, self._state, store.sweep, store.journal_id, self.home
        )
        self._trial = TrialEntries(self._runs, self._state, store.sweep, store.journal_id, folder)

    def apply(self, entry: Entry) -> None:
        """Project one entry; see ``Tracker.apply``."""
        with self._runs.noting_rejection(entry):
            match entry["kind"]:
                case "launch":
                    self._sweep.launch(entry)
                case "plan":
                    self._sweep.plan(entry)
                case "trial":
                    self._trial.trial(entry)
                case "start":
                    self._trial.start(entry)
                case "epoch":
                    self._trial.epochs([entry])
                case "end":
                    self._trial.end(entry)
                case "file":
                    self._trial.file(entry)
                case "images":
                    self._trial.images(entry)
                case "drop":
                    self._trial.drop(entry)
                case "forget":
                    self._trial.forget(entry)
                case "look":
                    self._sweep.look(entry)
                case "champion":
                    self._sweep.champion(entry)
                case "close":
                    self._sweep.close(entry)
                case _:
                    pass  # "journal" and "take" change no run; another version may write more kinds

    def learn(self, entry: Entry) -> None:
        """See ``Tracker.learn``."""
        self._state.learn(entry)

    def epochs(self, entries: Sequence[Entry]) -> None:
        """See ``Tracker.epochs``."""
        self._trial.epochs(entries)

    def run_id(self, trial_id: str | None) -> str | None:
        """See ``Tracker.run_id``."""
        run = self._runs.get(trial_id)
        return run.id if run else None

    # ---- passed on to the store ------------------------------------------------------------------

    @property
    def has_model_registry(self) -> bool:
        """See ``Tracker.has_model_registry``."""
        return self.store.has_model_registry

    def check(self) -> None:
        """See ``Tracker.check``."""
        self.store.check(self.home)

    def read(self, sweep: str) -> SweepRuns:
        """See ``Tracker.read``."""
        return self.store.read(sweep)

    def page_url(self) -> str:
        """See ``Tracker.page_url``."""
        return self.store.page_url()

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """See ``Tracker.register_champion``."""
        return self.store.register_champion(run_id, model, example)

    def restore_champion(self, run_id: str) -> int | None:
        """See ``Tracker.restore_champion``."""
        return self.store.restore_champion(run_id)
