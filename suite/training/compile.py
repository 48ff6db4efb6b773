"""Training steps through torch.compile."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from suite.core.records import Numerics

MAX_VERSIONS = 10_000  # of a function; after its default of eight torch silently stops compiling


class StepCompiler:
    """Compiles a network at its first batch of the usual size; other sizes run as they are.

    Each further size would have to be compiled, too.

    Args:
        numerics: say whether anything is compiled.
        batch_size: the usual one.
    """

    def __init__(self, numerics: Numerics, batch_size: int) -> None:
        self._enabled, self._batch_size = numerics.compiled, batch_size
        self._device = torch.device(numerics.device)
        self._compiled: nn.Module | None = None

    def network_for(self, network: nn.Module, batch_size: int) -> nn.Module:
        """``network``, or its compiled code, for one step of ``batch_size`` images."""
        if not self._enabled or batch_size != self._batch_size:
            return network
        if self._compiled is None:
            self._compiled = compile_network(network, self._device)
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._compiled


def compile_network(network: nn.Module, device: torch.device) -> nn.Module:
    """``network`` through ``torch.compile``, for batches of one size; CUDA graphs on a GPU.

    The first step compiles; later networks of the same shapes reuse the code. Dropout draws the
    same numbers as without (compiled code draws others by default). Weights, names and modes stay
    those of ``network``.
    """
    dynamo: Any = torch._dynamo.config
    # one worker trains many trials, one after the other
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = MAX_VERSIONS
    options = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
    compiled: Any = torch.compile(network, dynamic=False, options={**options})
    module: nn.Module = compiled
    return module
