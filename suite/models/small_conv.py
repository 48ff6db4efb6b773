"""Convolutions of very small maps without the arithmetic that only meets padding.

B images, C input and O output channels, H x W pixels (at most 2 x 2), k x k kernel, P output pixels.

A torchvision ResNet-18 on 32-pixel images ends in maps of 2 x 2 (layer3) and 1 x 1 (layer4): there, 4 of a 3 x 3
kernel's 9 taps meet the image, or one; the others multiply padding. Each output pixel is then one matrix product of
all input pixels with the block of taps that sees them: the same sums without their zeros, so equal up to the order of
rounding. A training step of that network at batch 128, one thread, fp32: 324 images/s instead of 142 (2x AMD EPYC with
AVX2, best of six steps while tests ran beside).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.models import strip_conv

MOST = 2  # pixels of a side: on larger maps outputs of a 3 x 3 kernel see blocks of different sizes
TILE = 64  # images of a product


class SlicedConv2d(nn.Conv2d):
    """A ``Conv2d`` that takes this way where the map is small, and its own otherwise.

    Attributes:
        tiled: products are taken of ``TILE`` images at a time, so that values do not depend on the batch.
        beside: in bf16, maps that are a little larger go the way of ``suite.models.strip_conv``.
    """

    tiled: bool = False
    beside: bool = False

    def forward(self, input: Tensor) -> Tensor:
        (kernel, stride, padding), side = self._square(), input.shape[-1]
        pixels = (side + 2 * padding - kernel) // stride + 1
        # Output row i sees the input's rows with the taps from padding - i * stride on. Those of the last row begin at
        # 0 or later, those of the first end within the kernel: each output then has a whole block of taps.
        if input.shape[-2] != side or side > MOST or not stride * (pixels - 1) <= padding <= kernel - side:
            if self._pays_beside(input, pixels):
                found: Tensor = strip_conv.Strips.apply(
                    input.to(torch.bfloat16, memory_format=torch.channels_last), self.weight, stride
                )  # type: ignore[no-untyped-call]
                return found if self.bias is None else found + self.bias.to(found.dtype)[:, None, None]
            return super().forward(input)
        rows = input.permute(0, 2, 3, 1).reshape(len(input), -1)  # (B, H W C): a view of channels_last maps
        corners = [padding - stride * pixel for pixel in range(pixels)]
        summed: Tensor = _Blocks.apply(rows, self.weight, side, corners, self.tiled)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            summed = summed + self.bias.to(summed.dtype)
        return summed.view(len(input), pixels, pixels, -1).permute(0, 3, 1, 2)

    def _pays_beside(self, input: Tensor, pixels: int) -> bool:
        """Whether ``suite.models.strip_conv`` is faster for maps that become so many ``pixels`` a side."""
        kind, (kernel, _, padding) = input.device.type, self._square()
        in_bf16 = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
        small = input.shape[-2] == input.shape[-1] and pixels <= strip_conv.WEIGHTS_SIDE
        centred = kernel > 1 and 2 * padding == kernel - 1
        wide = min(self.in_channels, self.out_channels) >= strip_conv.CHANNELS
        return self.beside and in_bf16 and small and centred and wide

    def _square(self) -> tuple[int, int, int]:
        return self.kernel_size[0], self.stride[0], int(self.padding[0])


class _Blocks(torch.autograd.Function):
    """(B, H W C) rows and (O, C, k, k) weights -> (B, P, O); ``corners``: the first tap of each output row's block.

    Written out because autograd would add a gradient as large as the whole kernel for each block (8 and 34 % slower in
    two turns).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, side: int, corners: list[int], tiled: bool) -> Tensor:
        kind = rows.dtype
        if torch.is_autocast_enabled(rows.device.type):
            kind = torch.get_autocast_dtype(rows.device.type)
        ctx.seen = slice(min(corners), max(corners) + side)  # taps that see a pixel at all: of a 1 x 1 map one of nine
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
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # float32 at once, as it is used
        of_taps = of_weight.permute(0, 2, 3, 1)[:, ctx.seen, ctx.seen] if of_weight is not None else None
        for gradient, (top, left) in zip(by_pixel, _places(ctx.corners), strict=True):
            if of_rows is not None:
                of_rows.addmm_(gradient, _block(taps, ctx.side, top, left))
            if of_taps is not None:
                block = of_taps[:, top : top + ctx.side, left : left + ctx.side]
                block.add_((gradient.T @ rows).view(block.shape))
        return of_rows, of_weight, None, None, None


def _product(rows: Tensor, weights: Tensor) -> Tensor:
    """(M, K) times (N, K) -> (M, N), ``TILE`` rows at a time, the last ones with zeros below.

    A row's values then do not depend on how many others there are: BLAS adds up in another order for another M, and
    features that are kept of frozen layers must be those of any batch, bit for bit.
    """
    parts = torch.split(rows, TILE)
    return torch.cat([(F.pad(part, (0, 0, 0, TILE - len(part))) @ weights.T)[: len(part)] for part in parts])


def _places(corners: list[int]) -> list[tuple[int, int]]:
    return [(top, left) for top in corners for left in corners]


def _block(taps: Tensor, side: int, top: int, left: int) -> Tensor:
    """(O, k, k, C) -> the taps of an output pixel that see the map, (O, H W C)."""
    return taps[:, top : top + side, left : left + side].reshape(len(taps), -1)


def slice_kernels(net: nn.Module, tiled: bool = False) -> None:
    """Let every plain square convolution of ``net`` look at the size of its maps. Names, weights and layers stay.

    ``tiled`` as in ``suite.core.records.Numerics``.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SlicedConv2d
            setattr(module, "tiled", tiled)  # noqa: B010 - mypy takes it for a Conv2d still
            setattr(module, "beside", tiled and strip_conv.has_amx())  # noqa: B010


def _is_plain(module: nn.Conv2d) -> bool:
    sides = [module.kernel_size, module.stride, module.padding]
    square = all(not isinstance(side, str) and len(set(side)) == 1 for side in sides)
    return square and module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
