"""One launch of a sweep, from the lock to the last word: what is left of the plan is run, whatever came before.

::

    lock -> journal -> what died is closed -> plan, less what has finished -> numerics -> packs through Tune
         -> (a search: its best arms on all seeds) -> champion -> tracking drained -> lock released
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite import data, disk, environment
from suite.analysis import rank_arms
from suite.bucket import AnotherOwner, Bucket, BucketUnavailable
from suite.checkpoint import MANIFEST
from suite.console import Board, duration
from suite.errors import EnvironmentProblem, UsageError
from suite.journal import (
    FILE_NAME,
    LAUNCH_FILE,
    STOP_FILE,
    Entry,
    History,
    Journal,
    Lock,
    TrialHistory,
    close_stale,
)
from suite.packs import packs
from suite.plan import Plan, weights_key
from suite.records import Numerics, Objective, Status, Trial
from suite.spec import Arm, SweepSpec
from suite.tracking import MlflowTracker, Sender, Tracker, TrackingUnavailable, warm_export

if TYPE_CHECKING:
    from suite.tuner import EarlyStop, Stop

DRAIN_S = 60.0  # at the end, wait so long for tracking to catch up
FAST_DRAIN_S = 5.0  # after a signal
FLUSH_S = 20.0  # so long a full disk may keep the journal from being written before a launch is given up
LEADERS = 4  # arms beyond `checkpoints.keep` whose best checkpoint is kept while the ranking may still change
AHEAD = 16  # packs that wait for room at once on a cluster, so that its autoscaler sees how much is wanted
REPEATS = 50  # suggestions in a row that are already known: then a search has nothing new to say
COMPLETE = (Status.FINISHED, Status.STOPPED)


@dataclass(frozen=True)
class Options:
    """What the command line adds to the file."""

    resume: bool = False
    force: bool = False
    retry_errored: bool = False
    only: tuple[str, ...] = ()
    budget_s: float | None = None
    address: str | None = None
    max_concurrent: int | None = None
    limit_batches: int | None = None
    verbose: bool = False


@dataclass
class Ended:
    """How a launch ended."""

    history: History
    exit_code: int
    seconds: float
    ran: int
    confirmed: tuple[str, ...] = ()
    champion: str | None = None
    registered: bool = False  # whether models:/<sweep>@champion is it
    run_ids: dict[str, str] = field(default_factory=dict)
    parent_run: str | None = None
    page: str = ""
    message: str = ""


class Launch:
    """A launch in progress. Made under the lock; ``run`` does it all.

    Args:
        plan: the prepared sweep.
        folder: the sweep's folder.
        make_tracker: journal id -> tracker.
        say: takes a line for the user.
    """

    def __init__(
        self, plan: Plan, folder: Path, make_tracker: Callable[[str], Tracker], options: Options, board: Board,
        bucket: Bucket | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.spec, self.folder, self.options, self.board = plan, plan.spec, folder, options, board
        self.bucket = bucket
        self.stop: Stop | None = None
        if bucket is not None:
            bucket.take_journal(folder / FILE_NAME)
        self.journal = Journal(folder / FILE_NAME, board.warn, self._elsewhere)
        self.history = board.history
        for entry in self.journal.entries:
            self.history.feed(entry)
        self.token = uuid.uuid4().hex
        self.ran = 0
        self.confirmed: list[str] = []
        self.registered = False
        self._warmed = False  # for the champion's registration
        self.numerics: Numerics | None = None
        self._removals = ThreadPoolExecutor(1, "removals")
        if not self.journal.entries:
            self._record("journal", id=uuid.uuid4().hex)
        self.tracker = make_tracker(self.journal.entries[0]["id"])
        self.sender = Sender(self.tracker, folder / "tracking.json", self._tracking_changed, self._bring)

    def _record(self, kind: str, **fields: Any) -> None:
        self.history.feed(self.journal.append(kind, **fields))

    # ---- with a bucket ---------------------------------------------------------------------------------------------

    def _elsewhere(self, seq: int, lines: bytes) -> None:
        """A copy of what the journal gets, which is the record. Another process that writes there ends this launch."""
        if self.bucket is None:
            return
        try:
            self.bucket.append_journal(seq, lines)
        except AnotherOwner as error:
            if self.stop is not None:
                self.stop.give_up(str(error.strerror))
            raise

    def _bring(self, entry: Entry) -> None:
        """Have the files of an entry here, before tracking uploads them.

        Raises:
            TrackingUnavailable: the bucket does not answer.
        """
        names: list[str] = []
        if entry["kind"] == "file" and entry.get("id"):
            names = [entry["path"]]
        if entry["kind"] == "images":
            names = [f"{entry['folder']}/{name}" for name in (*entry["files"], f"{entry['key']}.json")]
        try:
            self._fetch(*names)
        except BucketUnavailable as error:
            raise TrackingUnavailable(str(error.strerror)) from error

    def _fetch(self, *names: str) -> None:
        """Have files of trials here that a worker put into the bucket; what is gone there is gone here."""
        if self.bucket is not None:
            for name in names:
                if not (self.folder / name).exists():
                    self.bucket.fetch(name, self.folder / name)

    def _tracking_changed(self, state: str) -> None:
        self.board.tell(state)

    # ---- the whole way ---------------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """Run what is left; close everything, whatever happens."""
        from suite.tuner import Stop

        started = time.monotonic()
        stop = self.stop = Stop(self.folder, self._post_stop)
        finished = False
        try:
            with stop.on_signals(lambda text: self.board.warn(text)):
                self._take_over()
                with _Budget(stop, self.options.budget_s):
                    self._run_phases(stop)
                finished = not stop.requested
                if finished:
                    self._crown()
                    self._illustrate()
        finally:
            code = self._close(finished, stop)
        confirmed = tuple(self.confirmed)
        ended = Ended(self.history, code, time.monotonic() - started, self.ran, confirmed, self.history.champion)
        ended.registered = self.registered
        ended.parent_run = self.tracker.run_id(None)
        ended.page = getattr(self.tracker, "page", "")
        ended.run_ids = {
            item.trial.id: run for item in self.history.in_plan() if (run := self.tracker.run_id(item.trial.id))
        }
        if stop.problem and not stop.requested:  # only the journal's last entries did not fit
            ended.message = f"{stop.problem}; make room and launch the same command again"
        if stop.requested:
            ended.message = f"stopped ({stop.reason}); launch the same command again to go on"
        return ended

    def _post_stop(self) -> None:
        """Tell workers that look into a bucket. A signal may ask for it in the middle of another call there."""
        if self.bucket is not None:
            threading.Thread(target=self.bucket.put, args=(STOP_FILE, b""), name="stop", daemon=True).start()

    def _take_over(self) -> None:
        """Make this process the folder's owner: token, stale states, the launch and the plan on record."""
        _write(self.folder / LAUNCH_FILE, self.token)
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        if self.bucket is not None:
            self.bucket.put(LAUNCH_FILE, self.token.encode())
            self.bucket.remove(STOP_FILE)
            _delete(self.bucket.working_folder(data.cache_folder()) / "workers")  # of launches that are over
        if stale := close_stale(self.history, self._record):
            self.board.warn(f"found an unfinished launch: {stale} trials go on from their checkpoints")
        for item in self.history.trials.values():  # what a launch that died had on record as gone, and still lies there
            if item.status is Status.FINISHED:
                self._remove(item.trial.id, "checkpoints")
            if item.ended and not item.kept:
                self._remove(item.trial.id, "best.pt")

    def _announce(self) -> None:
        spec = self.spec
        dataset = next(iter(self.plan.datasets.values()))
        assert self.numerics is not None
        self._record(
            "launch",
            token=self.token,
            pid=os.getpid(),
            host=os.uname().nodename,
            command=environment.command(),
            file=spec.source.path.name,
            text=spec.source.text,
            overrides=list(spec.source.overrides),
            description=spec.description,
            environment=environment.describe(spec.folder),
            numerics=asdict(self.numerics),
            data={
                "name": dataset.name,
                "digest": dataset.digest,
                "classes": list(dataset.classes),
                "train": len(dataset.train_labels),
                "test": len(dataset.test_labels),
            },
            params={"method": spec.method, "seeds": list(spec.seeds), "metric": spec.objective.name},
            metric=[asdict(objective) for objective in spec.objectives],
            margin=spec.metrics[0].margin,
            reference={arm: dict(figures) for arm, figures in spec.reference.items()},
        )
        for item in [self.history.trials[trial] for trial in self._planned_before()]:
            if self.options.force and self._chosen(item.trial.arm):
                self._forget(item)
        self._start_sending()

    def _planned_before(self) -> list[str]:
        """Trials on record that the file still asks for; of a search, those of its last plan."""
        if self.spec.method == "optuna":
            return list(self.history.plan)
        known = (trial.id for _, trial in self.plan.trials(self.spec.arms_list))
        return [trial for trial in known if trial in self.history.trials]

    def _start_sending(self) -> None:
        """Send what tracking has not seen yet, then each entry as it becomes durable."""
        if not self.journal.flush(FLUSH_S):
            raise EnvironmentProblem(f"the journal cannot be written: {self._no_room()}", remedy="Make room.")
        for entry in list(self.journal.entries):
            self.sender.put(entry)
        self.journal.subscribe(self.sender.put)

    def _no_room(self) -> str:
        return disk.said(self.journal.failure, self.folder) if self.journal.failure else "the disk takes it too slowly"

    def _has_room(self, stop: Any) -> bool:
        """Whether one more trial's checkpoints fit; where they do not, the launch stops as it would for a signal."""
        lacking = disk.lacking(self.folder, self.plan.trial_bytes, "checkpoints")
        if lacking:
            stop.give_up(lacking)
        return not lacking

    def _forget(self, item: TrialHistory) -> None:
        self._record("forget", id=item.trial.id)
        _delete(self.folder / "trials" / item.trial.id)
        if self.bucket is not None:
            self.bucket.remove_below(f"trials/{item.trial.id}")

    def _chosen(self, arm: str) -> bool:
        return not self.options.only or arm in self.options.only

    # ---- phases ----------------------------------------------------------------------------------------------------

    def _run_phases(self, stop: Any) -> None:
        spec = self.spec
        with ExitStack() as stack:
            runner = stack.enter_context(_Runner(self, stop))
            self.numerics = self._pinned() or runner.start()
            self._announce()
            self._say_kept()
            stack.enter_context(self.board.shown())
            if not spec.search:
                grid = self.plan.trials(spec.arms_list)
                self._plan_trials(grid)
                runner.run([trial for _, trial in grid], early=spec.early_terminate)
                return
            runner.search() if spec.method == "optuna" else self._random(runner)
            if not stop.requested and not spec.pareto:
                self._confirm(runner)

    def _say_kept(self) -> None:
        """Precision is no part of a trial's identity: say so where the file's is no longer that of what is kept."""
        assert self.numerics is not None
        now = self.numerics.precision
        ended = [item for one in self._planned_before() if (item := self.history.trials[one]).ended]
        kept = {str((item.entry.get("numerics") or {}).get("precision", now)) for item in ended}
        if other := sorted(kept - {now}):
            self.board.warn(
                f"precision is now {now}; what was trained in {' and '.join(other)} is kept as it is "
                "(--force runs it again), and is not compared with the new"
            )

    def _pinned(self) -> Numerics | None:
        """The numerics of an earlier launch: they stay, unless the file now asks for another precision."""
        known = self.history.launch.get("numerics")
        wanted = {config.train.precision for config, _, _ in self.plan.networks()} - {"auto"}
        if known is None or (wanted and wanted != {known["precision"]}):
            return None
        return Numerics(**known)

    def _random(self, runner: _Runner) -> None:
        first = [(arm, self.plan.trial(arm, self.spec.seeds[0])) for arm in self._with_baseline(self.spec.arms_list)]
        self._plan_trials(first)
        runner.run([trial for _, trial in first], early=self.spec.early_terminate)

    def _with_baseline(self, arms: Iterable[Arm]) -> list[Arm]:
        return list({arm.name: arm for arm in [*self.spec.baseline_arms, *arms]}.values())

    def _confirm(self, runner: _Runner) -> None:
        """The best arms of a search, and the baseline, at full length on all seeds."""
        first = self.spec.seeds[0]
        candidates = [item for item in self.history.in_plan() if item.trial.seed == first and item.status in COMPLETE]
        ranked = rank_arms(map(_as_searched, candidates), self.spec.objective)
        names = [name for name in ranked if self._chosen(name)][: self.spec.confirm.top]
        arms = [arm for name in names if (arm := self._find_arm(name)) is not None]
        arms = self._with_baseline(arms)
        self.confirmed = [arm.name for arm in arms]
        self._plan_trials(self.plan.trials(arms), keep=True)
        trials = [trial for _, trial in self.plan.trials(arms)]
        if self._pending(trials, (Status.FINISHED,)):
            self.board.console.print(f"confirming {len(arms)} arms on {len(self.spec.seeds)} seeds", highlight=False)
        runner.run(trials, early=None, complete=(Status.FINISHED,))

    def _find_arm(self, name: str) -> Arm | None:
        for item in self.history.trials.values():
            if item.trial.arm == name:
                return self.plan.arm_of(self.history, item.trial.id)
        return None

    def _plan_trials(self, pairs: Sequence[tuple[Arm, Trial]], keep: bool = False) -> None:
        """Put trials on record that are new, and the plan as it now stands."""
        for arm, trial in pairs:
            self._plan_trial(arm, trial)
        ids = [trial.id for _, trial in pairs]
        if keep:
            ids = list(dict.fromkeys([*self.history.plan, *ids]))
        self._record_plan(ids)

    def _plan_trial(self, arm: Arm, trial: Trial) -> None:
        if trial.id in self.history.trials:
            return
        assert self.numerics is not None
        key = weights_key(arm.config.model)
        self._record(
            "trial",
            **asdict(trial),
            choices=dict(arm.choices),
            digests={
                "data": self.plan.dataset(arm.config).digest,
                "weights": self.plan.weights[key].digest if key else None,
            },
            numerics=asdict(self.numerics),
            objective=asdict(self.spec.objective),
            baseline=self.spec.is_baseline(arm),
        )

    def _record_plan(self, ids: list[str]) -> None:
        self._record("plan", ids=ids, confirmed=self.confirmed, baseline=[arm.name for arm in self.spec.baseline_arms])

    def _pending(self, trials: Iterable[Trial], complete: Sequence[Status] = COMPLETE) -> list[Trial]:
        """The trials that are still to run."""
        known = self.history.trials
        settled = {*complete, Status.FAILED} if not self.options.retry_errored else {*complete}
        return [
            trial
            for trial in trials
            if self._chosen(trial.arm) and (trial.id not in known or known[trial.id].status not in settled)
        ]

    # ---- ends ------------------------------------------------------------------------------------------------------

    def on_end(self, trial_id: str) -> None:
        """A trial ended: it needs no resume checkpoint any more, and the budget is looked at anew."""
        item = self.history.trials[trial_id]
        if item.status is Status.INTERRUPTED:
            if "halt" in item.end and self.stop is not None:
                self.stop.give_up(item.end["halt"])
            return
        self.ran += 1
        waiting = (
            one for one in self.history.in_plan() if one.status is Status.PENDING and self._chosen(one.trial.arm)
        )
        if not self._warmed and not any(waiting):
            self._warmed = True
            if isinstance(self.tracker, MlflowTracker) and not self.spec.pareto:
                warm_export()
        if item.status is Status.FINISHED:
            self._remove(trial_id, "checkpoints")
            if item.kept:
                self._record("file", id=trial_id, path=f"trials/{trial_id}/best.pt", folder="checkpoints")
            self._trim(LEADERS)

    def _trim(self, more: int) -> None:
        """Drop the best checkpoints that the budget does not allow: all but the leading arms' best trials."""
        keep = self.spec.checkpoints.keep
        if keep == "all":
            return
        finished = [item for item in self.history.in_plan() if item.status is Status.FINISHED]
        spared: set[str] = set()
        for name in rank_arms(finished, self.spec.objective)[: keep + more]:
            best = best_trial([item for item in finished if item.trial.arm == name], self.spec.objective)
            if best is not None:
                spared.add(best.trial.id)
        for item in self.history.trials.values():
            if item.kept and item.trial.id not in spared:
                self._record("drop", id=item.trial.id)
                self._remove(item.trial.id, "best.pt")

    def _remove(self, trial_id: str, name: str) -> None:
        """Remove what nobody needs any more, in the background: Tune's loop, which calls this, waits for no disk."""
        self._removals.submit(self._remove_recorded, f"trials/{trial_id}/{name}")

    def _remove_recorded(self, name: str) -> None:
        """Remove it once the entry that makes it superfluous is durable; if that cannot be, the next launch does."""
        if self.journal.failure is not None or not self.journal.flush(FLUSH_S):
            return
        _delete(self.folder / name)
        if self.bucket is not None:
            with suppress(BucketUnavailable):
                self.bucket.remove_below(name, MANIFEST)
                self.bucket.remove(name)

    def _crown(self) -> None:
        """Name the winner: the arm with the best mean over its seeds, and its best trial."""
        self._trim(0 if not self.options.only else LEADERS)
        for item in self.history.trials.values():
            if item.status is Status.STOPPED and not self.options.only:  # nobody will go on with it now
                self._remove(item.trial.id, "checkpoints")
        if self.spec.pareto or self.options.limit_batches:
            return
        finished = [item for item in self.history.in_plan() if item.status is Status.FINISHED]
        if self.spec.search:
            finished = [item for item in finished if item.trial.arm in self.confirmed]
        ranked = rank_arms(finished, self.spec.objective)
        if not ranked:
            return
        winner = best_trial([item for item in finished if item.trial.arm == ranked[0]], self.spec.objective)
        if winner is None or (winner.trial.id == self.history.champion and self.ran == 0):
            return
        self._record("champion", id=winner.trial.id, value=winner.end.get("best_value"))

    def _illustrate(self) -> None:
        """Put the pictures that a report cannot make without the data beside the journal and on record."""
        kept = self.folder / "test_images.npz"
        if self.options.limit_batches or (self.ran == 0 and kept.exists()):
            return
        from suite import gallery

        try:
            self._fetch(*(f"trials/{item.trial.id}/predictions.npz" for item in self.history.in_plan()))
            for name, content in gallery.illustrations(
                list(self.history.in_plan()), self.plan.images_of, self.folder
            ).items():
                (self.folder / name).write_bytes(content)
                self._record("file", id=None, path=name)
        except Exception as error:  # pictures never stop a sweep: its results are all there
            self.board.warn(f"pictures for the report could not be made: {type(error).__name__}: {error}")

    def _close(self, finished: bool, stop: Any) -> int:
        """The exit code, after everything is on record and sent."""
        self._removals.shutdown()
        items = list(self.history.in_plan())
        for item in items:
            if item.status is Status.RUNNING:  # its worker was ended by force
                self._record("end", id=item.trial.id, status="interrupted", epochs=len(item.records))
        failed = any(item.status is Status.FAILED for item in items)
        self._record("close", status="finished" if finished else "interrupted", counts=self.history.counts())
        if not self.journal.flush(FLUSH_S):
            stop.problem = stop.problem or f"the journal cannot be written: {self._no_room()}"
        synced = self.sender.drain(FAST_DRAIN_S if stop.signal else DRAIN_S)
        if synced and finished and self.history.champion:
            self._register()
        self.sender.close()
        self.journal.close()
        if stop.signal is not None:
            return 128 + int(stop.signal)
        if stop.problem:
            return EnvironmentProblem.exit_code
        if failed:
            return 3
        return 0 if synced else 4

    def _register(self) -> None:
        """Register the champion as a model that loads and predicts without this package."""
        champion = self.history.champion
        run = self.tracker.run_id(champion) if champion else None
        if not isinstance(self.tracker, MlflowTracker) or champion is None or run is None:
            return
        item, best = self.history.trials[champion], self.folder / "trials" / champion / "best.pt"
        try:
            self._fetch(f"trials/{champion}/best.pt")
            if not best.exists():  # another plan's champion took its place meanwhile
                self.registered = self.tracker.restore_champion(run) is not None
                if not self.registered:
                    again = f"--force --only {shlex.quote(item.trial.arm)}"
                    self.board.warn(f"the champion's checkpoint is gone, so it is not registered; for one: {again}")
                return
            from suite.train import rebuild

            dataset = self.plan.images_of(item)
            example = dataset.test_images[:8].astype("float32") / 255
            self.registered = self.tracker.register_champion(run, rebuild(item.trial, best), example) is not None
        except Exception as error:  # tracking never stops a sweep; its results are all there
            self.board.warn(f"the champion could not be registered: {type(error).__name__}: {error}")


