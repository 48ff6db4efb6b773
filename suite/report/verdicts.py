"""What a report concludes: verdicts first, then what could have been seen, then which arm leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from suite import analysis
from suite.report.formatting import (
    figure,
    label,
    names,
    percent,
    percentage_points,
    scale,
    some,
    with_interval,
    with_unit,
)
from suite.report.power import visible
from suite.report.runs import Rules

Row = Mapping[Any, Any]
_MAX_LISTED = 4  # arms of one verdict that are named if all have it


def conclusions(
    arms: pd.DataFrame,
    rules: Rules,
    spread: float | None = None,
    ended: int = 0,
    collapsed: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> list[str]:
    """The sentences at the top of the page.

    Args:
        spread: standard deviation over seeds of a difference to the baseline, over all arms.
        ended: trials that have ended, for what a planned sweep saved.
        collapsed: see ``analysis.collapsed_seeds``.
    """
    sentences = [_verdict(arms, word, tell, rules) for word, tell in _VERDICTS.items()]
    sentences += [
        *_lost_seeds(arms, rules),
        _collapsed(arms, collapsed),
        *_within_image_error(arms),
    ]
    sentences += [_rounds(arms, rules, ended), visible(arms, rules, spread)]
    return [*filter(None, sentences), *_leader(arms, rules)]


def verdict_cell(row: Row) -> str:
    """The verdict as the table has it: with numbers of seeds if some were lost."""
    word = str(row["verdict"])
    seeds = _finished_of(row)
    return word.replace(" on the seeds", f" on the {seeds} seeds") if seeds else word


def _finished_of(row: Row) -> str:
    """``6 of 8``: the seeds that a qualified verdict is about; "" for all other verdicts."""
    lost = {
        analysis.BETTER_OF_FINISHED: row["lost"],
        analysis.WORSE_OF_FINISHED: row["baseline lost"],
        analysis.EQUIVALENT_OF_FINISHED: row["lost"] + row["baseline lost"],
    }.get(str(row["verdict"]))
    return f"{row['pairs']} of {row['pairs'] + int(lost)}" if lost is not None else ""


def worst_case(row: Row, metric: str) -> str:
    """The interval if lost seeds count as the worst value seen; "–" if none was lost."""
    if pd.isna(row["worst low"]) or pd.isna(row["worst high"]):
        return "–"
    return (
        f"[{percentage_points(metric, row['worst low'])}, "
        f"{percentage_points(metric, row['worst high'])}]"
    )


# ---- verdicts ------------------------------------------------------------------------------------


def _verdict(
    arms: pd.DataFrame, word: str, tell: Callable[[str, Rules, float], str], rules: Rules
) -> str:
    chosen = list(arms.loc[arms["verdict"] == word, "arm"])
    others = int((arms["verdict"] != analysis.BASELINE).sum())
    every = f"all {others} other arms" if len(chosen) == others > _MAX_LISTED else ""
    return tell(every or names(chosen), rules, level_of(arms, rules)) if chosen else ""


def compared(arms: pd.DataFrame) -> int:
    """How many arms are compared with a baseline."""
    return int((arms["against"] != "").sum())


def level_of(arms: pd.DataFrame, rules: Rules) -> float:
    """The level at which the present look judges these arms."""
    return rules.level(compared(arms))


def least_seeds(level: float) -> int:
    """Seeds from which a sign-flip test can reach a level: their smallest p is 1 / 2^(n - 1)."""
    return next(seeds for seeds in range(analysis.MIN_SEEDS, 64) if 2.0 ** (1 - seeds) <= level)


def _too_few(arms: str, _: Rules, level: float) -> str:
    least = least_seeds(level)
    at = "" if least == analysis.MIN_SEEDS else f", at this look's level of {percent(level)}"
    return f"Too few seeds to tell (fewer than {least} that the baseline finished too{at}): {arms}."


_VERDICTS: dict[str, Callable[[str, Rules, float], str]] = {
    analysis.BETTER: lambda arms, *_: f"Better than the baseline: {arms}.",
    analysis.WORSE: lambda arms, *_: f"Worse than the baseline: {arms}.",
    analysis.EQUIVALENT: lambda arms, rules, _: (
        f"Equivalent to the baseline within {with_unit(rules.tested, rules.margin)}: {arms}."
    ),
    analysis.INCONCLUSIVE: lambda arms, *_: (
        f"Inconclusive, a difference was neither shown nor ruled out: {arms}."
    ),
    analysis.TOO_FEW: _too_few,
    analysis.UNFINISHED: lambda arms, *_: (
        f"No verdict yet, because planned trials have not ended: {arms}. Each look at the verdicts "
        "may err, so they are read once all trials have ended."
    ),
}
_QUALIFIED = {
    analysis.BETTER_OF_FINISHED: "better than the baseline",
    analysis.WORSE_OF_FINISHED: "worse than the baseline",
    analysis.EQUIVALENT_OF_FINISHED: "equivalent to the baseline",
}


def _lost_seeds(arms: pd.DataFrame, rules: Rules) -> Iterable[str]:
    """Verdicts that lost seeds may have made, each with its worst case."""
    rows = [row for row in arms.to_dict("records") if row["verdict"] in _QUALIFIED]
    for row in rows[:_MAX_LISTED]:
        bound = worst_case(row, rules.tested)
        worst = (
            "" if bound == "–" else f"; if each lost seed counts as the worst value seen: {bound}"
        )
        yield (
            f"{row['arm']} is {_QUALIFIED[row['verdict']]} only on {_finished_of(row)} seeds, the "
            "rest "
            f"failed or were stopped{worst}. The survivors may be the lucky ones."
        )
    if len(rows) > _MAX_LISTED:
        yield f"{len(rows) - _MAX_LISTED} more arms have such a verdict; see the table."


def _collapsed(arms: pd.DataFrame, collapsed: Mapping[str, Sequence[int]]) -> str:
    """Arms of a verdict with a seed far from their others: their noise is hardly symmetric."""
    tested = arms[arms["p"].notna()]
    sides = {*tested["arm"], *tested["against"]}
    listed = [
        f"{arm} (seed {', '.join(map(str, seeds))})"
        for arm, seeds in collapsed.items()
        if arm in sides
    ]
    if not listed:
        return ""
    return (
        f"Single seeds are far worse than the other seeds of their arm: {names(listed)}. "
        "Intervals and "
        "verdicts assume symmetric noise. With such seeds they are about the usual seed, not "
        "about the "
        "mean, and a few seeds cannot show how often a collapse happens."
    )


def _within_image_error(arms: pd.DataFrame) -> Iterable[str]:
    """Verdicts over differences that another choice of test images could undo."""
    if "test images" not in arms:
        return
    told = arms[arms["verdict"].isin((analysis.BETTER, analysis.WORSE))]
    small = told[told["difference"].abs() <= told["test images"]]
    if len(small):
        bound = "" if small["test images exact"].all() else ", by an upper bound"
        yield (
            f"Other test images may tell otherwise for {names(list(small['arm']))}: their choice "
            "alone "
            f"could move the difference by as much as it is{bound}."
        )


def _rounds(arms: pd.DataFrame, rules: Rules, ended: int) -> str:
    """What a sweep whose looks were declared beforehand has saved."""
    if not rules.looks.planned or "decided at" not in arms:
        return ""
    decided = arms[arms["decided at"].notna()]
    at_most = len(arms) * len(rules.looks.planned[-1])
    at: dict[int, list[str]] = {}
    for row in decided.sort_values("decided at", kind="stable").to_dict("records"):
        at.setdefault(int(row["decided at"]), []).append(str(row["arm"]))
    parts = [f"{names(group)} at {seeds} seeds" for seeds, group in at.items()]
    open_arms = [str(arm) for arm in arms["arm"] if arm in analysis.undecided(arms)]
    parts += [f"not decided: {names(open_arms)}"] if open_arms else []
    told = (
        f" Decided: {'; '.join(parts)}." if len(decided) else f" {'; '.join(parts).capitalize()}."
    )
    return (
        f"Seeds in rounds: {ended} of at most {at_most} trials have ended.{told if parts else ''}"
    )


# ---- who leads -----------------------------------------------------------------------------------


def leading_arm(arms: pd.DataFrame, metric: str) -> str:
    """The arm with the best mean, of those that lost no seed that their rival finished; "" =
    none.
    """
    if metric not in arms:
        return ""
    whole = arms[arms[metric].notna() & (arms["lost"] == 0)]
    return str(whole.iloc[0]["arm"]) if len(whole) else ""


def _leader(arms: pd.DataFrame, rules: Rules) -> Iterable[str]:
    name = rules.objective.name
    if name not in arms or not arms[name].notna().any():
        yield "Nothing can be concluded yet: no trial has finished."
        return
    leader = leading_arm(arms, name)
    kind = "Highest" if rules.objective.goal == "maximize" else "Lowest"
    if not leader:
        yield "No arm leads: each lost seeds that another arm finished."
        return
    rows = arms.to_dict("records")
    first = next(row for row in rows if row["arm"] == leader)
    yield from _set_aside(rows, first, rules)
    value = with_interval(name, first[name], first[f"{name} low"], first[f"{name} high"])
    value += " %" if scale(name) > 1 else ""
    no_evidence = " A better mean alone is no evidence of a difference." if len(arms) > 1 else ""
    yield (
        f"{kind} mean {label(name).lower()}: {leader}, {value} over "
        f"{some(first['seeds'], 'seed')}.{no_evidence}"
    )


def _set_aside(rows: Sequence[Row], leader: Row, rules: Rules) -> Iterable[str]:
    """Arms that would lead if the seeds they lost were forgotten."""
    name = rules.objective.name
    ahead = [
        row
        for row in rows
        if row["lost"] and row["verdict"] != analysis.NOT_CONFIRMED
        and rules.objective.better(row[name], leader[name])
    ]  # fmt: skip
    for row in ahead[:_MAX_LISTED]:
        rival = row["against"] or "another arm"
        unit = " %" if scale(name) > 1 else ""
        yield (
            f"{row['arm']} does not lead, though its mean is {figure(name, row[name])}{unit}: it "
            "lost "
            f"{some(int(row['lost']), 'seed')} that {rival} finished."
        )
