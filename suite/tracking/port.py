"""What the rest of the suite sees of tracking: the port, its values and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from suite.storage.journal import Entry
from suite.tracking.tags import BORN, MADE, SEQ

Metric = tuple[str, float, int, int]  # name, value, milliseconds, step


class TrackingUnavailable(Exception):  # said of the store, not of us
    """The store cannot be reached or has no room just now: worth another try, later."""


class EntryRejected(Exception):
    """The store will never take this entry; the others are not held up by it."""


class RunMissing(Exception):
    """The run that an entry belongs to is not in the store (never made, or deleted): make it again from the journal.

    Attributes:
        trial: the trial's id; None = the sweep's parent run, and with it everything.
    """

    def __init__(self, trial: str | None) -> None:
        super().__init__(f"no run of trial {trial}" if trial else "no parent run")
        self.trial = trial


@dataclass(frozen=True)
class TrialRun:
    """One run as the store has it.

    Attributes:
        run_id: MLflow's id.
        trial: the trial's id, "" for the parent.
        arm, seed, name: as in ``records.Trial``; arm "" and seed -1 for the parent.
        status: the tag ``suite.status`` (a word of ``records.Status``); of a foreign run MLflow's, in lower case.
        tags, params: all of them, as text.
        metrics: name -> step -> value; of a step that was logged twice the later value.
        start_ms, end_ms: as MLflow shows them; end_ms is None while the run was never ended.
        artifact_uri: where its files are, "" where there are none.
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
    """A sweep as the store has it: the parent run and the trials', in the order in which they were planned."""

    sweep: str
    parent: TrialRun
    trials: tuple[TrialRun, ...]


@dataclass
class Run:
    """What is known of a run in the store without asking it again."""

    id: str
    trial: str | None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"

    @property
    def precedence(self) -> tuple[int, bool, int]:
        """Of two runs of one trial the higher one counts: made after the last ``forget``, begun, made last."""
        return self.mark(BORN), self.mark(SEQ) > 0, self.mark(MADE)

    def mark(self, name: str) -> int:
        """A tag that counts entries, 0 where it is not set."""
        value = self.tags.get(name, "")
        return int(value) if value.isdigit() else 0


class Tracker(Protocol):
    """A store of runs that the journal is projected into. One sweep, one tracker, one thread that applies."""

    def check(self) -> None:
        """Look whether the store could be used, within 10 s, and write nothing.

        Raises:
            EnvironmentProblem: if it cannot be reached, refuses us, or its schema is out of date.
        """

    def apply(self, entry: Entry) -> None:
        """Project one entry. Applied again, alone or with the whole journal, it changes nothing.

        Raises:
            TrackingUnavailable: worth another try.
            RunMissing: the entry's run must first be made again from earlier entries.
            EntryRejected: never going to work.
        """

    def learn(self, entry: Entry) -> None:
        """Take note of an entry that the store has already, as far as later ones need it; asks the store nothing."""

    def epochs(self, entries: Sequence[Entry]) -> None:
        """Project several ``epoch`` entries of one trial at once; raises as ``apply`` does."""

    def run_id(self, trial_id: str | None) -> str | None:
        """The run of a trial, or with None of the sweep; None if there is none."""

    def read(self, sweep: str) -> SweepRuns:
        """Everything that the store has of a sweep.

        Raises:
            UsageError: if there is no such sweep; names those that there are.
        """
