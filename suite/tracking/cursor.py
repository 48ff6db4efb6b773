"""The file that remembers how much of a journal the store has."""

from __future__ import annotations

import json
from pathlib import Path

from suite.tracking.port import Tracker, TrackingUnavailable


def read_cursor(path: Path) -> tuple[int, str]:
    """The last entry that was sent, and its parent run; 0 and "" if there is no cursor."""
    try:
        cursor = json.loads(path.read_text())
        return int(cursor["seq"]), str(cursor["run"] or "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


class Cursor:
    """The cursor of one sweep, valid only for the parent run that it names.

    Args:
        path: the file.
        tracker: knows the parent run that is in the store now.
    """

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self._path, self._tracker = path, tracker

    def read(self) -> int:
        """The last entry that the store has; 0 if that is not certain.

        Sending an entry again is slow and harmless, so whatever is wrong with the file means 0.

        Raises:
            TrackingUnavailable: the store cannot be asked for the parent run.
        """
        parent = self._tracker.run_id(None)
        seq, run = read_cursor(self._path)
        return seq if parent and run == parent else 0

    def write(self, seq: int) -> None:
        """Replace the file. Not synced: an older cursor only means that entries are sent twice."""
        draft = self._path.with_suffix(".tmp")
        try:
            draft.write_text(json.dumps({"run": self._tracker.run_id(None), "seq": seq}))
            draft.replace(self._path)
        except (OSError, TrackingUnavailable):
            pass
