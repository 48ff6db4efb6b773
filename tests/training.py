"""Trainings in this process, on a few small images: milliseconds each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suite.config import TrialConfig
from suite.core.records import MACHINE_METRICS, EpochRecord, Numerics, Objective, Trial
from suite.data import Dataset
from suite.training.hooks import TrainingHooks
from suite.training.setup import prepare_trainer
from suite.training.trainer import Trainer

ACC = Objective("val/acc")
LAST_LOSS = Objective("train/loss", "minimize", "last")


def images(
    counts: Sequence[int] = (16, 16, 16, 16), test: int = 24, seed: int = 0, side: int = 8
) -> Dataset:
    """Noise whose mean tells the class, so that there is something to learn."""
    generator = np.random.default_rng(seed)

    def draw(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        noise = generator.integers(0, 130, (len(labels), 3, side, side))
        return (noise + labels[:, None, None, None] * 30).astype(np.uint8)

    train_labels = generator.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    test_labels = (np.arange(test) % len(counts)).astype(np.int64)
    names = [f"class{number}" for number in range(len(counts))]
    return Dataset.of(
        "own", names, (draw(train_labels), train_labels), (draw(test_labels), test_labels)
    )


def trial(arch: str = "nets:tiny", seed: int = 0, augment: str = "none", **settings: Any) -> Trial:
    """A trial; settings of ``train`` by name, of others as ``data__val_size=0``,
    ``model__freeze_depth=2``.
    """
    sections: dict[str, dict[str, Any]] = {
        "data": {"name": "own:load", "val_size": 16},
        "model": {"arch": arch},
        "train": {
            "epochs": 2,
            "batch_size": 10,
            "lr": 0.05,
            "precision": "fp32",
            "evaluate_test": "every",
        },
    }
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        sections[section or "train"][name] = value
    config = TrialConfig.model_validate(sections | {"augment": augment})
    return Trial("0123456789abcdef", "arm", seed, "arm", config=config.model_dump(mode="json"))


def training(
    made: Trial,
    folder: Path,
    dataset: Dataset | None = None,
    objective: Objective = ACC,
    **options: Any,
) -> Trainer:
    """A training of ``made``; it takes up what is in ``folder``."""
    options.setdefault("numerics", Numerics(channels_last=True))
    names = {field.name for field in fields(TrainingHooks)} & options.keys()
    hooks = TrainingHooks(**{name: options.pop(name) for name in names})
    return prepare_trainer(
        made, dataset or images(), objective=objective, folder=folder, hooks=hooks, **options
    )


def finish(running: Trainer) -> Trainer:
    """Train to the end."""
    while not running.complete:
        assert running.train_epoch() is not None
    return running


def plain(records: Sequence[EpochRecord]) -> list[dict[str, float]]:
    """The figures that the machine has no say in."""
    return [
        {key: value for key, value in each.metrics.items() if key not in MACHINE_METRICS}
        for each in records
    ]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested state as name -> tensor or plain value."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flat(item, f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {
            k: v for key, item in enumerate(value) for k, v in flat(item, f"{name}.{key}").items()
        }
    return {name: value}


def everything(running: Trainer) -> dict[str, Any]:
    """All that a resumed training must have in common with an unbroken one, bit for bit."""
    state = {
        "model": running.state.model.state_dict(),
        "optimizer": running.state.optimizer.state_dict(),
        "averaged": running.state.averaged.state_dict()
        if running.state.averaged is not None
        else None,
        "best": running.state.best,
        "records": plain(running.records),
        "step": running.step,
        "partial": {
            key: value for key, value in running.state.totals.state().items() if key != "seconds"
        },
    }
    return flat(state)


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of what is not equal bit for bit."""
    assert a.keys() == b.keys(), f"only in one: {sorted(a.keys() ^ b.keys())}"
    return [name for name in a if not _equal(a[name], b[name])]


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def stopping_at(step: int) -> Callable[[], bool]:
    """A ``should_stop`` that says yes the ``step``-th time (from 0) that it is asked."""
    asked = iter(range(10**9))
    return lambda: next(asked) == step


__all__ = [
    "ACC",
    "LAST_LOSS",
    "differing",
    "everything",
    "finish",
    "flat",
    "images",
    "plain",
    "replace",
    "stopping_at",
    "training",
    "trial",
]
