"""The shared nouns: what a trial is, what one epoch left behind, and the names that MLflow shows.

Plain values, no third party; every other module speaks in these words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

# Metric names: "<split>/<figure>", one record per epoch, step = completed epochs, from 1.
# Accuracies are fractions in [0, 1]; losses are mean cross entropy in nats.
TRAIN_LOSS, TRAIN_ACC = "train/loss", "train/acc"
VAL_LOSS, VAL_ACC, VAL_BALANCED = "val/loss", "val/acc", "val/balanced_acc"
TEST_LOSS, TEST_ACC, TEST_BALANCED = "test/loss", "test/acc", "test/balanced_acc"
EPOCH_SECONDS, IMAGES_PER_SECOND = "time/epoch_s", "time/img_per_s"
LEARNING_RATE, MEMORY_GIB = "train/lr", "memory/peak_gib"

SPLIT_METRICS = (
    TRAIN_LOSS,
    TRAIN_ACC,
    VAL_LOSS,
    VAL_ACC,
    VAL_BALANCED,
    TEST_LOSS,
    TEST_ACC,
    TEST_BALANCED,
)
METRICS = (*SPLIT_METRICS, EPOCH_SECONDS, IMAGES_PER_SECOND, LEARNING_RATE, MEMORY_GIB)
# What depends on the machine, not on the seed: two runs of one trial may differ here and nowhere
# else.
MACHINE_METRICS = (EPOCH_SECONDS, IMAGES_PER_SECOND, MEMORY_GIB)


class Status(StrEnum):
    """What has become of a trial.

    One word in the journal, in the table and in the tag ``suite.status``.
    """

    PENDING = "pending"  # planned, not started
    RUNNING = "running"  # a live process works on it
    FINISHED = "finished"  # ran its epochs, or stopped itself by patience
    STOPPED = "stopped"  # ended early by the sweep's early_terminate
    FAILED = "failed"  # ended by an error; the reason is beside it
    INTERRUPTED = "interrupted"  # the sweep was stopped; goes on at the next launch


@dataclass(frozen=True)
class EpochRecord:
    """What one completed epoch of one trial left behind.

    Attributes:
        epoch: completed epochs, from 1.
        metrics: metric name -> value; only names of ``METRICS``.
    """

    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """What a sweep optimises: a metric, its direction, and which epoch of a trial speaks for it.

    Attributes:
        name: a metric name of the validation or training split, e.g. ``val/acc``.
        goal: ``maximize`` or ``minimize``.
        strategy: ``best`` = the best epoch, ``last`` = the final one.
    """

    name: str
    goal: str = "maximize"
    strategy: str = "best"

    def better(self, value: float, than: float | None) -> bool:
        """Whether ``value`` beats ``than``. NaN beats nothing; anything finite beats None."""
        if math.isnan(value):
            return False
        if than is None:
            return True
        return value > than if self.goal == "maximize" else value < than

    def chosen(self, records: list[EpochRecord]) -> EpochRecord | None:
        """The epoch that speaks for a trial: its best one (the earliest of equals) or its last
        one.
        """
        known = [record for record in records if self.name in record.metrics]
        if not known or self.strategy == "last":
            return known[-1] if known else None
        best = known[0]
        for record in known[1:]:
            if self.better(record.metrics[self.name], best.metrics[self.name]):
                best = record
        return best


@dataclass(frozen=True)
class Looks:
    """At which seeds a sweep's verdicts are, or have been, looked at. Each look may err, so the
    report counts them.

    Attributes:
        planned: declared before the first trial (``seeds: {at_least, at_most, until: decided}``):
            the seeds of each look, each a superset of the one before; empty if nothing was
            declared.
        made: the seeds of each look so far, oldest first, the present one last.
        open: whether a look was made before ``planned`` was declared, or under another plan. Then
            the plan says where to look, and the error is spent as for a list of seeds.
    """

    planned: tuple[tuple[int, ...], ...] = ()
    made: tuple[tuple[int, ...], ...] = ()
    open: bool = False


@dataclass(frozen=True)
class Numerics:
    """How the arithmetic is done: resolved once per sweep, journalled, pinned for resume and
    extension.

    Same numerics, config and seed: the same numbers, bit for bit on the CPU.

    Attributes:
        precision: ``fp32`` or ``bf16`` (autocast; weights stay fp32).
        channels_last: memory format of images and kernels.
        threads: CPU threads of one trial.
        device: ``cpu`` or ``cuda``.
        sliced: convolutions of maps of at most 2 x 2 pixels leave out the taps that only meet
            padding.
        tiled: those are products of a fixed number of images, so that an image's values do not
            depend on the others of its batch; in bf16 with AMX, maps of up to 4 x 4 pixels go side
            by side, for some gradients up to 8 x 8.
        fused: trials of a pack that have the same shapes are trained as one network.
        compiled: training steps of whole batches go through ``torch.compile``, on a GPU with CUDA
            graphs.
    """

    precision: str = "fp32"
    channels_last: bool = False
    threads: int = 1
    device: str = "cpu"
    sliced: bool = False
    tiled: bool = False
    fused: bool = False
    compiled: bool = False

    @staticmethod
    def key(stored: Mapping[str, Any] | None) -> str:
        """By what stored numerics are compared: a field that older ones lack has its default."""
        return json.dumps({**asdict(Numerics()), **stored} if stored else None, sort_keys=True)


@dataclass(frozen=True)
class Trial:
    """One arm with one seed.

    Attributes:
        id: 16 hex digits, the hash of what determines the result (see ``suite.config.signature``).
        arm: the arm's name, unique in the sweep.
        seed: repeat number of the arm.
        name: what a person reads: what varies, and the seed, e.g. ``freeze_depth=7 seed=2``.
        settings: the dotted settings in which arms differ -> value, for tables.
        config: the resolved ``TrialConfig`` as plain JSON types.
    """

    id: str
    arm: str
    seed: int
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def stream(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """A 63-bit seed for the random stream of one purpose at one place of a trial.

    Every random draw of a trial comes from a generator seeded with this, so a resumed trial draws
    what the unbroken one would have drawn, and two arms with one seed see the same batches and
    share initial weights.

    Args:
        seed: the trial's seed.
        purpose: e.g. ``order``, ``augment``, ``dropout``, ``init:layer1.0.conv1.weight``.
        epoch: epoch index from 0; step: step index in the epoch from 0.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{epoch}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
