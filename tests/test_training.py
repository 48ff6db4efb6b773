"""The loop in this process: what each setting does to a step, resuming at every step, damaged
checkpoints.
"""

from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from training import (
    ACC,
    LAST_LOSS,
    differing,
    everything,
    finish,
    images,
    plain,
    replace,
    stopping_at,
    training,
    trial,
)

from suite import data, models
from suite.config import ModelConfig, TrainConfig, TrialConfig
from suite.core.errors import DivergedError, OutOfMemoryError
from suite.core.records import Numerics, stream
from suite.models import strip_conv
from suite.models.trained import rebuild
from suite.storage import checkpoint
from suite.training import metrics, optim
from suite.training.hooks import TrainingHooks

FULL = {
    "ema": 0.7,
    "grad_clip": 1.0,
    "label_smoothing": 0.1,
    "optimizer": "adamw",
    "class_weights": "balanced",
}


# ---- schedules -----------------------------------------------------------------------------------


def rates(epochs: int = 8, per_epoch: int = 1, **settings: Any) -> list[float]:
    config = TrialConfig.model_validate({"train": {"epochs": epochs, **settings}}).train
    return [optim.multiplier(step, per_epoch, config) for step in range(epochs * per_epoch)]


def test_constant_and_step_are_as_written_out() -> None:
    assert rates(schedule="constant") == [1.0] * 8
    assert rates(schedule="step") == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates(schedule="step", epochs=4, per_epoch=4) == pytest.approx(
        [1] * 8 + [0.1] * 4 + [0.01] * 4
    )


