"""The phases of a search: draw or ask for arms on one seed, then confirm the best on seeds that
it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from suite.analysis import rank_arms
from suite.config import Arm
from suite.core.records import Status
from suite.launch.ledger import COMPLETE, Ledger
from suite.launch.runner import Runner, outcome, settled
from suite.storage.journal import TrialHistory

if TYPE_CHECKING:  # optuna takes a second to import
    from suite.execution.optuna_search import OptunaSearch
    from suite.execution.shared import TrialRequest

REPEATS = 50  # suggestions in a row that are already known: then a search has nothing new to say


def run_random(ledger: Ledger, runner: Runner) -> None:
    """Run the arms that were drawn, and the baseline, on the first seed."""
    arms = _with_baseline(ledger, ledger.spec.arms_list)
    first = [(arm, ledger.plan.trial(arm, ledger.spec.seeds[0])) for arm in arms]
    ledger.plan_trials(first)
    runner.run([trial for _, trial in first], early=ledger.spec.early_terminate)


def confirm(ledger: Ledger, runner: Runner) -> None:
    """Run the best arms of a search, and the baseline, at full length on the seeds that it has
    not seen.
    """
    spec, history = ledger.spec, ledger.history
    first = spec.seeds[0]
    candidates = [
        item for item in history.in_plan() if item.trial.seed == first and item.status in COMPLETE
    ]
    ranked = rank_arms(map(_as_searched, candidates), spec.objective)
    names = [name for name in ranked if ledger.is_selected(name)][: spec.confirm.top]
    arms = _with_baseline(
        ledger, [arm for name in names if (arm := ledger.find_arm(name)) is not None]
    )
    ledger.confirmed = [arm.name for arm in arms]
    pairs = ledger.plan.trials(arms, spec.confirm_seeds)
    ledger.plan_trials(pairs, keep=True)
    trials = [trial for _, trial in pairs]
    if ledger.pending(trials, (Status.FINISHED,)):
        unseen = "unseen seeds" if spec.search_seed is not None else "seed"
        text = f"confirming {len(arms)} arms on {len(spec.confirm_seeds)} {unseen}"
        ledger.board.console.print(text, highlight=False)
    runner.run(trials, early=None, complete=(Status.FINISHED,))


def _with_baseline(ledger: Ledger, arms: Iterable[Arm]) -> list[Arm]:
    return list({arm.name: arm for arm in [*ledger.spec.baseline_arms, *arms]}.values())


def _as_searched(item: TrialHistory) -> TrialHistory:
    """A trial as the search left it: its confirmation at full length must not change which arms
    are confirmed.
    """
    if item.stopped_at is None:
        return item
    return replace(
        item,
        records={
            epoch: record for epoch, record in item.records.items() if epoch <= item.stopped_at
        },
    )


def run_optuna(ledger: Ledger, runner: Runner) -> None:
    """Optuna suggests arms, on the first seed, until there are ``run_cap`` of them."""
    _OptunaPhase(ledger, runner).run()


class _OptunaPhase:
    """The search of one launch.

    Attributes:
        asked: trial id -> Optuna's number of a suggestion whose outcome Optuna is still to be told.
        planned: ids of all trials of the search.
        waiting: trials of earlier launches that are left to run.
    """

    def __init__(self, ledger: Ledger, runner: Runner) -> None:
        self.ledger, self.runner, self.spec = ledger, runner, ledger.spec
        self.seed = self.spec.seeds[0]
        self.asked: dict[str, int] = {}
        self.planned: list[str] = []
        self.waiting: list[Any] = []

    def run(self) -> None:
        from suite.execution.optuna_search import OptunaSearch

        ledger, spec, history = self.ledger, self.spec, self.ledger.history
        own = [
            item
            for item in history.trials.values()
            if item.trial.seed == self.seed and ledger.is_current(item)
        ]
        ledger.prepare([item.trial for item in own])
        begun = [
            history.trials[item.trial.id] for item in own
        ]  # replanned trials have a new history
        early = None if spec.pareto else spec.early_terminate
        scheduler = self.runner.scheduler(early, [item.trial for item in begun])
        known = [
            (item.entry["choices"], outcome(item, spec.objectives))
            for item in begun
            if settled(item)
        ]
        study = OptunaSearch(spec.space, spec.objectives, spec.name, known=known)
        self.waiting = ledger.pending([item.trial for item in begun])
        self.planned = [item.trial.id for item in begun]
        self._plan_baseline()
        ledger.record_plan(self.planned)
        ledger.board.begin(self.planned, total=max(spec.run_cap, len(self.planned)))
        if self.waiting or len(self.planned) < spec.run_cap:
            self.runner.run_packs(
                lambda: self._next_pack(study),
                scheduler,
                early,
                lambda *told: self._tell(study, *told),
            )

    def _plan_baseline(self) -> None:
        for arm in self.spec.baseline_arms:
            trial = self.ledger.plan.trial(arm, self.seed)
            if trial.id not in self.planned:
                self.ledger.plan_trial(arm, trial)
                self.planned.append(trial.id)
                self.waiting.append(trial)

    def _next_pack(self, study: OptunaSearch) -> list[TrialRequest] | None:
        ledger = self.ledger
        if not ledger.check_disk_space():
            return None
        if self.waiting:
            return [self.runner.request(self.waiting.pop(0).id)]
        for _ in range(REPEATS):
            if len(self.planned) >= self.spec.run_cap:
                return None
            number, point = study.ask()
            arm = self.spec.arm({name: choice.label for name, choice in point.items()})
            trial = ledger.plan.trial(arm, self.seed)
            if (
                trial.id in ledger.history.trials
            ):  # the same arm again: its outcome is known, or will be
                study.tell(number, outcome(ledger.history.trials[trial.id], self.spec.objectives))
                continue
            self.asked[trial.id] = number
            ledger.plan_trial(arm, trial)
            self.planned.append(trial.id)
            ledger.board.targets.append(trial.id)
            return [self.runner.request(trial.id)]
        return None

    def _tell(self, study: OptunaSearch, trial_id: str, failed: bool) -> None:
        item = self.ledger.history.trials[trial_id]
        if not settled(item) and item.status is not Status.RUNNING:
            return
        values = None if failed else outcome(item, self.spec.objectives)
        if trial_id in self.asked:
            study.tell(self.asked.pop(trial_id), values)
        else:
            study.add(item.entry["choices"], values)
