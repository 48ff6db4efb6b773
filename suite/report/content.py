"""What a report says, as values: tables, curves, sentences. Nothing is drawn and nothing is escaped here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from suite import analysis
from suite.analysis import Curve
from suite.journal import TrialHistory
from suite.records import VAL_ACC, Status
from suite.report.stored import Rules, histories, in_plan
from suite.report.words import figure, half_width, heading, label, names, points, scale, seconds, some
from suite.tracking import SweepRuns

_UNTOLD = 12  # failures and the like beyond so many are only counted


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and why."""

    name: str
    reason: str
    run_id: str


@dataclass(frozen=True)
class Content:
    """A report before it is written.

    Attributes:
        sweep, question: its name and its description.
        conclusions: sentences, the most important first.
        notices: what is missing or limits what may be concluded; sentences.
        headings, rows: the main table as text; of each row its arm, verdict and cells.
        trials, arms: the tables of results.csv and arms.csv.
        curves, metric: one curve per arm, the best arm first, and the figure that they show.
        baselines: arms that the others are compared with.
        failures: failed trials; those beyond ``len`` are counted in ``more_failures``.
        facts: where it comes from: name -> text.
        method: how to read the figures; sentences.
    """

    sweep: str
    question: str
    conclusions: tuple[str, ...]
    notices: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    trials: pd.DataFrame
    arms: pd.DataFrame
    curves: tuple[Curve, ...]
    metric: str
    baselines: tuple[str, ...]
    failures: tuple[Failure, ...]
    more_failures: int
    facts: tuple[tuple[str, str], ...]
    method: tuple[str, ...]


def content(runs: SweepRuns, rules: Rules, environment: Mapping[str, Any] | None = None) -> Content:
    """Everything that the report says of a sweep.

    Args:
        environment: ``environment.json`` of the parent run, where there is one.
    """
    items = histories(runs)
    run_ids = {run.trial or run.run_id: run.run_id for run in runs.trials}
    trials = analysis.trials_frame(items, rules.objective, run_ids)
    arms = _arms(items, trials, rules)
    metric = _metric(items, rules)
    failures = [_failure(item, run_ids) for item in items if item.status is Status.FAILED]
    headings, rows = table(arms, rules)
    return Content(
        sweep=runs.sweep,
        question=runs.parent.tags.get("mlflow.note.content", ""),
        conclusions=tuple(conclusions(arms, rules)),
        notices=tuple(notices(runs, items, arms, rules)),
        headings=headings,
        rows=rows,
        trials=trials,
        arms=arms,
        curves=_curves(items, arms, metric),
        metric=metric,
        baselines=tuple(arms.loc[arms["verdict"] == analysis.BASELINE, "arm"]),
        failures=tuple(failures[:_UNTOLD]),
        more_failures=max(0, len(failures) - _UNTOLD),
        facts=tuple(facts(runs, items, environment or {})),
        method=tuple(method(arms, rules)),
    )


