"""Operations that move pixels: rotation, flip, crop, random_resized_crop, resize, center_crop.

B images in a batch, C channels, H rows, W columns. Images are uint8 in [0, 255] or float32 in
[0, 1]. Rotation, flip and crop copy pixels and keep the dtype; the others interpolate and return
float32.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from suite.augment.boxes import draw_sides, first_valid
from suite.augment.operation import Parameters, below, on_device, to_float, uniform

# Up to this side a resize is two matrix products, above it torch's kernel. One CPU thread, batch
# 128, to 3/4 and back: 5 against 14 us per image of 32 px; the products' cost per pixel grows with
# the side.
MATRIX_SIDE = 96


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror some images left and right.

    Args:
        images: (B, C, H, W), uint8 or float32.
        flipped: bool (B,), on the CPU.
    """
    # Selecting rows of (images, mirrored images) copies whole images: 5 times faster on a CPU than
    # `torch.where`.
    batch = len(images)
    both = torch.cat((images, images.flip(3)))
    return both.index_select(0, on_device(torch.arange(batch) + flipped * batch, images))


def crop(
    images: Tensor, top: Tensor, left: Tensor, padding: int, mode: Literal["constant", "reflect"]
) -> Tensor:
    """Pad on all sides and cut an H x W window out of each image.

    Args:
        images: (B, C, H, W), uint8 or float32.
        top: first row of the window in the padded image, int64 (B,), in [0, 2 * padding].
        left: first column, likewise.
        padding: pixels added on each side.
        mode: their values: ``constant`` = black, ``reflect`` = the mirrored image.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4, mode=mode).contiguous()
    row, plane = padded.shape[3], padded.shape[2] * padded.shape[3]
    # Each row of each window is contiguous; selecting rows takes an eighth of the time of selecting
    # pixels.
    runs = padded.view(-1).unfold(0, width, 1)
    corners = on_device(top * row + left, images)[:, None, None]
    rows = torch.arange(height, device=images.device) * row
    planes = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * plane
    return runs.index_select(0, (corners + rows + planes).view(-1)).view(
        batch, channels, height, width
    )


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate about the centre, counter-clockwise, nearest pixel, black outside.

    As torchvision's ``rotate``.

    Args:
        images: (B, C, H, W), uint8 or float32.
        degrees: float32 (B,).
    """
    batch, channels, height, width = images.shape
    radians = on_device(torch.deg2rad(degrees.double()).float(), images)[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    from_x = (cos * x - (sin * y - (width - 1) / 2)).round_().clamp_(-1, width)
    from_y = (sin * x + (cos * y + (height - 1) / 2)).round_().clamp_(-1, height)
    # A black border of one pixel holds all positions outside, without a mask. Exact in float32 for
    # images of less than 2**24 pixels.
    bordered = F.pad(images, (1, 1, 1, 1)).reshape(batch, channels, -1)
    source = from_y.add_(1).mul_(width + 2).add_(from_x).add_(1).to(torch.int64).view(batch, 1, -1)
    return bordered.gather(2, source.expand(batch, channels, -1)).view(
        batch, channels, height, width
    )


def _taps(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels around each of ``side`` output pixels that show ``length`` from ``start``.

    When it enlarges, an antialiased bilinear filter has only these two taps, and ends at the edge
    of the box.

    Args:
        start, length: int64 (B,).

    Returns:
        The two pixels, int64 (B, side), and the weight of the second, float32 (B, side) in [0, 1).
    """
    scale = (length / side)[:, None]
    position = (scale * (torch.arange(side, device=start.device) + 0.5) - 0.5).clamp_(min=0)
    first = position.to(torch.int64)
    second = torch.minimum(first + 1, length[:, None] - 1)
    return first + start[:, None], second + start[:, None], position - first


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, box_height: Tensor, box_width: Tensor
) -> Tensor:
    """Cut a box out of each image and enlarge it to H x W, bilinear (torchvision ``resized_crop``).

    Args:
        images: (B, C, H, W), uint8 or float32.
        top, left, box_height, box_width: the box within the image, int64 (B,), at least 1 pixel a
            side.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    batch, channels, height, width = images.shape
    # Two taps per side cost the same per pixel at any size, unlike a product with a (W, W) matrix.
    first, second, weight = _taps(on_device(left, images), on_device(box_width, images), width)
    shape = (batch, channels, height, width)
    left_taps = to_float(images.gather(3, first[:, None, None].expand(shape)))
    right_taps = to_float(images.gather(3, second[:, None, None].expand(shape)))
    rows = left_taps.lerp_(right_taps, weight[:, None, None]).view(-1, width)
    first, second, weight = _taps(on_device(top, images), on_device(box_height, images), height)
    plane = torch.arange(batch * channels, device=images.device).view(batch, channels, 1) * height
    upper = rows.index_select(0, (plane + first[:, None]).view(-1)).view(shape)
    lower = rows.index_select(0, (plane + second[:, None]).view(-1)).view(shape)
    return upper.lerp_(lower, weight[:, None, :, None])


@lru_cache(maxsize=64)
def _resize_matrix(source: int, target: int) -> Tensor:
    """The linear map of an antialiased bilinear resize: (target, source). Rows sum to 1."""
    identity = torch.eye(source)[None, None]
    return F.interpolate(identity, (target, source), mode="bilinear", antialias=True)[0, 0]


def resize(images: Tensor, *sizes: tuple[int, int]) -> Tensor:
    """Resize to each of ``sizes`` (height, width) in turn, bilinear, antialiased.

    As torchvision's ``Resize``.

    Returns:
        float32 (B, C, height, width) of the last size, in [0, 1].
    """
    if max(*images.shape[2:], *(side for size in sizes for side in size)) > MATRIX_SIDE:
        images = to_float(images)
        for size in sizes:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return images.clamp_(0, 1)
    heights = (images.shape[2], *(height for height, _ in sizes))
    widths = (images.shape[3], *(width for _, width in sizes))
    return _product(_chain(heights), to_float(images), _chain(widths))


def _chain(sides: tuple[int, ...]) -> Tensor:
    """The map from the first side to the last through all between: (last, first)."""
    matrix = torch.eye(sides[0])
    for source, target in pairwise(sides):
        matrix = _resize_matrix(source, target) @ matrix
    return matrix


def _product(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """``rows @ plane @ columns.T``: rows (H', H), images (B, C, H, W), columns (W', W)."""
    across = images.reshape(-1, images.shape[3]) @ on_device(columns, images).T
    # Clamped: weights may sum to a rounding error above 1.
    return (on_device(rows, images) @ across.view(*images.shape[:3], -1)).clamp_(0, 1)


def center_crop(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut ``size`` (height, width) out of the middle and enlarge it to H x W.

    As torchvision's ``CenterCrop`` and ``Resize``.

    Returns:
        float32 (B, C, H, W) in [0, 1].
    """
    height, width = images.shape[2:]
    # Rounded half to even, as in torchvision.
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return resize(images[:, :, top : top + size[0], left : left + size[1]], (height, width))


class Flip:
    """Mirror left and right with probability ``p`` (torchvision ``RandomHorizontalFlip``)."""

    def __init__(self, p: float) -> None:
        self.p = p

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``flipped`` bool (B,)."""
        return {"flipped": torch.rand(batch, generator=generator) < self.p}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return flip(images, parameters["flipped"])


class Crop:
    """Pad, and crop at a uniform position (torchvision ``RandomCrop`` with padding)."""

    def __init__(self, padding: int, mode: Literal["constant", "reflect"]) -> None:
        self.padding, self.mode = padding, mode

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``top`` and ``left`` int64 (B,) in [0, 2 * padding]."""
        end = 2 * self.padding + 1
        return {side: torch.randint(end, (batch,), generator=generator) for side in ("top", "left")}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return crop(images, **parameters, padding=self.padding, mode=self.mode)


class Rotation:
    """Rotate by a uniform angle in [-degrees, degrees] (torchvision ``RandomRotation``)."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``degrees`` float32 (B,)."""
        return {"degrees": uniform((batch,), -self.degrees, self.degrees, generator)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return rotate(images, parameters["degrees"])


class RandomResizedCrop:
    """Crop a random area and ratio, and enlarge it to the image's size.

    As torchvision's ``RandomResizedCrop``.

    Args:
        scale: smallest and largest area, as a fraction of the image; drawn uniform.
        ratio: smallest and largest width / height; drawn log-uniform.
    """

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.scale, self.ratio = scale, ratio

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """``top, left, box_height, box_width`` int64 (B,): the first that fits, or the middle."""
        widths, heights = draw_sides(batch, height * width, self.scale, self.ratio, generator)
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        middle_height, middle_width = self._fallback(height, width)
        (box_height, box_width), is_valid = first_valid(
            fits, (heights, middle_height), (widths, middle_width)
        )
        top = below(height - box_height + 1, generator).where(
            is_valid, (height - middle_height) // 2
        )
        left = below(width - box_width + 1, generator).where(is_valid, (width - middle_width) // 2)
        return {"top": top, "left": left, "box_height": box_height, "box_width": box_width}

    def _fallback(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the largest box of an allowed ratio."""
        if width / height < self.ratio[0]:
            return round(width / self.ratio[0]), width
        if width / height > self.ratio[1]:
            return height, round(height * self.ratio[1])
        return height, width

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return resized_crop(images, **parameters)


class Resize:
    """Resize to ``size`` x ``size`` and back, to lose detail (torchvision ``Resize``, twice)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """Nothing."""
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return resize(images, (self.size, self.size), (images.shape[2], images.shape[3]))


class CenterCrop:
    """Cut ``size`` x ``size`` out of the middle and enlarge it (torchvision ``CenterCrop``)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def draw(self, batch: int, height: int, width: int, generator: Generator) -> Parameters:
        """Nothing."""
        return {}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        return center_crop(images, (self.size, self.size))
