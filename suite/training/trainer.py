"""The training of one trial. Knows neither Ray nor MLflow: it yields one record per epoch.

Legend: B images per step, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from suite import data, models
from suite.config import read_stored_config
from suite.core import records
from suite.core.errors import DivergedError
from suite.core.records import EpochRecord, Numerics, Objective, Trial, stream
from suite.storage import checkpoint
from suite.system import disk
from suite.training import memory, optim, precision
from suite.training.compile import compiled
from suite.training.feature_cache import BatchFeatureCache
from suite.training.frozen_prefix import prepare_inputs
from suite.training.images import Samples, prepare_images
from suite.training.metrics import Running, scores
from suite.visuals import activation_maps

SAVE_EVERY_S = 30.0  # a checkpoint at the end of an epoch, but not more often than this
LOOK_EVERY = 20  # steps between looks at the loss for NaN: on a GPU each look waits for the device


class Training:
    """One trial in progress: made anew, or taken up from the newest checkpoint in its folder.

    Args:
        trial: what to train.
        dataset: the images of ``trial.config.data``.
        weights: what ``models.load_weights`` gave, None for a random start.
        objective: which epoch is the best one.
        numerics: precision, memory format, threads, device.
        folder: where checkpoints and results go.
        should_stop: asked before each step; True ends ``advance`` early, at the step reached.
        allowed: asked before a checkpoint is put in place.
        kept: told of each checkpoint's folder once it is in place; an OSError of its is a line to the user.
        limit_batches: train and evaluate on only so many batches (``--smoke``).
        warn: takes a line for the user.
        cache: folder where features of a frozen prefix are kept.
        others: features of augmented batches by what determines them, shared by the trainings of a process.
        alive: called after each batch of images that is only looked at (``should_stop`` is asked before each step).
    """

    def __init__(
        self,
        trial: Trial,
        dataset: data.Dataset,
        *,
        weights: models.Weights | None = None,
        objective: Objective,
        numerics: Numerics,
        folder: Path,
        should_stop: Callable[[], bool] = lambda: False,
        allowed: Callable[[], bool] = lambda: True,
        kept: Callable[[Path], None] = lambda folder: None,
        limit_batches: int | None = None,
        warn: Callable[[str], None] = lambda message: None,
        cache: Path | None = None,
        others: dict[str, BatchFeatureCache] | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.alive = alive
        self.trial, self.objective, self.numerics = trial, objective, numerics
        self.folder, self.should_stop, self.allowed, self.warn = folder, should_stop, allowed, warn
        self.kept = kept
        self.config = read_stored_config(trial.config)
        self.device = torch.device(numerics.device)
        torch.set_num_threads(numerics.threads)  # features of frozen layers are made here
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # torch's default: fp32 would mean 10 bits in convolutions alone
            torch.cuda.reset_peak_memory_stats(self.device)  # a worker's trials follow one another
        self.images = prepare_images(dataset, self.config, numerics, weights, limit_batches)
        self.usual_size = self.images.usual_batch_size  # once: each step looks at it
        self._prepare_model(len(dataset.classes), weights)
        self.inputs = prepare_inputs(
            self.images, self.model, self.config, numerics, seed=trial.seed, cache=cache or data.cache_folder(),
            shared_features=others, heartbeat=alive,
        )  # fmt: skip
        self.records: list[EpochRecord] = []
        self.step = 0  # steps done in the epoch in progress
        self.partial = Running()
        self.best: dict[str, Any] = {}
        self._saved_at = time.monotonic()
        self._take_up()

    # ---- what is prepared once -------------------------------------------------------------------------------------

    def _prepare_model(self, num_classes: int, weights: models.Weights | None) -> None:
        model = models.build(
            self.config.model, num_classes, seed=self.trial.seed, weights=weights.state if weights else None
        )
        if self.numerics.sliced:
            model = models.use_small_conv(model, tiled=self.numerics.tiled)
        layout = precision.memory_format(self.numerics)
        self.model: nn.Module = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        named = dict(self.model.named_parameters())
        backbone, head = ([named[name] for name in names] for names in models.parameter_groups(self.model))
        self.optimizer = optim.build(backbone, head, self.config.train)
        self.averaged: AveragedModel | None = None
        if self.config.train.ema is not None:
            average = get_ema_multi_avg_fn(self.config.train.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.changing = _changing(self.model)
        self.compiled_network: nn.Module | None = None  # what training runs of it, once a step has needed it

    # ---- the loop --------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return len(self.records)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return len(self.images.batches)

    @property
    def complete(self) -> bool:
        """Whether all epochs are done, or ``patience`` has run out."""
        return self.epoch >= self.config.train.epochs or self._out_of_patience()

    def advance(self) -> EpochRecord | None:
        """Train to the end of the epoch in progress and evaluate.

        Returns:
            The epoch's record, or None if ``should_stop`` ended it early; a checkpoint of the step reached is
            then in place.

        Raises:
            DivergedError: the loss or a metric became NaN or infinite.
            OutOfMemoryError: no memory left.
        """
        torch.set_num_threads(self.numerics.threads)
        try:
            started = clock(self.device)
            whole = self._train_epoch()
            return self.close(whole, clock(self.device) - started)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise memory.explained(error, self.config) from error

    def _train_epoch(self) -> bool:
        """Steps until the epoch ends (True) or a stop is asked for (False)."""
        network = self.start_epoch()
        while self.step < self.steps_per_epoch:
            if self.should_stop():
                return False
            inputs, targets = self.start_step()
            logits = self.forward(self._compiled(network, len(inputs)), inputs)
            self.loss(logits, targets).backward()  # type: ignore[no-untyped-call]
            self.end_step(logits, targets)
        return True

    def _compiled(self, network: nn.Module, count: int) -> nn.Module:
        """What runs a batch of so many images: compiled code for the most frequent size, if ``numerics`` ask for it."""
        if not self.numerics.compiled or count != self.usual_size:
            return network  # another size would have to be compiled, too
        if self.compiled_network is None:
            self.compiled_network = compiled(network, self.device)
        if self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self.compiled_network

    def start_epoch(self) -> nn.Module:
        """Set all for the steps of the epoch in progress; what is trained of the network, in training mode."""
        order = data.epoch_order(len(self.images.train), self.trial.seed, self.epoch)
        self.order = order.to(self.device)  # now: each step would wait for its part of it
        return self.inputs.after_prefix(self.model.train())

    def start_step(self) -> tuple[Tensor, Tensor]:
        """What the next step is fed, (B, C, H, W) or features, and its targets; rate and dropout are set."""
        config, epoch, steps = self.config.train, self.epoch, self.steps_per_epoch
        inputs, targets = self.inputs.train_batch(self.order[self.images.batches[self.step]], epoch, self.step)
        self._seed(self.dropout_seed)
        optim.set_rate(self.optimizer, config.lr * optim.multiplier(epoch * steps + self.step, steps, config))
        self.optimizer.zero_grad(set_to_none=True)
        return inputs, targets

    def _seed(self, seed: int) -> None:
        """As ``torch.manual_seed``, which on the CPU alone takes 1 ms: it notes the stack for each device there is not.
        That is a quarter of a trial on kept features, whose step is a linear layer.
        """
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    @property
    def dropout_seed(self) -> int:
        """Of the random numbers that the next step drops units by."""
        return stream(self.trial.seed, "dropout", self.epoch, self.step)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What is minimised, of logits (B, K); a scalar."""
        smoothing = self.config.train.label_smoothing
        return F.cross_entropy(logits, targets, self.images.class_weights, label_smoothing=smoothing)

    def end_step(self, logits: Tensor, targets: Tensor) -> None:
        """Change the weights by the gradients that are there, and count the step.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        if self.config.train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.partial.add(logits.detach(), targets)
        self.step += 1
        if self.step % LOOK_EVERY == 0:
            self._refuse_nan(float(self.partial.loss_sum), "train/loss", self.epoch + 1)

    def forward(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Normalised images (B, C, H, W), or features -> float32 logits (B, K)."""
        return precision.forward(network, inputs, self.numerics)

    def close(self, whole: bool, seconds: float) -> EpochRecord | None:
        """End the epoch in progress after so many seconds of training: evaluate, or save where it was not finished."""
        self.partial.seconds += seconds
        if whole:
            return self._close_epoch()
        self.save()
        return None

    def _close_epoch(self) -> EpochRecord:
        """Evaluate, make the record, keep the best, and save where it is time."""
        figures = self.partial.figures()
        images_per_second = self.partial.count / max(self.partial.seconds, 1e-9)
        started = time.perf_counter()
        test_logits: Tensor | None = None
        if len(self.inputs.parts["val"]):
            figures |= scores("val", *self._predict("val"))
        if len(self.inputs.parts["test"]) and self._is_test_due(figures):
            test_logits, labels = self._predict("test")
            figures |= scores("test", test_logits, labels)
        figures |= {
            records.EPOCH_SECONDS: self.partial.seconds + time.perf_counter() - started,
            records.IMAGES_PER_SECOND: images_per_second,
            records.LEARNING_RATE: self.optimizer.param_groups[-1]["lr"],
            records.MEMORY_GIB: memory.in_use_gib(self.device),
        }
        for name, value in figures.items():
            self._refuse_nan(value, name, self.epoch + 1)
        record = EpochRecord(self.epoch + 1, figures)
        self.records.append(record)
        self.step, self.partial = 0, Running()
        if self.objective.chosen(self.records) is record:
            self.best = self._describe_best(test_logits)
        if self.complete or time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save()
        return record

    def _is_test_due(self, figures: Mapping[str, float]) -> bool:
        """Whether the epoch with these training and validation figures evaluates the test images."""
        if self.images.test_schedule != "best":
            return self.images.test_schedule == "every"
        name = self.objective.name
        if name not in figures:  # seconds or memory, which are known only after evaluation
            return True
        best = replace(self.objective, strategy="best").chosen(self.records)
        return self.objective.better(figures[name], best.metrics[name] if best else None)

    def _missing_test_figures(self, chosen: EpochRecord) -> dict[str, float]:
        """Test figures of the chosen epoch if its record has none; its logits are then in ``best``."""
        if not len(self.inputs.parts["test"]) or records.TEST_LOSS in chosen.metrics:
            return {}
        logits, labels = self._predict("test", self._best_network())
        self.best["test_logits"] = logits.cpu()
        figures = scores("test", logits, labels)
        for name, value in figures.items():
            self._refuse_nan(value, name, chosen.epoch)
        return figures

    def _best_network(self) -> nn.Module:
        """A copy of the network as it was at the best epoch."""
        network = copy.deepcopy(self.averaged.module if self.averaged is not None else self.model)
        network.load_state_dict(self.best["model"], strict=False)
        return network

    def evaluate_test(self) -> tuple[Tensor, Tensor]:
        """Logits, float32 (N, K), and labels, int64 (N,), of the test images as the network is now."""
        return self._predict("test")

    def _predict(self, name: str, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits, float32 (N, K), and labels, int64 (N,), of a part's images, in its order.

        Args:
            model: the network to use. Default: as it is now, averaged where that is asked for.
        """
        if model is None:
            model = self.averaged.module if self.averaged is not None else self.model
        network = self.inputs.after_prefix(model.eval())
        pairs = []
        with torch.inference_mode():
            for inputs, labels in self.inputs.eval_batches(name):
                pairs.append((self.forward(network, inputs), labels))
                self.alive()
        return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])

    def _refuse_nan(self, value: float, name: str, epoch: int) -> None:
        if not math.isfinite(value):
            raise DivergedError(f"diverged in epoch {epoch}: {name} is {value}")

    def _out_of_patience(self) -> bool:
        best = replace(self.objective, strategy="best").chosen(self.records)
        patience = self.config.train.patience
        return patience is not None and best is not None and self.epoch - best.epoch >= patience

    # ---- what is kept ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of this moment. Where there is no room for it, say so: the one before it stays."""
        last = {
            "records": [{"epoch": record.epoch, "metrics": dict(record.metrics)} for record in self.records],
            "step": self.step,
            "partial": self.partial.state(),
            "model": self._changed(self.model),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self._average() if self.averaged is not None else None,
        }
        files: dict[str, Mapping[str, Any]] = {"last.pt": last}
        if self.best:
            files["best.pt"] = self.best
        try:
            saved = checkpoint.save(
                self.folder / "checkpoints", files,
                trial=self.trial.id, epoch=self.epoch, step=self.step, allowed=self.allowed,
            )  # fmt: skip
            if saved is not None:
                self.kept(saved)
        except OSError as error:
            self.warn(f"no checkpoint of epoch {self.epoch} could be written: {disk.said(error, self.folder)}")
        self._saved_at = time.monotonic()

    def _take_up(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        folder = self.folder / "checkpoints"
        checkpoint.sweep_drafts(folder)
        found = checkpoint.newest(folder, self.trial.id, self.warn)
        if found is None:
            return
        last = found.read("last.pt")
        self.records = [EpochRecord(record["epoch"], record["metrics"]) for record in last["records"]]
        self.step, self.partial = last["step"], Running(**last["partial"])
        self.model.load_state_dict(last["model"], strict=False)
        self.optimizer.load_state_dict(last["optimizer"])
        if self.averaged is not None and last["averaged"] is not None:
            self.averaged.module.load_state_dict(last["averaged"]["model"], strict=False)
            self.averaged.n_averaged.fill_(last["averaged"]["steps"])
        if (found.folder / "best.pt").exists():
            self.best = found.read("best.pt")

    def _average(self) -> dict[str, Any]:
        """The moving average: what changes in it, and the steps that it has seen."""
        assert self.averaged is not None
        return {"model": self._changed(self.averaged.module), "steps": int(self.averaged.n_averaged)}

    def _changed(self, model: nn.Module) -> dict[str, Tensor]:
        """The tensors that training changes; the rest is rebuilt from the seed and the weights."""
        state = model.state_dict()
        return {name: state[name].detach().to("cpu", copy=True) for name in self.changing}

    def _describe_best(self, test_logits: Tensor | None) -> dict[str, Any]:
        model = self.averaged.module if self.averaged is not None else self.model
        return {
            "epoch": self.epoch,
            "model": self._changed(model),
            "classes": list(self.images.classes),
            "image_size": self.images.side,
            "mean": self.images.normalise.mean.flatten().tolist(),
            "std": self.images.normalise.std.flatten().tolist(),
            "test_logits": test_logits.cpu() if test_logits is not None else None,
        }

    def _export(self) -> dict[str, Any]:
        """The best epoch with every tensor of the network: usable without the weights that it started from."""
        state = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        kept = {name: value for name, value in self.best.items() if name != "test_logits"}
        return kept | {"model": state | self.best["model"]}

    def finish(self) -> dict[str, Any]:
        """Write ``best.pt`` and ``predictions.npz`` of a complete trial.

        Returns:
            Plain facts of the end: epochs, best_epoch, best_value, parameters, the files with their sha256, and
            "test": the test figures of best_epoch, unless its record has them already.
        """
        chosen = self.objective.chosen(self.records)
        trainable, total = models.count_parameters(self.model)
        facts: dict[str, Any] = {
            "epochs": self.epoch,
            "best_epoch": chosen.epoch if chosen else None,
            "best_value": chosen.metrics[self.objective.name] if chosen else None,
            "parameters_trainable": trainable,
            "parameters_total": total,
            "prefix": self.inputs.describe_prefix(),
            "test": {},
            "files": {},
        }
        if chosen is None or not self.best or not self.allowed():
            return facts
        facts["test"] = self._missing_test_figures(chosen)
        logits = self.best["test_logits"]
        if logits is not None:
            labels = self.images.test.labels[self.images.test.index]
            _replace(
                self.folder / "predictions.npz",
                lambda file: np.savez_compressed(
                    file,
                    index=self.images.test.index.cpu().numpy(),
                    labels=labels.cpu().numpy(),
                    logits=logits.numpy(),
                ),
            )
        _replace(self.folder / "best.pt", lambda file: torch.save(self._export(), file))
        disk.sync(self.folder, above=2)  # the journal is about to say that they are there
        written = ("predictions.npz", "best.pt") if logits is not None else ("best.pt",)
        facts["files"] = {name: checkpoint.digest(self.folder / name) for name in written}
        return facts

    def draw(self) -> dict[str, Any]:
        """Write the sheets of the best epoch of a complete trial to ``activations/``, for the same image in each trial.

        Works on a copy of the network: the trial stays as it is, random states included.

        Returns:
            Plain facts: folder, files in forward order, step = best epoch, share of dead channels by ReLU as metrics.

        Raises:
            InterruptedError: a stop was asked for meanwhile.
        """
        network = self._best_network()
        image = self.images.test.images[self.images.example]
        label = self.images.classes[int(self.images.test.labels[self.images.example])]
        about = f"test image {self.images.example} ({label})"
        dead = activation_maps.find_dead(network, self._looked_at(self.images.test))
        drawn = activation_maps.sheets(
            network,
            self.images.normalise.from_bytes(image[None])[0],
            dead=dead,
            width=activation_maps.TRACKED_WIDTH,
            greys=activation_maps.TRACKED_GREYS,
        )
        files = activation_maps.save(self.folder / activation_maps.KEY, drawn, dead, image=about)
        return {"key": activation_maps.KEY, "files": files, "step": self.best["epoch"], "metrics": dead.shares}

    def _looked_at(self, part: Samples) -> Iterator[Tensor]:
        for images, _ in part.eval_batches():
            if self.should_stop():
                raise InterruptedError("the sweep is being stopped")
            yield self.images.normalise.from_bytes(images)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given: a GPU is told of work and not waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fit(training: Training) -> Iterator[EpochRecord]:
    """Run a trial to its end, or to where it is asked to stop; yields one record per epoch."""
    while not training.complete:
        record = training.advance()
        if record is None:
            return
        yield record


def _changing(model: nn.Module) -> list[str]:
    """Names of the tensors that training changes: trainable weights, and statistics that still move."""
    model.train()
    still = {
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.training
        for buffer, _ in module.named_buffers(recurse=False)
    }
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [name for name in model.state_dict() if name not in still and name not in frozen]


def _replace(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file beside and rename it into place, so that it is never half there."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())  # the journal is about to say that it is there
    draft.replace(path)
