"""Tune's private controller, changed in one place: see ``PatientController``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController


class PatientController(TuneController):
    """Tune's controller, but it does not stop a starting worker when another becomes free.

    Tune gives the free worker to the trial that waits for the starting one, and stops that one. If
    trials are shorter than a worker's start, a slot keeps starting workers and trains nothing:
    twelve trials of 2 s on two cores ran one after the other.
    """

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        if trial in self._resetting_trials or not self._starting(trial):
            return bool(super()._maybe_reuse_cached_actor(trial))
        resources = trial.placement_group_factory
        for other in list(self._resources_to_pending_trials[resources]):
            if other not in self._resetting_trials and not self._starting(other):
                if super()._maybe_reuse_cached_actor(other) and other not in self._staged_trials:
                    self._staged_trials.add(
                        other
                    )  # as Tune does for a trial that had asked for no worker yet
                    self._actor_cache.increase_max(resources)
                break
        return False

    def _starting(self, trial: Any) -> bool:
        """Whether a worker of its own has its resources, and a process."""
        return (
            self._trial_to_actor.get(trial)
            in self._actor_manager._live_actors_to_ray_actors_resources
        )


@contextmanager
def patient_controller() -> Iterator[None]:
    """Tune takes our controller for a while; it offers no other way to give it one."""
    module: Any = sys.modules[tune.run.__module__]
    kept = module.TuneController
    module.TuneController = PatientController
    try:
        yield
    finally:
        module.TuneController = kept
