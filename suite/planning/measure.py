"""Short measurements on this machine: which numerics are fastest, and what a sweep will cost.

Each runs a few real training steps of the arm's network on random images. Results are kept in the
suite's cache folder, keyed by all that they depend on, so a second dry run of a file answers at
once; but not what was measured while others used the processors: for one network bf16 was found
1.03 times as fast as fp32 so, and 2.16 times with nothing beside.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from suite import data, models
from suite.config import ResourcesConfig, TrialConfig, plugin
from suite.core.errors import brief
from suite.core.records import EpochRecord, Numerics, Objective, Trial
from suite.system import disk, environment
from suite.training import joint, memory
from suite.training.evaluation import clock
from suite.training.setup import prepare_trainer
from suite.training.trainer import Trainer

# Images per step of a probe on the CPU, where a step of the trial's own takes longer than this:
CPU_BATCH = 32
# A step's own cost (casts, the optimizer) weighs most where it is short: 1.4 instead of 1.65 for
# bf16
STEP_S = 0.5
TIMED_EPOCHS = (
    2  # of one or two steps each, the faster one counts: others may use the machine meanwhile
)
# Raised when a step becomes faster or slower, or is measured otherwise: what is kept no longer
# holds
KERNELS = 6
# What is less usual (bf16, another memory format, more threads, compilation) must be so much faster
MARGIN = 1.15
COMPILED_FROM_S = (
    300.0  # seconds of a trial; what takes less is over sooner than its compilation would pay
)
GPU_CONTEXT_GIB = 0.6  # what a CUDA process takes besides its tensors
GPU_HEADROOM = 1.2  # over the measured peak: fragments, and the last batch
BUSY = (
    0.2  # share of the processors' time that others took, from which on a measurement is not kept
)
PACKS = (2, 4, 8, 16, 32)
FRACTIONS = (1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1 / 8, 1 / 10)


@dataclass(frozen=True)
class Cost:
    """What one kind of trial costs here.

    Attributes:
        train_s, eval_s: seconds per image.
        memory_gib: peak of torch on a GPU; on the CPU, growth of the process.
        checkpoint_mib: size of one resume checkpoint and its best weights.
        ready_s: seconds of the first steps, with all that is prepared then.
        whole_batch: whether steps had the trial's own batch, and not a smaller one.
        others: share of the processors' time that other processes took meanwhile.
        turns: measurements of which this is the best.
    """

    train_s: float
    eval_s: float
    memory_gib: float
    checkpoint_mib: float
    ready_s: float = 0.0
    whole_batch: bool = True
    others: float = 0.0
    turns: int = 1


def meanwhile(others: float) -> str:
    """The end of a sentence on what was measured while other processes took such a share of the
    processors.
    """
    return f", while others used {others:.0%} of the processors" if others >= BUSY else ""


def cost(
    config: TrialConfig,
    classes: int,
    side: int,
    numerics: Numerics,
    whole_batch: bool | None = None,
    anew: bool = False,
) -> Cost:
    """Measure a few steps of a trial's training and evaluation on random images (classes K, side H
    = W).

    Args:
        whole_batch: whether in batches of the trial's size; None = where such a step is short.
        anew: whatever is kept; nor is what is found kept longer than this process.
    """
    key, known = _key(config, classes, side, numerics), {} if anew else _read()
    for whole in (True, False) if whole_batch is None else (whole_batch,):
        if isinstance(found := known.get(f"{key}-{whole}"), dict):
            return Cost(**found, whole_batch=whole)
    others = _others()
    measured = _measure(config, classes, side, numerics, whole_batch)
    measured = replace(measured, others=others())
    _keep_cost(key, measured, lasting=measured.others < BUSY and not anew)
    return measured


def _keep_cost(key: str, measured: Cost, lasting: bool) -> None:
    kept = asdict(measured)
    _keep(f"{key}-{kept.pop('whole_batch')}", kept, lasting=lasting)


def _others() -> Callable[[], float]:
    """Start to watch; what is returned tells which share of our processors' time others have taken
    since then.

    Others are processes outside this one and, on a rented machine, other guests of its host
    ("steal"); our processors are those that this process may use.
    """
    process = psutil.Process()
    ours = (
        process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(os.cpu_count() or 1)
    )

    def used() -> tuple[float, float, float]:
        each, own = (
            psutil.cpu_times(percpu=True),
            process.cpu_times(),
        )  # our children's is a compiler's time
        kinds = ("user", "nice", "system", "irq", "softirq", "steal")
        seen = [
            each[core] for core in ours if core < len(each)
        ]  # those that are off are not listed
        busy = sum(getattr(core, kind, 0.0) for core in seen for kind in kinds)
        return (
            time.monotonic(),
            busy,
            own.user + own.system + own.children_user + own.children_system,
        )

    began, busy_before, own_before = used()

    def share() -> float:
        now, busy, own = used()
        whole = (now - began) * len(ours)
        return max(0.0, (busy - busy_before) - (own - own_before)) / whole if whole else 0.0

    return share


@dataclass(frozen=True)
class Room:
    """What a sweep has to run in.

    Attributes:
        trials: that are to be run.
        most: of them at once; None = as many as there are cores for.
        nodes: the cores of each machine.
        device: ``cpu`` or ``cuda``.
        images: that the shortest trial trains on, once for each of its epochs.
    """

    trials: int
    most: int | None
    nodes: tuple[int, ...]
    device: str = "cpu"
    images: int = 0

    def rounds(self, threads: int) -> int:
        """How many trials run one after another in each slot, with so many threads each."""
        slots = max(1, sum(cores // threads for cores in self.nodes))
        return math.ceil(self.trials / min(slots, self.most or slots))


def choose_numerics(
    configs: Sequence[tuple[TrialConfig, int, int]],
    resources: ResourcesConfig,
    room: Room,
    say: Callable[[str], None],
) -> Numerics:
    """The numerics of a sweep: one choice for all its trials, so that they can be compared.

    What the file gives is taken as it is; what it leaves open (``auto``) is measured, each in its
    turn: precision, memory format, threads, compilation. The sum over all networks of the sweep
    decides.

    Args:
        configs: (config, classes, side) of each distinct network.
        say: takes a line for the user on each choice.
    """
    exact = (
        room.device == "cpu"
    )  # products over the taps that see a pixel: exact, and only ever less to do
    chosen = Numerics(
        "fp32",
        channels_last=resources.memory_format != "contiguous",
        threads=resources.least_cpu,
        device=room.device,
        sliced=exact,
        tiled=exact,
    )
    chosen = _with_precision(configs, chosen, say)
    if resources.memory_format == "auto":
        chosen = _with_memory_format(configs, chosen, say)
    if resources.cpu == "auto":
        chosen = _with_threads(configs, chosen, room, say)
    if resources.compile:
        chosen = _with_compilation(configs, chosen, room, resources.compile == "auto", say)
    return chosen


def _with_precision(
    configs: Sequence[tuple[TrialConfig, int, int]], plain: Numerics, say: Callable[[str], None]
) -> Numerics:
    """Where the processor has no bf16, nothing is measured: emulated, a ResNet-18 took six times
    as long.
    """
    wanted = {config.train.precision for config, _, _ in configs}
    bf16 = replace(plain, precision="bf16")
    if wanted != {"auto"}:
        return bf16 if wanted - {"auto"} == {"bf16"} else plain
    if plain.device == "cpu" and not has_bf16():
        say("precision: fp32 (this processor has no bf16)")
        return plain
    found = _compare(configs, [plain, bf16], patient=True)
    slow, fast = found.seconds
    if not fast:
        say(f"precision: fp32 (not measured: {found.failure})")
        return plain
    chosen = bf16 if slow > MARGIN * fast else plain
    said = f"bf16 runs {slow / fast:.2f} times as fast as fp32 here{found.meanwhile}"
    say(f"precision: {chosen.precision} (measured: {said})")
    return chosen


def _with_memory_format(
    configs: Sequence[tuple[TrialConfig, int, int]], usual: Numerics, say: Callable[[str], None]
) -> Numerics:
    other = replace(usual, channels_last=False)
    found = _compare(configs, [usual, other])
    before, after = found.seconds
    if not after:
        say(f"memory format: channels_last (not measured: {found.failure})")
        return usual
    chosen = other if before > MARGIN * after else usual
    word = "channels_last" if chosen.channels_last else "contiguous"
    said = (
        f"contiguous runs {before / after:.2f} times as fast as channels_last here{found.meanwhile}"
    )
    say(f"memory format: {word} (measured: {said})")
    return chosen


def _with_threads(
    configs: Sequence[tuple[TrialConfig, int, int]],
    single: Numerics,
    room: Room,
    say: Callable[[str], None],
) -> Numerics:
    """Powers of two up to the cores of this machine and of each other, by when the last trial would
    end.

    Each is measured with nothing beside it, which flatters a few threads a little: neighbours share
    caches.
    """
    here = min(environment.cores(), *room.nodes)
    counts = [count for power in range(here.bit_length()) if (count := 2**power) <= here]
    counts = [
        count for count in counts if count == 1 or room.rounds(count) < 2 * room.rounds(count // 2)
    ]
    if counts == [1]:
        say(f"threads: 1 a trial ({room.trials} to run on {sum(room.nodes)} cores)")
        return single
    found = _compare(configs, [replace(single, threads=count) for count in counts])
    seconds = found.seconds
    if not all(seconds):
        say(f"threads: 1 a trial (not measured: {found.failure})")
        return single
    ends = {count: room.rounds(count) * each for count, each in zip(counts, seconds, strict=True)}
    best = counts[0]
    for count in counts[1:]:
        best = count if ends[best] > MARGIN * ends[count] else best
    gain = (
        f"a trial is {seconds[0] / seconds[-1]:.2f} times as fast with "
        f"{counts[-1]}{found.meanwhile}"
    )
    say(
        f"threads: {best} a trial (measured: {gain}; {room.trials} to run on {sum(room.nodes)} "
        "cores)"
    )
    return replace(single, threads=best)


def _with_compilation(
    configs: Sequence[tuple[TrialConfig, int, int]],
    eager: Numerics,
    room: Room,
    auto: bool,
    say: Callable[[str], None],
) -> Numerics:
    """By when the shortest trial would end, or, where the file asks for it, wherever it is
    possible at all.
    """
    plain = _compare(configs, [eager])
    if not plain.networks:
        say(f"compile: no (not measured: {plain.failure})")
        return eager
    if auto and room.images * plain.mean[0] < COMPILED_FROM_S:
        say(
            f"compile: no (not tried: a trial trains for about {room.images * plain.mean[0]:.0f} s)"
        )
        return eager
    found = _compare(configs, [eager, replace(eager, compiled=True)])
    if found.networks < plain.networks:  # one choice for all
        say(f"compile: no (not possible: {found.failure})")
        return eager
    before, after = found.seconds
    ready = f"after {found.ready_s[1]:.0f} s{found.meanwhile}"
    faster = f"compiled it runs {before / after:.2f} times as fast here, {ready}"
    alone, compiled = (
        room.images * mean + first for mean, first in zip(found.mean, found.ready_s, strict=True)
    )
    chosen = not auto or alone > MARGIN * compiled
    why = "measured" if auto else "as asked"
    when = "; each worker compiles in the first epoch of its first trial" if chosen else ""
    say(f"compile: {'yes' if chosen else 'no'} ({why}: {faster}){when}")
    return replace(eager, compiled=chosen)


class Comparison(NamedTuple):
    """Candidates beside one another.

    Attributes:
        seconds: per training image, summed over all networks that can be trained, of each
            candidate; 0 where none can.
        ready_s: of the first steps of each candidate, the most that a network took.
        networks: how many can be trained.
        failure: why one of the networks cannot be trained.
        others: the largest share of the processors' time that other processes took during a
            measurement.
    """

    seconds: list[float]
    ready_s: list[float]
    networks: int
    failure: str
    others: float

    @property
    def mean(self) -> list[float]:
        """Seconds per training image of a network, of each candidate."""
        return [total / max(1, self.networks) for total in self.seconds]

    @property
    def meanwhile(self) -> str:
        """The end of a sentence on what was measured."""
        return meanwhile(self.others)


def _compare(
    configs: Sequence[tuple[TrialConfig, int, int]],
    candidates: Sequence[Numerics],
    patient: bool = False,
) -> Comparison:
    """Measure each candidate with each network; if ``patient``, once more where they are too close
    to call.

    Only the first choice is patient: what it measures once more is kept, and must not change under
    an earlier one.
    """
    sums, ready, networks, failure, others = (
        [0.0] * len(candidates),
        [0.0] * len(candidates),
        0,
        "",
        0.0,
    )
    for item in configs:
        try:
            first = cost(
                *item, candidates[0]
            )  # all in batches of the same size: it has a say of its own in a ratio
            each = [
                first,
                *(
                    cost(*item, numerics, whole_batch=first.whole_batch)
                    for numerics in candidates[1:]
                ),
            ]
            if any(
                found.others >= BUSY for found in each
            ):  # beside one that is kept of a quiet time it tells nothing
                again = [
                    cost(*item, numerics, whole_batch=first.whole_batch, anew=True)
                    for numerics in candidates
                ]
                # what was compiled before is ready at once
                each = [
                    replace(new, ready_s=max(new.ready_s, old.ready_s))
                    for new, old in zip(again, each, strict=True)
                ]
            elif patient and _is_close(each):
                each = [
                    _once_more(item, numerics, old)
                    for numerics, old in zip(candidates, each, strict=True)
                ]
        except Exception as error:  # its trials will say so, each for itself
            failure = f"{item[0].model.arch}: {brief(error)}"
            continue
        sums = [total + found.train_s for total, found in zip(sums, each, strict=True)]
        ready = [max(most, found.ready_s) for most, found in zip(ready, each, strict=True)]
        networks += 1
        others = max(others, *(found.others for found in each))
    return Comparison(sums, ready, networks, failure, others)


def _is_close(each: Sequence[Cost]) -> bool:
    """Whether the slowest is not slower by ``MARGIN`` than the fastest, so far.

    A neighbour of a rented machine may have slowed one down meanwhile: in one of five launches of a
    sweep bf16, 1.8 times as fast as fp32, was not found to be worth it.
    """
    seconds = [found.train_s for found in each]
    return max(seconds) <= MARGIN * min(seconds) and all(found.turns == 1 for found in each)


def _once_more(item: tuple[TrialConfig, int, int], numerics: Numerics, old: Cost) -> Cost:
    new = cost(*item, numerics, whole_batch=old.whole_batch, anew=True)
    best = replace(
        old,
        train_s=min(old.train_s, new.train_s),
        eval_s=min(old.eval_s, new.eval_s),
        others=max(old.others, new.others),
        turns=old.turns + 1,
    )
    _keep_cost(_key(*item, numerics), best, lasting=best.others < BUSY)
    return best


def has_bf16() -> bool:
    """Whether torch's kernels for this processor compute in bf16, rather than emulate it; True
    where nobody knows.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return True


