"""Do the verdicts hold what they say? Simulated sweeps whose truth is known, judged as reports
judge.

Each sweep has a baseline and K arms. Verdicts and intervals are the suite's own
(``analysis.simultaneous``, ``analysis.verdict``, ``analysis.look_level``, ``analysis.compare``).
Beside them is the method that the suite had before (step-down max-T with t as the statistic,
Student intervals), written here again.

    python -m benchmarks.soundness            # 2,000 sweeps a row
    python -m benchmarks.soundness --short    # 200 sweeps a row, about five minutes on one core

Spreads are those of test accuracies in points: 0.5 for each arm (0.7 for a difference), margin 0.5.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import click
import numpy as np
from scipy import stats

from benchmarks.record import keep_table
from suite import analysis
from suite.analysis import ALPHA, MIN_SEEDS, look_levels, significance
from suite.core.records import EpochRecord, Looks, Objective, Status, Trial
from suite.storage.journal import TrialHistory

SPREAD, MARGIN, EFFECT = 0.5, 0.5, 1.75  # points
LOOKS = (8, 12, 16)  # planned; the default of `seeds: {at_least: 8, at_most: 16, until: decided}`
OPEN_LOOKS = tuple(range(6, 21))  # seeds added one by one, with a look each time
LIMIT, COVERAGE = 0.065, 0.94  # of the upper end of an error's 95 % interval; of coverage
ENOUGH = 1000  # sweeps a row, from which a row can show that it keeps the limits
NOT_MEASURED = -1
SEQUENTIAL_FLIPS = 1024  # sign vectors of sweeps with many looks: all 2^19 are too slow to try

ALL_FLIPS = (significance.EXACT_SEEDS, significance.RANDOM_FLIPS)

Array = np.ndarray
Noise = Callable[[np.random.Generator, tuple[int, int]], Array]


def normal(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    return random.normal(size=shape)


def heavy(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Student's t with three degrees of freedom, standard deviation 1."""
    return random.standard_t(3, size=shape) / np.sqrt(3)


