"""The report as CSV and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from suite.report.content import Content

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(frame: pd.DataFrame) -> str:
    """A table that a spreadsheet opens without running anything: text that would be a formula gets an apostrophe."""
    safe = frame.map(inert).rename(columns=inert)
    return str(safe.to_csv(index=False, lineterminator="\n"))


def inert(value: object) -> object:
    """``value``, with an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def markdown(content: Content) -> str:
    """The report for GitHub and notebooks."""
    parts = [f"# {plain(content.sweep)}", plain(content.question)]
    parts += [_bullets(content.conclusions)]
    if content.notices:
        parts += ["## Please note", _bullets(content.notices)]
    if content.rows:
        parts += ["## Arms", _table(content.headings, content.rows)]
    if content.curves:
        parts += ["![Curves of each arm, mean over seeds](figures/curves.png)"]
    if content.failures:
        parts += ["## Failed trials", _bullets(f"{failure.name}: {failure.reason}" for failure in content.failures)]
    if content.more_failures:
        parts += [f"and {content.more_failures} more, see results.csv."]
    parts += ["## How to read it", _bullets(content.method)]
    parts += ["## Where it comes from", _table(("What", "Value"), content.facts)]
    parts += [f"Made by `python -m suite.report {content.sweep}`; all figures: results.csv, arms.csv."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*lines, *([plain(cell) for cell in row] for row in rows)))


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it is: one line, no markup, no HTML."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)
