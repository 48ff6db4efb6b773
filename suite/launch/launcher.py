"""One launch of a sweep, from the lock to the last word: what is left of the plan is run, whatever came before.

::

    lock -> journal -> what died is closed -> plan, less what has finished -> numerics -> packs through Tune
         -> (a search: its best arms on unseen seeds) -> champion -> tracking drained -> lock released
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.analysis import baselines, lost_seeds, rank_arms
from suite.config import Arm, SweepSpec
from suite.console.board import Board
from suite.console.output import duration
from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Numerics, Objective, Status, Trial
from suite.launch.runner import COMPLETE, Runner
from suite.planning.plan import Plan, weights_key
from suite.planning.rounds import Round, rounds
from suite.storage.bucket import AnotherOwner, Bucket, BucketUnavailable, reached
from suite.storage.checkpoint import MANIFEST
from suite.storage.journal import (
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
from suite.system import disk, environment, signals
from suite.tracking import Sender, Tracker, TrackingUnavailable, warm_export

if TYPE_CHECKING:
    from suite.execution.tuner import Stop

DRAIN_S = 60.0  # at the end, wait so long for tracking to catch up
FAST_DRAIN_S = 5.0  # after a signal
TAKE_S = 60.0  # so long a bucket may take for the first entry
STOP_TRIES = 10  # of telling workers through a bucket, a second between them
FLUSH_S = 20.0  # so long a full disk may keep the journal from being written before a launch is given up
LEADERS = 4  # arms beyond `checkpoints.keep` whose best checkpoint is kept while the ranking may still change


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
        self._all_lost_seeds = False  # then there is no champion, whoever was it before
        self._warmed = False  # for the champion's registration
        self.numerics: Numerics | None = None
        self._removals = ThreadPoolExecutor(1, "removals")
        if not self.journal.entries:
            self.record("journal", id=uuid.uuid4().hex)
        self.tracker = make_tracker(self.journal.entries[0]["id"])
        self.sender = Sender(self.tracker, folder / "tracking.json", self._tracking_changed, self._bring)

    def record(self, kind: str, **fields: Any) -> None:
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
        from suite.execution.tuner import Stop, StoppedError

        started = time.monotonic()
        stop = self.stop = Stop(self.folder, self._post_stop)
        finished = False
        try:
            with stop.on_signals(lambda text: self.board.warn(text)):
                self._take_over()
                with _Budget(stop, self.options.budget_s), suppress(StoppedError):
                    self._run_phases(stop)
                finished = not stop.requested
                if not self.spec.looks:
                    self._record_look()
                if finished:
                    self._crown()
                    self._illustrate()
        finally:
            code = self._close(finished, stop)
        confirmed = tuple(self.confirmed)
        ended = Ended(self.history, code, time.monotonic() - started, self.ran, confirmed, self._champion)
        ended.registered = self.registered
        ended.parent_run = self.tracker.run_id(None)
        ended.page = self.tracker.page_url()
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
            threading.Thread(target=self._put_stop, args=(self.bucket.brisk(),), name="stop", daemon=True).start()

    def _put_stop(self, bucket: Bucket) -> None:
        for _ in range(STOP_TRIES):
            try:
                bucket.put(STOP_FILE, self.token.encode())  # to this launch's workers: others may own the sweep now
                return
            except BucketUnavailable:
                time.sleep(1.0)

    def _take_over(self) -> None:
        """Make this process the folder's owner: token, stale states, the launch and the plan on record."""
        kept: set[str] = set()
        if self.bucket is not None:
            self._take_bucket()
            kept = {"/".join(name.split("/")[:3]) for name in self.bucket.names("trials/")}
        _write(self.folder / LAUNCH_FILE, self.token)
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        if stale := close_stale(self.history, self.record):
            self.board.warn(f"found an unfinished launch: {stale} trials go on from their checkpoints")
        # A launch may have died between having that on record and clearing their folders.
        self._clear([item for item in self.history.trials.values() if item.forgotten])
        for item in self.history.trials.values():  # what a launch that died had on record as gone, and still lies there
            for name, gone in (
                ("checkpoints", item.status is Status.FINISHED),
                ("best.pt", item.ended and not item.kept),
            ):
                if gone and (self.bucket is None or f"trials/{item.trial.id}/{name}" in kept):
                    self._remove(item.trial.id, name)

    def _take_bucket(self) -> None:
        """Pass the fence before anything there is touched: of two launches one cannot write this entry.

        Raises:
            AnotherOwner, BucketUnavailable, EnvironmentProblem: the launch ends here.
        """
        assert self.bucket is not None
        self.record("take", token=self.token)
        end = time.monotonic() + TAKE_S
        while not self.journal.flush(1.0):
            failure = self.journal.failure
            if isinstance(failure, AnotherOwner) or time.monotonic() > end:
                if isinstance(failure, (AnotherOwner, BucketUnavailable)):
                    raise failure
                raise EnvironmentProblem(f"the journal cannot be written: {self._no_room()}", remedy="Make room.")
        self.bucket.put(LAUNCH_FILE, self.token.encode())
        self.bucket.remove(STOP_FILE)
        _delete(self.folder / "trials")  # of this working copy: another machine may have trained some anew

    def _announce(self) -> None:
        spec = self.spec
        dataset = next(iter(self.plan.datasets.values()))
        assert self.numerics is not None
        self.record(
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
            looks=[list(look) for look in spec.looks],
            search_seed=spec.search_seed,
        )
        if not spec.search:
            self._record_look()  # of an older version, or of a launch that died just before
        if self.options.force:
            before = [self.history.trials[trial] for trial in self._planned_before()]
            self._forget([item for item in before if self._chosen(item.trial.arm)])
        self._start_sending()

    def _planned_before(self) -> list[str]:
        """Trials on record that the file still asks for; of a search, those of its last plan."""
        if self.spec.method == "optuna":
            return list(self.history.plan)
        known = (trial.id for _, trial in self.plan.trials(self.spec.arms_list))
        return [trial for trial in known if trial in self.history.trials]

    def _start_sending(self) -> None:
        """Send what tracking has not seen yet, then each entry as it becomes durable."""
        self._flush()
        for entry in list(self.journal.entries):
            self.sender.put(entry)
        self.journal.subscribe(self.sender.put)

    def _no_room(self) -> str:
        return disk.said(self.journal.failure, self.folder) if self.journal.failure else "the disk takes it too slowly"

    def has_room(self, stop: Any) -> bool:
        """Whether one more trial's checkpoints fit; where they do not, the launch stops as it would for a signal."""
        lacking = disk.lacking(self.folder, self.plan.trial_bytes, "checkpoints")
        if lacking:
            stop.give_up(lacking)
        return not lacking

    def _forget(self, items: Sequence[TrialHistory]) -> None:
        """Have trials run again from their start. Nothing of theirs is removed before that is on record for good."""
        for item in items:
            self.record("forget", id=item.trial.id)
        self._flush()
        self._clear(items)

    def _clear(self, items: Sequence[TrialHistory]) -> None:
        for item in items:
            _delete(self.folder / "trials" / item.trial.id)
            if self.bucket is not None:
                self.bucket.remove_below(f"trials/{item.trial.id}")

    def _flush(self) -> None:
        if not self.journal.flush(FLUSH_S):
            raise EnvironmentProblem(f"the journal cannot be written: {self._no_room()}", remedy="Make room.")

    def _chosen(self, arm: str) -> bool:
        return not self.options.only or arm in self.options.only

    # ---- phases ----------------------------------------------------------------------------------------------------

    def _run_phases(self, stop: Any) -> None:
        spec = self.spec
        with ExitStack() as stack:
            runner = stack.enter_context(Runner(self, stop))
            pinned = self._pinned()
            self.numerics = pinned or runner.start()
            self._announce()
            self._say_kept()
            if pinned and spec.resources.compile is (not pinned.compiled):
                word = "yes" if pinned.compiled else "no"
                self.board.warn(f"compile: {word}, as this sweep's last launch had it: its numerics stay")
            stack.enter_context(self.board.shown())
            if spec.looks:
                self._run_rounds(runner, stop)
                return
            if not spec.search:
                grid = self.plan.trials(spec.arms_list)
                self._plan_trials(grid)
                runner.run([trial for _, trial in grid], early=spec.early_terminate)
                return
            runner.search() if spec.method == "optuna" else self._random(runner)
            if not stop.requested and not spec.pareto:
                self._confirm(runner)

    def _run_rounds(self, runner: Runner, stop: Any) -> None:
        """Run the seeds of one planned look after the other; decided arms get no more seeds."""
        first, announced = True, set[int]()
        while not stop.requested:
            known = rounds(self.plan, self.history)
            self._record_planned_looks(known, announced, quiet=first)
            present = known[-1]
            if first or [trial.id for _, trial in present.pairs] != self.history.plan:
                self._plan_trials(present.pairs)
            # Only the first pass runs failed trials again: otherwise each round would.
            trials = [trial for _, trial in present.pairs if first or not self.history.trials[trial.id].ended]
            if not self.pending(trials):
                if not present.ended:
                    look = f"look {present.number} of {len(self.spec.looks)}"
                    self.board.warn(f"{look} waits for trials of the arms that --only left out")
                return
            runner.run(trials, early=None)
            first = False

    def _record_planned_looks(self, known: Sequence[Round], announced: set[int], quiet: bool) -> None:
        """Put looks on record, and say what they decided; ``quiet``: not of those that are on record."""
        for taken in known:
            if not taken.ended:
                continue
            new = taken.seeds not in self.history.looks
            if new:
                self.record("look", seeds=list(taken.seeds))
            if taken.number not in announced and (new or not quiet):
                text = _describe_look(taken, len(self.spec.looks))
                self.board.console.print(text, markup=False, highlight=False, soft_wrap=True)
            announced.add(taken.number)

    def _record_look(self) -> None:
        """Put on record at which seeds the verdicts can be read now, if those are other seeds than the last time."""
        trials = list(self.history.in_plan())
        if not trials or not all(item.ended for item in trials):
            return
        seeds = tuple(sorted({item.trial.seed for item in trials if self._counts_for_verdicts(item)}))
        if seeds and self.history.looks[-1:] != [seeds]:
            self.record("look", seeds=list(seeds))

    def _counts_for_verdicts(self, item: TrialHistory) -> bool:
        """Of a search, only confirmed arms count, with the seeds that the search has not seen."""
        trial = item.trial
        return not self.spec.search or (trial.arm in self.confirmed and trial.seed in self.spec.confirm_seeds)

    def _say_kept(self) -> None:
        """Precision is no part of a trial's identity: say so where the file's is no longer that of what is kept."""
        assert self.numerics is not None
        now = self.numerics.precision
        ended = [item for one in self._planned_before() if (item := self.history.trials[one]).ended]
        kept = {str((item.entry.get("numerics") or {}).get("precision", now)) for item in ended}
        if other := sorted(kept - {now}):
            self.board.warn(
                f"precision is now {now}; what was trained in {' and '.join(other)} is kept as it is "
                "(--force runs it again), and is not paired with the new"
            )

    def _pinned(self) -> Numerics | None:
        """The numerics of an earlier launch: they stay, unless the file now asks for another precision."""
        known = self.history.launch.get("numerics")
        wanted = {config.train.precision for config, _, _ in self.plan.networks()} - {"auto"}
        if known is None or (wanted and wanted != {known["precision"]}):
            return None
        return Numerics(**known)

    def _random(self, runner: Runner) -> None:
        first = [(arm, self.plan.trial(arm, self.spec.seeds[0])) for arm in self._with_baseline(self.spec.arms_list)]
        self._plan_trials(first)
        runner.run([trial for _, trial in first], early=self.spec.early_terminate)

    def _with_baseline(self, arms: Iterable[Arm]) -> list[Arm]:
        return list({arm.name: arm for arm in [*self.spec.baseline_arms, *arms]}.values())

    def _confirm(self, runner: Runner) -> None:
        """The best arms of a search, and the baseline, at full length on the seeds that it has not seen."""
        first = self.spec.seeds[0]
        candidates = [item for item in self.history.in_plan() if item.trial.seed == first and item.status in COMPLETE]
        ranked = rank_arms(map(_as_searched, candidates), self.spec.objective)
        names = [name for name in ranked if self._chosen(name)][: self.spec.confirm.top]
        arms = [arm for name in names if (arm := self._find_arm(name)) is not None]
        arms = self._with_baseline(arms)
        self.confirmed = [arm.name for arm in arms]
        pairs = self.plan.trials(arms, self.spec.confirm_seeds)
        self._plan_trials(pairs, keep=True)
        trials = [trial for _, trial in pairs]
        if self.pending(trials, (Status.FINISHED,)):
            unseen = "unseen seeds" if self.spec.search_seed is not None else "seed"
            text = f"confirming {len(arms)} arms on {len(self.spec.confirm_seeds)} {unseen}"
            self.board.console.print(text, highlight=False)
        runner.run(trials, early=None, complete=(Status.FINISHED,))

    def _find_arm(self, name: str) -> Arm | None:
        for item in self.history.trials.values():
            if item.trial.arm == name:
                return self.plan.arm_of(self.history, item.trial.id)
        return None

    def _plan_trials(self, pairs: Sequence[tuple[Arm, Trial]], keep: bool = False) -> None:
        """Put trials on record that are new, and the plan as it now stands."""
        for arm, trial in pairs:
            self.plan_trial(arm, trial)
        ids = [trial.id for _, trial in pairs]
        if keep:
            ids = list(dict.fromkeys([*self.history.plan, *ids]))
        self.record_plan(ids)

    def plan_trial(self, arm: Arm, trial: Trial) -> None:
        if trial.id in self.history.trials:
            return
        self._record_trial(arm, trial)

    def _record_trial(self, arm: Arm, trial: Trial) -> None:
        assert self.numerics is not None
        key = weights_key(arm.config.model)
        self.record(
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

    def renew(self, trials: Iterable[Trial]) -> None:
        """Trials that are to run, but were planned with other numerics, start anew with those of this launch.

        Without that a trial would be half trained with the one and half with the other, and say it was the first.
        """
        assert self.numerics is not None
        now, known = self.numerics.key(asdict(self.numerics)), self.history.trials
        stale = [trial for trial in trials if self.numerics.key(known[trial.id].entry.get("numerics")) != now]
        begun = [known[trial.id] for trial in stale if known[trial.id].status is not Status.PENDING]
        if begun:
            self.board.warn(
                f"precision is now {self.numerics.precision}: of the trials that had begun with other numerics, "
                f"{len(begun)} not yet done will start anew"
            )
            self._forget(begun)
        for trial in stale:
            arm = self.plan.arm_of(self.history, trial.id)
            assert arm is not None  # it is to run, so the file asks for it
            self._record_trial(arm, self.plan.trial(arm, trial.seed))

    def record_plan(self, ids: list[str]) -> None:
        self.record("plan", ids=ids, confirmed=self.confirmed, baseline=[arm.name for arm in self.spec.baseline_arms])

    def pending(self, trials: Iterable[Trial], complete: Sequence[Status] = COMPLETE) -> list[Trial]:
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
            if self.stop is not None and ("halt" in item.end or not self.stop.requested):
                self.stop.give_up(item.end.get("halt") or "another launch took this sweep over")
            return
        self.ran += 1
        waiting = (
            one for one in self.history.in_plan() if one.status is Status.PENDING and self._chosen(one.trial.arm)
        )
        if not self._warmed and not any(waiting):
            self._warmed = True
            if self.tracker.has_model_registry and not self.spec.pareto and self.spec.checkpoints.keep:
                warm_export()
        if item.status is Status.FINISHED:
            self._remove(trial_id, "checkpoints")
            if item.kept:
                self.record("file", id=trial_id, path=f"trials/{trial_id}/best.pt", folder="checkpoints")
            self._trim(LEADERS)

    def _trim(self, more: int) -> None:
        """Drop the best checkpoints that the budget does not allow: all but the leading arms' best trials."""
        keep = self.spec.checkpoints.keep
        if keep == "all":
            return
        finished = [item for item in self.history.in_plan() if item.status is Status.FINISHED]
        candidates = [item for item in finished if self._counts_for_verdicts(item)]
        # Until arms are confirmed, and behind those that are, the search's own order counts.
        order = dict.fromkeys([*self._ranked(candidates), *self._ranked(finished)])
        spared: set[str] = set()
        for name in list(order)[: keep + more]:
            own = [item for item in candidates if item.trial.arm == name]
            own = own or [item for item in finished if item.trial.arm == name]
            best = best_trial(own, self.spec.objective)
            if best is not None:
                spared.add(best.trial.id)
        for item in self.history.trials.values():
            if item.kept and item.trial.id not in spared:
                self.record("drop", id=item.trial.id)
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
        candidates = [item for item in self.history.in_plan() if self._counts_for_verdicts(item)]
        finished = [item for item in candidates if item.status is Status.FINISHED]
        ranked = self._ranked(finished)
        if not ranked:
            return
        if ranked[0] in self._arms_with_lost_seeds():
            self._all_lost_seeds = True
            self.board.warn("no champion: every arm lost seeds that another one finished")
            return
        winner = best_trial([item for item in finished if item.trial.arm == ranked[0]], self.spec.objective)
        if winner is None or (winner.trial.id == self.history.champion and self.ran == 0):
            return
        self.record("champion", id=winner.trial.id, value=winner.end.get("best_value"))

    def _ranked(self, finished: Sequence[TrialHistory]) -> list[str]:
        """Arms by their mean, best first; those that lost seeds follow the others: only their lucky seeds count."""
        lost = self._arms_with_lost_seeds()
        return sorted(rank_arms(finished, self.spec.objective), key=lambda arm: arm in lost)

    def _arms_with_lost_seeds(self) -> set[str]:
        """Arms that failed, or were stopped, on seeds that their baseline finished."""
        items = [item for item in self.history.in_plan() if self._counts_for_verdicts(item)]
        planned = {(item.trial.arm, item.trial.seed) for item in items}
        removed = (
            []
            if self.spec.search
            else [item for item in self.history.trials.values() if (item.trial.arm, item.trial.seed) not in planned]
        )  # taking failed seeds out of the file does not undo their loss
        return set(lost_seeds([*items, *removed], baselines(items)))

    def _illustrate(self) -> None:
        """Put the pictures that a report cannot make without the data beside the journal and on record."""
        kept = self.folder / "test_images.npz"
        if self.options.limit_batches or (self.ran == 0 and kept.exists()):
            return
        from suite.visuals import gallery

        try:
            self._fetch(*(f"trials/{item.trial.id}/predictions.npz" for item in self.history.in_plan()))
            for name, content in gallery.illustrations(
                list(self.history.in_plan()), self.plan.images_of, self.folder
            ).items():
                (self.folder / name).write_bytes(content)
                self.record("file", id=None, path=name)
        except Exception as error:  # pictures never stop a sweep: its results are all there
            self.board.warn(f"pictures for the report could not be made: {type(error).__name__}: {error}")

    def _close(self, finished: bool, stop: Any) -> int:
        """The exit code, after everything is on record and sent."""
        self._removals.shutdown(
            cancel_futures=stop.requested and self.bucket is not None
        )  # the next launch removes the rest
        items = list(self.history.in_plan())
        for item in items:
            if item.status is Status.RUNNING:  # its worker was ended by force
                self.record("end", id=item.trial.id, status="interrupted", epochs=len(item.records))
        failed = any(item.status is Status.FAILED for item in items)
        self.record("close", status="finished" if finished else "interrupted", counts=self.history.counts())
        if not self.journal.flush(1.0 if isinstance(self.journal.failure, AnotherOwner) else FLUSH_S):
            stop.problem = stop.problem or f"the journal cannot be written: {self._no_room()}"
        synced = self.sender.drain(FAST_DRAIN_S if stop.signal else DRAIN_S)
        if synced and finished and self._champion:
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

    @property
    def _champion(self) -> str | None:
        return None if self._all_lost_seeds else self.history.champion

    def _register(self) -> None:
        """Register the champion as a model that loads and predicts without this package."""
        champion = self.history.champion
        run = self.tracker.run_id(champion) if champion else None
        if not self.tracker.has_model_registry or champion is None or run is None:
            return
        item, best = self.history.trials[champion], self.folder / "trials" / champion / "best.pt"
        try:
            self._fetch(f"trials/{champion}/best.pt")
            if not best.exists():  # another plan's champion took its place meanwhile
                self.registered = self.tracker.restore_champion(run) is not None
                if not self.registered and self.spec.checkpoints.keep:
                    again = f"--force --only {shlex.quote(item.trial.arm)}"
                    self.board.warn(f"the champion's checkpoint is gone, so it is not registered; for one: {again}")
                return
            from suite.models.trained import rebuild

            dataset = self.plan.images_of(item)
            example = dataset.test_images[:8].astype("float32") / 255
            self.registered = self.tracker.register_champion(run, rebuild(item.trial, best), example) is not None
        except Exception as error:  # tracking never stops a sweep; its results are all there
            self.board.warn(f"the champion could not be registered: {type(error).__name__}: {error}")


def _as_searched(item: TrialHistory) -> TrialHistory:
    """A trial as the search left it: its confirmation at full length must not change which arms are confirmed."""
    if item.stopped_at is None:
        return item
    return replace(item, records={epoch: record for epoch, record in item.records.items() if epoch <= item.stopped_at})


def _describe_look(taken: Round, looks: int) -> str:
    """E.g. ``look 2 of 3: 12 seeds; decided: a, b; 3 arms go on``."""
    going = len(taken.undecided)
    parts = [f"look {taken.number} of {looks}: {len(taken.seeds)} seeds"]
    parts.append(f"decided: {', '.join(taken.decided) or 'none'}")
    if going:
        rest = "goes on" if going == 1 else "go on"
        ending = "undecided at the last look" if taken.number == looks else rest
        parts.append(f"{going} {'arm' if going == 1 else 'arms'} {ending}")
    return "; ".join(parts)


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
            signals.start(self.timer)

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
        with ExitStack() as stack:
            if bucket is not None:
                stack.enter_context(reached(bucket.address))
                stack.enter_context(bucket.owned(uuid.uuid4().hex))
            return Launch(plan, folder, make_tracker, options, board, bucket).run()
    finally:
        lock.release()
