"""Operations on values: color_jitter and gaussian_blur.

B images in a batch, C channels (1 or 3), H rows, W columns. Images are uint8 in [0, 255] or float32
in [0, 1]; results are float32 in [0, 1].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from suite.augment.operation import Parameters, on_device, to_float, uniform

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The four changes in ``order``, numbered as in torchvision."""


def color_jitter(
    images: Tensor,
    order: Tensor,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor,
) -> Tensor:
    """Change brightness, contrast, saturation and hue, each image in its own order.

    As torchvision's ``ColorJitter``. A grey image (C = 1) has no saturation and no hue to change.

    Args:
        images: (B, C, H, W), uint8 or float32.
        order: int64 (B, 4), each row a permutation of 0..3 as numbered above. It and the factors
            are on the CPU.
        brightness, contrast, saturation: factors, float32 (B,), 1 = unchanged.
        hue: shifts in turns of the colour circle, float32 (B,) in [-0.5, 0.5], 0 = unchanged.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    batch, channels, height, width = images.shape
    coloured = channels == 3
    # Brightness, contrast and saturation are blends: one formula with three sets of coefficients.
    # Hue splits an image's blends in two. With the images sorted by their number of blends before
    # hue, each step is one call on a contiguous part of the batch, for all 24 orders.
    by, before, shares = _plan(order, torch.stack((brightness, contrast, saturation)), coloured)
    own, of_grey, of_mean = on_device(shares, images)
    of_sum = of_mean / (height * width)
    # Channels first, so that a channel is contiguous. With `_shift_hue` and a plan in NumPy, 128
    # images of 32 px take 2.3 ms instead of 2.6.
    planes = on_device(by * channels + torch.arange(channels)[:, None], images)
    values = to_float(images.reshape(batch * channels, -1).index_select(0, planes.view(-1))).view(
        channels, batch, -1
    )
    for step, end in enumerate(before):
        _blend(values[:, :end], own[step, :end], of_grey[step, :end], of_sum[step, :end])
    if coloured and bool((hue != 0).any()):
        _shift_hue(values, on_device(hue[by], images))
    for step, start in enumerate(before):
        _blend(values[:, start:], own[step, start:], of_grey[step, start:], of_sum[step, start:])
    planes = on_device(by.argsort()[:, None] + torch.arange(channels) * batch, images)
    return values.view(channels * batch, -1).index_select(0, planes.view(-1)).view(images.shape)


def _plan(order: Tensor, factors: Tensor, coloured: bool) -> tuple[Tensor, list[int], Tensor]:
    """The blends of each step, in NumPy: 140 us for a batch of 128, in torch 250.

    Args:
        order: int64 (B, 4).
        factors: weight of the image itself in each of the three blends, float32 (3, B).
        coloured: whether images have a saturation.

    Returns:
        The images in descending order of their number of blends before hue, int64 (B,); for each of
        the S steps the number of images with that step before hue; and for each step and sorted
        image the weights of the image, of its grey (saturation) and of its mean grey (contrast),
        float32 (3, S, B, 1). The rest is black.
    """
    changes, own = order.numpy(), factors.numpy()
    changed = [*(own != 1).any(1).tolist(), False]
    changed[SATURATION] &= coloured
    chosen = np.array(changed)[changes]
    first = chosen.cumsum(1)[changes == HUE]
    by = np.argsort(-first, kind="stable")
    blends = changes[chosen].reshape(len(changes), sum(changed))[by].T
    own = own[blends, by]
    shares = np.stack((own, (1 - own) * (blends == SATURATION), (1 - own) * (blends == CONTRAST)))
    before = [int((first > step).sum()) for step in range(len(blends))]
    return torch.from_numpy(by), before, torch.from_numpy(shares)[..., None]


def _blend(values: Tensor, own: Tensor, of_grey: Tensor, of_sum: Tensor) -> None:
    """Blend float32 images (C, B, H * W) in place with grey and its sum, by weights (B, 1)."""
    grey = _grey(values)
    total = grey.sum(1, keepdim=True).mul_(of_sum)
    torch.addcmul(grey.mul_(of_grey).add_(total), values, own, out=values).clamp_(0, 1)


def _grey(values: Tensor) -> Tensor:
    """torchvision's grey of float32 images (C, B, H * W), a new tensor (B, H * W)."""
    if len(values) == 1:
        return values[0].clone()
    red, green, blue = values.unbind()
    return red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's grey."""


PEAKS, THREE = torch.tensor((3.0, 2.0, 4.0))[:, None, None], torch.tensor(3.0)


