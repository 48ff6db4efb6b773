"""Published figures beside the measured ones, and the test against published seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite import analysis
from suite.report.elements import Table
from suite.report.formatting import (
    heading,
    p_value,
    percentage_points,
    rounded,
    seconds,
    with_interval,
)
from suite.report.runs import Rules

Row = Mapping[Any, Any]
_SECONDS = "time_s"
_MIN_SEEDS = 2  # on either side, for Welch's test


def reference_table(arms: pd.DataFrame, trials: pd.DataFrame, rules: Rules) -> Table | None:
    """The sweep file's ``reference`` beside the measured figures; None if no arm has any."""
    rows_of = {str(row["arm"]): row for row in arms.to_dict("records")}
    rows = [
        (arm, *cells)
        for arm, published in rules.reference.items()
        if arm in rows_of
        for cells in _rows(published, rows_of[arm], trials)
    ]
    if not rows:
        return None
    headings = ("Arm", "Figure", "Published", "Measured", "Difference", "Welch’s p", "Note")
    used = [place for place in range(len(headings)) if place < 5 or any(row[place] for row in rows)]
    lines = tuple(tuple(row[place] for place in used) for row in rows)
    return Table("published", tuple(headings[place] for place in used), lines, _caption(rows))


def _caption(rows: Sequence[tuple[str, ...]]) -> str:
    tested = any(row[5] not in ("", "–") for row in rows)
    welch = (
        "Where the file gives a list of published seeds, the difference is tested by Welch’s t, "
        "with "
        "its 95 % interval; not adjusted for the number of figures. "
    )
    single = "A single published number comes without seeds, so a difference to it is not tested. "
    return (
        "Published figures are as the sweep file gives them. "
        f"{welch if tested else ''}{single}Data, "
        "budget and machine may differ from those here."
    )


def _rows(
    published: Mapping[str, Any], row: Row, trials: pd.DataFrame
) -> Iterable[tuple[str, str, str, str, str, str]]:
    """Figure, published, measured, difference, p, note of each published figure of an arm."""
    note = str(published.get("note", ""))
    for name, value in published.items():
        values = _numbers(value)
        if name == "note" or not values:
            continue
        if name == _SECONDS:
            cells = _time(values, row)
        else:
            cells = _figure(name, values, _measured(trials, str(row["arm"]), name))
        yield (*cells, note)
        note = ""


def _numbers(value: object) -> list[float]:
    """The seeds of a published figure; one number is a list of one."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [float(number) for number in listed if isinstance(number, (int, float))]


def _measured(trials: pd.DataFrame, arm: str, name: str) -> list[float]:
    """A figure of each finished trial of an arm."""
    if name not in trials:
        return []
    chosen = trials[(trials["arm"] == arm) & (trials["status"] == "finished")]
    return [float(value) for value in chosen[name].dropna()]


def _time(values: Sequence[float], row: Row) -> tuple[str, str, str, str, str]:
    published = sum(values) / len(values)
    if pd.isna(row["seconds"]) or not published:
        return "Time to train", seconds(published), "–", "–", ""
    ratio = f"× {rounded(row['seconds'] / published, 2)}"
    return "Time to train", seconds(published), seconds(row["seconds"]), ratio, ""


def _figure(
    name: str, published: Sequence[float], measured: Sequence[float]
) -> tuple[str, str, str, str, str]:
    theirs, low, high = analysis.figure_interval(name, published)
    assert theirs is not None
    shown = with_interval(name, theirs, low, high)
    shown += f" ({len(published)} seeds)" if len(published) > 1 else ""
    ours, low, high = analysis.figure_interval(name, measured)
    if ours is None:
        return heading(name), shown, "–", "–", ""
    own, difference = with_interval(name, ours, low, high), percentage_points(name, ours - theirs)
    if len(published) < _MIN_SEEDS or len(measured) < _MIN_SEEDS:
        return heading(name), shown, own, difference, ""
    low, high, p = analysis.welch(measured, published)
    span = f" [{percentage_points(name, low)}, {percentage_points(name, high)}]"
    return heading(name), shown, own, difference + span, p_value(p)
