"""The network of a finished trial, from its ``best.pt`` alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from suite import models
from suite.config import read_stored_config
from suite.core.records import Trial


class Normalised(nn.Module):
    """A trained network with the normalisation of its images before it.

    float32 images (B, C, H, W) in [0, 1] -> float32 logits (B, K).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def rebuild(trial: Trial, best: Path) -> Normalised:
    """The network of a trial's best epoch, in evaluation mode, from its ``best.pt`` alone."""
    content = torch.load(best, map_location="cpu", weights_only=True)
    config = read_stored_config(trial.config).model.model_copy(update={"weights": "none"})
    network = models.build(config, len(content["classes"]), seed=trial.seed)
    network.load_state_dict(content["model"])
    return Normalised(network, content["mean"], content["std"]).eval()
