"""Prepare the trainer of a trial: new, or restored from the newest checkpoint in its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from suite import data, models
from suite.config import TrialConfig, read_stored_config
from suite.core.records import Numerics, Objective, Trial
from suite.training import optim, precision
from suite.training.feature_cache import BatchFeatureCache
from suite.training.frozen_prefix import prepare_inputs
from suite.training.hooks import TrainingHooks
from suite.training.images import prepare_images
from suite.training.state import StateStore, TrainingState, trained_tensor_names
from suite.training.trainer import Trainer


def prepare_trainer(
    trial: Trial,
    dataset: data.Dataset,
    *,
    objective: Objective,
    numerics: Numerics,
    folder: Path,
    weights: models.Weights | None = None,
    hooks: TrainingHooks | None = None,
    limit_batches: int | None = None,
    cache: Path | None = None,
    shared_features: dict[str, BatchFeatureCache] | None = None,
) -> Trainer:
    """The trainer of ``trial``, restored from the newest checkpoint in ``folder`` if there is one.

    Args:
        trial: what to train.
        dataset: the images of ``trial.config.data``.
        objective: decides which epoch is the best.
        numerics: precision, memory format, threads, device.
        folder: for checkpoints and results.
        weights: from ``models.load_weights``; None for a random start.
        hooks: the process that runs the trial. Default: none.
        limit_batches: train and evaluate on at most this many batches (``--smoke``).
        cache: the folder of cached features of frozen layers. Default: the suite's.
        shared_features: features of augmented batches, shared by the trainers of a process.
    """
    hooks = hooks or TrainingHooks()
    config = read_stored_config(trial.config)
    _configure_torch(numerics)
    images = prepare_images(dataset, config, numerics, weights, limit_batches)
    state = initial_state(config, numerics, len(dataset.classes), trial.seed, weights)
    inputs = prepare_inputs(
        images,
        state.model,
        config,
        numerics,
        seed=trial.seed,
        cache=cache or data.cache_folder(),
        shared_features=shared_features,
        heartbeat=hooks.heartbeat,
    )
    store = StateStore(folder, trial.id)
    store.restore(state, hooks.warn)
    return Trainer(
        trial, config, inputs, state, store, objective=objective, numerics=numerics, hooks=hooks
    )


def _configure_torch(numerics: Numerics) -> None:
    torch.set_num_threads(numerics.threads)  # before features of frozen layers are computed
    if numerics.device == "cuda":
        # torch's default would compute fp32 convolutions, and only these, with 10 bits
        torch.backends.cudnn.allow_tf32 = False
        torch.cuda.reset_peak_memory_stats(numerics.device)  # one worker trains many trials


def initial_state(
    config: TrialConfig,
    numerics: Numerics,
    num_classes: int,
    seed: int,
    weights: models.Weights | None = None,
) -> TrainingState:
    """The network on its device, its optimizer and its moving average, before the first step."""
    tensors = weights.state if weights else None
    model = models.build(config.model, num_classes, seed=seed, weights=tensors)
    if numerics.sliced:
        model = models.use_small_conv(model, tiled=numerics.tiled)
    model = _on_device(model, numerics)
    named = dict(model.named_parameters())
    backbone, head = ([named[name] for name in names] for names in models.parameter_groups(model))
    averaged = None
    if config.train.ema is not None:
        average = get_ema_multi_avg_fn(config.train.ema)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    optimizer = optim.build(backbone, head, config.train)
    return TrainingState(model, optimizer, averaged, trained_tensor_names(model))


def _on_device(model: nn.Module, numerics: Numerics) -> nn.Module:
    moved: nn.Module = model.to(  # type: ignore[call-overload]
        numerics.device, memory_format=precision.memory_format(numerics)
    )
    return moved
