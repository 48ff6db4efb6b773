"""Datasets as uint8 arrays, their split, and their tensors on a device.

``load`` decodes a dataset once and caches it on disk; ``split`` chooses images; ``to_device`` makes
tensors::

    dataset = load(config.data)                       # NumPy, memory-mapped, read-only
    parts = split(dataset.train_labels, dataset.test_labels, config.data, dataset.classes)
    tensors = to_device(dataset, "cpu")               # torch, in the same memory
    train = torch.from_numpy(parts.train)
    order = train[epoch_order(len(train), seed, epoch)]
    for batch in batch_slices(len(train), config.train):
        images, labels = tensors.train_images[order[batch]], tensors.train_labels[order[batch]]

Legend: N images, B images of a batch, C channels (always 3: grey images are repeated),
H = W pixels of a side, K classes. Pixels are uint8 in 0..255, labels int64 in 0..K-1.

Only torchvision's named datasets need torchvision; this package uses neither Ray nor MLflow.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from suite.config.plugin import is_reference
from suite.config.trial import DataConfig
from suite.core.errors import UsageError
from suite.data import folders, named, own
from suite.data.batches import (
    DeviceData,
    as_tensor,
    batch_slices,
    class_weights,
    epoch_order,
    statistics,
    to_device,
    trained_images,
)
from suite.data.cache import cache_folder, cached, put
from suite.data.dataset import Dataset, Report, describe
from suite.data.folders import read_image, read_images
from suite.data.splits import Split, split

__all__ = [
    "Dataset",
    "DeviceData",
    "Report",
    "Split",
    "as_tensor",
    "batch_slices",
    "cache_folder",
    "class_weights",
    "describe",
    "epoch_order",
    "load",
    "put",
    "read_image",
    "read_images",
    "split",
    "statistics",
    "to_device",
    "trained_images",
]


def load(config: DataConfig, cache: Path | None = None, report: Report | None = None) -> Dataset:
    """The dataset of ``config``: decoded on the first call, read from the cache afterwards.

    ``train_size``, ``val_size``, ``test_size`` and ``split_seed`` have no effect: see ``split``.

    Args:
        config: its ``name``, ``root`` (relative to the working directory, unless resolved) and
            ``image_size``.
        cache: the folder of decoded and downloaded images. Default: see ``cache_folder``.
        report: called with (images decoded, all images) while an image folder is decoded.

    Returns:
        The arrays, read-only if they come from the cache.

    Raises:
        UsageError: an unknown name, ``folder`` without a root, or a ``module:function`` that
            returns something else than a dataset.
        EnvironmentProblem: images that are missing, cannot be decoded or downloaded, or a cache
            that cannot be written.
        Both list all problems.
    """
    name, side = config.name, config.image_size
    folder = cache if cache is not None else cache_folder()
    root = None if config.root is None else _absolute(config.root)
    if is_reference(name):
        return own.load(name, None if root is None else str(root), side)
    if name == "folder":
        if root is None:
            raise UsageError(
                "data.name=folder needs data.root, got none",
                remedy=f"Set data.root to the folder that holds {folders.LAYOUT}.",
            )
        listing = folders.scan(root)
        return cached(
            folder,
            name,
            listing.key(side),
            lambda temp: folders.decode(listing, side, temp, report),
        )
    if name == "digits":
        return cached(folder, name, str(side), lambda _: named.digits(side))
    if name in named.TORCHVISION:
        return named.load(name, root if root is not None else folder / "downloads", side, folder)
    raise UsageError(
        f"data.name must be one of {', '.join(NAMES)} or module:function, got {name!r}",
        remedy=_near(name),
    )


NAMES = (*named.TORCHVISION, "folder", "digits")


def _absolute(path: str) -> Path:
    # Not Path.resolve(): messages show the path that the user wrote, not the target of its links.
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1)
    return f"Did you mean {near[0]}?" if near else ""
