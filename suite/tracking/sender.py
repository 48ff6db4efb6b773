"""The background thread that sends the journal to a tracker: in order, with retries."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from suite.core.redaction import redacted
from suite.storage.journal import Entry
from suite.system import signals
from suite.tracking.cursor import Cursor
from suite.tracking.port import Tracker
from suite.tracking.recovery import Delivery, ParentMissing

_MIN_WAIT_S, _MAX_WAIT_S = 0.5, 10.0  # between tries
_MAX_BATCH = 2000  # epoch entries sent together, each trial's in one call


class _Closing(Exception):
    """``close`` was called."""


class Sender:
    """Sends entries to a tracker, in order, on a background thread; ``put`` returns at once.

    Put *every* entry of the journal, the old ones first, then subscribe to new ones. Entries that
    the cursor says are sent are only kept, to create a run again that somebody deletes. Any thread
    may call any public method.

    Attributes:
        lost: why the store takes nothing at present, else None.
    """

    def __init__(
        self,
        tracker: Tracker,
        cursor: Path,
        on_state_change: Callable[[str], None] = lambda state: None,
        fetch_files: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        """
        Args:
            tracker: applies the entries.
            cursor: the file that remembers how much was sent, for the next process.
            on_state_change: called on the sender's thread with a sentence if the store is lost, is
                back, or rejects an entry.
            fetch_files: called before an entry is applied, so that its files are on this machine;
                may raise TrackingUnavailable.
        """
        self.lost: Exception | None = None
        self._tracker = tracker
        self._cursor = Cursor(cursor, tracker)
        self._report = on_state_change
        self._delivery = Delivery(tracker, fetch_files, on_state_change)
        self._entries: list[Entry] = []
        self._next = 0  # index of the first entry that has not been dealt with
        self._sent: int | None = None  # number of the last sent entry; None = cursor not read yet
        self._closing = False
        self._draining = 0  # callers that wait in ``drain``
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        signals.start(self._thread)

    def put(self, entry: Entry) -> None:
        """Take an entry; returns at once."""
        with self._changed:
            self._entries.append(entry)
            self._delivery.note(entry)
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until the store has everything put so far; False if it has not by the timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._draining += 1
            self._changed.notify_all()
            try:
                while self._next < len(self._entries) and self._thread.is_alive():
                    left = deadline - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(min(left, 1.0))
                return self._next >= len(self._entries)
            finally:
                self._draining -= 1

    def close(self) -> None:
        """Stop after the call in progress; the next process sends the rest (see ``drain``)."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=15.0)

    @property
    def behind(self) -> int:
        """The number of entries that the store does not have yet."""
        with self._changed:
            first = bisect.bisect_right(
                self._entries, self._sent or 0, key=lambda entry: entry["seq"]
            )
            return len(self._entries) - max(self._next, first)

    # ---- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        wait_s = _MIN_WAIT_S
        while True:
            with self._changed:
                while self._next >= len(self._entries) and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                batch = self._next_batch()
            try:
                self._send(batch)
                wait_s = _MIN_WAIT_S
                self._advance(batch)
            except ParentMissing:
                self._start_again()
            except _Closing:
                return
            except Exception as error:  # TrackingUnavailable, or a bug: training must not notice
                self._failed(error)
                self._sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_WAIT_S)

    def _next_batch(self) -> list[Entry]:
        """The next entry, or the ``epoch`` entries in a row."""
        batch = [self._entries[self._next]]
        if batch[0]["kind"] == "epoch":
            for entry in self._entries[self._next + 1 : self._next + _MAX_BATCH]:
                if entry["kind"] != "epoch":
                    break
                batch.append(entry)
        return batch

    def _send(self, batch: list[Entry]) -> None:
        if self._sent is None:
            self._sent = self._cursor.read()
        unsent: list[Entry] = []
        for entry in batch:
            if entry["seq"] <= self._sent:
                self._tracker.learn(entry)
            elif self._delivery.counts(entry):
                unsent.append(entry)
        unsent.sort(key=_trial_of)  # stable: the order within a trial stays
        for _, entries in groupby(unsent, _trial_of):
            if self._closing:
                raise _Closing
            self._delivery.send(list(entries), self._all_entries)

    def _all_entries(self) -> Sequence[Entry]:
        with self._changed:
            return list(self._entries)

    def _start_again(self) -> None:
        """Send everything again, the first launch first; without a launch, skip the entry."""
        with self._changed:
            launched = any(entry["kind"] == "launch" for entry in self._entries[: self._next])
            self._next, self._sent = (0, 0) if launched else (self._next + 1, self._sent)
            self._changed.notify_all()

    def _advance(self, batch: list[Entry]) -> None:
        with self._changed:
            self._next += len(batch)
            was_lost, self.lost = self.lost, None
            self._changed.notify_all()
        if batch[-1]["seq"] > (self._sent or 0):
            self._sent = batch[-1]["seq"]
            self._cursor.write(self._sent)
        if was_lost is not None:
            self._report("tracking is back; the entries that waited are being sent")

    def _failed(self, error: Exception) -> None:
        first = self.lost is None
        self.lost = error
        if first:
            self._report(
                f"tracking is lost: {redacted(str(error))}. The sweep goes on; the journal keeps "
                "the entries, which are sent later."
            )

    def _sleep(self, seconds: float) -> None:
        """Wait before the next try, at most ``_MIN_WAIT_S`` while a caller drains."""
        began = time.monotonic()
        with self._changed:
            while not self._closing:
                wait_s = min(seconds, _MIN_WAIT_S) if self._draining else seconds
                left = began + wait_s - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)


def _trial_of(entry: Entry) -> str:
    return entry.get("id") or ""
