"""The notices of a report (what is missing), and its facts (commit, machine, cost)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from suite import analysis
from suite.config.stored import trained_with_remainder
from suite.core.records import Status
from suite.report.formatting import seconds, some, with_unit
from suite.report.runs import Rules, in_plan, is_search, not_numbers
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns


def notices(
    runs: SweepRuns, items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules
) -> list[str]:
    """What is missing, and what else limits the conclusions."""
    counts = Counter(trial.status for trial in items)
    notes = [_progress(runs, counts), *_missing(runs, items, arms, rules), *_unequal(items, arms)]
    gone = sum(not in_plan(run) for run in runs.trials)
    if gone:
        notes.append(
            f"{some(gone, 'run')} of arms or seeds that the sweep file no longer has: left out."
        )
    if not rules.margin_known:
        default = with_unit(rules.tested, rules.margin)
        notes.append(f"The sweep's margin is not in the store; the default of {default} stands in.")
    if is_search(runs):
        notes.append(_searched(rules))
    return [text for text in notes if text]


def _searched(rules: Rules) -> str:
    if rules.confirmed is None:
        return (
            "A search chose these arms by their first seed, which also counts here; only confirmed "
            "arms have more seeds."
        )
    if not rules.confirmed:
        return "A search: no arm has been confirmed on all seeds, so there are no verdicts yet."
    if rules.search_seed is not None:
        return (
            f"A search: {some(len(rules.confirmed), 'confirmed arm')}, the baseline among them, "
            "ran at "
            "full length on seeds that the search has not seen; only these get verdicts. Seed "
            f"{rules.search_seed}, by which they were chosen, counts in none of their figures."
        )
    return (
        f"A search: {some(len(rules.confirmed), 'confirmed arm')}, the baseline among them, ran at "
        "full length on all seeds; only these get verdicts. The first seed, on which they were "
        "chosen, also counts, which flatters them."
    )


def _progress(runs: SweepRuns, counts: Counter[Status]) -> str:
    planned = max(counts.total(), int(runs.parent.tags.get("suite.planned", 0)))
    counts[Status.PENDING] += planned - counts.total()  # a trial has no run before it begins
    ended = counts[Status.FINISHED] + counts[Status.STOPPED] + counts[Status.FAILED]
    left = ", ".join(
        f"{counts[status]} {status}" for status in Status if counts[status] and status not in _ENDED
    )
    if not planned:
        return "The sweep has no trials yet."
    if runs.parent.status == Status.RUNNING:
        rest = f" ({left})" if left else ""
        return f"The sweep is still running: {ended} of {planned} trials have ended{rest}."
    return (
        f"The sweep is not complete: {ended} of {planned} trials have ended ({left})."
        if left
        else ""
    )


_ENDED = (Status.FINISHED, Status.STOPPED, Status.FAILED)


def _missing(
    runs: SweepRuns, items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules
) -> Iterable[str]:
    counts = Counter(trial.status for trial in items)
    if items and not counts[Status.FINISHED]:
        yield "No trial has finished, so there are no figures to compare."
    if counts[Status.FAILED]:
        yield (
            f"{counts[Status.FAILED]} of {some(len(items), 'trial')} failed; the reasons are below."
        )
    if counts[Status.STOPPED]:
        stopped = some(counts[Status.STOPPED], "trial")
        yield (
            f"{stopped} stopped early by the sweep: another budget, so left out of means and tests."
        )
    if len(arms) > 1 and not (arms["verdict"] == analysis.BASELINE).any():
        yield "The sweep names no baseline, so no arm is compared with another."
    if len(arms) == 1:
        yield "The sweep has only one arm, so nothing is compared."
    if counts[Status.FINISHED] and not any(str(name).startswith("val/") for name in arms):
        yield (
            f"There are no validation images, so each trial counts with its last epoch's "
            f"{rules.objective.name}."
        )
    if counts[Status.FINISHED] and analysis.tested(rules.objective) not in arms:
        yield "There are no test figures, so there are no verdicts."
    if any(not_numbers(run) for run in runs.trials if in_plan(run)):
        yield "Some figures were NaN or infinite and are missing from curves."
    if any(run.tags.get("suite.tracking_error") for run in (runs.parent, *runs.trials)):
        yield ("The store rejected some entries; the runs' tag suite.tracking_error says which.")
    yield _remainders(runs)


def _remainders(runs: SweepRuns) -> str:
    """Which results a small last batch may have lowered; "" if none."""
    trials = [run for run in runs.trials if in_plan(run) and "train.batch_size" in run.params]
    known = [trained_with_remainder(run.params) for run in trials]
    affected, unknown = known.count(True), known.count(None)
    if not affected + unknown:
        return ""
    were = "were" if affected else "may have been"
    count = some(affected or unknown, "trial")
    return (
        f"{count} {were} trained with a small last batch in each epoch (train.last_batch: keep, "
        "the rule before version 5 of the results). On small training sets that costs accuracy, "
        "and "
        "more for some arms than for others."
    )


def _unequal(items: Sequence[TrialHistory], arms: pd.DataFrame) -> Iterable[str]:
    seeds = set(arms["seeds"])
    if seeds == {1}:
        yield "Each arm has one seed, so chance and difference cannot be separated."
    elif len(seeds) > 1:
        span = f"{min(seeds)} to {max(seeds)}"
        pairs = "; pairs are made of those that both have" if (arms["against"] != "").any() else ""
        yield f"Arms have unequal numbers of finished seeds ({span}){pairs}."
    if len({str(trial.entry.get("numerics")) for trial in items}) > 1:
        yield "Trials ran with different numerics; those of different numerics are not paired."


# ---- where it comes from -------------------------------------------------------------------------


def facts(
    runs: SweepRuns, items: Sequence[TrialHistory], environment: Mapping[str, Any]
) -> Iterable[tuple[str, str]]:
    """Name and text of what made these figures, as far as known."""
    tags = runs.parent.tags
    packages = environment.get("packages") or {}
    spent = sum(
        record.metrics.get("time/epoch_s", 0.0) for trial in items for record in trial.curve
    )
    trials = [
        run for run in runs.trials if in_plan(run)
    ]  # the sweep's own run ends anew with each launch
    known = {
        "Command": tags.get("suite.command"),
        "Commit": tags.get("mlflow.source.git.commit"),
        "Uncommitted changes": _changes(environment),
        "Suite": tags.get("suite.version"),
        "Python": environment.get("python"),
        "Versions": ", ".join(
            f"{name} {packages[name]}" for name in ("torch", "ray", "mlflow") if name in packages
        ),
        "Machine": ", ".join(
            str(environment[name]) for name in ("platform", "cpu", "gpu") if environment.get(name)
        ),
        "Numerics": _numerics(items),
        "Data": (tags.get("suite.data_digest") or "")[:16],
        "First trial begun": _moment(
            min((run.start_ms for run in trials if run.start_ms), default=None)
        ),
        "Last trial ended": _moment(
            max((run.end_ms for run in trials if run.end_ms), default=None)
        ),
        "Training time": seconds(spent) if spent else "",
        "Cost": _cost(items),
        "MLflow run": runs.parent.run_id,
    }
    return ((name, str(text)) for name, text in known.items() if text)


def _changes(environment: Mapping[str, Any]) -> str:
    """What the code had beyond its commit; "" where that is not known."""
    git = environment.get("git")
    if not isinstance(git, dict) or not git.get("commit"):
        return ""
    diff = str(git.get("diff") or "")
    return (
        f"{some(len(diff.splitlines()), 'line')} of diff, in environment.json" if diff else "none"
    )


def _cost(items: Iterable[TrialHistory]) -> str:
    """Core-hours on CPUs and hours on GPUs, of training alone, without evaluation and start-up."""
    cores = gpus = 0.0
    for trial in items:
        numerics = trial.entry.get("numerics")
        known = numerics if isinstance(numerics, dict) else {}
        spent = sum(record.metrics.get("time/epoch_s", 0.0) for record in trial.curve) / 3600
        if known.get("device", "cpu") == "cpu":
            cores += spent * int(known.get("threads") or 1)
        else:
            gpus += spent
    texts = [
        f"{cores:.2f} core-hours" if cores else "",
        f"{gpus:.2f} hours on shared or whole GPUs" if gpus else "",
    ]
    return ", ".join(text for text in texts if text)


def _numerics(items: Iterable[TrialHistory]) -> str:
    """The trials' numerics; the last launch may have asked for others and run nothing."""
    numerics = [trial.entry.get("numerics") for trial in items]
    texts = (
        ", ".join(f"{name} {value}" for name, value in fields.items())
        for fields in numerics
        if isinstance(fields, dict)
    )
    return "; or ".join(dict.fromkeys(texts))


def _moment(at_ms: int | None) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC") if at_ms else ""
