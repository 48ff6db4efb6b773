"""Weights from files, what is frozen, dropout between layers."""

import copy
import hashlib
import os
import pickle
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_models import SMALL_VIT, images, net, random_state, write_module
from torch import nn
from torch.nn import functional as F

from suite import models
from suite.config.trial import DropoutConfig, HeadConfig, ModelConfig
from suite.core.errors import EnvironmentProblem, UsageError
from suite.models import weights as weights_module
from suite.models.assemble import sketch
from suite.system.torchvision_import import torchvision

# ---- weights -------------------------------------------------------------------------------------


def saved(tmp_path: Path, content: object, name: str = "weights.pth", **options) -> str:
    torch.save(content, tmp_path / name, **options)
    return str(tmp_path / name)


def test_weights_of_a_file_are_taken_over_but_for_the_last_layer(tmp_path):
    state = random_state(torchvision.models.resnet18(num_classes=200))
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in state.items()
    }
    path = saved(tmp_path, half)
    found = models.load_weights(ModelConfig(arch="resnet18", weights=path))
    assert found.digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert {value.dtype for value in found.state.values()} == {torch.float32, torch.int64}
    for head in (None, HeadConfig(hidden=(128,), dropout=0.3)):
        made = net("resnet18", weights=path, head=head, state=found.state)
        fresh = net("resnet18", head=head).state_dict()
        for name, value in made.state_dict().items():
            expected = fresh[name] if name.startswith("fc.") else state[name]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)
            assert value.dtype == expected.dtype
    whole = net("resnet18", classes=200, weights=path)
    torch.testing.assert_close(whole.fc.weight.detach(), state["fc.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {
            "net": {f"module.{name}": value for name, value in state.items()},
            "acc": 95.0,
        },
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_wrapped_and_prefixed_state_dicts_are_understood(tmp_path, wrap):
    state = random_state(net("resnet20"))
    made = net("resnet20", weights=saved(tmp_path, wrap(state)))
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_old_file_formats_and_missing_counters_are_understood(tmp_path):
    state = {
        name: value
        for name, value in random_state(net("resnet20")).items()
        if "tracked" not in name
    }
    made = net("resnet20", weights=saved(tmp_path, state, _use_new_zipfile_serialization=False))
    assert torch.equal(made.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("arch", ["mnasnet0_5", "densenet121", "googlenet"])
def test_networks_with_loading_rules_of_their_own_take_their_state_dict_back(arch):
    state = random_state(net(arch, classes=4))
    given = dict(state)
    if arch == "densenet121":  # as in the published file: denselayer1.norm.1 for denselayer1.norm1
        given = {
            re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", name): value
            for name, value in state.items()
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in given
    if arch == "googlenet":
        given["aux1.conv.conv.weight"] = torch.zeros(1)
    made = net(arch, classes=4, weights="given", state=given)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_weights_of_another_architecture_are_refused_with_a_guess_at_which(tmp_path):
    config = ModelConfig(arch="resnet18_cifar", weights="w.pth")
    state = random_state(net("resnet18"))
    (problem,) = models.check(config, 10, models.Weights(state, "", None, None, "w.pth"))
    assert "w.pth does not fit resnet18_cifar" in problem.rule
    assert "conv1.weight is 64x3x7x7, the network's is 64x3x3x3" in problem.rule
    assert re.search(r"and \d+ more$", problem.rule)
    assert problem.remedy.startswith("They look like those of resnet18. ")
    with pytest.raises(UsageError, match=r"does not fit resnet18_cifar: conv1\.weight is"):
        models.build(config, 10, weights=state)
    del state["layer1.0.conv1.weight"]
    config = ModelConfig(arch="resnet18", weights="w.pth")
    (problem,) = models.check(config, 10, models.Weights(state, "", None, None, "w.pth"))
    assert problem.rule.endswith("layer1.0.conv1.weight is missing in the file")


class Code:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_unusable_files_are_the_environments_fault(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(Code()))
    (tmp_path / "empty.pth").write_bytes(b"")
    whole = Path(saved(tmp_path, {"a": torch.zeros(1000)}, "whole.pth")).read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    saved(tmp_path, [1, 2], "list.pth")
    saved(tmp_path, {"epoch": 3}, "nothing.pth")
    saved(tmp_path, nn.Linear(2, 2), "module.pth")
    saved(tmp_path, {"net": {"a": torch.zeros(1)}, "mean": [1, 2], "std": [1, 1, 1]}, "mean.pth")
    for name in ("text", "code", "empty", "torn", "list", "nothing", "module", "mean"):
        with pytest.raises(
            EnvironmentProblem, match=rf"{name}\.pth cannot be read as weights"
        ) as error:
            net("resnet20", weights=str(tmp_path / f"{name}.pth"))
        assert error.value.exit_code == 6
        assert "Traceback" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_missing_files_are_the_environments_fault_and_found_without_loading(tmp_path):
    for path, said in ((tmp_path / "no.pth", "does not exist"), (tmp_path, "is a folder")):
        config = ModelConfig(arch="resnet18", weights=str(path))
        with pytest.raises(EnvironmentProblem, match=said):
            models.load_weights(config)
        (problem,) = models.check(config, 10)
        assert said in problem.rule and problem.environment
    with pytest.raises(UsageError, match="must be fetched from MLflow first"):
        models.load_weights(ModelConfig(weights="runs:/abc/model"))


def test_images_are_normalised_as_they_were_for_the_weights(tmp_path):
    def statistics(arch, content):
        found = models.load_weights(ModelConfig(arch=arch, weights=saved(tmp_path, content)))
        return found.mean, found.std

    state = {"a": torch.zeros(1)}
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert statistics("resnet18", state) == imagenet
    assert statistics("vit_h_14", state) == imagenet  # has no IMAGENET1K_V1
    assert statistics("efficientnet_v2_l", state) == (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )  # see its documentation
    assert statistics("resnet18_cifar", state) == (None, None)
    own = {"net": state, "mean": torch.tensor([0.25, 0.5, 0.75]), "std": [1, 2, 4]}
    assert statistics("resnet18_cifar", own) == ((0.25, 0.5, 0.75), (1.0, 2.0, 4.0))
    assert statistics("resnet18", own) == ((0.25, 0.5, 0.75), (1.0, 2.0, 4.0))
    assert models.load_weights(ModelConfig()) is None


def test_imagenet_weights_come_from_the_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = random_state(torchvision.models.resnet18())
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = saved(folder, state, "resnet18-f37072fd.pth")
    config = ModelConfig(arch="resnet18", weights="imagenet")
    found = models.load_weights(config)
    assert found.digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert found.mean == (0.485, 0.456, 0.406)
    assert torch.equal(
        models.build(config, 10).layer4[1].conv2.weight, state["layer4.1.conv2.weight"]
    )


def test_imagenet_weights_out_of_reach_name_the_place_for_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # the discard port: nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(EnvironmentProblem, match="could not be downloaded") as error:
        net("resnet18", weights="imagenet")
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)
    assert "model.imagenet_file=/path/to/resnet18.pth" in str(error.value)


def test_a_download_is_kept_only_if_its_digest_is_right(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    digest = hashlib.sha256(b"weights").hexdigest()[:8]
    for name in (f"right-{digest}.pth", "wrong-00000000.pth"):
        (tmp_path / name).write_bytes(b"weights")
    path = weights_module._downloaded(
        SimpleNamespace(url=(tmp_path / f"right-{digest}.pth").as_uri())
    )
    assert path.read_bytes() == b"weights"
    with pytest.raises(EnvironmentProblem, match="invalid hash value"):
        weights_module._downloaded(SimpleNamespace(url=(tmp_path / "wrong-00000000.pth").as_uri()))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.timeout(60)
def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights_module, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net-00000000.pth"
        with pytest.raises(EnvironmentProblem, match="timed out"):
            weights_module._downloaded(SimpleNamespace(url=url))
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("resnet18_cifar", "there are no ImageNet weights for 'resnet18_cifar'"),
        ("vit_h_14", "has no IMAGENET1K_V1 weights for 'vit_h_14'"),
    ],
)
def test_imagenet_weights_that_do_not_exist_are_the_files_fault(arch, said):
    with pytest.raises(UsageError, match=said):
        models.load_weights(ModelConfig(arch=arch, weights="imagenet"))


def test_the_tiny_imagenet_weights_fit():
    path = os.environ.get("SUITE_TINYIMAGENET_WEIGHTS")
    if not path:
        pytest.skip(
            "SUITE_TINYIMAGENET_WEIGHTS names no file of Tiny ImageNet weights for torchvision's "
            "resnet18"
        )
    config = ModelConfig(
        arch="resnet18", weights=path, freeze_depth=7, head=HeadConfig(hidden=(128,), dropout=0.3)
    )
    found = models.load_weights(config)
    assert found.mean == (0.485, 0.456, 0.406)
    assert models.check(config, 10, found, image_size=32) == []
    made = models.build(config, 10, weights=found.state)
    file = torch.load(path, weights_only=True)
    assert torch.equal(made.layer4[1].conv2.weight, file["layer4.1.conv2.weight"].float())
    assert torch.equal(made.bn1.running_var, file["bn1.running_var"].float())
    (problem,) = models.check(ModelConfig(arch="resnet34", weights=path), 10, found)
    assert problem.remedy.startswith("They look like those of resnet18. ")


# ---- freezing ------------------------------------------------------------------------------------

RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]


