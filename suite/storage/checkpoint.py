"""Verified checkpoints: written beside, synced, given a manifest, renamed; read only when the
manifest verifies.

A trial's folder holds at most two of them, ``e00012s000000/`` (12 epochs and 0 steps done)::

    last.pt         where training goes on: what changes in the model, optimizer, EMA, records
    best.pt         the best epoch so far: what changes in the model, and the test logits
    MANIFEST.json   sha256 and size of each file, trial, epoch, step, versions

No pickle: files hold tensors and plain values, and are read with ``weights_only=True``.
``torch.load`` accepts a flipped byte in a tensor without a word, so the manifest's digests are what
is trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises
from typing import Any

import torch

from suite.core.errors import TrialError
from suite.storage.base import MANIFEST
from suite.system import disk

KEPT = 2  # the newest, and the one before it in case the newest is damaged


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest verified."""

    folder: Path
    epoch: int
    step: int

    def read(self, name: str) -> dict[str, Any]:
        """The content of one of its files, e.g. ``last.pt``, on the CPU.

        Raises:
            TrialError: it holds more than tensors and plain values, although its manifest verifies:
                it is not ours.
        """
        try:
            content: dict[str, Any] = torch.load(
                self.folder / name, map_location="cpu", weights_only=True
            )
        except UnpicklingError as error:
            raise TrialError(
                f"{self.folder / name} is refused: it holds more than tensors and plain values, "
                "and reading that could "
                "run code"
            ) from error
        return content


def save(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    *,
    trial: str,
    epoch: int,
    step: int,
    allowed: Callable[[], bool] = lambda: True,
) -> Path | None:
    """Write a checkpoint and remove all but the newest two.

    Args:
        folder: the trial's checkpoint folder; made if missing.
        files: file name -> content (tensors and plain values).
        trial, epoch, step: go into the manifest; epoch and step are the completed ones.
        allowed: asked right before the rename; False (this worker's launch is over, another may be
            writing here) leaves nothing behind.

    Returns:
        The checkpoint's folder, or None if it was not allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".tmp-{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        manifest = {
            "trial": trial,
            "epoch": epoch,
            "step": step,
            "torch": torch.__version__,
            "files": {name: _write(draft / name, content) for name, content in files.items()},
        }
        _write_text(draft / MANIFEST, json.dumps(manifest, indent=1))
        disk.sync(draft)
        if not _candidates(folder):  # the first one: the folders that lead to it are new, too
            disk.sync(folder.parent, above=2)
        if not allowed():
            return None
        target = folder / _name(epoch, step)
        if target.exists():  # an earlier launch got this far too; ours has the same content
            shutil.rmtree(target)
        draft.rename(target)
        disk.sync(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in _candidates(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(
    folder: Path, trial: str, warn: Callable[[str], None] = lambda message: None
) -> Checkpoint | None:
    """The newest checkpoint that verifies.

    Damaged ones are set aside as ``*.corrupt`` with one warning each.
    """
    candidates = _candidates(folder)
    for candidate in candidates:
        reason = _damage(candidate, trial)
        if reason is None:
            manifest = json.loads((candidate / MANIFEST).read_text())
            return Checkpoint(candidate, manifest["epoch"], manifest["step"])
        aside = candidate.with_name(f"{candidate.name}-{uuid.uuid4().hex[:6]}.corrupt")
        candidate.rename(aside)
        then = "starting anew" if candidate is candidates[-1] else "going on from the one before it"
        warn(f"checkpoint {candidate} is damaged ({reason}); set aside as {aside.name}, {then}")
    return None


def damaged(folder: Path, trial: str) -> list[Path]:
    """Checkpoints in ``folder`` that do not verify, newest first; they stay where they are."""
    return [candidate for candidate in _candidates(folder) if _damage(candidate, trial) is not None]


def sweep_drafts(folder: Path) -> None:
    """Remove what a killed worker left half written."""
    for draft in folder.glob(".tmp-*"):
        shutil.rmtree(draft, ignore_errors=True)


def _name(epoch: int, step: int) -> str:
    return f"e{epoch:05d}s{step:06d}"


def _candidates(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first by the work they hold: clocks play no part."""
    return sorted(
        (path for path in folder.glob("e*s*") if path.suffix != ".corrupt" and path.is_dir()),
        reverse=True,
    )


def _damage(candidate: Path, trial: str) -> str | None:
    """Why ``candidate`` cannot be used, or None."""
    try:
        manifest = json.loads((candidate / MANIFEST).read_text())
        if manifest["trial"] != trial:
            return f"it belongs to trial {manifest['trial']}"
        if candidate.name != _name(manifest["epoch"], manifest["step"]):
            return f"its manifest speaks of epoch {manifest['epoch']} and step {manifest['step']}"
        for name, facts in manifest["files"].items():
            content = candidate / name
            if content.stat().st_size != facts["size"]:
                return f"{name} has {content.stat().st_size} bytes instead of {facts['size']}"
            if digest(content) != facts["sha256"]:
                return f"{name} does not match its sha256"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"unreadable: {type(error).__name__}: {error}"
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    with path.open("wb") as file:
        torch.save(dict(content), file)
        file.flush()
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": digest(path)}


def _write_text(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
