"""The tracker as the rest of the suite sees it, the store below it, their values and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from suite.storage.journal import Entry
from suite.tracking.tags import BORN, MADE, SEQ

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Metric = tuple[str, float, int, int]  # name, value, milliseconds, step


class TrackingUnavailable(Exception):  # about the store, not about this package
    """The store cannot be reached, or is full: try again later."""


class EntryRejected(Exception):
    """The store will never take this entry; the entries after it are sent."""


class RunMissing(Exception):
    """The entry's run is not in the store, or was deleted: create it from the journal.

    Attributes:
        trial: the trial's id; None = the sweep's parent run, so all runs are created again.
    """

    def __init__(self, trial: str | None) -> None:
        super().__init__(f"no run of trial {trial}" if trial else "no parent run")
        self.trial = trial


@dataclass(frozen=True)
class TrialRun:
    """A run as read from the store.

    Attributes:
        run_id: MLflow's id.
        trial: the trial's id, "" for the parent.
        arm, seed, name: as in ``records.Trial``; arm "" and seed -1 for the parent.
        status: the tag ``suite.status`` (a value of ``records.Status``); for a run that the suite
            did not create, MLflow's status in lower case.
        tags, params: all of them, as text.
        metrics: name -> step -> value; if a step was logged twice, the later value.
        start_ms, end_ms: as MLflow shows them; end_ms is None until the run has ended.
        artifact_uri: the place of its artifacts, "" if it has none.
    """

    run_id: str
    trial: str
    arm: str
    seed: int
    name: str
    status: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    start_ms: int = 0
    end_ms: int | None = None
    artifact_uri: str = ""


@dataclass(frozen=True)
class SweepRuns:
    """A sweep as read from the store: the parent run, and the trials' runs in planned order."""

    sweep: str
    parent: TrialRun
    trials: tuple[TrialRun, ...]


@dataclass
class Run:
    """A run as the projection knows it, without asking the store again."""

    id: str
    trial: str | None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"

    @property
    def precedence(self) -> tuple[int, bool, int]:
        """Of two runs of a trial the higher counts: last ``forget``, then begun, then newer."""
        return self.mark(BORN), self.mark(SEQ) > 0, self.mark(MADE)

    def mark(self, name: str) -> int:
        """The value of a tag that holds an entry's number, 0 if it is not set."""
        value = self.tags.get(name, "")
        return int(value) if value.isdigit() else 0


class RunStore(Protocol):
    """The runs of one sweep, as written by one journal, in MLflow or in memory.

    Except for ``check`` and ``read``, a method that fails raises TrackingUnavailable, RunMissing
    or EntryRejected. Only the thread that applies entries calls these methods.

    Attributes:
        sweep: the sweep's name.
        journal_id: the id of the journal, which differs if a sweep of that name was started afresh.
        has_model_registry: whether ``register_champion`` can register a model.
    """

    @property
    def sweep(self) -> str: ...

    @property
    def journal_id(self) -> str: ...

    @property
    def has_model_registry(self) -> bool: ...

    def check(self, home: str) -> None:
        """See ``Tracker.check``; ``home`` (host:folder) is this sweep's."""

    def read(self, sweep: str) -> SweepRuns:
        """See ``Tracker.read``."""

    def load(self) -> dict[str | None, Run]:
        """The runs of this sweep and this journal; the parent under None."""

    def delete_foreign(self) -> None:
        """Delete the runs of other journals under this sweep's name; needs ``load`` first."""

    def create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        """Create a run, with the status RUNNING."""

    def write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """Add any number of metrics, params (new ones) and tags to a run."""

    def set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        """Change a run's status, and its end unless that is None."""

    def delete(self, run: Run) -> None:
        """Delete a run; MLflow keeps it until ``mlflow gc``."""

    def add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        """Record a run's data set: ``name``, ``digest``, ``source``, ``source_type``."""

    def upload(self, run: Run, path: Path, folder: str) -> None:
        """Copy a file or a folder to the run's artifacts.

        Raises:
            FileNotFoundError: ``path`` does not exist (any more).
        """

    def replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        """Put images in place of those under ``key``.

        Raises:
            FileNotFoundError: a file does not exist (any more).
        """

    def delete_artifact(self, run: Run, artifact: str) -> bool:
        """Delete an artifact; False if there is none, or the store cannot delete."""

    def page_url(self) -> str:
        """See ``Tracker.page_url``."""

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """See ``Tracker.register_champion``."""

    def restore_champion(self, run_id: str) -> int | None:
        """See ``Tracker.restore_champion``."""


class Tracker(Protocol):
    """Projects a journal into a store of runs: one sweep, one tracker, one thread that applies."""

    @property
    def has_model_registry(self) -> bool:
        """Whether ``register_champion`` can register a model."""

    def check(self) -> None:
        """Check that the store can be used, within 10 s and without writing to it.

        Raises:
            EnvironmentProblem: it cannot be reached, refuses access, has an outdated schema, or
                tracks a sweep of this name from another folder.
        """

    def apply(self, entry: Entry) -> None:
        """Project an entry. Applying it again, alone or with the whole journal, changes nothing.

        Raises:
            TrackingUnavailable: try again later.
            RunMissing: first create the entry's run again, from earlier entries.
            EntryRejected: the store will never take it.
        """

    def learn(self, entry: Entry) -> None:
        """Note what later entries need of an entry that the store has; does not call the store."""

    def epochs(self, entries: Sequence[Entry]) -> None:
        """Project several ``epoch`` entries of one trial in one call; raises as ``apply``."""

    def run_id(self, trial_id: str | None) -> str | None:
        """The id of a trial's run, or with None of the sweep's; None if there is no such run."""

    def read(self, sweep: str) -> SweepRuns:
        """All runs of a sweep.

        Raises:
            UsageError: there is no such sweep; the message lists the sweeps that exist.
        """

    def page_url(self) -> str:
        """The page with the sweep's runs, relative to the address of MLflow's UI; "" without UI."""

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """Log the winner's network to its run; register it with the alias ``champion``.

        Repeating it for the same run creates no new version.

        Args:
            run_id: the winner's run.
            model: the network with the weights of its best epoch.
            example: normalised images, float32 (N, 3, H, W); two or more keep N free in the export.

        Returns:
            The version; None if the store has no registry, or if the network cannot be exported
            (then the run's tag ``suite.champion_export`` gives the error).

        Raises:
            TrackingUnavailable, EntryRejected: as ``apply``.
        """

    def restore_champion(self, run_id: str) -> int | None:
        """Point the alias ``champion`` at the version that was registered from a run before.

        Returns:
            The version. None if there is no such version: then the alias is removed, because no
            champion is better than another run's.

        Raises:
            TrackingUnavailable, EntryRejected: as ``apply``.
        """
