"""Features of frozen layers: kept or shared, the numbers are those of the network run whole, bit
for bit.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suite import models
from suite.config.trial import DropoutConfig, ModelConfig
from suite.core.records import Numerics
from suite.models import Prefix
from suite.system import environment
from suite.training import feature_cache
from suite.training.trainer import Trainer
from tests.training import differing, everything, finish, images, training, trial

FROZEN = {
    "model__freeze_batchnorm": True,
    "batch_size": 16,
}  # 48 training images: three whole steps
FP32 = Numerics(channels_last=True, sliced=True, tiled=True)


def made(folder: Path, cache: Path, **settings: Any) -> Trainer:
    options = {
        name: settings.pop(name) for name in ("shared_features", "numerics") if name in settings
    }
    options.setdefault("numerics", FP32)
    return training(trial(**(FROZEN | settings)), folder, cache=cache, **options)


def entries(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob("features/*/meta.json"))


@pytest.mark.parametrize(
    "numerics",
    [
        FP32,
        pytest.param(Numerics("bf16", True, sliced=True, tiled=True), marks=pytest.mark.full),
        Numerics(),
    ],
    ids=["cl", "bf16", "nchw"],
)
@pytest.mark.parametrize(
    ("arch", "depth"), [("resnet18", 7), ("resnet18", 8), ("resnet18_cifar", 1), ("resnet20", 4)]
)
def test_training_on_kept_features_gives_the_numbers_of_the_whole_network(
    tmp_path: Path, arch: str, depth: int, numerics: Numerics
) -> None:
    settings = {"arch": arch, "model__freeze_depth": depth, "numerics": numerics, "ema": 0.9}
    kept = finish(made(tmp_path / "kept", tmp_path / "cache", **settings))
    whole = finish(made(tmp_path / "whole", tmp_path / "cache", cache_prefix="off", **settings))
    assert kept.inputs.prefix.layers and "train" in kept.inputs.parts, kept.inputs.prefix.why_not
    assert not whole.inputs.prefix.layers
    assert not differing(everything(kept), everything(whole))


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_at_the_size_and_batch_of_a_real_study_on_two_threads(
    tmp_path: Path, precision: str
) -> None:
    """32 x 32 pixels, steps of 128 and a last one of 72, on which kernels may be chosen
    otherwise.
    """
    numerics = Numerics(precision, channels_last=True, sliced=True, tiled=True, threads=2)
    settings = {
        "arch": "resnet18",
        "model__freeze_depth": 7,
        "model__freeze_batchnorm": True,
        "batch_size": 128,
    }
    dataset = images((84,) * 4, side=32)
    kept, whole = (
        finish(
            training(
                trial(**settings, cache_prefix=cache_prefix, data__val_size=8),
                tmp_path / cache_prefix,
                dataset,
                cache=tmp_path / "cache",
                numerics=numerics,
            )
        )
        for cache_prefix in ("auto", "off")
    )
    assert kept.inputs.prefix.layers and "train" in kept.inputs.parts, kept.inputs.prefix.why_not
    assert not whole.inputs.prefix.layers
    assert not differing(everything(kept), everything(whole))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_that_make_features_together_make_those_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    numerics = Numerics(precision, channels_last=True, sliced=True, tiled=True)
    monkeypatch.setattr("suite.training.images.EVAL_BATCH", 8)
    run, begun = models.run_prefix, threading.Lock()
    now, most = 0, {1: 0, 3: 0}
    kinds: set[tuple[int, bool]] = set()

    def noted(net: nn.Module, layers: Any, images: Tensor) -> Tensor:
        nonlocal now
        kinds.add((torch.get_num_threads(), torch.is_autocast_enabled("cpu")))
        with begun:
            now += 1
            most[environment.cores()] = max(most[environment.cores()], now)
        time.sleep(0.02)  # so that none makes all before the next one begins
        found = run(net, layers, images)
        with begun:
            now -= 1
        return found

    monkeypatch.setattr(models, "run_prefix", noted)
    found = []
    for cores in (1, 3):
        monkeypatch.setattr(environment, "cores", lambda count=cores: count)
        found.append(
            made(
                tmp_path / f"{cores}",
                tmp_path / f"cache{cores}",
                model__freeze_depth=7,
                arch="resnet18",
                numerics=numerics,
            )
        )
    assert most == {1: 1, 3: 3} and kinds == {(1, precision == "bf16")}
    one, three = (each.inputs.parts for each in found)
    assert one.keys() == three.keys() == {"train", "val", "test"}
    assert all(torch.equal(one[part].images, three[part].images) for part in one)


def test_machines_that_share_a_home_keep_features_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, names = nn.Sequential(nn.Linear(2, 2)), set()
    for processor in ("one", "another"):
        monkeypatch.setattr(environment, "processor", lambda said=processor: said)
        names.add(feature_cache.key(net, ["0"], FP32, {}))
    assert len(names) == 2


def test_the_control_a_wrong_feature_changes_the_numbers(tmp_path: Path) -> None:
    settings = {"arch": "resnet18", "model__freeze_depth": 7}
    whole = finish(made(tmp_path / "whole", tmp_path / "cache", cache_prefix="off", **settings))
    wrong = made(tmp_path / "wrong", tmp_path / "cache", **settings)
    part = wrong.inputs.parts["train"]
    wrong.inputs.parts["train"] = type(part)(part.images * 1.001, part.labels, part.index)
    assert differing(everything(finish(wrong)), everything(whole))


def test_with_random_augmentation_only_evaluation_uses_kept_features(tmp_path: Path) -> None:
    settings = {"arch": "resnet20", "model__freeze_depth": 3, "augment": "flip+cutout+mixup"}
    kept = finish(made(tmp_path / "kept", tmp_path / "cache", **settings))
    whole = finish(made(tmp_path / "whole", tmp_path / "cache", cache_prefix="off", **settings))
    assert sorted(kept.inputs.parts) == ["test", "val"] and kept.inputs.prefix.layers
    assert not differing(everything(kept), everything(whole))


def test_trials_of_a_pack_share_augmented_features_and_get_the_numbers_of_solo_runs(
    tmp_path: Path,
) -> None:
    """Three arms that see the same batches, one of another seed, one of another augmentation."""
    base = {"arch": "resnet20", "model__freeze_depth": 3, "augment": "flip+crop+mixup"}
    arms = [
        {},
        {"lr": 0.01},
        {"model__head": {"hidden": [8], "dropout": 0.2}},
        {"seed": 1},
        {"augment": "flip"},
    ]
    others: dict[str, feature_cache.BatchFeatureCache] = {}
    pack = [
        made(tmp_path / f"pack{number}", tmp_path / "cache", shared_features=others, **(base | arm))
        for number, arm in enumerate(arms)
    ]
    counts: list[int] = []
    real = models.run_prefix
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "run_prefix", lambda *given: counts.append(1) or real(*given))
        while not all(one.complete for one in pack):
            for one in pack:
                one.train_epoch()
    assert (
        len(others) == 3
        and pack[0].inputs.batch_cache is pack[1].inputs.batch_cache is pack[2].inputs.batch_cache
    )
    assert len(counts) == 3 * 3 * 2, "three groups of three steps in two epochs"
    for number, arm in enumerate(arms):
        solo = finish(
            made(tmp_path / f"solo{number}", tmp_path / "cache", cache_prefix="off", **(base | arm))
        )
        assert not differing(everything(pack[number]), everything(solo)), arm


@pytest.mark.parametrize("last_batch", ["drop", "spread", "keep"])
@pytest.mark.parametrize("augment", ["none", "flip"], ids=["kept", "shared"])
def test_features_follow_the_batches_of_an_epoch(
    tmp_path: Path, last_batch: str, augment: str
) -> None:
    """44 images at 20; beside it in the pack is an arm with other batches, whose features it
    must not take.
    """
    base = {
        "arch": "resnet20",
        "model__freeze_depth": 3,
        "augment": augment,
        "batch_size": 20,
        "data__val_size": 20,
    }
    ways = {"drop": [20, 20], "spread": [15, 15, 14], "keep": [20, 20, 4]}
    others: dict[str, feature_cache.BatchFeatureCache] = {}
    pack = [
        made(
            tmp_path / f"pack {way}",
            tmp_path / "cache",
            shared_features=others,
            last_batch=way,
            **base,
        )
        for way in (*(way for way in ways if way != last_batch), last_batch)
    ]
    while not all(one.complete for one in pack):
        for one in pack:
            one.train_epoch()
    ours = pack[-1]
    assert (
        ours.inputs.prefix.layers
        and [batch.stop - batch.start for batch in ours.images.batches] == ways[last_batch]
    )
    assert len(others) == (0 if augment == "none" else 3)
    solo = finish(
        made(
            tmp_path / "solo", tmp_path / "cache", cache_prefix="off", last_batch=last_batch, **base
        )
    )
    assert not differing(everything(ours), everything(solo))


def test_a_resumed_trial_in_lockstep_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    settings = {"arch": "resnet20", "model__freeze_depth": 3, "augment": "flip", "epochs": 3}
    whole = finish(made(tmp_path / "whole", tmp_path / "cache", **settings))
    broken = made(tmp_path / "broken", tmp_path / "cache", shared_features={}, **settings)
    broken.train_epoch()
    broken.save()
    others: dict[str, feature_cache.BatchFeatureCache] = {}
    pack = [
        made(tmp_path / name, tmp_path / "cache", shared_features=others, **settings)
        for name in ("new", "broken")
    ]
    assert [one.epoch for one in pack] == [0, 1]
    while not all(one.complete for one in pack):
        for one in pack:
            if not one.complete:
                one.train_epoch()
    for one in pack:
        assert not differing(everything(one), everything(whole))


def test_one_entry_serves_all_trials_of_a_node(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number, arm in enumerate(
        [{"lr": 0.1}, {"seed": 0, "model__head": {"hidden": [4]}}, {"epochs": 1}]
    ):
        made(tmp_path / str(number), cache, arch="resnet18", model__freeze_depth=7, **arm)
    (entry,) = entries(cache)
    stamp = (entry / "train.npy").stat().st_mtime_ns
    made(tmp_path / "later", cache, arch="resnet18", model__freeze_depth=7)
    assert (entry / "train.npy").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1}, {"model__freeze_depth": 8}, {"data__val_size": 12}, {"batch_size": 20},
        {"numerics": Numerics(channels_last=False)},
        {"numerics": Numerics(channels_last=True, threads=2)},
    ],
    ids=str,
)  # fmt: skip
def test_what_features_depend_on_has_an_entry_of_its_own(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    base = {"arch": "resnet18", "model__freeze_depth": 7}
    made(tmp_path / "a", tmp_path / "cache", **base)
    made(tmp_path / "b", tmp_path / "cache", **(base | other))
    assert len(entries(tmp_path / "cache")) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "train.npy").write_bytes(
            b"\0" * (entry / "train.npy").stat().st_size
        ),
        lambda entry: os.truncate(entry / "val.npy", 200),
        lambda entry: (entry / "meta.json").write_text("{"),
        lambda entry: (entry / "test.npy").unlink(),
    ],
    ids=["blank", "cut", "meta", "gone"],
)
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: Any) -> None:
    settings = {"arch": "resnet18", "model__freeze_depth": 7}
    first = finish(made(tmp_path / "first", tmp_path / "cache", **settings))
    first.inputs.parts.clear()
    damage(entries(tmp_path / "cache")[0])
    second = finish(made(tmp_path / "second", tmp_path / "cache", **settings))
    whole = finish(made(tmp_path / "whole", tmp_path / "cache", cache_prefix="off", **settings))
    assert "train" in second.inputs.parts and not differing(everything(second), everything(whole))


def test_a_folder_that_cannot_be_written_costs_the_features_only(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    settings = {"arch": "resnet18", "model__freeze_depth": 7}
    run = finish(made(tmp_path / "run", tmp_path / "cache", **settings))
    assert "cannot be written" in run.inputs.prefix.why_not
    whole = finish(made(tmp_path / "whole", tmp_path / "x", cache_prefix="off", **settings))
    assert not differing(everything(run), everything(whole))


def test_longest_unused_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(name: str) -> feature_cache.Features:
        return feature_cache.load_or_make(
            tmp_path, name, lambda: (Prefix(("a",), bytes=4), {"val": torch.rand(64, 4)})
        )

    for at, name in enumerate(["old", "used", "new"]):
        keep(name)
        os.utime(tmp_path / "features" / name / "meta.json", (at, at))
    keep("used")
    size = sum(file.stat().st_size for file in (tmp_path / "features" / "used").iterdir())
    monkeypatch.setattr(feature_cache, "MAX_CACHE_GIB", 2.5 * size / 2**30)
    keep("last")
    assert [entry.name for entry in entries(tmp_path)] == ["last", "used"]


# ---- where features may not be used --------------------------------------------------------------


class Odd(nn.Module):
    """A network that cannot be cut after its first layer without changing what it computes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x)
        if self.kind == "doubles":
            hidden = hidden * 2
        if self.kind == "drops":
            hidden = torch.dropout(hidden, 0.5, self.training)
        if self.kind == "looks at others":
            hidden = hidden - hidden.mean(0, keepdim=True)
        if self.kind == "counts":
            hidden = hidden + torch.arange(len(x)).reshape(-1, 1, 1, 1)
        hidden = self.conv2(hidden)
        if self.kind == "looks back":
            hidden = hidden + x.mean()
        logits: Tensor = self.fc(hidden.relu().mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("plain", ""), ("doubles", "computes between its layers"), ("drops", "are random in "
                                                                             "training"),
        ("looks at others", "differ between batches of"), ("looks back", "computes between its "
                                                                         "layers"),
        ("counts", "depend on an image's position in its batch"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_cut_is_run_whole(kind: str, why: str) -> None:
    net = Odd(kind)
    for layer in (net.conv1, net.conv2):
        layer.requires_grad_(False)
    some, before = torch.rand(9, 3, 8, 8), torch.random.get_rng_state()
    found = models.examine(net, some, [9, 4])
    assert why in found.why_not and bool(found.layers) == (not why)
    assert net.training and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            {"freeze_batchnorm": False},
            "bn1 updates its statistics; model.freeze_batchnorm: true keeps them",
        ),
        (
            {"dropout": DropoutConfig(rate=0.01, after=("layer2",))},
            "are random in training (dropout)",
        ),
        ({"freeze_depth": 0}, "no leading layer is frozen"),
    ],
)
def test_a_prefix_that_is_not_the_same_each_time_is_not_kept(
    settings: dict[str, Any], why: str
) -> None:
    config = {"arch": "resnet18", "freeze_depth": 7, "freeze_batchnorm": True}
    found = models.examine(
        models.build(ModelConfig(**(config | settings)), 10), torch.rand(8, 3, 32, 32), [8, 3]
    )
    assert not found.layers and why in found.why_not


