"""The trials of a pack trained as one network, step by step: for a GPU that one small trial leaves idle.

Each keeps its order of images, its augmentation, rate, dropout, statistics, optimizer, records and checkpoints; only
forward and backward passes are joined. Figures are those of the trial alone up to rounding, which the order of a sum
in a joined kernel changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from suite import models
from suite.core.records import EpochRecord
from suite.training import memory
from suite.training.trainer import Training, clock

Ended = EpochRecord | Exception | None
"""What an epoch came to: its record; None, it was stopped; or the trial's error."""


def can_join(trainings: Sequence[Training]) -> bool:
    """Whether these stand at the same step of the same kind of epoch, and their networks agree with the fused one."""
    if len(trainings) < 2 or any(each.inputs.prefix.layers for each in trainings):
        return False
    first = trainings[0]
    places = {(each.epoch, each.step, *(batch.stop for batch in each.images.batches)) for each in trainings}
    shapes = {tuple(weight.shape for weight in each.model.parameters()) for each in trainings}
    if len(places) > 1 or len(shapes) > 1:
        return False
    rows = first.images.train.index[:4]
    images = torch.rand(len(rows), *first.images.train.images.shape[1:], device=first.device)
    return models.agrees([each.model for each in trainings], images)


def advance(trainings: Sequence[Training]) -> list[Ended]:
    """Train all to the end of the epoch in progress, and evaluate each; in the order of ``trainings``."""
    torch.set_num_threads(trainings[0].numerics.threads)
    device = trainings[0].device
    started = clock(device)
    found: dict[int, Ended] = {}
    whole = _train_epoch(list(enumerate(trainings)), found)
    seconds = (clock(device) - started) / len(trainings)  # what a trial took of the time
    for number, training in enumerate(trainings):
        if number not in found:
            try:
                found[number] = training.close(whole, seconds)
            except Exception as error:  # this trial's own; the others go on
                found[number] = memory.explained(error, training.config)
    return [found[number] for number in range(len(trainings))]


def _train_epoch(running: list[tuple[int, Training]], found: dict[int, Ended]) -> bool:
    """Joint steps until the epoch ends (True) or a stop is asked for. Errors of trials go into ``found``."""
    first = running[0][1]
    networks = {number: training.start_epoch() for number, training in running}
    generators = {number: Generator(first.device) for number, _ in running}
    joined: nn.Module | None = None
    while running and running[0][1].step < first.steps_per_epoch:
        if first.should_stop():
            return False
        if joined is None:
            joined = models.fuse([networks[number] for number, _ in running], [generators[n] for n, _ in running])
        try:
            left = _step(joined, running, generators, found)
        except Exception as error:  # of the joint pass: no memory for all of them
            found |= {number: memory.explained(error, training.config) for number, training in running}
            return False
        if len(left) < len(running):
            running, joined = left, None
    return True


def _step(
    joined: nn.Module, running: list[tuple[int, Training]], generators: dict[int, Generator], found: dict[int, Ended]
) -> list[tuple[int, Training]]:
    """One step of all; those that go on."""
    batches = []
    for number, training in running:
        batches.append(training.start_step())
        generators[number].manual_seed(training.dropout_seed)
    logits = running[0][1].forward(joined, torch.cat([inputs for inputs, _ in batches], 1)).chunk(len(running), 1)
    losses: list[Tensor] = [
        training.loss(own, targets) for (_, training), own, (_, targets) in zip(running, logits, batches, strict=True)
    ]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    left = []
    for (number, training), own, (_, targets) in zip(running, logits, batches, strict=True):
        try:
            training.end_step(own, targets)
            left.append((number, training))
        except Exception as error:  # this trial diverged; the others go on
            found[number] = error
    return left