def unequal(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Normal; the last arm's spread is ten times the baseline's."""
    return random.normal(size=shape) * np.geomspace(0.3, 3.0, shape[1])


def collapsing(random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Normal; one seed in ten ends twenty spreads lower, in every arm alike."""
    return random.normal(size=shape) - 20.0 * (random.random(shape) < 0.1)


NOISES: dict[str, Noise] = {
    "normal": normal,
    "heavy-tailed": heavy,
    "unequal spreads": unequal,
    "collapsing seeds": collapsing,
}


@dataclass(frozen=True)
class Setting:
    """One row: what kind of sweeps, and how they are judged."""

    kind: str
    noise: str
    arms: int
    seeds: int
    truth: str = (
        "null"  # null | mixed: one arm worse by EFFECT, one better by MARGIN, the rest null
    )

    @property
    def true(self) -> Array:
        """The true differences of the arms, (K,)."""
        differences = np.zeros(self.arms)
        if self.truth == "mixed":
            differences[0] = -EFFECT
            differences[1:2] = MARGIN
        return differences

    def draw(self, random: np.random.Generator) -> Array:
        """Differences to the baseline, (seeds, K)."""
        values = NOISES[self.noise](random, (self.seeds, self.arms + 1)) * SPREAD
        return np.asarray(values[:, 1:] - values[:, :1] + self.true)


@dataclass(frozen=True)
class Counts:
    """What became of one sweep: 0 or 1 each, and a number of trials."""

    wrong: int = 0  # any false verdict
    covered: int = 0  # all true differences in their intervals
    power: int = 0  # the worse arm was called worse
    contradictions: int = 0  # verdicts that their own intervals do not support
    seeds: float = 0.0  # trials run, as a share of the most


# ---- how a sweep is judged -----------------------------------------------------------------------


def judge(differences: Array, level: float) -> tuple[list[str], Array, Array]:
    joint = analysis.simultaneous(differences, MARGIN, level)
    words = [
        analysis.verdict(low, high, 0.0, MARGIN, True)
        for low, high in zip(joint.low, joint.high, strict=True)
    ]
    return words, joint.low, joint.high


def judge_before(differences: Array) -> tuple[list[str], Array, Array]:
    """The suite's method until November 2026."""
    p = step_down(differences)
    spans = [stats.ttest_1samp(column, 0).confidence_interval(0.95) for column in differences.T]
    low, high = np.array([span.low for span in spans]), np.array([span.high for span in spans])
    words = []
    for arm, mean in enumerate(differences.mean(axis=0)):
        if low[arm] >= -MARGIN and high[arm] <= MARGIN:
            words.append("equivalent")
        elif p[arm] >= ALPHA:
            words.append("inconclusive")
        else:
            words.append("better" if mean > 0 else "worse")
    return words, low, high


def step_down(differences: Array) -> Array:
    """Step-down max-T over sign flips with |t|."""
    seeds, arms = differences.shape
    flips = significance.sign_flips(seeds)
    squares = np.sum(differences**2, axis=0)
    share = np.clip(np.round((flips @ differences) ** 2 / (seeds * squares), 12), 0, 1)
    with np.errstate(divide="ignore"):
        t = np.sqrt((seeds - 1) * share / (1 - share))
    order = np.argsort(-t[0], kind="stable")
    p, largest = np.empty(arms), np.zeros(len(flips))
    for arm in order[::-1]:
        largest = np.maximum(largest, t[:, arm])
        p[arm] = np.mean(largest >= t[0, arm])
    p[order] = np.maximum.accumulate(p[order])
    return p


def is_wrong(words: Sequence[str], true: Array) -> bool:
    """Whether any verdict is false. A difference as large as the margin is not "equivalent"."""
    return any(
        (word == "better" and value <= 0)
        or (word == "worse" and value >= 0)
        or (word == "equivalent" and abs(value) >= MARGIN)
        for word, value in zip(words, true, strict=True)
    )


def contradicts(words: Sequence[str], low: Array, high: Array) -> bool:
    """Whether a verdict says other than its own interval."""
    clear = (low > 0) | (high < 0)
    return any(
        (word in ("better", "worse")) != excludes
        for word, excludes in zip(words, clear, strict=True)
        if word != "equivalent"
    )


def counted(judged: tuple[list[str], Array, Array], true: Array, seeds: float = 1.0) -> Counts:
    words, low, high = judged
    return Counts(
        wrong=is_wrong(words, true),
        covered=not np.any((true < low) | (true > high)),  # NaN: an interval without an end
        power=words[0] == "worse",
        contradictions=contradicts(words, low, high),
        seeds=seeds,
    )


# ---- kinds of sweeps -----------------------------------------------------------------------------


def fixed(setting: Setting, random: np.random.Generator) -> Counts:
    """One look at a list of seeds."""
    return counted(judge(setting.draw(random), analysis.FIRST_LOOK), setting.true)


def before(setting: Setting, random: np.random.Generator) -> Counts:
    """The same by the earlier method."""
    return counted(judge_before(setting.draw(random)), setting.true)


def missing(setting: Setting, random: np.random.Generator) -> Counts:
    """Unequal numbers of seeds: every second arm lacks the last two, whatever their values."""
    differences = setting.draw(random)
    differences[-2:, 1::2] = np.nan
    return counted(judge(differences, analysis.FIRST_LOOK), setting.true)


def adding(setting: Setting, random: np.random.Generator) -> Counts:
    """A seed is added and looked at until some arm has a verdict, or all seeds are used."""
    differences = setting.draw(random)
    levels = open_levels(setting.arms)
    for count, level in zip(OPEN_LOOKS, levels, strict=True):
        # Whether an interval excludes zero; the interval itself is needed at the last look only.
        if np.any(analysis.adjusted_p(differences[:count], MARGIN) <= level):
            break
    judged = judge(differences[:count], level)
    return counted(judged, setting.true, count / OPEN_LOOKS[-1])


def adding_before(setting: Setting, random: np.random.Generator) -> Counts:
    """The same by the earlier method, which judged each look as if it were the only one."""
    differences = setting.draw(random)
    for count in OPEN_LOOKS:
        judged = judge_before(differences[:count])
        if {"better", "worse"} & set(judged[0]):
            break
    return counted(judged, setting.true, count / OPEN_LOOKS[-1])


def planned(setting: Setting, random: np.random.Generator) -> Counts:
    """``until: decided``: an arm stops at the look that decides it; decided intervals stay."""
    differences = setting.draw(random)
    level = planned_levels(setting.arms)
    words = ["inconclusive"] * setting.arms
    low, high = np.full(setting.arms, -np.inf), np.full(setting.arms, np.inf)
    used = np.zeros(setting.arms)
    for count in LOOKS:
        open_arms = [arm for arm, word in enumerate(words) if word == "inconclusive"]
        if not open_arms:
            break
        table = differences[:count].copy()
        for arm in set(range(setting.arms)) - set(open_arms):
            table[int(used[arm]) :, arm] = np.nan
        found, lows, highs = judge(table, level)
        for arm in open_arms:
            words[arm], low[arm], high[arm], used[arm] = found[arm], lows[arm], highs[arm], count
    trials = (used.sum() + used.max()) / (LOOKS[-1] * (setting.arms + 1))
    return counted((words, low, high), setting.true, float(trials))


def failing(setting: Setting, random: np.random.Generator) -> Counts:
    """The worst 30 % of the first arm's seeds fail; judged by ``analysis.compare``."""
    values = NOISES[setting.noise](random, (setting.seeds, setting.arms + 1)) * SPREAD
    gone = set(np.argsort(values[:, 1])[: round(0.3 * setting.seeds)].tolist())
    trials = [
        _trial(f"arm{arm}", seed, values[seed, arm], arm == 1 and seed in gone)
        for arm in range(setting.arms + 1)
        for seed in range(setting.seeds)
    ]
    frame = analysis.compare(trials, Objective("val/acc"), MARGIN)
    words = list(frame.loc[frame["arm"] != "arm0", "verdict"])
    return Counts(wrong=is_wrong(words, setting.true), covered=NOT_MEASURED, seeds=1.0)


def _trial(arm: str, seed: int, value: float, failed: bool) -> TrialHistory:
    records = {} if failed else {1: EpochRecord(1, {"val/acc": 0.5, "test/acc": value})}
    status = Status.FAILED if failed else Status.FINISHED
    entry = {"baseline": arm == "arm0"}
    return TrialHistory(Trial(f"{arm}-{seed}", arm, seed, arm), entry, records, status)


@cache
def open_levels(arms: int) -> tuple[float, ...]:
    return look_levels(Looks(made=tuple(tuple(range(count)) for count in OPEN_LOOKS)), arms)


@cache
def planned_levels(arms: int) -> float:
    return look_levels(Looks(planned=tuple(tuple(range(count)) for count in LOOKS)), arms)[0]


def dunnett(setting: Setting, random: np.random.Generator) -> Counts:
    """The parametric verdict, from all values in blocks of seeds."""
    values = NOISES[setting.noise](random, (setting.seeds, setting.arms + 1)) * SPREAD
    values[:, 1:] += setting.true
    half = analysis.half_width(values, ALPHA)
    means = values[:, 1:].mean(axis=0) - values[:, 0].mean()
    low, high = means - half, means + half
    words = [
        analysis.verdict(bottom, top, 0.0, MARGIN, True)
        for bottom, top in zip(low, high, strict=True)
    ]
    return counted((words, low, high), setting.true)


KINDS: dict[str, Callable[[Setting, np.random.Generator], Counts]] = {
    "one look": fixed,
    "one look, before": before,
    "unequal seeds": missing,
    "a look at each of 6 to 20 seeds": adding,
    "a look at each of 6 to 20 seeds, before": adding_before,
    "planned looks at 8, 12, 16": planned,
    "worst 30 % of an arm's seeds fail": failing,
    "Dunnett, one look": dunnett,
}


def settings() -> list[Setting]:
    rows = []
    for noise in NOISES:
        for arms in (1, 2, 5, 17):
            for seeds in (6, 8):
                for kind in ("one look, before", "one look"):
                    rows += [
                        Setting(kind, noise, arms, seeds, truth) for truth in ("null", "mixed")
                    ]
    for noise in ("normal", "heavy-tailed"):
        rows += [Setting("one look", noise, 5, 12, truth) for truth in ("null", "mixed")]
        rows += [Setting("unequal seeds", noise, arms, 10, "mixed") for arms in (2, 5)]
    for arms in (1, 2, 5, 17):
        for kind in ("a look at each of 6 to 20 seeds, before", "a look at each of 6 to 20 seeds"):
            rows.append(Setting(kind, "normal", arms, OPEN_LOOKS[-1]))
    rows.append(Setting("a look at each of 6 to 20 seeds", "heavy-tailed", 5, OPEN_LOOKS[-1]))
    for noise in ("normal", "heavy-tailed"):
        for arms in (1, 2, 5, 17):
            truths = ("null", "mixed")
            rows += [
                Setting("planned looks at 8, 12, 16", noise, arms, LOOKS[-1], t) for t in truths
            ]
    for seeds in (12, 20):
        rows.append(Setting("worst 30 % of an arm's seeds fail", "normal", 2, seeds))
    for noise in ("normal", "heavy-tailed", "unequal spreads"):
        for seeds in (3, 6):
            rows += [Setting("Dunnett, one look", noise, 5, seeds, t) for t in ("null", "mixed")]
    return rows


# ---- the table -----------------------------------------------------------------------------------


def simulate(job: tuple[Setting, int]) -> list[Counts]:
    setting, sweeps = job
    several = "looks" in setting.kind or "look at each" in setting.kind
    significance.EXACT_SEEDS, significance.RANDOM_FLIPS = (
        (10, SEQUENTIAL_FLIPS) if several else ALL_FLIPS
    )
    significance.sign_flips.cache_clear()
    random = np.random.default_rng([2026, setting.arms, setting.seeds])
    return [KINDS[setting.kind](setting, random) for _ in range(sweeps)]


def row(setting: Setting, counts: Sequence[Counts]) -> tuple[str, ...]:
    sweeps = len(counts)
    wrong = sum(count.wrong for count in counts)
    span = stats.binomtest(wrong, sweeps).proportion_ci(method="wilson")
    is_ours = "before" not in setting.kind and "Dunnett" not in setting.kind
    passes = wrong / sweeps <= ALPHA and span.high <= LIMIT
    if sweeps < ENOUGH:  # too few to show it: only clear evidence against it fails
        passes = span.low <= ALPHA
    error = f"{100 * wrong / sweeps:.1f} [{100 * span.low:.1f}, {100 * span.high:.1f}]"
    covered = sum(count.covered for count in counts) / sweeps
    is_covered = counts[0].covered == NOT_MEASURED or covered >= COVERAGE or sweeps < ENOUGH
    fails = is_ours and not (passes and is_covered)
    mixed = setting.truth == "mixed"
    counted_power = f"{100 * sum(count.power for count in counts) / sweeps:.0f}" if mixed else ""
    contradictions = 100 * sum(count.contradictions for count in counts) / sweeps
    return (
        setting.kind + (" FAILS" if fails else ""),
        setting.noise,
        str(setting.arms),
        str(setting.seeds),
        setting.truth,
        error,
        "–" if counts[0].covered == NOT_MEASURED else f"{100 * covered:.1f}",
        counted_power,
        f"{contradictions:.1f}",
        f"{100 * float(np.mean([count.seeds for count in counts])):.0f}",
    )


HEADER = (
    "Judged",
    "Noise",
    "Arms",
    "Seeds",
    "Truth",
    "Sweeps with a false verdict, % [95 %]",
    "All true differences covered, %",
    "Worse arm called worse, %",
    "Verdict against its interval, %",
    "Trials run, %",
)


@click.command(help=__doc__)
@click.option("--short", is_flag=True, help="200 sweeps a row")
@click.option("--sweeps", type=int, help="sweeps a row")
@click.option("--processes", type=int, default=os.cpu_count(), help="default: one a core")
def main(short: bool, sweeps: int | None, processes: int) -> None:
    number = sweeps or (200 if short else 2000)
    jobs = [(setting, number) for setting in settings()]
    rows = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for (setting, _), counts in zip(jobs, pool.imap(simulate, jobs), strict=True):
            rows.append(row(setting, counts))
            print(" | ".join(rows[-1]), flush=True)
    keep_table(
        "soundness-short" if short else "soundness",
        "Verdicts of simulated sweeps whose truth is known",
        HEADER,
        rows,
        f"{number} sweeps a row. Each arm's spread over seeds is {SPREAD} points, the margin "
        f"{MARGIN}, the "
        f"worse arm's true difference -{EFFECT}; in a mixed sweep the second arm is better by "
        "just the "
        f'margin, where "equivalent" is false. Verdicts need {MIN_SEEDS} seeds. A row fails if the '
        f"error's interval reaches {100 * LIMIT:g} % or coverage falls below {100 * COVERAGE:g} "
        "%; the "
        "earlier method and Dunnett's are shown for comparison and have no gate.",
    )


if __name__ == "__main__":
    main()
