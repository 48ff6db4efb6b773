"""Trials trained as one network: each gets what it would get alone, up to rounding."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from suite import models
from suite.config.trial import HeadConfig, ModelConfig, TrialConfig
from suite.core.errors import DivergedError
from suite.core.records import EpochRecord, Numerics, Trial
from suite.execution.shared import EndEvent, EpochEvent, TrialRequest, WarningEvent
from suite.execution.worker import TrialRunner, advance_together
from suite.planning import measure
from suite.storage.folder_storage import FolderStorage
from suite.storage.journal import LAUNCH_FILE
from suite.training import joint
from suite.training.hooks import TrainingHooks
from suite.training.trainer import Trainer
from tests.training import finish, plain, training, trial


def networks(arch: str, count: int = 3, **settings: Any) -> list[nn.Module]:
    return [
        models.build(ModelConfig(arch=arch, **settings), 10, seed=seed).double()
        for seed in range(count)
    ]


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("resnet18_cifar", {}), ("plain20", {}), ("resnet18", {"head": HeadConfig(hidden=(16, 8))}),
        ("resnet18", {"freeze_depth": 5, "freeze_batchnorm": True}),
        pytest.param("vgg11_bn", {}, marks=pytest.mark.full),
        pytest.param("mobilenet_v3_small", {}, marks=pytest.mark.full),
    ],
    ids=str,
)  # fmt: skip
def test_values_gradients_and_statistics_are_each_networks_own(
    arch: str, settings: dict[str, Any]
) -> None:
    """In float64, where rounding cannot hide a mistake."""
    alone = networks(arch, **settings)
    together = [copy.deepcopy(net) for net in alone]
    torch.manual_seed(1)
    images, labels = torch.randn(3, 4, 3, 32, 32).double(), torch.randint(0, 10, (3, 4))
    joined = models.fuse(together, [Generator() for _ in together])
    for net in (*alone, *together, joined):
        net.train()
    for net in (*alone, *together):  # random numbers are another test's
        for layer in net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    logits = joined(torch.cat(list(images), 1)).chunk(3, 1)
    torch.stack(
        [nn.functional.cross_entropy(own, truth) for own, truth in zip(logits, labels, strict=True)]
    ).sum().backward()
    for net, twin, batch, truth, own in zip(alone, together, images, labels, logits, strict=True):
        expected = net(batch)
        nn.functional.cross_entropy(expected, truth).backward()
        torch.testing.assert_close(own, expected, rtol=1e-7, atol=1e-7)
        for (name, weight), other in zip(net.named_parameters(), twin.parameters(), strict=True):
            assert (weight.grad is None) == (other.grad is None) == (not weight.requires_grad)
            if weight.grad is not None:
                torch.testing.assert_close(other.grad, weight.grad, rtol=1e-6, atol=1e-8, msg=name)
        for (name, buffer), other in zip(net.named_buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(other, buffer, rtol=1e-9, atol=1e-9, msg=name)


def test_dropout_is_each_networks_own() -> None:
    nets = networks("resnet18", head=HeadConfig(hidden=(64,), dropout=0.5))
    for net, rate in zip(nets, (0.1, 0.5, 0.9), strict=True):
        net.fc[2].p = rate
    images = torch.randn(3, 4, 3, 32, 32).double()
    joined = models.fuse(nets, [Generator().manual_seed(seed) for seed in range(3)]).train()
    for each in nets:
        each.train()
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    together = joined(torch.cat(list(images), 1)).chunk(3, 1)
    for seed, (net, state) in enumerate(zip(nets, before, strict=True)):
        net.load_state_dict(state)
        torch.manual_seed(seed)
        torch.testing.assert_close(together[seed], net(images[seed]))


class Mixes(nn.Module):
    """Works across channels between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images).mean((2, 3))
        logits: Tensor = self.fc(torch.cat([hidden, hidden.flip(1)], 1))
        return logits


