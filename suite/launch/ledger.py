"""What a sweep has planned, what is pending and what is done: the journal and its state in one
place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from suite.config import Arm
from suite.console.board import Board
from suite.core.errors import EnvironmentProblem
from suite.core.records import Numerics, Status, Trial
from suite.launch.options import Options
from suite.planning.plan import Plan, weights_key
from suite.storage.base import AnotherOwner, SweepStorage
from suite.storage.journal import FILE_NAME, Journal, TrialHistory
from suite.system import disk

if TYPE_CHECKING:  # imports ray
    from suite.execution.stop import Stop

COMPLETE = (Status.FINISHED, Status.STOPPED)
FLUSH_S = (
    20.0  # how long a full disk may keep the journal from being written before a launch gives up
)


class Ledger:
    """The open journal of a sweep, with the plan that this launch works off.

    Attributes:
        history: the state of the sweep, up to date with the journal.
        numerics: of this launch; known once they are measured.
        confirmed: arms that a search confirms on further seeds.
        stop: the launch's request to stop, once there is one.
    """

    def __init__(self, plan: Plan, storage: SweepStorage, options: Options, board: Board) -> None:
        self.plan, self.spec, self.options, self.board = plan, plan.spec, options, board
        self.storage, self.folder = storage, storage.folder
        self.token = uuid.uuid4().hex
        self.stop: Stop | None = None
        self.numerics: Numerics | None = None
        self.confirmed: list[str] = []
        storage.download_journal()
        self.journal = Journal(self.folder / FILE_NAME, board.warn, self._mirror_journal)
        self.history = board.history
        for entry in self.journal.entries:
            self.history.feed(entry)
        if not self.journal.entries:
            self.record("journal", id=uuid.uuid4().hex)

    # ---- entries ---------------------------------------------------------------------------------

    def record(self, kind: str, **fields: Any) -> None:
        """Append an entry to the journal and to the history."""
        self.history.feed(self.journal.append(kind, **fields))

    def flush(self) -> None:
        """Wait until every entry is durable.

        Raises:
            EnvironmentProblem: the disk or the storage takes nothing.
        """
        if not self.journal.flush(FLUSH_S):
            raise EnvironmentProblem(
                f"the journal cannot be written: {self.describe_failure()}", remedy="Make room."
            )

    def describe_failure(self) -> str:
        """Why the journal is not written, for a message."""
        failure = self.journal.failure
        return disk.said(failure, self.folder) if failure else "the disk takes it too slowly"

    def _mirror_journal(self, seq: int, lines: bytes) -> None:
        """Store what the journal just got. Another process that writes there ends this launch."""
        try:
            self.storage.append_journal(seq, lines)
        except AnotherOwner as error:
            if self.stop is not None:
                self.stop.give_up(str(error.strerror))
            raise

    def record_look(self) -> None:
        """Record a look: the seeds at which verdicts can be read now.

        Does nothing while trials are left to run, or if the last look was at the same seeds.
        """
        trials = list(self.history.in_plan())
        if not trials or not all(item.ended for item in trials):
            return
        seeds = tuple(
            sorted({item.trial.seed for item in trials if self.counts_for_verdicts(item)})
        )
        if seeds and self.history.looks[-1:] != [seeds]:
            self.record("look", seeds=list(seeds))

    def counts_for_verdicts(self, item: TrialHistory) -> bool:
        """Of a search, only confirmed arms count, with the seeds that the search has not seen."""
        trial = item.trial
        return not self.spec.search or (
            trial.arm in self.confirmed and trial.seed in self.spec.confirm_seeds
        )

    # ---- the plan --------------------------------------------------------------------------------

    def plan_trials(self, pairs: Sequence[tuple[Arm, Trial]], keep: bool = False) -> None:
        """Put new trials on record, and the plan as it now stands; ``keep``: add to the plan on
        record.
        """
        for arm, trial in pairs:
            self.plan_trial(arm, trial)
        ids = [trial.id for _, trial in pairs]
        if keep:
            ids = list(dict.fromkeys([*self.history.plan, *ids]))
        self.record_plan(ids)

    def plan_trial(self, arm: Arm, trial: Trial) -> None:
        """Put a trial on record if it is new."""
        if trial.id not in self.history.trials:
            self._record_trial(arm, trial)

    def record_plan(self, ids: list[str]) -> None:
        """Put on record which trials the sweep now consists of."""
        baseline = [arm.name for arm in self.spec.baseline_arms]
        self.record("plan", ids=ids, confirmed=self.confirmed, baseline=baseline)

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

    def planned_before(self) -> list[str]:
        """Trials on record that the file still asks for; of a search, those of its last plan."""
        if self.spec.method == "optuna":
            return list(self.history.plan)
        known = (trial.id for _, trial in self.plan.trials(self.spec.arms_list))
        return [trial for trial in known if trial in self.history.trials]

    def find_arm(self, name: str) -> Arm | None:
        """The arm of this name that the file, as it is now, asks for."""
        for item in self.history.trials.values():
            if item.trial.arm == name:
                return self.plan.arm_of(self.history, item.trial.id)
        return None

    def is_current(self, item: TrialHistory) -> bool:
        """Whether the file, as it is now, still asks for this very trial."""
        arm = self.plan.arm_of(self.history, item.trial.id)
        return arm is not None and self.plan.trial(arm, item.trial.seed).id == item.trial.id

    def is_selected(self, arm: str) -> bool:
        """Whether ``--only`` lets this arm run."""
        return not self.options.only or arm in self.options.only

    # ---- what is left to run ---------------------------------------------------------------------

    def prepare(
        self, trials: Iterable[Trial], complete: Sequence[Status] = COMPLETE
    ) -> list[Trial]:
        """The trials that are left to run, after resetting those planned with other numerics.

        Such a trial starts from its beginning: no trial is trained partly with one precision and
        partly with another.

        Args:
            complete: states that need no further run.
        """
        pending = self.pending(trials, complete)
        self._replan_stale_trials(pending)
        return pending

    def pending(
        self, trials: Iterable[Trial], complete: Sequence[Status] = COMPLETE
    ) -> list[Trial]:
        """The trials that are left to run."""
        known = self.history.trials
        settled = {*complete, Status.FAILED} if not self.options.retry_errored else {*complete}
        return [
            trial
            for trial in trials
            if self.is_selected(trial.arm)
            and (trial.id not in known or known[trial.id].status not in settled)
        ]

    def _replan_stale_trials(self, trials: Iterable[Trial]) -> None:
        assert self.numerics is not None
        now, known = self.numerics.key(asdict(self.numerics)), self.history.trials
        stale = [
            trial
            for trial in trials
            if self.numerics.key(known[trial.id].entry.get("numerics")) != now
        ]
        begun = [known[trial.id] for trial in stale if known[trial.id].status is not Status.PENDING]
        if begun:
            self.board.warn(
                f"precision is now {self.numerics.precision}: of the trials that had begun with "
                "other numerics, "
                f"{len(begun)} not yet done will start anew"
            )
            self.reset_trials(begun)
        for trial in stale:
            arm = self.plan.arm_of(self.history, trial.id)
            assert arm is not None  # it is to run, so the file asks for it
            self._record_trial(arm, self.plan.trial(arm, trial.seed))

    def reset_trials(self, items: Sequence[TrialHistory]) -> None:
        """Reset trials, so that they run again from their start.

        Their files are removed only after the reset is durable in the journal.
        """
        for item in items:
            self.record("forget", id=item.trial.id)
        self.flush()
        self.clear_folders(items)

    def clear_folders(self, items: Sequence[TrialHistory]) -> None:
        """Remove everything that these trials have stored."""
        for item in items:
            self.storage.remove(f"trials/{item.trial.id}")

    def check_disk_space(self) -> bool:
        """Whether one more trial's checkpoints fit; if not, the launch stops as it would for a
        signal.
        """
        lacking = disk.lacking(self.folder, self.plan.trial_bytes, "checkpoints")
        if lacking and self.stop is not None:
            self.stop.give_up(lacking)
        return not lacking
