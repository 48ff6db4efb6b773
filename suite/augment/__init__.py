"""Batched augmentation: one pass of array code over a batch, a separate random parameter for every image.

::

    pipeline = build(trial.pipeline(), image_size=32, num_classes=10, fill=mean)
    images, targets = pipeline(images, labels, generator)

The laws are torchvision's, drawn per image; it is torchvision's own tensors that the tests compare with. Where a
paper and not torchvision defines an operation, its docstring names it.

- ``pipeline``: settings -> operations, their validation, and their application in order
- ``geometry``: rotation, flip, crop, random_resized_crop, resize, center_crop
- ``colour``: color_jitter, gaussian_blur
- ``masks``: cutout, random_erasing, salt_and_pepper
- ``mixes``: mixup, cutmix
- ``boxes``: random rectangles; ``operation``: what an operation is, and random numbers
"""

from suite.augment.operation import Mix, Operation, Parameters, to_float
from suite.augment.pipeline import Pipeline, build

__all__ = ["Mix", "Operation", "Parameters", "Pipeline", "build", "to_float"]