class Draws(nn.Module):
    """Drops units without a layer of its own for it."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.conv, self.fc, self.rate = nn.Conv2d(3, 4, 3), nn.Linear(4, 10), rate

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images).mean((2, 3))
        if self.rate:
            hidden = nn.functional.dropout(hidden, self.rate, self.training)
        logits: Tensor = self.fc(hidden)
        return logits


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_networks_that_cannot_be_joined_are_found_out() -> None:
    images = torch.rand(4, 3, 32, 32)
    assert not models.agrees([Mixes(), Mixes()], images)
    assert not models.agrees([Holds(), Holds()], images)
    assert not models.agrees([Draws(), Draws()], images), "both would drop the same units"
    assert models.agrees([Draws(0.0), Draws(0.0)], images), "the control"
    for arch, joins in {
        "resnet18": True,
        "resnet20": False,
        "densenet121": False,
        "vit_b_16": False,
    }.items():
        nets = [models.build(ModelConfig(arch=arch), 10, seed=seed) for seed in range(2)]
        assert (
            models.agrees(
                nets,
                torch.rand(
                    2, 3, 224 if arch == "vit_b_16" else 32, 224 if arch == "vit_b_16" else 32
                ),
            )
            == joins
        )


# ---- trials --------------------------------------------------------------------------------------

ARMS: list[dict[str, Any]] = [
    {"lr": 0.002},
    {"lr": 0.001, "augment": "flip+crop"},
    {"lr": 0.002, "seed": 1, "optimizer": "adam"},
    {
        "lr": 0.002,
        "label_smoothing": 0.1,
        "ema": 0.9,
        "grad_clip": 1.0,
        "augment": "mixup",
        "weight_decay": 0.01,
    },
]


def made(folder: Path, number: int, **settings: Any) -> Trainer:
    settings = {"arch": "plain20", "batch_size": 16, "epochs": 2} | ARMS[number] | settings
    return training(trial(**settings), folder / str(number), numerics=Numerics(fused=True))


def together(pack: list[Trainer]) -> list[list[Any]]:
    ends: list[list[Any]] = [[] for _ in pack]
    while not all(each.complete for each in pack):
        assert joint.can_join(pack)
        for each, end in zip(ends, joint.train_epoch(pack), strict=True):
            each.append(end)
    return ends


def test_each_trial_gets_its_own_curve(tmp_path: Path) -> None:
    pack = [made(tmp_path / "pack", number) for number in range(4)]
    together(pack)
    for number, one in enumerate(pack):
        solo = made(tmp_path / "solo", number)
        while not solo.complete:
            solo.train_epoch()
        for ours, theirs in zip(plain(one.records), plain(solo.records), strict=True):
            assert ours.keys() == theirs.keys() and ours["train/lr"] == theirs["train/lr"]
            for name in ("train/loss", "val/loss", "test/loss"):
                close = (
                    1e-2 if one.config.train.optimizer == "adam" else 2e-3
                )  # Adam divides by small numbers
                assert ours[name] == pytest.approx(theirs[name], rel=close), (number, name)
    losses = {each.records[0].metrics["train/loss"] for each in pack}
    assert len(losses) == 4, "they must differ, or this shows nothing"


@pytest.mark.parametrize(("last_batch", "steps"), [("drop", 2), ("spread", 3), ("keep", 3)])
def test_a_joined_trial_has_the_batches_of_its_own(
    tmp_path: Path, last_batch: str, steps: int
) -> None:
    """44 images at 20, with plain and Nesterov momentum."""
    settings = {"batch_size": 20, "data__val_size": 20, "last_batch": last_batch}
    pack = [made(tmp_path / "pack", number, nesterov=number == 0, **settings) for number in (0, 1)]
    assert pack[0].steps_per_epoch == steps
    together(pack)
    for number, one in enumerate(pack):
        solo = finish(made(tmp_path / "solo", number, nesterov=number == 0, **settings))
        for ours, theirs in zip(plain(one.records), plain(solo.records), strict=True):
            assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=2e-3)


def test_the_control_a_pack_in_another_order_gives_other_curves(tmp_path: Path) -> None:
    one, other = (made(tmp_path, number) for number in (0, 1))
    one.state.model, other.state.model = other.model, one.model
    solo = made(tmp_path / "solo", 0)
    for _ in range(2):
        joint.train_epoch([one, other])
        solo.train_epoch()
    assert one.records[1].metrics["train/loss"] != pytest.approx(
        solo.records[1].metrics["train/loss"], rel=2e-3
    )


def test_a_trial_that_diverges_leaves_the_others_alone(tmp_path: Path) -> None:
    settings = {"batch_size": 2}  # 24 steps: the loss is looked at after 20
    pack = [
        made(tmp_path / "pack", 0, **settings),
        made(tmp_path / "pack", 1, **(settings | {"lr": 1e30})),
    ]
    first, second = joint.train_epoch(pack)
    assert isinstance(first, EpochRecord) and isinstance(second, DivergedError)
    solo = made(tmp_path / "solo", 0, **settings)
    record = solo.train_epoch()
    assert record is not None and pack[0].step == 0 and pack[0].epoch == 1
    assert first.metrics["train/loss"] == pytest.approx(record.metrics["train/loss"], rel=5e-2)


def test_a_stopped_pack_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = [made(tmp_path / "whole", number) for number in (0, 1)]
    together(whole)
    pack = [made(tmp_path / "pack", number) for number in (0, 1)]
    asked = iter(range(10))
    pack[0].hooks = TrainingHooks(should_stop=lambda: next(asked) == 2)
    assert joint.train_epoch(pack) == [None, None]
    again = [made(tmp_path / "pack", number) for number in (0, 1)]
    assert [(each.epoch, each.step) for each in again] == [(0, 2)] * 2
    together(again)
    assert [plain(each.records) for each in again] == [plain(each.records) for each in whole], (
        "bit for bit"
    )


def test_a_worker_takes_each_outcome_of_a_joined_pack_down_as_its_own(tmp_path: Path) -> None:
    """One diverges, two finish: outcomes, files and reasons as if each had run alone."""
    (tmp_path / LAUNCH_FILE).write_text("token")
    shared = SimpleNamespace(
        storage=FolderStorage(tmp_path), token="token", activations=False, limit_batches=None
    )
    settings = [
        {"batch_size": 2, "epochs": 1} | ARMS[0],
        {"batch_size": 2, "epochs": 1, "lr": 1e30},
    ]
    settings.append({"batch_size": 2, "epochs": 1, "lr": 0.001, "seed": 3})
    members = []
    for number, each in enumerate(settings):
        given = asdict(trial(arch="plain20", **each)) | {"id": f"{number:016x}"}
        member = TrialRunner(shared, TrialRequest(Trial(**given), "data", None))  # type: ignore[arg-type]
        folder = tmp_path / "trials" / member.trial.id
        member.training = training(Trial(**given), folder, numerics=Numerics(fused=True))
        members.append(member)
    joined: list[int] = []
    real = joint.train_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint, "train_epoch", lambda given: joined.append(len(given)) or real(given))
        outcomes = advance_together(members)
    assert joined == [3]
    ends = {event.trial_id: event for event in outcomes if isinstance(event, EndEvent)}
    assert [ends[member.trial.id].status for member in members] == [
        "finished",
        "failed",
        "finished",
    ]
    assert "diverged in epoch 1" in ends[members[1].trial.id].facts["reason"]
    epochs = [event.trial_id for event in outcomes if isinstance(event, EpochEvent)]
    assert epochs == [members[0].trial.id, members[2].trial.id]
    assert (tmp_path / "trials" / members[2].trial.id / "predictions.npz").exists()


def test_where_memory_does_not_suffice_for_all_each_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The joint pass fails in the second epoch: each trains the other two alone, from its
    checkpoint of the first.
    """
    (tmp_path / LAUNCH_FILE).write_text("token")
    shared = SimpleNamespace(
        storage=FolderStorage(tmp_path), token="token", activations=False, limit_batches=None
    )
    members = []
    for number in (0, 1):
        given = asdict(trial(arch="plain20", batch_size=16, epochs=3, **ARMS[number])) | {
            "id": f"{number:016x}"
        }
        members.append(TrialRunner(shared, TrialRequest(Trial(**given), "data", None)))  # type: ignore[arg-type]

    def prepare(member: TrialRunner) -> Trainer:
        return training(
            member.trial, tmp_path / "trials" / member.trial.id, numerics=Numerics(fused=True)
        )

    monkeypatch.setattr(TrialRunner, "_prepare", prepare)
    outcomes = advance_together(members)
    for member in members:
        member.training.save()
    real = models.fuse

    def no_room(nets: Any, generators: Any) -> nn.Module:
        joined = real(nets, generators)

        def fails(*_: object) -> None:
            raise MemoryError("out of memory")

        joined.register_forward_pre_hook(fails)
        return joined

    monkeypatch.setattr(joint.models, "fuse", no_room)
    while not all(member.done for member in members):
        outcomes += advance_together([member for member in members if not member.done])
    ends = [event.status for event in outcomes if isinstance(event, EndEvent)]
    told = [event.text for event in outcomes if isinstance(event, WarningEvent)]
    assert ends == ["finished"] * 2 and all(member.alone for member in members)
    assert len(told) == 2 and all(
        "going on by itself from the last checkpoint" in text for text in told
    )
    epochs = sorted(
        (event.trial_id, event.epoch) for event in outcomes if isinstance(event, EpochEvent)
    )
    assert epochs == [(member.trial.id, epoch) for member in members for epoch in (1, 2, 3)]


