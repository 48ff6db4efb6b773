"""Two sweeps, arm by arm where they share one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite import analysis
from suite.core.errors import UsageError
from suite.report.arms import adjusted_p, difference
from suite.report.content import Content
from suite.report.elements import Picture, Section, Table, non_empty
from suite.report.figures import styles
from suite.report.formatting import heading, names, scale, with_interval, with_unit
from suite.report.runs import Rules, configs, histories
from suite.report.study.curves import Courses
from suite.report.study.study_arms import StudyArms
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns

_VERDICTS = {
    analysis.BETTER: "Better in {ours} than in {theirs}: {arms}.",
    analysis.WORSE: "Worse in {ours} than in {theirs}: {arms}.",
    analysis.EQUIVALENT: "Equivalent within {margin}: {arms}.",
    analysis.INCONCLUSIVE: "Inconclusive, a difference was neither shown nor ruled out: {arms}.",
    analysis.TOO_FEW: "Too few seeds to tell (fewer than {least} that both sweeps finished): "
    "{arms}.",
}
NOT_TESTED = "not tested"
_LISTED = 8  # settings that are named


def comparison_content(ours: SweepRuns, theirs: SweepRuns, rules: Rules, other: Rules) -> Content:
    """The comparison of two sweeps as a report.

    Raises:
        UsageError: they share no arm, or it is one sweep.
    """
    items, others = histories(ours), histories(theirs)
    shared = _shared(ours, theirs, items, others)
    items = [history for history in items if history.trial.arm in shared]
    others = [history for history in others if history.trial.arm in shared]
    arms = _arms(ours.sweep, theirs.sweep, items, others, rules, other)
    sections = [
        Section(
            "arms",
            "Arms that both have",
            (),
            (_table(arms, ours.sweep, theirs.sweep, rules, other),),
        ),
        Section(
            "curves",
            "Curves",
            (),
            (),
            _curves(ours.sweep, theirs.sweep, items, others, shared, rules),
        ),
    ]
    both = pd.concat(
        [_trials(ours, items, rules), _trials(theirs, others, other)], ignore_index=True
    )
    return Content(
        sweep=ours.sweep,
        title=f"{ours.sweep} and {theirs.sweep}",
        folder=f"{ours.sweep}-and-{theirs.sweep}",
        question=f"Do the arms that {ours.sweep} and {theirs.sweep} share do better in one of "
        "them?",
        conclusions=tuple(_conclusions(arms, ours.sweep, theirs.sweep, rules, other)),
        notices=tuple(_notices(ours, theirs, shared, rules, other)),
        sections=non_empty(sections),
        trials=both,
        arms=arms,
        failures=(),
        more_failures=0,
        facts=tuple(
            (f"{run.sweep}: {name}", text)
            for run in (ours, theirs)
            for name, text in (
                ("command", run.parent.tags.get("suite.command", "")),
                ("MLflow run", run.parent.run_id),
            )
            if text
        ),
        method=(_method(ours.sweep, theirs.sweep, rules, other),),
        arguments=f"{ours.sweep} {theirs.sweep}",
    )


def _shared(
    ours: SweepRuns,
    theirs: SweepRuns,
    items: Iterable[TrialHistory],
    others: Iterable[TrialHistory],
) -> list[str]:
    mine = list(dict.fromkeys(history.trial.arm for history in items))
    its = list(dict.fromkeys(history.trial.arm for history in others))
    shared = [arm for arm in mine if arm in its]
    if ours.sweep == theirs.sweep or not shared:
        rule = "two sweeps must share an arm to be compared"
        if ours.sweep == theirs.sweep:
            rule = f"two different sweeps are needed to compare, got {ours.sweep} twice"
        raise UsageError(
            rule,
            remedy=f"{ours.sweep} has {names(mine) or 'no arms'}; "
            f"{theirs.sweep} has {names(its) or 'no arms'}.",
        )
    return shared


def _trials(runs: SweepRuns, items: Sequence[TrialHistory], rules: Rules) -> pd.DataFrame:
    run_ids = {run.trial or run.run_id: run.run_id for run in runs.trials}
    frame = analysis.trials_frame(items, rules.objective, run_ids)
    frame.insert(0, "sweep", runs.sweep)
    return frame


def _method(ours: str, theirs: str, rules: Rules, other: Rules) -> str:
    choice = (
        "Each sweep's own metric chose the epochs of its trials. "
        "± is a 95 % Student interval over seeds."
    )
    if rules.tested != other.tested:
        return choice
    return (
        f"Differences are of {rules.tested}, {ours} less {theirs}, paired by seed (of equal "
        "numerics). Their 95 % intervals hold for all arms at once (a max-T test that flips the "
        "signs of whole seeds, inverted); verdicts are read from them alone, and p is adjusted for "
        "the number of arms. Earlier looks at either sweep are not "
        f"counted. {choice}"
    )


def _arms(
    ours: str,
    theirs: str,
    items: Sequence[TrialHistory],
    others: Sequence[TrialHistory],
    rules: Rules,
    other: Rules,
) -> pd.DataFrame:
    """The comparison, with each sweep's tested figure at the epochs that its metric chose."""
    known = pd.DataFrame({"arm": list(dict.fromkeys(history.trial.arm for history in items))})
    for name, trials, judged in ((ours, items, rules), (theirs, others, other)):
        frame = analysis.arms_frame(
            analysis.trials_frame(trials, judged.objective), judged.objective
        )
        wanted = ["seeds", *[f"{judged.tested}{end}" for end in ("", " low", " high")]]
        frame = frame.reindex(columns=["arm", *wanted])
        known = known.merge(
            frame.rename(columns={column: f"{name}: {column}" for column in wanted}),
            on="arm",
            how="left",
        )
    if rules.tested != other.tested:
        return known.assign(verdict=NOT_TESTED)
    compared = analysis.compare_sweeps(
        items, others, rules.objective, other.objective, rules.margin
    )
    return known.merge(compared.drop(columns="against"), on="arm", how="left").assign(
        verdict=lambda frame: frame["verdict"].fillna(analysis.TOO_FEW)
    )


