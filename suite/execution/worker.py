"""One pack of trials in a Ray worker: usually one trial; several only without early stopping.

Ray Tune schedules packs; the trial is the unit of everything else. A step of a pack trains one
epoch of each of its unfinished trials and returns a list of events, which the driver's callback
records. There is no Tune checkpoint: after a lost worker or a stopped sweep, each trial of the pack
continues from its own checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import ray
from ray import tune

from suite.config import plugin
from suite.core.errors import OutOfMemoryError, TrialError
from suite.core.records import EpochRecord, Status
from suite.core.redaction import redacted
from suite.execution import nodes
from suite.execution.retry import RetryPolicy, describe
from suite.execution.shared import (
    EndEvent,
    EpochEvent,
    ImagesEvent,
    SweepContext,
    TrialEvent,
    TrialRequest,
    WarningEvent,
)
from suite.system.watchdog import STACK_FILE, Watchdog

LOOK_EVERY_S = 0.2  # between looks at a requested stop, while a trial waits for disk space


class PackTrainable(tune.Trainable):
    """Tune's view of a pack: ``config["pack"]`` lists its trials, with the keys of their data
    and weights.
    """

    def setup(self, config: dict[str, Any], shared: SweepContext | None = None) -> None:
        assert shared is not None  # given by tune.with_parameters; not user input
        _leave_sigterm_to_the_driver()
        self.shared = shared
        for folder in shared.search_path:
            plugin.add_search_path(folder)
        import suite.training.setup  # noqa: F401 - torch takes seconds, which are no trial's

        self.watchdog = Watchdog(shared.hang_after_s)
        shared.storage.remove_stale_copies(shared.token)
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack into this worker: no new process, no second import of torch."""
        self._leave()
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch of each trial that still runs."""
        running = [runner for runner in self.runners if not runner.done]
        if self.shared.numerics.fused and len(running) > 1:
            with self.watchdog.over(running[0].folder):
                events = advance_together(running)
        else:
            events = [event for runner in running for event in runner.advance()]
        return {"events": events, "done": all(runner.done for runner in self.runners)}

    def cleanup(self) -> None:
        self._leave()

    def _take(self, config: dict[str, Any]) -> None:
        pack: list[TrialRequest] = config["pack"]
        features: dict[str, Any] | None = {} if len(pack) > 1 else None
        self.runners = [
            TrialRunner(self.shared, request, features, self.watchdog) for request in pack
        ]

    def _leave(self) -> None:
        """Save the trials that are not over: a trial stopped early may be confirmed later."""
        for runner in self.runners:
            runner.suspend()
        self.runners = []


class TrialRunner:
    """One trial of a pack. If it fails, the pack's other trials go on.

    Args:
        request: the trial, and how much of it the journal holds.
        shared_features: where the trials of a pack share features of frozen layers.
    """

    def __init__(
        self,
        shared: SweepContext,
        request: TrialRequest,
        shared_features: dict[str, Any] | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.shared, self.request, self.trial = shared, request, request.trial
        self.shared_features, self.watchdog = shared_features, watchdog or Watchdog(0)
        self.reported = request.recorded  # the last epoch that the driver's journal holds
        self.storage = shared.storage.trial(shared.token, self.trial.id)
        self.folder = self.storage.folder
        self.training: Any = None
        self.done = False
        self.alone = False  # no longer trained as one network with the others
        self._retry = RetryPolicy(lambda seconds: self._wait(seconds))
        self.warnings: list[str] = []

    def advance(self, epoch: Callable[[], EpochRecord | None] | None = None) -> list[TrialEvent]:
        """Train one epoch and return its events; at the end of the trial, the end and its reason.

        Args:
            epoch: returns the trial's result of an epoch that was trained jointly; None = train.
        """
        try:
            if self.training is None:
                if unseen := self._unseen():  # before anything is written there
                    return [self._end(Status.INTERRUPTED, **unseen)]
                if hung := self._hung():  # report now: a second hang kills the worker first
                    return hung
            with self.watchdog.over(self.folder):
                events = self._advance(epoch)
        except TrialError as error:
            events = [self._end(Status.FAILED, reason=redacted(str(error)))]
        except Exception as error:  # a trial's exception is its result, never the sweep's
            events = self._retry_or_fail(error)
        warnings = [self._warning(text) for text in self.warnings]
        self.warnings.clear()
        return warnings + events

    def _advance(self, epoch: Callable[[], EpochRecord | None] | None) -> list[TrialEvent]:
        if self._should_stop() and self.training is None:
            return [self._end(Status.INTERRUPTED)]
        if self.training is None:
            self.training = self._prepare()
        stopped = False
        if epoch is not None or not self.training.complete:
            stopped = (epoch or self.training.train_epoch)() is None
        # also those that a checkpoint has and the journal has not
        events: list[TrialEvent] = [
            self._epoch(record) for record in self.training.records if record.epoch > self.reported
        ]
        if stopped:
            return [*events, self._end(Status.INTERRUPTED)]
        told = max(self.reported, self.training.epoch)
        if self.training.complete:
            facts = self.training.finish()
            self.storage.store(*facts["files"])
            events += self._draw(facts)
            events.append(self._end(Status.FINISHED, **facts))
        self.reported = (
            told  # only now: if the trial's files cannot be written, no event above is sent
        )
        return events

    def _hung(self) -> list[TrialEvent]:
        """A warning if an earlier worker of this launch hung in this trial and it is not reported.

        Raises:
            TrialError: a second worker hung.
        """
        stack, before = self.folder / STACK_FILE, f"hung-{self.shared.token[:8]}-"
        if not (stack.exists() and stack.stat().st_size):
            return []
        times = 1 + len(list(self.folder.glob(f"{before}*.txt")))
        kept = stack.rename(self.folder / f"{before}{times}.txt")
        self.storage.store(kept.name)
        where = self.storage.location(kept.name)
        text = f"no step for {self.shared.hang_after_s:g} s; where it hung: {where}"
        if times > 1:
            raise TrialError(f"{text} (and once before)")
        return [self._warning(f"{text}; trying once more from the last checkpoint")]

    def ready(self) -> bool:
        """Prepare the training; whether an epoch of it is to be trained.

        What goes wrong, ``advance`` meets again.
        """
        try:
            if self.training is None and not self._should_stop():
                self.training = self._prepare()
        except Exception:
            self.training = None
        return self.training is not None and not self.training.complete

    def _draw(self, facts: Mapping[str, Any]) -> list[TrialEvent]:
        """Draw the activation maps of a finished trial; an error there is only a warning."""
        if (
            not self.shared.activations
            or self.shared.limit_batches
            or "best.pt" not in facts["files"]
        ):
            return []
        try:
            pictures = self.training.draw_activation_maps()
            self.storage.store(
                *(
                    f"{pictures['key']}/{name}"
                    for name in (*pictures["files"], f"{pictures['key']}.json")
                )
            )
            return [ImagesEvent(self.trial.id, pictures)]
        except Exception as error:
            return [self._warning(f"no activation sheets: {describe(error)}")]

    def _prepare(self) -> Any:
        from suite.training.hooks import TrainingHooks  # torch: only in workers with work
        from suite.training.setup import prepare_trainer

        shared = self.shared
        self.storage.fetch_checkpoint(self.warnings.append)
        return prepare_trainer(
            self.trial,
            ray.get(shared.datasets[self.request.data]),
            weights=ray.get(shared.weights[self.request.weights]) if self.request.weights else None,
            objective=shared.objective,
            numerics=shared.numerics,
            folder=self.folder,
            hooks=TrainingHooks(
                should_stop=self._should_stop,
                owns_sweep=self.storage.owns_sweep,
                on_checkpoint=self.storage.store_checkpoint,
                warn=self.warnings.append,
                heartbeat=self.watchdog.alive,
            ),
            limit_batches=shared.limit_batches,
            shared_features=self.shared_features,
        )

    def suspend(self) -> None:
        """Leave a trial that is not over, keeping a checkpoint of where it stands."""
        if self.training is not None and not self.done:
            self.training.save()
        self.training = None
        self.storage.discard_copy()

    # ---- ends ------------------------------------------------------------------------------------

    def _retry_or_fail(self, error: Exception) -> list[TrialEvent]:
        self.training = None
        decision = self._retry.after(error, self.folder)
        if decision.status is None:
            return [self._warning(decision.text)]
        halt = {"halt": decision.text} if decision.halts else {}
        return [self._end(decision.status, reason=decision.text, **halt)]

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._should_stop():
            time.sleep(LOOK_EVERY_S)

    def _end(self, status: Status, **facts: Any) -> EndEvent:
        self.done = True
        self.training = None
        self.storage.discard_copy()
        return EndEvent(self.trial.id, status, facts)

    def _epoch(self, record: EpochRecord) -> EpochEvent:
        return EpochEvent(self.trial.id, record.epoch, record.metrics)

    def _warning(self, text: str) -> WarningEvent:
        return WarningEvent(self.trial.id, text)

    def _should_stop(self) -> bool:
        self.watchdog.alive()
        return self.storage.stop_requested()

    def _unseen(self) -> dict[str, str]:
        """Reason and halt if this node does not see the sweep's storage, else empty.

        Nodes that join during the sweep were not checked at its start.
        """
        if self.storage.is_visible():
            return {}
        said = f"node {nodes.here()} does not see {self.storage.sweep_address}"
        return {"reason": said, "halt": said}


def _leave_sigterm_to_the_driver() -> None:
    """Ignore SIGTERM in workers of a local Ray: the driver gets it too, and requests the stop.

    Ray's local processes start with SIGTERM blocked. Children would inherit that and could not be
    terminated, so it is unblocked here; a handler ignores it in this process only.
    """
    if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
        return  # a worker of somebody's cluster
    worker = os.getpid()

    def pass_over(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != worker:  # a fork
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, pass_over)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def advance_together(runners: Sequence[TrialRunner]) -> list[TrialEvent]:
    """One epoch of each, as one network where theirs allow it."""
    from suite.training import joint  # torch

    ready = [runner for runner in runners if runner.ready() and not runner.alone]
    trained: dict[str, Callable[[], EpochRecord | None]] = {}
    if joint.can_join([runner.training for runner in ready]):
        ends = joint.train_epoch([runner.training for runner in ready])
        for runner, end in zip(ready, ends, strict=True):
            if isinstance(
                end, OutOfMemoryError
            ):  # of all together: each may still have its own room
                runner.alone, runner.training = True, None
                runner.warnings.append(f"{end}; going on by itself from the last checkpoint")
            else:
                trained[runner.trial.id] = partial(_given, end)
    return [event for runner in runners for event in runner.advance(trained.get(runner.trial.id))]


def _given(end: EpochRecord | Exception | None) -> EpochRecord | None:
    if isinstance(end, Exception):
        raise end
    return end
