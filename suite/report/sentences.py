"""What a report says in sentences: verdicts, what is missing, how to read it, where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from suite import analysis
from suite.journal import TrialHistory
from suite.records import Status
from suite.report.stored import Rules, in_plan, is_search, not_numbers
from suite.report.words import figure, half_width, label, names, points, scale, seconds, some
from suite.tracking import SweepRuns


def conclusions(arms: pd.DataFrame, rules: Rules, spread: float | None = None) -> list[str]:
    """The verdicts first, then what could have been seen, then who leads.

    Args:
        spread: standard deviation over seeds of a difference to the baseline, over all arms; None = not known.
    """
    said = [text for word, say in _VERDICTS.items() if (text := _of(arms, word, say, rules))]
    said += [text] if (text := visible(arms, rules, spread)) else []
    name = rules.objective.name
    if name not in arms or not arms[name].notna().any():
        return [*said, "Nothing can be concluded yet: no trial has finished."]
    first = arms.iloc[0]
    leader = f"{'Highest' if rules.objective.goal == 'maximize' else 'Lowest'} mean {label(name).lower()}"
    half = half_width(name, first[f"{name} low"], first[f"{name} high"])
    value = f"{figure(name, first[name])}{half}{' %' if scale(name) > 1 else ''}"
    ahead = f"{leader}: {first['arm']}, {value} over {some(first['seeds'], 'seed')}."
    return [*said, ahead + (" Being first in a list is no verdict." if len(arms) > 1 else "")]


def _of(arms: pd.DataFrame, word: str, say: Callable[[str, Rules], str], rules: Rules) -> str:
    chosen = list(arms.loc[arms["verdict"] == word, "arm"])
    others = int((arms["verdict"] != analysis.BASELINE).sum())
    every = f"all {others} other arms" if len(chosen) == others > _LISTED else ""
    return say(every or names(chosen), rules) if chosen else ""


_LISTED = 4  # arms of one verdict that are named where all have it


_VERDICTS: dict[str, Callable[[str, Rules], str]] = {
    analysis.BETTER: lambda text, _: f"Better than the baseline: {text}.",
    analysis.WORSE: lambda text, _: f"Worse than the baseline: {text}.",
    analysis.EQUIVALENT: lambda text, rules: f"Equivalent to the baseline within {margin(rules)}: {text}.",
    analysis.INCONCLUSIVE: lambda text, _: f"Inconclusive, a difference was neither shown nor ruled out: {text}.",
    analysis.TOO_FEW: lambda text, _: (
        f"Too few seeds to tell (fewer than {analysis.LEAST_SEEDS} that the baseline finished too): {text}."
    ),
}


def visible(arms: pd.DataFrame, rules: Rules, spread: float | None) -> str:
    """The smallest difference to the baseline that the sweep could have seen."""
    least, power = analysis.LEAST_SEEDS, _power()
    told = arms[arms["p"].notna()]
    compared = int((arms["against"] != "").sum())
    if not len(told):
        if not compared or arms["seeds"].max() == 0:
            return ""
        said = f"With fewer than {least} seeds no difference, however large, can be told from chance."
        if spread is None:
            return said
        size = _size(analysis.detectable(least, compared) * spread, rules)
        return f"{said} With {least}, by the spread so far, one of {size} would be seen with {power} power."
    found = told["smallest difference"]
    span = ""
    if len(told) > 1:
        span = f" (by arm {_number(found.min(), rules)} to {_number(found.max(), rules)})"
    seeds = some(int(told["pairs"].min()), "seed")
    return (
        f"Smallest difference to the baseline that this sweep could have seen with {power} power: "
        f"{_size(found.median(), rules)}{span}, from {seeds}, {some(len(told), 'tested arm')} and the spread measured."
    )


def _power() -> str:
    return f"{100 * analysis.POWER:.0f} %"


def _size(value: float, rules: Rules) -> str:
    return f"{_number(value, rules)} {'points' if rules.tested.endswith('acc') else rules.tested}"


def _number(value: float, rules: Rules) -> str:
    return points(rules.tested, value).lstrip("+")


def margin(rules: Rules) -> str:
    """The margin with its unit."""
    return _size(rules.margin, rules)


def notices(runs: SweepRuns, items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules) -> list[str]:
    """What is missing, and what else limits the conclusions."""
    counts = Counter(item.status for item in items)
    found = [_progress(runs, counts), *_missing(runs, items, arms, rules), *_unequal(items, arms)]
    gone = sum(not in_plan(run) for run in runs.trials)
    if gone:
        found.append(f"{some(gone, 'run')} of arms or seeds that the sweep file no longer has: left out.")
    if not rules.margin_known:
        found.append(f"The sweep's margin is not in the store; the default of {margin(rules)} stands in.")
    if is_search(runs):
        found.append(_searched(rules))
    return [text for text in found if text]


def _searched(rules: Rules) -> str:
    if rules.confirmed is None:
        return "A search chose these arms by their first seed, which also counts here; confirmed arms alone have more."
    if not rules.confirmed:
        return "A search: no arm has been confirmed on all seeds, so there are no verdicts yet."
    return (
        f"A search: {some(len(rules.confirmed), 'confirmed arm')}, the baseline among them, ran at full length on all "
        "seeds; only these get verdicts. The first seed, on which they were chosen, also counts, which flatters them."
    )


def _progress(runs: SweepRuns, counts: Counter[Status]) -> str:
    planned = max(counts.total(), int(runs.parent.tags.get("suite.planned", 0)))
    counts[Status.PENDING] += planned - counts.total()  # a trial has no run before it begins
    ended = counts[Status.FINISHED] + counts[Status.STOPPED] + counts[Status.FAILED]
    left = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status] and status not in _ENDED)
    if not planned:
        return "The sweep has no trials yet."
    if runs.parent.status == Status.RUNNING:
        return f"The sweep is still running: {ended} of {planned} trials have ended{f' ({left})' if left else ''}."
    return f"The sweep is not complete: {ended} of {planned} trials have ended ({left})." if left else ""


_ENDED = (Status.FINISHED, Status.STOPPED, Status.FAILED)


def _missing(runs: SweepRuns, items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules) -> Iterable[str]:
    counts = Counter(item.status for item in items)
    if items and not counts[Status.FINISHED]:
        yield "No trial has finished, so there are no figures to compare."
    if counts[Status.FAILED]:
        yield f"{counts[Status.FAILED]} of {some(len(items), 'trial')} failed; the reasons are below."
    if counts[Status.STOPPED]:
        stopped = some(counts[Status.STOPPED], "trial")
        yield f"{stopped} stopped early by the sweep: another budget, so left out of means and tests."
    if len(arms) > 1 and not (arms["verdict"] == analysis.BASELINE).any():
        yield "The sweep names no baseline, so no arm is compared with another."
    if len(arms) == 1:
        yield "The sweep has one arm: there is nothing to compare it with."
    if counts[Status.FINISHED] and not any(str(name).startswith("val/") for name in arms):
        yield f"There are no validation images: {rules.objective.name} of the last epoch speaks for each trial."
    if counts[Status.FINISHED] and analysis.tested(rules.objective) not in arms:
        yield "There are no test figures, so there are no verdicts."
    if any(not_numbers(run) for run in runs.trials if in_plan(run)):
        yield "Some figures were not numbers (NaN or infinite) and are missing from curves."
    if any(run.tags.get("suite.tracking_error") for run in (runs.parent, *runs.trials)):
        yield "Some entries were refused by the store; the tag suite.tracking_error of the runs says which."


def _unequal(items: Sequence[TrialHistory], arms: pd.DataFrame) -> Iterable[str]:
    seeds = set(arms["seeds"])
    if seeds == {1}:
        yield "Each arm has one seed: nothing says how much of a difference is chance."
    elif len(seeds) > 1:
        span = f"{min(seeds)} to {max(seeds)}"
        pairs = "; pairs are made of those that both have" if (arms["against"] != "").any() else ""
        yield f"Arms have unequal numbers of finished seeds ({span}){pairs}."
    if len({str(item.entry.get("numerics")) for item in items}) > 1:
        yield "Trials ran with different numerics; those of different numerics are not paired."


def method(arms: pd.DataFrame, rules: Rules) -> list[str]:
    """How to read the figures."""
    objective, test = rules.objective, analysis.tested(rules.objective)
    epoch = "the epoch with the best" if objective.strategy == "best" else "the last epoch with a"
    said = [
        f"Figures, those of the test images too, are of {epoch} {objective.name}; ± is a 95 % Student interval over "
        "seeds. It covers seeds, not the choice of test images.",
    ]
    if (arms["against"] != "").any():
        said.append(
            f"Differences are of {test}, paired by seed, with a 95 % Student interval. p is of a two-sided sign-flip "
            "test adjusted for the number of arms (step-down max-T, one sign per seed for all arms): where nothing "
            "differs, and differences are as likely to have the one sign as the other, the chance of any false "
            '"better" or "worse" in the whole table is at most 5 %.'
        )
        said.append(
            f'"Equivalent": the interval lies within {margin(rules)}; these intervals are not adjusted for the number '
            f'of arms. "Inconclusive": neither. "Too few seeds": below {analysis.LEAST_SEEDS} pairs no sign-flip test '
            "can reach 5 %."
        )
        said.append(
            "The smallest difference that could have been seen: the true difference that would be called better or "
            f"worse with {_power()} power, by simulating sweeps of as many seeds and arms (one of which "
            "differs; normal noise; differences correlated at one half, as they share the baseline) and the standard "
            "deviation over seeds of the paired differences measured here, an arm's own; the median arm is named. "
            "arms.csv has each arm's."
        )
    return said


# ---- where it comes from ---------------------------------------------------------------------------------------------


def facts(runs: SweepRuns, items: Sequence[TrialHistory], environment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Name and text of what made these figures; only of what is known."""
    tags = runs.parent.tags
    packages = environment.get("packages") or {}
    spent = sum(record.metrics.get("time/epoch_s", 0.0) for item in items for record in item.curve)
    trials = [run for run in runs.trials if in_plan(run)]  # the sweep's own run ends anew with each launch
    known = {
        "Command": tags.get("suite.command"),
        "Commit": tags.get("mlflow.source.git.commit"),
        "Uncommitted changes": _changes(environment),
        "Suite": tags.get("suite.version"),
        "Python": environment.get("python"),
        "Versions": ", ".join(f"{name} {packages[name]}" for name in ("torch", "ray", "mlflow") if name in packages),
        "Machine": ", ".join(str(environment[name]) for name in ("platform", "cpu", "gpu") if environment.get(name)),
        "Numerics": _numerics(items),
        "Data": (tags.get("suite.data_digest") or "")[:16],
        "First trial begun": _moment(min((run.start_ms for run in trials if run.start_ms), default=None)),
        "Last trial ended": _moment(max((run.end_ms for run in trials if run.end_ms), default=None)),
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
    return f"{some(len(diff.splitlines()), 'line')} of diff, in environment.json" if diff else "none"


def _cost(items: Iterable[TrialHistory]) -> str:
    """Core-hours of training on processors, hours of training on GPUs; evaluation and start-up come on top."""
    cores = gpus = 0.0
    for item in items:
        numerics = item.entry.get("numerics")
        known = numerics if isinstance(numerics, dict) else {}
        spent = sum(record.metrics.get("time/epoch_s", 0.0) for record in item.curve) / 3600
        if known.get("device", "cpu") == "cpu":
            cores += spent * int(known.get("threads") or 1)
        else:
            gpus += spent
    texts = [f"{cores:.2f} core-hours" if cores else "", f"{gpus:.2f} hours on shared or whole GPUs" if gpus else ""]
    return ", ".join(text for text in texts if text)


def _numerics(items: Iterable[TrialHistory]) -> str:
    """Of the trials themselves: the last launch may have asked for others and found nothing to run."""
    found = [item.entry.get("numerics") for item in items]
    texts = (", ".join(f"{name} {value}" for name, value in one.items()) for one in found if isinstance(one, dict))
    return "; or ".join(dict.fromkeys(texts))


def _moment(at_ms: int | None) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC") if at_ms else ""
