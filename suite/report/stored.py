"""Runs of the store as the trials that ``suite.analysis`` knows, and the rules that the sweep was judged by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suite import analysis, tracking
from suite.errors import SuiteError
from suite.journal import TrialHistory
from suite.records import METRICS, EpochRecord, Objective, Status, Trial
from suite.tracking import SweepRuns, TrialRun

_FOREIGN = {"killed": Status.INTERRUPTED, "scheduled": Status.PENDING}  # MLflow's words for a run without our tags


@dataclass(frozen=True)
class Rules:
    """What the sweep file says about judging.

    Attributes:
        margin: differences up to it do not matter.
        margin_known: False where the store does not have it, so that the default stands in.
    """

    objective: Objective
    margin: float = analysis.MARGIN
    margin_known: bool = True


def histories(runs: SweepRuns) -> list[TrialHistory]:
    """The trials of the sweep's present plan, in its order."""
    return [_history(run) for run in runs.trials if in_plan(run)]


def in_plan(run: TrialRun) -> bool:
    """Whether the sweep file still has this run's arm and seed."""
    return run.tags.get("suite.in_plan", "true") == "true"


def _history(run: TrialRun) -> TrialHistory:
    trial = Trial(run.trial or run.run_id, run.arm or run.name, run.seed, run.name, _settings(run))
    entry = {"baseline": run.tags.get("suite.baseline") == "true", "numerics": parsed(run.tags.get("suite.numerics"))}
    status = _FOREIGN.get(run.status) or Status(run.status)
    return TrialHistory(trial, entry, _records(run), status, run.tags.get("suite.reason", ""))


def _settings(run: TrialRun) -> dict[str, Any]:
    found = parsed(run.tags.get("suite.settings"))
    return found if isinstance(found, dict) else {}


def _records(run: TrialRun) -> dict[int, EpochRecord]:
    known = {name: run.metrics[name] for name in METRICS if name in run.metrics}
    epochs = sorted({epoch for history in known.values() for epoch in history})
    return {epoch: EpochRecord(epoch, _at(known, epoch)) for epoch in epochs}


def _at(metrics: Mapping[str, Mapping[int, float]], epoch: int) -> dict[str, float]:
    return {name: history[epoch] for name, history in metrics.items() if epoch in history}


def parsed(text: str | None) -> Any:
    """What a tag holds; None for what is missing or was cut."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None


def rules(runs: SweepRuns, uri: str) -> Rules:
    """The objective from the runs' tags; the margin from the parent's tag, else from the sweep file kept there."""
    objective = _objective(runs)
    told = parsed(runs.parent.tags.get("suite.margin"))
    margin = float(told) if isinstance(told, (int, float)) else _margin_of_file(runs, uri)
    return Rules(objective, margin_known=False) if margin is None else Rules(objective, margin)


def _objective(runs: SweepRuns) -> Objective:
    for run in reversed(runs.trials):
        found = parsed(run.tags.get("suite.objective"))
        if isinstance(found, dict) and "name" in found:
            return Objective(**found)
    name = runs.parent.params.get("metric", "val/acc")
    return Objective(name, "maximize" if analysis.rises(name) else "minimize")


def _margin_of_file(runs: SweepRuns, uri: str) -> float | None:
    """``metric.margin`` of the sweep file among the parent's artifacts, with the command line's overrides."""
    from suite import spec

    overrides = parsed(runs.parent.tags.get("suite.overrides")) or []
    try:
        folder = tracking.download(uri, runs.parent.run_id, "")
        file = next((path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".yml")), None)
        return spec.load(file, [str(one) for one in overrides]).metrics[0].margin if file else None
    except (SuiteError, OSError):
        return None
