"""Tensors of a dataset on a device, the order of batches, and statistics of training images.

Legend: N images, B images of a batch, C = 3 channels, H = W pixels of a side, K classes.
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from suite.config.trial import TrainConfig
from suite.core.records import stream
from suite.data.dataset import Dataset, Images, Labels
from suite.data.splits import Index

_CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class DeviceData:
    """The arrays of a ``Dataset`` as tensors on one device.

    Never write into them: the memory may be read-only.

    Attributes:
        train_images, test_images: uint8 (N, C, H, W).
        train_labels, test_labels: int64 (N,).
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def to_device(dataset: Dataset, device: torch.device | str) -> DeviceData:
    """The dataset on ``device``.

    On the CPU the tensors share its memory; elsewhere all trials of a process share one copy.

    On the CPU the memory may be the cache's file or Ray's object store, mapped read-only: writing
    into such a tensor kills the process. ``images[index]`` is a copy, and may be changed.
    """
    arrays = dataset.arrays()
    if torch.device(device).type == "cpu":
        return DeviceData(**{field: as_tensor(array) for field, array in arrays.items()})
    key = (str(device), dataset.digest, *(array.shape for array in arrays.values()))
    if key not in _on_device:
        _on_device.clear()  # a process trains on one dataset at a time
        _on_device[key] = DeviceData(
            **{field: as_tensor(array).to(device) for field, array in arrays.items()}
        )
    return _on_device[key]


_on_device: dict[tuple[object, ...], DeviceData] = {}


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory. Never write into it if the array is read-only."""
    with warnings.catch_warnings():
        # Nothing writes into the images. A copy, as torch suggests, would cost each process the
        # whole dataset.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """A random order of 0..n-1, int64 (n,), on the CPU: the same for all arms with this seed.

    Args:
        n: training images.
        seed: the trial's seed.
        epoch: from 0.
    """
    generator = torch.Generator().manual_seed(stream(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


def batch_slices(images: int, config: TrainConfig) -> list[slice]:
    """The batches of an epoch as slices of ``epoch_order``, by ``train.last_batch``.

    A set smaller than a batch is one batch. BatchNorm refuses a batch of one image, so none is made
    unless ``batch_size`` or ``images`` is 1: ``keep`` adds the last image to the batch before,
    ``spread`` makes one batch less.

    Args:
        images: training images.
    """
    sizes = _batch_sizes(images, config)
    stops = list(itertools.accumulate(sizes))
    return [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def trained_images(images: int, config: TrainConfig) -> int:
    """Images of each training epoch: fewer than ``images`` only with ``last_batch: drop``."""
    return sum(_batch_sizes(images, config))


def _batch_sizes(images: int, config: TrainConfig) -> list[int]:
    size = config.batch_size
    whole, rest = divmod(images, size)
    if config.last_batch == "spread" or whole == 0:
        return _even_sizes(images, size)
    if config.last_batch == "drop" or rest == 0:
        return [size] * whole
    return [size] * (whole - 1) + [size + 1] if rest == 1 else [size] * whole + [rest]


def _even_sizes(images: int, size: int) -> list[int]:
    """The fewest batches of at most ``size``, equal to within one image, larger ones first."""
    count = math.ceil(images / size)
    if images // count == 1 < size and count > 1:  # only for size 2 and an odd number of images
        count -= 1
    return [images // count + (place < images % count) for place in range(count)]


def statistics(
    images: Images, index: Index
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and population standard deviation of each channel, float64 (C,), of pixels in 0..1.

    Integer sums make the result independent of order and machine. The deviation is at least one
    grey level, 1/255, so that a channel without contrast can be divided by it.

    Args:
        images: uint8 (N, C, H, W).
        index: int64 (n,), the rows to include.
    """
    step = max(1, _CHUNK_BYTES // images[0].nbytes)
    total = np.zeros(images.shape[1], np.uint64)
    squares = np.zeros_like(total)
    for start in range(0, len(index), step):
        chunk = images[index[start : start + step]]
        total += chunk.sum(axis=(0, 2, 3), dtype=np.uint64)
        chunk_squares = np.square(chunk, dtype=np.uint16)  # 255^2 fits in 16 bits
        squares += chunk_squares.sum(axis=(0, 2, 3), dtype=np.uint64)
    pixels = len(index) * images.shape[2] * images.shape[3]
    # Python integers: pixels x squares exceeds 64 bits from 280 billion pixels on, and floats lose
    # digits.
    spread = [pixels * int(s) - int(t) ** 2 for t, s in zip(total, squares, strict=True)]
    std = np.sqrt(np.array([value / pixels**2 for value in spread])) / 255
    return total / pixels / 255, np.maximum(std, 1 / 255)


def class_weights(labels: Labels, num_classes: int) -> npt.NDArray[np.float32]:
    """Loss weights, float32 (K,), inverse to a class's frequency, with mean 1 over the images.

    A class without an image gets 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0).astype(
        np.float32
    )