def _shift_hue(values: Tensor, turns: Tensor) -> None:
    """Turn the hue in HSV space, in place, computed in RGB (torchvision ``adjust_hue``).

    With v the largest and c the largest less the smallest channel, and h the hue in sixths of a
    turn, a channel is v - c * clamp(t, 0, 1), where t = 2 - |h - 3| for red, |h - 2| - 1 for green
    and |h - 4| - 1 for blue.

    Args:
        values: float32 (3, B, H * W) in [0, 1].
        turns: float32 (B,) in [-0.5, 0.5].
    """
    hue, chroma, largest = _sixths(values)
    # Into [0, 6]: `remainder` costs ten times as much on a CPU.
    hue.add_((turns * 6)[:, None])
    hue.sub_((hue / 6).floor_(), alpha=6)
    torch.sub(hue, on_device(PEAKS, values), out=values).abs_()
    torch.sub(on_device(THREE, values), values[0], out=values[0])
    values.sub_(1).clamp_(0, 1)
    torch.addcmul(largest, values, chroma, value=-1, out=values)


def _sixths(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in sixths of a turn, in [0, 6], chroma and largest channel: (3, B, H * W) -> (B, H * W).

    With q = (min(r, max(g, b)) - min(g, b)) / chroma the hue is q if red is largest and green not
    below blue, 6 - q if green is below blue; else 2 - q if green is largest, 4 + q if blue is. All
    four are ||q - 2 n| - 6 m|, with n = 1 if red is not largest and m = 1 if green is below blue.
    Factors of 0 and 1 choose: `torch.where` costs forty times as much on a CPU, whose branch
    prediction fails.
    """
    red, green, blue = values.unbind()
    largest, smallest = torch.maximum(green, blue), torch.minimum(green, blue)
    is_blue = torch.lt(green, blue, out=torch.empty_like(largest))
    not_red = torch.lt(red, largest, out=torch.empty_like(largest))
    middle = torch.minimum(red, largest)
    torch.maximum(red, largest, out=largest)
    chroma = largest - torch.minimum(middle, smallest)
    # Colours that differ from grey in float32 have a chroma far above this.
    hue = middle.sub_(smallest).div_(chroma.clamp(min=1e-12))
    return hue.sub_(not_red, alpha=2).abs_().sub_(is_blue, alpha=6).abs_(), chroma, largest


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own Gaussian, mirrored at the border.

    As torchvision's ``gaussian_blur``.

    Args:
        images: (B, C, H, W), uint8 or float32; H and W above ``kernel_size // 2``.
        sigma: standard deviations in pixels, float32 (B,), above 0.
        kernel_size: side of the kernel, odd.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    batch, channels, height, width = images.shape
    reach = kernel_size // 2
    offsets = torch.arange(-reach, reach + 1)
    weights = on_device(torch.softmax((offsets / sigma[:, None]).square_().mul_(-0.5), 1), images)
    padded = to_float(F.pad(images, (reach,) * 4, mode="reflect").contiguous())
    # Each image is one line of memory: neighbours, across and down, are a fixed distance away, and
    # each step runs over all pixels. Values that wrap from row to row lie in the padding, outside
    # the final window.
    row, plane = padded.shape[3], padded.shape[2] * padded.shape[3]
    line = _weigh(padded.view(batch, -1), weights, 1)
    line = _weigh(line, weights, row)
    strides = (line.shape[1], plane, row, 1)
    # Clamped: weights may sum to a rounding error above 1.
    return line.as_strided((batch, channels, height, width), strides).clamp(0, 1)


def _weigh(line: Tensor, weights: Tensor, step: int) -> Tensor:
    """Weigh pixels ``step`` apart by symmetric (B, k): (B, N) -> (B, N - (k - 1) * step)."""
    reach = weights.shape[1] // 2
    length = line.shape[1] - 2 * reach * step
    total = line[:, reach * step :][:, :length] * weights[:, [reach]]
    for tap in range(reach):
        pair = line[:, tap * step :][:, :length] + line[:, (2 * reach - tap) * step :][:, :length]
        total.addcmul_(pair, weights[:, [tap]])
    return total


class ColorJitter:
    """Change brightness, contrast, saturation and hue in random order.

    As torchvision's ``ColorJitter``.

    Args:
        brightness, contrast, saturation: x; the factor is uniform in [max(0, 1 - x), 1 + x].
        hue: x in [0, 0.5]; the shift is uniform in [-x, x] turns.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        self.spread = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue = hue

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``order`` int64 (B, 4), ``brightness, contrast, saturation, hue`` float32 (B,)."""
        # In float64: equal numbers, which would favour an order, do not occur.
        order = torch.rand(batch, 4, dtype=torch.float64, generator=generator).argsort(1)
        factors = {
            name: uniform((batch,), max(0.0, 1 - spread), 1 + spread, generator)
            for name, spread in self.spread.items()
        }
        return {"order": order, **factors, "hue": uniform((batch,), -self.hue, self.hue, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return color_jitter(images, **parameters)


class GaussianBlur:
    """Blur with a Gaussian (torchvision ``GaussianBlur``).

    Args:
        kernel_size: side of the kernel, odd.
        sigma: range of the uniform standard deviation, in pixels.
    """

    def __init__(self, kernel_size: int, sigma: tuple[float, float]) -> None:
        self.kernel_size, self.sigma = kernel_size, sigma

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``sigma`` float32 (B,)."""
        return {"sigma": uniform((batch,), *self.sigma, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return gaussian_blur(images, parameters["sigma"], self.kernel_size)
