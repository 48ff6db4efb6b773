"""Images as RGB squares, as torchvision's ``ImageFolder``, ``Resize`` and ``CenterCrop`` do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from suite.data.dataset import Images


class OtherSizeError(Exception):
    """An image is not a square of the expected side."""


def decode(path: str, side: int, exact: bool = False) -> Images:
    """The image file, or an animation's first frame, as uint8 (3, side, side).

    Raises:
        OtherSizeError: the image would have to be resized, with ``exact``.
        Exception: of any type, from Pillow for a damaged file.
    """
    with Image.open(path) as image:
        if exact and image.size != (side, side):
            raise OtherSizeError(path)
        image.load()  # before exif_transpose, so that a truncated file is an error, not a grey area
        return square(to_rgb(ImageOps.exif_transpose(image)), side)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB. Alpha is dropped without blending, as in torchvision; 16 bits lose 8.

    Raises:
        ValueError: floating-point pixels, whose range is unknown.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):  # convert() would clip 16 bits at 255: nearly all white
        return _from_deep(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if such a palette is converted to RGB
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    sixteen = image.mode.startswith("I;16") or values.max() > 255
    grey = np.clip(values >> 8 if sixteen else values, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def square(image: Image.Image, side: int) -> Images:
    """Resize the shorter side (bilinear, antialiased), crop the centre: uint8 (3, side, side)."""
    width, height = image.size
    short = min(width, height)
    if short != side:
        # The longer side is rounded down, as in torchvision.
        image = image.resize(
            (side * width // short, side * height // short), Image.Resampling.BILINEAR
        )
        width, height = image.size
    if width != height:
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def square_all(images: npt.NDArray[np.uint8], side: int) -> Images:
    """``square`` for arrays: uint8 (N, H, W) or (N, H, W, 3) to (N, 3, side, side)."""
    colour = images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)
    if images.shape[1:3] == (side, side):
        return np.ascontiguousarray(colour.transpose(0, 3, 1, 2))
    out = np.empty((len(images), 3, side, side), np.uint8)
    for row, image in zip(out, colour, strict=True):
        row[:] = square(Image.fromarray(image), side)
    return out
