"""Features of a frozen prefix, kept on disk: computed once a node, memory-mapped by every trial that starts from them.

::

    <cache>/features/<key>/   meta.json   train.npy val.npy test.npy

The key is a hash of all that the features depend on: pixels, their normalisation, which images, the prefix's weights,
the numerics, torch and the processor. An entry may also say why there are none, so that it is found out once.

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
MOST_GIB = 4.0  # of one entry; more is not kept
KEPT_GIB = 8.0  # of all entries; the longest unused go first
_SAMPLED = 16  # images of each part that are hashed when an entry is opened

Make = Callable[[], tuple[Prefix, Mapping[str, Tensor]]]


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of a prefix, and its features where they are kept.

    Attributes:
        prefix: its layers, or why there are no features.
        parts: part of the split -> features (N, ...), in the order of the part, read-only.
    """

    prefix: Prefix
    parts: Mapping[str, Tensor]


def key(net: nn.Module, layers: Sequence[str], numerics: Numerics, what: Mapping[str, Any]) -> str:
    """24 hex digits for the features that ``layers`` of ``net`` give.

    Args:
        what: digest of the data, and all else that they depend on besides the prefix and the machine; JSON types.
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
    known = {"format": FORMAT, "machine": machine, "numerics": asdict(numerics), **what}
    digest.update(json.dumps(known, sort_keys=True).encode())
    return digest.hexdigest()[:24]


def load_or_make(folder: Path, name: str, make: Make) -> Features:
    """The entry ``name``; made first, by one process at a time, where there is none that verifies.

    Args:
        folder: the cache's.
        make: examines the prefix, and computes its features where it may be used.

    Returns:
        As read from the disk. Where that is full or read-only, no features, and the prefix says so.
    """
    entry = folder / "features" / name
    try:
        found = _read(entry)
        if found is None:
            with _alone(entry):
                found = _read(entry) or _make(entry, make)
        with suppress(OSError):
            (entry / "meta.json").touch()  # used now: goes last
        return found
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
    _forget_unused(entry)
    found = _read(entry)
    if found is None:
        raise OSError("what was written does not read back")
    return found


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Only one process of this node makes an entry; the others wait and read it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = entry.parent / f"{entry.name}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(
                missing_ok=True
            )  # who waits holds the old file, looks again and finds the entry


def _write(folder: Path, prefix: Prefix, parts: Mapping[str, Tensor]) -> None:
    layouts = {}
    for part, features in parts.items():
        layouts[part] = _layout(features)
        np.save(folder / f"{part}.npy", _as_array(features, layouts[part]), allow_pickle=False)
    samples = {part: _sample(np.load(folder / f"{part}.npy", mmap_mode="r")) for part in parts}
    meta = {"prefix": asdict(prefix), "layouts": layouts, "samples": samples}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def _read(entry: Path) -> Features | None:
    """The entry; None where it is absent or damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            part: np.asarray(np.load(entry / f"{part}.npy", mmap_mode="r", allow_pickle=False))
            for part in meta["layouts"]
        }
        if any(_sample(array) != meta["samples"][part] for part, array in arrays.items()):
            return None
        parts = {part: _as_tensor(array, meta["layouts"][part]) for part, array in arrays.items()}
        known = meta["prefix"]
        return Features(
            Prefix(tuple(known["layers"]), str(known["why_not"]), int(known["bytes"])), parts
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def channels_behind(features: Tensor) -> bool:
    """Whether channels lie behind the pixels. By the strides: maps of one pixel are contiguous either way to torch."""
    return features.ndim == 4 and features.stride(1) == 1 and features.stride(3) != 1


def join(batches: Sequence[Tensor]) -> Tensor:
    """One tensor of all, in their memory format, which ``torch.cat`` does not keep for maps of one pixel."""
    if channels_behind(batches[0]):
        return torch.cat([batch.permute(0, 2, 3, 1) for batch in batches]).permute(0, 3, 1, 2)
    return torch.cat(list(batches))


def _layout(features: Tensor) -> list[str]:
    """How the numbers lie: ``last`` = channels behind the pixels; ``bf16``, which NumPy does not know."""
    return [
        *(["last"] if channels_behind(features) else []),
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
    """A hash over some rows, evenly spaced: finds an entry whose pages never reached the disk."""
    rows = np.unique(np.linspace(0, max(len(array) - 1, 0), _SAMPLED).astype(np.int64))
    return hashlib.sha256(
        repr(array.shape).encode() + np.ascontiguousarray(array[rows[: len(array)]]).tobytes()
    ).hexdigest()


def take(features: Tensor, rows: Tensor) -> Tensor:
    """A fresh tensor of some rows, in the memory format of the whole, which indexing alone would lose."""
    if channels_behind(features):
        return features.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return features.index_select(0, rows)


def too_large(images: int, prefix: Prefix) -> str:
    """Why so many images' features are not kept; "" where they may be."""
    gib = images * prefix.bytes / 2**30
    return (
        f"the features of {images:,} images take {gib:.1f} GiB, more than {MOST_GIB:g}"
        if gib > MOST_GIB
        else ""
    )


def _forget_unused(spared: Path) -> None:
    """Remove the entries that were not used for longest, until those that are left fit."""
    entries = sorted(
        (path for path in spared.parent.iterdir() if (path / "meta.json").exists()), key=_used_at
    )
    sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
    for path in entries:
        if sum(sizes.values()) <= KEPT_GIB * 2**30:
            return
        if path != spared:
            shutil.rmtree(path, ignore_errors=True)  # who has it open keeps its pages
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
        """Features (B, ...) and targets of one step; a copy, as the network may change its input."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, {}
        if step not in self._batches:
            self._batches[step] = make()
        features, targets = self._batches[step]
        return features.clone(), targets
