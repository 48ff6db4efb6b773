"""The durable record of a sweep: an append-only file of JSON lines, one entry each, in the sweep's
folder.

What the journal holds has happened; everything else (MLflow, the table, Ray's state) is made from
it. An entry is on the disk (flush, fsync) before anybody is told of it. Writing happens on a thread
of its own, so Tune's event loop never waits for a disk. A torn last line, the trace of a crash
while writing, is dropped when the file is opened.

Entries, all with ``seq`` (from 1, the order of things), ``ts_ms`` (wall clock, milliseconds) and
``kind``:

========  ==========================================================================================
journal   the first entry of every journal: id
take      a process is about to take the sweep in an object store: token. A process that cannot
          write this entry must not touch anything there
launch    a process took the sweep: token, pid, host, command, file, text, overrides, environment,
          numerics, data
plan      the trials of the sweep as it now stands: ids, in order; names of confirmed arms and of
          baseline arms
trial     a trial was planned for the first time: id, arm, seed, name, settings, config, digests,
          numerics
start     a worker began or continued a trial: id, epoch (completed so far)
epoch     a trial completed an epoch: id, epoch, metrics
end       a trial ended: id, status, reason, epochs, best_epoch, best_value, and what the worker
          says of it; test holds the test figures of best_epoch that its epoch entry does not have
          (``train.evaluate_test``)
file      a file of a trial (id) or of the sweep (id null) is ready for tracking: path, folder
images    images of a trial are ready for tracking: id, key, folder, files in order, step (epoch),
          metrics
drop      the checkpoint budget removed the best checkpoint of a trial: id
forget    a trial is to run again from its start (--force, or other numerics): id
look      all planned trials have ended, so that verdicts can be read: seeds. Each further look may
          err
champion  the sweep's winner: id, value
close     the process let the sweep go: status (finished, interrupted), counts
========  ==========================================================================================
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import queue
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite.core.errors import EnvironmentProblem, LockedError
from suite.core.records import EpochRecord, Objective, Status, Trial
from suite.core.redaction import redacted
from suite.system import disk, signals

Entry = dict[str, Any]
_CRC = re.compile(rb', "crc": "([0-9a-f]{8})"}$')
FILE_NAME = "journal.jsonl"
STOP_FILE = "stop"  # beside it: workers save what they have and return
LAUNCH_FILE = "launch"  # holds the token of the launch that may write there
RETRY_EVERY_S = 1.0  # while the disk takes no entry
# Why a trial was interrupted that a dead launch left running
DIED = "the process that ran it ended without a word"
# By these fields entries find each other and their files: they stay as they are. Elsewhere
# credentials are struck out.
_NAMES = frozenset(
    {
        "arm",
        "baseline",
        "choices",
        "confirmed",
        "digests",
        "files",
        "folder",
        "id",
        "ids",
        "key",
        "name",
        "path",
        "status",
        "token",
    }
)


def read(path: Path) -> list[Entry]:
    """All entries of a journal, oldest first; a torn last line is left out.

    Raises:
        EnvironmentProblem: if a line before the last is damaged: then the record cannot be trusted.
    """
    return _parse(path)[0]


def identity(path: Path) -> str:
    """The id of a journal, which stays the same if its folder is moved; "" without a journal."""
    try:
        with path.open("rb") as file:
            return str(json.loads(file.readline())["id"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _parse(path: Path) -> tuple[list[Entry], int]:
    """The entries and how many bytes of the file are whole lines."""
    if not path.exists():
        return [], 0
    entries: list[Entry] = []
    whole, summed = 0, False
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise EnvironmentProblem(
            f"the journal cannot be read: {error.strerror}",
            place=str(path),
            remedy="Look at its rights and its disk.",
        ) from error
    for number, line in enumerate(lines, start=1):
        last = number >= len(lines) - 1
        try:
            entry = _read_line(line, len(entries) + 1, summed) if line else None
        except ValueError as error:
            if last:
                break
            raise EnvironmentProblem(
                f"the journal is damaged: {error}",
                place=f"{path}:{number}",
                remedy="Restore the file from a backup, or move the sweep's folder away to start "
                "anew.",
            ) from error
        if number == len(lines):  # what follows the last line break: nothing, or a torn line
            break
        whole += len(line) + 1
        if entry is not None:
            entries.append(entry)
            summed = bool(_CRC.search(line))
    return entries, whole


def _line(entry: Entry) -> bytes:
    """An entry as a line, its last field the CRC-32 of the line without that field."""
    body = json.dumps(entry, allow_nan=False).encode()
    return body[:-1] + f', "crc": "{zlib.crc32(body):08x}"}}\n'.encode()


def _read_line(line: bytes, seq: int, summed: bool) -> Entry:
    """The entry of a line, which must be number ``seq``; ``summed``: the one before had a checksum,
    so must this.

    Raises:
        ValueError: says what is wrong with the line.
    """
    found = _CRC.search(line)
    body = line[: found.start()] + b"}" if found else line  # older journals have none
    entry: Any = json.loads(body)
    if summed and not found:
        raise ValueError("the entry has no checksum, the one before it has")
    if found and zlib.crc32(body) != int(found[1], 16):
        raise ValueError("the entry is not what was written: its checksum differs")
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ValueError("this is no entry of a journal")
    if entry.get("seq") != seq:
        raise ValueError(
            f"entry {seq} should be here, this is {entry.get('seq')}: one is missing or doubled"
        )
    return entry


class Journal:
    """The journal open for writing, by the one process that holds the sweep's lock.

    Args:
        tell: called on the journal's thread with a sentence for the user, when writing fails and
            when it works again.
        elsewhere: called with the number of the first entry of each write, and its lines, to store
            a second copy. An entry is durable only in both; an OSError counts as a disk error.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[str], None] = lambda text: None,
        elsewhere: Callable[[int, bytes], None] = lambda seq, lines: None,
    ) -> None:
        self.path, self._tell, self._elsewhere = path, tell, elsewhere
        entries, whole = _parse(path)
        self.entries: list[Entry] = entries
        self._seq = entries[-1]["seq"] if entries else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open(
            "ab", buffering=0
        )  # no buffer: nothing of a failed write is left to be written later
        self._file.truncate(whole)
        disk.sync(
            path.parent, above=2
        )  # the sweep's folder and the one of all sweeps may be new, too
        self._listeners: list[Callable[[Entry], None]] = []
        self._queue: queue.SimpleQueue[Entry | threading.Event | None] = queue.SimpleQueue()
        self._order = threading.Lock()
        self.failure: OSError | None = None
        self._closing = self._given_up = False
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        signals.start(self._thread)

    def subscribe(self, listener: Callable[[Entry], None]) -> None:
        """Have ``listener`` called, on the journal's thread, with each entry once it is durable."""
        self._listeners.append(listener)

    def append(self, kind: str, **fields: Any) -> Entry:
        """Take an entry down; returns at once, the journal's thread makes it durable.

        NaN becomes null, credentials are struck out.
        """
        with self._order:
            self._seq += 1
            entry = {
                "seq": self._seq,
                "ts_ms": time.time_ns() // 1_000_000,
                "kind": kind,
                **_entry(fields),
            }
            self.entries.append(entry)
            self._queue.put(entry)
        return entry

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything appended so far is durable and the listeners know; False if that
        took too long.
        """
        done = threading.Event()
        self._queue.put(done)
        return done.wait(timeout_s)

    def close(self) -> None:
        """Write what is left and let the file go.

        While the disk takes nothing, what is left is given up.
        """
        self._closing = True
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _write(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():  # one fsync for all that has piled up
                batch.append(self._queue.get())
            entries = [item for item in batch if isinstance(item, dict)]
            if entries:
                self._commit(entries)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
            if None in batch:
                return

    def _commit(self, entries: list[Entry]) -> None:
        if self._given_up:  # what comes after a hole must not be there either
            return
        lines = b"".join(map(_line, entries))
        whole = os.fstat(self._file.fileno()).st_size
        while True:  # a full disk may get room again; the record must not have a hole
            try:
                if self.failure is not None:
                    self._file.truncate(whole)  # what the last try left half written
                rest = memoryview(lines)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
                self._elsewhere(entries[0]["seq"], lines)
                break
            except OSError as error:
                if self.failure is None:
                    self._tell(
                        f"no entry fits: {disk.said(error, self.path)}; the sweep goes on, and "
                        "tries again"
                    )
                self.failure = error
                if self._closing:  # its entries come again from the trials' checkpoints
                    self._given_up = True
                    with suppress(OSError):
                        self._file.truncate(whole)
                    return
                time.sleep(RETRY_EVERY_S)
        if self.failure is not None:
            self._tell(f"{self.path} can be written again; nothing is lost")
        self.failure = None
        for entry in entries:
            for listener in self._listeners:
                listener(entry)


def _entry(fields: dict[str, Any]) -> Entry:
    return {
        name: _plain(value, str if name in _NAMES else redacted) for name, value in fields.items()
    }


def _plain(value: Any, text: Callable[[str], str]) -> Any:
    """``value`` as JSON types; NaN and infinities, which JSON lacks, as null; texts as ``text``
    gives them.
    """
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {str(key): _plain(item, text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, text) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return text(str(value))
    return value


@dataclass
class TrialHistory:
    """What the journal knows of one trial.

    Attributes:
        trial: the trial as planned.
        records: its epochs, by number; test figures that came with its end are in that of its best
            epoch.
        status: where it stands; RUNNING in a journal without a live owner means that the owner
            died.
        reason: why it failed or stopped, else "".
        end: the last ``end`` entry, else empty.
        kept: whether its best checkpoint is still there as far as the budget goes.
        forgotten: whether it is to run anew: what its folder holds until then is of no use.
        stopped_at: epochs that it had when ``early_terminate`` first stopped it; it may have been
            confirmed since.
    """

    trial: Trial
    entry: Entry
    records: dict[int, EpochRecord] = field(default_factory=dict)
    status: Status = Status.PENDING
    reason: str = ""
    end: Entry = field(default_factory=dict)
    kept: bool = False
    forgotten: bool = False
    stopped_at: int | None = None

    def value(self, objective: Objective) -> float | None:
        """The figure that speaks for the trial, None before its first epoch.

        Of a finished trial it is on record.
        """
        if self.end.get("best_value") is not None:
            return float(self.end["best_value"])
        chosen = objective.chosen(self.curve)
        return chosen.metrics[objective.name] if chosen else None

    @property
    def ended(self) -> bool:
        """Whether it came to an end of its own, good or bad."""
        return self.status in (Status.FINISHED, Status.STOPPED, Status.FAILED)

    @property
    def curve(self) -> list[EpochRecord]:
        """The records in the order of epochs."""
        return [self.records[epoch] for epoch in sorted(self.records)]


class History:
    """The state of a sweep, folded from its entries; kept up to date by feeding it each new one.

    ``looks`` are the seeds of each ``look`` entry, oldest first. ``forget`` does not remove them:
    whoever runs trials again has seen their verdicts.
    """

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.trials: dict[str, TrialHistory] = {}
        self.plan: list[str] = []
        self.launch: Entry = {}
        self.champion: str | None = None
        self.looks: list[tuple[int, ...]] = []
        self.look_plans: list[tuple[tuple[int, ...], ...]] = []  # the planned looks at each look
        self._planned_looks: tuple[tuple[int, ...], ...] = ()
        for entry in entries or ():
            self.feed(entry)

    def feed(self, entry: Entry) -> None:
        """Fold one more entry in; kinds that are not known are passed over."""
        handler = getattr(self, f"_on_{entry['kind']}", None)
        if handler is not None:
            handler(entry)

    def in_plan(self) -> Iterator[TrialHistory]:
        """The trials of the sweep as it now stands, in the plan's order."""
        return (self.trials[trial_id] for trial_id in self.plan)

    def counts(self) -> dict[str, int]:
        """How many trials of the plan stand where, by status."""
        return {
            str(status): sum(item.status is status for item in self.in_plan()) for status in Status
        }

    def _on_launch(self, entry: Entry) -> None:
        self.launch = entry
        self._planned_looks = tuple(map(tuple, entry.get("looks") or ()))

    def _on_plan(self, entry: Entry) -> None:
        self.plan = list(entry["ids"])

    def _on_trial(self, entry: Entry) -> None:
        trial = Trial(
            **{name: entry[name] for name in ("id", "arm", "seed", "name", "settings", "config")}
        )
        before = self.trials.get(trial.id)
        self.trials[trial.id] = TrialHistory(
            trial, entry, forgotten=before is not None and before.forgotten
        )
        if trial.id not in self.plan:
            self.plan.append(trial.id)

    def _on_start(self, entry: Entry) -> None:
        history = self.trials[entry["id"]]
        history.status, history.reason, history.end, history.forgotten = (
            Status.RUNNING,
            "",
            {},
            False,
        )

    def _on_epoch(self, entry: Entry) -> None:
        self.trials[entry["id"]].records[entry["epoch"]] = EpochRecord(
            entry["epoch"], entry["metrics"]
        )

    def _on_end(self, entry: Entry) -> None:
        history = self.trials[entry["id"]]
        history.status, history.reason, history.end = (
            Status(entry["status"]),
            entry.get("reason", ""),
            entry,
        )
        history.kept = bool(entry.get("checkpoint"))
        if figures := entry.get("test"):
            _add_figures(history, entry["best_epoch"], figures)
        if history.status is Status.STOPPED and history.stopped_at is None:
            history.stopped_at = int(entry["epochs"])

    def _on_drop(self, entry: Entry) -> None:
        self.trials[entry["id"]].kept = False

    def _on_forget(self, entry: Entry) -> None:
        history = self.trials[entry["id"]]
        self.trials[entry["id"]] = TrialHistory(history.trial, history.entry, forgotten=True)

    def _on_champion(self, entry: Entry) -> None:
        self.champion = entry["id"]

    def _on_look(self, entry: Entry) -> None:
        self.looks.append(tuple(entry["seeds"]))
        self.look_plans.append(self._planned_looks)


