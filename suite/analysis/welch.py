"""The difference of two means whose seeds make no pairs: ours and published ones."""

from __future__ import annotations

from collections.abc import Sequence

from suite.analysis.significance import CONFIDENCE


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """95 % interval of the difference (ours less theirs), and Welch's two-sided p (1947).

    Spreads may differ. Two constant sides have an interval without width, and p is 1 or 0.

    Args:
        ours, theirs: two values or more each.
    """
    from scipy import stats

    difference = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    if len({*ours}) == len({*theirs}) == 1:
        return difference, difference, float(difference == 0)
    result = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = result.confidence_interval(CONFIDENCE)
    return float(low), float(high), float(result.pvalue)