class _Runner:
    """Ray, started when there is something to run."""

    def __init__(self, launch: Launch, stop: Any) -> None:
        self.launch, self.stop, self.stack = launch, stop, ExitStack()
        self.started = False
        self.gpu = 0.0
        self.pack = 1  # trials that a measurement found best to train as one
        self.slots = 1  # packs that can run at once

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def start(self) -> Numerics:
        """Start Ray, once; GPUs per trial and the numerics: given, or measured where trials will run."""
        from suite import tuner

        launch, spec = self.launch, self.launch.spec
        if self.started and launch.numerics is not None:
            return launch.numerics
        wanted = spec.resources.gpu

        def measure() -> tuple[Numerics, float, int, list[str]]:
            where = [str(spec.folder)]
            return tuner.measure(launch.plan.networks(), spec.resources.cpu, wanted, launch.numerics, where)

        found = measure() if not wanted and tuner.starts_here(launch.options.address) else None
        resources = self.stack.enter_context(tuner.cluster(launch.options.address, launch.options.verbose))
        self.stop.listen()
        self.started = True
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        _within("cpu", spec.resources.cpu, cpus, spec)
        if wanted and not gpus:
            launch.board.console.print("no GPU here: the sweep runs on the CPU", highlight=False)
            wanted = 0.0
        numerics, self.gpu, self.pack, lines = found or measure()
        for line in lines:
            launch.board.console.print(line, highlight=False)
        _within("gpu", self.gpu, gpus, spec)
        by_kind = [cpus / spec.resources.cpu, *([gpus / self.gpu] if self.gpu else [])]
        self.slots = max(1, int(min(*by_kind, launch.options.max_concurrent or math.inf)))
        return numerics

    def run(self, trials: Sequence[Trial], early: Any, complete: Sequence[Status] = COMPLETE) -> None:
        """Run what is left of ``trials``, in their order, in packs where the file says so."""
        launch = self.launch
        scheduler = self._scheduler(early, trials)
        waiting = launch._pending(trials, complete)
        launch.board.begin([trial.id for trial in trials])
        if not waiting:
            return
        launch.numerics = self.start()  # tells how many packs can run at once
        size = launch.spec.resources.pack if early is None else 1
        coming = deque(packs(waiting, self.pack if size == "auto" and self.pack > 1 else size, self.slots))

        def following() -> list[dict[str, Any]] | None:
            if not coming or not launch._has_room(self.stop):
                return None
            return [self._payload(trial.id) for trial in coming.popleft()]

        if coming:
            self._run(following, scheduler, early)

    def search(self) -> None:
        """Optuna asks for arms, on the first seed, until there are ``run_cap`` of them."""
        from suite.search import OptunaSearch

        launch, spec = self.launch, self.launch.spec
        seed = spec.seeds[0]
        history = launch.history
        begun = [item for item in history.trials.values() if item.trial.seed == seed and self._is_current(item)]
        early = None if spec.pareto else spec.early_terminate
        scheduler = self._scheduler(early, [item.trial for item in begun])
        study = OptunaSearch(
            spec.space, spec.objectives, spec.name,
            known=[(item.entry["choices"], outcome(item, spec.objectives)) for item in begun if _settled(item)],
        )  # fmt: skip
        waiting = launch._pending([item.trial for item in begun])
        asked: dict[str, int] = {}
        planned = [item.trial.id for item in begun]
        for arm in spec.baseline_arms:
            trial = launch.plan.trial(arm, seed)
            if trial.id not in planned:
                launch._plan_trial(arm, trial)
                planned.append(trial.id)
                waiting.append(trial)
        launch._record_plan(planned)
        launch.board.begin(planned, total=max(spec.run_cap, len(planned)))

        if not waiting and len(planned) >= spec.run_cap:
            return

        def following() -> list[dict[str, Any]] | None:
            if not launch._has_room(self.stop):
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
                launch._plan_trial(arm, trial)
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
        from suite.tuner import EarlyStop

        launch = self.launch
        epochs = max((int(trial.config["train"]["epochs"]) for trial in trials), default=None)
        epochs = epochs or max(config.train.epochs for config, _, _ in launch.plan.networks())
        scheduler = EarlyStop(early, launch.spec.objective, getattr(early, "max_epochs", None) or epochs)
        for trial_id in sorted(scheduler.replay(list(launch.journal.entries), {trial.id for trial in trials})):
            item = launch.history.trials[trial_id]
            if not _settled(item):  # the process died before that was on record, or while the trial was confirmed
                epochs = item.stopped_at or len(item.records)
                launch._record(
                    "end", id=trial_id, status="stopped", reason=f"{early.type} after epoch {epochs}", epochs=epochs
                )
        return scheduler

    def _payload(self, trial_id: str) -> dict[str, Any]:
        from suite.tuner import payload

        item = self.launch.history.trials[trial_id]
        return payload(item, *self.launch.plan.keys_of(item))

    def _run(
        self,
        following: Callable[[], list[dict[str, Any]] | None],
        scheduler: EarlyStop | None,
        early: Any,
        on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    ) -> None:
        from suite import tuner
        from suite.callback import JournalCallback

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
            cpu=spec.resources.cpu,
            gpu=self.gpu,
            callback=callback,
            stop=self.stop,
            scheduler=scheduler,
            on_complete=on_complete,
            max_concurrent=launch.options.max_concurrent,
            storage=launch.folder / "tune",
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


