"""The random numbers of training steps."""

from __future__ import annotations

import torch

from suite.core.records import stream


def dropout_seed(trial_seed: int, epoch: int, step: int) -> int:
    """The seed of the units that one step drops."""
    return stream(trial_seed, "dropout", epoch, step)


def seed_generator(seed: int, device: torch.device) -> None:
    """As ``torch.manual_seed``, which takes 1 ms on the CPU: it also records the call for a GPU.

    1 ms is a quarter of a step of a linear layer on cached features.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
