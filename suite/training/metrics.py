"""Loss and accuracy, of the training epoch in progress and of predictions."""

from __future__ import annotations

from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from suite.core import records


class AccumulatorState(TypedDict):
    """Plain values of a ``MetricAccumulator``: its arguments."""

    loss_sum: float
    correct: int
    count: int
    seconds: float


class MetricAccumulator:
    """Training metrics of the epoch in progress. Sums stay on the device until they are read."""

    def __init__(
        self,
        loss_sum: float | Tensor = 0.0,
        correct: int | Tensor = 0,
        count: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.loss_sum, self.correct, self.count, self.seconds = loss_sum, correct, count, seconds

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, K); targets int64 (B,) or float (B, K).

        The loss is plain cross entropy, without class weights or smoothing.
        """
        with torch.no_grad():
            self.loss_sum = (
                self.loss_sum + F.cross_entropy(logits, targets, reduction="sum").double()
            )
            labels = targets if targets.ndim == 1 else targets.argmax(1)
            self.correct = self.correct + (logits.argmax(1) == labels).sum()
        self.count += len(logits)

    def figures(self) -> dict[str, float]:
        """Mean loss and accuracy over the images so far, each with the weights of its step."""
        count = max(self.count, 1)
        return {
            records.TRAIN_LOSS: float(self.loss_sum) / count,
            records.TRAIN_ACC: float(self.correct) / count,
        }

    def state(self) -> AccumulatorState:
        """Plain values for a checkpoint."""
        return {
            "loss_sum": float(self.loss_sum),
            "correct": int(self.correct),
            "count": self.count,
            "seconds": self.seconds,
        }


def scores(split: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss in nats, accuracy, and balanced accuracy (mean recall over the classes that occur)."""
    hits = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    recalls = (
        torch.bincount(labels, weights=hits, minlength=logits.shape[1])[counts > 0]
        / counts[counts > 0]
    )
    return {
        f"{split}/loss": float(F.cross_entropy(logits.double(), labels)),
        f"{split}/acc": float(hits.mean()),
        f"{split}/balanced_acc": float(recalls.mean()),
    }
