"""Configs that journals and runs hold: older ones lack settings, which then had the values given here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.spec.config import TrialConfig

VALUES_BEFORE: dict[str, Any] = {"train.last_batch": "keep"}
"""Dotted setting that older configs lack -> how those trials were trained, whatever the default is now."""


def read_stored_config(stored: Mapping[str, Any]) -> TrialConfig:
    """The config of a stored trial (a ``TrialConfig`` as plain JSON types, complete when it was written).

    A setting that did not exist then has its value of ``VALUES_BEFORE``, not today's default.

    Raises:
        ValidationError: this version does not understand it.
    """
    if not isinstance(stored, Mapping):
        return TrialConfig.model_validate(stored)
    completed = dict(stored)
    for key, value in VALUES_BEFORE.items():
        section, _, name = key.partition(".")
        settings = completed.get(section, {})
        if isinstance(settings, Mapping):
            completed[section] = {name: value, **settings}
    return TrialConfig.model_validate(completed)


def trained_with_remainder(stored: Mapping[str, Any], train_images: int) -> bool:
    """Whether each epoch of a stored trial ended with a step on a smaller batch: 5,000 images at 128 left 8.

    Args:
        stored: its config, nested as in the journal, or dotted with texts as values as MLflow's params have it.
        train_images: its training images.

    Raises:
        KeyError, ValueError: ``train.batch_size`` is missing, or no number.
    """
    last_batch = _stored_value(stored, "train.last_batch") or VALUES_BEFORE["train.last_batch"]
    batch_size = _stored_value(stored, "train.batch_size")
    if batch_size is None:
        raise KeyError("train.batch_size")
    # a single image joined the batch before
    return last_batch == "keep" and train_images > int(batch_size) and train_images % int(batch_size) > 1


def _stored_value(stored: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    if key in stored:
        return stored[key]
    return (stored.get(section) or {}).get(name)
