"""The report as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from suite.core.cells import escape_formula
from suite.report.content import Content
from suite.report.elements import Section, Table


def csv(frame: pd.DataFrame) -> str:
    """CSV that runs nothing in a spreadsheet: an apostrophe precedes text that is a formula."""
    safe = frame.map(escape_formula).rename(columns=escape_formula)
    return str(safe.to_csv(index=False, lineterminator="\n"))


def markdown(content: Content) -> str:
    """The report for GitHub and notebooks."""
    parts = [f"# {plain(content.title or content.sweep)}", plain(content.question)]
    parts += [_bullets(content.conclusions)]
    if content.notices:
        parts += ["## Please note", _bullets(content.notices)]
    for section in content.sections:
        parts += _section(section)
    if errors := content.errors:
        about = (
            errors.winner
            if errors.baseline == errors.winner
            else f"{errors.winner} against {errors.baseline}"
        )
        parts += [f"## Errors of {plain(about)}", _bullets((*errors.sentences, *errors.notes))]
        for drawing in errors.drawings:
            parts += [
                f"![{plain(drawing.alt)}](figures/{drawing.name}.png)",
                plain(drawing.caption),
            ]
    for section in content.pictured:
        parts += _section(section)
    if content.failures:
        parts += [
            "## Failed trials",
            _bullets(f"{failure.name}: {failure.reason}" for failure in content.failures),
        ]
    if content.more_failures:
        parts += [f"and {content.more_failures} more, see results.csv."]
    parts += ["## How to read it", _bullets(content.method)] if content.method else []
    parts += (
        ["## Where it comes from", _table(("What", "Value"), content.facts)]
        if content.facts
        else []
    )
    parts += [
        f"Made by {code(f'python -m suite.report {content.arguments}')}; all figures: "
        "results.csv, arms.csv; LaTeX: "
        "table.tex."
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {plain(section.title)}", *map(plain, section.sentences)]
    for table in section.tables:
        parts += [_table(table.headings, table.rows), plain(table.caption)]
    for picture in section.pictures:
        parts += [f"![{plain(picture.alt)}](figures/{picture.name}.png)", plain(picture.caption)]
    for strip in section.strips:
        parts += [f"### {plain(strip.heading)}" if strip.heading else ""]
        shown = [f"![{plain(photo.alt)}](figures/{photo.name}.png)" for photo in strip.photos]
        if len(shown) == 1:
            parts += [shown[0], plain(strip.photos[0].caption)]
        else:
            parts += [_marked([plain(photo.caption) for photo in strip.photos], [shown])]
    return parts


def latex(table: Table, title: str) -> str:
    """A table for a paper; needs the package booktabs."""
    lines = [
        "% needs \\usepackage{booktabs}; wide: \\resizebox{\\linewidth}{!}{...}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(title)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.headings) - 2)}l}}",
        "\\toprule",
        _tex_row(table.headings),
        "\\midrule",
        *map(_tex_row, table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(tex, cells))} \\\\"


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "–": "--",
    "’": "'",
    "[": "{[}",
    "]": "{]}",
}


def tex(text: str) -> str:
    """``text`` escaped for LaTeX, on one line; letters that fonts may lack stay."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return "".join(_TEX.get(letter, letter) for letter in line)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _marked(
        [plain(heading) for heading in headings], [[plain(cell) for cell in row] for row in rows]
    )


def _marked(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)
    )


def code(text: str) -> str:
    """``text`` as Markdown code, on one line, within more backticks than it has."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it is: one line, no markup, no HTML.

    At the start of a line more is markup than within it: headings, lists, rules; and at the end of
    a heading ``#``.
    """
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)
    line = re.sub(r"^(#|=|[-+](?=[-+ ]|$))|#$", r"\\\g<0>", line)
    return re.sub(r"^(\d{1,9})([.)])(?= |$)", r"\1\\\2", line)
