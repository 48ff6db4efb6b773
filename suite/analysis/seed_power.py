"""The smallest difference that sweeps of usual sizes see, without a simulation each time.

``power.detectable`` simulates for seconds. Reports and ``--dry-run`` need four sizes at once, so
results for a first look are tabulated. ``python -m suite.analysis.seed_power`` computes the table.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from suite.analysis.levels import FIRST_LOOK
from suite.analysis.power import detectable

SEEDS = (6, 8, 10, 16)
_ARMS = (1, 2, 4, 8, 16, 32, 64)
_TABLE = {
    6: (1.8, 1.86, 1.98, 2.07, 2.21, 2.33, 2.49),
    8: (1.28, 1.42, 1.54, 1.57, 1.68, 1.79, 1.89),
    10: (1.07, 1.2, 1.26, 1.36, 1.41, 1.51, 1.56),
    16: (0.83, 0.9, 0.94, 1.01, 1.04, 1.11, 1.15),
}


def seed_power(arms: int) -> dict[int, float]:
    """Seeds -> the smallest difference that a new sweep's first look sees with 80 % power.

    Args:
        arms: how many are compared with a baseline; between tabulated numbers the values are
            interpolated, beyond the last one they are those of the last.

    Returns:
        In standard deviations (over seeds) of a paired difference, right to about 0.03.
    """
    place = np.log2(max(1, arms))
    return {seeds: float(np.interp(place, np.log2(_ARMS), row)) for seeds, row in _TABLE.items()}


@lru_cache(maxsize=8)
def simulated(seeds: int) -> tuple[float, ...]:
    """One row of the table, simulated."""
    return tuple(round(detectable(seeds, arms, level=FIRST_LOOK), 2) for arms in _ARMS)


if __name__ == "__main__":
    for count in SEEDS:
        sys.stdout.write(f"    {count}: {simulated(count)},\n")
