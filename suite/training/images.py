"""The images of a trial: its parts of the split, batches, normalisation and augmentation.

Legend: N images of a part, B images of a batch, C channels, H x W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suite import augment, data, models
from suite.config import TrialConfig
from suite.config.evaluation import EpochImages, test_schedule
from suite.core.records import Numerics
from suite.training import feature_cache, precision
from suite.visuals import activation_maps

EVAL_BATCH = 500  # images per forward pass without gradients; divides 10,000 test images evenly


@dataclass(frozen=True, eq=False)
class Samples:
    """One part of the split.

    Attributes:
        images: uint8 (M, C, H, W), or features (M, ...).
        labels: int64 (M,).
        index: int64 (N,), the rows that belong to the part, in its order.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Copies: images uint8 (B, C, H, W), labels int64 (B,), at ``positions`` of the part."""
        rows = self.index[positions.to(self.index.device)]
        return feature_cache.take(self.images, rows), self.labels[rows]

    def eval_rows(self) -> Sequence[Tensor]:
        """The rows of each evaluation batch."""
        return torch.split(self.index, EVAL_BATCH)

    def eval_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images and labels once, in order."""
        for rows in self.eval_rows():
            yield feature_cache.take(self.images, rows), self.labels[rows]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Subtracts the mean of each channel and divides by its standard deviation.

    Attributes:
        mean, std: float32 (1, C, 1, 1).
        memory_format: of the result.
    """

    mean: Tensor
    std: Tensor
    memory_format: torch.memory_format

    def __call__(self, images: Tensor) -> Tensor:
        """float32 (B, C, H, W) in [0, 1] -> as the network takes them."""
        return ((images - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def from_bytes(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> as the network takes them in evaluation."""
        return self(images.float() / 255)


@dataclass(frozen=True, eq=False)
class Images:
    """The part of a dataset that one trial sees, on its device.

    Attributes:
        train, val, test: the parts of the split.
        classes: their names.
        digest: of the whole dataset.
        example: the test image that activation maps show, the same for every split.
        batches: positions of each training step in the order of an epoch.
        normalise: the normalisation before the network.
        augment: the augmentation of training batches.
        class_weights: float32 (K,), or None.
        test_schedule: when test images are evaluated.
    """

    train: Samples
    val: Samples
    test: Samples
    classes: tuple[str, ...]
    digest: str
    example: int
    batches: list[slice]
    normalise: Normalisation
    augment: augment.Pipeline
    class_weights: Tensor | None
    test_schedule: Literal["every", "best", "last"]

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return int(self.train.images.shape[-1])

    @property
    def usual_batch_size(self) -> int:
        """Images of most training steps."""
        return _most_frequent(self.batch_sizes())

    def batch_sizes(self) -> list[int]:
        """Images of each training step of an epoch."""
        return [batch.stop - batch.start for batch in self.batches]


def prepare_images(
    dataset: data.Dataset,
    config: TrialConfig,
    numerics: Numerics,
    weights: models.Weights | None = None,
    limit_batches: int | None = None,
) -> Images:
    """Split a dataset and put it on the device.

    Args:
        weights: initial weights; their mean and standard deviation replace the dataset's.
        limit_batches: keep at most this many batches of each part.
    """
    device = torch.device(numerics.device)
    split = _split(dataset, config, limit_batches)
    train, val, test = _samples(dataset, split, device)
    batches = data.batch_slices(len(train), config.train)
    normalise = _normalisation(dataset, split, numerics, weights)
    counts = EpochImages(batches[-1].stop, len(val), len(test))
    pipeline = augment.build(
        config.pipeline(),
        image_size=dataset.image_size,
        num_classes=dataset.num_classes,
        fill=tuple(float(value) for value in normalise.mean.flatten()),
    )
    return Images(
        train,
        val,
        test,
        classes=dataset.classes,
        digest=dataset.digest,
        example=activation_maps.example(dataset.test_labels, dataset.classes),
        batches=batches,
        normalise=normalise,
        augment=pipeline,
        class_weights=_class_weights(dataset, split, config, device),
        test_schedule=test_schedule(config.train.evaluate_test, counts),
    )


def _samples(dataset: data.Dataset, split: data.Split, device: torch.device) -> list[Samples]:
    """The training, validation and test part."""
    on_device = data.to_device(dataset, device)
    train = on_device.train_images, on_device.train_labels
    test = on_device.test_images, on_device.test_labels
    return [
        Samples(*arrays, torch.from_numpy(rows).to(device))
        for arrays, rows in ((train, split.train), (train, split.val), (test, split.test))
    ]


def _split(dataset: data.Dataset, config: TrialConfig, limit_batches: int | None) -> data.Split:
    split = data.split(dataset.train_labels, dataset.test_labels, config.data, dataset.classes)
    if not limit_batches:
        return split
    return data.Split(
        split.train[: limit_batches * config.train.batch_size],
        split.val[: limit_batches * EVAL_BATCH],
        split.test[: limit_batches * EVAL_BATCH],
    )


def _normalisation(
    dataset: data.Dataset, split: data.Split, numerics: Numerics, weights: models.Weights | None
) -> Normalisation:
    if weights is not None and weights.mean is not None and weights.std is not None:
        mean, std = np.asarray(weights.mean), np.asarray(weights.std)
    else:
        mean, std = data.statistics(dataset.train_images, split.train)
    return Normalisation(
        _per_channel(mean, numerics.device),
        _per_channel(std, numerics.device),
        precision.memory_format(numerics),
    )


def _per_channel(values: npt.NDArray[np.floating[Any]], device: str) -> Tensor:
    """float32 (1, C, 1, 1)."""
    return torch.as_tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(device)


def _class_weights(
    dataset: data.Dataset, split: data.Split, config: TrialConfig, device: torch.device
) -> Tensor | None:
    if config.train.class_weights != "balanced":
        return None
    balanced = data.class_weights(dataset.train_labels[split.train], len(dataset.classes))
    return torch.as_tensor(balanced, dtype=torch.float32, device=device)


def _most_frequent(sizes: Iterable[int]) -> int:
    """The most frequent size; the largest of equally frequent ones."""
    return max(Counter(sizes).items(), key=lambda pair: (pair[1], pair[0]))[0]