def _add_figures(history: TrialHistory, epoch: int, figures: dict[str, float]) -> None:
    record = history.records.get(epoch)
    if record is not None:
        history.records[epoch] = EpochRecord(epoch, {**record.metrics, **figures})


def close_stale(history: History, record: Callable[..., None]) -> int:
    """Put on record that the trials which a dead owner left running were interrupted; returns how
    many they were.

    Args:
        history: fed with what ``record`` writes.
        record: takes an entry's kind and fields.
    """
    stale = [item for item in history.trials.values() if item.status is Status.RUNNING]
    for item in stale:
        record("end", id=item.trial.id, status="interrupted", reason=DIED, epochs=len(item.records))
    return len(stale)


class Lock:
    """The sweep's lock: held by one process on the machine, dropped by the kernel when it dies.

    Raises:
        LockedError: on ``__init__``, if another process holds it; the message names it.
        EnvironmentProblem: on ``__init__``, if the folder takes no file.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "lock").open("a+")
        except OSError as error:
            raise EnvironmentProblem(
                f"{folder} cannot be written: {error.strerror}",
                remedy="Look at its rights and its disk.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise LockedError(
                f"this sweep is already running: {owner} holds {folder / 'lock'}\n"
                "    Wait for it or stop it; then launch again, which goes on where it stopped."
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def release(self) -> None:
        """Let the next process in."""
        self._file.truncate(0)
        self._file.close()
