"""Become the owner of a sweep's storage, and close what an earlier launch left open."""

from __future__ import annotations

import time

from suite.core.errors import EnvironmentProblem
from suite.core.records import Status
from suite.launch.ledger import Ledger
from suite.launch.retention import Retention
from suite.storage.base import AnotherOwner, StorageUnavailable
from suite.storage.journal import close_stale

TAKE_S = 60.0  # how long an object store may take for the first entry


def take_over(ledger: Ledger, retention: Retention) -> None:
    """Make this launch the owner: its token, stale states closed, leftovers of a crash removed."""
    if ledger.storage.is_remote:
        _pass_fence(ledger)
    ledger.storage.begin_launch(ledger.token)
    if stale := close_stale(ledger.history, ledger.record):
        ledger.board.warn(
            f"found an unfinished launch: {stale} trials go on from their checkpoints"
        )
    # A launch may have died between having that on record and clearing their folders.
    ledger.clear_folders([item for item in ledger.history.trials.values() if item.forgotten])
    for item in ledger.history.trials.values():  # files whose removal was recorded before the crash
        for name, gone in (
            ("checkpoints", item.status is Status.FINISHED),
            ("best.pt", item.ended and not item.kept),
        ):
            if gone and ledger.storage.may_hold(f"trials/{item.trial.id}/{name}"):
                retention.remove(item.trial.id, name)


def _pass_fence(ledger: Ledger) -> None:
    """Write an entry that only one of two launches can, before anything in the storage is touched.

    Raises:
        AnotherOwner, StorageUnavailable, EnvironmentProblem: the launch ends here.
    """
    ledger.record("take", token=ledger.token)
    end = time.monotonic() + TAKE_S
    while not ledger.journal.flush(1.0):
        failure = ledger.journal.failure
        if isinstance(failure, AnotherOwner) or time.monotonic() > end:
            if isinstance(failure, (AnotherOwner, StorageUnavailable)):
                raise failure
            raise EnvironmentProblem(
                f"the journal cannot be written: {ledger.describe_failure()}", remedy="Make room."
            )
