"""One launch of a sweep: run the planned trials that the journal does not record as complete.

::

    claim the storage -> journal -> close what died -> plan, less what has finished -> numerics
        -> packs through Tune -> (a search: its best arms on unseen seeds) -> champion
        -> tracking drained
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from suite.console.board import Board
from suite.console.output import duration
from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Status
from suite.launch import search_phases
from suite.launch.champion import register_champion, select_champion, write_report_images
from suite.launch.launch_entry import record_launch
from suite.launch.ledger import FLUSH_S, Ledger
from suite.launch.look_rounds import run_rounds
from suite.launch.numerics import pinned_numerics, warn_of_other_precision
from suite.launch.options import LaunchResult, Options, check_only
from suite.launch.retention import LEADERS, Retention
from suite.launch.runner import Runner
from suite.launch.takeover import take_over
from suite.planning.plan import Plan
from suite.storage.base import AnotherOwner, StorageUnavailable, SweepStorage
from suite.storage.journal import FILE_NAME, Entry
from suite.system import signals
from suite.tracking import Sender, Tracker, TrackingUnavailable, warm_export

if TYPE_CHECKING:  # imports ray
    from suite.execution.stop import Stop

DRAIN_S = 60.0  # how long to wait for tracking at the end
FAST_DRAIN_S = 5.0  # after a signal


class Launch:
    """A launch in progress. Made while the storage is claimed; ``run`` does everything.

    Args:
        plan: the prepared sweep.
        storage: where the sweep is kept.
        make_tracker: journal id -> tracker.
        board: where progress is shown.
    """

    def __init__(
        self,
        plan: Plan,
        storage: SweepStorage,
        make_tracker: Callable[[str], Tracker],
        options: Options,
        board: Board,
    ) -> None:
        self.spec, self.options, self.board = plan.spec, options, board
        self.ledger = Ledger(plan, storage, options, board)
        self.retention = Retention(self.ledger)
        self.ran = 0
        self._may_have_champion = True
        self._export_is_warm = False  # for the champion's registration
        self.tracker = make_tracker(self.ledger.journal.entries[0]["id"])
        cursor = storage.folder / "tracking.json"
        self.sender = Sender(self.tracker, cursor, board.tell, partial(_ensure_local, storage))

    def run(self) -> LaunchResult:
        """Run what is left; close everything, whatever happens."""
        from suite.execution.stop import Stop, StoppedError

        ledger, started = self.ledger, time.monotonic()
        stop = ledger.stop = Stop(partial(ledger.storage.request_stop, ledger.token))
        finished = registered = False
        try:
            with stop.on_signals(self.board.warn):
                take_over(ledger, self.retention)
                with _Budget(stop, self.options.budget_s), suppress(StoppedError):
                    self._run_phases(stop)
                finished = not stop.requested
                if not self.spec.looks:
                    ledger.record_look()
                if finished:
                    self._select_champion()
                    write_report_images(ledger, self.ran)
        finally:
            code, registered = self._close(finished, stop)
        return LaunchResult(
            history=ledger.history,
            exit_code=code,
            seconds=time.monotonic() - started,
            ran=self.ran,
            confirmed=tuple(ledger.confirmed),
            champion=self.champion,
            registered=registered,
            run_ids={
                item.trial.id: run
                for item in ledger.history.in_plan()
                if (run := self.tracker.run_id(item.trial.id))
            },
            parent_run=self.tracker.run_id(None),
            page=self.tracker.page_url(),
            message=_message(stop),
        )

    @property
    def champion(self) -> str | None:
        """The id of the best arm's best trial."""
        return self.ledger.history.champion if self._may_have_champion else None

    # ---- phases ----------------------------------------------------------------------------------

    def _run_phases(self, stop: Stop) -> None:
        spec, ledger = self.spec, self.ledger
        with ExitStack() as stack:
            runner = stack.enter_context(Runner(ledger, stop, self._on_end))
            pinned = pinned_numerics(ledger)
            ledger.numerics = pinned or runner.start()
            self._record_launch()
            warn_of_other_precision(ledger)
            if pinned and spec.resources.compile is (not pinned.compiled):
                word = "yes" if pinned.compiled else "no"
                self.board.warn(
                    f"compile: {word}, as this sweep's last launch had it: its numerics stay"
                )
            stack.enter_context(self.board.shown())
            if spec.looks:
                run_rounds(ledger, runner, stop)
            elif not spec.search:
                grid = ledger.plan.trials(spec.arms_list)
                ledger.plan_trials(grid)
                runner.run([trial for _, trial in grid], early=spec.early_terminate)
            else:
                self._run_search(runner, stop)

    def _run_search(self, runner: Runner, stop: Stop) -> None:
        if self.spec.method == "optuna":
            search_phases.run_optuna(self.ledger, runner)
        else:
            search_phases.run_random(self.ledger, runner)
        if not stop.requested and not self.spec.pareto:
            search_phases.confirm(self.ledger, runner)

    def _record_launch(self) -> None:
        """Put the launch on record, and send tracking what it has not seen, then each entry once
        it is durable.
        """
        ledger = self.ledger
        record_launch(ledger)
        if not self.spec.search:
            ledger.record_look()  # of an older version, or of a launch that died just before
        if self.options.force:
            before = [ledger.history.trials[trial] for trial in ledger.planned_before()]
            ledger.reset_trials([item for item in before if ledger.is_selected(item.trial.arm)])
        ledger.flush()
        for entry in list(ledger.journal.entries):
            self.sender.put(entry)
        ledger.journal.subscribe(self.sender.put)

    # ---- ends ------------------------------------------------------------------------------------

    def _on_end(self, trial_id: str) -> None:
        """A trial ended: count it, and apply the checkpoint budget."""
        item, stop = self.ledger.history.trials[trial_id], self.ledger.stop
        if item.status is Status.INTERRUPTED:
            if stop is not None and ("halt" in item.end or not stop.requested):
                stop.give_up(item.end.get("halt") or "another launch took this sweep over")
            return
        self.ran += 1
        self._warm_export()
        if item.status is Status.FINISHED:
            self.retention.on_finished(trial_id)

    def _warm_export(self) -> None:
        """Import what registers the champion while the last trials train."""
        ledger = self.ledger
        waiting = (
            item
            for item in ledger.history.in_plan()
            if item.status is Status.PENDING and ledger.is_selected(item.trial.arm)
        )
        if self._export_is_warm or any(waiting):
            return
        self._export_is_warm = True
        if self.tracker.has_model_registry and not self.spec.pareto and self.spec.checkpoints.keep:
            warm_export()

    def _select_champion(self) -> None:
        """Apply the final checkpoint budget, and select the champion."""
        ledger = self.ledger
        self.retention.prune_checkpoints(0 if not self.options.only else LEADERS)
        for item in ledger.history.trials.values():
            if (
                item.status is Status.STOPPED and not self.options.only
            ):  # no later phase goes on with it
                self.retention.remove(item.trial.id, "checkpoints")
        if not self.spec.pareto and not self.options.limit_batches:
            self._may_have_champion = select_champion(ledger, self.ran)

    def _close(self, finished: bool, stop: Stop) -> tuple[int, bool]:
        """The exit code, and whether the champion is registered, after everything is on record
        and sent.
        """
        ledger, registered = self.ledger, False
        self.retention.close(cancel=stop.requested and ledger.storage.is_remote)
        items = list(ledger.history.in_plan())
        for item in items:
            if item.status is Status.RUNNING:  # its worker was ended by force
                ledger.record(
                    "end", id=item.trial.id, status="interrupted", epochs=len(item.records)
                )
        failed = any(item.status is Status.FAILED for item in items)
        ledger.record(
            "close",
            status="finished" if finished else "interrupted",
            counts=ledger.history.counts(),
        )
        if not ledger.journal.flush(
            1.0 if isinstance(ledger.journal.failure, AnotherOwner) else FLUSH_S
        ):
            stop.problem = (
                stop.problem or f"the journal cannot be written: {ledger.describe_failure()}"
            )
        synced = self.sender.drain(FAST_DRAIN_S if stop.signal else DRAIN_S)
        if synced and finished and self.champion:
            registered = register_champion(ledger, self.tracker)
        self.sender.close()
        ledger.journal.close()
        if stop.signal is not None:
            return 128 + int(stop.signal), registered
        if stop.problem:
            return EnvironmentProblem.exit_code, registered
        return (3 if failed else 0 if synced else 4), registered


