"""Seeds that an arm lost: failed or stopped early. The survivors may be the lucky ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from suite.core.records import Status
from suite.storage.journal import TrialHistory

LOST = (Status.FAILED, Status.STOPPED)


def lost_seeds(
    trials: Iterable[TrialHistory], against: Mapping[str, str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Arm -> the seeds that it lost although the arm it is compared with finished them.

    An arm without a comparison loses a seed that any other arm finished. Arms that lost none are
    left out. An arm in the result gets no lead, no champion and no plain "better".

    Args:
        against: arm -> the baseline that it is compared with.
    """
    by_arm: dict[str, dict[int, Status]] = {}
    for trial in trials:
        by_arm.setdefault(trial.trial.arm, {})[trial.trial.seed] = trial.status
    lost: dict[str, tuple[int, ...]] = {}
    for arm, seeds in by_arm.items():
        base = (against or {}).get(arm)
        rivals = [base] if base is not None else [other for other in by_arm if other != arm]
        finished = {
            seed
            for rival in rivals
            for seed, status in by_arm.get(rival, {}).items()
            if status is Status.FINISHED
        }
        gone = sorted(seed for seed, status in seeds.items() if status in LOST and seed in finished)
        if gone:
            lost[arm] = tuple(gone)
    return lost
