"""What training changes, and its checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from suite.core.records import EpochRecord
from suite.storage import checkpoint
from suite.system import disk
from suite.training.hooks import TrainingHooks
from suite.training.metrics import AccumulatorState, MetricAccumulator

SAVE_EVERY_S = 30.0  # at most one checkpoint at the end of an epoch in this time


class BestEpoch(TypedDict):
    """The content of a checkpoint's ``best.pt``.

    Keys:
        epoch: from 1.
        model: the tensors that training changes.
        classes: their names.
        image_size: pixels per side.
        mean, std: per channel, of the images' normalisation.
        test_logits: float32 (N, K), or None if the epoch did not evaluate the test images.
    """

    epoch: int
    model: dict[str, Tensor]
    classes: list[str]
    image_size: int
    mean: list[float]
    std: list[float]
    test_logits: Tensor | None


class SavedAverage(TypedDict):
    """The moving average in a ``last.pt``: its changed tensors, and the steps averaged."""

    model: dict[str, Tensor]
    steps: int


class SavedRecord(TypedDict):
    """An ``EpochRecord`` in a ``last.pt``."""

    epoch: int
    metrics: dict[str, float]


class SavedState(TypedDict):
    """The content of a checkpoint's ``last.pt``.

    Keys:
        records: one per completed epoch.
        step: completed steps of the epoch in progress.
        partial: ``MetricAccumulator.state()`` of the epoch in progress.
        model: the tensors that training changes.
        optimizer: its state dict.
        averaged: the moving average, or None.
    """

    records: list[SavedRecord]
    step: int
    partial: AccumulatorState
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    averaged: SavedAverage | None


@dataclass(eq=False)
class TrainingState:
    """What training changes.

    Attributes:
        model: the network.
        optimizer: of its trainable parameters.
        averaged: the moving average of its weights, or None.
        trained_tensors: names of the tensors that training changes; the seed and the initial
            weights give the others.
        records: one per completed epoch.
        step: completed steps of the epoch in progress.
        totals: training metrics of the epoch in progress.
        best: the best epoch so far.
    """

    model: nn.Module
    optimizer: Optimizer
    averaged: AveragedModel | None
    trained_tensors: Sequence[str]
    records: list[EpochRecord] = field(default_factory=list)
    step: int = 0
    totals: MetricAccumulator = field(default_factory=MetricAccumulator)
    best: BestEpoch | None = None

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return len(self.records)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated: the moving average if there is one."""
        return self.averaged.module if self.averaged is not None else self.model

    def best_network(self) -> nn.Module:
        """A copy of the evaluated network, as it was at the best epoch."""
        assert self.best is not None
        network = copy.deepcopy(self.evaluated)
        network.load_state_dict(self.best["model"], strict=False)
        return network

    def trained(self, network: nn.Module) -> dict[str, Tensor]:
        """Copies on the CPU of the tensors of ``network`` that training changes."""
        tensors = network.state_dict()
        return {name: tensors[name].detach().to("cpu", copy=True) for name in self.trained_tensors}

    def to_dict(self) -> SavedState:
        """The content of a checkpoint's ``last.pt``: tensors and plain values."""
        averaged: SavedAverage | None = None
        if self.averaged is not None:
            steps = int(self.averaged.n_averaged)
            averaged = {"model": self.trained(self.averaged.module), "steps": steps}
        return {
            "records": [
                {"epoch": record.epoch, "metrics": dict(record.metrics)} for record in self.records
            ],
            "step": self.step,
            "partial": self.totals.state(),
            "model": self.trained(self.model),
            "optimizer": self.optimizer.state_dict(),
            "averaged": averaged,
        }

    def load(self, last: SavedState) -> None:
        """Continue from the content of a ``last.pt``."""
        self.records = [
            EpochRecord(record["epoch"], record["metrics"]) for record in last["records"]
        ]
        self.step, self.totals = last["step"], MetricAccumulator(**last["partial"])
        self.model.load_state_dict(last["model"], strict=False)
        self.optimizer.load_state_dict(last["optimizer"])
        if self.averaged is not None and last["averaged"] is not None:
            self.averaged.module.load_state_dict(last["averaged"]["model"], strict=False)
            self.averaged.n_averaged.fill_(last["averaged"]["steps"])


class StateStore:
    """Saves and restores the state of one trial.

    Args:
        folder: the trial's; checkpoints go into ``checkpoints/`` in it.
        trial_id: goes into each checkpoint and is checked when it is read.
    """

    def __init__(self, folder: Path, trial_id: str) -> None:
        self.folder, self._trial_id = folder, trial_id
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for the next one."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY_S

    def save(self, state: TrainingState, hooks: TrainingHooks) -> None:
        """Write a checkpoint. If it cannot be written, warn; the one before it stays."""
        files: dict[str, Mapping[str, Any]] = {"last.pt": state.to_dict()}
        if state.best:
            files["best.pt"] = state.best
        try:
            saved = checkpoint.save(
                self.folder / "checkpoints", files,
                trial=self._trial_id, epoch=state.epoch, step=state.step, allowed=hooks.owns_sweep,
            )  # fmt: skip
            if saved is not None:
                hooks.on_checkpoint(saved)
        except OSError as error:
            reason = disk.said(error, self.folder)
            hooks.warn(f"no checkpoint of epoch {state.epoch} could be written: {reason}")
        self._saved_at = time.monotonic()

    def restore(self, state: TrainingState, warn: Callable[[str], None]) -> None:
        """Continue from the newest checkpoint if there is one."""
        folder = self.folder / "checkpoints"
        checkpoint.sweep_drafts(folder)
        newest = checkpoint.newest(folder, self._trial_id, warn)
        if newest is None:
            return
        state.load(cast(SavedState, newest.read("last.pt")))
        if (newest.folder / "best.pt").exists():
            state.best = cast(BestEpoch, newest.read("best.pt"))


def trained_tensor_names(model: nn.Module) -> list[str]:
    """Names of trainable weights, and of statistics that training updates."""
    model.train()
    constant = {
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.training
        for buffer, _ in module.named_buffers(recurse=False)
    }
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [name for name in model.state_dict() if name not in constant and name not in frozen]
