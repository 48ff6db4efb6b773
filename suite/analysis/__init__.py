"""Pure: trials -> tables, curves, verdicts, effects. No drawing, no store, no torch.

The unit is the seed: an arm's figure is the mean over its seeds, with a Student interval over them. A difference to
the baseline is paired by seed, and is one of the test figure at the epoch that validation chose.

Trials come as ``TrialHistory``, from the journal or read back from MLflow.

::

    signs      intervals; the sign-flip test
    power      the smallest difference that it sees
    verdicts   differences to the baseline, and their verdicts
    frames     one row per trial, one per arm
    course     epochs until a figure is reached; seconds
    curves     an arm's course over the epochs
    effects    main effects, importance, the Pareto front
"""

from suite.analysis.course import best, epochs_to_baseline, last, reached, training_seconds
from suite.analysis.curves import Curve, curves
from suite.analysis.effects import LEAST_TRIALS, Bounds, Effect, Importance, front, importance, main_effects
from suite.analysis.frames import arms_frame, rank_arms, trials_frame
from suite.analysis.lost import lost_seeds
from suite.analysis.power import POWER, detectable
from suite.analysis.signs import ALPHA, CONFIDENCE, LEAST_SEEDS, adjusted_p, interval, sign_flips
from suite.analysis.verdicts import (
    BASELINE,
    BETTER,
    EQUIVALENT,
    INCONCLUSIVE,
    MARGIN,
    NO_BASELINE,
    NOT_CONFIRMED,
    TOO_FEW,
    WORSE,
    Pair,
    at_chosen,
    baselines,
    compare,
    compare_sweeps,
    finished_by_pair,
    paired,
    rises,
    spread,
    tested,
    verdict,
)

__all__ = [
    "ALPHA",
    "BASELINE",
    "BETTER",
    "CONFIDENCE",
    "EQUIVALENT",
    "INCONCLUSIVE",
    "LEAST_SEEDS",
    "LEAST_TRIALS",
    "MARGIN",
    "NOT_CONFIRMED",
    "NO_BASELINE",
    "POWER",
    "TOO_FEW",
    "WORSE",
    "Bounds",
    "Curve",
    "Effect",
    "Importance",
    "Pair",
    "adjusted_p",
    "arms_frame",
    "at_chosen",
    "baselines",
    "best",
    "compare",
    "compare_sweeps",
    "curves",
    "detectable",
    "epochs_to_baseline",
    "finished_by_pair",
    "front",
    "importance",
    "interval",
    "last",
    "lost_seeds",
    "main_effects",
    "paired",
    "rank_arms",
    "reached",
    "rises",
    "sign_flips",
    "spread",
    "tested",
    "training_seconds",
    "trials_frame",
    "verdict",
]