def test_the_steps_of_step_are_shares_of_all_epochs_also_with_a_warm_up() -> None:
    assert rates(schedule="step", warmup_epochs=2) == pytest.approx(
        [0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    )


@pytest.mark.parametrize(("warmup", "per_epoch", "first"), [
    (2, 2, [0.25, 0.5, 0.75, 1.0]),
    (0.5, 5, [1 / 3, 2 / 3, 1.0]),
    (0.1, 5, [1.0]),
])  # fmt: skip
def test_the_warm_up_rises_in_equal_steps_to_the_peak(
    warmup: float, per_epoch: int, first: list[float]
) -> None:
    for schedule in ("constant", "cosine"):
        found = rates(schedule=schedule, warmup_epochs=warmup, per_epoch=per_epoch)
        assert found[: len(first)] == pytest.approx(first)
        assert max(found) == 1.0 and found.index(1.0) == len(first) - 1


def test_cosine_is_torchs() -> None:
    for total in (1, 2, 7, 40):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
        expected = []
        for _ in range(total):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates(schedule="cosine", epochs=total) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_is_torchs_to_within_a_step_with_a_straight_rise_from_zero() -> None:
    total = 200
    found = rates(schedule="one_cycle", epochs=10, per_epoch=20)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        1.0,
        total_steps=total,
        pct_start=0.3,
        div_factor=1e9,
        final_div_factor=1e9,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found[:60] == pytest.approx([(step + 1) / 60 for step in range(60)])
    assert max(found) == 1.0 and found.index(1.0) == np.argmax(expected) == 59
    slope = math.pi / 2 / 140  # the steepest change of the cosine in one step
    assert max(abs(a - b) for a, b in zip(found[59:], expected[59:], strict=True)) <= 1.01 * slope
    assert 0 <= found[-1] < 0.001
    assert all(0 < rate <= 1 for rate in rates(schedule="one_cycle", epochs=1)), "one step only"


def test_the_rate_on_record_is_the_one_of_the_last_step(tmp_path: Path) -> None:
    found = finish(training(trial(epochs=4, schedule="step"), tmp_path)).records
    assert [record.metrics["train/lr"] for record in found] == pytest.approx(
        [0.05, 0.05, 0.005, 0.0005]
    )


# ---- one step, written out -----------------------------------------------------------------------


def steps_of(build: Any, count: int, **settings: Any) -> tuple[list[list[torch.Tensor]], Any]:
    """Weights after each of ``count`` steps on fixed gradients; and the gradients."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    gradients = [
        [torch.randn_like(parameter) for parameter in net.parameters()] for _ in range(count)
    ]
    config = TrialConfig.model_validate(
        {"train": {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, **settings}}
    ).train
    optimizer = build(list(net.parameters()), config)
    weights = [[parameter.detach().clone() for parameter in net.parameters()]]
    for drawn in gradients:
        for parameter, gradient in zip(net.parameters(), drawn, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        weights.append([parameter.detach().clone() for parameter in net.parameters()])
    return weights, gradients


def ours(parameters: list[nn.Parameter], config: Any) -> torch.optim.Optimizer:
    return optim.build(parameters[:4], parameters[4:], config)


@pytest.mark.parametrize("decayed", ["all", "weights"])
@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw"])
def test_a_step_of_each_optimizer_is_the_written_out_one(optimizer: str, decayed: str) -> None:
    """Nesterov as in Sutskever et al. 2013, Adam as in Kingma and Ba 2014, AdamW as in
    Loshchilov and Hutter 2017.
    """
    settings = (
        {"optimizer": "sgd", "nesterov": True}
        if optimizer == "nesterov"
        else {"optimizer": optimizer}
    )
    weights, gradients = steps_of(ours, 3, decay=decayed, **settings)
    for place, start in enumerate(weights[0]):
        decay = 0.01 if start.ndim >= 2 or decayed == "all" else 0.0
        p, first, second = (
            start.double(),
            torch.zeros_like(start).double(),
            torch.zeros_like(start).double(),
        )
        for count, drawn in enumerate(gradients, start=1):
            g = drawn[place].double()
            if optimizer in ("sgd", "nesterov"):
                g = g + decay * p
                first = g if count == 1 else 0.9 * first + g
                p = p - 0.1 * (g + 0.9 * first if optimizer == "nesterov" else first)
            else:
                if optimizer == "adamw":
                    p = p - 0.1 * decay * p
                else:
                    g = g + decay * p
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
                p = p - 0.1 * (first / (1 - 0.9**count)) / (
                    (second / (1 - 0.999**count)).sqrt() + 1e-8
                )
            torch.testing.assert_close(weights[count][place].double(), p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_by_default_an_optimizer_steps_as_torchs_does(optimizer: str) -> None:
    """Given ``model.parameters()``: plain momentum, and weight decay on biases and BatchNorm
    too.
    """
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    more: dict[str, Any] = {"momentum": 0.9} if optimizer == "sgd" else {}

    def stock(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
        return kind(parameters, lr=0.1, weight_decay=0.01, **more)  # type: ignore[no-any-return]

    steps = [steps_of(build, 3, optimizer=optimizer)[0] for build in (ours, stock)]
    for found, expected in zip(*steps, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_without_momentum_a_step_goes_down_the_gradient() -> None:
    weights, gradients = steps_of(ours, 1, momentum=0.0, weight_decay=0.0)
    for start, after, gradient in zip(*weights, gradients[0], strict=True):
        torch.testing.assert_close(after, start - 0.1 * gradient)


def test_the_backbones_rate_is_a_multiple_of_the_heads(tmp_path: Path) -> None:
    made = training(trial("nets:plain", backbone_lr_scale=0.25, schedule="constant"), tmp_path)
    made.train_epoch()
    assert sorted({group["lr"] for group in made.state.optimizer.param_groups}) == pytest.approx(
        [0.0125, 0.05]
    )
    still = training(trial("nets:plain", backbone_lr_scale=0.0), tmp_path / "still")
    before = {name: value.clone() for name, value in still.model.state_dict().items()}
    still.train_epoch()
    moved = {
        name
        for name, value in still.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("augment", "settings"),
    [
        ("none", {}),
        ("none", {"label_smoothing": 0.2}),
        ("none", {"class_weights": "balanced"}),
        ("none", {"class_weights": "balanced", "label_smoothing": 0.2}),
        ("none", {"grad_clip": 0.05}),
        ("flip+mixup", {}),
        ("cutmix", {"label_smoothing": 0.2, "class_weights": "balanced"}),
    ],
    ids=str,
)
def test_the_gradient_of_the_first_step_is_the_written_out_one(
    tmp_path: Path, augment: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = images((30, 20, 10, 8))
    made = training(
        trial("nets:plain", augment=augment, seed=3, data__val_size=0, **settings),
        tmp_path,
        dataset,
        LAST_LOSS,
    )
    caught: list[list[torch.Tensor]] = []
    monkeypatch.setattr(
        made.state.optimizer,
        "step",
        lambda: caught.append(
            [p.grad.clone() for p in made.model.parameters() if p.grad is not None]
        ),
    )
    made.hooks = TrainingHooks(should_stop=stopping_at(1))
    assert made.train_epoch() is None

    config = TrialConfig.model_validate(made.trial.config)
    split = data.split(dataset.train_labels, dataset.test_labels, config.data, dataset.classes)
    rows = torch.from_numpy(split.train)[data.epoch_order(68, 3, 0)[:10]]
    picked, labels = (
        torch.from_numpy(dataset.train_images)[rows],
        torch.from_numpy(dataset.train_labels)[rows],
    )
    pixels, targets = made.images.augment(
        picked, labels, torch.Generator().manual_seed(stream(3, "augment", 0, 0))
    )
    if augment == "none":
        torch.testing.assert_close(pixels, picked.float() / 255)
        targets = F.one_hot(labels, 4).float()
    else:
        assert targets.ndim == 2 and ((targets > 0).sum(1) > 1).any(), "no label was mixed"
    every = torch.from_numpy(dataset.train_images)[torch.from_numpy(split.train)].double() / 255
    mean, std = every.mean((0, 2, 3)), every.std((0, 2, 3), correction=0)
    pixels = (pixels - mean.float().view(1, 3, 1, 1)) / std.float().view(1, 3, 1, 1)
    net = models.build(config.model, 4, seed=3)
    log_p = net(pixels).log_softmax(1)
    smoothing = settings.get("label_smoothing", 0.0)
    targets = targets * (1 - smoothing) + smoothing / 4
    weights = torch.ones(4)
    if "class_weights" in settings:
        weights = 68 / (4 * torch.bincount(torch.from_numpy(dataset.train_labels)).float())
    losses = -(targets * weights * log_p).sum(1)
    # torch divides by the weights of the labels where they are classes, by the images where they
    # are mixtures
    loss = losses.sum() / weights[labels].sum() if augment == "none" else losses.mean()
    loss.backward()
    expected = [parameter.grad for parameter in net.parameters()]
    if "grad_clip" in settings:
        norm = torch.cat(
            [gradient.flatten() for gradient in expected if gradient is not None]
        ).norm()
        assert norm > 0.05
        expected = [gradient * 0.05 / norm for gradient in expected if gradient is not None]
    torch.testing.assert_close(caught[0], expected, rtol=1e-4, atol=1e-6)


def test_the_loss_on_record_has_neither_smoothing_nor_class_weights(tmp_path: Path) -> None:
    """Otherwise arms that differ there could not be compared."""
    dataset = images((40, 10, 10, 10))
    settings: dict[str, Any] = {"lr": 1e-12, "weight_decay": 0.0, "epochs": 1}
    one = finish(training(trial("nets:plain", **settings), tmp_path / "1", dataset))
    two = finish(
        training(
            trial("nets:plain", label_smoothing=0.3, class_weights="balanced", **settings),
            tmp_path / "2",
            dataset,
        )
    )
    for name in ("train/loss", "val/loss", "test/loss"):
        assert one.records[0].metrics[name] == pytest.approx(two.records[0].metrics[name], rel=1e-5)


def test_the_moving_average_is_the_written_out_one_and_is_what_is_evaluated(tmp_path: Path) -> None:
    made = training(trial(ema=0.7, model__freeze_depth=2), tmp_path)
    average: dict[str, torch.Tensor] = {}
    step = made.state.optimizer.step

    def observed() -> None:
        step()
        for name, value in made.model.state_dict().items():
            new = value.detach().clone().double()
            average[name] = average[name] * 0.7 + new * 0.3 if name in average else new

    made.state.optimizer.step = observed  # type: ignore[method-assign,assignment]
    record = made.train_epoch()
    assert made.state.averaged is not None and record is not None
    for name, value in made.state.averaged.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
    made.state.averaged.module.eval()
    with torch.inference_mode():
        pixels = made.images.test.images[made.images.test.index].float() / 255
        logits = made.state.averaged.module(
            (pixels - made.images.normalise.mean) / made.images.normalise.std
        )
    right = (logits.argmax(1) == made.images.test.labels[made.images.test.index]).double().mean()
    assert record.metrics["test/acc"] == pytest.approx(float(right))
    assert record.metrics["test/loss"] == pytest.approx(
        float(F.cross_entropy(logits.double(), made.images.test.labels[made.images.test.index])),
        rel=1e-5,
    )


# ---- what an epoch says --------------------------------------------------------------------------


def test_balanced_accuracy_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 3, 7):
        for _ in range(20):
            labels = (
                torch.randint(classes, (23,), generator=generator) ** 2 % classes
            )  # some classes may be missing
            logits = torch.randn(23, classes, generator=generator)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # of a predicted class that has no image
                expected = balanced_accuracy_score(labels, logits.argmax(1))
            found = metrics.scores("val", logits, labels)
            assert found["val/balanced_acc"] == pytest.approx(expected)
            assert found["val/loss"] == pytest.approx(
                float(F.cross_entropy(logits.double(), labels))
            )


def test_the_training_figures_are_those_of_each_step(tmp_path: Path) -> None:
    made = training(trial("nets:plain", lr=1e-12, epochs=1, last_batch="keep"), tmp_path)
    (record,) = finish(made).records
    with torch.inference_mode():
        pixels = made.images.train.images[made.images.train.index].float() / 255
        logits = made.model((pixels - made.images.normalise.mean) / made.images.normalise.std)
    labels = made.images.train.labels[made.images.train.index]
    assert record.metrics["train/loss"] == pytest.approx(
        float(F.cross_entropy(logits, labels)), rel=1e-5
    )
    assert record.metrics["train/acc"] == pytest.approx(
        float((logits.argmax(1) == labels).double().mean())
    )


def test_test_labels_select_nothing(tmp_path: Path) -> None:
    dataset = images()
    turned = replace(dataset, test_labels=(dataset.test_labels + 1) % 4)
    one = finish(training(trial(epochs=6, patience=3), tmp_path / "1", dataset))
    two = finish(training(trial(epochs=6, patience=3), tmp_path / "2", turned))
    kept = [
        [{k: v for k, v in each.items() if not k.startswith("test/")} for each in plain(x.records)]
        for x in (one, two)
    ]
    assert (
        kept[0] == kept[1]
        and one.records[-1].metrics["test/acc"] != two.records[-1].metrics["test/acc"]
    )
    ends = [one.finish(), two.finish()]
    assert (
        ends[0]["best_epoch"] == ends[1]["best_epoch"]
        and ends[0]["best_value"] == ends[1]["best_value"]
    )
    best = [torch.load(tmp_path / which / "best.pt", weights_only=True)["model"] for which in "12"]
    assert not differing(*best)


@pytest.mark.parametrize("strategy", ["best", "last"])
def test_patience_ends_a_trial_that_no_longer_improves(tmp_path: Path, strategy: str) -> None:
    made = training(
        trial("nets:plain", epochs=30, lr=1e-12, patience=3),
        tmp_path,
        objective=replace(ACC, strategy=strategy),
    )
    assert len(finish(made).records) == 4, "the first epoch, and three that are no better"
    assert len(training(made.trial, tmp_path, objective=made.objective).records) == 4
    assert training(made.trial, tmp_path, objective=made.objective).complete, (
        "patience outlives the process"
    )


def test_a_loss_that_is_not_finite_ends_the_trial_and_names_the_epoch(tmp_path: Path) -> None:
    made = training(trial(lr=1e30, epochs=3), tmp_path)
    with pytest.raises(DivergedError, match=r"diverged in epoch 1: \w+/loss is (nan|inf)"):
        finish(made)
    made = training(trial(epochs=3), tmp_path)
    made.train_epoch()
    with torch.no_grad():
        made.model.get_parameter("fc.bias").fill_(float("nan"))
    with pytest.raises(DivergedError, match="diverged in epoch 2"):
        made.train_epoch()
    assert len(made.records) == 1, "no record without a figure"


def test_running_out_of_memory_says_with_what(tmp_path: Path) -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
    ):
        made = training(trial(), tmp_path)

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        made.model.forward = fail  # type: ignore[method-assign,assignment]
        with pytest.raises(OutOfMemoryError, match="out of memory with nets:tiny at batch 10"):
            made.train_epoch()


def test_a_network_without_validation_images_trains(tmp_path: Path) -> None:
    made = finish(training(trial(data__val_size=0), tmp_path, objective=LAST_LOSS))
    assert not any(name.startswith("val/") for record in made.records for name in record.metrics)
    facts = made.finish()
    assert facts["best_epoch"] == 2 and list(facts["files"]) == ["predictions.npz", "best.pt"]
    assert facts["files"] == {name: checkpoint.digest(tmp_path / name) for name in facts["files"]}


@pytest.mark.parametrize(
    ("last_batch", "images", "size", "expected"),
    [
        ("drop", 5000, 128, [128] * 39), ("drop", 4992, 128, [128] * 39),
        ("drop", 61, 20, [20] * 3),
        ("drop", 19, 20, [19]), ("drop", 1, 20, [1]), ("drop", 39, 20, [20]),
        ("spread", 5000, 128, [125] * 40), ("spread", 62, 20, [16, 16, 15, 15]),
        ("spread", 60, 20, [20] * 3),
        ("spread", 19, 20, [19]), ("spread", 21, 20, [11, 10]),
        ("spread", 2600, 128, [124] * 17 + [123] * 4),
        ("spread", 3, 2, [3]), ("spread", 5, 2, [3, 2]), ("spread", 3, 1, [1, 1, 1]),
        ("keep", 5000, 128, [128] * 39 + [8]), ("keep", 62, 20, [20, 20, 20, 2]),
        ("keep", 60, 20, [20] * 3),
        ("keep", 61, 20, [20, 20, 21]), ("keep", 21, 20, [21]), ("keep", 1, 20, [1]),
        ("keep", 19, 20, [19]),
    ],
)  # fmt: skip
def test_the_batches_of_an_epoch(
    last_batch: Any, images: int, size: int, expected: list[int]
) -> None:
    """By hand.

    They follow each other; BatchNorm refuses a single value per channel, so no batch is one image.
    """
    config = TrainConfig(batch_size=size, last_batch=last_batch)
    slices = data.batch_slices(images, config)
    assert [batch.stop - batch.start for batch in slices] == expected
    assert [batch.start for batch in slices] == [0, *(batch.stop for batch in slices[:-1])]
    assert data.trained_images(images, config) == sum(expected)


@pytest.mark.parametrize(
    ("last_batch", "expected"),
    [("drop", [20, 20]), ("spread", [15, 15, 14]), ("keep", [20, 20, 4])],
)
def test_an_epoch_trains_on_its_batches(
    tmp_path: Path, last_batch: str, expected: list[int]
) -> None:
    """44 images at 20. What ``drop`` leaves out differs from epoch to epoch."""
    settings: dict[str, Any] = {
        "data__val_size": 0,
        "data__train_size": 44,
        "batch_size": 20,
        "epochs": 2,
    }
    made = training(trial(last_batch=last_batch, **settings), tmp_path, objective=LAST_LOSS)
    seen: list[int] = []
    made.model.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0])) if made.model.training else None
    )
    orders = []
    for _ in range(2):
        made.train_epoch()
        orders.append(made.order)
    assert seen == 2 * expected and made.steps_per_epoch == len(expected)
    left = [set(order[sum(expected) :].tolist()) for order in orders]
    assert [len(rows) for rows in left] == [44 - sum(expected)] * 2
    assert last_batch != "drop" or left[0] != left[1]
    rates = [
        optim.multiplier(step, len(expected), made.config.train)
        for step in range(2 * len(expected))
    ]
    assert made.records[-1].metrics["train/lr"] == pytest.approx(0.05 * rates[-1])


def test_bf16_trains_like_fp32(tmp_path: Path) -> None:
    curves = [
        [record.metrics["train/loss"] for record in finish(training(
            trial(epochs=3), tmp_path / precision, numerics=Numerics(precision, channels_last=True)
        )).records]
        for precision in ("fp32", "bf16")
    ]  # fmt: skip
    assert curves[0] != curves[1], "bf16 was not used"
    assert curves[0] == pytest.approx(curves[1], rel=0.03)


@pytest.mark.parametrize("arch", ["resnet18_cifar", "resnet18", "resnet20"])
@pytest.mark.parametrize("tiled", [False, True], ids=["as it is", "as it is trained"])
def test_each_convolution_in_bf16_is_the_one_in_fp32_to_what_bf16_can_tell(
    arch: str, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every shape that the network has at 32 pixels: values and both gradients, relative to
    their length.

    As it is trained: sliced where the map is tiny, by strips (on any processor here) where it is
    small and has many channels.

    bf16 keeps 8 bits, so each factor is off by up to 2 ** -9; the sums are in fp32. A tenth of the
    inputs that is wrong would be off by 0.3.
    """
    monkeypatch.setattr(strip_conv, "has_amx", lambda: True)
    net = models.build(ModelConfig(arch=arch), 10)
    shapes: dict[tuple[Any, ...], tuple[nn.Conv2d, tuple[int, ...]]] = {}

    def note(layer: nn.Module, given: tuple[torch.Tensor, ...], _: object) -> None:
        assert isinstance(layer, nn.Conv2d)
        shapes[layer.weight.shape, layer.stride, given[0].shape[1:]] = (
            layer,
            tuple(given[0].shape[1:]),
        )

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        net(torch.rand(2, 3, 32, 32))
    generator = torch.Generator().manual_seed(0)
    for layer, shape in list(shapes.values()):
        found = []
        inputs = torch.randn(20, *shape, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for kind in (torch.float32, torch.bfloat16):
            twin = copy.deepcopy(layer).to(memory_format=torch.channels_last)
            twin._forward_hooks.clear()
            if tiled and kind is torch.bfloat16:
                twin = models.use_small_conv(twin, tiled=True)
            fed = inputs.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
                out = twin(fed)
            assert out.dtype is kind
            out.float().backward(torch.randn(out.shape, generator=generator.manual_seed(1)))
            assert fed.grad is not None and twin.weight.grad is not None
            found.append((out.detach().float(), fed.grad, twin.weight.grad))
        for name, exact, rounded in zip(("values", "inputs", "weights"), *found, strict=True):
            distance = float((exact - rounded).norm() / exact.norm())
            assert 0 < distance < 0.01, (
                f"{name} of {tuple(layer.weight.shape)} on {shape}: {distance:.2%}"
            )


def test_a_hundred_steps_in_bf16_go_the_way_of_fp32(tmp_path: Path) -> None:
    """Loss and accuracy of each of 20 epochs of 5 steps; the control is another seed."""
    curves = {
        (precision, seed): [
            record.metrics["train/loss"]
            for record in finish(
                training(
                    trial("resnet20", seed, epochs=20, batch_size=10, lr=0.01),
                    tmp_path / f"{precision}{seed}",
                    numerics=Numerics(precision, channels_last=True, sliced=True, tiled=True),
                )
            ).records
        ]
        for precision, seed in (("fp32", 0), ("bf16", 0), ("fp32", 1))
    }
    fp32, bf16, other = (np.array(curve) for curve in curves.values())
    assert np.abs(bf16 - fp32).max() < 0.12, "an epoch went another way"
    assert np.abs(bf16 - fp32).mean() < 0.5 * np.abs(other - fp32).mean(), (
        "as far apart as two seeds"
    )


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    runs = [
        plain(finish(training(trial(seed=seed), tmp_path / str(n))).records)
        for n, seed in enumerate((1, 2, 1))
    ]
    assert runs[0] == runs[2] != runs[1]


def test_what_ran_before_in_the_process_changes_nothing(tmp_path: Path) -> None:
    """A, B, A: with and without another network in between, whatever state it leaves."""
    first = finish(training(trial(), tmp_path / "1"))
    finish(training(trial("nets:plain", seed=5, augment="flip+cutout"), tmp_path / "2"))
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    second = finish(training(trial(), tmp_path / "3"))
    assert not differing(everything(first), everything(second))


# ---- what must not leak into what is measured ----------------------------------------------------


def test_validation_and_test_images_are_never_augmented(tmp_path: Path) -> None:
    """The figures on record are those that the best network gives by hand on the images as they
    are.
    """
    made, dataset = trial(augment="salt_and_pepper+flip+cutout", epochs=3), images()
    running = finish(training(made, tmp_path, dataset))
    running.finish()
    network = rebuild(made, tmp_path / "best.pt")
    best = running.records[running.state.best["epoch"] - 1]
    for part, pixels, labels, index in (
        ("val", dataset.train_images, dataset.train_labels, running.images.val.index.numpy()),
        ("test", dataset.test_images, dataset.test_labels, running.images.test.index.numpy()),
    ):
        with torch.inference_mode():
            logits = network(torch.from_numpy(pixels[index]).float() / 255)
        wanted = torch.from_numpy(labels[index])
        assert best.metrics[f"{part}/acc"] == pytest.approx(
            float((logits.argmax(1) == wanted).float().mean())
        )
        loss = float(torch.nn.functional.cross_entropy(logits, wanted))
        assert best.metrics[f"{part}/loss"] == pytest.approx(loss, rel=1e-4)


def test_normalisation_knows_the_training_images_alone(tmp_path: Path) -> None:
    dataset = images()
    running = training(trial(), tmp_path, dataset)
    pixels = dataset.train_images[running.images.train.index.numpy()].astype(np.float64) / 255
    assert running.images.normalise.mean.flatten().tolist() == pytest.approx(
        pixels.mean((0, 2, 3)).tolist(), rel=1e-5
    )
    assert running.images.normalise.std.flatten().tolist() == pytest.approx(
        pixels.std((0, 2, 3)).tolist(), rel=1e-3
    )


def test_every_step_of_every_epoch_augments_anew(tmp_path: Path) -> None:
    running = training(trial(augment="flip", epochs=2), tmp_path)
    states: list[int] = []
    inner = running.images.augment

    def watched(pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Any:
        states.append(generator.initial_seed())
        return inner(pixels, labels, generator)

    running.inputs = replace(running.inputs, images=replace(running.images, augment=watched))
    finish(running)
    assert len(states) == len(set(states)) >= 4


# ---- torch's compiler stays out ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stock"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_optimizers_do_what_torch_s_do_bit_for_bit(
    name: str, stock: Any, layout: torch.memory_format
) -> None:
    config = TrainConfig(optimizer=name, lr=0.1, weight_decay=0.01)
    found = []
    for own in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
        net.to(memory_format=layout)
        optimizer = optim.build([*net[:2].parameters()], [*net[3].parameters()], config)
        if not own:
            options = {
                key: value
                for key, value in optimizer.defaults.items()
                if key in ("lr", "momentum", "nesterov", "betas")
            }
            optimizer = stock(optimizer.param_groups, **options, fused=True)
        for _ in range(5):
            optimizer.zero_grad()
            net(torch.randn(8, 3, 8, 8)).square().mean().backward()
            optimizer.step()
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        net(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        saved = optimizer.state_dict()
        assert all(parameter.requires_grad for parameter in net.parameters())
        found.append(
            [
                *net.state_dict().values(),
                *(
                    value
                    for one in saved["state"].values()
                    for value in one.values()
                    if value is not None
                ),
            ]
        )
    assert len(found[0]) == len(found[1]) > 9
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_what_is_laid_out_otherwise_goes_to_the_same_weights(name: str) -> None:
    """Gradients and averages with channels behind pixels, kernels without: torch's fused kernels
    alone mix them up.
    """
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        optimizer = optim.build([], [kernel], TrainConfig(optimizer=name, lr=0.1))
        for _ in range(3):
            kernel.grad = torch.randn(4, 3, 3, 3).contiguous(memory_format=layout)
            optimizer.step()
            for state in optimizer.state.values():
                for key, value in state.items():
                    if torch.is_tensor(value) and value.ndim == 4:
                        state[key] = value.contiguous(memory_format=layout)
        found.append(kernel.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_layer_without_gradients_stays_and_may_get_some_later(name: str) -> None:
    first, second, never = (nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    optimizer = optim.build(
        [never], [first, second], TrainConfig(optimizer=name, lr=0.1, weight_decay=0.0)
    )
    for step in range(3):
        first.grad = torch.ones(2, 2)
        second.grad = torch.ones(2, 2) if step else None
        optimizer.step()
        assert (second == 1).all() == (step == 0)
    assert (never == 1).all() and (first < second).all() and (second < 1).all()


def test_a_worker_never_imports_torch_s_compiler() -> None:
    """It takes half of the seconds that a worker needs to start."""
    code = """
import sys
import torch
from suite import models
from suite.system import torchvision_import
from suite.training import optim, setup
from suite.config import ModelConfig, TrainConfig
for arch, name in (("resnet20", "sgd"), ("resnet18", "adam"), ("resnet18", "adamw")):
    net = models.build(ModelConfig(arch=arch), 10)
    optimizer = optim.build([], net.parameters(), TrainConfig(lr=0.1, optimizer=name))
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
import torchvision.ops  # works, and so does the compiler, for whoever wants it
import torch._dynamo.utils
assert sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(2)).tolist() == [1, 1]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