def _as_searched(item: TrialHistory) -> TrialHistory:
    """A trial as the search left it: its confirmation at full length must not change which arms are confirmed."""
    if item.stopped_at is None:
        return item
    return replace(item, records={epoch: record for epoch, record in item.records.items() if epoch <= item.stopped_at})


def outcome(item: TrialHistory, objectives: Sequence[Objective]) -> list[float] | None:
    """What a searcher is told of a trial: each objective at the epoch that the first one chooses; None = failed."""
    chosen = objectives[0].chosen(item.curve)
    if item.status is Status.FAILED or chosen is None:
        return None
    values = [chosen.metrics.get(objective.name) for objective in objectives]
    return None if any(value is None for value in values) else [float(value) for value in values]  # type: ignore[arg-type]


def best_trial(items: Sequence[TrialHistory], objective: Objective) -> TrialHistory | None:
    """The trial with the best value of its own."""
    best: tuple[TrialHistory, float] | None = None
    for item in items:
        value = item.value(objective)
        if value is not None and objective.better(value, best[1] if best else None):
            best = (item, value)
    return best[0] if best else None


class _Budget:
    """Requests a stop after so many seconds."""

    def __init__(self, stop: Any, seconds: float | None) -> None:
        self.timer = threading.Timer(seconds, stop.request, [f"budget of {duration(seconds)}"]) if seconds else None

    def __enter__(self) -> None:
        if self.timer is not None:
            self.timer.daemon = True
            self.timer.start()

    def __exit__(self, *error: object) -> None:
        if self.timer is not None:
            self.timer.cancel()


