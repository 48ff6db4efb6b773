"""Train one trial, epoch by epoch. Knows neither Ray nor MLflow.

Legend: B images per step, C channels, H x W pixels, K classes, N test images.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite import data
from suite.config import TrialConfig
from suite.core import records
from suite.core.records import EpochRecord, Numerics, Objective, Trial
from suite.training import memory, optim, precision, randomness, results
from suite.training.compile import StepCompiler
from suite.training.evaluation import Evaluator, clock, is_out_of_patience, require_finite
from suite.training.frozen_prefix import Inputs
from suite.training.hooks import TrainingHooks
from suite.training.metrics import MetricAccumulator, scores
from suite.training.state import StateStore, TrainingState

CHECK_LOSS_EVERY = 20  # steps between checks of the loss for NaN: on a GPU each one waits


class Trainer:
    """Trains one trial. ``suite.training.setup.prepare_trainer`` makes one.

    Args:
        trial: what to train.
        config: its settings.
        inputs: what each step and each evaluation feeds to the network.
        state: where training starts or continues.
        store: where checkpoints and results go.
        objective: decides which epoch is the best.
        numerics: precision, memory format, threads, device.
        hooks: the process that runs the trial.
    """

    def __init__(
        self,
        trial: Trial,
        config: TrialConfig,
        inputs: Inputs,
        state: TrainingState,
        store: StateStore,
        *,
        objective: Objective,
        numerics: Numerics,
        hooks: TrainingHooks,
    ) -> None:
        self.trial, self.config, self.objective = trial, config, objective
        self.inputs, self.images = inputs, inputs.images
        self.state, self.store, self.hooks = state, store, hooks
        self.numerics, self.device = numerics, torch.device(numerics.device)
        self._evaluator = Evaluator(inputs, objective, numerics, hooks.heartbeat)
        self._compiler = StepCompiler(numerics, self.images.usual_batch_size)

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.state.model

    @property
    def records(self) -> list[EpochRecord]:
        """One per completed epoch."""
        return self.state.records

    @property
    def epoch(self) -> int:
        """Completed epochs."""
        return self.state.epoch

    @property
    def step(self) -> int:
        """Completed steps of the epoch in progress."""
        return self.state.step

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return len(self.images.batches)

    @property
    def complete(self) -> bool:
        """Whether all epochs are done, or ``train.patience`` has run out."""
        config = self.config.train
        return self.epoch >= config.epochs or is_out_of_patience(
            config.patience, self.objective, self.records
        )

    @property
    def dropout_seed(self) -> int:
        """The seed of the units that the next step drops."""
        return randomness.dropout_seed(self.trial.seed, self.epoch, self.step)

    def train_epoch(self) -> EpochRecord | None:
        """Train to the end of the epoch in progress and evaluate.

        Returns:
            The epoch's record, or None if ``should_stop`` ended it early with a checkpoint.

        Raises:
            DivergedError: the loss or a metric became NaN or infinite.
            OutOfMemoryError: out of memory.
        """
        torch.set_num_threads(self.numerics.threads)
        try:
            started = clock(self.device)
            finished = self._train_steps()
            return self.end_epoch(clock(self.device) - started, finished=finished)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            raise memory.explained(error, self.config) from error

    def _train_steps(self) -> bool:
        """Train until the epoch ends (True) or a stop is requested (False)."""
        network = self.start_epoch()
        while self.step < self.steps_per_epoch:
            if self.hooks.should_stop():
                return False
            inputs, targets = self.start_step()
            runnable = self._compiler.network_for(network, len(inputs))
            logits = precision.forward(runnable, inputs, self.numerics)
            self.loss(logits, targets).backward()  # type: ignore[no-untyped-call]
            self.end_step(logits, targets)
        return True

    def start_epoch(self) -> nn.Module:
        """Draw the order of the epoch in progress; returns the trained layers, in training mode."""
        order = data.epoch_order(len(self.images.train), self.trial.seed, self.epoch)
        self.order = order.to(self.device)  # once: each step would wait for its part
        return self.inputs.after_prefix(self.model.train())

    def start_step(self) -> tuple[Tensor, Tensor]:
        """Set rate and dropout; returns inputs, (B, C, H, W) or features, and targets."""
        config, steps, optimizer = self.config.train, self.steps_per_epoch, self.state.optimizer
        positions = self.order[self.images.batches[self.step]]
        inputs, targets = self.inputs.train_batch(positions, self.epoch, self.step)
        randomness.seed_generator(self.dropout_seed, self.device)
        multiplier = optim.multiplier(self.epoch * steps + self.step, steps, config)
        optim.set_rate(optimizer, config.lr * multiplier)
        optimizer.zero_grad(set_to_none=True)
        return inputs, targets

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training minimises, of logits (B, K)."""
        smoothing, weights = self.config.train.label_smoothing, self.images.class_weights
        return F.cross_entropy(logits, targets, weights, label_smoothing=smoothing)

    def end_step(self, logits: Tensor, targets: Tensor) -> None:
        """Update the weights by their gradients, and count the step.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        if self.config.train.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_clip)
        state = self.state
        state.optimizer.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model)
        state.totals.add(logits.detach(), targets)
        state.step += 1
        if state.step % CHECK_LOSS_EVERY == 0:
            require_finite({records.TRAIN_LOSS: float(state.totals.loss_sum)}, self.epoch + 1)

    def end_epoch(self, seconds: float, *, finished: bool) -> EpochRecord | None:
        """Add ``seconds`` of training; record a finished epoch, or save an unfinished one."""
        self.state.totals.seconds += seconds
        if finished:
            return self._record_epoch()
        self.save()
        return None

    def _record_epoch(self) -> EpochRecord:
        state = self.state
        figures, test_logits = self._evaluator.evaluate(state)
        require_finite(figures, self.epoch + 1)
        record = EpochRecord(self.epoch + 1, figures)
        state.records.append(record)
        state.step, state.totals = 0, MetricAccumulator()
        if self.objective.chosen(state.records) is record:
            state.best = results.best_epoch(state, self.images, test_logits)
        if self.complete or self.store.is_due:
            self.save()
        return record

    def evaluate_test(self) -> tuple[Tensor, Tensor]:
        """Logits, float32 (N, K), and labels, int64 (N,), of the test images now."""
        return self._evaluator.predict(self.state.evaluated, "test")

    def save(self) -> None:
        """Write a checkpoint. If it cannot be written, warn; the one before it stays."""
        self.store.save(self.state, self.hooks)

    def finish(self) -> results.TrialFacts:
        """Write ``best.pt`` and ``predictions.npz`` of a complete trial."""
        facts = results.describe(self.state, self.objective, self.inputs)
        chosen, best = self.objective.chosen(self.records), self.state.best
        if chosen is None or best is None or not self.hooks.owns_sweep():
            return facts
        logits = best["test_logits"]
        if len(self.images.test) and records.TEST_LOSS not in chosen.metrics:
            logits, labels = self._evaluator.predict(self.state.best_network(), "test")
            facts["test"] = scores("test", logits, labels)
            require_finite(facts["test"], chosen.epoch)
        folder, test = self.store.folder, self.images.test
        facts["files"] = results.write_results(folder, self.model, best, test, logits)
        return facts

    def draw_activation_maps(self) -> results.DrawnMaps:
        """Write the activation maps of the best epoch of a complete trial.

        Raises:
            InterruptedError: a stop was requested meanwhile.
        """
        assert self.state.best is not None
        network, epoch = self.state.best_network(), self.state.best["epoch"]
        return results.draw_activation_maps(
            self.store.folder, network, self.images, epoch, self.hooks.should_stop
        )


def fit(trainer: Trainer) -> Iterator[EpochRecord]:
    """Train to the end, or until a stop is requested; yields one record per epoch."""
    while not trainer.complete:
        record = trainer.train_epoch()
        if record is None:
            return
        yield record
