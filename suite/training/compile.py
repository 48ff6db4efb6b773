"""Networks through torch's compiler: code of their own for forward and backward passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VERSIONS = 10_000  # of a function; by itself the compiler runs it as it is after eight, without a word


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """``network`` through ``torch.compile``, for batches of one size; on a GPU replayed as CUDA graphs.

    The first step compiles; a later network of the same shapes takes the code up. Dropout draws the numbers that it
    draws without (by itself compiled code draws others). Weights, names and modes stay those of ``network``.
    """
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = VERSIONS  # a worker's trials follow one another
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    found: nn.Module = torch.compile(network, dynamic=False, options=options)  # type: ignore[assignment]
    return found
