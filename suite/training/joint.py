"""Train the trials of a pack as one network, for a GPU that one small trial leaves idle.

Each trial keeps its order of images, augmentation, rate, dropout, statistics, optimizer, records
and checkpoints; only forward and backward passes are joined. Figures are those of the trial alone
up to rounding, which depends on the order of a sum in the joined kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from suite import models
from suite.core.records import EpochRecord
from suite.training import memory, precision
from suite.training.evaluation import clock
from suite.training.trainer import Trainer

EpochResult = EpochRecord | Exception | None
"""Epoch result: a record, None if stopped, or the trial's error."""


def can_join(trainers: Sequence[Trainer]) -> bool:
    """Whether all stand at the same step of equal epochs, and their networks can be fused."""
    if len(trainers) < 2 or any(trainer.inputs.prefix.layers for trainer in trainers):
        return False
    first = trainers[0]
    positions = {
        (trainer.epoch, trainer.step, *(batch.stop for batch in trainer.images.batches))
        for trainer in trainers
    }
    shapes = {tuple(weight.shape for weight in trainer.model.parameters()) for trainer in trainers}
    if len(positions) > 1 or len(shapes) > 1:
        return False
    rows = first.images.train.index[:4]
    images = torch.rand(len(rows), *first.images.train.images.shape[1:], device=first.device)
    return models.agrees([trainer.model for trainer in trainers], images)


def train_epoch(trainers: Sequence[Trainer]) -> list[EpochResult]:
    """Train all to the end of the epoch in progress, and evaluate each; in the given order."""
    torch.set_num_threads(trainers[0].numerics.threads)
    device = trainers[0].device
    started = clock(device)
    errors: dict[int, Exception] = {}
    finished = _train_steps(list(enumerate(trainers)), errors)
    seconds = (clock(device) - started) / len(trainers)  # each trial's share
    return [
        errors[number] if number in errors else _end_epoch(trainer, seconds, finished)
        for number, trainer in enumerate(trainers)
    ]


def _end_epoch(trainer: Trainer, seconds: float, finished: bool) -> EpochResult:
    try:
        return trainer.end_epoch(seconds, finished=finished)
    except Exception as error:  # this trial's own; the others continue
        return memory.explained(error, trainer.config)


def _train_steps(running: list[tuple[int, Trainer]], errors: dict[int, Exception]) -> bool:
    """Train until the epoch ends (True) or a stop is requested (False).

    Args:
        running: the trainers by number.
        errors: gets the error of each trial that fails.
    """
    first = running[0][1]
    networks = {number: trainer.start_epoch() for number, trainer in running}
    generators = {number: Generator(first.device) for number, _ in running}
    joined: nn.Module | None = None
    while running and running[0][1].step < first.steps_per_epoch:
        if first.hooks.should_stop():
            return False
        if joined is None:
            joined = models.fuse(
                [networks[number] for number, _ in running],
                [generators[number] for number, _ in running],
            )
        try:
            left = _step(joined, running, generators, errors)
        except Exception as error:  # of the joint pass: out of memory for all of them
            errors |= {
                number: memory.explained(error, trainer.config) for number, trainer in running
            }
            return False
        if len(left) < len(running):
            running, joined = left, None
    return True


def _step(
    joined: nn.Module,
    running: list[tuple[int, Trainer]],
    generators: dict[int, Generator],
    errors: dict[int, Exception],
) -> list[tuple[int, Trainer]]:
    """One step of each; returns the trainers that continue."""
    batches = []
    for number, trainer in running:
        batches.append(trainer.start_step())
        generators[number].manual_seed(trainer.dropout_seed)
    inputs = torch.cat([images for images, _ in batches], 1)
    joint_logits = precision.forward(joined, inputs, running[0][1].numerics)
    all_logits = joint_logits.chunk(len(running), 1)
    losses: list[Tensor] = [
        trainer.loss(logits, targets)
        for (_, trainer), logits, (_, targets) in zip(running, all_logits, batches, strict=True)
    ]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    left = []
    for (number, trainer), logits, (_, targets) in zip(running, all_logits, batches, strict=True):
        try:
            trainer.end_step(logits, targets)
            left.append((number, trainer))
        except Exception as error:  # this trial diverged; the others continue
            errors[number] = error
    return left