def gpu_fraction(peak_gib: float, total_gib: float) -> float:
    """The smallest usual fraction of a GPU that holds a trial whose tensors peak at
    ``peak_gib``.
    """
    needed = (peak_gib * GPU_HEADROOM + GPU_CONTEXT_GIB) / total_gib
    fitting = [fraction for fraction in FRACTIONS if fraction >= needed]
    return min(fitting, default=1.0)


def choose_pack(
    configs: Sequence[tuple[TrialConfig, int, int]], numerics: Numerics, most: int
) -> tuple[int, float]:
    """How many trials are best trained as one network, and how many times as fast that is as one
    after the other.

    Twice as many are taken only where that pays by ``MARGIN`` again.

    Args:
        most: that the device's memory has room for.
    """
    if not all(_joins(*item) for item in configs):
        return 1, 1.0
    chosen, best = 1, sum(joint_seconds(*item, numerics, 1) for item in configs)
    alone = best
    for count in PACKS:
        if count > most:
            break
        seconds = sum(joint_seconds(*item, numerics, count) for item in configs)
        if seconds * MARGIN > best:
            break
        chosen, best = count, seconds
    return chosen, alone / best


def joint_seconds(
    config: TrialConfig, classes: int, side: int, numerics: Numerics, count: int
) -> float:
    """Seconds of training per image and trial, of ``count`` trials trained as one network."""
    key = f"{_key(config, classes, side, numerics)}-{count}"
    if isinstance(found := _read().get(key), dict):
        return float(found["train_s"])
    others = _others()
    seconds = _measure_joint(config, classes, side, numerics, count)
    _keep(key, {"train_s": seconds}, lasting=others() < BUSY)
    return seconds


