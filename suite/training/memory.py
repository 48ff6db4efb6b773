"""Memory use, and the out-of-memory message."""

from __future__ import annotations

import psutil
import torch

from suite.config import TrialConfig
from suite.core.errors import OutOfMemoryError


def in_use_gib(device: torch.device) -> float:
    """Resident memory of this process, or the peak that torch allocated on the GPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resident_gib()


def resident_gib() -> float:
    """Resident memory of this process, GiB."""
    return float(psutil.Process().memory_info().rss) / 2**30


def explained(error: Exception, config: TrialConfig) -> Exception:
    """``error``, or an OutOfMemoryError that names the network and the batch size."""
    return OutOfMemoryError(_memory_reason(config, error)) if _is_out_of_memory(error) else error


def _is_out_of_memory(error: BaseException) -> bool:
    markers = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "alloc_cpu")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in markers
    )


def _memory_reason(config: TrialConfig, error: BaseException) -> str:
    detail = (str(error).splitlines() or [""])[0][:160]
    what = f"{config.model.arch} at batch {config.train.batch_size}"
    return f"out of memory with {what}: {detail or type(error).__name__}"
