"""Statistics of a sweep: trials in, tables, curves, verdicts and effects out. No drawing, no store.

The unit is the seed: an arm's figure is the mean over its seeds, with a Student interval.
Differences to the baseline are paired by seed; they compare the test figure at the epoch that
validation chose.

Trials come as ``TrialHistory``, from the journal or from MLflow.

::

    significance  Student intervals; simultaneous intervals by sign flips
    levels        the error that each look at a sweep may spend
    power         the smallest difference that these intervals detect
    seed_power    the same for common numbers of seeds, tabulated
    dunnett       intervals under normality, from three seeds; P(A > B)
    lost          seeds that an arm lost
    verdicts      which arms are compared, by which figure; the verdicts' names
    comparison    differences to the baseline, and their verdicts
    welch         a difference to published seeds
    frames        one row per trial, one row per arm
    collapse      seeds on which an arm collapsed
    convergence   epochs until a figure is reached; seconds
    curves        an arm's metrics by epoch
    effects       main effects, importance, the Pareto front
    predictions   confusion, calibration and paired tests of stored predictions
"""

from suite.analysis.collapse import collapsed_seeds
from suite.analysis.comparison import NO_LOOKS, compare, compare_sweeps, present_looks, undecided
from suite.analysis.convergence import best, epochs_to_baseline, last, reached, training_seconds
from suite.analysis.curves import Curve, curves
from suite.analysis.dunnett import critical_value, half_width, wins
from suite.analysis.effects import (
    MIN_TRIALS,
    Bounds,
    Effect,
    Importance,
    front,
    importance,
    main_effects,
    standing_out,
)
from suite.analysis.frames import arms_frame, figure_interval, rank_arms, trials_frame
from suite.analysis.levels import (
    FIRST_LOOK,
    level_at,
    look_level,
    look_levels,
    look_sequence,
    with_present,
)
from suite.analysis.lost import lost_seeds
from suite.analysis.power import POWER, detectable
from suite.analysis.seed_power import SEEDS, seed_power
from suite.analysis.significance import (
    ALPHA,
    CONFIDENCE,
    MIN_SEEDS,
    Simultaneous,
    adjusted_p,
    interval,
    sign_flips,
    simultaneous,
)
from suite.analysis.verdicts import (
    BASELINE,
    BETTER,
    BETTER_OF_FINISHED,
    EQUIVALENT,
    EQUIVALENT_OF_FINISHED,
    INCONCLUSIVE,
    MARGIN,
    NO_BASELINE,
    NOT_CONFIRMED,
    TOO_FEW,
    UNFINISHED,
    WORSE,
    WORSE_OF_FINISHED,
    Pair,
    at_chosen,
    baselines,
    finished_by_pair,
    paired,
    pairing_gain,
    rises,
    spread,
    tested,
    verdict,
    without_search_seed,
)
from suite.analysis.welch import welch

__all__ = [
    "ALPHA",
    "BASELINE",
    "BETTER",
    "BETTER_OF_FINISHED",
    "CONFIDENCE",
    "EQUIVALENT",
    "EQUIVALENT_OF_FINISHED",
    "FIRST_LOOK",
    "INCONCLUSIVE",
    "MARGIN",
    "MIN_SEEDS",
    "MIN_TRIALS",
    "NOT_CONFIRMED",
    "NO_BASELINE",
    "NO_LOOKS",
    "POWER",
    "SEEDS",
    "TOO_FEW",
    "UNFINISHED",
    "WORSE",
    "WORSE_OF_FINISHED",
    "Bounds",
    "Curve",
    "Effect",
    "Importance",
    "Pair",
    "Simultaneous",
    "adjusted_p",
    "arms_frame",
    "at_chosen",
    "baselines",
    "best",
    "collapsed_seeds",
    "compare",
    "compare_sweeps",
    "critical_value",
    "curves",
    "detectable",
    "epochs_to_baseline",
    "figure_interval",
    "finished_by_pair",
    "front",
    "half_width",
    "importance",
    "interval",
    "last",
    "level_at",
    "look_level",
    "look_levels",
    "look_sequence",
    "lost_seeds",
    "main_effects",
    "paired",
    "pairing_gain",
    "present_looks",
    "rank_arms",
    "reached",
    "rises",
    "seed_power",
    "sign_flips",
    "simultaneous",
    "spread",
    "standing_out",
    "tested",
    "training_seconds",
    "trials_frame",
    "undecided",
    "verdict",
    "welch",
    "wins",
    "with_present",
    "without_search_seed",
]
