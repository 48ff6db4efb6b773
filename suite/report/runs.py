"""Stored runs as trials for ``suite.analysis``, and the rules that the sweep is judged by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import analysis, tracking
from suite.analysis import Bounds
from suite.config.stored import read_stored_params
from suite.core.errors import SuiteError
from suite.core.records import METRICS, EpochRecord, Looks, Objective, Status, Trial
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns, TrialRun

if TYPE_CHECKING:
    from suite.config import SweepSpec

# MLflow's status of a run that the suite did not create.
_FOREIGN = {"killed": Status.INTERRUPTED, "scheduled": Status.PENDING}


@dataclass(frozen=True)
class Rules:
    """The sweep file's rules for verdicts.

    Attributes:
        margin: differences up to it do not matter.
        margin_known: False if the store does not have it; then margin is the default.
        reference: published figures: arm -> metric (``time_s``, ``note`` too) -> value.
        confirmed: of a search, the arms that ran on all seeds; None where every arm is to.
        bounds: of a search, the parameters that are ranges.
        looks: at which seeds verdicts are, or have been, looked at.
        search_seed: of a search, the seed that it chose arms by; it counts in no verdict.
    """

    objective: Objective
    margin: float = analysis.MARGIN
    margin_known: bool = True
    reference: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    confirmed: tuple[str, ...] | None = None
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    looks: Looks = analysis.NO_LOOKS
    search_seed: int | None = None

    def level(self, arms: int) -> float:
        """The error level of the present look at ``arms`` comparisons: P(any false verdict)."""
        return analysis.look_level(self.looks, arms)

    @property
    def tested(self) -> str:
        """The test figure that verdicts are about."""
        return analysis.tested(self.objective)


def histories(runs: SweepRuns) -> list[TrialHistory]:
    """The trials of the sweep's present plan, in its order."""
    return [_history(run) for run in runs.trials if in_plan(run)]


def removed(runs: SweepRuns) -> list[TrialHistory]:
    """Trials of seeds that the sweep file no longer has, of the arms that it has."""
    planned = {(run.arm, run.seed) for run in runs.trials if in_plan(run)}
    arms = {arm for arm, _ in planned}
    gone = [run for run in runs.trials if not in_plan(run) and run.arm in arms]
    return [_history(run) for run in gone if (run.arm, run.seed) not in planned]


def in_plan(run: TrialRun) -> bool:
    """Whether the sweep file still has this run's arm and seed."""
    return run.tags.get("suite.in_plan", "true") == "true"


def _history(run: TrialRun) -> TrialHistory:
    trial = Trial(run.trial or run.run_id, run.arm or run.name, run.seed, run.name, _settings(run))
    entry = {
        "baseline": run.tags.get("suite.baseline") == "true",
        "numerics": parsed(run.tags.get("suite.numerics")),
    }
    status = _FOREIGN.get(run.status) or Status(run.status)
    return TrialHistory(trial, entry, _records(run), status, run.tags.get("suite.reason", ""))


def _settings(run: TrialRun) -> dict[str, Any]:
    settings = parsed(run.tags.get("suite.settings"))
    return settings if isinstance(settings, dict) else {}


def finite(history: Mapping[int, float]) -> dict[int, float]:
    """The finite figures: NaN and infinity, which only a foreign store has, are left out."""
    return {epoch: value for epoch, value in history.items() if math.isfinite(value)}


def not_numbers(run: TrialRun) -> bool:
    """Whether the run had NaN or infinite figures, in the store or left out of it by the suite."""
    known = (history for name, history in run.metrics.items() if name in METRICS)
    return bool(run.tags.get("suite.nan")) or any(
        len(finite(history)) < len(history) for history in known
    )


def _records(run: TrialRun) -> dict[int, EpochRecord]:
    known = {name: finite(run.metrics[name]) for name in METRICS if name in run.metrics}
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