def _measure_joint(
    config: TrialConfig, classes: int, side: int, numerics: Numerics, count: int
) -> float:
    with tempfile.TemporaryDirectory() as folder, _own_threads():
        trainers = [
            _trainer(config, classes, side, numerics, Path(folder) / str(n)) for n in range(count)
        ]
        best = math.inf
        for _ in range(1 + TIMED_EPOCHS):
            ends = joint.train_epoch(trainers) if count > 1 else [trainers[0].train_epoch()]
            seconds = [
                1 / end.metrics["time/img_per_s"] for end in ends if isinstance(end, EpochRecord)
            ]
            best = min(best, sum(seconds) / len(seconds)) if seconds else math.inf
        return best


def _joins(config: TrialConfig, classes: int, side: int) -> bool:
    plain = config.model.model_copy(update={"weights": "none"})
    nets = [models.build(plain, classes, seed=seed) for seed in (0, 1)]
    if config.train.cache_prefix != "off" and models.frozen_prefix(nets[0]):
        # Features kept of frozen layers save more, and ``fused.can_join`` leaves such trials alone
        return False
    return models.agrees(nets, torch.rand(2, 3, side, side))


def _trainer(
    config: TrialConfig,
    classes: int,
    side: int,
    numerics: Numerics,
    folder: Path,
    whole_batch: bool = False,
) -> Trainer:
    """A trial of a few steps on random images; on a CPU of small ones, or of ``whole_batch``,
    one in each epoch.
    """
    on_cpu = numerics.device == "cpu"
    batch = config.train.batch_size
    if on_cpu and not whole_batch:
        batch = min(batch, CPU_BATCH)
    generator = np.random.default_rng(0)
    count = max((1 if on_cpu and whole_batch else 2) * batch, classes)
    images = generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % classes
    names = tuple(map(str, range(classes)))
    digest = f"probe {classes} {side} {count}"
    dataset = data.Dataset("probe", names, digest, images, labels, images[:batch], labels[:batch])
    train = {
        "epochs": 1 + TIMED_EPOCHS,
        "batch_size": batch,
        "warmup_epochs": 0.0,
        "evaluate_test": "every",
    }
    plain = config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"train_size": None, "val_size": 0, "test_size": None}
            ),
            "model": config.model.model_copy(update={"weights": "none"}),
            "train": config.train.model_copy(update=train),
        }
    )
    trial = Trial("probe", "probe", 0, "probe", config=plain.model_dump(mode="json"))
    objective = Objective("train/loss", "minimize", "last")
    return prepare_trainer(
        trial, dataset, objective=objective, numerics=numerics, folder=folder, cache=folder
    )


