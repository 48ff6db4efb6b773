"""Operations on values: color_jitter and gaussian_blur.

B images in a batch, C channels (1 or 3), H rows, W columns. Images are uint8 in [0, 255] or float32 in [0, 1]; results
are float32 in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from suite.augment.operation import Parameters, on_device, per_image, to_float, uniform

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Numbers of the four changes in ``order``, as in torchvision."""


def color_jitter(
    images: Tensor, order: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image in its own order (torchvision ``ColorJitter``).

    A grey image (C = 1) has no saturation and no hue to change, as in torchvision.

    Args:
        images: (B, C, H, W), uint8 or float32.
        order: int64 (B, 4), each row a permutation of 0..3 as numbered above; on the CPU, like all that follow.
        brightness, contrast, saturation: factors, float32 (B,), 1 = unchanged.
        hue: shifts in turns of the colour circle, float32 (B,) in [-0.5, 0.5], 0 = unchanged.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    factors = torch.stack((brightness, contrast, saturation), 1)
    coloured = images.shape[1] == 3
    changed = (factors != 1).any(0).tolist()
    active = [change for change in (BRIGHTNESS, CONTRAST, SATURATION) if changed[change]]
    if not coloured and SATURATION in active:
        active.remove(SATURATION)
    # The first three are blends, one formula with three sets of coefficients; only hue splits an image's changes in
    # two. With the images sorted by how many blends come before their hue, each step is one call on one run of the
    # batch, whatever the 24 orders are.
    position = order.argsort(1)
    blends_first = (position[:, active] < position[:, [HUE]]).sum(1)
    by = blends_first.argsort(descending=True, stable=True)
    blends = torch.tensor(active)[position[:, active].argsort(1)][by]
    shares = on_device(_shares(blends, factors[by].gather(1, blends)), images)[..., None, None, None]
    images = to_float(images.index_select(0, on_device(by, images)))
    before = (blends_first[:, None] > torch.arange(len(active))).sum(0).tolist()
    for step, end in enumerate(before):
        _blend(images[:end], *shares[step, :, :end])
    if coloured and bool((hue != 0).any()):
        _shift_hue(images, hue[by])
    for step, start in enumerate(before):
        _blend(images[start:], *shares[step, :, start:])
    return images.index_select(0, on_device(by.argsort(), images))


def _shares(blends: Tensor, factors: Tensor) -> Tensor:
    """What each step of each image blends: brightness with black, contrast with mean grey, saturation with grey.

    Args:
        blends: int64 (B, S), which of the three is done at each step.
        factors: share of the image itself, float32 (B, S).

    Returns:
        Shares of the image, of its grey and of its mean grey, float32 (S, 3, B).
    """
    rest = 1 - factors
    return torch.stack((factors, rest * (blends == SATURATION), rest * (blends == CONTRAST))).permute(2, 0, 1)


def _blend(images: Tensor, own: Tensor, of_grey: Tensor, of_mean: Tensor) -> None:
    """Blend images (B, C, H, W), in place, with their grey and mean grey by shares (B, 1, 1, 1). All float32."""
    grey = _grey(images)
    mean = grey.mean((2, 3), keepdim=True).mul_(of_mean)
    torch.addcmul(grey.mul_(of_grey).add_(mean), images, own, out=images).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """torchvision's grey of float32 images, a new tensor (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = torch.split(images, 1, 1)
    return red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's grey."""


def _shift_hue(images: Tensor, turns: Tensor) -> None:
    """Turn the hue in HSV space, exactly (torchvision ``adjust_hue``), in place and without leaving RGB.

    With v the largest and c the largest less the smallest channel, and h the hue in sixths of a turn, a channel is
    v - c * clamp(t, 0, 1), where t = 2 - |h - 3| for red, |h - 2| - 1 for green and |h - 4| - 1 for blue.

    Args:
        images: float32 (B, 3, H, W) in [0, 1].
        turns: float32 (B,) in [-0.5, 0.5].
    """
    red, green, blue = torch.split(images, 1, 1)
    largest = torch.maximum(red, green)
    smallest = torch.minimum(red, green)
    torch.maximum(largest, blue, out=largest)
    torch.minimum(smallest, blue, out=smallest)
    chroma = largest - smallest
    hue = _sixths(red, green, blue, largest, chroma)
    # Into [0, 6]: `remainder` costs ten times as much on a CPU.
    hue.add_(per_image(turns * 6, images))
    hue.sub_((hue / 6).floor_(), alpha=6)
    peaks = on_device(torch.tensor((3.0, 2.0, 4.0)), images)[:, None, None]
    torch.sub(hue, peaks, out=images).abs_()
    images[:, 0].neg_().add_(3)
    images.sub_(1).clamp_(0, 1)
    torch.addcmul(largest, images, chroma, value=-1, out=images)


def _sixths(red: Tensor, green: Tensor, blue: Tensor, largest: Tensor, chroma: Tensor) -> Tensor:
    """Hue in sixths of a turn, [-1, 5]; 4 where there is no colour. All float32 (B, 1, H, W).

    (g - b) / c where red is largest, else 2 + (b - r) / c where green is, else 4 + (r - g) / c. The choice is made by
    factors of 0 and 1: `torch.where` costs forty times as much on a CPU, whose guesses of its branches fail.
    """
    is_red = torch.eq(red, largest, out=torch.empty_like(largest))
    is_green = torch.eq(green, largest, out=torch.empty_like(largest))
    is_green.addcmul_(is_green, is_red, value=-1)
    numerator = red - green
    change = torch.sub(green, blue).sub_(numerator)
    hue = torch.addcmul(numerator, change, is_red)
    torch.sub(blue, red, out=change).sub_(numerator)
    hue.addcmul_(change, is_green)
    # A colour that float32 tells from grey has a chroma far above this.
    hue.div_(chroma.clamp(min=1e-12))
    return hue.add_(4).sub_(is_red, alpha=4).sub_(is_green, alpha=2)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own Gaussian, mirrored at the border (torchvision ``gaussian_blur``).

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
    # Each image as one line of memory: a neighbour is then a fixed distance away, across as well as down, and every
    # step is one long run. What wraps from row to row lies in the padding, outside the window cut out at the end.
    row, plane = padded.shape[3], padded.shape[2] * padded.shape[3]
    line = _weigh(padded.view(batch, -1), weights, 1)
    line = _weigh(line, weights, row)
    strides = (line.shape[1], plane, row, 1)
    # Clamped: weights may sum to a rounding error above 1.
    return line.as_strided((batch, channels, height, width), strides).clamp(0, 1)


def _weigh(line: Tensor, weights: Tensor, step: int) -> Tensor:
    """Pixels ``step`` apart in ``line`` (B, N) weighed by ``weights`` (B, k), symmetric: (B, N - (k - 1) * step)."""
    reach = weights.shape[1] // 2
    length = line.shape[1] - 2 * reach * step
    total = line[:, reach * step :][:, :length] * weights[:, [reach]]
    for tap in range(reach):
        pair = line[:, tap * step :][:, :length] + line[:, (2 * reach - tap) * step :][:, :length]
        total.addcmul_(pair, weights[:, [tap]])
    return total


class ColorJitter:
    """Change brightness, contrast, saturation and hue in random order (torchvision ``ColorJitter``).

    Args:
        brightness, contrast, saturation: x; the factor is uniform in [max(0, 1 - x), 1 + x].
        hue: x in [0, 0.5]; the shift is uniform in [-x, x] turns.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        self.spread = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue = hue

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``order`` int64 (B, 4), ``brightness, contrast, saturation, hue`` float32 (B,)."""
        # In float64, so that two equal numbers, which would favour an order, do not occur.
        order = torch.rand(batch, 4, dtype=torch.float64, generator=generator).argsort(1)
        factors = {
            name: uniform((batch,), max(0.0, 1 - spread), 1 + spread, generator) for name, spread in self.spread.items()
        }
        return {"order": order, **factors, "hue": uniform((batch,), -self.hue, self.hue, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return color_jitter(images, **parameters)


class GaussianBlur:
    """Blur with a Gaussian of a standard deviation, in pixels, uniform in ``sigma`` (torchvision ``GaussianBlur``)."""

    def __init__(self, kernel_size: int, sigma: tuple[float, float]) -> None:
        self.kernel_size, self.sigma = kernel_size, sigma

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``sigma`` float32 (B,)."""
        return {"sigma": uniform((batch,), *self.sigma, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return gaussian_blur(images, parameters["sigma"], self.kernel_size)
