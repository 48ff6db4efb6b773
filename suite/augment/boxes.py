"""Rectangles in images: how RandomResizedCrop and RandomErasing draw them, and which pixels they cover.

B images, H rows, W columns, A attempts. A box is four int64 tensors (B,), in pixels: top, left, height, width.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from suite.augment.operation import uniform

ATTEMPTS = 10
"""How often torchvision tries to place a box before it falls back."""


def draw_sides(
    batch: int,
    area: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Sides of boxes of uniform area and log-uniform ratio, all attempts at once.

    Args:
        batch: B.
        area: pixels of the whole image.
        scale: smallest and largest area of a box as a fraction of ``area``.
        ratio: smallest and largest first side / second side.

    Returns:
        First and second sides, int64 (B, A), rounded half to even as Python's ``round`` does in torchvision.
    """
    areas = uniform((batch, ATTEMPTS), *scale, generator).double().mul_(area)
    ratios = (
        uniform((batch, ATTEMPTS), math.log(ratio[0]), math.log(ratio[1]), generator)
        .exp_()
        .double()
    )
    return (areas * ratios).sqrt_().round_().to(torch.int64), (areas / ratios).sqrt_().round_().to(
        torch.int64
    )


def first_valid(valid: Tensor, *sides: tuple[Tensor, int]) -> tuple[list[Tensor], Tensor]:
    """Of each image's attempts the first valid one, or the fallback.

    Args:
        valid: bool (B, A).
        sides: int64 (B, A) and its fallback, as often as there are sides.

    Returns:
        int64 (B,) for each of ``sides``; and whether an attempt was valid, bool (B,).
    """
    first = valid.view(torch.uint8).argmax(1, keepdim=True)
    found = valid.any(1)
    return [
        each.gather(1, first).squeeze(1).where(found, fallback) for each, fallback in sides
    ], found


def inside(
    height: int, width: int, top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor
) -> Tensor:
    """Which pixels of H x W images lie in their box: bool (B, 1, H, W), on the device of ``top``."""
    y = torch.arange(height, device=top.device)
    x = torch.arange(width, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + box_height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + box_width)[:, None])
    # As bytes, which a CPU combines four times as fast as bools.
    pixels = rows.view(torch.uint8)[:, :, None] & columns.view(torch.uint8)[:, None, :]
    return pixels.view(torch.bool).unsqueeze(1)
