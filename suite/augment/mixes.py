"""Operations that blend images of a batch and their targets: mixup, cutmix.

B images in a batch, C channels, H rows, W columns, K classes. Images are uint8 in [0, 255] or
float32 in [0, 1]; targets are float32 (B, K), rows that sum to 1. Each image is blended with the
one before it in the batch, as in torchvision: batches are in random order, so this is a random
partner. Unlike there, every image has its own share.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from suite.augment.boxes import inside
from suite.augment.masks import paint
from suite.augment.operation import Parameters, on_device, per_image, to_float


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels int64 (B,) as float32 (B, K)."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(torch.float32)


def mix_targets(targets: Tensor, share: Tensor) -> Tensor:
    """Blend each row (B, K) with the one before it; ``share`` (B,) in [0, 1] is the row's own."""
    own = on_device(share, targets)[:, None]
    return targets * own + targets.roll(1, 0) * (1 - own)


def mixup(images: Tensor, share: Tensor) -> Tensor:
    """Blend each image with the one before it (Zhang et al. 2017, arXiv 1710.09412).

    Args:
        images: (B, C, H, W), uint8 or float32.
        share: weight of the image itself, float32 (B,) in [0, 1].

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    before = to_float(images.roll(1, 0))
    # Clamped: rounding may exceed two equal values by one step.
    return before.lerp_(to_float(images), per_image(share, images)).clamp_(0, 1)


def cutmix(images: Tensor, boxes: Parameters) -> Tensor:
    """Paste a box of the image before it into each image (Yun et al. 2019, arXiv 1905.04899).

    Args:
        images: (B, C, H, W), uint8 or float32; the result has their dtype.
        boxes: ``top, left, box_height, box_width`` int64 (B,).
    """
    box = [on_device(boxes[name], images) for name in ("top", "left", "box_height", "box_width")]
    return paint(images, inside(images.shape[2], images.shape[3], *box), images.roll(1, 0))


def draw_beta(batch: int, alpha: float, generator: Generator) -> Tensor:
    """Beta(alpha, alpha), float32 (B,).

    As G1 / (G1 + G2) of two gammas, each G(alpha) = G(alpha + 1) * U ** (1 / alpha), in logarithms:
    the gammas themselves underflow for a small alpha. (`torch.distributions` takes no generator.)
    """
    gamma = torch._standard_gamma(
        torch.full((2, batch), alpha + 1, dtype=torch.float64), generator=generator
    )
    # 1 - U is in (0, 1]: its logarithm is finite.
    uniform = 1 - torch.rand(2, batch, dtype=torch.float64, generator=generator)
    logarithm = gamma.log_() + uniform.log_() / alpha
    return torch.sigmoid(logarithm[0] - logarithm[1]).float()


class Mixup:
    """Blend with a share from Beta(alpha, alpha)."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``share`` float32 (B,)."""
        return {"share": draw_beta(batch, self.alpha, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return mixup(images, parameters["share"])

    def mix_targets(self, targets: Tensor, parameters: Parameters) -> Tensor:
        return mix_targets(targets, parameters["share"])


class Cutmix:
    """Paste a box of area 1 - Beta(alpha, alpha) of the image, before clipping at the border."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``top, left, box_height, box_width`` int64 (B,); ``share`` of remaining pixels (B,)."""
        half = (1 - draw_beta(batch, self.alpha, generator).double()).sqrt_().mul_(0.5)
        left, box_width = self._side(half, width, generator)
        top, box_height = self._side(half, height, generator)
        share = 1 - (box_height * box_width).double() / (height * width)
        return {
            "top": top,
            "left": left,
            "box_height": box_height,
            "box_width": box_width,
            "share": share.float(),
        }

    def _side(self, half: Tensor, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Start and length along a side of a box that reaches ``half`` (B,) of it both ways."""
        centre = torch.randint(side, half.shape, generator=generator)
        reach = (half * side).to(torch.int64)
        start = (centre - reach).clamp_(min=0)
        return start, (centre + reach).clamp_(max=side) - start

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return cutmix(images, parameters)

    def mix_targets(self, targets: Tensor, parameters: Parameters) -> Tensor:
        return mix_targets(targets, parameters["share"])