@pytest.mark.parametrize("depth", [0, 1, 4, 5, 7, 8, 9])
def test_the_first_children_are_frozen_and_no_others(depth):
    made = net("resnet18", freeze_depth=depth)
    assert models.freezable_layers(made) == RESNET
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        name for name, _ in made.named_parameters() if name.split(".")[0] in RESNET[:depth]
    }
    prefix = {0: 0, 1: 1, 8: 9}.get(
        depth, max(depth, 4)
    )  # relu, maxpool and avgpool have nothing to freeze
    assert models.frozen_prefix(made) == RESNET[:prefix]


def test_parameters_are_counted():
    # From the shapes: conv1, bn1, and 4 convolutions and 4 BatchNorms of layer1; fc has 512 weights
    # and a bias each.
    frozen = 64 * 3 * 49 + 128 + 4 * (64 * 64 * 9 + 128)
    total = 11_689_512 - 1000 * 513 + 10 * 513  # torchvision's own figure for 1000 classes
    assert models.count_parameters(net("resnet18", freeze_depth=5)) == (total - frozen, total)


def test_where_the_body_is_called_features_its_children_count():
    made = net("mobilenet_v3_small", freeze_depth=3)
    names = [name for name, _ in models.layers(made)]
    assert names == [*(f"features.{number}" for number in range(13)), "avgpool", "classifier"]
    frozen = {
        ".".join(name.split(".")[:2])
        for name, weight in made.named_parameters()
        if not weight.requires_grad
    }
    assert frozen == {"features.0", "features.1", "features.2"} == {*models.frozen_prefix(made)}
    assert models.freezable_layers(sketch(ModelConfig(arch="vgg11"), 10))[-2:] == [
        "features.20",
        "avgpool",
    ]


