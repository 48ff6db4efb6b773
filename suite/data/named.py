"""Named datasets: torchvision's, and scikit-learn's digits."""

from __future__ import annotations

import contextlib
import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.core.errors import EnvironmentProblem
from suite.data.cache import cached
from suite.data.dataset import Dataset, Labels
from suite.data.pixels import square_all
from suite.data.problems import enough
from suite.data.splits import stratified_order

_TIMEOUT_S = 30.0  # without a byte from the host; urllib's default is minutes
_DIGITS_SIDE = 32  # pixels; scikit-learn's 8 x 8 are too small for any network here
_DIGITS_TEST = 0.2
_DIGITS_SEED = 1797
_DECIMAL = tuple("0123456789")


@dataclass(frozen=True)
class _Source:
    """A dataset of torchvision.

    Attributes:
        kind: its class in ``torchvision.datasets``.
        files: pattern of its files below the root.
        by_split: whether the part is chosen by ``split="train"`` instead of ``train=True``, and the
            images are then (N, 3, H, W) instead of (N, H, W, 3) or (N, H, W).
        classes: their names, if torchvision has none.
    """

    kind: str
    files: str
    by_split: bool = False
    classes: tuple[str, ...] = ()


TORCHVISION = {
    "cifar10": _Source("CIFAR10", "cifar-10-batches-py/*"),
    "cifar100": _Source("CIFAR100", "cifar-100-python/*"),
    "svhn": _Source("SVHN", "*_32x32.mat", True, _DECIMAL),
    "stl10": _Source("STL10", "stl10_binary/*", True),
    "fashion_mnist": _Source("FashionMNIST", "FashionMNIST/*/*"),
}


def load(name: str, root: Path, image_size: int | None, cache: Path) -> Dataset:
    """One of torchvision's datasets, downloaded into ``root`` if it is missing.

    The CIFAR batches are pickles, which can run any code. torchvision verifies their checksums
    before it reads them, so it reads only the published files.

    Raises:
        EnvironmentProblem: it is missing and cannot be downloaded, or it is damaged.
    """
    pattern = TORCHVISION[name].files
    if not any(root.glob(pattern)):
        _parts(name, root)  # downloads the files, which the cache's key depends on
    files = [(str(path), path.stat()) for path in sorted(root.glob(pattern))]
    read_from = repr(
        [image_size, *((path, status.st_size, status.st_mtime_ns) for path, status in files)]
    )
    return cached(cache, name, read_from, lambda _: _read(name, root, image_size))


def digits(image_size: int | None) -> Dataset:
    """scikit-learn's 1,797 digits, resized from 8 to 32 pixels; a fixed fifth is the test part."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # the grey levels are 0..16
    images, labels = square_all(images, image_size or _DIGITS_SIDE), data.target.astype(np.int64)
    order = stratified_order(labels, _DIGITS_SEED)
    test, train = (np.sort(part) for part in np.split(order, [round(_DIGITS_TEST * len(labels))]))
    return Dataset.of(
        "digits", _DECIMAL, (images[train], labels[train]), (images[test], labels[test])
    )


def _read(name: str, root: Path, image_size: int | None) -> Dataset:
    classes, parts = _parts(name, root)
    side = image_size or parts[0][0].shape[1]
    train, test = ((square_all(images, side), labels) for images, labels in parts)
    return Dataset.of(name, classes, train, test)


def _parts(
    name: str, root: Path
) -> tuple[tuple[str, ...], list[tuple[npt.NDArray[np.uint8], Labels]]]:
    """Class names; images (N, H, W, 3) or (N, H, W) and labels of training and test part."""
    # imported here: takes a second, and only these datasets need it
    from suite.system.torchvision_import import torchvision

    source = TORCHVISION[name]
    kind = getattr(torchvision.datasets, source.kind)
    try:
        with _download_lock(root), _timeout():
            parts = [
                kind(str(root), download=True, **_part_argument(source, train))
                for train in (True, False)
            ]
        arrays = [_arrays(part, source) for part in parts]
        return source.classes or tuple(parts[0].classes), arrays
    except MemoryError:
        raise
    except Exception as error:  # URLError, RuntimeError, AssertionError, tarfile's, SciPy's
        raise _unusable(name, kind, root, error) from error


def _part_argument(source: _Source, train: bool) -> dict[str, str | bool]:
    return {"split": "train" if train else "test"} if source.by_split else {"train": train}


def _arrays(part: Any, source: _Source) -> tuple[npt.NDArray[np.uint8], Labels]:
    if source.by_split:
        return np.asarray(part.data).transpose(0, 2, 3, 1), np.asarray(part.labels, np.int64)
    images, labels = np.asarray(part.data), np.asarray(part.targets, np.int64)
    if len(images) != len(labels):
        raise ValueError(f"{len(images):,} images, but {len(labels):,} labels")
    return images, labels


@contextmanager
def _download_lock(root: Path) -> Iterator[None]:
    """One process downloads at a time; the next one finds the files complete."""
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            fcntl.flock(
                stack.enter_context((root / ".suite-download.lock").open("w")), fcntl.LOCK_EX
            )
        except OSError:
            pass  # a read-only folder, which may be complete, or a file system without locks
        yield


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)  # torchvision has no option for it
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unusable(name: str, kind: Any, root: Path, error: Exception) -> EnvironmentProblem:
    urls, folder = _by_hand(kind, root)
    damaged = _damaged(kind, root)
    there = (
        f"{enough(damaged)} in {root} differs from the published checksum and was not read; "
        if damaged
        else ""
    )
    reason = str(error).strip() or type(error).__name__
    return EnvironmentProblem(
        f"data.name={name} is not in {root} and could not be downloaded: "
        f"{there}{type(error).__name__}: {reason}",
        remedy=f"Download {' '.join(urls)} by hand to {folder}, or use your own images with "
        "data.name=folder data.root=FOLDER, or data.name=digits, which needs no download.",
    )


def _by_hand(kind: Any, root: Path) -> tuple[list[str], Path]:
    """The URLs of a torchvision dataset, and the folder where torchvision expects the files."""
    if hasattr(kind, "resources"):
        return [kind.mirrors[0] + file for file, _ in kind.resources], root / kind.__name__ / "raw"
    if hasattr(kind, "split_list"):
        return [kind.split_list[part][0] for part in ("train", "test")], root
    return [kind.url], root


def _damaged(kind: Any, root: Path) -> list[str]:
    """Existing files that differ from the published ones."""
    from suite.system.torchvision_import import torchvision

    if hasattr(kind, "base_folder"):
        expected = [
            (root / kind.base_folder / file, md5)
            for file, md5 in (*kind.train_list, *kind.test_list)
        ]
        if hasattr(kind, "meta"):
            expected.append((root / kind.base_folder / kind.meta["filename"], kind.meta["md5"]))
    else:
        listed = (
            [kind.split_list[part] for part in ("train", "test")]
            if hasattr(kind, "split_list")
            else []
        )
        expected = [(root / file, md5) for _, file, md5 in listed]
    check = torchvision.datasets.utils.check_integrity
    return [path.name for path, md5 in expected if path.exists() and not check(str(path), md5)]