@pytest.mark.parametrize("kept", [True, False], ids=["with its checkpoint", "without"])
def test_an_epoch_is_told_where_the_files_of_its_trial_could_not_be_written(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch is trained, then a disk is full: what that call would have told, the next
    one tells.
    """
    (tmp_path / LAUNCH_FILE).write_text("token")
    shared = SimpleNamespace(
        storage=FolderStorage(tmp_path), token="token", activations=False, limit_batches=None
    )
    given = asdict(trial(arch="nets:tiny", epochs=2))
    (tmp_path / "trials" / given["id"]).mkdir(parents=True)
    member = TrialRunner(shared, TrialRequest(Trial(**given), "data", None))  # type: ignore[arg-type]
    monkeypatch.setattr(
        TrialRunner,
        "_prepare",
        lambda self: training(self.trial, tmp_path / "trials" / self.trial.id),
    )
    monkeypatch.setattr(TrialRunner, "_wait", lambda self, seconds: None)
    full = iter([OSError(28, "No space left on device")])
    finish, save = Trainer.finish, Trainer.save

    def fails_once(self: Trainer) -> dict[str, Any]:
        for error in full:
            raise error
        return finish(self)

    monkeypatch.setattr(Trainer, "finish", fails_once)
    if not kept:
        monkeypatch.setattr(Trainer, "save", lambda self: save(self) if self.epoch < 2 else None)
    outcomes: list[Any] = []
    while not member.done:
        outcomes += member.advance()
    assert [event.epoch for event in outcomes if isinstance(event, EpochEvent)] == [1, 2]
    assert outcomes[-1].status == "finished"


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 20},
        {"batch_size": 10, "last_batch": "keep"},
        {"arch": "plain32"},
        {"data__train_size": 40},
    ],
    ids=str,
)
def test_what_has_other_shapes_is_not_joined(tmp_path: Path, other: dict[str, Any]) -> None:
    size = (
        {"batch_size": 10} if "last_batch" in other else {}
    )  # 48 images: four batches of 10, and of 8 with keep
    assert not joint.can_join([made(tmp_path, 0, **size), made(tmp_path, 1, **other)])
    assert not joint.can_join([made(tmp_path, 2)]) and not joint.can_join([])


def test_the_probe_joins_trials_only_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrialConfig.model_validate(trial(arch="plain20", batch_size=8).config)
    networks = [(config, 10, 8)]
    numerics = Numerics()
    measured = measure.joint_seconds(*networks[0], numerics, 2)
    with monkeypatch.context() as kept:
        kept.setattr(measure, "_measure_joint", lambda *given: pytest.fail("measured again"))
        assert measure.joint_seconds(*networks[0], numerics, 2) == measured > 0
    speeds = {1: 1.0, 2: 0.7, 4: 0.4, 8: 0.39}
    monkeypatch.setattr(
        measure, "joint_seconds", lambda config, classes, side, numerics, count: speeds[count]
    )
    assert measure.choose_pack(networks, numerics, most=8) == (4, 2.5), (
        "eight are not worth what they hold"
    )
    assert measure.choose_pack(networks, numerics, most=2) == (2, pytest.approx(1 / 0.7))
    speeds |= {2: 0.95, 4: 0.9, 8: 0.9}
    assert measure.choose_pack(networks, numerics, most=8) == (1, 1.0)
    mixing = [(config.model_copy(update={"model": ModelConfig(arch="densenet121")}), 10, 32)]
    assert measure.choose_pack(mixing, numerics, most=8) == (1, 1.0), "it cannot be joined"
