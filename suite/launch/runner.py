"""Ray, started when there is something to run, and what is asked of it: a list of trials, or a search."""

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
from suite.storage.journal import TrialHistory

if TYPE_CHECKING:
    from suite.execution.tuner import EarlyStop
    from suite.launch.launcher import Launch

AHEAD = 16  # packs that wait for room at once on a cluster, so that its autoscaler sees how much is wanted
REPEATS = 50  # suggestions in a row that are already known: then a search has nothing new to say
COMPLETE = (Status.FINISHED, Status.STOPPED)


class Runner:
    """Ray, started when there is something to run."""

    def __init__(self, launch: Launch, stop: Any) -> None:
        self.launch, self.stop, self.stack = launch, stop, ExitStack()
        self.started = False
        self.cpu, self.gpu = 1, 0.0  # of a pack
        self.pack = 1  # trials that a measurement found best to train as one
        self.slots = 1  # packs that can run at once

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def start(self) -> Numerics:
        """Start Ray, once; what a trial gets and the numerics: given, or measured where trials will run."""
        from suite.execution import ray_session, tuner

        launch, spec = self.launch, self.launch.spec
        if self.started and launch.numerics is not None:
            return launch.numerics
        wanted = spec.resources
        networks, where = launch.plan.networks(), [str(spec.folder)]

        def measure() -> tuner.Measured:
            data_gib = max((images.nbytes for images in launch.plan.datasets.values()), default=0) / 2**30
            trials = spec.first_trials, launch.options.max_concurrent
            images = launch.plan.shortest_images if wanted.compile == "auto" else 0
            return tuner.measure(networks, wanted, trials, launch.numerics, where, self.stop, data_gib, images)

        if wanted.compile and launch.numerics is None:
            launch.board.console.print(
                "measuring; compilation, where it is tried, takes a minute or two", highlight=False
            )
        early = ray_session.starts_here(launch.options.address) and tuner.measures_here(networks, wanted)
        found = measure() if early else None
        resources = self.stack.enter_context(ray_session.running(launch.options.address, launch.options.verbose))
        self.stop.listen()
        self.started = True
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        _within("cpu", wanted.least_cpu, cpus, spec)
        if wanted.gpu and not gpus:
            launch.board.console.print("no GPU here: the sweep runs on the CPU", highlight=False)
            wanted = wanted.model_copy(update={"gpu": 0.0})
        numerics, self.gpu, self.pack, lines = found or measure()
        for line in lines:
            launch.board.console.print(line, highlight=False)
        _within("gpu", self.gpu, gpus, spec)
        self.cpu = max(wanted.least_cpu, numerics.threads)  # those of an earlier launch stay what they were
        _within("cpu", self.cpu, cpus, spec)
        by_kind = [cpus / self.cpu, *([gpus / self.gpu] if self.gpu else [])]
        self.slots = max(1, int(min(*by_kind, launch.options.max_concurrent or math.inf)))
        return numerics

    def run(self, trials: Sequence[Trial], early: Any, complete: Sequence[Status] = COMPLETE) -> None:
        """Run what is left of ``trials``, in their order, in packs where the file says so."""
        launch = self.launch
        launch.renew(launch.pending(trials, complete))
        scheduler = self._scheduler(early, trials)
        waiting = launch.pending(trials, complete)
        launch.board.begin([trial.id for trial in trials])
        if not waiting:
            return
        launch.numerics = self.start()  # tells how many packs can run at once
        size = launch.spec.resources.pack if early is None else 1
        coming = deque(packs(waiting, self.pack if size == "auto" and self.pack > 1 else size, self.slots))

        def following() -> list[dict[str, Any]] | None:
            if not coming or not launch.has_room(self.stop):
                return None
            return [self._payload(trial.id) for trial in coming.popleft()]

        if coming:
            self._run(following, scheduler, early)

    def search(self) -> None:
        """Optuna asks for arms, on the first seed, until there are ``run_cap`` of them."""
        from suite.execution.optuna_search import OptunaSearch

        launch, spec = self.launch, self.launch.spec
        seed = spec.seeds[0]
        history = launch.history
        begun = [item for item in history.trials.values() if item.trial.seed == seed and self._is_current(item)]
        launch.renew(launch.pending([item.trial for item in begun]))
        begun = [history.trials[item.trial.id] for item in begun]  # a renewed one has a new history
        early = None if spec.pareto else spec.early_terminate
        scheduler = self._scheduler(early, [item.trial for item in begun])
        study = OptunaSearch(
            spec.space, spec.objectives, spec.name,
            known=[(item.entry["choices"], outcome(item, spec.objectives)) for item in begun if _settled(item)],
        )  # fmt: skip
        waiting = launch.pending([item.trial for item in begun])
        asked: dict[str, int] = {}
        planned = [item.trial.id for item in begun]
        for arm in spec.baseline_arms:
            trial = launch.plan.trial(arm, seed)
            if trial.id not in planned:
                launch.plan_trial(arm, trial)
                planned.append(trial.id)
                waiting.append(trial)
        launch.record_plan(planned)
        launch.board.begin(planned, total=max(spec.run_cap, len(planned)))

        if not waiting and len(planned) >= spec.run_cap:
            return

        def following() -> list[dict[str, Any]] | None:
            if not launch.has_room(self.stop):
                return None
            if waiting:
                return [self._payload(waiting.pop(0).id)]
            for _ in range(REPEATS):
                if len(planned) >= spec.run_cap:
                    return None
                number, point = study.ask()
                arm = spec.arm({name: choice.label for name, choice in point.items()})
                trial = launch.plan.trial(arm, seed)
                if trial.id in history.trials:  # the same arm again: its outcome is known, or will be
                    study.tell(number, outcome(history.trials[trial.id], spec.objectives))
                    continue
                asked[trial.id] = number
                launch.plan_trial(arm, trial)
                planned.append(trial.id)
                launch.board.targets.append(trial.id)
                return [self._payload(trial.id)]
            return None

        def on_complete(trial_id: str, failed: bool) -> None:
            item = history.trials[trial_id]
            if not _settled(item) and item.status is not Status.RUNNING:
                return
            values = None if failed else outcome(item, spec.objectives)
            if trial_id in asked:
                study.tell(asked.pop(trial_id), values)
            else:
                study.add(item.entry["choices"], values)

        self._run(following, scheduler, early, on_complete)

    def _is_current(self, item: TrialHistory) -> bool:
        """Whether the file, as it is now, still asks for this very trial."""
        arm = self.launch.plan.arm_of(self.launch.history, item.trial.id)
        return arm is not None and self.launch.plan.trial(arm, item.trial.seed).id == item.trial.id

    def _scheduler(self, early: Any, trials: Sequence[Trial]) -> EarlyStop | None:
        """The early-stopping rule, knowing all that the journal knows."""
        if early is None:
            return None
        from suite.execution.tuner import EarlyStop

        launch = self.launch
        epochs = max((int(trial.config["train"]["epochs"]) for trial in trials), default=None)
        epochs = epochs or max(config.train.epochs for config, _, _ in launch.plan.networks())
        scheduler = EarlyStop(early, launch.spec.objective, getattr(early, "max_epochs", None) or epochs)
        for trial_id in sorted(scheduler.replay(list(launch.journal.entries), {trial.id for trial in trials})):
            item = launch.history.trials[trial_id]
            if not _settled(item):  # the process died before that was on record, or while the trial was confirmed
                epochs = item.stopped_at or len(item.records)
                launch.record(
                    "end", id=trial_id, status="stopped", reason=f"{early.type} after epoch {epochs}", epochs=epochs
                )
        return scheduler

    def _payload(self, trial_id: str) -> dict[str, Any]:
        from suite.execution.tuner import payload

        item = self.launch.history.trials[trial_id]
        return payload(item, *self.launch.plan.keys_of(item))

    def _run(
        self,
        following: Callable[[], list[dict[str, Any]] | None],
        scheduler: EarlyStop | None,
        early: Any,
        on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    ) -> None:
        from suite.execution import tuner
        from suite.execution.callback import JournalCallback

        launch, spec = self.launch, self.launch.spec
        launch.numerics = self.start()
        callback = JournalCallback(
            launch.journal,
            launch.history,
            on_end=launch.on_end,
            warn=launch.board.warn,
            early=early.type if early else "",
        )
        tuner.run_packs(
            following,
            shared=tuner.share(
                launch.plan, launch.folder, launch.token, launch.numerics, launch.options.limit_batches, launch.bucket
            ),
            cpu=self.cpu,
            gpu=self.gpu,
            callback=callback,
            stop=self.stop,
            scheduler=scheduler,
            on_complete=on_complete,
            max_concurrent=launch.options.max_concurrent,
            storage=launch.folder / "tune",
            slots=self.slots,
            ahead=1 if spec.method == "optuna" else AHEAD,  # a searcher knows more the later it is asked
        )


def _within(name: str, wanted: float, there: float, spec: SweepSpec) -> None:
    if wanted > there:
        kind = name.upper()
        raise EnvironmentProblem(
            f"resources.{name} must be at most the {kind}s that there are, got {wanted:g}, there are {there:g}",
            place=spec.where(f"resources.{name}"),
            remedy=f"Lower it: resources.{name}={int(there)} on the command line.",
        )


def _settled(item: TrialHistory) -> bool:
    return item.status in (*COMPLETE, Status.FAILED)


def outcome(item: TrialHistory, objectives: Sequence[Objective]) -> list[float] | None:
    """What a searcher is told of a trial: each objective at the epoch that the first one chooses; None = failed."""
    chosen = objectives[0].chosen(item.curve)
    if item.status is Status.FAILED or chosen is None:
        return None
    values = [chosen.metrics.get(objective.name) for objective in objectives]
    return None if any(value is None for value in values) else [float(value) for value in values]  # type: ignore[arg-type]