def _ensure_local(storage: SweepStorage, entry: Entry) -> None:
    """Have the files of an entry here, before tracking uploads them.

    Raises:
        TrackingUnavailable: the storage does not answer.
    """
    names: list[str] = []
    if entry["kind"] == "file" and entry.get("id"):
        names = [entry["path"]]
    if entry["kind"] == "images":
        names = [f"{entry['folder']}/{name}" for name in (*entry["files"], f"{entry['key']}.json")]
    try:
        storage.fetch(*names)
    except StorageUnavailable as error:
        raise TrackingUnavailable(str(error.strerror)) from error


def _message(stop: Stop) -> str:
    """Why the launch stopped early, else ""."""
    if stop.requested:
        return f"stopped ({stop.reason}); launch the same command again to go on"
    if stop.problem:  # only the journal's last entries did not fit
        return f"{stop.problem}; make room and launch the same command again"
    return ""


class _Budget:
    """Requests a stop after so many seconds."""

    def __init__(self, stop: Any, seconds: float | None) -> None:
        self.timer = (
            threading.Timer(seconds, stop.request, [f"budget of {duration(seconds)}"])
            if seconds
            else None
        )

    def __enter__(self) -> None:
        if self.timer is not None:
            self.timer.daemon = True
            signals.start(self.timer)

    def __exit__(self, *error: object) -> None:
        if self.timer is not None:
            self.timer.cancel()


def launch(
    plan: Plan,
    storage: SweepStorage,
    make_tracker: Callable[[str], Tracker],
    options: Options,
    board: Board,
) -> LaunchResult:
    """Run what is left of a sweep.

    Args:
        plan: the prepared sweep.
        storage: where it is kept.
        make_tracker: journal id -> tracker.
        options, board: what the command line adds, where progress is shown.

    Raises:
        LockedError: another process runs it.
        UsageError: ``--resume`` with nothing to resume; ``--only`` names no arm.
    """
    check_only(plan.spec, options.only)
    if options.resume and not (storage.folder / FILE_NAME).exists():
        raise UsageError(
            f"--resume: there is nothing to resume in {storage.folder}",
            remedy="Leave --resume out to start.",
        )
    with storage.claim():
        return Launch(plan, storage, make_tracker, options, board).run()
