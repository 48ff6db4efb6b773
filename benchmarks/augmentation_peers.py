"""How each peer augments: the same laws and strengths as ours, at the peer's fastest documented
settings.

A peer takes images in the form that it works on best, prepared beforehand, and gives float32 CHW in
[0, 1]; what it takes to get there is part of it. It does not gather its images into a batch, which
a loader would still have to do.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from suite.config import trial
from suite.system.torchvision_import import (
    torchvision,  # noqa: F401  (makes torchvision's transforms importable)
)

v2 = importlib.import_module("torchvision.transforms.v2")

SIDE, BATCH = 32, 128
FILL = (0.4914, 0.4822, 0.4465)
LEVELS = tuple(round(255 * value) for value in FILL)

Transform = Callable[[Any], Any]
Names = Sequence[str]

LAWS = {
    "color_jitter": "Kornia draws one order for the whole batch, we one for each image.",
    "random_resized_crop": "Kornia with `cropping_mode='resample'`, the faster of its two.",
    "resize": "Albumentations shrinks with `area_for_downscale`, which is its antialiasing.",
    "cutout": "torchvision has no clipped square: a few lines by its user stand for it, faster "
    "than `RandomErasing`; "
    "the squares of Albumentations (`CoarseDropout`) and Kornia (`RandomErasing`, grey) lie "
    "wholly inside the image.",
    "salt_and_pepper": "torchvision has none: a few lines by its user stand for it, on tensors "
    "alone. Albumentations "
    "draws an exact number of pixels, we and Kornia one by one.",
}
"""Where a peer's law differs from ours, or is not the peer's own."""


def settings(name: str) -> Any:
    """Our defaults for an augmentation, which all peers take over."""
    return trial.AUGMENTATIONS[name]()


def three_quarters() -> int:
    """Side that resize and center_crop leave, by default."""
    return SIDE * 3 // 4


# ---- torchvision, one image at a time ------------------------------------------------------------


def torchvision_tensors(names: Names) -> Transform:
    """torchvision v2 on uint8 tensors (C, H, W)."""
    steps = [_torchvision(name, on_tensors=True) for name in names]
    return _chain([*steps, v2.ToDtype(torch.float32, scale=True)])


def torchvision_pil(names: Names) -> Transform | None:
    """torchvision v2 on PIL images, or None where the law has no form on them."""
    if "salt_and_pepper" in names:
        return None
    steps = [_torchvision(name, on_tensors=False) for name in names]
    return _chain([*steps, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def _torchvision(name: str, on_tensors: bool) -> Transform:
    ours = settings(name)
    match name:
        case "rotation":
            return v2.RandomRotation(ours.degrees)
        case "flip":
            return v2.RandomHorizontalFlip(ours.p)
        case "crop":
            return v2.RandomCrop(SIDE, padding=SIDE // 8)
        case "color_jitter":
            return v2.ColorJitter(ours.brightness, ours.contrast, ours.saturation, ours.hue)
        case "random_resized_crop":
            return v2.RandomResizedCrop(
                SIDE, scale=(ours.scale_min, ours.scale_max), ratio=(ours.ratio_min, ours.ratio_max)
            )
        case "resize":
            return v2.Compose([v2.Resize(three_quarters()), v2.Resize(SIDE)])
        case "center_crop":
            return v2.Compose([v2.CenterCrop(three_quarters()), v2.Resize(SIDE)])
        case "cutout":
            return _cut_tensor if on_tensors else _cut_pil
        case "gaussian_blur":
            return v2.GaussianBlur(ours.kernel_size, (ours.sigma_min, ours.sigma_max))
        case "salt_and_pepper":
            return _sprinkle
    raise KeyError(name)


def _chain(steps: Iterable[Transform]) -> Transform:
    """``v2.Compose`` flattened: a Compose in a Compose costs a call."""
    flat = [
        inner
        for step in steps
        for inner in (step.transforms if isinstance(step, v2.Compose) else [step])
    ]
    return v2.Compose(flat)


def _square() -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a square at a random centre, clipped at the border."""
    top, left = (random.randrange(SIDE) - SIDE // 4 for _ in range(2))
    return max(top, 0), max(left, 0), min(top + SIDE // 2, SIDE), min(left + SIDE // 2, SIDE)


COLOUR = torch.tensor(LEVELS, dtype=torch.uint8)[:, None, None]
NOISE = settings("salt_and_pepper").amount


def _cut_tensor(image: Tensor) -> Tensor:
    top, left, bottom, right = _square()
    image = image.clone()
    image[:, top:bottom, left:right] = COLOUR
    return image


def _cut_pil(image: Image.Image) -> Image.Image:
    top, left, bottom, right = _square()
    image = image.copy()
    image.paste(LEVELS, (left, top, right, bottom))
    return image


def _sprinkle(image: Tensor) -> Tensor:
    half = NOISE / 2
    noise = torch.rand(SIDE, SIDE)
    return image.masked_fill(noise < half, 0).masked_fill(noise > 1 - half, 255)


# ---- Albumentations, one image at a time ---------------------------------------------------------


def albumentations(names: Names) -> Transform | None:
    """Albumentations on uint8 arrays (H, W, C), or None where it is not installed."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network for its newest version
    try:
        a, cv2 = importlib.import_module("albumentations"), importlib.import_module("cv2")
    except ImportError:
        return None
    cv2.setNumThreads(1)
    steps = [step for name in names for step in _albumentations(a, cv2, name)]

    def run(image: Any) -> Tensor:
        # Transforms called by themselves and torch's conversion: 55 thousand flips/s, against 39
        # through `Compose` with `ToFloat` and `ToTensorV2`.
        for step in steps:
            image = step(image=image)["image"]
        return torch.from_numpy(image.transpose(2, 0, 1)).to(torch.float32).mul_(1 / 255)

    return run


def _albumentations(a: Any, cv2: Any, name: str) -> list[Any]:
    ours = settings(name)
    match name:
        case "rotation":
            return [a.Rotate(ours.degrees, interpolation=cv2.INTER_NEAREST, p=1)]
        case "flip":
            return [a.HorizontalFlip(p=ours.p)]
        case "crop":
            return [a.Pad(SIDE // 8, p=1), a.RandomCrop(SIDE, SIDE)]
        case "color_jitter":
            return [a.ColorJitter(ours.brightness, ours.contrast, ours.saturation, ours.hue, p=1)]
        case "random_resized_crop":
            scale, ratio = (ours.scale_min, ours.scale_max), (ours.ratio_min, ours.ratio_max)
            return [a.RandomResizedCrop((SIDE, SIDE), scale, ratio)]
        case "resize":
            small = three_quarters()
            return [a.Resize(small, small, area_for_downscale="image"), a.Resize(SIDE, SIDE)]
        case "center_crop":
            return [a.CenterCrop(three_quarters(), three_quarters()), a.Resize(SIDE, SIDE)]
        case "cutout":
            half = (SIDE // 2, SIDE // 2)
            return [a.CoarseDropout((1, 1), half, half, fill=LEVELS, p=1)]
        case "gaussian_blur":
            return [a.GaussianBlur((ours.kernel_size,) * 2, (ours.sigma_min, ours.sigma_max), p=1)]
        case "salt_and_pepper":
            return [a.SaltAndPepper((ours.amount,) * 2, (0.5, 0.5), p=1)]
    raise KeyError(name)


# ---- Kornia, a batch at a time -------------------------------------------------------------------


def kornia(names: Names) -> Transform | None:
    """Kornia on batches (B, C, H, W) of uint8, made floats first, or None where it is not
    installed.
    """
    try:
        k = importlib.import_module("kornia.augmentation")
    except ImportError:
        return None
    chain = torch.nn.Sequential(*(step for name in names for step in _kornia(k, name)))
    return lambda images: chain(images.to(torch.float32).mul_(1 / 255))


def _kornia(k: Any, name: str) -> list[Any]:
    ours = settings(name)
    match name:
        case "rotation":
            return [k.RandomRotation(ours.degrees, resample="nearest", p=1.0)]
        case "flip":
            return [k.RandomHorizontalFlip(p=ours.p)]
        case "crop":
            return [k.RandomCrop((SIDE, SIDE), padding=SIDE // 8, cropping_mode="slice")]
        case "color_jitter":
            return [k.ColorJitter(ours.brightness, ours.contrast, ours.saturation, ours.hue, p=1.0)]
        case "random_resized_crop":
            scale, ratio = (ours.scale_min, ours.scale_max), (ours.ratio_min, ours.ratio_max)
            return [k.RandomResizedCrop((SIDE, SIDE), scale, ratio, cropping_mode="resample")]
        case "resize":
            return [
                _kornia_resize(k, three_quarters(), antialias=True),
                _kornia_resize(k, SIDE, antialias=False),
            ]
        case "center_crop":
            return [k.CenterCrop(three_quarters()), _kornia_resize(k, SIDE, antialias=False)]
        case "cutout":
            return [k.RandomErasing((0.25, 0.25), (1.0, 1.0), value=sum(FILL) / 3, p=1.0)]
        case "gaussian_blur":
            return [
                k.RandomGaussianBlur(
                    (ours.kernel_size,) * 2, (ours.sigma_min, ours.sigma_max), p=1.0
                )
            ]
        case "salt_and_pepper":
            return [k.RandomSaltAndPepperNoise(ours.amount, 0.5, p=1.0)]
    raise KeyError(name)


def _kornia_resize(k: Any, side: int, antialias: bool) -> Any:
    return k.Resize((side, side), align_corners=False, antialias=antialias)


PEERS: Mapping[str, Callable[[Names], Transform | None]] = {
    "torchvision, tensors": torchvision_tensors,
    "torchvision, PIL": torchvision_pil,
    "Albumentations": albumentations,
    "Kornia": kornia,
}
"""Name -> what builds its transform for a chain of augmentations; ``Kornia`` takes batches, the
others one image.
"""
