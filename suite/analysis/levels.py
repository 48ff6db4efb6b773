"""The level at which one look at a sweep is judged, so that all looks together err at most 5 %.

Two kinds of sweeps, with the theory of group-sequential tests:

- Looks declared before the first trial: one constant level for all of them (Pocock 1977).
- A list of seeds is open: seeds may be added at any time, and nobody knows how often. The error is
  spent look by look (Lan and DeMets 1983): 1/32 at the first look, the smallest level at which six
  seeds can decide, and of the rest 1/2, 1/6, 1/12, ... 1/(n(n+1)) at the n-th further one.

The intervals of a look are those of its level (repeated confidence intervals, Jennison and
Turnbull 1989).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from suite.analysis.signs import ALPHA, LEAST_SEEDS, Array
from suite.records import Looks

FIRST_LOOK = 2 / 2**LEAST_SEEDS
# Several looks are given less than ALPHA to spend: the levels are those of normal sums, and sign
# flips of few seeds err a little more often (6.0 % of 1,000 simulated sweeps at a level for 5 %).
SEVERAL_LOOKS = 0.044
_PATHS = 40_000  # simulated sweeps: a level is right to about 0.1 points
_MAX_ARMS = 20  # more are taken for this many: they add little

Seeds = tuple[int, ...]


def look_level(looks: Looks, arms: int) -> float:
    """The level of the present look; that of the first look if none has been made.

    Args:
        arms: how many are compared with a baseline.
    """
    return look_levels(looks, arms)[max(0, _counted(looks) - 1)]


def look_levels(looks: Looks, arms: int) -> tuple[float, ...]:
    """The level of each look: of the planned ones, or of those made so far, one at least.

    Looks that cannot give a verdict (fewer than ``LEAST_SEEDS`` seeds) do not count.
    """
    planned, made = _deciding(looks.planned), _deciding(looks.made)
    if planned and set(made) <= set(planned):
        return _constant(planned, min(arms, _MAX_ARMS))
    # A plan that was changed afterwards is as good as none.
    sequence = made + tuple(seeds for seeds in planned if seeds not in made)
    return _spent(sequence, min(arms, _MAX_ARMS)) if len(sequence) > 1 else (FIRST_LOOK,)


def _counted(looks: Looks) -> int:
    return len(_deciding(looks.made))


def _deciding(looks: tuple[Seeds, ...]) -> tuple[Seeds, ...]:
    return tuple(seeds for seeds in looks if len(seeds) >= LEAST_SEEDS)


@lru_cache(maxsize=64)
def _constant(looks: tuple[Seeds, ...], arms: int) -> tuple[float, ...]:
    if len(looks) == 1:
        return (ALPHA,)
    level = float(np.quantile(_tails(looks, arms).min(axis=1), SEVERAL_LOOKS))
    return (level,) * len(looks)


@lru_cache(maxsize=64)
def _spent(looks: tuple[Seeds, ...], arms: int) -> tuple[float, ...]:
    tails = _tails(looks, arms)
    undecided = np.ones(len(tails), dtype=bool)
    levels: list[float] = []
    for look in range(len(looks)):
        budget = (SEVERAL_LOOKS - FIRST_LOOK) / (look * (look + 1)) if look else FIRST_LOOK
        ordered = np.sort(tails[undecided, look])
        # A level spends at most itself, so it may be at least what there is to spend.
        level = max(budget, float(ordered[int(budget * len(tails))]))
        levels.append(level if look else FIRST_LOOK)
        undecided &= tails[:, look] > levels[-1]
    return tuple(levels)


def _tails(looks: tuple[Seeds, ...], arms: int) -> Array:
    """p of the largest |z| of all arms at each look of sweeps without differences, (paths, looks).

    Arms share their baseline, so their differences are correlated at one half.
    """
    seeds = sorted({seed for look in looks for seed in look})
    members = np.array([[seed in look for seed in seeds] for look in looks], dtype=float)
    weights = members / np.sqrt(2 * members.sum(axis=1, keepdims=True))  # (looks, seeds)
    baseline = weights @ _noise(0, len(seeds))
    largest = np.zeros((len(looks), _PATHS))
    for arm in range(1, max(1, arms) + 1):
        np.maximum(largest, np.abs(weights @ _noise(arm, len(seeds)) - baseline), out=largest)
    ranks = np.argsort(np.argsort(largest, axis=1), axis=1)
    return np.asarray(1 - ranks.T / _PATHS)


def _noise(arm: int, seeds: int) -> Array:
    """(seeds, paths). The noise of a seed does not depend on how many come after it."""
    return np.random.default_rng([2026, arm]).normal(size=(seeds, _PATHS))
