"""Which checkpoints stay, and the removal of the others in the background."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from suite.core.records import Status
from suite.launch.ledger import FLUSH_S, Ledger
from suite.launch.ranking import best_trial, rank
from suite.storage.base import StorageUnavailable

# Arms beyond `checkpoints.keep` whose best checkpoint stays while the ranking may still change
LEADERS = 4


class Retention:
    """Keeps the checkpoint budget of a sweep."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._removals = ThreadPoolExecutor(1, "removals")

    def close(self, cancel: bool) -> None:
        """Wait for removals, or leave the rest to the next launch."""
        self._removals.shutdown(cancel_futures=cancel)

    def on_finished(self, trial_id: str) -> None:
        """A trial finished: it needs no checkpoint to resume from, and the budget is applied
        again.
        """
        self.remove(trial_id, "checkpoints")
        if self.ledger.history.trials[trial_id].kept:
            self.ledger.record(
                "file", id=trial_id, path=f"trials/{trial_id}/best.pt", folder="checkpoints"
            )
        self.prune_checkpoints(LEADERS)

    def prune_checkpoints(self, more: int) -> None:
        """Drop best checkpoints beyond the budget: all but those of the leading arms' best trials.

        Args:
            more: arms beyond the budget that stay for now.
        """
        ledger = self.ledger
        keep = ledger.spec.checkpoints.keep
        if keep == "all":
            return
        finished = [item for item in ledger.history.in_plan() if item.status is Status.FINISHED]
        candidates = [item for item in finished if ledger.counts_for_verdicts(item)]
        # Until arms are confirmed, and behind those that are, the search's own order counts.
        order = dict.fromkeys([*rank(ledger, candidates), *rank(ledger, finished)])
        retained: set[str] = set()
        for name in list(order)[: keep + more]:
            own = [item for item in candidates if item.trial.arm == name]
            own = own or [item for item in finished if item.trial.arm == name]
            best = best_trial(own, ledger.spec.objective)
            if best is not None:
                retained.add(best.trial.id)
        for item in ledger.history.trials.values():
            if item.kept and item.trial.id not in retained:
                ledger.record("drop", id=item.trial.id)
                self.remove(item.trial.id, "best.pt")

    def remove(self, trial_id: str, name: str) -> None:
        """Remove a trial's file or folder in the background: Tune's loop, which calls this,
        waits for no disk.
        """
        self._removals.submit(self._remove_recorded, f"trials/{trial_id}/{name}")

    def _remove_recorded(self, name: str) -> None:
        """Remove a file once the journal entry that allows it is durable.

        If the journal cannot be written, the next launch removes the file.
        """
        if self.ledger.journal.failure is not None or not self.ledger.journal.flush(FLUSH_S):
            return
        with suppress(StorageUnavailable):
            self.ledger.storage.remove(name)
