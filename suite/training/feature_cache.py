"""Features of frozen leading layers, cached on disk.

Each node computes them once; every trial that starts from them memory-maps them.

::

    <cache>/features/<key>/   meta.json   train.npy val.npy test.npy

The key is a hash of all that the features depend on: pixels, normalisation, the choice of images,
the prefix's weights, the numerics, torch and the processor. An entry without features records why
they cannot be cached, so that the prefix is examined only once.

Letters: N images of a part of the split, C channels, H x W pixels of a map.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suite import data
from suite.core.records import Numerics
from suite.models import Prefix
from suite.system import environment

FORMAT = 2
PARTS = ("train", "val", "test")
MAX_ENTRY_GIB = 4.0  # larger features are not cached
MAX_CACHE_GIB = 8.0  # of all entries; the least recently used are removed first
_SAMPLED_ROWS = 16  # of each part, hashed when an entry is opened

Make = Callable[[], tuple[Prefix, Mapping[str, Tensor]]]


@dataclass(frozen=True, eq=False)
class Features:
    """A frozen prefix and its cached features.

    Attributes:
        prefix: its layers, or why its features cannot be cached.
        parts: part of the split -> features (N, ...), in the order of the part, read-only.
    """

    prefix: Prefix
    parts: Mapping[str, Tensor]


def key(
    net: nn.Module,
    layers: Sequence[str],
    numerics: Numerics,
    dependencies: Mapping[str, object],
) -> str:
    """The cache key of the output of ``layers`` of ``net``: 24 hex digits.

    Args:
        dependencies: all that features depend on besides the prefix and the machine; JSON types.
    """
    digest = hashlib.sha256()
    machine = [environment.processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__]
    for name in layers:
        layer = net.get_submodule(name)
        digest.update(repr((name, layer)).encode())
        for tensor in layer.state_dict().values():
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            )
    content = {"format": FORMAT, "machine": machine, "numerics": asdict(numerics), **dependencies}
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()[:24]


def load_or_make(folder: Path, name: str, make: Make) -> Features:
    """The entry ``name``, read from the disk. If it is missing or damaged, one process makes it.

    Args:
        folder: the cache's.
        make: examines the prefix, and computes its features if they can be cached.

    Returns:
        The entry. If the disk is full or read-only: no features, and the prefix says so.
    """
    entry = folder / "features" / name
    try:
        features = _read(entry)
        if features is None:
            with _locked(entry):
                features = _read(entry) or _make(entry, make)
        with suppress(OSError):
            (entry / "meta.json").touch()  # most recently used
        return features
    except OSError as error:
        return Features(
            Prefix(
                why_not=f"features cannot be written to {entry.parent}: {error.strerror or error}"
            ),
            {},
        )


def _make(entry: Path, make: Make) -> Features:
    prefix, parts = make()
    data.put(entry, lambda temp: _write(temp, prefix, parts), lambda path: _read(path) is not None)
    _remove_unused(entry)
    features = _read(entry)
    if features is None:
        raise OSError("what was written does not read back")
    return features


@contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """One process of this node makes an entry; the others wait and read it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = entry.parent / f"{entry.name}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # waiting processes hold the old file, and find the entry


