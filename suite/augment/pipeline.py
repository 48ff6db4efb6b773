"""From settings to a pipeline of operations on batches.

B images in a batch, C channels (1 or 3), H rows, W columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from suite.augment import colour, geometry, masks, mixes
from suite.augment.operation import Mix, Operation, Parameters, to_float
from suite.config import trial
from suite.core.errors import Problem, raise_problems
from suite.system import allocator

# Values (at most) and images (at least) per chunk on a CPU. Chunks bound the temporary tensors of a
# large batch or large images, so that the C library can reuse their memory. One thread, 512 images
# of 32 px, flip+crop+color_jitter+cutout: 24 us per image in chunks of 2**20 values, 30 in chunks
# of 2**19, which need more calls, 22 without chunks.
CHUNK_VALUES, CHUNK_IMAGES = 2**20, 8


class Pipeline:
    """Operations in order, on batches.

    Attributes:
        operations: in order.
        num_classes: K, the width of soft targets.
    """

    def __init__(self, operations: Sequence[Operation], num_classes: int) -> None:
        self.operations = tuple(operations)
        self.num_classes = num_classes
        allocator.keep_freed()  # the steps of a trial profit, too

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Change a batch, each image by its own random numbers.

        Args:
            images: uint8 (B, C, H, W) on any device, in any memory format; stay unchanged.
            labels: int64 (B,), on the device of the images.
            generator: on the CPU; the same state gives the same changes on every device.

        Returns:
            Images float32 (B, C, H, W) in [0, 1]; the labels, or with a mix targets float32 (B, K)
            whose rows sum to 1.
        """
        return self.apply(images, labels, self.draw(images.shape, generator))

    def draw(self, shape: Sequence[int], generator: Generator) -> list[Parameters]:
        """Parameters of each operation for one batch of ``shape`` (B, C, H, W), on the CPU."""
        batch, channels, height, width = shape
        if channels not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got {channels}")
        return [operation.draw(batch, height, width, generator) for operation in self.operations]

    def apply(
        self, images: Tensor, labels: Tensor, parameters: Sequence[Parameters]
    ) -> tuple[Tensor, Tensor]:
        """Change a batch by drawn parameters; arguments and results as in a call."""
        steps = list(zip(self.operations, parameters, strict=True))
        first_mix = next(
            (index for index, (operation, _) in enumerate(steps) if isinstance(operation, Mix)),
            len(steps),
        )
        images, targets = _in_chunks(images, steps[:first_mix]), labels
        for operation, drawn in steps[first_mix:]:
            images = operation.apply(images, drawn)
            if isinstance(operation, Mix):
                targets = mixes.one_hot(labels, self.num_classes) if targets is labels else targets
                targets = operation.mix_targets(targets, drawn)
        return to_float(images), targets


