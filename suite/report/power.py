"""The smallest differences that a sweep, or one with other numbers of seeds, would have seen."""

from __future__ import annotations

import pandas as pd

from suite import analysis
from suite.report.formatting import figure, some, with_unit
from suite.report.runs import Rules


def visible(arms: pd.DataFrame, rules: Rules, spread: float | None) -> str:
    """The smallest differences at this sweep's seeds and at usual numbers of them; "" if unknown.

    Args:
        spread: standard deviation over seeds of a paired difference.
    """
    tested = arms[arms["p"].notna()]
    count = len(tested) or int((arms["against"] != "").sum())
    if not count or not arms["seeds"].max():
        return ""
    least = analysis.MIN_SEEDS
    few = f"With fewer than {least} seeds no difference, however large, can be told from chance."
    if spread is None:
        return "" if len(tested) else few
    start = "" if len(tested) else f"{few} "
    return (
        f"{start}Smallest difference to the baseline that is seen with {100 * analysis.POWER:.0f} "
        "% "
        f"power, at the measured spread over seeds ({with_unit(rules.tested, spread)}): "
        f"{_own(tested, rules, spread)}{_of_new_sweeps(rules, spread, count)}."
    )


def _own(tested: pd.DataFrame, rules: Rules, spread: float) -> str:
    """This sweep's part of the sentence, at the level of its present look; "" if nothing was
    tested.
    """
    if not len(tested):
        return ""
    seeds = int(tested["pairs"].median())
    size = _size(seeds, len(tested), rules.level(len(tested)))
    known = with_unit(rules.tested, size * spread) if size < float("inf") else "none"
    return f"{known} with this sweep's {some(seeds, 'seed')}; "


def _size(seeds: int, arms: int, level: float) -> float:
    """In standard deviations of a difference; at a first look that of a new sweep, so that both
    print alike.
    """
    tabulated = analysis.seed_power(arms)
    if level == analysis.FIRST_LOOK and seeds in tabulated:
        return tabulated[seeds]
    return analysis.detectable(seeds, arms, level=level)


def _of_new_sweeps(rules: Rules, spread: float, arms: int) -> str:
    """``in a new sweep 1.29 points with 6 seeds, 0.91 with 8, ...``."""
    sizes = [(seeds, size * spread) for seeds, size in analysis.seed_power(arms).items()]
    first, size = sizes[0]
    rest = [f"{figure(rules.tested, size)} with {seeds}" for seeds, size in sizes[1:]]
    return ", ".join(
        [f"in a new sweep {with_unit(rules.tested, size)} with {some(first, 'seed')}", *rest]
    )
