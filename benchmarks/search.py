"""What a search saves: ASHA and Optuna replayed over a grid of which every arm was trained at full
length.

The grids are ``benchmarks/grid.yaml`` and ``grid_transfer.yaml``, run once; their curves are kept
as CSVs in ``benchmarks/results``. A replay trains nothing: two workers take trials from a searcher,
each epoch costs the same, its ``val/acc`` is read from the CSV. What decides is the suite's own:
``EarlyStop`` (Ray's ASHA on the best epoch so far) and ``OptunaSearch`` (TPE), asked and told as
``suite.launch`` does it.

    python -m benchmarks.search [--short]                  # the table
    python -m benchmarks.search --settings                 # ASHA's and TPE's settings, one by one
    python -m benchmarks.search --extract runs/search-grid --grid FILE # a CSV, from the journal of
    a finished grid
"""

from __future__ import annotations

import csv
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np
import optuna
from scipy.stats import spearmanr

from benchmarks.record import RESULTS, keep_table
from suite.config.space import Choice, Choices, Point, Range, Space
from suite.config.sweep import AshaConfig
from suite.core.records import VAL_ACC, Objective
from suite.execution.early_stopping import EarlyStop
from suite.execution.optuna_search import OptunaSearch
from suite.launch.search_phases import REPEATS
from suite.storage.journal import FILE_NAME, History, read

OBJECTIVE = Objective(VAL_ACC)
MARGIN = (
    0.003  # "there": the best value seen is that near to the grid's best; a fraction, 0.3 points
)
WORKERS = 2  # trials at once
GRACE, FACTOR = 3, 3  # of search_spaces/joint.yaml: rungs at 3, 9, 27 epochs
NEAR = 0.01  # a wider margin: the standard error of an accuracy on 5,000 images is 0.7 points
LR = "train.lr"


