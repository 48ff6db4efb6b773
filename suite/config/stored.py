"""Stored configs of all versions: settings that older ones lack, and how those trials were trained.

A stored config is complete: it has every setting of its time, defaults written in. A setting that
is missing did not exist yet, and its value today would make another trial of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.config.trial import DataConfig, TrialConfig

NAMED_IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn": 73_257,
    "stl10": 5_000,
    "fashion_mnist": 60_000,
    "digits": 1_438,
}
"""Training images of the named data sets, before the split."""


def former_values(momentum: float) -> dict[str, Any]:
    """Dotted setting that configs of ``RESULT_VERSION`` 4 and older lack -> its value for them."""
    return {
        "data.val_size": 0.1,
        "train.last_batch": "keep",
        "train.evaluate_test": "every",
        "train.nesterov": momentum > 0,
        "train.decay": "weights",
    }


def read_stored_config(stored: Mapping[str, Any]) -> TrialConfig:
    """The config of a stored trial (a ``TrialConfig`` as plain JSON types), of any version.

    Raises:
        ValidationError: this version does not understand it.
    """
    train = stored.get("train") if isinstance(stored, Mapping) else None
    if not isinstance(train, Mapping):
        return TrialConfig.model_validate(stored)
    completed = dict(stored)
    for key, value in former_values(_momentum(train.get("momentum"))).items():
        section, _, name = key.partition(".")
        settings = completed.get(section, {})
        if isinstance(settings, Mapping):
            completed[section] = {name: value, **settings}
    return TrialConfig.model_validate(completed)


def read_stored_params(stored: Mapping[str, str]) -> dict[str, str]:
    """A trial's dotted params as MLflow has them, of any version; those of other programs
    unchanged.
    """
    if "train.batch_size" not in stored:
        return dict(stored)
    former = former_values(_momentum(stored.get("train.momentum")))
    return {key: _param(value) for key, value in former.items()} | dict(stored)


def trained_with_remainder(
    params: Mapping[str, str], dataset_images: int | None = None
) -> bool | None:
    """Whether each epoch of a run ended with a step on a smaller batch; None if that is unknown.

    Args:
        params: the run's dotted params, of any version.
        dataset_images: training images of its data set, before the split. It is needed if
            ``data.train_size`` is no number of images and the data set is a folder or the user's
            own.
    """
    known = read_stored_params(params)
    batch_size, images = known.get("train.batch_size", ""), _training_images(known, dataset_images)
    if not batch_size.isdigit():
        return None
    if known["train.last_batch"] != "keep":
        return False
    # a single image joined the batch before; fewer images than a batch were one batch
    return None if images is None else images > int(batch_size) and images % int(batch_size) > 1


def _training_images(params: Mapping[str, str], dataset_images: int | None) -> int | None:
    train_size = _size(params.get("data.train_size"))
    if isinstance(train_size, int):
        return train_size
    available = dataset_images or NAMED_IMAGES.get(params.get("data.name", ""))
    if available is None:
        return None
    val_size = _size(params.get("data.val_size"))
    return DataConfig(train_size=train_size, val_size=val_size).training_images(available)


def _size(text: str | None) -> int | float | None:
    if text in (None, "null", "None", ""):
        return None
    return int(text) if text.isdigit() else float(text)


def _param(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _momentum(stored: Any) -> float:
    try:
        return float(stored)
    except (TypeError, ValueError):
        return 0.9  # the default of all versions; an invalid value is reported by the model
