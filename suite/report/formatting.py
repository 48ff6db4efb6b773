"""Figures and names as a reader wants them: accuracies in percent, their differences in points."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

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


def rounded(value: float, decimals: int, sign: bool = False) -> str:
    """A number as text, with a true minus sign; zero has no sign.

    A number that was computed in two ways differs in its last bits. Ten decimals are kept first, so
    that both round alike and a page shows one number.
    """
    exact = Decimal(repr(round(float(value), 10)))
    text = f"{exact:.{decimals}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return (f"{exact:+.{decimals}f}" if sign else text).replace("-", "−")


def figure(metric: str, value: float) -> str:
    """One figure: percent with two decimals, else four."""
    return rounded(value * scale(metric), _decimals(metric))


def with_interval(metric: str, mean: float, low: float | None, high: float | None) -> str:
    """``81.20 ± 0.31``; ``99.80 [99.10, 100.00]`` if 0 or 100 % cuts the interval off."""
    text = figure(metric, mean)
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return text
    if abs((low + high) / 2 - mean) > 1e-9:
        return f"{text} [{figure(metric, low)}, {figure(metric, high)}]"
    return f"{text} ± {figure(metric, (high - low) / 2)}"


def percentage_points(metric: str, value: float) -> str:
    """A difference with its sign, in percentage points for accuracies."""
    return rounded(value * scale(metric), _decimals(metric), sign=True)


def with_unit(metric: str, value: float) -> str:
    """The size of a difference: ``0.50 points``."""
    return f"{figure(metric, value)} {'points' if metric.endswith('acc') else metric}"


def p_value(p: float) -> str:
    """``0.031``, ``< 0.001``."""
    return "< 0.001" if p < 0.001 else rounded(p, 3)


def percent(share: float) -> str:
    """A level, to two significant digits: ``3.1 %``, ``0.63 %``."""
    return f"{float(f'{100 * share:.2g}'):g} %"


def _decimals(metric: str) -> int:
    return 2 if metric.endswith("acc") else 4


def some(count: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def names(items: Sequence[str]) -> str:
    """A list in a sentence; a long one is cut and counted."""
    listed = ", ".join(items[:_NAMED])
    return (
        listed
        if len(items) <= _NAMED
        else f"{listed} and {len(items) - _NAMED} more (see the table)"
    )


def seconds(value: float) -> str:
    """A duration as people say it."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def count(value: object) -> str:
    """How many weights, short: ``11.17 M``."""
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "–"
    number = int(value)  # type: ignore[call-overload]
    if number >= 1_000_000:
        return f"{number / 1e6:.2f} M"
    return f"{number / 1e3:.1f} k" if number >= 10_000 else str(number)