def test_dropout_after_the_prefix_does_not_matter() -> None:
    dropout = DropoutConfig(rate=0.5, after=("layer4",))
    net = models.build(
        ModelConfig(arch="resnet18", freeze_depth=7, freeze_batchnorm=True, dropout=dropout), 10
    )
    found = models.examine(net, torch.rand(8, 3, 32, 32), [8, 3])
    assert found.layers[-1] == "layer3" and found.bytes == 4 * 256 * 2 * 2


def test_what_follows_the_prefix_shares_its_modules_and_leaves_the_network_whole() -> None:
    net = models.build(ModelConfig(arch="vgg11", freeze_depth=5), 10)
    names = models.frozen_prefix(net)
    short = models.after_prefix(net, names)
    assert isinstance(short.get_submodule("features.0"), nn.Identity) and isinstance(
        net.features[0], nn.Conv2d
    )
    assert (
        short.get_submodule("features.8") is net.features[8] and short.classifier is net.classifier
    )


def test_too_many_features_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_ENTRY_GIB", 1e-6)
    run = made(tmp_path / "run", tmp_path / "cache", arch="resnet18", model__freeze_depth=7)
    assert "more than 1e-06" in run.inputs.prefix.why_not and set(run.inputs.parts) == {
        "val",
        "test",
    }
    (entry,) = entries(tmp_path / "cache")
    assert json.loads((entry / "meta.json").read_text())["prefix"]["layers"] == [], "found out once"


