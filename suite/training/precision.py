"""Forward passes in the precision and memory format of the numerics."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from suite.core.records import Numerics


def memory_format(numerics: Numerics) -> torch.memory_format:
    """The layout of images and kernels.

    oneDNN's and cuDNN's kernels prefer channels last: 142 images/s instead of 127 (torchvision's
    resnet18 at 32 pixels, one thread, fp32, 2x AMD EPYC with AVX2, best of six steps while tests
    ran on the same machine).
    """
    return torch.channels_last if numerics.channels_last else torch.contiguous_format


def autocast(numerics: Numerics) -> AbstractContextManager[object]:
    """The context of a forward pass. torch keeps it per thread."""
    bf16 = numerics.precision == "bf16"
    return torch.autocast(numerics.device, dtype=torch.bfloat16, enabled=bf16)


def forward(network: nn.Module, inputs: Tensor, numerics: Numerics) -> Tensor:
    """Normalised images (B, C, H, W), or features -> float32 logits (B, K)."""
    with autocast(numerics):
        logits: Tensor = network(inputs)
    return logits.float()
