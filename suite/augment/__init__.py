"""Batched augmentation: array code for a whole batch, with separate random numbers per image.

::

    pipeline = build(trial.pipeline(), image_size=32, num_classes=10, fill=mean)
    images, targets = pipeline(images, labels, generator)

Distributions are torchvision's, drawn per image, and tests compare with torchvision's tensors. If a
paper defines an operation instead, its docstring cites the paper.

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
