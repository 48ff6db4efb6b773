"""What a sweep will cost here, before it runs: trials, epochs, time, memory, disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from suite import analysis, data, models
from suite.config import Arm, SweepSpec, TrialConfig
from suite.config.evaluation import evaluation_share, test_schedule
from suite.config.space import Parameter
from suite.console.output import duration
from suite.core.errors import UsageError, brief
from suite.core.records import Numerics, Status
from suite.planning import measure
from suite.planning.plan import Plan
from suite.planning.rounds import Round, looks_at, rounds
from suite.storage.journal import FILE_NAME, History, read
from suite.system import environment

WORKER_GIB = 0.55  # a worker before it trains: torch, Ray, the suite
SHOWN = 200


@dataclass(frozen=True)
class Row:
    """One arm of the plan."""

    arm: str
    baseline: bool
    seeds: str
    epochs: int
    trainable: int
    total: int
    epoch_s: float
    trial_s: float
    left: int


@dataclass(frozen=True)
class Estimate:
    """Rows for a table, and what is to be said below it."""

    rows: list[Row]
    lines: list[str]


def estimate(
    plan: Plan, folder: Path, only: Collection[str] = (), most: int | None = None
) -> Estimate:
    """Measure one trial of each network for a moment and add up. A search is estimated from its
    extremes.

    Args:
        folder: the sweep's, where there may be finished trials.
        only: names of the arms to run; none = all.
        most: trials that may run at once; None = as many as there are cores for.
    """
    spec = plan.spec
    arms = list(spec.arms_list) or [
        spec.ask(partial(_point_at, share)) for share in (0.0, 0.5, 1.0)
    ]
    if only and not spec.search:
        arms = [arm for arm in arms if arm.name in only]
    history = History(read(folder / FILE_NAME))
    lines: list[str] = []
    configs = [(arm.config, *plan.shape(arm.config)) for arm in arms]
    device = "cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu"
    known = history.launch.get("numerics")
    images = plan.shortest_images if spec.resources.compile == "auto" else 0
    room = measure.Room(spec.first_trials, None, (environment.cores(),), device, images)
    numerics = Numerics(**known) if known else measure.choose_numerics(
        plan.networks(), spec.resources, room, lines.append
    )  # fmt: skip
    present = rounds(plan, history)[-1] if spec.looks else None
    rows, total_s, later_s, memory, disk, others = [], 0.0, 0.0, 0.0, 0.0, 0.0
    later = 0  # trials of later rounds, if no arm is decided before the last look
    for arm, item in zip(arms, configs, strict=True):
        try:
            cost = measure.cost(*item, numerics)
        except Exception as error:
            raise UsageError(
                f"a step of training ends with an error in arm {arm.name}: "
                f"{type(error).__name__}: {brief(error)}",
                remedy="A sweep would have its trials fail and go on; --smoke shows where.",
            ) from error
        trials = [plan.trial(arm, seed) for seed in spec.seeds]
        left = sum(not _done(history, trial.id) for trial in trials)
        epoch_s, trial_s = _seconds(plan, arm, cost)
        if present is not None:
            left, after = _left_of_rounds(plan, history, arm, present)
            later += after
            later_s += after * trial_s
        trainable, total = _parameters(plan, arm)
        rows.append(
            Row(
                arm.name,
                spec.is_baseline(arm),
                f"{len(spec.looks[0])}-{len(trials)}" if spec.looks else str(len(trials)),
                arm.config.train.epochs,
                trainable,
                total,
                epoch_s,
                trial_s,
                left,
            )
        )
        total_s += left * trial_s
        memory = max(memory, cost.memory_gib)
        disk = max(disk, cost.checkpoint_mib)
        others = max(others, cost.others)
    lines += _prefixes(plan, arms)
    lines += _left_out(plan, arms)
    lines += _evaluation(plan, arms)
    lines += _summary(plan, rows, total_s, memory, disk, numerics, measure.meanwhile(others), most)
    if present is not None:
        lines += _looks(plan, history, present)
        slots, now = _slots(plan, numerics, most), sum(row.left for row in rows)
        lines += (
            _bounds((now, total_s / slots), (now + later, (total_s + later_s) / slots))
            if later
            else []
        )
    return Estimate(rows[:SHOWN], lines)


def _point_at(share: float, parameter: Parameter) -> Any:
    """The value at a share of the way through a parameter's range, for an arm that stands for a
    search.
    """
    return parameter.at(share)


def _left_of_rounds(plan: Plan, history: History, arm: Arm, present: Round) -> tuple[int, int]:
    """Trials of an arm that are left to run up to the present look, and at most after it."""
    now = [trial for other, trial in present.pairs if other.name == arm.name]
    left = 0 if present.ended else sum(not _done(history, trial.id) for trial in now)
    goes_on = not present.ended and any(other.name == arm.name for other in present.arms)
    return left, len(plan.spec.seeds) - len(present.seeds) if goes_on else 0


def _looks(plan: Plan, history: History, present: Round) -> list[str]:
    """One line per planned look: its seeds and its error level."""
    spec = plan.spec
    compared = len(spec.arms_list) - len(spec.baseline_arms)
    lines = []
    for number, seeds in enumerate(spec.looks, start=1):
        level = analysis.level_at(looks_at(spec, history, number), seeds, compared)
        if number < present.number or present.ended:
            state = "on record"
        else:
            state = f"at most {len(present.arms) * len(seeds)} trials of {len(present.arms)} arms"
        lines.append(
            f"look {number} of {len(spec.looks)}: {len(seeds)} seeds, {state}, two-sided error "
            f"level {level:.4f}"
        )
    return [
        *lines,
        "an arm whose verdict is decided gets no more seeds; the error over all looks is at most "
        "5 %",
    ]


def _summary(
    plan: Plan,
    rows: list[Row],
    total_s: float,
    memory: float,
    disk: float,
    numerics: Numerics,
    meanwhile: str,
    most: int | None,
) -> list[str]:
    spec, device = plan.spec, numerics.device
    lines = [f"and {len(rows) - SHOWN} more arms"] if len(rows) > SHOWN else []
    slots = _slots(plan, numerics, most)
    if spec.search and rows:
        trial_s = sum(row.trial_s for row in rows) / len(rows)
        first = spec.run_cap * trial_s / slots
        again = (
            (spec.confirm.top + len(spec.baseline_arms)) * (len(spec.seeds) - 1) * trial_s / slots
        )
        lines.append(
            f"a search: {spec.run_cap} arms on seed {spec.seeds[0]}, at most {duration(first)} if "
            "none stops early; "
            f"then the best {spec.confirm.top} and the baseline on {len(spec.confirm_seeds)} "
            "other seeds, about "
            f"{duration(again)}"
        )
        lines += _few_unseen_seeds(spec)
    else:
        trials, epochs = sum(row.left for row in rows), sum(row.left * row.epochs for row in rows)
        lines.append(
            f"{trials} trials to run, {epochs} epochs, about {duration(total_s / slots)} "
            f"with {slots} at once on this machine (measured now, on random images{meanwhile})"
        )
    images = sum(
        dataset.train_images.nbytes + dataset.test_images.nbytes
        for dataset in plan.datasets.values()
    )
    kind = "GPU memory" if device == "cuda" else "memory"
    each = memory if device == "cuda" else WORKER_GIB + memory
    lines.append(
        f"{kind}: about {each:.1f} GiB a trial, {slots * each:.1f} GiB at once; "
        f"images once for all: {images / 2**20:.0f} MiB"
    )
    kept = (
        spec.checkpoints.keep
        if isinstance(spec.checkpoints.keep, int)
        else len(rows) * len(spec.seeds)
    )
    lines.append(f"disk: about {(slots * 2 + kept + 5) * disk:.0f} MiB of checkpoints at most")
    return lines


def _few_unseen_seeds(spec: SweepSpec) -> list[str]:
    """A note if a search has too few seeds for verdicts."""
    unseen = len(spec.confirm_seeds) if spec.search_seed is not None else 0
    if spec.pareto or unseen >= analysis.MIN_SEEDS:
        return []
    return [
        f"note: verdicts need {analysis.MIN_SEEDS} seeds that the search has not seen, there "
        f"are {unseen}: "
        f"give at least {analysis.MIN_SEEDS + 1} seeds"
    ]


def _bounds(least: tuple[int, float], most: tuple[int, float]) -> list[str]:
    """Trials and seconds if the next look decides every arm, and if the last one decides none."""
    return [
        f"at least {least[0]} trials, about {duration(least[1])}, if the next look decides every "
        "arm; "
        f"at most {most[0]}, about {duration(most[1])}"
    ]


def _slots(plan: Plan, numerics: Numerics, most: int | None) -> int:
    """How many trials run at once."""
    resources = plan.spec.resources
    cpu = numerics.threads if resources.cpu == "auto" else resources.cpu
    slots = max(1, environment.cores() // cpu)
    if numerics.device == "cuda" and isinstance(resources.gpu, float) and resources.gpu > 0:
        slots = max(1, min(slots, int(torch.cuda.device_count() / resources.gpu)))
    return min(slots, most or slots)


def _left_out(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    """How many training images each epoch leaves out: one line per number, in the order of the
    arms.
    """
    counts: Counter[tuple[int, int]] = Counter()
    for arm in arms:
        images = len(plan.split(arm.config).train)
        counts[images - data.trained_images(images, arm.config.train), images] += 1
    return [
        f"{_arms(count, len(arms))}: each epoch leaves out {left:,} of {images:,} training "
        "images, other ones each "
        "time (train.last_batch: drop)"
        for (left, images), count in counts.items()
        if left
    ]


_WHEN = {
    "every": "at every epoch",
    "best": "at each epoch that is the best so far",
    "last": "once, at the end",
}


def _evaluation(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    """When the test images are evaluated, and the share of a trial that evaluation takes."""
    counts: Counter[str] = Counter()
    for arm in arms:
        images, train = plan.epoch_images(arm.config), arm.config.train
        schedule = test_schedule(train.evaluate_test, images)
        share = f"{evaluation_share(schedule, images, train.epochs):.0%}".replace("%", " %")
        counts[
            f"test images are evaluated {_WHEN[schedule]} (train.evaluate_test: "
            f"{train.evaluate_test}); "
            f"validation and test take {'at most ' if schedule == 'best' else ''}about {share} of "
            "a trial"
        ] += 1
    return [f"{_arms(count, len(arms))}: {text}" for text, count in counts.items()]


def _arms(count: int, total: int) -> str:
    """The start of a line that holds for ``count`` of ``total`` arms."""
    return "all arms" if count == total else f"{count} of {total} arms"


def _prefixes(plan: Plan, arms: Sequence[Arm]) -> list[str]:
    """What becomes of frozen leading layers, a line for each way."""
    ways: dict[str, int] = {}
    known: dict[str, models.Prefix] = {}
    for arm in arms:
        config = arm.config
        if config.model.freeze_depth:
            key = config.model.model_copy(
                update={"head": None, "weights": "none"}
            ).model_dump_json()
            known[key] = known.get(key) or _examined(plan, config)
            way = _way(known[key], config)
            ways[way] = ways.get(way, 0) + 1
    return [f"{count} of {len(arms)} arms: {way}" for way, count in ways.items()]


def _examined(plan: Plan, config: TrialConfig) -> models.Prefix:
    classes, side = plan.shape(config)
    network = models.build(config.model.model_copy(update={"weights": "none"}), classes)
    return models.examine(network, torch.rand(4, 3, side, side), [4, 3])


def _way(prefix: models.Prefix, config: TrialConfig) -> str:
    if config.train.cache_prefix == "off":
        return "frozen layers run each time: train.cache_prefix is off"
    if not prefix.layers:
        return f"frozen layers run each time: {prefix.why_not}"
    size = f"{prefix.bytes / 1024:.1f} KiB an image"
    if config.augment == "none":
        return (
            f"features of the {len(prefix.layers)} frozen layers are computed once and kept "
            f"({size})"
        )
    return (
        f"features of the {len(prefix.layers)} frozen layers are kept for validation and test "
        f"({size})"
    )


def _seconds(plan: Plan, arm: Arm, cost: measure.Cost) -> tuple[float, float]:
    """Seconds of an epoch, and of a trial; ``best`` counts as if each epoch were the best so
    far.
    """
    images, train = plan.epoch_images(arm.config), arm.config.train
    once = test_schedule(train.evaluate_test, images) == "last"
    test_s = images.test * cost.eval_s
    epoch_s = images.train * cost.train_s + images.val * cost.eval_s + (0.0 if once else test_s)
    return epoch_s, train.epochs * epoch_s + (test_s if once else 0.0)


def _parameters(plan: Plan, arm: Arm) -> tuple[int, int]:
    config: TrialConfig = arm.config
    network = models.build(
        config.model.model_copy(update={"weights": "none"}), plan.shape(config)[0]
    )
    return models.count_parameters(network)


def _done(history: History, trial_id: str) -> bool:
    item = history.trials.get(trial_id)
    return item is not None and item.status in (Status.FINISHED, Status.STOPPED)
