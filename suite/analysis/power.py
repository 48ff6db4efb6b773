"""The smallest difference that a sweep can see."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from suite.analysis.signs import ALPHA, LEAST_SEEDS, Array, sign_flips

POWER = 0.8
_SWEEPS = 1000  # simulated: the power found is right to about 0.013
_FLIPS = 1024  # sign vectors tried in each
_MOST_ARMS = 64  # more are taken for so many: they add little


def detectable(seeds: int, arms: int, power: float = POWER) -> float:
    """The smallest true difference to the baseline that is called better or worse with the given power.

    Found by simulating sweeps in which one arm differs and the others do not: normal noise, the arms' differences
    correlated at one half (they share the baseline), tested as ``adjusted_p`` tests them.

    Returns:
        It, in standard deviations (over seeds) of a paired difference; infinite below ``LEAST_SEEDS`` seeds.
    """
    return _found(seeds, min(arms, _MOST_ARMS), power) if seeds >= LEAST_SEEDS else float("inf")


@lru_cache(maxsize=256)
def _found(seeds: int, arms: int, power: float) -> float:
    random = np.random.default_rng([seeds, arms])
    flips = sign_flips(seeds)
    if len(flips) > _FLIPS:
        flips = flips[np.append(0, random.choice(np.arange(1, len(flips)), _FLIPS - 1, replace=False))]
    shared = random.normal(size=(_SWEEPS, seeds))
    noise = (random.normal(size=(_SWEEPS, seeds)) + shared) / np.sqrt(2)
    rivals = np.zeros((_SWEEPS, len(flips)))
    for _ in range(arms - 1):
        np.maximum(rivals, _shares((random.normal(size=(_SWEEPS, seeds)) + shared) / np.sqrt(2), flips), out=rivals)
    low, high = 0.0, 1.0
    while _power(noise + high, rivals, flips) < power and high < 1000:
        low, high = high, high * 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(noise + middle, rivals, flips) >= power else (middle, high)
    return high


def _power(differences: Array, rivals: Array, flips: Array) -> float:
    """The share of sweeps in which the arm with these differences, (sweeps, seeds), is told from the baseline."""
    own = _shares(differences, flips)
    p = np.mean(np.maximum(own, rivals) >= own[:, :1], axis=1)
    return float(np.mean(p < ALPHA))


def _shares(differences: Array, flips: Array) -> Array:
    """What rises with |t| under each vector of signs, (sweeps, vectors), in [0, 1]."""
    squares = np.sum(differences**2, axis=1, keepdims=True)
    return np.asarray(np.round((differences @ flips.T) ** 2 / (differences.shape[1] * squares), 12), dtype=np.float64)
