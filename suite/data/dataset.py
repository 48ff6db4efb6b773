"""The dataset: decoded images and labels. ``suite.data`` explains the letters of shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.data.splits import Split

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Report = Callable[[int, int], None]

FIELDS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Decoded images and labels: plain arrays, which Ray pickles without copying the pixels.

    Attributes:
        name: as in ``data.name``.
        classes: the name of each label, K of them.
        digest: SHA-256 (64 hex digits) over pixels, labels, classes and shapes, not over names of
            files.
        train_images, test_images: uint8 (N, 3, H, W), contiguous; may be read-only: never write
            into them.
        train_labels, test_labels: int64 (N,), 0..K-1.
    """

    name: str
    classes: tuple[str, ...]
    digest: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    @classmethod
    def of(
        cls,
        name: str,
        classes: Sequence[str],
        train: tuple[Images, Labels],
        test: tuple[Images, Labels],
    ) -> Dataset:
        """A dataset with its digest."""
        bare = cls(name, tuple(classes), "", *train, *test)
        return replace(bare, digest=bare._digest())

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return int(self.train_images.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of the four arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The four arrays by name, in a fixed order."""
        return {field: getattr(self, field) for field in FIELDS}

    def _digest(self) -> str:
        shapes = {field: list(array.shape) for field, array in self.arrays().items()}
        digest = hashlib.sha256(json.dumps([list(self.classes), shapes]).encode())
        for array in self.arrays().values():
            # Little-endian: the same digest on any machine.
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)
        return digest.hexdigest()


def describe(dataset: Dataset, parts: Split) -> dict[str, object]:
    """Name, digest, image size, and images per part and class, for a log (JSON types)."""
    chosen = {
        "train": dataset.train_labels[parts.train],
        "val": dataset.train_labels[parts.val],
        "test": dataset.test_labels[parts.test],
    }
    counts = {
        part: np.bincount(labels, minlength=dataset.num_classes) for part, labels in chosen.items()
    }
    return {
        "name": dataset.name,
        "digest": dataset.digest,
        "image_size": dataset.image_size,
        "num_classes": dataset.num_classes,
        **{part: len(labels) for part, labels in chosen.items()},
        "per_class": {
            part: dict(zip(dataset.classes, count.tolist(), strict=True))
            for part, count in counts.items()
        },
    }