def test_the_end_of_a_trial_says_how_its_prefix_was_run(tmp_path: Path) -> None:
    settings = {"arch": "resnet18", "model__freeze_depth": 7, "epochs": 1}
    kept = finish(made(tmp_path / "kept", tmp_path / "cache", **settings)).finish()
    assert kept["prefix"] == "7 layers, features kept of all images"
    off = finish(
        made(tmp_path / "off", tmp_path / "cache", cache_prefix="off", **settings)
    ).finish()
    assert off["prefix"] == "run each time: train.cache_prefix is off"
    none = finish(
        made(tmp_path / "none", tmp_path / "cache", **(settings | {"model__freeze_depth": 0}))
    ).finish()
    assert none["prefix"] is None
    with (
        np.load(tmp_path / "kept" / "predictions.npz") as ours,
        np.load(tmp_path / "off" / "predictions.npz") as theirs,
    ):
        assert (ours["logits"] == theirs["logits"]).all()
    whole = torch.load(tmp_path / "kept" / "best.pt", weights_only=True)["model"]
    assert "layer1.0.conv1.weight" in whole, "what is kept of a trial has the prefix in it"


def test_images_stay_what_sheets_draw(tmp_path: Path) -> None:
    run = finish(
        made(tmp_path / "run", tmp_path / "cache", arch="resnet18", model__freeze_depth=7, epochs=1)
    )
    run.finish()
    assert (
        run.draw_activation_maps()["files"]
        and images().test_images.shape[1:] == run.images.test.images.shape[1:]
    )
