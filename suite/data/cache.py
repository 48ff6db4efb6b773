"""Decoded datasets on disk: .npy files without pickles, memory-mapped, shared by all processes.

::

    <cache>/data/<name>-<key>/   train_images.npy train_labels.npy test_images.npy test_labels.npy
                                 meta.json

An entry is written to a hidden folder beside it and renamed when complete. After a crash, or with
two processes at once, an entry is complete or absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from suite.core.errors import EnvironmentProblem
from suite.data.dataset import FIELDS, Dataset

FORMAT = 1  # increased if the same images would decode to other arrays
_SAMPLED_IMAGES = 16  # per array, hashed when an entry is opened: milliseconds
_STALE_S = 24 * 3600.0  # age at which a hidden folder counts as left by a crash


def cache_folder() -> Path:
    """The cache: $SUITE_CACHE, else $XDG_CACHE_HOME/suite, else ~/.cache/suite."""
    if chosen := os.environ.get("SUITE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "suite"


def cached(cache: Path, name: str, read_from: str, build: Callable[[Path], Dataset]) -> Dataset:
    """The entry of a source of images; built first if it is missing or damaged.

    Args:
        cache: the cache folder.
        name: the dataset's.
        read_from: text that changes whenever the source or the decoding of the images changes.
        build: makes the dataset; may write arrays as ``<field>.npy`` into the folder that it gets.

    Raises:
        EnvironmentProblem: the cache cannot be written; and all errors of ``build``.
    """
    key = hashlib.sha256(
        f"{FORMAT}\0{name}\0{read_from}".encode("utf-8", "surrogateescape")
    ).hexdigest()[:24]
    entry = cache / "data" / f"{name}-{key}"
    dataset = _read(entry)
    if dataset is not None:
        return dataset
    built: Dataset | None = None

    def fill(temp: Path) -> None:
        nonlocal built
        built = build(temp)
        _write(built, temp)

    try:
        put(entry, fill, lambda path: _read(path) is not None)
    except OSError as error:
        raise EnvironmentProblem(
            f"the cache for decoded images must be writable, but {cache} is not: {error}",
            remedy="Free some space there, or set SUITE_CACHE to another folder.",
        ) from error
    # Read back: the first call returns the same read-only pages of the file as later calls.
    read = _read(entry) or built
    assert read is not None  # ``put`` has called ``fill``
    return read


def put(entry: Path, fill: Callable[[Path], None], verifies: Callable[[Path], bool]) -> None:
    """Make an entry of a cache: a folder that is complete or absent.

    Args:
        entry: the folder.
        fill: writes the files into the hidden folder that it gets.
        verifies: whether an entry, which another process may have made meanwhile, is valid.

    Raises:
        OSError: the entry cannot be written; and all errors of ``fill``.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    _sweep(entry.parent)
    temp = Path(tempfile.mkdtemp(prefix=".", dir=entry.parent))
    try:
        fill(temp)
        for path in temp.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        _publish(temp, entry, verifies)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _write(dataset: Dataset, folder: Path) -> None:
    for field, array in dataset.arrays().items():
        path = folder / f"{field}.npy"
        if not path.exists():
            np.save(path, array, allow_pickle=False)
    meta = {
        "name": dataset.name,
        "classes": dataset.classes,
        "digest": dataset.digest,
        "bytes": {field: (folder / f"{field}.npy").stat().st_size for field in FIELDS},
        "sample": _sample(dataset),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _publish(temp: Path, entry: Path, verifies: Callable[[Path], bool]) -> None:
    try:
        temp.rename(entry)
    except OSError:
        if verifies(entry):  # another process was faster
            return
        shutil.rmtree(entry, ignore_errors=True)  # an entry that was damaged later
        temp.rename(entry)


def _read(entry: Path) -> Dataset | None:
    """The entry, or None if it is missing or damaged."""
    try:
        meta: dict[str, Any] = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        if any((entry / f"{field}.npy").stat().st_size != meta["bytes"][field] for field in FIELDS):
            return None
        # asarray: Ray and torch share the pages of an ordinary array, but copy those of a memmap.
        arrays = [
            np.asarray(np.load(entry / f"{field}.npy", mmap_mode="r", allow_pickle=False))
            for field in FIELDS
        ]
        dataset = Dataset(meta["name"], tuple(meta["classes"]), meta["digest"], *arrays)
        return dataset if _sample(dataset) == meta["sample"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _sample(dataset: Dataset) -> str:
    """A hash of all labels and some images: detects pages that never reached the disk."""
    digest = hashlib.sha256()
    for array in dataset.arrays().values():
        chosen = (
            array
            if array.ndim == 1
            else array[np.linspace(0, len(array) - 1, _SAMPLED_IMAGES).astype(np.int64)]
        )
        digest.update(np.ascontiguousarray(chosen).data)
    return digest.hexdigest()


def _sweep(folder: Path) -> None:
    """Remove the remains of processes that died while they built an entry."""
    for path in folder.glob(".*"):
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path, ignore_errors=True)
