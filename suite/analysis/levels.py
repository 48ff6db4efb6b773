"""The level at which one look at a sweep is judged, so that all looks together err at most 5 %.

Two kinds of sweeps, with the theory of group-sequential tests:

- Looks declared before the first of them: one constant level for all (Pocock 1977).
- A list of seeds is open: seeds may be added at any time, and nobody knows how often. The error is
  spent look by look (Lan and DeMets 1983): 1/32 at the first look, the smallest level at which six
  seeds can decide, and of the rest 1/2, 1/6, 1/12, ... 1/(n(n+1)) at the n-th further one.

The intervals of a look are those of its level (repeated confidence intervals, Jennison and
Turnbull 1989).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from suite.analysis.significance import MIN_SEEDS, Array
from suite.core.records import Looks

FIRST_LOOK = 2 / 2**MIN_SEEDS
# Looks are given less than ALPHA to spend: the levels are those of normal sums, and sign
# flips of few seeds err a little more often (6.0 % of 1,000 simulated sweeps at a level for 5 %).
SEVERAL_LOOKS = 0.044
_PATHS = 40_000  # simulated sweeps: a level is right to about 0.1 points
_SEEDS_AT_ONCE = 64
_MAX_ARMS = 20  # more are taken for this many: they add little

Seeds = tuple[int, ...]


def look_level(looks: Looks, arms: int) -> float:
    """The level of the present look, the last one made; that of the first look if none was made.

    Args:
        arms: how many are compared with a baseline.
    """
    made = _deciding(looks.made)
    levels = look_levels(looks, arms)
    return level_at(looks, made[-1], arms) if made else levels[0]


def level_at(looks: Looks, seeds: Seeds, arms: int) -> float:
    """The level of the look at these seeds; looks that come later do not change it."""
    sequence = look_sequence(looks)
    return look_levels(looks, arms)[sequence.index(seeds) if seeds in sequence else 0]


def look_levels(looks: Looks, arms: int) -> tuple[float, ...]:
    """The level of each look of ``look_sequence``; of a first look if there is none."""
    sequence = look_sequence(looks)
    if _is_plan_kept(looks):
        return _constant(sequence, min(arms, _MAX_ARMS))
    return _spent(sequence, min(arms, _MAX_ARMS)) if len(sequence) > 1 else (FIRST_LOOK,)


def look_sequence(looks: Looks) -> tuple[Seeds, ...]:
    """The looks that count, in the order in which they spend the error.

    Looks that cannot give a verdict (fewer than ``MIN_SEEDS`` seeds) do not count.
    """
    planned, made = _deciding(looks.planned), _deciding(looks.made)
    if _is_plan_kept(looks):
        return planned
    return made + tuple(seeds for seeds in planned if seeds not in made)


def with_present(looks: Looks, seeds: Iterable[int]) -> Looks:
    """The looks with one at these seeds, if the last one that is on record was at others.

    A launch may have been ended between its last trial and the record of its look.
    """
    present = tuple(sorted(set(seeds)))
    if not present or looks.made[-1:] == (present,):
        return looks
    return replace(looks, made=(*looks.made, present))


def _is_plan_kept(looks: Looks) -> bool:
    planned, made = _deciding(looks.planned), _deciding(looks.made)
    return bool(planned) and not looks.open and set(made) <= set(planned)


def _deciding(looks: tuple[Seeds, ...]) -> tuple[Seeds, ...]:
    return tuple(seeds for seeds in looks if len(seeds) >= MIN_SEEDS)


@lru_cache(maxsize=64)
def _constant(looks: tuple[Seeds, ...], arms: int) -> tuple[float, ...]:
    if len(looks) == 1:
        return (SEVERAL_LOOKS,)  # not all of ALPHA: the plan may be extended after all
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
    # In the order of appearance: a seed that is added must not move the others.
    seeds = list(dict.fromkeys(seed for look in looks for seed in look))
    members = np.array([[seed in look for seed in seeds] for look in looks], dtype=float)
    weights = members / np.sqrt(2 * members.sum(axis=1, keepdims=True))  # (looks, seeds)
    baseline = _sums(0, weights)
    largest = np.zeros((len(looks), _PATHS))
    for arm in range(1, max(1, arms) + 1):
        np.maximum(largest, np.abs(_sums(arm, weights) - baseline), out=largest)
    ranks = np.argsort(np.argsort(largest, axis=1), axis=1)
    return np.asarray(1 - ranks.T / _PATHS)


def _sums(arm: int, weights: Array) -> Array:
    """Weighted sums of an arm's noise at each look, (looks, paths).

    The noise of a seed does not depend on how many come after it. It is drawn for a few seeds at a
    time, because thousands of them would not fit in memory.
    """
    random = np.random.default_rng([2026, arm])
    sums = np.zeros((len(weights), _PATHS))
    for start in range(0, weights.shape[1], _SEEDS_AT_ONCE):
        part = weights[:, start : start + _SEEDS_AT_ONCE]
        sums += part @ random.normal(size=(part.shape[1], _PATHS))
    return sums
