"""Figures and names as a reader wants them: accuracies in percent, their differences in points."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_SPLITS = {"train": "Training", "val": "Validation", "test": "Test"}
_FIGURES = {"acc": "accuracy", "balanced_acc": "balanced accuracy", "loss": "loss"}
_NAMED = 8  # names in a sentence; more are counted


def label(metric: str) -> str:
    """``val/acc`` -> ``Validation accuracy``; names without a plain word stay."""
    split, _, name = metric.partition("/")
    return f"{_SPLITS[split]} {_FIGURES[name]}" if split in _SPLITS and name in _FIGURES else metric


def heading(metric: str) -> str:
    """The same with its unit: ``Validation accuracy, %``."""
    return label(metric) + (", %" if scale(metric) > 1 else "")


def scale(metric: str) -> float:
    """What a figure is multiplied by to be shown."""
    return 100.0 if metric.endswith("acc") else 1.0


def figure(metric: str, value: float) -> str:
    """One figure: percent with two decimals, else four."""
    return f"{value * scale(metric):.{_decimals(metric)}f}"


def half_width(metric: str, low: float | None, high: float | None) -> str:
    """`` ± 1.23``, or nothing where there is no interval."""
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return ""
    return f" ± {(high - low) / 2 * scale(metric):.{_decimals(metric)}f}"


def points(metric: str, value: float) -> str:
    """A difference with its sign, in percentage points for accuracies; a true minus sign."""
    text = f"{value * scale(metric):+.{_decimals(metric)}f}"
    return text.replace("-", "−")


def _decimals(metric: str) -> int:
    return 2 if metric.endswith("acc") else 4


def some(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def names(items: Sequence[str]) -> str:
    """A list in a sentence; a long one is cut and counted."""
    listed = ", ".join(items[:_NAMED])
    return listed if len(items) <= _NAMED else f"{listed} and {len(items) - _NAMED} more (see the table)"


def seconds(value: float) -> str:
    """A duration as people say it."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(value: object) -> str:
    """How many weights, short: ``11.17 M``."""
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    number = int(value)  # type: ignore[call-overload]
    if number >= 1_000_000:
        return f"{number / 1e6:.2f} M"
    return f"{number / 1e3:.1f} k" if number >= 10_000 else str(number)