@pytest.mark.parametrize(("depth", "frozen"), [(0, False), (1, False), (2, True)])
def test_a_class_token_is_frozen_with_the_whole_body(tmp_path, monkeypatch, depth, frozen):
    write_module(tmp_path, monkeypatch, "small_vit", SMALL_VIT)
    assert net("small_vit:make", freeze_depth=depth).class_token.requires_grad is not frozen


def statistics(made: nn.Module, name: str) -> list[torch.Tensor]:
    layer = made.get_submodule(name)
    return [
        layer.running_mean.clone(),
        layer.running_var.clone(),
        layer.num_batches_tracked.clone(),
    ]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("copied", [True, False])
def test_batchnorm_of_the_frozen_part_keeps_its_statistics_only_if_told_to(kept, copied):
    made = net("resnet18", freeze_depth=5, freeze_batchnorm=kept).train()
    if copied:
        original, made = made, copy.deepcopy(made)
        original.eval()
    made.eval(), made.train()
    before = {name: statistics(made, name) for name in ("bn1", "layer1.1.bn2", "layer2.0.bn1")}
    made(images())
    moved = {
        name: not all(map(torch.equal, before[name], statistics(made, name)))
        for name in ("bn1", "layer1.1.bn2", "layer2.0.bn1")
    }
    assert moved == {"bn1": not kept, "layer1.1.bn2": not kept, "layer2.0.bn1": True}
    assert made.training and made.layer1.training


