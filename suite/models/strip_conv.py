"""Convolutions of small maps, of sixteen images side by side, where oneDNN is slow in bf16.

B images, C input and O output channels, S x S pixels in, T x T out, k x k kernel (odd, padded by k // 2), N strips.

On rows of 4 pixels oneDNN's kernels for AMX reach a third of what they do on longer ones. A strip is a map of S x 16 P
pixels: an image, P - S columns of zeros, the next image, and so on. Where P is at least S plus the padding, and a
multiple of the stride, each image's outputs are those of its own convolution, and what lies between is left out: the
same products, and zeros.

What that changes, in ms, oneDNN -> so (128 images, shared Xeon with AMX, torch 2.13; best of nine in turn; with the
laying out of strips, without taking them apart, 0.1 to 0.5 ms; the first five rows on two threads, the others on one):

======================  ============  ============  ===========
C -> O, pixels          forward       weights       inputs
======================  ============  ============  ===========
512 -> 512, 4 x 4       13.2 ->  5.6  46.8 -> 10.2  13.6 -> 6.4
256 -> 512, 8 x 8, /2    5.8 ->  3.8  25.8 ->  9.6   9.1 -> 3.5
256 -> 256, 8 x 8        4.3 ->  4.9  14.7 ->  9.6   4.5 -> 5.0
128 -> 256, 16, /2       3.6 ->  3.8  11.4 ->  7.0   5.2 -> 3.5
128 -> 128, 16 x 16      3.4 ->  5.5   8.9 ->  9.8   3.5 -> 5.3
128 -> 128, 4 x 4        3.1 ->  2.5  10.7 ->  3.5   3.2 -> 2.4
128 -> 256, 4 x 4, /2    4.4 ->  2.1  19.1 ->  3.8   4.5 -> 2.1
64 -> 64, 8 x 8          1.8 ->  2.2   5.2 ->  3.2   1.9 -> 2.2
32 -> 32, 8 x 8          0.5 ->  0.7   1.5 ->  1.1   0.6 -> 0.6
16 -> 32, 8 x 8          0.4 ->  0.6   0.6 ->  0.7   0.4 -> 0.5
======================  ============  ============  ===========

Without AMX (the same machine, oneDNN kept to AVX-512 bf16) strips lose everywhere but for the weights of 256 -> 512 (48
-> 42), and so are not used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHANNELS = 32  # in and out, from here on, and on outputs of so many pixels a side:
WEIGHTS_SIDE = 8  # at most, gradients of weights, and at a stride those of inputs
ALL_SIDE = 4  # at most, all three products
IMAGES = 16  # in a strip, always: an image's values do not depend on how many others there are


def has_amx() -> bool:
    """Whether this processor has AMX, Intel's unit for products of small bf16 matrices."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # another torch
        return False


class StripConv(torch.autograd.Function):
    """A convolution of ``images`` (B, C, S, S), bf16, channels behind pixels, and ``weight`` (O, C, k, k), float32."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        rounded = weight.to(images.dtype)
        ctx.save_for_backward(images, rounded)
        ctx.stride, padding, side = stride, weight.shape[-1] // 2, _side(images, stride)
        if side > ALL_SIDE:
            return F.conv2d(images, rounded, None, stride, padding)
        period = _period(images, weight, stride)
        strips = F.conv2d(_beside(images, period), rounded, None, stride, padding)
        return _apart(strips, len(images), period // stride, side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient, stride = gradients[0], ctx.stride
        of_images, of_weight, _ = ctx.needs_input_grad
        beside = of_images and (stride > 1 or gradient.shape[-1] <= ALL_SIDE)
        found: Tensor | None = None
        if of_images and not beside:
            found = _gradients(gradient, images, weight, stride, True, False)[0]
        if not beside and not of_weight:
            return found, None, None
        period = _period(images, weight, stride)
        strips = _beside(images, period), _beside(gradient, period // stride)
        between, summed = _gradients(strips[1], strips[0], weight, stride, beside, of_weight)
        if beside:
            found = _apart(between, len(images), period, images.shape[-1])
        return found, summed.float() if of_weight else None, None


def _gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, of_images: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Of a convolution's input and of its weights; what is not asked for is None."""
    padding, asked = [weight.shape[-1] // 2] * 2, [of_images, of_weight, False]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient.contiguous(memory_format=torch.channels_last), images, weight, None, [stride] * 2, padding, [1, 1],
        False, [0, 0], 1, asked,
    )  # fmt: skip
    return found[0], found[1]


def _side(images: Tensor, stride: int) -> int:
    """T."""
    return math.ceil(images.shape[-1] / stride)


def _period(images: Tensor, weight: Tensor, stride: int) -> int:
    """P: columns of a strip from one image to the next."""
    return math.ceil((images.shape[-1] + weight.shape[-1] // 2) / stride) * stride


def _beside(maps: Tensor, period: int) -> Tensor:
    """(B, C, S, S) -> (N, C, S, 16 P), channels behind pixels; the last strip filled up with images of zeros."""
    channels, side = maps.shape[1:3]
    by_pixel = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, 0, 0, 0, -len(maps) % IMAGES))
    strips = maps.new_empty(len(by_pixel) // IMAGES, side, IMAGES, period, channels)
    strips[:, :, :, side:] = 0
    strips[:, :, :, :side] = by_pixel.reshape(-1, IMAGES, side, side, channels).transpose(1, 2)
    return strips.view(len(strips), side, IMAGES * period, channels).permute(0, 3, 1, 2)


def _apart(strips: Tensor, count: int, period: int, side: int) -> Tensor:
    """(N, O, T, 16 P) -> the first (B, O, T, T).

    A tensor of its own: autograd forbids changing a view that a Function returns, and a network may add into it.
    """
    channels, rows = strips.shape[1:3]
    by_pixel = strips.permute(0, 2, 3, 1).view(len(strips), rows, IMAGES, period, channels)[
        :, :, :, :side
    ]
    size = (len(strips) * IMAGES, channels, rows, side)
    maps = torch.empty(size, dtype=strips.dtype, memory_format=torch.channels_last)
    maps.permute(0, 2, 3, 1).view(-1, IMAGES, rows, side, channels).copy_(by_pixel.transpose(1, 2))
    return maps if len(maps) == count else maps[:count].clone()
