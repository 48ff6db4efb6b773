"""Points with intervals, and points on two axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suite.report.figures import LIGHT, Style, canvas, printable, saved, style

_ROW = 0.23  # inches


@dataclass(frozen=True)
class Dot:
    """A figure, with its interval if it has one; ``group`` is the heading of adjacent dots."""

    group: str
    text: str
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Dots:
    """One row for each dot."""

    dots: tuple[Dot, ...]
    below: str

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """See ``elements.Plot``."""
        rows = _rows(self.dots)
        width, left = (3.9, 1.5) if narrow else (8.0, 2.9)
        height = len(rows) * _ROW + 0.65
        with canvas((width, height)) as picture:
            axes = picture.add_axes(
                (left / width, 0.5 / height, 1 - (left + 0.15) / width, 1 - 0.65 / height)
            )
            style(axes, LIGHT, "", self.below, whole=False)
            axes.grid(axis="y", visible=False)
            axes.grid(axis="x", color=LIGHT.faint, linewidth=0.7)
            axes.axvline(0, color=LIGHT.grey, linewidth=1)
            for place, row in enumerate(rows):
                _draw_row(axes, -place, row, 20 if narrow else 42)
            axes.set_ylim(-len(rows) + 0.4, 0.6)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            return saved(picture, kinds)


def _rows(dots: Sequence[Dot]) -> list[Dot | str]:
    """The dots, with each group's name before its first one."""
    rows: list[Dot | str] = []
    group = ""
    for dot in dots:
        if dot.group and dot.group != group:
            rows.append(dot.group)
        group = dot.group
        rows.append(dot)
    return rows


def _draw_row(axes: Any, y: float, row: Dot | str, length: int) -> None:
    from matplotlib.transforms import blended_transform_factory

    beside = blended_transform_factory(axes.transAxes, axes.transData)
    text = row if isinstance(row, str) else row.text
    axes.text(
        -0.02,
        y,
        printable(text, length),
        transform=beside,
        ha="right",
        va="center",
        color=LIGHT.ink,
        fontsize=8.5,
        fontweight="bold" if isinstance(row, str) else "normal",
        parse_math=False,
    )
    if isinstance(row, str):
        return
    if row.low is not None and row.high is not None:
        axes.plot(
            (row.low, row.high), (y, y), color=LIGHT.arms[0], linewidth=1.6, solid_capstyle="butt"
        )
    axes.plot((row.mean,), (y,), marker="o", ms=5, color=LIGHT.arms[0])


@dataclass(frozen=True)
class Mark:
    """An arm on two axes; those with a number are named below, the line joins the best."""

    text: str
    x: float
    y: float
    look: Style
    number: int = 0
    best: bool = False


@dataclass(frozen=True)
class Scatter:
    """Arms by what they cost and what they reach; a line joins those that nothing beats."""

    marks: tuple[Mark, ...]
    below: str
    title: str

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """See ``elements.Plot``."""
        best = sorted((mark for mark in self.marks if mark.best), key=lambda mark: mark.x)
        numbered = sorted(
            (mark for mark in self.marks if mark.number), key=lambda mark: mark.number
        )
        width, tall = (3.9, 2.9) if narrow else (8.0, 3.9)
        height = tall + 0.21 * len(numbered) + 0.75
        with canvas((width, height)) as picture:
            bottom = 0.21 * len(numbered) + 0.6
            axes = picture.add_axes((0.55 / width, bottom / height, 1 - 0.7 / width, tall / height))
            style(axes, LIGHT, self.title, self.below, whole=False)
            xs = [mark.x for mark in self.marks]
            if min(xs) > 0 and max(xs) > 8 * min(xs):
                logarithmic(axes, xs)
            for mark in self.marks:
                axes.plot(
                    (mark.x,), (mark.y,), marker="o", ms=6, color=mark.look.colour, linestyle="none"
                )
            axes.plot(
                [mark.x for mark in best],
                [mark.y for mark in best],
                color=LIGHT.grey,
                drawstyle="steps-post",
                linewidth=1,
                zorder=0,
            )
            for row, mark in enumerate(numbered):
                axes.annotate(
                    str(mark.number),
                    (mark.x, mark.y),
                    xytext=(5, 5),
                    textcoords="offset points",
                    color=LIGHT.ink,
                    fontsize=9,
                )
                picture.text(
                    0.55 / width,
                    (len(numbered) - row - 0.5) * 0.21 / height,
                    printable(f"{mark.number}  {mark.text}", 46 if narrow else 110),
                    va="center",
                    color=LIGHT.ink,
                    fontsize=8.5,
                    parse_math=False,
                )
            axes.margins(0.08)
            return saved(picture, kinds)


def logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic bottom axis for ``values``, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(
        LogLocator(subs=(1, 2, 5) if max(values) < 30 * min(values) else (1,))
    )
    axes.tick_params(which="minor", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
