"""Start Ray when there is something to run, and run lists of trials on it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from suite.config import SweepSpec
from suite.core.errors import EnvironmentProblem
from suite.core.records import Numerics, Objective, Status, Trial
from suite.execution.packs import packs
from suite.launch.ledger import COMPLETE, Ledger
from suite.storage.journal import TrialHistory

if TYPE_CHECKING:  # imports ray
    from suite.execution.early_stopping import EarlyStop
    from suite.execution.shared import TrialRequest
    from suite.execution.stop import Stop

# Packs that wait for room at once on a cluster, so that its autoscaler sees how much is wanted
AHEAD = 16


class Runner:
    """Ray, started when there is something to run.

    Args:
        on_end: called with the id of each trial that ended.
    """

    def __init__(self, ledger: Ledger, stop: Stop, on_end: Callable[[str], None]) -> None:
        self.ledger, self.stop, self.stack = ledger, stop, ExitStack()
        self._on_end = on_end
        self.started = False
        self.cpu, self.gpu = 1, 0.0  # of a pack
        self.pack = 1  # trials that a measurement found best to train as one
        self.slots = 1  # packs that can run at once

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def start(self) -> Numerics:
        """Start Ray (once), set the resources of a trial, and return the numerics.

        Both are given by the file or an earlier launch, or measured where trials will run.
        """
        from suite.execution import choose_numerics, ray_session

        ledger, spec = self.ledger, self.ledger.spec
        if self.started and ledger.numerics is not None:
            return ledger.numerics
        wanted = spec.resources
        networks, where = ledger.plan.networks(), [str(spec.folder)]

        def measure() -> choose_numerics.Measured:
            data_gib = (
                max((images.nbytes for images in ledger.plan.datasets.values()), default=0) / 2**30
            )
            trials = spec.first_trials, ledger.options.max_concurrent
            images = ledger.plan.shortest_images if wanted.compile == "auto" else 0
            return choose_numerics.choose_numerics(
                networks, wanted, trials, ledger.numerics, where, self.stop, data_gib, images
            )

        if wanted.compile and ledger.numerics is None:
            ledger.board.console.print(
                "measuring; compilation, where it is tried, takes a minute or two", highlight=False
            )
        early = ray_session.starts_here(ledger.options.address) and choose_numerics.measures_here(
            networks, wanted
        )
        found = measure() if early else None
        resources = self.stack.enter_context(
            ray_session.running(ledger.options.address, ledger.options.verbose)
        )
        self.stop.listen()
        self.started = True
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        _within("cpu", wanted.least_cpu, cpus, spec)
        if wanted.gpu and not gpus:
            ledger.board.console.print("no GPU here: the sweep runs on the CPU", highlight=False)
            wanted = wanted.model_copy(update={"gpu": 0.0})
        numerics, self.gpu, self.pack, lines = found or measure()
        for line in lines:
            ledger.board.console.print(line, highlight=False)
        _within("gpu", self.gpu, gpus, spec)
        self.cpu = max(
            wanted.least_cpu, numerics.threads
        )  # those of an earlier launch stay what they were
        _within("cpu", self.cpu, cpus, spec)
        by_kind = [cpus / self.cpu, *([gpus / self.gpu] if self.gpu else [])]
        self.slots = max(1, int(min(*by_kind, ledger.options.max_concurrent or math.inf)))
        return numerics

    def run(
        self, trials: Sequence[Trial], early: Any, complete: Sequence[Status] = COMPLETE
    ) -> None:
        """Run what is left of ``trials``, in their order, in packs where the file says so."""
        ledger = self.ledger
        ledger.prepare(trials, complete)
        scheduler = self.scheduler(early, trials)
        waiting = ledger.pending(trials, complete)  # the scheduler may have ended some
        ledger.board.begin([trial.id for trial in trials])
        if not waiting:
            return
        ledger.numerics = self.start()  # tells how many packs can run at once
        size = ledger.spec.resources.pack if early is None else 1
        coming = deque(
            packs(waiting, self.pack if size == "auto" and self.pack > 1 else size, self.slots)
        )

        def following() -> list[TrialRequest] | None:
            if not coming or not ledger.check_disk_space():
                return None
            return [self.request(trial.id) for trial in coming.popleft()]

        if coming:
            self.run_packs(following, scheduler, early)

    def scheduler(self, early: Any, trials: Sequence[Trial]) -> EarlyStop | None:
        """The early-stopping rule, knowing all that the journal knows."""
        if early is None:
            return None
        from suite.execution.early_stopping import EarlyStop

        ledger = self.ledger
        epochs = max((int(trial.config["train"]["epochs"]) for trial in trials), default=None)
        epochs = epochs or max(config.train.epochs for config, _, _ in ledger.plan.networks())
        scheduler = EarlyStop(
            early, ledger.spec.objective, getattr(early, "max_epochs", None) or epochs
        )
        for trial_id in sorted(
            scheduler.replay(list(ledger.journal.entries), {trial.id for trial in trials})
        ):
            item = ledger.history.trials[trial_id]
            if not settled(
                item
            ):  # the process died before that was on record, or while the trial was confirmed
                epochs = item.stopped_at or len(item.records)
                ledger.record(
                    "end",
                    id=trial_id,
                    status="stopped",
                    reason=f"{early.type} after epoch {epochs}",
                    epochs=epochs,
                )
        return scheduler

    def request(self, trial_id: str) -> TrialRequest:
        from suite.execution.shared import request_trial

        item = self.ledger.history.trials[trial_id]
        return request_trial(item, *self.ledger.plan.keys_of(item))

    def run_packs(
        self,
        following: Callable[[], list[TrialRequest] | None],
        scheduler: EarlyStop | None,
        early: Any,
        on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    ) -> None:
        from suite.execution import shared, tuner
        from suite.execution.callback import JournalCallback

        ledger, spec = self.ledger, self.ledger.spec
        ledger.numerics = self.start()
        callback = JournalCallback(
            ledger.journal,
            ledger.history,
            on_end=self._on_end,
            warn=ledger.board.warn,
            early=early.type if early else "",
        )
        tuner.run_packs(
            following,
            shared=shared.share(
                ledger.plan,
                ledger.storage,
                ledger.token,
                ledger.numerics,
                ledger.options.limit_batches,
            ),
            cpu=self.cpu,
            gpu=self.gpu,
            callback=callback,
            stop=self.stop,
            scheduler=scheduler,
            on_complete=on_complete,
            max_concurrent=ledger.options.max_concurrent,
            storage=ledger.folder / "tune",
            slots=self.slots,
            ahead=1
            if spec.method == "optuna"
            else AHEAD,  # a searcher knows more the later it is asked
        )


def _within(name: str, wanted: float, there: float, spec: SweepSpec) -> None:
    if wanted > there:
        kind = name.upper()
        raise EnvironmentProblem(
            f"resources.{name} must be at most the {kind}s that there are, got {wanted:g}, there "
            f"are {there:g}",
            place=spec.where(f"resources.{name}"),
            remedy=f"Lower it: resources.{name}={int(there)} on the command line.",
        )


def settled(item: TrialHistory) -> bool:
    return item.status in (*COMPLETE, Status.FAILED)


def outcome(item: TrialHistory, objectives: Sequence[Objective]) -> list[float] | None:
    """What a searcher is told of a trial: each objective at the epoch that the first one
    chooses; None = failed.
    """
    chosen = objectives[0].chosen(item.curve)
    if item.status is Status.FAILED or chosen is None:
        return None
    values = [chosen.metrics.get(objective.name) for objective in objectives]
    return None if any(value is None for value in values) else [float(value) for value in values]  # type: ignore[arg-type]
