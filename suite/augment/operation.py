"""The protocol of operations, and their random numbers.

B images in a batch, C channels (1 or 3), H rows, W columns, K classes. Images are uint8 in [0, 255]
until the first operation that computes with their values, then float32 in [0, 1]; an operation
takes both. Nothing is rounded in between, so a result is torchvision's on float images, and within
one grey level of torchvision's on uint8.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

Parameters = dict[str, Tensor]
"""The numbers that one operation drew for one batch, on the CPU: name -> tensor (B, ...)."""


class Operation(Protocol):
    """A random change of images, in two steps so that the numbers can be seen, stored and repeated.

    Parameters stay on the CPU until ``apply`` has derived all shapes from them, so nothing waits
    for a GPU.
    """

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """Separate parameters for each of ``batch`` images of ``height`` x ``width``."""
        ...

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The changed images (B, C, H, W), on the device of ``images``, which stay unchanged."""
        ...


@runtime_checkable
class Mix(Operation, Protocol):
    """An operation that blends images of a batch, and their targets with them."""

    def mix_targets(self, targets: Tensor, parameters: Parameters) -> Tensor:
        """Targets (B, K) float32, rows that sum to 1, blended in the proportions of the images."""
        ...


def to_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; float images are returned as they are, not copied."""
    return images if images.is_floating_point() else images.to(torch.float32).mul_(1 / 255)


def on_device(values: Tensor, images: Tensor) -> Tensor:
    """Drawn values on the device of ``images``, copied asynchronously."""
    return values.to(images.device, non_blocking=True)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (B,) on the device of ``images``, as (B, 1, 1, 1)."""
    return on_device(values, images)[:, None, None, None]


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """float32 uniform in [low, high), as torchvision draws it."""
    return torch.empty(shape).uniform_(low, high, generator=generator)


def below(limit: Tensor, generator: Generator) -> Tensor:
    """int64 uniform in [0, limit), one for each entry of ``limit`` (int64, at least 1).

    In float64, whose 53 bits leave a bias below 1e-13 for any size of image.
    """
    return (
        torch.rand(limit.shape, dtype=torch.float64, generator=generator)
        .mul_(limit)
        .to(torch.int64)
    )
