"""Intervals over seeds, and the test of differences by flipping their signs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
ALPHA = 0.05  # family-wise: of all "better" and "worse" of a sweep together
LEAST_SEEDS = 6  # with five, no sign-flip test can reach p < 0.05: the smallest p is 2 / 2^5
EXACT_SEEDS = 12  # up to here all 2^n sign vectors are tried
RANDOM_FLIPS = 10_000  # beyond, so many of them

Array = npt.NDArray[np.float64]


def interval(
    values: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float | None, float | None, float | None]:
    """Mean and Student confidence interval over seeds; the bounds are None below two values."""
    count = len(values)
    if count == 0:
        return None, None, None
    mean = sum(values) / count
    if count == 1:
        return mean, None, None
    from scipy import stats  # a second to import: only where an interval is asked for

    spread = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * spread / count**0.5
    return mean, mean - half, mean + half


def adjusted_p(differences: Array) -> Array:
    """Two-sided p of each arm, adjusted for their number: step-down max-T over sign flips (Westfall and Young, 1993).

    One sign per seed is flipped for all arms at once, so that their common baseline and seeds are accounted for. The
    hypothesis of an arm is that its differences are as likely to have the one sign as the other.

    Args:
        differences: (seeds, arms); NaN where an arm lacks a seed.

    Returns:
        (arms,)
    """
    statistics = _statistics(differences, sign_flips(len(differences)))
    order = np.argsort(-statistics[0], kind="stable")
    p = np.empty(len(order))
    largest = np.zeros(len(statistics))
    for arm in order[::-1]:  # from the least: the largest of those that are left at its step
        largest = np.maximum(largest, statistics[:, arm])
        p[arm] = np.mean(largest >= statistics[0, arm])
    p[order] = np.maximum.accumulate(p[order])
    return p


def sign_flips(seeds: int) -> Array:
    """Vectors of signs, (vectors, seeds), the first one all +1: all that there are, or many drawn ones."""
    if seeds <= EXACT_SEEDS:
        bits = np.arange(2**seeds)[:, None] >> np.arange(seeds) & 1
        return np.where(bits, -1.0, 1.0)
    drawn = np.where(np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS, seeds)), -1.0, 1.0)
    return np.vstack([np.ones(seeds), drawn])


def _statistics(differences: Array, flips: Array) -> Array:
    """|t| of each arm under each vector of signs, (vectors, arms).

    Flips leave the sum of squares as it is, so t follows from the sum alone; rounded, so that what is equal stays so.
    """
    count = np.sum(~np.isnan(differences), axis=0)
    known = np.nan_to_num(differences)
    squares = np.sum(known**2, axis=0)
    share = (flips @ known) ** 2 / np.where(squares > 0, count * squares, 1.0)
    share = np.clip(np.round(share, 12), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.sqrt((count - 1) * share / (1.0 - share)), dtype=np.float64)
