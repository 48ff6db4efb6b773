"""The files of a complete trial: ``best.pt``, ``predictions.npz``, ``activations/``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from suite import models
from suite.core.records import Objective
from suite.storage import checkpoint
from suite.system import disk
from suite.training.frozen_prefix import Inputs
from suite.training.images import Images, Samples
from suite.training.state import BestEpoch, TrainingState
from suite.visuals import activation_maps


class TrialFacts(TypedDict):
    """Plain facts of a complete trial.

    Keys:
        epochs: trained.
        best_epoch, best_value: of the objective; None if no epoch has its metric.
        parameters_trainable, parameters_total: numbers.
        prefix: how the frozen leading layers were run; None if no layer is frozen.
        test: the test figures of ``best_epoch`` if its record lacks them.
        files: SHA-256 of each file written.
    """

    epochs: int
    best_epoch: int | None
    best_value: float | None
    parameters_trainable: int
    parameters_total: int
    prefix: str | None
    test: dict[str, float]
    files: dict[str, str]


class DrawnMaps(TypedDict):
    """Activation maps on disk.

    Keys:
        key: the folder in the trial's.
        files: in forward order.
        step: the epoch of the network.
        metrics: the share of dead channels of each ReLU.
    """

    key: str
    files: list[str]
    step: int
    metrics: dict[str, float]


def best_epoch(state: TrainingState, images: Images, test_logits: Tensor | None) -> BestEpoch:
    """The epoch just recorded, as the best one so far."""
    normalise = images.normalise
    return {
        "epoch": state.epoch,
        "model": state.trained(state.evaluated),
        "classes": list(images.classes),
        "image_size": images.side,
        "mean": normalise.mean.flatten().tolist(),
        "std": normalise.std.flatten().tolist(),
        "test_logits": test_logits.cpu() if test_logits is not None else None,
    }


def describe(state: TrainingState, objective: Objective, inputs: Inputs) -> TrialFacts:
    """The facts of a trial whose files are not written yet."""
    chosen = objective.chosen(state.records)
    trainable, total = models.count_parameters(state.model)
    return {
        "epochs": state.epoch,
        "best_epoch": chosen.epoch if chosen else None,
        "best_value": chosen.metrics[objective.name] if chosen else None,
        "parameters_trainable": trainable,
        "parameters_total": total,
        "prefix": inputs.describe_prefix(),
        "test": {},
        "files": {},
    }


def write_results(
    folder: Path, model: nn.Module, best: BestEpoch, test: Samples, logits: Tensor | None
) -> dict[str, str]:
    """Write ``best.pt`` and ``predictions.npz``; returns the SHA-256 of each.

    Args:
        folder: the trial's.
        model: the network, for the tensors that training leaves as they are.
        best: the best epoch.
        test: the test images.
        logits: float32 (N, K) of the test images at the best epoch; None = no predictions.
    """
    names = ["best.pt"]
    if logits is not None:
        names.insert(0, "predictions.npz")
        index, labels = test.index.cpu().numpy(), test.labels[test.index].cpu().numpy()
        predicted = logits.cpu().numpy()
        _replace(
            folder / "predictions.npz",
            lambda file: np.savez_compressed(file, index=index, labels=labels, logits=predicted),
        )
    _replace(folder / "best.pt", lambda file: torch.save(_complete(best, model), file))
    disk.sync(folder, above=2)  # before the journal records them
    return {name: checkpoint.digest(folder / name) for name in names}


def _complete(best: BestEpoch, model: nn.Module) -> dict[str, object]:
    """The best epoch with every tensor of the network: needs no other weights."""
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    content: dict[str, object] = {
        name: value for name, value in best.items() if name != "test_logits"
    }
    return content | {"model": tensors | best["model"]}


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file and rename it, so that ``path`` is never half written."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def draw_activation_maps(
    folder: Path,
    network: nn.Module,
    images: Images,
    epoch: int,
    should_stop: Callable[[], bool],
) -> DrawnMaps:
    """Write the activation maps of ``network`` for the same image in each trial.

    Args:
        folder: the trial's.
        network: left as it was, as are the random states.
        epoch: of the network.
        should_stop: asked before each batch.

    Raises:
        InterruptedError: ``should_stop`` returned True.
    """
    test, normalise = images.test, images.normalise
    image = test.images[images.example]
    label = images.classes[int(test.labels[images.example])]

    def batches() -> Iterator[Tensor]:
        for batch, _ in test.eval_batches():
            if should_stop():
                raise InterruptedError("the sweep is being stopped")
            yield normalise.from_bytes(batch)

    dead = activation_maps.find_dead(network, batches())
    maps = activation_maps.draw(
        network,
        normalise.from_bytes(image[None])[0],
        dead=dead,
        width=activation_maps.TRACKED_WIDTH,
        greys=activation_maps.TRACKED_GREYS,
    )
    files = activation_maps.save(
        folder / activation_maps.KEY, maps, dead, image=f"test image {images.example} ({label})"
    )
    return {"key": activation_maps.KEY, "files": files, "step": epoch, "metrics": dead.shares}
