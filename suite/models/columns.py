"""Convolutions of small maps with many channels as matrix products, where oneDNN's own kernels in bf16 are slow.

B images, C input and O output channels, k x k kernel, P output pixels of an image. Columns (Chellapilla et al. 2006)
are a matrix of what each output pixel sees, (B P, k k C). Forward: columns times weights. Gradient of the weights:
gradients of the output times columns. Of the input, at stride 1: as forward, of the output's gradients and the mirrored
kernel. With channels behind pixels a row is k runs of k C values, cheap to lay out (1 ms of the first 17 below).

What that changes, in ms, oneDNN -> so (128 images, two threads of a shared Xeon with AMX, torch 2.13; best of seven):

=====================  ====  ========  ========  ========
C -> O, pixels         in    forward   weights   inputs
=====================  ====  ========  ========  ========
512 -> 512, 4 x 4      bf16  36 -> 17  50 -> 15  23 -> 16
256 -> 512, 8 x 8, /2  bf16   7 ->  9  28 ->  7
256 -> 256, 8 x 8      bf16  15 -> 23  43 -> 26
128 -> 128, 16 x 16    bf16            24 -> 34
512 -> 512, 4 x 4      fp32  66 -> 54  67 -> 56  52 -> 55
=====================  ====  ========  ========  ========
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OUT_CHANNELS = 256  # from here on, and on maps of so many pixels a side:
WEIGHTS_SIDE = 8  # at most, gradients of weights
ALL_SIDE = 4  # at most, the other two products as well
TILE = 64  # images of a product
CHUNK_BYTES = 24 * 2**20  # of columns at once: blocks of 32 MiB are mapped anew each time, 15 ms instead of 1


class Columns(torch.autograd.Function):
    """A convolution of ``images`` (B, C, H, W), channels behind pixels, and ``weight`` (O, C, k, k), in bf16."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        rounded = weight.to(images.dtype)
        ctx.save_for_backward(images, rounded)
        ctx.stride, ctx.padding = stride, padding
        kernel, side = weight.shape[-1], images.shape[-1]
        if (side + 2 * padding - kernel) // stride + 1 > ALL_SIDE:
            return F.conv2d(images, rounded, None, stride, padding)
        # a tensor of its own: autograd forbids changing a view that a Function returns, and a network may add into it
        return _product(images, _as_matrix(rounded), kernel, stride, padding).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_images = _of_images(gradient, images, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(gradient, images, weight, ctx.stride, ctx.padding) if ctx.needs_input_grad[1] else None
        return of_images, of_weight, None, None


def _of_images(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    kernel = weight.shape[-1]
    if stride == 1 and gradient.shape[-1] <= ALL_SIDE and padding < kernel:
        mirrored = weight.flip(2, 3).permute(1, 2, 3, 0).reshape(weight.shape[1], -1)  # (C, k k O)
        return _product(gradient, mirrored, kernel, 1, kernel - 1 - padding)
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]
    return found


def _of_weight(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """float32 (O, C, k, k), as it is used; the sum over a chunk's images is rounded to bf16, as oneDNN rounds it."""
    outputs, channels, kernel, _ = weight.shape
    summed = torch.zeros(outputs, kernel, kernel, channels)
    count = _chunk(images, gradient.shape[-1], kernel)
    for some, seen in zip(torch.split(gradient, count), torch.split(images, count), strict=True):
        by_pixel = some.permute(0, 2, 3, 1).reshape(-1, outputs)
        summed.add_((by_pixel.T @ _columns(seen, kernel, stride, padding)).view(summed.shape))
    return summed.permute(0, 3, 1, 2)


def product(rows: Tensor, weights: Tensor, tile: int) -> Tensor:
    """(M, K) times (N, K) -> (M, N), so many rows at a time, the last ones with zeros below.

    A row's values then do not depend on how many others there are: BLAS adds up in another order for another M, and
    features that are kept of frozen layers must be those of any batch, bit for bit.
    """
    parts = torch.split(rows, tile)
    return torch.cat([(F.pad(part, (0, 0, 0, tile - len(part))) @ weights.T)[: len(part)] for part in parts])


def _product(images: Tensor, weights: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Columns of ``images`` times ``weights`` (O, k k C), as (B, O, H', W') with channels behind pixels."""
    side = (images.shape[-1] + 2 * padding - kernel) // stride + 1
    tile = max(1, min(TILE, CHUNK_BYTES // _bytes(images, side, kernel)))  # of the shape alone, not of the batch
    products = [
        product(_columns(some, kernel, stride, padding), weights, tile * side**2) for some in torch.split(images, tile)
    ]
    return torch.cat(products).view(len(images), side, side, -1).permute(0, 3, 1, 2)


def _bytes(images: Tensor, side: int, kernel: int) -> int:
    """Of an image's columns."""
    return images.element_size() * images.shape[1] * (side * kernel) ** 2


def _chunk(images: Tensor, side: int, kernel: int) -> int:
    """Images whose columns are laid out at once: of as many chunks as are needed, the smallest."""
    return math.ceil(len(images) / math.ceil(len(images) * _bytes(images, side, kernel) / CHUNK_BYTES))


def _columns(images: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(B, C, H, W) -> (B P, k k C)."""
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    count, height, _, channels = padded.shape
    side = (height - kernel) // stride + 1
    of_image, of_row, of_pixel, of_channel = padded.stride()
    seen = padded.as_strided(
        (count, side, side, kernel, kernel, channels),
        (of_image, stride * of_row, stride * of_pixel, of_row, of_pixel, of_channel),
    )
    return seen.reshape(count * side * side, kernel * kernel * channels)


def _as_matrix(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, k k C)."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
