"""A search's trials against each of its parameters: one panel for each, all of the same height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from suite.report.dot_plots import logarithmic
from suite.report.figures import LIGHT, canvas, printable, saved, style

_CELL, _SLANTED = 2.0, 0.55  # inches: the height of a panel, and of slanted names below it
_LETTERS = 12  # of a title, in an inch


@dataclass(frozen=True)
class Point:
    """One trial.

    Attributes:
        place: the parameter's value, or the number of its level.
        ended: False where it was stopped early.
        best: whether no other is better.
    """

    place: float
    value: float
    ended: bool
    best: bool


@dataclass(frozen=True)
class Slice:
    """One parameter.

    Attributes:
        levels: its values by number; empty for a range.
        log: whether the range is logarithmic.
    """

    parameter: str
    points: tuple[Point, ...]
    levels: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class Slices:
    """Panels in rows of three, on a phone below each other."""

    slices: tuple[Slice, ...]
    title: str

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """See ``elements.Plot``."""
        columns = min(1 if narrow else 3, len(self.slices))
        rows = math.ceil(len(self.slices) / columns)
        width = 3.9 if narrow else 3.2 * columns
        cell = _CELL + (_SLANTED if any(map(_long, self.slices)) else 0)
        height = rows * cell + 0.3
        with canvas((width, height)) as picture:
            picture.text(
                0.12 / width,
                1 - 0.17 / height,
                printable(self.title, 60),
                color=LIGHT.ink,
                fontsize=9,
                va="center",
                parse_math=False,
            )
            drawn = []
            for number, panel in enumerate(self.slices):
                row, column = divmod(number, columns)
                left, bottom = (
                    column * width / columns + 0.45,
                    (rows - 1 - row) * cell + 0.35 + cell - _CELL,
                )
                size = width / columns - 0.6, _CELL - 0.35 - 0.4
                axes = picture.add_axes(
                    (left / width, bottom / height, size[0] / width, size[1] / height)
                )
                _draw(axes, panel, int(size[0] * _LETTERS))
                drawn.append(axes)
            lows, highs = zip(*(axes.get_ylim() for axes in drawn), strict=True)
            for axes in drawn:
                axes.set_ylim(min(lows), max(highs))
            return saved(picture, kinds)


def _draw(axes: Any, panel: Slice, letters: int) -> None:
    style(axes, LIGHT, printable(panel.parameter, letters), "", whole=False)
    axes.title.set_fontsize(9)
    axes.tick_params(labelsize=8)
    if panel.log:
        logarithmic(axes, [point.place for point in panel.points])
    for point in sorted(panel.points, key=lambda point: point.best):
        colour = LIGHT.arms[1 if point.best else 0]
        axes.plot(
            (point.place,),
            (point.value,),
            marker="o",
            ms=7 if point.best else 4.5,
            markeredgecolor=colour,
            color=colour if point.ended else LIGHT.paper,
            linestyle="none",
        )
    if panel.levels:
        names = [printable(level, 16) for level in panel.levels]
        axes.set_xticks(range(len(names)), names, parse_math=False)
        if _long(panel):
            axes.tick_params(axis="x", labelsize=7.5, labelrotation=25)
            for name in axes.get_xticklabels():
                name.set(ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(panel.levels) - 0.5)
    axes.margins(y=0.08)


def _long(panel: Slice) -> bool:
    """Whether the names of its levels do not fit below the panel side by side."""
    return max(map(len, panel.levels), default=0) * len(panel.levels) > _LETTERS * 2.4


def levels(values: Sequence[str]) -> tuple[str, ...]:
    """A choice's values in order: numbers by size, then words as they come."""
    distinct = dict.fromkeys(values)
    return tuple(sorted(distinct, key=_rank))


def _rank(value: str) -> tuple[bool, float]:
    try:
        return False, float(value)
    except ValueError:
        return True, 0.0
