"""A sweep's arms against their baselines: differences, simultaneous intervals, verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from suite.analysis.dunnett import MIN_BLOCKS, half_width, wins
from suite.analysis.levels import level_at, look_level, with_present
from suite.analysis.lost import LOST, lost_seeds
from suite.analysis.power import detectable
from suite.analysis.significance import (
    ALPHA,
    MIN_SEEDS,
    Array,
    Simultaneous,
    interval,
    simultaneous,
)
from suite.analysis.verdicts import (
    BASELINE,
    BETTER,
    BETTER_OF_FINISHED,
    EQUIVALENT,
    EQUIVALENT_OF_FINISHED,
    INCONCLUSIVE,
    MARGIN,
    NO_BASELINE,
    NOT_CONFIRMED,
    TOO_FEW,
    UNFINISHED,
    WORSE,
    WORSE_OF_FINISHED,
    Pair,
    baselines,
    paired,
    rises,
    tested,
    values_by_pair,
    verdict,
)
from suite.core.records import Looks, Objective, Status
from suite.storage.journal import TrialHistory

NO_LOOKS = Looks()
_JUDGED = (
    BETTER, WORSE, EQUIVALENT, INCONCLUSIVE, TOO_FEW,
    BETTER_OF_FINISHED, WORSE_OF_FINISHED, EQUIVALENT_OF_FINISHED,
)  # fmt: skip
_NUMBERS = [
    "difference", "difference low", "difference high", "p", "smallest difference",
    "worst low", "worst high", "wins", "wins low", "wins high", "dunnett low", "dunnett high",
    "decided at",
]  # fmt: skip
_COLUMNS = [
    "arm",
    "against",
    "pairs",
    "lost",
    "baseline lost",
    *_NUMBERS,
    "dunnett verdict",
    "verdict",
]

Row = dict[str, Any]
Differences = Mapping[str, Mapping[int, float]]  # arm -> seed -> arm less baseline


def compare(
    items: Iterable[TrialHistory],
    objective: Objective,
    margin: float = MARGIN,
    confirmed: Collection[str] | None = None,
    looks: Looks = NO_LOOKS,
    planned_trials: int | None = None,
    removed: Iterable[TrialHistory] = (),
) -> pd.DataFrame:
    """One row per arm: paired difference to the baseline, simultaneous interval, verdict.

    Pairs are finished trials of one seed with the same numerics; trials stopped early are left out.
    Arms with fewer than ``MIN_SEEDS`` pairs are not tested. Verdicts follow from the intervals
    alone. The intervals cover seeds, not the choice of test images.

    Args:
        margin: differences up to it do not matter.
        confirmed: of a search, the arms that ran on all seeds: only they are compared. None = every
            arm is.
        looks: at which seeds the sweep was or is to be looked at. With planned looks, an arm is
            judged at the first look that decides it, from the seeds of that look.
        planned_trials: how many trials the sweep has; more than ``items`` means that some have not
            begun. Until all have ended there is no verdict, except at planned looks.
        removed: trials of seeds that the sweep no longer has. They count as lost seeds only, so
            that taking failed seeds out of the file does not undo their loss.

    Returns:
        Columns arm, against, pairs, lost and "baseline lost" (seeds that one side lost and the
        other finished), difference (arm less baseline, in the unit of ``tested(objective)``),
        "difference low", "difference high" (simultaneous over arms), p (adjusted for their number),
        "smallest difference" (that would have been seen, see ``power.detectable``), "worst low",
        "worst high" (the interval if a lost seed counts as the worst value seen), wins, "wins low",
        "wins high" (see ``dunnett.wins``), "dunnett low", "dunnett high", "dunnett verdict",
        "decided at" (seeds of the planned look that decided), verdict.
    """
    trials = list(items)
    metric = tested(objective)
    question = _Question(trials, objective, metric, margin, confirmed, tuple(removed))
    if looks.planned:
        return _frame(_judge_planned(question, looks))
    looks = present_looks(trials, looks, confirmed)
    rows = question.judge(look_level(looks, len(question.against)))
    if not (all(trial.ended for trial in trials) and len(trials) >= (planned_trials or 0)):
        rows = [_unfinished(row) for row in rows]
    return _frame(rows)


def present_looks(
    items: Iterable[TrialHistory], looks: Looks, confirmed: Collection[str] | None = None
) -> Looks:
    """The looks with the present one, which may not be on record; see ``levels.with_present``.

    Args:
        items: the trials that count for verdicts.
        confirmed: see ``compare``.
    """
    if looks.planned or not looks.made:  # none on record: made by a version that kept none
        return looks
    trials = list(items)
    baseline = {trial.trial.arm for trial in trials if trial.entry.get("baseline")}
    counted = [
        trial.trial.seed
        for trial in trials
        if confirmed is None or trial.trial.arm in {*confirmed, *baseline}
    ]
    return with_present(looks, counted)


def undecided(frame: pd.DataFrame) -> list[str]:
    """The arms of ``compare`` that need more seeds."""
    return list(frame.loc[frame["verdict"].isin((INCONCLUSIVE, TOO_FEW, UNFINISHED)), "arm"])


def compare_sweeps(
    items: Iterable[TrialHistory],
    others: Iterable[TrialHistory],
    objective: Objective,
    other: Objective,
    margin: float = MARGIN,
) -> pd.DataFrame:
    """``compare`` for the arms of two sweeps: the first's less the other's, paired by seed.

    Args:
        objective, other: of the first sweep and of the other; each chooses its own trials' epochs.

    Raises:
        ValueError: the two are tested by different figures, between which there is no difference.
    """
    metric = tested(objective)
    if tested(other) != metric:
        raise ValueError(
            f"sweeps must be tested by the same figure, got {metric} and {tested(other)}"
        )
    mine, its = list(items), list(others)
    ours, theirs = values_by_pair(mine, objective, metric), values_by_pair(its, other, metric)
    differences = {
        arm: paired(values, theirs[arm]) for arm, values in ours.items() if arm in theirs
    }
    rows = _differences(list(differences), differences, margin, rises(metric), ALPHA)
    for row in rows:
        arm = row["against"] = row["arm"]
        sides = [[trial for trial in side if trial.trial.arm == arm] for side in (mine, its)]
        row["lost"], row["baseline lost"] = _lost_between(*sides), _lost_between(*sides[::-1])
        row["verdict"] = _qualified(_verdict_of(row, margin, rises(metric)), row)
        if not all(trial.ended for side in sides for trial in side):
            row |= _unfinished(row)
    return _frame(rows)


def _lost_between(side: Iterable[TrialHistory], other: Iterable[TrialHistory]) -> int:
    """How many seeds one sweep lost of an arm that the other one finished."""
    finished = {trial.trial.seed for trial in other if trial.status is Status.FINISHED}
    return sum(trial.status in LOST and trial.trial.seed in finished for trial in side)


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_NUMBERS, float))


def _unfinished(row: Row) -> Row:
    return row | {"verdict": UNFINISHED} if row["verdict"] in _JUDGED else row


def _judge_planned(question: _Question, looks: Looks) -> list[Row]:
    """Go through the looks in order; an arm keeps the row of the look that decided it."""
    rows: list[Row] = []
    decided: dict[str, Row] = {}
    for seeds in looks.planned:
        level = level_at(looks, seeds, len(question.against))
        rows = question.at(seeds, decided).judge(level)
        waiting = [arm for arm in question.against if arm not in decided]
        ended = question.has_ended(seeds, waiting)
        rows = [decided.get(row["arm"]) or (row if ended else _unfinished(row)) for row in rows]
        if not ended:
            break
        for row in rows:
            if row["verdict"] in _JUDGED and row["verdict"] not in (INCONCLUSIVE, TOO_FEW):
                decided.setdefault(row["arm"], row | {"decided at": len(seeds)})
        rows = [decided.get(row["arm"], row) for row in rows]
        if set(question.against) <= set(decided):
            break
    return rows


@dataclass(frozen=True)
class _Question:
    """The trials of a sweep and what is asked of them.

    Attributes:
        metric: the figure whose differences are tested.
        confirmed, removed: see ``compare``.
    """

    trials: Sequence[TrialHistory]
    objective: Objective
    metric: str
    margin: float
    confirmed: Collection[str] | None = None
    removed: tuple[TrialHistory, ...] = ()

    @cached_property
    def baseline_arms(self) -> list[str]:
        marked = (trial.trial.arm for trial in self.trials if trial.entry.get("baseline"))
        return list(dict.fromkeys(marked))

    @cached_property
    def left_out(self) -> set[str]:
        """Arms of a search that were not confirmed."""
        if self.confirmed is None:
            return set()
        arms = {trial.trial.arm for trial in self.trials}
        return arms - set(self.confirmed) - set(self.baseline_arms)

    @cached_property
    def against(self) -> dict[str, str]:
        """Arm -> its baseline, of the arms that are compared."""
        pairs = baselines(self.trials)
        return {arm: base for arm, base in pairs.items() if arm not in self.left_out}

    @cached_property
    def values(self) -> dict[str, dict[Pair, float]]:
        return values_by_pair(self.trials, self.objective, self.metric)

    @cached_property
    def differences(self) -> dict[str, dict[int, float]]:
        return {
            arm: paired(self.values.get(arm, {}), self.values.get(base, {}))
            for arm, base in self.against.items()
        }

    def at(self, seeds: Collection[int], decided: Collection[str]) -> _Question:
        """The same question with the trials of a look; decided arms have had no more seeds."""
        chosen = [
            trial
            for trial in self.trials
            if trial.trial.seed in seeds or trial.trial.arm in decided
        ]
        return replace(self, trials=chosen)

    def has_ended(self, seeds: Collection[int], arms: Iterable[str]) -> bool:
        """Whether these arms and their baselines have ended all of these seeds."""
        ended = {(trial.trial.arm, trial.trial.seed) for trial in self.trials if trial.ended}
        needed = {side for arm in arms for side in (arm, self.against[arm])}
        return all((arm, seed) in ended for arm in needed for seed in seeds)

    def judge(self, level: float) -> list[Row]:
        """One row per arm, from all trials at once."""
        rising = rises(self.metric)
        arms = list(dict.fromkeys(trial.trial.arm for trial in self.trials))
        rows = _differences(arms, self.differences, self.margin, rising, level)
        _bound_lost_seeds(rows, self, level)
        _compare_in_blocks(rows, self, level)
        for row in rows:
            arm = row["arm"]
            row["against"] = self.against.get(arm, "")
            row["verdict"] = self._fixed(arm) or _qualified(
                _verdict_of(row, self.margin, rising), row
            )
        return rows

    def _fixed(self, arm: str) -> str:
        """The word for an arm that is not compared."""
        if arm in self.baseline_arms:
            return BASELINE
        if arm in self.left_out:
            return NOT_CONFIRMED
        return "" if arm in self.against else NO_BASELINE


def _differences(
    arms: Sequence[str], differences: Differences, margin: float, rising: bool, level: float
) -> list[Row]:
    """One row per arm with its difference, interval and p, without a verdict."""
    joint = _joint(differences, margin, level)
    rows = []
    for arm in arms:
        values = list(differences.get(arm, {}).values())
        row: Row = dict.fromkeys(_COLUMNS) | {"arm": arm, "against": "", "pairs": len(values)}
        row |= {"lost": 0, "baseline lost": 0}
        mean, row["difference low"], row["difference high"] = interval(values)
        row["difference"] = mean
        if values:
            names = ("wins", "wins low", "wins high")
            row |= dict(zip(names, wins(values, rising), strict=True))
        if arm in joint:
            row["difference low"], row["difference high"], row["p"] = joint[arm]
            unit = detectable(len(values), len(joint), level=level)
            row["smallest difference"] = unit * float(np.std(values, ddof=1))
        rows.append(row)
    return rows


def _joint(
    differences: Differences, margin: float, level: float
) -> dict[str, tuple[float, float, float]]:
    """Arm -> simultaneous interval and p, of the arms with enough pairs."""
    pairs = {arm: pairs for arm, pairs in differences.items() if len(pairs) >= MIN_SEEDS}
    if not pairs:
        return {}
    seeds = sorted({seed for by_seed in pairs.values() for seed in by_seed})
    table: Array = np.array(
        [[by_seed.get(seed, np.nan) for by_seed in pairs.values()] for seed in seeds]
    )
    joint: Simultaneous = simultaneous(table, margin, level)
    ends = zip(joint.low.tolist(), joint.high.tolist(), joint.p.tolist(), strict=True)
    return dict(zip(pairs, ends, strict=True))


def _verdict_of(row: Row, margin: float, rising: bool) -> str:
    return verdict(row["difference low"], row["difference high"], row["p"], margin, rising)


# ---- lost seeds ----------------------------------------------------------------------------------


def _bound_lost_seeds(rows: Sequence[Row], question: _Question, level: float) -> None:
    """Count the seeds that one side lost, and bound what they could change."""
    for row in rows:
        arm, base = row["arm"], question.against.get(row["arm"])
        if base is not None:
            row["lost"] = len(_lost(question, arm, base))
            row["baseline lost"] = len(_lost(question, base, arm))
    losing = [row for row in rows if row["lost"] or row["baseline lost"]]
    joint = _joint(_filled(question), question.margin, level) if losing else {}
    for row in losing:
        if row["arm"] in joint:
            row["worst low"], row["worst high"], _ = joint[row["arm"]]


def _lost(question: _Question, arm: str, rival: str) -> tuple[int, ...]:
    return lost_seeds([*question.removed, *question.trials], {arm: rival}).get(arm, ())


def _filled(question: _Question) -> dict[str, dict[int, float]]:
    """The differences, as if each side had got the worst value seen on the seeds that it lost."""
    trials = [*question.removed, *question.trials]
    known = values_by_pair(trials, question.objective, question.metric)
    seen = [value for values in known.values() for value in values.values()]
    worst = (min(seen) if rises(question.metric) else max(seen)) if seen else 0.0
    filled: dict[str, dict[int, float]] = {}
    for arm, base in question.against.items():
        ours = {seed: value for (seed, _), value in known.get(arm, {}).items()}
        theirs = {seed: value for (seed, _), value in known.get(base, {}).items()}
        own, other = _lost(question, arm, base), _lost(question, base, arm)
        filled[arm] = dict(question.differences[arm])
        filled[arm] |= {seed: worst - theirs[seed] for seed in own if seed in theirs}
        filled[arm] |= {seed: ours[seed] - worst for seed in other if seed in ours}
    return filled


def _qualified(word: str, row: Row) -> str:
    """The verdict, if lost seeds may have made it: the survivors may be the lucky ones."""
    if word == EQUIVALENT and (row["lost"] or row["baseline lost"]):
        return EQUIVALENT_OF_FINISHED
    if word == BETTER and row["lost"]:
        return BETTER_OF_FINISHED
    if word == WORSE and row["baseline lost"]:
        return WORSE_OF_FINISHED
    return word


# ---- under normality -----------------------------------------------------------------------------


def _compare_in_blocks(rows: Sequence[Row], question: _Question, level: float) -> None:
    """Dunnett's intervals and verdicts, from the seeds that all compared arms finished."""
    arms = [arm for arm in question.against if question.values.get(arm)]
    sides = list(dict.fromkeys([*arms, *(question.against[arm] for arm in arms)]))
    finished = [set(question.values.get(side, {})) for side in sides]
    blocks = sorted(set.intersection(*finished)) if finished else []
    if not arms or len(blocks) < MIN_BLOCKS:
        return
    values = np.array([[question.values[side][block] for side in sides] for block in blocks])
    bases = {question.against[arm] for arm in arms}
    half = half_width(values, level, one_baseline=len(bases) == 1)
    means = dict(zip(sides, values.mean(axis=0).tolist(), strict=True))
    for row in rows:
        if row["arm"] in arms:
            difference = means[row["arm"]] - means[question.against[row["arm"]]]
            low, high = difference - half, difference + half
            row["dunnett low"], row["dunnett high"] = low, high
            word = verdict(low, high, 0.0, question.margin, rises(question.metric))
            row["dunnett verdict"] = _qualified(word, row)
