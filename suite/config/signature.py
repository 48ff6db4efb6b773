"""A trial's identity: the hash of what determines its result, and of nothing else.

Identity is computed, never remembered: the same file gives the same ids on any day and any machine.
Paths, addresses and numerics are left out (what they lead to is in by its digest), names that a
user may change freely too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from suite.config.trial import DEFAULT_VAL_SIZE, TrialConfig
from suite.core.records import Objective

SCHEMA_VERSION = 1
"""Of the sweep file's format."""
RESULT_VERSION = 5
"""Raised when the same configuration starts to give other numbers. 2: color_jitter rounds
otherwise. 3 and 4: small maps in bf16 do. 5: the images that do not fill a batch are no longer a
last, smaller one (``train.last_batch``); momentum is plain and weight decay acts on all parameters;
a subset has fewer validation images.
"""

EXCLUDED = frozenset(
    (
        "data.root",
        "model.imagenet_file",
        "train.precision",
        "train.cache_prefix",
        "train.evaluate_test",
    )
)
"""Settings that lead to a result without determining it."""

ADDED: dict[str, Any] = {}
"""Dotted setting added after the first release -> the value that means the old behaviour. At that
value it is left out of the hash, so that older trials keep their ids. Inside an augmentation:
``augment.TYPE.FIELD``.
"""


def signature(
    config: TrialConfig,
    seed: int,
    *,
    data_digest: str,
    weights_digest: str | None = None,
    module_digests: Sequence[str] = (),
    objective: Objective | None = None,
) -> str:
    """SHA-256 of a trial, 64 hex digits. A trial's id is its first 16.

    Args:
        weights_digest: needed where ``model.weights`` is not ``none``, ignored where it is.
        module_digests: in any order.
        objective: counts only with ``train.patience``, which watches it.

    Raises:
        ValueError: if pretrained weights have no digest.
    """
    text = json.dumps(
        identity(
            config,
            seed,
            data_digest=data_digest,
            weights_digest=weights_digest,
            module_digests=module_digests,
            objective=objective,
        ),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def identity(
    config: TrialConfig,
    seed: int,
    *,
    data_digest: str,
    weights_digest: str | None = None,
    module_digests: Sequence[str] = (),
    objective: Objective | None = None,
) -> dict[str, Any]:
    """What is hashed, as plain JSON types. See ``signature``."""
    pretrained = config.model.weights != "none"
    if pretrained and weights_digest is None:
        raise ValueError(f"weights {config.model.weights!r} need a digest to identify a trial")
    watched = objective if config.train.patience is not None else None
    return {
        "schema": SCHEMA_VERSION,
        "result": RESULT_VERSION,
        "config": resolved(config),
        "seed": seed,
        "data": data_digest,
        "weights": weights_digest if pretrained else None,
        "modules": sorted(set(module_digests)),
        **({"watched": [watched.name, watched.goal]} if watched else {}),
    }


def resolved(config: TrialConfig) -> dict[str, Any]:
    """Every setting that determines a result, dotted, defaults written in.

    Augmentations stand as their settings in the order of application, whatever their names; weights
    as ``none``, ``imagenet`` or ``given``, which their digest completes.
    """
    dumped = config.model_dump(mode="json")
    settings = {
        key: value
        for section in ("data", "model", "train")
        for key, value in _flat(dumped[section], f"{section}.").items()
        if key not in EXCLUDED and not _old(key, value)
    }
    weights = config.model.weights
    settings["model.weights"] = weights if weights in ("none", "imagenet") else "given"
    if config.data.train_size is None and config.data.val_size is None:
        settings["data.val_size"] = DEFAULT_VAL_SIZE
    settings["augment"] = [
        _augmentation(step.model_dump(mode="json")) for step in config.pipeline()
    ]
    return settings


def _augmentation(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in step.items()
        if not _old(f"augment.{step['type']}.{key}", value)
    }


def _old(key: str, value: Any) -> bool:
    return key in ADDED and type(ADDED[key]) is type(value) and bool(ADDED[key] == value)


def _flat(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, dict):
            result.update(_flat(value, f"{prefix}{name}."))
        else:
            result[prefix + name] = value
    return result
