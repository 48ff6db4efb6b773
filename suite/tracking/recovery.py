"""Apply entries to a tracker, and create runs again that somebody deleted."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from itertools import groupby

from suite.core.redaction import redacted
from suite.storage.journal import Entry
from suite.tracking.port import EntryRejected, RunMissing, Tracker, TrackingUnavailable

log = logging.getLogger(__name__)


class ParentMissing(Exception):
    """The parent run is gone: every entry must be sent again, from the first launch."""


class Delivery:
    """Applies the entries of a journal; a run that is gone is first created again from them.

    Args:
        tracker: applies the entries.
        fetch_files: called before an entry is applied, so that its files are on this machine.
        report: takes a sentence about an entry that was passed over.
    """

    def __init__(
        self,
        tracker: Tracker,
        fetch_files: Callable[[Entry], None],
        report: Callable[[str], None],
    ) -> None:
        self._tracker, self._fetch_files, self._report = tracker, fetch_files, report
        self._forgotten: dict[str, int] = {}  # trial -> the number of its last ``forget`` entry
        self._logged: set[str] = set()

    def note(self, entry: Entry) -> None:
        """Take note of a ``forget`` entry, before any entry of its trial is sent."""
        if entry["kind"] == "forget":
            self._forgotten[entry["id"]] = entry["seq"]

    def counts(self, entry: Entry) -> bool:
        """False for entries of a trial from before it was forgotten."""
        if entry["kind"] in ("trial", "forget"):
            return True
        return bool(entry["seq"] > self._forgotten.get(entry.get("id") or "", 0))

    def send(self, entries: list[Entry], earlier: Callable[[], Sequence[Entry]]) -> None:
        """Apply entries of one trial and one kind. Entries that fail for good are passed over.

        Args:
            earlier: the journal's entries, from which a missing run is created again.

        Raises:
            TrackingUnavailable: try again later.
            ParentMissing: send every entry again.
        """
        try:
            try:
                self._apply(entries)
            except RunMissing as missing:
                if missing.trial is None:
                    raise ParentMissing from missing
                self._rebuild(missing.trial, entries[0]["seq"], earlier())
                self._apply(entries)
        except (TrackingUnavailable, ParentMissing):
            raise
        except Exception as error:  # EntryRejected; RunMissing of an unknown trial; or a bug here
            if not isinstance(error, (EntryRejected, RunMissing)):
                log.error(redacted(f"unexpected tracking error: {traceback.format_exc()}"))
            self._pass_over(entries[0], error)

    def _pass_over(self, entry: Entry, error: Exception) -> None:
        text = f"tracking passed over {entry['kind']} entry {entry['seq']}: {redacted(str(error))}"
        if text not in self._logged:  # after a rebuild entries are tried again; log each once
            self._logged.add(text)
            log.warning(text)
        self._report(text)

    def _apply(self, entries: list[Entry]) -> None:
        if entries[0]["kind"] == "epoch":
            self._tracker.epochs(entries)
            return
        for entry in entries:
            self._fetch_files(entry)
            self._tracker.apply(entry)

    def _rebuild(self, trial: str, before: int, entries: Sequence[Entry]) -> None:
        """Create a trial's run again, from its entries before number ``before``."""
        trials_own = [
            entry
            for entry in entries
            if entry["seq"] < before and entry.get("id") == trial and self.counts(entry)
        ]
        for _, group in groupby(trials_own, _epochs_together):
            try:
                self._apply(list(group))
            except EntryRejected as error:
                log.warning("tracking passed over an entry of trial %s again: %s", trial, error)


def _epochs_together(entry: Entry) -> object:
    return "epoch" if entry["kind"] == "epoch" else entry["seq"]
