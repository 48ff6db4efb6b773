"""Group trials that share one worker (default: one each)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from suite.core.records import Trial

MOST = 8  # trials of a pack that was not asked for: each holds a network and its optimizer's state


def packs(
    trials: Sequence[Trial], size: int | Literal["auto"], slots: int
) -> Iterator[list[Trial]]:
    """Trials to be run together, in the order of their first ones.

    Args:
        size: how many; ``auto`` = those that see the same augmented images through the same frozen
            layers, whose features one of them computes for all.
        slots: packs that can run at once.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        what = _shared(trial) if size == "auto" else _shapes(trial) if size > 1 else None
        groups.setdefault(trial.id if what is None else what, []).append(trial)
    shared = sum(len(group) > 1 for group in groups.values())
    for group in groups.values():
        most = _even(len(group), max(1, slots // max(1, shared))) if size == "auto" else size
        for start in range(0, len(group), most):
            yield group[start : start + most]


def _even(count: int, parts: int) -> int:
    """Trials per pack: ``count`` trials in at least ``parts`` packs, each of at most ``MOST``.

    Fewer than ``parts`` trials make one pack each.
    """
    return math.ceil(count / max(min(parts, count), math.ceil(count / MOST)))


def _shapes(trial: Trial) -> str:
    """What trials must have in common to be trained as one network: all that a tensor's shape
    depends on.
    """
    config = trial.config
    head = config["model"]["head"]
    model = config["model"] | {"dropout": None, "head": head and head["hidden"]}
    return json.dumps([config["data"], model, *_batching(config["train"])], sort_keys=True)


def _shared(trial: Trial) -> str | None:
    """What trials have in common that can share features of augmented images; None where this
    one shares none.
    """
    config = trial.config
    model: dict[str, Any] = {key: value for key, value in config["model"].items() if key != "head"}
    train = config["train"]
    if not (model["freeze_depth"] and model["freeze_batchnorm"]) or config["augment"] == "none":
        return None
    if train["cache_prefix"] == "off":
        return None
    drawn = [trial.seed, config["augment"], config["augmentations"], *_batching(train)]
    return json.dumps([config["data"], model, *drawn], sort_keys=True)


def _batching(train: Mapping[str, Any]) -> list[Any]:
    """What decides which images are in a batch, besides the order of the images."""
    return [train["batch_size"], train["last_batch"]]
