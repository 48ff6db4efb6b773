"""Intervals over seeds: Student's of one mean, and simultaneous ones by flipping signs.

The method, its sources and its limits are in ``docs/explanation/statistics.md``.

Legend: N seeds, K arms, S sign vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
ALPHA = 0.05  # family-wise: of all verdicts of a sweep together, over all looks at it
MIN_SEEDS = 6  # with five, no two-sided sign-flip test reaches p < 0.05: the smallest p is 2 / 2^5
EXACT_SEEDS = 12  # up to here all sign vectors are tried
RANDOM_FLIPS = 8192  # beyond, this many of them
# Residuals about an estimated mean are too small. This divisor makes their standard deviation
# unbiased under normality (Brugger 1969, American Statistician 23(4)).
UNBIASED = 1.5
_RATIO, _STEPS = 1.5, 24  # of the search for the ends of an interval: widths that are tried,
_ROUNDS, _PIECES = 6, 9  # and how often the last step is cut into how many pieces
_TOLERANCE = 1e-9

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


@dataclass(frozen=True, eq=False)
class Simultaneous:
    """Differences of several arms to their baselines, with intervals that hold all at once.

    Attributes:
        mean, low, high: (K,), in the unit of the differences. The bounds are NaN if the seeds are
            too few for the level.
        p: (K,), two-sided, adjusted for the number of arms.
    """

    mean: Array
    low: Array
    high: Array
    p: Array


def simultaneous(differences: Array, margin: float = 0.0, level: float = ALPHA) -> Simultaneous:
    """Intervals that contain all true differences at once with probability ``1 - level``.

    They invert a single-step max-T test over sign flips (Westfall and Young 1993). A value m is
    in an arm's interval unless the arm's statistic about m exceeds what flipping the signs of whole
    seeds gives: the arm's own differences less m, and the other arms' differences less their means.
    The statistic is |mean| / (s.e. + s0) with s0 = margin / 2 at six seeds, less with more seeds as
    1 / sqrt(N). Without s0 an arm whose few differences happen to be equal in size decides the
    maximum (Tusher, Tibshirani and Chu 2001 use the same remedy). s0 must not come from the other
    arms: their noise would hide an arm that is more precise.

    Assumes that each seed's differences, less the true ones, are as likely to have either sign.

    Args:
        differences: (N, K); NaN if an arm lacks a seed. Each arm needs two seeds or more.
        margin: a difference that does not matter, in the unit of the differences.
        level: the probability of any error.
    """
    return _Family(differences, margin).intervals(level)


def adjusted_p(differences: Array, margin: float = 0.0) -> Array:
    """Two-sided p of each arm, (K,), adjusted for their number; see ``simultaneous``."""
    family = _Family(differences, margin)
    return np.array([family.p(arm, np.zeros(1))[0] for arm in range(differences.shape[1])])


class _Family:
    """The arms whose intervals hold at once, and what flipping signs makes of them.

    The other arms' part of the maximum does not depend on the value that is tested, so it is
    computed once.
    """

    def __init__(self, differences: Array, margin: float) -> None:
        present = ~np.isnan(differences)
        self.count = present.sum(axis=0)
        self.mean = np.where(present, differences, 0.0).sum(axis=0) / self.count
        residuals = np.where(present, differences - self.mean, 0.0)
        self.squares = np.sum(residuals**2, axis=0)
        self.error = np.sqrt(self.squares / self.count / (self.count - 1))
        self.offset = margin / 2 * float(np.sqrt(MIN_SEEDS / len(differences)))
        flips = sign_flips(len(differences))
        self.flipped_mean = flips @ residuals / self.count  # of the residuals, (S, K)
        self.flipped_one = flips @ present / self.count  # of ones: what a shift is multiplied by
        self._rest_of_maximum()

    def _rest_of_maximum(self) -> None:
        inflation = np.sqrt(self.count / (self.count - UNBIASED))
        statistics = self._statistic(
            self.flipped_mean * inflation, self.squares * inflation**2, self.count
        )
        self.leader = np.argmax(statistics, axis=1)
        self.largest = np.max(statistics, axis=1)
        np.put_along_axis(statistics, self.leader[:, None], 0.0, axis=1)
        self.second = np.max(statistics, axis=1)

    def _statistic(self, mean: Array, squares: Array, count: Array) -> Array:
        """|mean| / (s.e. + offset) of ``count`` values with these sums of squares."""
        error = np.sqrt(np.maximum(squares / count - mean**2, 0.0) / (count - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(mean) / (error + self.offset)
        # What is equal but for rounding has to count as equal. 0 / 0: equal values, no difference.
        return np.asarray(np.round(np.nan_to_num(ratio, nan=0.0, posinf=1e12), 9))

    def p(self, arm: int, values: Array) -> Array:
        """Adjusted p of each hypothesis: the arm's true difference is one of ``values``, (Q,)."""
        count = self.count[arm]
        shift = self.mean[arm] - values  # (Q,)
        squares = self.squares[arm] + count * shift**2
        others = np.where(self.leader == arm, self.second, self.largest)
        own_mean = self.flipped_mean[:, arm, None] + self.flipped_one[:, arm, None] * shift
        own = self._statistic(own_mean, squares, count)  # (S, Q)
        # The first sign vector is the data itself. Computed twice it could differ by rounding.
        return np.asarray(np.mean(np.maximum(own, others[:, None]) >= own[0], axis=0))

    def intervals(self, level: float) -> Simultaneous:
        arms = range(len(self.mean))
        ends = np.array([[self._end(arm, sign, level) for sign in (-1, 1)] for arm in arms])
        p = np.array([self.p(arm, np.zeros(1))[0] for arm in arms])
        low, high = (ends[:, 0], ends[:, 1]) if len(ends) else (np.zeros(0), np.zeros(0))
        return Simultaneous(self.mean, low, high, p)

    def _end(self, arm: int, sign: int, level: float) -> float:
        """The outermost value on one side of the mean that is not rejected; NaN if all are kept."""
        unit = self.error[arm] + self.offset
        if (
            unit == 0
        ):  # equal differences without a margin: every other value has one and the same p
            p = self.p(arm, self.mean[arm] + np.array([float(sign)]))[0]
            return float("nan") if p > level + _TOLERANCE else float(self.mean[arm])
        widths = unit * 0.01 * np.concatenate([[0.0], _RATIO ** np.arange(_STEPS)])
        inside = self.p(arm, self.mean[arm] + sign * widths) > level + _TOLERANCE
        last = int(np.flatnonzero(inside)[-1])  # the mean itself is always inside
        if last == _STEPS:
            return float("nan")
        inner, outer = widths[last], widths[last + 1]
        for _ in range(_ROUNDS):
            inside_widths = np.linspace(inner, outer, _PIECES + 1)[1:-1]
            values = self.mean[arm] + sign * inside_widths
            accepted = np.flatnonzero(self.p(arm, values) > level + _TOLERANCE)
            first_out = int(accepted[-1]) + 1 if len(accepted) else 0
            ends = np.concatenate([[inner], inside_widths, [outer]])
            inner, outer = ends[first_out], ends[first_out + 1]
        return float(self.mean[arm] + sign * outer)


@lru_cache(maxsize=8)
def sign_flips(seeds: int) -> Array:
    """Vectors of signs, (S, N), the first one all +1: all that there are, or many drawn ones.

    Of two vectors with opposite signs one is left out: two-sided statistics do not tell them apart.
    """
    if seeds <= EXACT_SEEDS:
        bits = np.arange(2 ** max(0, seeds - 1))[:, None] >> np.arange(seeds) & 1
        return np.where(bits, -1.0, 1.0)
    drawn = np.random.default_rng(0).integers(0, 2, (RANDOM_FLIPS - 1, seeds))
    return np.vstack([np.ones(seeds), np.where(drawn, -1.0, 1.0)])