def _in_chunks(images: Tensor, steps: Sequence[tuple[Operation, Parameters]]) -> Tensor:
    """Apply operations on single images; on a CPU in chunks, which changes no result."""
    limit = max(CHUNK_VALUES // math.prod(images.shape[1:]), CHUNK_IMAGES)
    if images.device.type != "cpu" or len(images) <= limit:
        return _in_turn(images, steps)
    chunk = math.ceil(len(images) / math.ceil(len(images) / limit))
    parts = []
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        chunk_steps = [
            (operation, {name: values[rows] for name, values in drawn.items()})
            for operation, drawn in steps
        ]
        parts.append(_in_turn(images[rows], chunk_steps))
    return torch.cat(parts)


def _in_turn(images: Tensor, steps: Sequence[tuple[Operation, Parameters]]) -> Tensor:
    images = images.contiguous()
    for operation, drawn in steps:
        images = operation.apply(images, drawn)
    return to_float(images)


def build(
    settings: Sequence[trial.Frozen],
    image_size: int,
    num_classes: int,
    fill: Sequence[float] = (0.0,),
) -> Pipeline:
    """The pipeline of a trial.

    Args:
        settings: models of augmentations in order of application, as ``TrialConfig.pipeline()``
            gives them.
        image_size: side of the images in pixels, for the sizes that the settings leave open.
        num_classes: K.
        fill: what cutout and random_erasing paint: the mean of the training images in [0, 1], one
            number or one a channel (see ``suite.augment.masks``). Default: black.

    Raises:
        UsageError: listing every setting that does not fit ``image_size``.
    """
    raise_problems(problem for model in settings for problem in _problems(model, image_size))
    return Pipeline([_operation(model, image_size, tuple(fill)) for model in settings], num_classes)


def _operation(settings: trial.Frozen, image_size: int, fill: Sequence[float]) -> Operation:
    """The operation of one model of settings; open sizes become fractions of ``image_size``."""
    match settings:
        case trial.Rotation():
            return geometry.Rotation(settings.degrees)
        case trial.Flip():
            return geometry.Flip(settings.p)
        case trial.ColorJitter():
            return colour.ColorJitter(
                settings.brightness, settings.contrast, settings.saturation, settings.hue
            )
        case trial.RandomResizedCrop():
            return geometry.RandomResizedCrop(*_scale_and_ratio(settings))
        case trial.Resize():
            return geometry.Resize(settings.size or round(image_size * 3 / 4))
        case trial.CenterCrop():
            return geometry.CenterCrop(settings.size or round(image_size * 3 / 4))
        case trial.Cutout():
            return masks.Cutout(settings.size or image_size // 2, fill)
        case trial.GaussianBlur():
            return colour.GaussianBlur(
                settings.kernel_size, (settings.sigma_min, settings.sigma_max)
            )
        case trial.SaltAndPepper():
            return masks.SaltAndPepper(settings.amount)
        case trial.Crop():
            return geometry.Crop(settings.padding or image_size // 8, settings.mode)
        case trial.RandomErasing():
            return masks.RandomErasing(settings.p, *_scale_and_ratio(settings), fill)
        case trial.Mixup():
            return mixes.Mixup(settings.alpha)
        case trial.Cutmix():
            return mixes.Cutmix(settings.alpha)
    raise TypeError(f"no operation for settings of type {type(settings).__name__}")


def _scale_and_ratio(
    settings: trial.RandomResizedCrop | trial.RandomErasing,
) -> tuple[tuple[float, float], tuple[float, float]]:
    return (settings.scale_min, settings.scale_max), (settings.ratio_min, settings.ratio_max)


def _problems(settings: trial.Frozen, image_size: int) -> Iterator[Problem]:
    """Settings that do not fit images of ``image_size``, or each other."""
    match settings:
        case (
            trial.Resize(size=int(size))
            | trial.CenterCrop(size=int(size))
            | trial.Cutout(size=int(size))
        ):
            if size > image_size:
                remedy = "Lower it or leave it out"
                remedy += (
                    "; data.image_size sets the size that the network sees."
                    if settings.type != "cutout"
                    else "."
                )
                yield _above(f"{settings.type}.size", size, image_size, remedy)
        case trial.Crop(padding=int(padding)) if padding >= image_size:
            yield _above("crop.padding", padding, image_size - 1, "Lower it or leave it out.")
        case trial.GaussianBlur(kernel_size=kernel_size) if kernel_size // 2 >= image_size:
            remedy = (
                "Lower it: half a kernel must fit into the image, which is mirrored at its border."
            )
            yield _above("gaussian_blur.kernel_size", kernel_size, 2 * image_size - 1, remedy)
        case trial.RandomErasing():
            for name in ("scale", "ratio"):
                low, high = getattr(settings, f"{name}_min"), getattr(settings, f"{name}_max")
                if low > high:
                    key = f"random_erasing.{name}"
                    rule = f"{key}_min must be at most {key}_max, got {low:g} and {high:g}"
                    yield Problem(rule, remedy=f"Raise {name}_max or lower {name}_min.")


def _above(key: str, value: int, limit: int, remedy: str) -> Problem:
    return Problem(f"{key} must be at most {limit}, got {value}", remedy=remedy)
