"""Convolutions of very small maps without the products with padding.

Legend: B images, C input and O output channels, H x W pixels (at most 2 x 2), k x k kernel,
P output pixels.

A torchvision ResNet-18 on 32-pixel images ends in maps of 2 x 2 (layer3) and 1 x 1 (layer4). There
only 4 of a 3 x 3 kernel's 9 taps meet the image, or one; the others multiply padding. Each output
pixel is then one matrix product of all input pixels with the block of taps that meets them: the
same sums without their zeros, so equal up to rounding. A training step of that network at batch
128, one thread, fp32: 324 images/s instead of 142 (2x AMD EPYC with AVX2, best of six steps while
tests ran on the same machine).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.models import strip_conv

MAX_SIDE = 2  # pixels: on larger maps the outputs of a 3 x 3 kernel see blocks of different sizes
TILE = 64  # images per product


class SmallConv2d(nn.Conv2d):
    """A ``Conv2d`` that skips the products with padding if the map is very small.

    Attributes:
        tiled: multiply ``TILE`` images at a time, so that an image's values do not depend on its
            batch.
        strips: in bf16, send slightly larger maps through ``suite.models.strip_conv``.
    """

    tiled: bool = False
    strips: bool = False

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, *, tiled: bool = False, strips: bool = False
    ) -> SmallConv2d:
        """A twin of ``conv`` that shares its parameters, buffers, hooks and mode."""
        small = cls.__new__(cls)
        small.__dict__.update(conv.__dict__)
        small.tiled, small.strips = tiled, strips
        return small

    def forward(self, input: Tensor) -> Tensor:
        (kernel, stride, padding), side = self._square(), input.shape[-1]
        pixels = (side + 2 * padding - kernel) // stride + 1
        # Output row i meets the input's rows with the taps from padding - i * stride on. If those
        # of the last row begin at 0 or later and those of the first end within the kernel, each
        # output has a complete block of taps.
        if (
            input.shape[-2] != side
            or side > MAX_SIDE
            or not stride * (pixels - 1) <= padding <= kernel - side
        ):
            if self._is_faster_in_strips(input, pixels):
                images = input.to(torch.bfloat16, memory_format=torch.channels_last)
                apply: Any = strip_conv.StripConv.apply
                maps: Tensor = apply(images, self.weight, stride)
                return maps if self.bias is None else maps + self.bias.to(maps.dtype)[:, None, None]
            return super().forward(input)
        # (B, H W C): a view if maps are channels last
        rows = input.permute(0, 2, 3, 1).reshape(len(input), -1)
        corners = [padding - stride * pixel for pixel in range(pixels)]
        apply_blocks: Any = _Blocks.apply
        summed: Tensor = apply_blocks(rows, self.weight, side, corners, self.tiled)
        if self.bias is not None:
            summed = summed + self.bias.to(summed.dtype)
        return summed.view(len(input), pixels, pixels, -1).permute(0, 3, 1, 2)

    def _is_faster_in_strips(self, input: Tensor, pixels: int) -> bool:
        """Whether ``suite.models.strip_conv`` is faster for output maps of ``pixels`` per side."""
        kind, (kernel, _, padding) = input.device.type, self._square()
        in_bf16 = (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
        )
        small = input.shape[-2] == input.shape[-1] and pixels <= strip_conv.MAX_SIDE
        centred = kernel > 1 and 2 * padding == kernel - 1
        wide = min(self.in_channels, self.out_channels) >= strip_conv.MIN_CHANNELS
        return self.strips and in_bf16 and small and centred and wide

    def _square(self) -> tuple[int, int, int]:
        return self.kernel_size[0], self.stride[0], int(self.padding[0])


class _Blocks(torch.autograd.Function):
    """(B, H W C) rows and (O, C, k, k) weights -> (B, P, O).

    ``corners`` holds the first tap of each output row's block. The backward pass is written out
    because autograd would add a gradient as large as the whole kernel for each block (8 and 34 %
    slower in two runs).
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, side: int, corners: list[int], tiled: bool
    ) -> Tensor:
        kind = rows.dtype
        if torch.is_autocast_enabled(rows.device.type):
            kind = torch.get_autocast_dtype(rows.device.type)
        # taps that meet any pixel: one of nine for a 1 x 1 map
        ctx.seen = slice(min(corners), max(corners) + side)
        taps = weight.permute(0, 2, 3, 1)[:, ctx.seen, ctx.seen].to(kind)
        rows = rows.to(kind)
        ctx.save_for_backward(rows, taps, weight)
        ctx.side, ctx.corners = side, [corner - ctx.seen.start for corner in corners]
        blocks = [_block(taps, side, *at) for at in _places(ctx.corners)]
        if tiled:
            return torch.stack([_product(rows, block) for block in blocks], 1)
        return torch.stack([rows @ block.T for block in blocks], 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, taps, weight = ctx.saved_tensors
        by_pixel = gradients[0].to(rows.dtype).unbind(1)
        of_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # float32
        of_taps = (
            of_weight.permute(0, 2, 3, 1)[:, ctx.seen, ctx.seen] if of_weight is not None else None
        )
        for gradient, (top, left) in zip(by_pixel, _places(ctx.corners), strict=True):
            if of_rows is not None:
                of_rows.addmm_(gradient, _block(taps, ctx.side, top, left))
            if of_taps is not None:
                block = of_taps[:, top : top + ctx.side, left : left + ctx.side]
                block.add_((gradient.T @ rows).view(block.shape))
        return of_rows, of_weight, None, None, None


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, K) times (N, K) -> (M, N), ``TILE`` rows at a time, the last tile padded with zeros.

    A row's values then do not depend on M, for which BLAS chooses an order of sums: cached features
    of frozen layers must be those of any batch, bit for bit.
    """
    parts = torch.split(rows, TILE)
    return torch.cat(
        [(F.pad(part, (0, 0, 0, TILE - len(part))) @ weights.T)[: len(part)] for part in parts]
    )


def _places(corners: list[int]) -> list[tuple[int, int]]:
    return [(top, left) for top in corners for left in corners]


def _block(taps: Tensor, side: int, top: int, left: int) -> Tensor:
    """(O, k, k, C) -> the taps of one output pixel that meet the map, (O, H W C)."""
    return taps[:, top : top + side, left : left + side].reshape(len(taps), -1)


def use_small_conv(net: nn.Module, *, tiled: bool = False) -> nn.Module:
    """Replace every plain square convolution in ``net`` by a ``SmallConv2d``.

    Parameters, their names and the state dict stay as they are.

    Args:
        net: changed in place.
        tiled: see ``suite.core.records.Numerics``.

    Returns:
        ``net``, or its replacement if ``net`` is itself a convolution.
    """
    replaced: dict[nn.Module, SmallConv2d] = {}  # a module may occur under several names

    def replacement(module: nn.Module) -> nn.Module:
        if type(module) is not nn.Conv2d or not _is_plain(module):
            return module
        if module not in replaced:
            strips = tiled and strip_conv.has_amx()
            replaced[module] = SmallConv2d.from_conv(module, tiled=tiled, strips=strips)
        return replaced[module]

    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = replacement(child)
    return replacement(net)


def _is_plain(module: nn.Conv2d) -> bool:
    sides = [module.kernel_size, module.stride, module.padding]
    square = all(not isinstance(side, str) and len(set(side)) == 1 for side in sides)
    return (
        square
        and module.groups == 1
        and set(module.dilation) == {1}
        and module.padding_mode == "zeros"
    )
