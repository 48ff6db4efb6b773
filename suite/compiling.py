"""Networks through torch's compiler: code of their own for forward and backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """``network`` through ``torch.compile``, for batches of one size; on a GPU replayed as CUDA graphs.

    The first step compiles. Dropout draws the numbers that it draws without (by itself compiled code draws others).
    Weights, names and modes stay those of ``network``.
    """
    # By itself the compiler gives up on a function after eight versions of it, and runs it as it is without a word; a
    # worker's trials follow one another.
    torch._dynamo.reset()
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    found: nn.Module = torch.compile(network, dynamic=False, options=options)  # type: ignore[assignment]
    return found