@dataclass(frozen=True)
class Table:
    """A recorded grid.

    Attributes:
        names: the parameters.
        labels: of each arm, the label of each parameter.
        curves: of each arm, ``val/acc`` (a fraction) of each epoch; shorter than the others = the
            trial failed there.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[Any, ...], ...]
    curves: tuple[tuple[float, ...], ...]

    @cached_property
    def epochs(self) -> int:
        """Epochs of a trial at full length."""
        return max(map(len, self.curves))

    @cached_property
    def total(self) -> int:
        """Epochs of the full grid."""
        return sum(map(len, self.curves))

    @cached_property
    def final(self) -> tuple[float, ...]:
        """What each arm comes to at full length: its best epoch."""
        return tuple(map(max, self.curves))

    @cached_property
    def winner(self) -> int:
        """The arm with the highest value at full length."""
        return int(np.argmax(self.final))

    @cached_property
    def arms(self) -> Mapping[tuple[Any, ...], int]:
        """Labels -> arm."""
        return {labels: arm for arm, labels in enumerate(self.labels)}

    def space(self, lr_range: bool = False) -> Space:
        """The space that it is the grid of, each parameter listed; or the learning rate as a
        range.
        """
        columns = {
            name: sorted({labels[place] for labels in self.labels})
            for place, name in enumerate(self.names)
        }
        listed = (
            Range(name, values[0], values[-1], "log_uniform")
            if lr_range and name == LR
            else Choices(name, tuple(Choice(value, {name: value}) for value in values))
            for name, values in columns.items()
        )
        return Space(tuple(listed))

    def at(self, point: Point) -> int:
        """The arm at ``point``, or next to it where the learning rate lies between recorded ones
        (by its logarithm).
        """
        asked = tuple(point[name].label for name in self.names)
        if asked in self.arms:
            return self.arms[asked]
        place = self.names.index(LR)
        rates = sorted({labels[place] for labels in self.labels})
        near = min(rates, key=lambda rate: abs(math.log(rate / asked[place])))
        return self.arms[(*asked[:place], near, *asked[place + 1 :])]


def load(file: Path) -> list[Table]:
    """A table for each seed, from the CSV: ``seed``, a column for each parameter, one for each
    epoch by its number.
    """
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    count = sum(not name.isdigit() for name in header)
    tables = []
    for seed in sorted({row[0] for row in rows}):
        chosen = [row for row in rows if row[0] == seed]
        labels = tuple(tuple(map(_label, row[1:count])) for row in chosen)
        curves = tuple(tuple(float(value) for value in row[count:] if value) for row in chosen)
        tables.append(Table(tuple(header[1:count]), labels, curves))
    return tables


def _label(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def extract(folder: Path, file: Path) -> None:
    """Write the CSV of a finished grid from the journal in ``folder``; values have four
    decimals.
    """
    entries = read(folder / FILE_NAME)
    trials = sorted(History(entries).in_plan(), key=lambda item: item.trial.seed)
    names = list(trials[0].entry["choices"])
    length = max(len(item.records) for item in trials)
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["seed", *names, *range(1, length + 1)])
        for item in trials:
            curve = [f"{record.metrics[VAL_ACC]:.4f}" for record in item.curve]
            writer.writerow(
                [item.trial.seed, *(item.entry["choices"][name] for name in names), *curve]
            )
    print(f"{file}: {len(trials)} trials")


# ---- searchers -----------------------------------------------------------------------------------


class Searcher(Protocol):
    """Where the next trial comes from."""

    def ask(self, best: Mapping[str, float]) -> tuple[str, int] | None:
        """The next trial's id and its arm, or None when there are no more.

        ``best``: each trial's best so far.
        """

    def tell(self, trial: str, value: float | None) -> None:
        """A trial has ended with its best value; None = it failed."""


class Listed:
    """Arms in a given order, whatever comes of them: a grid, or a random search without repeats."""

    def __init__(self, order: Sequence[int]) -> None:
        self._left = list(order)

    def ask(self, best: Mapping[str, float]) -> tuple[str, int] | None:
        if not self._left:
            return None
        arm = self._left.pop(0)
        return str(arm), arm

    def tell(self, trial: str, value: float | None) -> None:
        pass


class Suggested:
    """Optuna's suggestions through the suite's ``OptunaSearch``, as ``suite.launch`` asks for them.

    An arm suggested again is not run again: its value so far is told, and after ``REPEATS`` of
    these in a row the search has ended. Where the learning rate is a range no two suggestions are
    the same: each is a trial that costs its epochs, and comes to what the nearest recorded arm came
    to.

    Args:
        name: of the sweep; each has suggestions of its own.
        startup: random suggestions before TPE begins; None = the suite's (Optuna's default).
    """

    def __init__(
        self, table: Table, name: str, lr_range: bool = False, startup: int | None = None
    ) -> None:
        self.table, self.lr_range = table, lr_range
        self.search = OptunaSearch(table.space(lr_range), [OBJECTIVE], name)
        if startup is not None:
            seed = random.Random(name).randrange(2**32)
            self.search.study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup
            )
        self.repeats = 0
        self._numbers: dict[str, int] = {}
        self._over = False

    def ask(self, best: Mapping[str, float]) -> tuple[str, int] | None:
        for _ in range(
            REPEATS if not self._over and len(self._numbers) < len(self.table.labels) else 0
        ):
            number, point = self.search.ask()
            arm = self.table.at(point)
            trial = f"{number}" if self.lr_range else f"arm {arm}"
            if trial not in self._numbers:
                self._numbers[trial] = number
                return trial, arm
            self.repeats += 1
            self.search.tell(number, [best[trial]] if trial in best else None)
        self._over = True
        return None

    def tell(self, trial: str, value: float | None) -> None:
        self.search.tell(self._numbers[trial], None if value is None else [value])


# ---- the simulation ------------------------------------------------------------------------------


@dataclass
class Trail:
    """What a search knew after each epoch that it paid for, over all workers.

    Attributes:
        values: the best value seen so far, a fraction.
        arms: the arm that has it: what would be chosen if the search ended now.
    """

    values: list[float] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)

    def add(self, value: float, arm: int) -> None:
        """One more epoch is paid for: an arm's value."""
        if not self.values or value > self.values[-1]:
            self.values.append(value)
            self.arms.append(arm)
        else:
            self.values.append(self.values[-1])
            self.arms.append(self.arms[-1])

    def epochs_to(self, value: float) -> float:
        """Epochs until the best value seen is at least ``value``; infinite if it never is."""
        return next(
            (spent for spent, seen in enumerate(self.values, start=1) if seen >= value - 1e-9),
            math.inf,
        )

    def regret(self, table: Table, epochs: int) -> float:
        """How far the full-length value of what would be chosen after ``epochs`` lies below the
        best; a fraction.
        """
        chosen = self.arms[min(epochs, len(self.arms)) - 1]
        return table.final[table.winner] - table.final[chosen]


