"""The background thread between the journal and a tracker: keeps order, retries, and remembers how far it came."""

from __future__ import annotations

import bisect
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from suite.core.redaction import redacted
from suite.storage.journal import Entry
from suite.system import signals
from suite.tracking.port import EntryRejected, RunMissing, Tracker, TrackingUnavailable

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 10.0
_MOST_AT_ONCE = 2000  # epoch entries taken together, each trial's in one call


class _StartAgain(Exception):
    """The parent run is gone."""


class _Closing(Exception):
    """Somebody wants the thread to end."""


class Sender:
    """Sends entries to a tracker, in order, on a thread of its own; whoever calls ``put`` never waits.

    Put *every* entry of the journal, the old ones first: those that the cursor says are sent are passed over, and
    kept only to make a run again that somebody deleted. So put the old ones before subscribing to new ones. Every
    public method may be called from any thread.

    Attributes:
        lost: why nothing gets through just now, else None.
    """

    def __init__(
        self, tracker: Tracker, cursor: Path, on_state_change: Callable[[str], None] | None = None,
        bring: Callable[[Entry], None] = lambda entry: None,
    ) -> None:  # fmt: skip
        """
        Args:
            tracker: where to.
            cursor: the file that remembers how far this came, for the next process.
            on_state_change: told in a sentence, on the sender's thread, when the store is lost, is back, or refuses an
                entry.
            bring: called before an entry is applied, to have its files where it says; may raise TrackingUnavailable.
        """
        self._bring = bring
        self.lost: Exception | None = None
        self._told: set[str] = set()
        self._tracker = tracker
        self._cursor = cursor
        self._tell = on_state_change or (lambda _: None)
        self._entries: list[Entry] = []
        self._next = 0  # index of the first entry that has not been dealt with
        self._sent: int | None = (
            None  # seq that is in the store already; None = the cursor has not been checked yet
        )
        self._forgotten: dict[str, int] = {}
        self._closing = False
        self._draining = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        signals.start(self._thread)

    def put(self, entry: Entry) -> None:
        """Take an entry; returns at once."""
        with self._changed:
            self._entries.append(entry)
            if entry["kind"] == "forget":
                self._forgotten[entry["id"]] = entry["seq"]
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything put so far is in the store; False if that took too long or did not work out."""
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
        """Stop after the call that is under way; what was not sent is sent by the next process (see ``drain``)."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=15.0)

    @property
    def behind(self) -> int:
        """How many entries are not in the store yet."""
        with self._changed:
            first = bisect.bisect_right(
                self._entries, self._sent or 0, key=lambda entry: entry["seq"]
            )
            return len(self._entries) - max(self._next, first)

    # ---- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        wait = _FIRST_WAIT_S
        while True:
            with self._changed:
                while self._next >= len(self._entries) and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                batch = self._take()
            try:
                self._send(batch)
                wait = _FIRST_WAIT_S
                self._advance(batch)
            except _StartAgain:
                self._start_again()
            except _Closing:
                return
            except (
                Exception
            ) as error:  # TrackingUnavailable; anything else is a bug, but training must not notice
                self._failed(error)
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)

    def _take(self) -> list[Entry]:
        """The next entry, or as many ``epoch`` entries as follow each other."""
        batch = [self._entries[self._next]]
        if batch[0]["kind"] == "epoch":
            for entry in self._entries[self._next + 1 : self._next + _MOST_AT_ONCE]:
                if entry["kind"] != "epoch":
                    break
                batch.append(entry)
        return batch

    def _send(self, batch: list[Entry]) -> None:
        if self._sent is None:
            self._sent = self._read_cursor()
        for entry in batch:
            if entry["seq"] <= self._sent:
                self._tracker.learn(entry)
        wanted = [entry for entry in batch if entry["seq"] > self._sent and self._counts(entry)]
        by_trial = groupby(
            sorted(wanted, key=lambda entry: entry.get("id") or ""), lambda entry: entry.get("id")
        )
        for _, entries in by_trial:  # sorted() is stable: the order within a trial stays
            if self._closing:
                raise _Closing
            self._try(list(entries))

    def _counts(self, entry: Entry) -> bool:
        """False for what happened to a trial before it was forgotten."""
        return entry["kind"] in ("trial", "forget") or entry["seq"] > self._forgotten.get(
            entry.get("id") or "", 0
        )

    def _try(self, entries: list[Entry]) -> None:
        """Entries of one trial, one kind; makes their run again if it is gone. Refused ones are passed over."""
        try:
            try:
                self._apply(entries)
            except RunMissing as missing:
                if missing.trial is None:
                    raise _StartAgain from missing
                self._rebuild(missing.trial, entries[0]["seq"])
                self._apply(entries)
        except (TrackingUnavailable, _StartAgain):
            raise
        except (
            Exception
        ) as error:  # EntryRejected; RunMissing, if nothing is known of the trial; or a bug of ours
            if not isinstance(error, (EntryRejected, RunMissing)):
                log.error(
                    redacted(
                        f"tracking failed in a way that nobody foresaw: {traceback.format_exc()}"
                    )
                )
            text = f"tracking passed over {entries[0]['kind']} entry {entries[0]['seq']}: {redacted(str(error))}"
            if (
                text not in self._told
            ):  # entries are tried again after a rebuild; saying it once is enough
                self._told.add(text)
                log.warning(text)
            self._tell(text)

    def _apply(self, entries: list[Entry]) -> None:
        if entries[0]["kind"] == "epoch":
            self._tracker.epochs(entries)
        else:
            for entry in entries:
                self._bring(entry)
                self._tracker.apply(entry)

    def _rebuild(self, trial: str, before: int) -> None:
        """Make a trial's run again from the entries up to ``before``."""
        with self._changed:
            mine = [
                entry
                for entry in self._entries
                if entry["seq"] < before and entry.get("id") == trial
            ]
        mine = [entry for entry in mine if self._counts(entry)]
        for _, group in groupby(
            mine, lambda entry: "epoch" if entry["kind"] == "epoch" else entry["seq"]
        ):
            try:
                self._apply(list(group))
            except EntryRejected as error:
                log.warning("tracking passed over an entry of trial %s again: %s", trial, error)

    def _start_again(self) -> None:
        """The parent run is gone: everything is made again, the parent first."""
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
            self._write_cursor()
        if was_lost is not None:
            self._tell("tracking is back; what waited is being sent")

    def _failed(self, error: Exception) -> None:
        first = self.lost is None
        self.lost = error
        if first:
            self._tell(
                f"tracking is lost: {redacted(str(error))}. The sweep goes on; the journal keeps what is to be sent."
            )

    def _sleep(self, seconds: float) -> None:
        """Wait before the next try; briefly while somebody waits for us."""
        began = time.monotonic()
        with self._changed:
            while not self._closing:
                left = (
                    began
                    + (min(seconds, _FIRST_WAIT_S) if self._draining else seconds)
                    - time.monotonic()
                )
                if left <= 0:
                    return
                self._changed.wait(left)

    # ---- the cursor ------------------------------------------------------------------------------

    def _read_cursor(self) -> int:
        """How far the store is, as far as the file can be believed: it must speak of the run that is there now."""
        parent = self._tracker.run_id(None)
        try:
            cursor = json.loads(self._cursor.read_text())
            return int(cursor["seq"]) if parent and cursor["run"] == parent else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0  # sending everything again is slow and harmless

    def _write_cursor(self) -> None:
        """Replace the file. Not synced: an old cursor only means that some entries are sent twice."""
        temporary = self._cursor.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"run": self._tracker.run_id(None), "seq": self._sent}))
            temporary.replace(self._cursor)
        except (OSError, TrackingUnavailable):
            pass
