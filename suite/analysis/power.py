"""The smallest difference that a sweep can see."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from suite.analysis.levels import FIRST_LOOK
from suite.analysis.significance import MIN_SEEDS, UNBIASED, Array, sign_flips

POWER = 0.8
MARGIN = 0.5  # standard deviations of a difference: 0.5 points beside a usual spread of 0.7 to 1
_SWEEPS = 1000  # simulated: the power found is right to about 0.013
_FLIPS = 1024  # sign vectors tried in each
_MAX_ARMS = 64  # more are taken for so many: they add little


def detectable(seeds: int, arms: int, power: float = POWER, level: float = FIRST_LOOK) -> float:
    """The smallest true difference to the baseline that is called better or worse with this power.

    Found by simulating sweeps in which one arm differs and the others do not: normal noise, the
    arms' differences correlated at one half (they share the baseline), tested as
    ``signs.simultaneous`` tests them, with a margin of half a standard deviation.

    Returns:
        It, in standard deviations (over seeds) of a paired difference; infinite if the seeds are
        too few for the level.
    """
    if seeds < MIN_SEEDS or level < 1 / len(sign_flips(seeds)):
        return float("inf")
    return _search(seeds, min(arms, _MAX_ARMS), power, level)


@lru_cache(maxsize=256)
def _search(seeds: int, arms: int, power: float, level: float) -> float:
    random = np.random.default_rng([seeds, arms])
    flips = _some(sign_flips(seeds), random)
    shared = random.normal(size=(_SWEEPS, seeds))
    noise = (random.normal(size=(_SWEEPS, seeds)) + shared) / np.sqrt(2)
    rivals = np.zeros((_SWEEPS, len(flips)))
    for _ in range(arms - 1):
        rival = (random.normal(size=(_SWEEPS, seeds)) + shared) / np.sqrt(2)
        rival -= rival.mean(axis=1, keepdims=True)
        rival *= np.sqrt(seeds / (seeds - UNBIASED))
        np.maximum(rivals, _statistics(rival, flips), out=rivals)
    low, high = 0.0, 1.0
    while _power(noise + high, rivals, flips, level) < power and high < 1000:
        low, high = high, high * 2
    for _ in range(12):
        middle = (low + high) / 2
        seen = _power(noise + middle, rivals, flips, level) >= power
        low, high = (low, middle) if seen else (middle, high)
    return high


def _some(flips: Array, random: np.random.Generator) -> Array:
    if len(flips) <= _FLIPS:
        return flips
    rest = random.choice(np.arange(1, len(flips)), _FLIPS - 1, replace=False)
    return np.asarray(flips[np.append(0, rest)])


def _power(differences: Array, rivals: Array, flips: Array, level: float) -> float:
    """The share of sweeps in which the arm's differences, (sweeps, seeds), are significant."""
    own = _statistics(differences, flips)
    p = np.mean(np.maximum(own, rivals) >= own[:, :1], axis=1)
    return float(np.mean(p <= level + 1e-9))


def _statistics(differences: Array, flips: Array) -> Array:
    """|mean| / (s.e. + offset) under each sign vector, (sweeps, vectors)."""
    seeds = differences.shape[1]
    mean = differences @ flips.T / seeds
    squares = np.mean(differences**2, axis=1, keepdims=True)
    error = np.sqrt(np.maximum(squares - mean**2, 0) / (seeds - 1))
    offset = MARGIN / 2 * np.sqrt(MIN_SEEDS / seeds)
    return np.asarray(np.round(np.abs(mean) / (error + offset), 9))