@contextmanager
def _own_threads() -> Iterator[None]:
    kept = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def _measure(
    config: TrialConfig,
    classes: int,
    side: int,
    numerics: Numerics,
    whole_batch: bool | None = None,
) -> Cost:
    on_gpu = numerics.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder, _own_threads():
        batch, small = config.train.batch_size, not on_gpu and config.train.batch_size > CPU_BATCH
        known = small and bool(whole_batch)
        trainer = _trainer(config, classes, side, numerics, Path(folder), whole_batch=known)
        before = memory.resident_gib()
        first, ready_s = _epoch(trainer)
        if whole_batch is None:
            if small and numerics.compiled:
                first, _ = _epoch(trainer)  # that one was the compiler's
            whole_batch = not small or batch < STEP_S * first
        if small and whole_batch and not known:
            trainer = _trainer(
                config, classes, side, numerics, Path(folder) / "whole", whole_batch=True
            )
            _, ready_s = _epoch(trainer)
        timed = [trainer.train_epoch() for _ in range(TIMED_EPOCHS)]
        train_s = min(
            1 / record.metrics["time/img_per_s"] for record in timed if record is not None
        )
        started = clock(trainer.device)
        trainer.evaluate_test()
        eval_s = (clock(trainer.device) - started) / len(trainer.images.test)
        peak = (
            torch.cuda.max_memory_allocated() / 2**30 if on_gpu else memory.resident_gib() - before
        )
        size = sum(
            value.numel() * value.element_size() for value in trainer.model.state_dict().values()
        )
        trainable, _ = models.count_parameters(trainer.model)
        states = {"sgd": 1, "adam": 2, "adamw": 2}[config.train.optimizer]
        kept_mib = (2 * size + states * 4 * trainable) / 2**20
        return Cost(train_s, eval_s, max(0.0, peak), kept_mib, ready_s, whole_batch)


