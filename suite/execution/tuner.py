"""A prepared sweep through ``ray.tune.Tuner``: resume, extension, early stopping, signals.

Tune schedules; the journal is the record. A first run, a resume after a crash, one more seed and a
retry are the same operation: run the plan without the trials that the journal records as finished.
Tune's own state is never read back. On resume, the journal restores the searcher and the scheduler.
"""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from suite.execution.callback import JournalCallback
from suite.execution.early_stopping import EarlyStop
from suite.execution.pack_searcher import Next, PackSearcher
from suite.execution.shared import SweepContext
from suite.execution.stop import Stop
from suite.execution.tune_controller import patient_controller
from suite.execution.worker import PackTrainable

LOST_WORKERS = 3  # times a pack starts again after its worker died
# Python's is 0.005: so long Tune's loop would wait for tracking's thread, several times a report
SWITCH_S = 0.0005


def run_packs(
    following: Next,
    *,
    shared: SweepContext,
    cpu: float,
    gpu: float,
    callback: JournalCallback,
    stop: Stop,
    scheduler: EarlyStop | None = None,
    on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    max_concurrent: int | None = None,
    storage: Path,
    slots: int = 1,
    ahead: int = 1,
) -> None:
    """Run packs until ``following`` has no more or a stop is requested.

    Args:
        following: returns the requests of the next pack, or None if there are no more.
        shared: what all packs have in common.
        cpu, gpu: of one pack.
        callback: takes down what happens.
        scheduler: stops trials early; None = never.
        on_complete: called with the id of each trial whose pack Tune is through with, and whether
            its worker was lost for good.
        storage: where Tune may keep its own state, which nobody reads.
        slots: packs that can run at once; on one machine at most this many start together.
        ahead: packs that may wait for resources at once. Low for a search, which chooses better the
            later it is asked; high on a cluster, whose autoscaler starts nodes for waiting packs.
    """
    several = sum(bool(node["Alive"]) for node in ray.nodes()) > 1
    trainable = tune.with_resources(
        tune.with_parameters(PackTrainable, shared=shared), {"cpu": cpu, "gpu": gpu}
    )
    tuner = tune.Tuner(
        trainable,
        param_space={},
        tune_config=tune.TuneConfig(
            search_alg=PackSearcher(following, stop, on_complete),
            scheduler=scheduler or FIFOScheduler(),
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            failure_config=tune.FailureConfig(max_failures=LOST_WORKERS),
            stop=_StopAll(stop),
            verbose=0,
        ),
    )
    kept = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        waiting = ahead if several else min(ahead, slots)
        with _environment(TUNE_MAX_PENDING_TRIALS_PG=str(waiting)), patient_controller():
            tuner.fit()
    finally:
        sys.setswitchinterval(kept)
        shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a while; those that the user has set stay."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


class _StopAll(tune.Stopper):
    """Ends Tune when workers had their time to save."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.overdue

    def __getstate__(self) -> dict[str, Any]:
        return {}
