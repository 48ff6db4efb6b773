"""What a trial's exception means: try again from the last checkpoint, or the end of the trial."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from suite.core.records import Status
from suite.core.redaction import redacted
from suite.storage.base import StorageUnavailable
from suite.system import disk

DISK_WAITS_S = (1.0, 5.0, 25.0, 125.0)  # before a trial whose files did not fit tries again


@dataclass(frozen=True)
class RetryDecision:
    """What to do after an exception.

    Attributes:
        text: for the user.
        status: how the trial ends; None = it tries again.
        halts: whether the whole sweep stops, because other trials would meet the same.
    """

    text: str
    status: Status | None = None
    halts: bool = False


@dataclass
class RetryPolicy:
    """Decides for one trial, in one worker.

    A trial is retried from its last checkpoint. The same exception twice is deterministic and ends
    it; so does a third exception of any kind. After a full disk or an unavailable store, the trial
    is retried at most four times with growing waits; then the sweep stops, but no trial fails.

    Attributes:
        wait: sleeps for some seconds, or less if a stop is requested.
    """

    wait: Callable[[float], None]
    reasons: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=lambda: list(DISK_WAITS_S))

    def after(self, error: Exception, folder: Path) -> RetryDecision:
        """What to do after ``error``, which a trial with files in ``folder`` raised."""
        if isinstance(error, StorageUnavailable):
            return self._wait_and_retry(f"the bucket: {disk.said(error, folder)}")
        if isinstance(error, OSError) and error.errno in disk.FULL:
            return self._wait_and_retry(f"disk full: {disk.said(error, folder)}")
        reason = describe(error)
        if reason in self.reasons or len(self.reasons) >= 2:
            return RetryDecision(reason, Status.FAILED)
        self.reasons.append(reason)
        return RetryDecision(f"{reason}; trying once more from the last checkpoint")

    def _wait_and_retry(self, text: str) -> RetryDecision:
        if not self.waits_s:
            return RetryDecision(text, Status.INTERRUPTED, halts=True)
        self.wait(self.waits_s.pop(0))
        return RetryDecision(f"{text}; trying again from the last checkpoint")


def describe(error: Exception) -> str:
    """The exception, and where it came from, in one line: the last place in the user's code or
    ours, not in torch's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or list(frames)
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    text = redacted(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}: {text}{place}"
