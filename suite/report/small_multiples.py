"""Small multiples: the same few lines in several panels, with one key below them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from suite.core.records import TEST_LOSS, VAL_LOSS
from suite.report.figures import LIGHT, Line, canvas, draw_line, printable, saved, style
from suite.report.formatting import heading, scale

_WIDTH, _NARROW_WIDTH = 9.6, 3.9  # inches
_LETTERS = 13  # of a title, in an inch
_EXTREME = 6  # times what nine in ten values stay below
_HEIGHT, _LINE, _TOP, _BOTTOM = 2.5, 0.21, 0.32, 0.5


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what it shows; "" = the metric.
        error: whether an accuracy is shown as its error, 100 % less it.
    """

    metric: str
    lines: tuple[Line, ...]
    title: str = ""
    error: bool = False


@dataclass(frozen=True)
class Panels:
    """Several panels in rows.

    Attributes:
        columns: panels in a row, on a wide page.
        shared: whether panels of a metric have the same heights.
    """

    panels: tuple[Panel, ...]
    columns: int
    shared: bool = False

    @property
    def key(self) -> tuple[Line, ...]:
        """One line for each name, in the order of the first panel that has it."""
        entries = {line.text: line for panel in self.panels for line in panel.lines if line.text}
        return tuple(entries.values())

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """See ``parts.Plot``."""
        columns = min(
            self.columns,
            (1 if self.columns < 3 else 2) if narrow else self.columns,
            len(self.panels),
        )
        rows = math.ceil(len(self.panels) / columns)
        per_row = 1 if narrow else 2
        width = _NARROW_WIDTH if narrow else min(_WIDTH, 4.0 * columns)
        grey = any(not line.text for panel in self.panels for line in panel.lines)
        key_height = _LINE * (math.ceil(len(self.key) / per_row) + grey) + 0.1
        height = rows * (_HEIGHT if columns < 4 else 2.3) + key_height
        with canvas((width, height)) as picture:
            cell = width / columns, (height - key_height) / rows
            drawn = []
            for number, panel in enumerate(self.panels):
                row, column = divmod(number, columns)
                left, bottom = column * cell[0] + 0.42, height - (row + 1) * cell[1] + _BOTTOM
                size = cell[0] - 0.52, cell[1] - _BOTTOM - _TOP
                axes = picture.add_axes(
                    (left / width, bottom / height, size[0] / width, size[1] / height)
                )
                last = number + columns >= len(self.panels)
                _draw(
                    axes,
                    panel,
                    "Epoch" if last else "",
                    narrow or columns > 3,
                    int(cell[0] * _LETTERS),
                )
                drawn.append((panel, axes))
            if self.shared:
                _level(drawn)
            _key(picture, self.key, width, height, per_row, grey)
            return saved(picture, kinds)


def _draw(axes: Any, panel: Panel, below: str, small: bool, letters: int) -> None:
    factor = scale(panel.metric)
    for line in reversed(panel.lines):
        draw_line(axes, _inverted(line) if panel.error else line, factor, width=1.6)
    title = panel.title or heading(panel.metric)
    style(axes, LIGHT, printable(title, letters), below)
    axes.title.set_fontsize(8.5 if small else 10)
    axes.tick_params(labelsize=8)
    if panel.metric in (VAL_LOSS, TEST_LOSS) and (top := _cut(panel)):
        axes.set_ylim(-0.04 * top, top)
        axes.text(
            0.99,
            0.97,
            "higher values cut",
            transform=axes.transAxes,
            ha="right",
            va="top",
            color=LIGHT.ink,
            fontsize=7,
        )
    if not panel.lines:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(
            0.5,
            0.5,
            "not measured by epoch",
            transform=axes.transAxes,
            ha="center",
            color=LIGHT.ink,
        )


def _cut(panel: Panel) -> float | None:
    """The upper limit of a loss axis: a few early epochs must not press all lines flat."""
    means = sorted(value for line in panel.lines for value in line.curve.mean)
    highest = max((value for line in panel.lines for value in line.curve.high), default=0.0)
    usual = means[int(0.9 * (len(means) - 1))] if means else 0.0
    return 1.5 * usual if highest > _EXTREME * usual > 0 else None


def _inverted(line: Line) -> Line:
    """The line of the error instead of the accuracy."""
    curve = line.curve
    mean, low, high = (
        tuple(1 - value for value in values) for values in (curve.mean, curve.high, curve.low)
    )
    return replace(line, curve=replace(curve, mean=mean, low=low, high=high))


def _level(drawn: Sequence[tuple[Panel, Any]]) -> None:
    """The same heights for all panels of one metric."""
    for metric in dict.fromkeys(panel.metric for panel, _ in drawn):
        same = [axes for panel, axes in drawn if panel.metric == metric and panel.lines]
        limits = [axes.get_ylim() for axes in same]
        for axes in same:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _key(
    picture: Any, key: Sequence[Line], width: float, height: float, per_row: int, grey: bool
) -> None:
    """Names of the lines, below the panels."""
    from matplotlib.lines import Line2D

    rows = math.ceil(len(key) / per_row)
    for number, line in enumerate(key):
        column, row = divmod(number, rows)
        x, y = (
            (0.42 + column * (width - 0.5) / per_row) / width,
            ((rows - row - 0.5 + grey) * _LINE) / height,
        )
        sample = ((x, x + 0.32 / width), (y, y))
        picture.add_artist(Line2D(*sample, color=line.colour, linestyle=line.dash, linewidth=2))
        picture.text(
            x + 0.4 / width,
            y,
            printable(line.text, 48 if per_row == 1 else 60),
            va="center",
            color=LIGHT.ink,
            fontsize=8.5,
            parse_math=False,
        )
    if grey:
        picture.text(
            0.42 / width,
            0.5 * _LINE / height,
            "in grey: all others",
            va="center",
            color=LIGHT.ink,
            fontsize=8.5,
        )