def _epoch(trainer: Trainer) -> tuple[float, float]:
    """Images a second of training, and seconds; in the first epoch kernels are chosen and code
    is compiled.
    """
    started = clock(trainer.device)
    record = trainer.train_epoch()
    return record.metrics["time/img_per_s"] if record is not None else 0.0, clock(
        trainer.device
    ) - started


def _key(config: TrialConfig, classes: int, side: int, numerics: Numerics) -> str:
    what = {
        "augmentations": {
            name: settings.model_dump(mode="json")
            for name, settings in config.augmentations.items()
        },
        "cache_prefix": config.train.cache_prefix,
        "code": plugin.digest(config.model.arch) if plugin.is_reference(config.model.arch) else "",
        "model": config.model.model_dump(mode="json") | {"weights": "", "imagenet_file": ""},
        "augment": config.augment,
        "optimizer": config.train.optimizer,
        "ema": config.train.ema is not None,
        "batch": config.train.batch_size,
        "classes": classes,
        "side": side,
        "numerics": asdict(numerics),
        "machine": [environment.processor(), os.cpu_count(), torch.__version__],
        "arithmetic": [
            torch.backends.cpu.get_cpu_capability(),
            has_bf16(),
        ],  # a home may be shared by machines
        "kernels": KERNELS,
        "gpu": torch.cuda.get_device_name() if numerics.device == "cuda" else "",
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def _file() -> Path:
    return data.cache_folder() / "probes.json"


_passing: dict[
    Path, dict[str, dict[str, float]]
] = {}  # file -> what is kept as long as this process only


def _read() -> dict[str, dict[str, Any]]:
    return _stored(_file()) | _passing.get(_file(), {})


def _stored(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(file.read_text())
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _keep(key: str, value: dict[str, float], lasting: bool = True) -> None:
    """Keep a measurement; where the cache cannot be written, the next launch makes it again."""
    file = _file()
    if not lasting:
        _passing.setdefault(file, {})[key] = value
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.atomic_write(file, json.dumps(_stored(file) | {key: value}), shared=True)
        _passing.get(file, {}).pop(key, None)


__all__ = [
    "Cost",
    "Room",
    "choose_numerics",
    "choose_pack",
    "cost",
    "gpu_fraction",
    "has_bf16",
    "joint_seconds",
]