def _table(arms: pd.DataFrame, ours: str, theirs: str, rules: Rules, other: Rules) -> Table:
    """Each sweep's own figures, and their difference where both are of one metric."""
    sides = ((ours, rules.tested), (theirs, other.tested))
    headings = [
        text
        for name, test in sides
        for text in (f"{name}: seeds", f"{name}: {heading(test).lower()}")
    ]
    if rules.tested == other.tested:
        unit = "percentage points" if scale(rules.tested) > 1 else rules.tested
        headings += ["Seeds of both", f"Difference, {unit}", "Adjusted p"]
    lines = []
    for row in arms.to_dict("records"):
        cells = [cell for side in sides for cell in _own(row, *side)]
        cells += _compared(row, rules.tested) if rules.tested == other.tested else []
        lines.append((str(row["arm"]), *cells, str(row["verdict"])))
    return Table("arms", ("Arm", *headings, "Verdict"), tuple(lines), ends_in_verdict=True)


def _own(row: Mapping[Any, Any], name: str, test: str) -> tuple[str, str]:
    """An arm's seeds and figure in one of the sweeps."""
    mean, low, high = (row[f"{name}: {test}{end}"] for end in ("", " low", " high"))
    return str(row[f"{name}: seeds"]), "–" if pd.isna(mean) else with_interval(
        test, mean, low, high
    )


def _compared(row: Mapping[Any, Any], test: str) -> list[str]:
    pairs = 0 if pd.isna(row["pairs"]) else int(row["pairs"])
    return [str(pairs), difference(row, test), adjusted_p(row)]


def _curves(
    ours: str,
    theirs: str,
    items: Sequence[TrialHistory],
    others: Sequence[TrialHistory],
    shared: Sequence[str],
    rules: Rules,
) -> tuple[Picture, ...]:
    """The few first arms of both sweeps in one figure."""
    from dataclasses import replace

    some = set(shared[:4])
    renamed = [
        replace(
            history,
            trial=replace(history.trial, arm=f"{history.trial.arm} ({sweep})"),
            entry={**history.entry},
        )
        for sweep, trials in ((ours, items), (theirs, others))
        for history in trials
        if history.trial.arm in some
    ]
    order = list(dict.fromkeys(history.trial.arm for history in renamed))
    pictures = Courses(renamed, order, styles(order, ())).pictures(
        rules.objective.name, StudyArms()
    )
    return tuple(
        replace(
            curve,
            caption=curve.caption.replace(" Arms are coloured in the order of the table.", ""),
        )
        for curve in pictures
    )


def _conclusions(
    arms: pd.DataFrame, ours: str, theirs: str, rules: Rules, other: Rules
) -> Iterable[str]:
    if rules.tested != other.tested:
        yield (
            f"No difference is tested: {ours} is judged by {rules.objective.name}, whose test "
            "figure is "
            f"{rules.tested}, and {theirs} by {other.objective.name}, whose test figure is "
            f"{other.tested}."
        )
        return
    for word, text in _VERDICTS.items():
        if chosen := list(arms.loc[arms["verdict"] == word, "arm"]):
            yield text.format(
                ours=ours,
                theirs=theirs,
                arms=names(chosen),
                margin=with_unit(rules.tested, rules.margin),
                least=analysis.MIN_SEEDS,
            )
    if arms["p"].notna().any():
        seen = arms["smallest difference"].median()
        yield (
            f"Smallest difference that this comparison detects with {100 * analysis.POWER:.0f} % "
            "power, at the measured "
            f"spread over seeds: {with_unit(rules.tested, seen)} (the median arm)."
        )


def _notices(
    ours: SweepRuns, theirs: SweepRuns, shared: Sequence[str], rules: Rules, other: Rules
) -> Iterable[str]:
    """In what, besides the arms' names, the sweeps are not the same."""
    if rules.objective != other.objective:
        yield (
            "The sweeps were judged by different metrics: each trial's epoch was chosen by its own "
            "sweep's metric."
        )
    tags = {
        "suite.data_digest": "data",
        "suite.numerics": "numerics",
        "suite.version": "versions of the suite",
    }
    for tag, what in tags.items():
        if _tagged(ours, tag, shared) != _tagged(theirs, tag, shared):
            more = ": trials of different numerics make no pair" if what == "numerics" else ""
            yield f"The sweeps ran these arms with different {what}{more}."
    mine, its = configs(ours), configs(theirs)
    notes = sorted(
        {name for arm in shared for name in _differing(mine.get(arm, {}), its.get(arm, {}))}
    )
    if notes:
        listed = ", ".join(notes[:_LISTED]) + (
            f" and {len(notes) - _LISTED} more" if len(notes) > _LISTED else ""
        )
        yield f"Arms of one name differ between the sweeps in: {listed}."
    else:
        yield "Arms of one name have the same settings in both sweeps."


def _tagged(runs: SweepRuns, tag: str, arms: Sequence[str]) -> set[str]:
    return {run.tags.get(tag, "") for run in runs.trials if run.arm in arms}


def _differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> set[str]:
    return {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