@dataclass
class _Worker:
    trial: str
    arm: int
    epoch: int = 0


def replay(
    table: Table, searcher: Searcher, early: EarlyStop | None = None, workers: int = WORKERS
) -> Trail:
    """Run a search on the table: ``workers`` trials at once, an epoch each per step; a free one
    asks for the next.
    """
    trail = Trail()
    best: dict[str, float] = {}
    places: list[_Worker | None] = [None] * workers
    while True:
        for place, worker in enumerate(places):
            if worker is None and (following := searcher.ask(best)) is not None:
                places[place] = _Worker(*following)
        if not any(places):
            return trail
        for place, worker in enumerate(places):
            if worker is None:
                continue
            curve = table.curves[worker.arm]
            value = curve[worker.epoch]
            worker.epoch += 1
            best[worker.trial] = max(value, best.get(worker.trial, value))
            trail.add(value, worker.arm)
            stopped = early is not None and early.feed(
                worker.trial, worker.epoch, {OBJECTIVE.name: value}
            )
            if stopped or worker.epoch == len(curve):
                failed = not stopped and len(curve) < table.epochs
                searcher.tell(worker.trial, None if failed else best[worker.trial])
                places[place] = None


def asha(table: Table, grace: int = GRACE, factor: int = FACTOR) -> EarlyStop:
    """The suite's ASHA, new."""
    return EarlyStop(
        AshaConfig(grace_epochs=grace, reduction_factor=factor), OBJECTIVE, table.epochs
    )


def in_order(table: Table) -> Listed:
    """All arms in the order of the file."""
    return Listed(range(len(table.labels)))


def shuffled(table: Table, turn: int) -> Listed:
    """All arms in the ``turn``-th random order."""
    order = list(range(len(table.labels)))
    random.Random(turn).shuffle(order)
    return Listed(order)


# ---- figures -------------------------------------------------------------------------------------


Runs = Sequence[tuple[int, Trail]]  # place of the table (a seed), and what a search on it knew


@dataclass(frozen=True)
class Score:
    """Repetitions of one kind of search; epochs as fractions of the grid's, infinite = never;
    regrets in points.

    Attributes:
        places: the table (seed) of each repetition.
        reached: epochs until within the margin.
        near: epochs until within a point.
        regrets: of what would be chosen after a third of the grid's epochs.
        elsewhere: the same arm's on the other seeds: what the choice is worth where it was not
            chosen.
        spent: epochs until the search ends by itself.
        ends: regret of what is chosen then.
    """

    places: tuple[int, ...]
    reached: tuple[float, ...]
    near: tuple[float, ...]
    regrets: tuple[float, ...]
    elsewhere: tuple[float, ...]
    spent: tuple[float, ...]
    ends: tuple[float, ...]