def configs(runs: SweepRuns) -> dict[str, Mapping[str, str]]:
    """Arm -> its flattened settings, from the store's params; arms without params are left out."""
    trials = [run for run in runs.trials if in_plan(run) and run.params and run.arm]
    return {run.arm: read_stored_params(run.params) for run in trials}


def parameters(runs: SweepRuns) -> dict[str, tuple[int, int]]:
    """Arm -> trainable weights and all weights, where the store has them."""
    counts: dict[str, tuple[int, int]] = {}
    for run in runs.trials:
        texts = [run.tags.get(f"suite.parameters_{name}", "") for name in ("trainable", "total")]
        if in_plan(run) and all(text.isdigit() for text in texts):
            counts[run.arm or run.name] = int(texts[0]), int(texts[1])
    return counts


def rules(runs: SweepRuns, uri: str) -> Rules:
    """The objective and margin from tags; the rest, and a missing margin, from the sweep file."""
    objective = _objective(runs)
    spec = _spec(runs, uri)
    stored = parsed(runs.parent.tags.get("suite.margin"))
    known = isinstance(stored, (int, float)) and math.isfinite(stored)
    margin = float(stored) if known else spec.metrics[0].margin if spec else None
    return Rules(
        objective,
        analysis.MARGIN if margin is None else margin,
        margin_known=margin is not None,
        reference=_reference(spec) if spec else {},
        confirmed=_confirmed(runs, uri) if is_search(runs) else None,
        bounds=_bounds(spec) if spec else {},
        looks=tracking.looks_of(runs.parent.tags),
        search_seed=tracking.search_seed_of(runs.parent.tags),
    )


def is_search(runs: SweepRuns) -> bool:
    """Whether arms were drawn or searched, not all run."""
    return runs.parent.params.get("method") in ("random", "optuna")


def _confirmed(runs: SweepRuns, uri: str) -> tuple[str, ...] | None:
    """The confirmed arms of ``plan.json``; None if it is missing."""
    try:
        plan = json.loads(
            tracking.download(uri, runs.parent.run_id, "plan.json").read_text(encoding="utf-8")
        )
        return tuple(str(arm) for arm in plan["confirmed"])
    except (SuiteError, OSError, ValueError, KeyError, TypeError):
        return None


def _reference(spec: SweepSpec) -> dict[str, Mapping[str, Any]]:
    return {
        arm: {str(name): value for name, value in figures.items()}
        for arm, figures in spec.reference.items()
    }


def _bounds(spec: SweepSpec) -> dict[str, Bounds]:
    from suite.config.space import Range

    ranges = [parameter for parameter in spec.space.parameters if isinstance(parameter, Range)]
    return {
        searched.name: Bounds(
            float(searched.low), float(searched.high), searched.log, searched.whole
        )
        for searched in ranges
    }


def _objective(runs: SweepRuns) -> Objective:
    for run in reversed(runs.trials):
        objective = parsed(run.tags.get("suite.objective"))
        if isinstance(objective, dict) and "name" in objective:
            return Objective(**objective)
    name = runs.parent.params.get("metric", "val/acc")
    return Objective(name, "maximize" if analysis.rises(name) else "minimize")


def _spec(runs: SweepRuns, uri: str) -> SweepSpec | None:
    """The parent's sweep file, with the command line's overrides; None if it cannot be read."""
    from suite import config

    overrides = parsed(runs.parent.tags.get("suite.overrides")) or []
    try:
        file = _sweep_file(runs, uri)
        return config.load(file, [str(override) for override in overrides]) if file else None
    except (SuiteError, OSError, ValueError):
        return None


def _sweep_file(runs: SweepRuns, uri: str) -> Path | None:
    name = Path(runs.parent.tags.get("mlflow.source.name", "")).name
    if name.endswith((".yaml", ".yml")):
        try:
            return tracking.download(uri, runs.parent.run_id, name)
        except SuiteError:
            pass
    folder = tracking.download(uri, runs.parent.run_id, "")
    return next(
        (path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".yml")), None
    )
