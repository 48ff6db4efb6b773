"""Convolutions of small maps, sixteen images side by side: oneDNN is slow on short rows in bf16.

Legend: B images, C input and O output channels, S x S pixels in, T x T out, k x k kernel (odd,
padded by k // 2), N strips.

On rows of 4 pixels oneDNN's AMX kernels reach a third of their speed on longer rows. A strip is a
map of S x 16 P pixels: an image, P - S columns of zeros, the next image, and so on. If P is at
least S plus the padding, and a multiple of the stride, each image's outputs are those of its own
convolution; the columns between are dropped. The products are the same, plus zeros.

Times in ms, oneDNN -> strips (128 images, shared Xeon with AMX, torch 2.13; best of nine
alternating runs; including the layout of strips, excluding their splitting, which takes 0.1 to
0.5 ms; the first five rows on two threads, the others on one):

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

Without AMX (the same machine, oneDNN limited to AVX-512 bf16) strips are slower except for the
weights of 256 -> 512 (48 -> 42), so they are not used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MIN_CHANNELS = 32  # in and out
MAX_SIDE = 8  # output pixels per side, for gradients of weights, and of inputs at a stride
MAX_SIDE_ALL = 4  # output pixels per side, for all three products
IMAGES = 16  # per strip, always: an image's values do not depend on the number of images


def has_amx() -> bool:
    """Whether this processor has AMX, Intel's unit for products of small bf16 matrices."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # another version of torch
        return False


class StripConv(torch.autograd.Function):
    """Convolves bf16 (B, C, S, S), channels last, with float32 (O, C, k, k)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int) -> Tensor:
        rounded = weight.to(images.dtype)
        ctx.save_for_backward(images, rounded)
        ctx.stride, padding, side = stride, weight.shape[-1] // 2, _side(images, stride)
        if side > MAX_SIDE_ALL:
            return F.conv2d(images, rounded, None, stride, padding)
        period = _period(images, weight, stride)
        strips = F.conv2d(_to_strips(images, period), rounded, None, stride, padding)
        return _from_strips(strips, len(images), period // stride, side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient, stride = gradients[0], ctx.stride
        of_images, of_weight, _ = ctx.needs_input_grad
        in_strips = of_images and (stride > 1 or gradient.shape[-1] <= MAX_SIDE_ALL)
        image_gradient: Tensor | None = None
        if of_images and not in_strips:
            image_gradient = _gradients(gradient, images, weight, stride, True, False)[0]
        if not in_strips and not of_weight:
            return image_gradient, None, None
        period = _period(images, weight, stride)
        strips = _to_strips(images, period), _to_strips(gradient, period // stride)
        image_strips, summed = _gradients(
            strips[1], strips[0], weight, stride, in_strips, of_weight
        )
        if in_strips:
            image_gradient = _from_strips(image_strips, len(images), period, images.shape[-1])
        return image_gradient, summed.float() if of_weight else None, None


def _gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, stride: int, of_images: bool, of_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of a convolution's input and of its weights; those not requested are None."""
    padding, requested = [weight.shape[-1] // 2] * 2, [of_images, of_weight, False]
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient.contiguous(memory_format=torch.channels_last), images, weight, None,
        [stride] * 2, padding, [1, 1], False, [0, 0], 1, requested,
    )  # fmt: skip
    return gradients[0], gradients[1]


def _side(images: Tensor, stride: int) -> int:
    """T."""
    return math.ceil(images.shape[-1] / stride)


def _period(images: Tensor, weight: Tensor, stride: int) -> int:
    """P: columns of a strip from one image to the next."""
    return math.ceil((images.shape[-1] + weight.shape[-1] // 2) / stride) * stride


def _to_strips(maps: Tensor, period: int) -> Tensor:
    """(B, C, S, S) -> (N, C, S, 16 P), channels last; the last one is padded with zero images."""
    channels, side = maps.shape[1:3]
    by_pixel = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, 0, 0, 0, -len(maps) % IMAGES))
    strips = maps.new_empty(len(by_pixel) // IMAGES, side, IMAGES, period, channels)
    strips[:, :, :, side:] = 0
    strips[:, :, :, :side] = by_pixel.reshape(-1, IMAGES, side, side, channels).transpose(1, 2)
    return strips.view(len(strips), side, IMAGES * period, channels).permute(0, 3, 1, 2)


def _from_strips(strips: Tensor, count: int, period: int, side: int) -> Tensor:
    """(N, O, T, 16 P) -> the first (B, O, T, T).

    A copy: autograd forbids changing a view that a Function returns, and networks add in place.
    """
    channels, rows = strips.shape[1:3]
    by_pixel = strips.permute(0, 2, 3, 1).view(len(strips), rows, IMAGES, period, channels)[
        :, :, :, :side
    ]
    size = (len(strips) * IMAGES, channels, rows, side)
    maps = torch.empty(size, dtype=strips.dtype, memory_format=torch.channels_last)
    maps.permute(0, 2, 3, 1).view(-1, IMAGES, rows, side, channels).copy_(by_pixel.transpose(1, 2))
    return maps if len(maps) == count else maps[:count].clone()