def score(tables: Sequence[Table], runs: Runs) -> Score:
    """The figures of some repetitions."""
    on = [(tables[place], trail) for place, trail in runs]

    def reached(margin: float) -> tuple[float, ...]:
        return tuple(
            trail.epochs_to(max(table.final) - margin) / table.total for table, trail in on
        )

    return Score(
        tuple(place for place, _ in runs),
        reached(MARGIN),
        reached(NEAR),
        tuple(100 * trail.regret(table, table.total // 3) for table, trail in on),
        tuple(
            100 * trail.regret(other, tables[place].total // 3)
            for place, trail in runs
            for other in (*tables[:place], *tables[place + 1 :])
        ),
        tuple(len(trail.arms) / table.total for table, trail in on),
        tuple(100 * trail.regret(table, len(trail.arms)) for table, trail in on),
    )


def at(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least this share of them do not exceed; infinite ones
    are allowed.
    """
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def percent(fraction: float) -> str:
    """``34.5 %``, or ``never``."""
    return "never" if math.isinf(fraction) else f"{100 * fraction:.1f} %"


def pair(values: Sequence[float]) -> str:
    """``median / 90th percentile``."""
    return f"{at(values, 0.5):.2f} / {at(values, 0.9):.2f}" if values else "-"


def row(name: str, score: Score) -> list[str]:
    """A row of the table."""
    by_seed = [
        [
            math.isfinite(value)
            for value, where in zip(score.reached, score.places, strict=True)
            if where == place
        ]
        for place in sorted(set(score.places))
    ]
    return [
        name,
        percent(at(score.reached, 0.5)),
        percent(at(score.reached, 0.9)),
        ", ".join(f"{sum(there)} of {len(there)}" for there in by_seed),
        percent(at(score.near, 0.5)),
        pair(score.regrets),
        pair(score.elsewhere),
        percent(at(score.spent, 0.5)),
        pair(score.ends),
    ]


HEADER = (
    "Search",
    "Epochs to within 0.3 points, of the grid's: median",
    "90th percentile",
    "Got there, by seed",
    "Epochs to within 1 point: median",
    "Regret at a third of the epochs, points: median / 90th",
    "The same on the other seed",
    "Epochs when it ends by itself: median",
    "Regret then: median / 90th",
)


def searches(tables: Sequence[Table], orders: int, studies: int) -> dict[str, Runs]:
    """Every kind of search, repeated on the seeds in turn: ``orders`` random orders, ``studies``
    of Optuna's.
    """

    def each(count: int, run: Callable[[Table, int], Trail]) -> Runs:
        return [
            (turn % len(tables), run(tables[turn % len(tables)], turn)) for turn in range(count)
        ]

    def suggested(lr_range: bool, early: bool) -> Runs:
        return each(
            studies,
            lambda table, turn: replay(
                table, Suggested(table, f"replay {turn}", lr_range), asha(table) if early else None
            ),
        )

    once = len(tables)
    return {
        "the winner alone (best possible)": each(
            once, lambda table, _: replay(table, Listed([table.winner]), None, 1)
        ),
        "grid in the file's order": each(once, lambda table, _: replay(table, in_order(table))),
        "random search": each(orders, lambda table, turn: replay(table, shuffled(table, turn))),
        "grid in the file's order + ASHA": each(
            once, lambda table, _: replay(table, in_order(table), asha(table))
        ),
        "random order + ASHA": each(
            orders, lambda table, turn: replay(table, shuffled(table, turn), asha(table))
        ),
        "Optuna, values listed": suggested(lr_range=False, early=False),
        "Optuna + ASHA, values listed": suggested(lr_range=False, early=True),
        "Optuna, lr as a range": suggested(lr_range=True, early=False),
        "Optuna + ASHA, lr as a range (as joint.yaml)": suggested(lr_range=True, early=True),
    }


def settings(tables: Sequence[Table], orders: int, studies: int) -> dict[str, Runs]:
    """ASHA's and TPE's settings, one by one."""
    found: dict[str, Runs] = {}

    def repeat(name: str, make: Callable[[Table, int], Searcher], count: int, *early: int) -> None:
        turns = [(turn % len(tables), turn) for turn in range(count)]
        found[name] = [
            (place, replay(tables[place], make(tables[place], turn), asha(tables[place], *early)))
            for place, turn in turns
        ]

    def suggested(table: Table, turn: int, startup: int | None = None) -> Searcher:
        return Suggested(table, f"replay {turn}", lr_range=True, startup=startup)

    for grace in (1, 2, 3, 5, 9):
        for factor in (2, 3, 4):
            about = f"ASHA, grace_epochs {grace}, reduction_factor {factor}"
            repeat(f"random order + {about}", shuffled, orders, grace, factor)
            repeat(f"Optuna, lr as a range + {about}", suggested, studies, grace, factor)
    for startup in (3, 5, 10, 20):
        name = f"Optuna, lr as a range, n_startup_trials {startup} + ASHA"
        repeat(name, lambda table, turn, startup=startup: suggested(table, turn, startup), studies)
    return found


# ---- why -----------------------------------------------------------------------------------------


def so_far(table: Table, epoch: int) -> np.ndarray:
    """Each arm's best value in its first ``epoch`` epochs: what ASHA compares."""
    return np.array([max(curve[:epoch]) for curve in table.curves])


def places(values: Sequence[float]) -> np.ndarray:
    """The place of each value, 1 = the highest; equals in the order given."""
    order = np.argsort(-np.asarray(values), kind="stable")
    ranks = np.empty(len(order), dtype=int)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def why(table: Table) -> str:
    """How well the rungs foretell the end, and whom they wrong."""
    final = np.array(table.final)
    last = places(final)
    good = final >= final[table.winner] - MARGIN - 1e-9
    upper = last <= len(final) // 2
    header = ("After epoch", "Spearman, all arms", "Spearman, upper half", "Place of the winner",
              "Of the arms within 0.3 points, in the upper third")  # fmt: skip
    lines = [
        f"The grid: {len(final)} arms x {table.epochs} epochs = {table.total}. Best "
        f"{100 * final.max():.2f} % "
        f"({_describe(table, table.winner)}), median {100 * np.median(final):.2f} %, worst "
        f"{100 * final.min():.2f} %; "
        f"{good.sum()} arms lie within 0.3 points of the best.",
        "",
        f"| {' | '.join(header)} |",
        "| --- | --- | --- | --- | --- |",
    ]
    count = len(final)
    for epoch in (epoch for epoch in (1, GRACE, GRACE * FACTOR) if epoch < table.epochs):
        early = so_far(table, epoch)
        now = places(early)
        kept = (now[good] <= math.ceil(count / FACTOR)).sum()
        everywhere, above = (
            spearmanr(early[some], final[some]).statistic for some in (last > 0, upper)
        )
        lines.append(
            f"| {epoch} | {everywhere:.2f} | {above:.2f} | {now[table.winner]} of {count} | "
            f"{kept} of {good.sum()} |"
        )
    curve = table.curves[table.winner]
    course = ", ".join(
        f"{100 * curve[epoch - 1]:.1f}" for epoch in range(GRACE, table.epochs + 1, GRACE)
    )
    lines += ["", f"The winner's course, % after every {GRACE} epochs: {course}."]
    return "\n".join([*lines, "", *_wronged(table, last)])


def _wronged(table: Table, last: np.ndarray) -> list[str]:
    """Which settings rise after ASHA's first rung: it underrates them."""
    first = places(so_far(table, GRACE))
    lines = [
        f"Mean places gained from epoch {GRACE} to the end, by setting (positive: ASHA underrates "
        "it):",
        "",
    ]
    for place, name in enumerate(table.names):
        values = sorted({labels[place] for labels in table.labels})
        gains = (
            np.mean(
                [
                    first[arm] - last[arm]
                    for arm, labels in enumerate(table.labels)
                    if labels[place] == value
                ]
            )
            for value in values
        )
        lines.append(
            f"- `{name}`: "
            + ", ".join(f"{_text(v)}: {g:+.1f}" for v, g in zip(values, gains, strict=True))
        )
    return lines


def luck(tables: Sequence[Table]) -> str:
    """What the grid's own choice on one seed is worth on another, and how alike the seeds are."""
    lines = []
    for here, table in enumerate(tables):
        for there, other in enumerate(tables):
            if here != there:
                regret = 100 * (max(other.final) - other.final[table.winner])
                lines.append(
                    f"The full grid's choice on seed {here} lies {regret:.2f} points below the "
                    f"best on seed {there} "
                    "(Spearman of all arms between the two "
                    f"{spearmanr(table.final, other.final).statistic:.2f})."
                )
    return "\n".join(lines)


def _describe(table: Table, arm: int) -> str:
    return ", ".join(
        f"{name}={_text(label)}" for name, label in zip(table.names, table.labels[arm], strict=True)
    )


def _text(label: float | str) -> str:
    return label if isinstance(label, str) else f"{label:g}"


GRIDS = {  # second word of the CSV's name -> what it is a grid of
    "cifar10": "The grid was recorded by `python -m suite.sweep benchmarks/grid.yaml "
    "data.root=FOLDER`: a small "
    "network from scratch, 2,000 training and 5,000 validation images of CIFAR-10, cosine, fp32, "
    "two cores.",
    "transfer": "The grid was recorded by `python -m suite.sweep benchmarks/grid_transfer.yaml "
    "data.root=FOLDER "
    "model.imagenet_file=FILE`: joint.yaml's depths 7 and 8, heads and rates on a ResNet-18 "
    "pretrained on Tiny "
    "ImageNet, 2,000 training and 5,000 validation images of CIFAR-10 at 32 pixels, cosine, fp32, "
    "two cores.",
}
NOTES = """\
Two workers, epochs of equal cost; epochs count over both. "Within 0.3 points" asks for a value
seen: the best epoch so far of some trial, stopped or not, is at least the grid's best less 0.3
points. Regret is that of the choice: the arm with the best value seen, at the value that it comes
to at full length. "Values listed": each parameter categorical, an arm suggested again costs
nothing, and after {repeats} of these in a row the search has ended, as in a sweep. "lr as a
range": what `search_spaces/joint.yaml` does; a suggestion between recorded rates is charged in
full and comes to what the nearest recorded arm came to. ASHA is joint.yaml's: grace_epochs
{grace}, reduction_factor {factor}. One seed per search: the grid's best is the luckiest of near
equals, and a search is judged by the validation images that it chooses by. On the other seed it
is not: there the choice made here is compared with the best there."""


@click.command()
@click.option(
    "--grid",
    type=click.Path(path_type=Path),
    help="A CSV. Default: each grid_*.csv of benchmarks/results.",
)
@click.option("--short", is_flag=True, help="Fewer repetitions, kept in files of their own.")
@click.option(
    "--settings",
    "one_by_one",
    is_flag=True,
    help="ASHA's and TPE's settings instead of the searches.",
)
@click.option(
    "--extract",
    "folder",
    type=click.Path(path_type=Path),
    help="A grid's folder, to write --grid from.",
)
def main(grid: Path | None, short: bool, one_by_one: bool, folder: Path | None) -> None:
    """Replay searches over the recorded grids, print and keep a table for each."""
    if folder is not None:
        if grid is None:
            raise click.UsageError("--extract needs --grid, the CSV to write")
        extract(folder, grid)
        return
    for file in [grid] if grid is not None else sorted(RESULTS.glob("grid_*.csv")):
        compare(file, short, one_by_one)


def compare(file: Path, short: bool, one_by_one: bool) -> None:
    """Replay searches over one grid, print and keep the table."""
    started = time.monotonic()
    tables = load(file)
    orders, studies = (40, 10) if short else (200, 50)
    found = (settings if one_by_one else searches)(tables, orders, studies)
    rows = [row(name, score(tables, runs)) for name, runs in found.items()]
    took = time.monotonic() - started
    of = file.stem.split("_")[1]
    about = (
        f"Replayed over `{file.name}` in {took:.0f} s: {orders} random orders, {studies} "
        "studies, seeds in turn."
    )
    notes = NOTES.format(repeats=REPEATS, grace=GRACE, factor=FACTOR)
    reasons = (f"## Seed {seed}\n\n{why(table)}" for seed, table in enumerate(tables))
    question, title = (
        ("search-settings", "Settings of a search")
        if one_by_one
        else ("search", "What a search saves")
    )
    question += f"-{of}" + ("-short" if short else "")
    text = "\n\n".join([about, GRIDS.get(of, ""), notes, luck(tables), *reasons])
    keep_table(question, f"{title}, replayed over a recorded grid", HEADER, rows, text)


if __name__ == "__main__":
    main()