def _arms(items: Sequence[TrialHistory], trials: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """One row per arm, best first: figures over seeds, the trials that count and that do not, and the verdict."""
    planned = Counter(item.trial.arm for item in items)
    frame = analysis.arms_frame(trials, rules.objective)
    frame.insert(1, "planned", [planned[arm] for arm in frame["arm"]])
    return frame.merge(analysis.compare(items, rules.objective, rules.margin), on="arm", how="left", sort=False)


def _metric(items: Iterable[TrialHistory], rules: Rules) -> str:
    """Validation accuracy where it was measured, else what the sweep optimised."""
    has = any(VAL_ACC in record.metrics for item in items for record in item.curve)
    return VAL_ACC if has else rules.objective.name


def _curves(items: Iterable[TrialHistory], arms: pd.DataFrame, metric: str) -> tuple[Curve, ...]:
    place = {arm: number for number, arm in enumerate(arms["arm"])}
    return tuple(sorted(analysis.curves(items, metric), key=lambda curve: place[curve.arm]))


def _failure(item: TrialHistory, run_ids: Mapping[str, str]) -> Failure:
    return Failure(item.trial.name, item.reason or "no reason was recorded", run_ids.get(item.trial.id, ""))


# ---- the main table --------------------------------------------------------------------------------------------------


def table(arms: pd.DataFrame, rules: Rules) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The main table as text: headings, and a row for each arm. The first column is the arm, the last the verdict."""
    test = analysis.tested(rules.objective)
    wanted = dict.fromkeys((rules.objective.name, VAL_ACC, test, "test/acc", "train/acc"))
    figures = [name for name in wanted if name in arms]
    compared = bool((arms["against"] != "").any())
    headings = ["Arm", "Seeds", *map(heading, figures)]
    unit = "percentage points" if test.endswith("acc") else test
    headings += [f"Difference to the baseline, {unit}"] if compared else []
    headings += ["Adjusted p"] if (told := bool(arms["p"].notna().any())) else []
    rows = []
    for row in arms.to_dict("records"):
        cells = [str(row["arm"]), _seeds(row), *(_mean(row, name) for name in figures)]
        cells += [_difference(row, test)] if compared else []
        cells += [_p(row)] if told else []
        rows.append((*cells, str(row["verdict"])))
    return (*headings, "Verdict"), tuple(rows)


def _seeds(row: Mapping[Any, Any]) -> str:
    parts = [str(row["seeds"]) if row["seeds"] == row["planned"] else f"{row['seeds']} of {row['planned']}"]
    parts += [f"{row[word]} {text}" for word, text in (("failed", "failed"), ("stopped", "stopped early")) if row[word]]
    return ", ".join(parts)


def _mean(row: Mapping[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return "–"
    return figure(name, row[name]) + half_width(name, row[f"{name} low"], row[f"{name} high"])


def _difference(row: Mapping[Any, Any], test: str) -> str:
    if pd.isna(row["difference"]):
        return "–"
    text = points(test, row["difference"])
    if pd.isna(row["difference low"]):
        return text
    return f"{text} [{points(test, row['difference low'])}, {points(test, row['difference high'])}]"


def _p(row: Mapping[Any, Any]) -> str:
    return "–" if pd.isna(row["p"]) else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


# ---- sentences -------------------------------------------------------------------------------------------------------


def conclusions(arms: pd.DataFrame, rules: Rules) -> list[str]:
    """The verdicts first, then who leads."""
    said = [text for word, say in _VERDICTS.items() if (text := _of(arms, word, say, rules))]
    name = rules.objective.name
    if name not in arms or not arms[name].notna().any():
        return [*said, "Nothing can be concluded yet: no trial has finished."]
    first = arms.iloc[0]
    leader = f"{'Highest' if rules.objective.goal == 'maximize' else 'Lowest'} mean {label(name).lower()}"
    spread = half_width(name, first[f"{name} low"], first[f"{name} high"])
    value = f"{figure(name, first[name])}{spread}{' %' if scale(name) > 1 else ''}"
    ahead = f"{leader}: {first['arm']}, {value} over {some(first['seeds'], 'seed')}."
    return [*said, ahead + (" Being first in a list is no verdict." if len(arms) > 1 else "")]


def _of(arms: pd.DataFrame, word: str, say: Callable[[str, Rules], str], rules: Rules) -> str:
    chosen = list(arms.loc[arms["verdict"] == word, "arm"])
    return say(names(chosen), rules) if chosen else ""


_VERDICTS: dict[str, Callable[[str, Rules], str]] = {
    analysis.BETTER: lambda text, _: f"Better than the baseline: {text}.",
    analysis.WORSE: lambda text, _: f"Worse than the baseline: {text}.",
    analysis.EQUIVALENT: lambda text, rules: f"Equivalent to the baseline within {_margin(rules)}: {text}.",
    analysis.INCONCLUSIVE: lambda text, _: f"Inconclusive, a difference was neither shown nor ruled out: {text}.",
    analysis.TOO_FEW: lambda text, _: (
        f"Too few seeds to tell (fewer than {analysis.LEAST_SEEDS} that the baseline finished too): {text}."
    ),
}


def _margin(rules: Rules) -> str:
    test = analysis.tested(rules.objective)
    return f"{points(test, rules.margin).lstrip('+')} {'points' if test.endswith('acc') else test}"


def notices(runs: SweepRuns, items: Sequence[TrialHistory], arms: pd.DataFrame, rules: Rules) -> list[str]:
    """What is missing, and what else limits the conclusions."""
    counts = Counter(item.status for item in items)
    found = [_progress(runs, counts), *_missing(runs, items, arms, rules), *_unequal(items, arms)]
    gone = sum(not in_plan(run) for run in runs.trials)
    if gone:
        found.append(f"{some(gone, 'run')} of arms or seeds that the sweep file no longer has: left out.")
    if not rules.margin_known:
        found.append(f"The sweep's margin is not in the store; the default of {_margin(rules)} stands in.")
    if runs.parent.params.get("method") in ("random", "optuna"):
        found.append(
            "A search chose these arms by their first seed, which also counts here; confirmed arms alone have more."
        )
    return [text for text in found if text]


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
    if any(run.tags.get("suite.nan") for run in runs.trials if in_plan(run)):
        yield "Some figures were not numbers (NaN or infinite) and are missing from curves."
    if any(run.tags.get("suite.tracking_error") for run in (runs.parent, *runs.trials)):
        yield "Some entries were refused by the store; the tag suite.tracking_error of the runs says which."


def _unequal(items: Sequence[TrialHistory], arms: pd.DataFrame) -> Iterable[str]:
    seeds = set(arms["seeds"])
    if seeds == {1}:
        yield "Each arm has one seed: nothing says how much of a difference is chance."
    elif len(seeds) > 1:
        span = f"{min(seeds)} to {max(seeds)}"
        yield f"Arms have unequal numbers of finished seeds ({span}); pairs are made of those that both have."
    if len({str(item.entry.get("numerics")) for item in items}) > 1:
        yield "Trials ran with different numerics; those of different numerics are not compared."


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
            f'"Equivalent": the interval lies within {_margin(rules)}; these intervals are not adjusted for the number '
            f'of arms. "Inconclusive": neither. "Too few seeds": below {analysis.LEAST_SEEDS} pairs no sign-flip test '
            "can reach 5 %."
        )
    return said


# ---- where it comes from ---------------------------------------------------------------------------------------------


def facts(runs: SweepRuns, items: Sequence[TrialHistory], environment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Name and text of what made these figures; only of what is known."""
    tags = runs.parent.tags
    packages = environment.get("packages") or {}
    spent = sum(record.metrics.get("time/epoch_s", 0.0) for item in items for record in item.curve)
    known = {
        "Command": tags.get("suite.command"),
        "Commit": tags.get("mlflow.source.git.commit"),
        "Suite": tags.get("suite.version"),
        "Python": environment.get("python"),
        "Versions": ", ".join(f"{name} {packages[name]}" for name in ("torch", "ray", "mlflow") if name in packages),
        "Machine": ", ".join(str(environment[name]) for name in ("platform", "cpu", "gpu") if environment.get(name)),
        "Numerics": _numerics(items),
        "Data": (tags.get("suite.data_digest") or "")[:16],
        "Begun": _moment(runs.parent.start_ms),
        "Ended": _moment(runs.parent.end_ms),
        "Training time": seconds(spent) if spent else "",
        "MLflow run": runs.parent.run_id,
    }
    return ((name, str(text)) for name, text in known.items() if text)


def _numerics(items: Iterable[TrialHistory]) -> str:
    """Of the trials themselves: the last launch may have asked for others and found nothing to run."""
    found = [item.entry.get("numerics") for item in items]
    texts = (", ".join(f"{name} {value}" for name, value in one.items()) for one in found if isinstance(one, dict))
    return "; or ".join(dict.fromkeys(texts))


def _moment(at_ms: int | None) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC") if at_ms else ""
