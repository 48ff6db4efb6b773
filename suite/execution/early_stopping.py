"""Ray's early-stopping rules, fed by trial id so that they survive a restart."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from suite.core.records import Objective
from suite.execution.shared import EpochEvent
from suite.storage.journal import Entry


class EarlyStop(FIFOScheduler):
    """Ray's ASHA or median rule. It knows trials by the suite's ids, which survive a resume.

    Args:
        rule: the ``early_terminate`` of the sweep.
        objective: what the rule compares: the best so far under ASHA (where that is the strategy),
            else the latest.
    """

    def __init__(self, rule: Any, objective: Objective, epochs: int) -> None:
        super().__init__()
        self.objective = objective
        mode = "max" if objective.goal == "maximize" else "min"
        self._best_so_far = rule.type == "asha" and objective.strategy == "best"
        if rule.type == "asha":
            self.inner: Any = AsyncHyperBandScheduler(
                time_attr="epoch",
                metric="value",
                mode=mode,
                max_t=max(epochs, rule.grace_epochs),
                grace_period=rule.grace_epochs,
                reduction_factor=rule.reduction_factor,
                stop_last_trials=False,
            )
        else:
            self.inner = MedianStoppingRule(
                time_attr="epoch",
                metric="value",
                mode=mode,
                grace_period=rule.grace_epochs,
                min_samples_required=rule.min_trials,
                hard_stop=True,
            )
        self._stubs: dict[str, Any] = {}
        self._best: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        # what the rules ask of Tune's controller: whether others wait, which only matters for
        # pausing
        self._controller = SimpleNamespace(get_live_trials=list)

    def feed(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> bool:
        """One epoch of one trial; True = the rule stops it. An epoch fed before changes nothing."""
        if epoch <= self._seen.get(trial_id, 0) or self.objective.name not in metrics:
            return False
        stub = self._stub(trial_id)
        self._seen[trial_id] = epoch
        value = metrics[self.objective.name]
        if self._best_so_far:
            if not self.objective.better(value, self._best.get(trial_id)):
                value = self._best[trial_id]
            self._best[trial_id] = value
        decision = self.inner.on_trial_result(
            self._controller, stub, {"epoch": epoch, "value": value}
        )
        return bool(decision == TrialScheduler.STOP)

    def replay(self, entries: Iterable[Entry], trial_ids: Container[str]) -> set[str]:
        """Feed what the journal holds of these trials, in its order, so that each decision comes
        out as it did.

        Epochs after the rule stopped a trial are left out: they are those of its confirmation.

        Returns:
            Ids of the trials that the rule's last word was to stop.
        """
        entries = [entry for entry in entries if entry.get("id") in trial_ids]
        anew = {entry["id"]: entry["seq"] for entry in entries if entry["kind"] == "forget"}
        stopped: set[str] = set()
        for entry in entries:
            trial_id = entry["id"]
            if entry["seq"] <= anew.get(trial_id, 0) or trial_id in stopped:
                continue
            if entry["kind"] == "end" and entry["status"] == "stopped":
                stopped.add(trial_id)
            if entry["kind"] == "epoch" and self.feed(trial_id, entry["epoch"], entry["metrics"]):
                stopped.add(trial_id)
        return stopped

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decisions = [
            self.feed(event.trial_id, event.epoch, event.metrics)
            for event in result.get("events", ())
            if isinstance(event, EpochEvent)
        ]
        return str(TrialScheduler.STOP if any(decisions) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.on_trial_result(
            tune_controller, trial, result
        )  # Tune does not show a trial's last result otherwise

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _stub(self, trial_id: str) -> Any:
        if trial_id not in self._stubs:
            stub = _Stub(trial_id)
            self._stubs[trial_id] = stub
            self.inner.on_trial_add(self._controller, stub)
        return self._stubs[trial_id]


class _Stub:
    """What a scheduler needs of a trial: an id."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "RUNNING"
