"""Boxes in images, as RandomResizedCrop and RandomErasing draw them, and the pixels they cover.

B images, H rows, W columns, A attempts. A box is four int64 tensors (B,), in pixels: top, left,
height, width.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from suite.augment.operation import uniform

ATTEMPTS = 10
"""Attempts of torchvision to place a box before its fallback."""


def draw_sides(
    batch: int,
    area: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """Sides of boxes of uniform area and log-uniform ratio, for all attempts.

    Args:
        batch: B.
        area: pixels of the whole image.
        scale: smallest and largest area of a box as a fraction of ``area``.
        ratio: smallest and largest first side / second side.

    Returns:
        First and second sides, int64 (B, A), rounded half to even as Python's ``round`` does in
        torchvision.
    """
    areas = uniform((batch, ATTEMPTS), *scale, generator).double().mul_(area)
    ratios = (
        uniform((batch, ATTEMPTS), math.log(ratio[0]), math.log(ratio[1]), generator)
        .exp_()
        .double()
    )
    first, second = (areas * ratios).sqrt_(), (areas / ratios).sqrt_()
    return first.round_().to(torch.int64), second.round_().to(torch.int64)


def first_valid(valid: Tensor, *sides: tuple[Tensor, int]) -> tuple[list[Tensor], Tensor]:
    """The first valid attempt of each image, or the fallback.

    Args:
        valid: bool (B, A).
        sides: int64 (B, A) and its fallback, for each side.

    Returns:
        int64 (B,) for each of ``sides``; and whether an attempt was valid, bool (B,).
    """
    first = valid.view(torch.uint8).argmax(1, keepdim=True)
    is_valid = valid.any(1)
    chosen = [
        lengths.gather(1, first).squeeze(1).where(is_valid, fallback) for lengths, fallback in sides
    ]
    return chosen, is_valid


def inside(
    height: int, width: int, top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor
) -> Tensor:
    """The pixels of H x W images in their box: bool (B, 1, H, W), on the device of ``top``."""
    y = torch.arange(height, device=top.device)
    x = torch.arange(width, device=top.device)
    rows = (y >= top[:, None]) & (y < (top + box_height)[:, None])
    columns = (x >= left[:, None]) & (x < (left + box_width)[:, None])
    # As bytes, which a CPU combines four times as fast as bools.
    pixels = rows.view(torch.uint8)[:, :, None] & columns.view(torch.uint8)[:, None, :]
    return pixels.view(torch.bool).unsqueeze(1)
