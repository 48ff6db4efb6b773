"""Dunnett's comparison with a baseline in randomised blocks: under normality, from three seeds.

Assumes that a figure is a part of the arm, plus a part of the seed, plus normal noise of equal
spread in all arms. Source: Dunnett 1955, JASA 50(272); blocks: Hsu 1996, Multiple Comparisons,
section 7.1. The sign-flip intervals (``significance``) assume neither normality nor equal spreads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from suite.analysis.significance import Array

MIN_BLOCKS = 3
_NODES, _QUANTILES = 64, 256  # of the numerical integrals over baseline and spread


def half_width(values: Array, level: float, one_baseline: bool = True) -> float:
    """Half the width of the simultaneous intervals of all differences to the baselines.

    Args:
        values: (blocks, arms), baselines among them, no NaN; a block is a seed.
        level: the probability of any error.
        one_baseline: whether all arms share it; their differences are then correlated at one half.
    """
    blocks, arms = values.shape
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (blocks - 1) * (arms - 1)
    variance = float(np.sum(residuals**2)) / freedom
    critical = critical_value(arms - 1, freedom, level, 0.5 if one_baseline else 0.0)
    return float(critical * np.sqrt(2 * variance / blocks))


@lru_cache(maxsize=256)
def critical_value(arms: int, freedom: int, level: float, correlation: float = 0.5) -> float:
    """What the largest of ``arms`` equally correlated |t| exceeds with probability ``level``."""
    from scipy import optimize, stats

    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    spreads = np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)[:, None]
    shared, own = np.sqrt(correlation) * nodes, np.sqrt(1 - correlation)

    def excess(critical: float) -> float:
        inside = stats.norm.cdf((critical * spreads - shared) / own)
        inside -= stats.norm.cdf((-critical * spreads - shared) / own)
        return float(np.mean(inside**arms @ weights)) - (1 - level)

    return float(optimize.brentq(excess, 0.1, 1000.0))


def wins(differences: Sequence[float], rising: bool = True) -> tuple[float, float, float]:
    """P(an arm beats its baseline on one seed), with a 95 % Wilson interval; ties count half.

    Bouthillier et al. 2021 (arXiv 2103.03098) call it P(A > B) and give it a percentile bootstrap,
    which is empty when all seeds agree; Wilson's interval is not.
    """
    from scipy import stats

    values = np.asarray(differences) if rising else -np.asarray(differences)
    count = len(values)
    share = float(np.mean(np.where(values > 0, 1.0, np.where(values == 0, 0.5, 0.0))))
    z = float(stats.norm.ppf(0.975))
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return share, max(0.0, float(centre - half)), min(1.0, float(centre + half))