def _delete(path: Path) -> None:
    """Delete a file or a folder, if it is there and can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text)
    draft.replace(path)


def check_only(spec: SweepSpec, only: Sequence[str]) -> None:
    """Refuse names that are no arms; a search does not know its arms beforehand.

    Raises:
        UsageError: naming those that there are.
    """
    names = {arm.name for arm in spec.arms_list}
    unknown = [name for name in only if spec.method != "optuna" and name not in names]
    if unknown:
        raise UsageError(
            f"--only must name arms of the sweep, got {', '.join(map(repr, unknown))}",
            remedy=f"It has: {', '.join(sorted(names))}.",
        )


def launch(
    plan: Plan, folder: Path, make_tracker: Callable[[str], Tracker], options: Options, board: Board,
    bucket: Bucket | None = None,
) -> Ended:  # fmt: skip
    """Run what is left of a sweep.

    Args:
        plan: the prepared sweep.
        folder: its folder; with a bucket a working copy of this machine's.
        make_tracker: journal id -> tracker.
        options, board: what the command line adds, where progress is shown.
        bucket: the sweep's place in an object store.

    Raises:
        LockedError: another process runs it.
        UsageError: ``--resume`` where there is nothing to resume; ``--only`` names no arm.
    """
    check_only(plan.spec, options.only)
    if options.resume and not (folder / FILE_NAME).exists():
        raise UsageError(f"--resume: there is nothing to resume in {folder}", remedy="Leave --resume out to start.")
    lock = Lock(folder)
    try:
        with bucket.owned(uuid.uuid4().hex) if bucket is not None else nullcontext():
            return Launch(plan, folder, make_tracker, options, board, bucket).run()
    finally:
        lock.release()