def test_training_steps_change_exactly_what_is_not_frozen():
    made = net("resnet18", freeze_depth=7, freeze_batchnorm=True, head=HeadConfig(hidden=(8,)))
    before = copy.deepcopy(made.state_dict())
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    F.cross_entropy(made.train()(images(4)), torch.arange(4)).backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in made.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"layer4", "fc"}


# ---- dropout between layers ----------------------------------------------------------------------


def test_dropout_drops_the_rate_of_units_after_the_layers_named_and_only_while_training():
    made = net("resnet18_cifar", dropout=DropoutConfig(rate=0.3, after=("bn1", "layer2.0")))
    plain = net("resnet18_cifar")
    assert str(made) == str(plain) and [*made.state_dict()] == [*plain.state_dict()]
    seen = {}
    for name in ("bn1", "layer1", "layer2.0"):
        made.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out.detach()})
        )
    made.train()(images(4))
    for name, size in (("bn1", 4 * 64 * 32 * 32), ("layer2.0", 4 * 128 * 16 * 16)):
        zeros = (seen[name] == 0).sum().item() / size
        # layer2.0 ends in a ReLU: of what it lets through, 70 % is kept.
        clean = {}
        plain.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, clean=clean: clean.update(out=out.detach())
        )
        plain.train()(images(4))
        alive = 1.0 if name == "bn1" else (clean["out"] > 0).sum().item() / size
        assert abs((1 - zeros) - 0.7 * alive) < 0.02, name
    with torch.no_grad():
        plain.load_state_dict(made.state_dict())
        assert torch.equal(made.eval()(images()), plain.eval()(images()))


def test_dropout_scales_what_it_keeps():
    made = net("resnet20", dropout=DropoutConfig(rate=0.5, after=("bn1",)))
    outs = []
    made.bn1.register_forward_hook(lambda _m, _i, out: outs.append(out.detach()))
    made.train()(images(1))
    plain = net("resnet20").train()
    plain.bn1.register_forward_hook(lambda _m, _i, out: outs.append(out.detach()))
    plain(images(1))
    kept = outs[0] != 0
    torch.testing.assert_close(outs[0][kept], 2 * outs[1][kept])


def test_dropout_repeats_with_the_global_seed_and_in_copies():
    between = DropoutConfig(rate=0.5, after=("layer1",))
    made = net("resnet20", head=HeadConfig(hidden=(8,), dropout=0.5), dropout=between)
    outs = []
    for seed, model in ((1, made), (1, copy.deepcopy(made)), (2, made)):
        torch.manual_seed(seed)
        outs.append(model.train()(images()).detach())
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


def test_dropout_after_a_frozen_batchnorm_still_drops():
    made = net(
        "resnet20",
        freeze_depth=2,
        freeze_batchnorm=True,
        dropout=DropoutConfig(rate=0.9, after=("bn1",)),
    )
    outs = []
    made.bn1.register_forward_hook(
        lambda _m, _i, out: outs.append((out == 0).float().mean().item())
    )
    copied = copy.deepcopy(made)
    made(images()), made.train()(images()), made.eval()(images())
    assert outs[0] > 0.85 and outs[1] > 0.85 and outs[2] < 0.1
    copied.train()(images()), copied.eval()(images())
    assert outs[3] > 0.85 and outs[4] < 0.1


def test_a_rate_of_zero_is_no_dropout():
    made = net("resnet20", dropout=DropoutConfig(rate=0.0, after=("layer1",))).train()
    assert torch.equal(made(images()), net("resnet20").train()(images()))
