"""Operations that overwrite pixels: cutout, random_erasing, salt_and_pepper.

B images in a batch, C channels, H rows, W columns. Images are uint8 in [0, 255] or float32 in [0,
1] and keep their dtype.

The colour of cutout and random_erasing: the code of both papers erases after normalisation, with 0,
the mean colour of the training images. Black is several standard deviations away from it, and would
shift BatchNorm's statistics. These operations run before normalisation, so they paint the mean,
``fill``. It is rounded to a grey level, so that results for uint8 and float images agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from suite.augment.boxes import draw_sides, first_valid, inside
from suite.augment.operation import Parameters, below, on_device


def paint(images: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Paint ``colour`` where ``mask`` is true.

    By arithmetic: `torch.where` is several times slower on a CPU.

    Args:
        images: (B, C, H, W), uint8 or float32.
        mask: bool (B, 1, H, W).
        colour: dtype of ``images``; its shape broadcasts to theirs.
    """
    # One tensor of the images' size, changed in place, takes 60 us for 128 uint8 images of 32 px
    # and 170 us for floats; with three such tensors it would take 79 and 204 us.
    if images.is_floating_point():
        painted = mask.view(torch.uint8).to(images.dtype)
        return (images * (1 - painted)).addcmul_(painted, colour)
    painted = mask.view(torch.uint8).neg()  # 255 if painted: 0 - 1 wraps around
    return (images ^ colour).bitwise_and_(painted).bitwise_xor_(images)


def paint_boxes(images: Tensor, boxes: Parameters, fill: Sequence[float]) -> Tensor:
    """Fill one box of each image.

    Args:
        images: (B, C, H, W), uint8 or float32.
        boxes: ``top, left, box_height, box_width`` int64 (B,); a side of 0 fills nothing.
        fill: colour in [0, 1], one number or one per channel.
    """
    if len(fill) not in (1, images.shape[1]):
        raise ValueError(f"fill must have 1 or {images.shape[1]} channels, got {len(fill)}")
    levels = torch.tensor(fill, dtype=torch.float64).mul_(255).round_()
    colour = levels.div_(255) if images.is_floating_point() else levels
    box = [on_device(boxes[name], images) for name in ("top", "left", "box_height", "box_width")]
    mask = inside(images.shape[2], images.shape[3], *box)
    return paint(images, mask, on_device(colour.to(images.dtype), images)[:, None, None])


def salt_and_pepper(images: Tensor, black: Tensor, white: Tensor) -> Tensor:
    """Make some pixels black and some white, in all channels.

    Args:
        images: (B, C, H, W), uint8 or float32.
        black, white: bool (B, H, W), never both.
    """
    black = on_device(black, images)[:, None].view(torch.uint8)
    white = on_device(white, images)[:, None].view(torch.uint8)
    if images.is_floating_point():
        return torch.addcmul(white.to(images.dtype), images, (1 - black - white).to(images.dtype))
    return (images & (black - 1)).bitwise_or_(white.neg())  # 0 - 1 wraps around to 255


class Cutout:
    """Paint a square around a uniform pixel, clipped at the border (DeVries and Taylor 2017).

    Args:
        size: side of the square in pixels. If it is even, the centre is the lower right of the four
            middle pixels, as in the authors' code.
        fill: see above.
    """

    def __init__(self, size: int, fill: Sequence[float]) -> None:
        self.size, self.fill = size, fill

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``top, left, box_height, box_width`` int64 (B,), within the image."""
        top, box_height = self._side(batch, height, generator)
        left, box_width = self._side(batch, width, generator)
        return {"top": top, "left": left, "box_height": box_height, "box_width": box_width}

    def _side(self, batch: int, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
        start = torch.randint(side, (batch,), generator=generator) - self.size // 2
        end = (start + self.size).clamp_(max=side)
        start.clamp_(min=0)
        return start, end - start

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return paint_boxes(images, parameters, self.fill)


class RandomErasing:
    """Paint a random rectangle with probability ``p``.

    As torchvision's ``RandomErasing`` (Zhong et al. 2017).

    Args:
        p: probability per image.
        scale: smallest and largest area, as a fraction of the image; drawn uniform.
        ratio: smallest and largest height / width; drawn log-uniform.
        fill: see above.
    """

    def __init__(
        self,
        p: float,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        fill: Sequence[float],
    ) -> None:
        self.p, self.scale, self.ratio, self.fill = p, scale, ratio, fill

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``top, left, box_height, box_width`` int64 (B,): the first attempt that fits, else 0."""
        erased = torch.rand(batch, generator=generator) < self.p
        heights, widths = draw_sides(batch, height * width, self.scale, self.ratio, generator)
        fits = (heights < height) & (widths < width) & erased[:, None]
        (box_height, box_width), _ = first_valid(fits, (heights, 0), (widths, 0))
        top = below(height - box_height + 1, generator)
        left = below(width - box_width + 1, generator)
        return {"top": top, "left": left, "box_height": box_height, "box_width": box_width}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return paint_boxes(images, parameters, self.fill)


class SaltAndPepper:
    """Make each pixel black or white, with probability ``amount / 2`` each."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``black`` and ``white`` bool (B, H, W), never both."""
        # Four 16-bit numbers from each 64-bit draw cost a third of `torch.rand`. The integer
        # threshold is rounded at random for each image, so that each pixel's probability is exact.
        pixels = batch * height * width
        draws = torch.empty(-(-pixels // 4), dtype=torch.int64).random_(
            -(2**63), None, generator=generator
        )
        noise = draws.view(torch.int16)[:pixels].view(batch, height, width)
        share = (
            torch.rand(batch, 1, 1, dtype=torch.float64, generator=generator)
            .add_(self.amount * 2**15)
            .floor_()
        )
        share.clamp_(max=2**15)
        # Comparison into bytes is four times as fast on a CPU as into bools.
        black = torch.lt(
            noise, (share - 2**15).to(torch.int16), out=torch.empty(noise.shape, dtype=torch.uint8)
        )
        white = torch.gt(
            noise,
            (2**15 - 1 - share).to(torch.int16),
            out=torch.empty(noise.shape, dtype=torch.uint8),
        )
        return {"black": black.view(torch.bool), "white": white.view(torch.bool)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return salt_and_pepper(images, **parameters)