def _write(folder: Path, prefix: Prefix, parts: Mapping[str, Tensor]) -> None:
    layouts = {}
    for part, features in parts.items():
        layouts[part] = _layout(features)
        np.save(folder / f"{part}.npy", _as_array(features, layouts[part]), allow_pickle=False)
    samples = {part: _sample(np.load(folder / f"{part}.npy", mmap_mode="r")) for part in parts}
    meta = {"prefix": asdict(prefix), "layouts": layouts, "samples": samples}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _read(entry: Path) -> Features | None:
    """The entry, or None if it is missing or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            part: np.asarray(np.load(entry / f"{part}.npy", mmap_mode="r", allow_pickle=False))
            for part in meta["layouts"]
        }
        if any(_sample(array) != meta["samples"][part] for part, array in arrays.items()):
            return None
        parts = {part: _as_tensor(array, meta["layouts"][part]) for part, array in arrays.items()}
        prefix = meta["prefix"]
        return Features(
            Prefix(tuple(prefix["layers"]), str(prefix["why_not"]), int(prefix["bytes"])), parts
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_channels_last(features: Tensor) -> bool:
    """Whether the channel is the innermost dimension.

    By the strides: torch calls maps of one pixel contiguous in both formats.
    """
    return features.ndim == 4 and features.stride(1) == 1 and features.stride(3) != 1


def join(batches: Sequence[Tensor]) -> Tensor:
    """All batches in one tensor, in their memory format.

    ``torch.cat`` does not preserve it for maps of one pixel.
    """
    if is_channels_last(batches[0]):
        return torch.cat([batch.permute(0, 2, 3, 1) for batch in batches]).permute(0, 3, 1, 2)
    return torch.cat(list(batches))


def _layout(features: Tensor) -> list[str]:
    """The format on disk: ``last`` = channels last; ``bf16``, a type that NumPy lacks."""
    return [
        *(["last"] if is_channels_last(features) else []),
        *(["bf16"] if features.dtype is torch.bfloat16 else []),
    ]


def _as_array(features: Tensor, layout: Sequence[str]) -> np.ndarray[Any, Any]:
    features = features.permute(0, 2, 3, 1) if "last" in layout else features
    features = features.contiguous()
    return (features.view(torch.int16) if "bf16" in layout else features).numpy()


def _as_tensor(array: np.ndarray[Any, Any], layout: Sequence[str]) -> Tensor:
    features = data.as_tensor(array)
    features = features.view(torch.bfloat16) if "bf16" in layout else features
    return features.permute(0, 3, 1, 2) if "last" in layout else features


def _sample(array: np.ndarray[Any, Any]) -> str:
    """A hash of evenly spaced rows: detects an entry whose pages never reached the disk."""
    rows = np.unique(np.linspace(0, max(len(array) - 1, 0), _SAMPLED_ROWS).astype(np.int64))
    return hashlib.sha256(
        repr(array.shape).encode() + np.ascontiguousarray(array[rows[: len(array)]]).tobytes()
    ).hexdigest()


def take(features: Tensor, rows: Tensor) -> Tensor:
    """A new tensor of ``rows``, in the memory format of the whole, which indexing would lose."""
    if is_channels_last(features):
        return features.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return features.index_select(0, rows)


def too_large(images: int, prefix: Prefix) -> str:
    """Why the features of this many images are not cached; "" if they can be."""
    gib = images * prefix.bytes / 2**30
    return (
        f"the features of {images:,} images take {gib:.1f} GiB, more than {MAX_ENTRY_GIB:g}"
        if gib > MAX_ENTRY_GIB
        else ""
    )


def _remove_unused(new: Path) -> None:
    """Remove the least recently used entries until the rest fit."""
    entries = sorted(
        (path for path in new.parent.iterdir() if (path / "meta.json").exists()), key=_used_at
    )
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
    for path in entries:
        if sum(sizes.values()) <= MAX_CACHE_GIB * 2**30:
            return
        if path != new:
            shutil.rmtree(path, ignore_errors=True)  # processes that have it open keep its pages
            del sizes[path]


def _used_at(entry: Path) -> float:
    return (entry / "meta.json").stat().st_mtime


class BatchFeatureCache:
    """Features of augmented batches, for trials of one process that see the same batches.

    The first trial computes them. Holds one epoch, as the trials of a pack take turns by epoch.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._batches: dict[int, tuple[Tensor, Tensor]] = {}

    def batch(
        self, epoch: int, step: int, make: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Features (B, ...) and targets of one step; copies: the network may change its input."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, {}
        if step not in self._batches:
            self._batches[step] = make()
        features, targets = self._batches[step]
        return features.clone(), targets
