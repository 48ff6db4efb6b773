"""suite.models: networks, heads, initial weights, files of weights, freezing and dropout."""

import copy
import hashlib
import math
import os
import pickle
import random
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from suite import models
from suite.errors import EnvironmentProblem, UsageError
from suite.models import weights as weights_module
from suite.models.scratch import NETS
from suite.records import stream
from suite.spec.config import DropoutConfig, HeadConfig, ModelConfig
from suite.vision import torchvision

# The structure printed by the ResNet-18 study. Its text closes ResNet's bracket after layer2, at a page break, and
# prints the rest flush left; here the bracket is at the end.
RESNET18_CIFAR = """
ResNet(
  (conv1): Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
  (bn1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
  (layer1): Sequential(
    (0): BasicBlock(
      (conv1): Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (conv2): Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn2): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (shortcut): Sequential()
    )
    (1): BasicBlock(
      (conv1): Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn1): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (conv2): Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn2): BatchNorm2d(64, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (shortcut): Sequential()
    )
  )
  (layer2): Sequential(
    (0): BasicBlock(
      (conv1): Conv2d(64, 128, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
      (bn1): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (conv2): Conv2d(128, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn2): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (shortcut): Sequential(
        (0): Conv2d(64, 128, kernel_size=(1, 1), stride=(2, 2), bias=False)
        (1): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      )
    )
    (1): BasicBlock(
      (conv1): Conv2d(128, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn1): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (conv2): Conv2d(128, 128, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
      (bn2): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (shortcut): Sequential()
    )
  )
(layer3): Sequential(
  (0): BasicBlock(
    (conv1): Conv2d(128, 256, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    (bn1): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (conv2): Conv2d(256, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn2): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (shortcut): Sequential(
      (0): Conv2d(128, 256, kernel_size=(1, 1), stride=(2, 2), bias=False)
      (1): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    )
  )
  (1): BasicBlock(
    (conv1): Conv2d(256, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn1): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (conv2): Conv2d(256, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn2): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (shortcut): Sequential()
  )
)
(layer4): Sequential(
  (0): BasicBlock(
    (conv1): Conv2d(256, 512, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)
    (bn1): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (conv2): Conv2d(512, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn2): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (shortcut): Sequential(
      (0): Conv2d(256, 512, kernel_size=(1, 1), stride=(2, 2), bias=False)
      (1): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    )
  )
  (1): BasicBlock(
    (conv1): Conv2d(512, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn1): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (conv2): Conv2d(512, 512, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    (bn2): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (shortcut): Sequential()
  )
)
(linear): Linear(in_features=512, out_features=10, bias=True)
)
"""

# The heads printed by the study, as they stand there.
CONFIG1 = """
Sequential (
  (0): Linear (in_features=512, out_features=128, bias=True)(1): ReLU (
  (2) : Dropout (p=0.3, inplace=False)
  (3) : Linear (in_features=128, out_features=10, bias=True)
)
"""
CONFIG2 = """
Sequential (
(0): Linear (in_features=512, out_features=256, bias=True)(1): ReLU ()
(2) : Dropout (p=0.2, inplace=False)
(3) : Linear (in_features=256, out_features=128, bias=True)(4): ReLU ()
(5) : Dropout (p=0.2, inplace=False)
(6) : Linear (in_features=128, out_features=128, bias=True)(7): ReLU ()
(8) : Dropout (p=0.2, inplace=False)
(9) : Linear (in_features=128, out_features=64, bias=True)(10): ReLU ()
(11) : Dropout (p=0.2, inplace=False)
(12) : Linear (in_features=64, out_features=32, bias=True)(13): ReLU ()
(14): Linear (in_features=32, out_features=10, bias=True)
)
""".replace("ReLU ()", "ReLU()")


def squeezed(text: str) -> str:
    """Without white space, and without what newer torch adds to BatchNorm's print."""
    return re.sub(r"(BatchNorm2d\([^)]*?),bias=True", r"\1", re.sub(r"\s", "", text))


def net(arch: str = "resnet18", classes: int = 10, seed: int = 0, **settings) -> nn.Module:
    given = settings.pop("state", None)
    return models.build(ModelConfig(arch=arch, **settings), classes, seed=seed, weights=given)


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def random_state(model: nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """A state dict for ``model`` whose every tensor is random, BatchNorm statistics too."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.1 if value.is_floating_point() else value.clone() + 3
        for name, value in model.state_dict().items()
    }


def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    (tmp_path / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + code)
    monkeypatch.syspath_prepend(str(tmp_path))


# ---- scratch nets --------------------------------------------------------------------------------------------------


def test_resnet18_cifar_prints_as_in_the_study():
    assert squeezed(str(net("resnet18_cifar"))) == squeezed(RESNET18_CIFAR)


# The paper's table 6 rounds these to 0.27, 0.46, 0.66, 0.85 and 1.7 million; option A adds none to the plain nets'.
PAPER = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
# kuangliu/pytorch-cifar's summary for the first two; the plain ones lack three projections with their BatchNorm.
PROJECTIONS = {18: 173_824, 34: 173_824}
COUNTS = {
    "resnet18_cifar": 11_173_962,
    "resnet34_cifar": 21_282_122,
    "plain18_cifar": 11_173_962 - PROJECTIONS[18],
    "plain34_cifar": 21_282_122 - PROJECTIONS[34],
    **{f"resnet{layers}": count for layers, count in PAPER.items()},
    **{f"plain{layers}": count for layers, count in PAPER.items()},
}


@pytest.mark.parametrize("arch", COUNTS)
def test_scratch_nets_have_the_published_number_of_parameters(arch):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in NETS[arch](10).parameters()) == COUNTS[arch]
    assert set(COUNTS) == set(NETS)


@pytest.mark.parametrize(("layers", "depth"), [(20, 3), (110, 18)])
def test_the_papers_nets_have_as_many_weighted_layers_as_their_name_says(layers, depth):
    with torch.device("meta"):
        made = NETS[f"resnet{layers}"](10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in made.modules()) == layers
    assert [len(made.get_submodule(f"layer{stage}")) for stage in (1, 2, 3)] == [depth] * 3


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, stages: int, shortcut: str) -> torch.Tensor:
    """kuangliu's network from the names in its state dict alone, in eval mode, for 32 px images."""

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / torch.sqrt(var + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage in range(1, stages + 1):
        for block in range(sum(bool(re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", name)) for name in state)):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").clamp(min=0)
            out = norm(F.conv2d(out, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if shortcut == "projection" and stride == 2:
                x = norm(F.conv2d(x, state[f"{name}.shortcut.0.weight"], stride=2), f"{name}.shortcut.1")
            elif shortcut == "zeros" and stride == 2:
                padded = torch.zeros_like(out)
                quarter = out.shape[1] // 4
                padded[:, quarter:-quarter] = x[:, :, ::2, ::2]
                x = padded
            x = (out if shortcut == "none" else out + x).clamp(min=0)
    return F.linear(x.mean(dim=(2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(
    ("arch", "stages", "shortcut"),
    [
        ("resnet18_cifar", 4, "projection"),
        ("plain18_cifar", 4, "none"),
        ("resnet20", 3, "zeros"),
        ("plain20", 3, "none"),
    ],
)
def test_scratch_nets_compute_what_their_state_dict_says(arch, stages, shortcut):
    made = net(arch).eval()
    # Random BatchNorm, so that no two of its four tensors can be mixed up; convolutions keep their scale.
    state = made.state_dict()
    state |= {name: value for name, value in random_state(made).items() if "bn" in name or "shortcut.1" in name}
    made.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(made(images()), by_hand(state, images(), stages, shortcut), rtol=1e-3, atol=1e-4)


def test_state_dicts_of_kuangliu_fit_unrenamed():
    def norm(name, width):
        return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
            f"{name}.num_batches_tracked": ()
        }

    shapes = {"conv1.weight": (64, 3, 3, 3), **norm("bn1", 64), "linear.weight": (10, 512), "linear.bias": (10,)}
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            inner = width // 2 if stage > 1 and block == 0 else width
            name = f"layer{stage}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, inner, 3, 3), **norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **norm(f"{name}.bn2", width)}
            if inner != width:
                shapes |= {f"{name}.shortcut.0.weight": (width, inner, 1, 1), **norm(f"{name}.shortcut.1", width)}
    assert {name: tuple(value.shape) for name, value in net("resnet18_cifar").state_dict().items()} == shapes


@pytest.mark.parametrize("arch", ["resnet18_cifar", "resnet20", "resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("size", [32, 45])
def test_networks_take_images_of_any_size(arch, size):
    with torch.no_grad():
        assert net(arch, classes=7).eval()(images(2, size)).shape == (2, 7)


# ---- torchvision and the user's own --------------------------------------------------------------------------------


def test_torchvisions_resnet18_computes_what_torchvisions_own_does():
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    ours = net("resnet18", weights="given", state=theirs.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs(images()))


def test_every_torchvision_classifier_is_known_and_nothing_else_of_it():
    known = set(models.architectures())
    assert {"resnet50", "vit_b_16", "squeezenet1_1", "convnext_tiny", "inception_v3", "resnet20"} <= known
    assert not known & {"fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", "quantized_resnet18", "raft_small"}


@pytest.mark.parametrize(
    ("arch", "head", "width"),
    [
        ("resnet18_cifar", "linear", 512),
        ("resnet20", "linear", 64),
        ("resnet18", "fc", 512),
        ("vgg11", "classifier.6", 4096),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("densenet121", "classifier", 1024),
        ("vit_b_32", "heads.head", 768),
        ("swin_t", "head", 768),
        ("googlenet", "fc", 1024),
        ("inception_v3", "fc", 2048),
        ("regnet_y_400mf", "fc", 440),
        ("squeezenet1_1", "classifier.1", 512),
    ],
)
def test_the_head_takes_the_place_of_the_last_layer(arch, head, width):
    size = {"inception_v3": 75, "squeezenet1_1": 64, "vit_b_32": 224}.get(arch, 32)
    config = ModelConfig(arch=arch, head=HeadConfig(hidden=(8,), dropout=0.5))
    assert models.check(config, 7, image_size=size) == []
    made = models._sketch(config, 7)
    assert models.head_name(made) == head
    first, relu, dropout, last = made.get_submodule(head)
    assert (first.weight.shape[:2], last.weight.shape[:2]) == ((8, width), (7, 8))
    assert isinstance(relu, nn.ReLU) and isinstance(dropout, nn.Dropout) and dropout.p == 0.5
    backbone, classifier = models.parameter_groups(made)
    assert classifier == [f"{head}.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]
    assert {*backbone, *classifier} == {name for name, _ in made.named_parameters()}
    assert not {*backbone} & {*classifier}


def test_squeezenet_with_a_head_of_convolutions_gives_logits():
    made = net("squeezenet1_1", classes=7, head=HeadConfig(hidden=(8,))).eval()
    with torch.no_grad():
        assert made(images(2, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (CONFIG1, HeadConfig(hidden=(128,), dropout=0.3)),
        (CONFIG2, HeadConfig(hidden=(256, 128, 128, 64, 32), dropout=(0.2, 0.2, 0.2, 0.2, 0.0))),
    ],
)
def test_heads_print_as_in_the_study(text, head):
    # In Config1 the study's print lost the bracket of "ReLU ()".
    assert squeezed(str(net("resnet18", head=head).fc)) == squeezed(text).replace("ReLU((2)", "ReLU()(2)")


def test_without_hidden_layers_the_head_is_one_linear_layer():
    for head in (None, HeadConfig(), HeadConfig(hidden=())):
        assert str(net("resnet18", classes=3, head=head).fc) == "Linear(in_features=512, out_features=3, bias=True)"


OWN = """
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first = nn.Linear(48, 6)
        self.scale = nn.Parameter(torch.randn(6) * 0.1)
        self.register_buffer("noise", torch.rand(6))
        self.last = nn.Linear(6, classes)
    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))) * self.scale + self.noise)
"""


def test_your_own_network_is_called_with_the_number_of_classes(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "own_net", OWN)
    made = net("own_net:Net", classes=5)
    assert (type(made).__name__, made.last.out_features, models.head_name(made)) == ("Net", 5, "last")
    headed = net("own_net:Net", classes=5, head=HeadConfig(hidden=(4,)))
    assert [type(layer).__name__ for layer in headed.last] == ["Linear", "ReLU", "Linear"]
    assert headed(images(2, 4)).shape == (2, 5)
    assert torch.equal(headed.scale, made.scale) and torch.equal(headed.noise, made.noise)
    assert not torch.equal(net("own_net:Net", classes=5, seed=1).scale, made.scale)


SMALL_VIT = """
from suite.vision import torchvision
def make(classes):
    return torchvision.models.VisionTransformer(32, 8, 1, 2, hidden_dim=8, mlp_dim=8, num_classes=classes)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def make(classes): return 3", "must return a torch.nn.Module, got int"),
        ("def make(classes): raise KeyError('x')", r"bad_net:make\(10\) failed: KeyError: 'x'"),
        ("net = nn.Linear(2, 2)\ndef make(classes): return net", "same network twice"),
        ("def make(classes): return nn.LazyLinear(classes)", "unknown shape"),
        ("calls = []\ndef make(classes):\n  calls.append(1)\n  return nn.Sequential(*[nn.Linear(2, 2) for _ in calls])",
         "different layers each time"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_your_own_network_is_said(tmp_path, monkeypatch, code, said):
    write_module(tmp_path, monkeypatch, "bad_net", code)
    monkeypatch.delitem(__import__("sys").modules, "bad_net", raising=False)
    with pytest.raises(UsageError, match=said):
        net("bad_net:make")


def test_your_own_network_without_a_linear_layer_takes_no_head(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "bare_net", "def make(classes): return nn.Sequential(nn.BatchNorm2d(3))")
    assert models.head_name(net("bare_net:make")) == "0"
    with pytest.raises(UsageError, match="no linear layer to replace"):
        net("bare_net:make", head=HeadConfig())


# ---- initial weights -----------------------------------------------------------------------------------------------


def generator(name: str, seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, f"init:{name}"))


def test_each_weight_is_drawn_by_its_architectures_law_from_the_stream_of_its_name():
    fan_out = 64 * 7 * 7
    expected = torch.empty(64, 3, 7, 7).normal_(0, math.sqrt(2 / fan_out), generator=generator("conv1.weight", 3))
    assert torch.equal(net("resnet18", seed=3).conv1.weight, expected)

    fan_in = 16 * 3 * 3
    name = "layer1.2.conv1.weight"
    expected = torch.empty(16, 16, 3, 3).normal_(0, math.sqrt(2 / fan_in), generator=generator(name))
    assert torch.equal(net("resnet20").get_parameter(name), expected)

    # PyTorch's own law for layers: uniform within 1 / sqrt(fan in).
    for name, shape in {"layer4.1.conv2.weight": (512, 512, 3, 3), "linear.bias": (10,)}.items():
        bound = 1 / math.sqrt(512 * 9 if len(shape) == 4 else 512)
        expected = torch.empty(shape).uniform_(-bound, bound, generator=generator(name))
        torch.testing.assert_close(net("resnet18_cifar").get_parameter(name).detach(), expected, rtol=1e-6, atol=0)


def test_a_law_that_draws_again_what_it_rejects_stays_in_the_stream_of_the_name(tmp_path, monkeypatch):
    code = """
def make(classes):
    net = nn.Sequential(nn.Linear(30, 40), nn.Linear(30, 40))
    for layer in net:
        nn.init.trunc_normal_(layer.weight)
    return net
"""
    write_module(tmp_path, monkeypatch, "cut_net", code)
    for made, names in (
        (net("cut_net:make"), ["0.weight", "1.weight"]),
        (net("convnext_tiny"), ["features.0.0.weight"]),
    ):
        for name in names:
            weight = made.get_parameter(name)
            std = 1.0 if name[0].isdigit() else 0.02
            expected = nn.init.trunc_normal_(torch.empty(weight.shape), std=std, generator=generator(name))
            assert torch.equal(weight, expected), name


def test_a_parameter_drawn_before_it_is_one_has_its_own_stream(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "small_vit", SMALL_VIT)
    made = net("small_vit:make")
    expected = torch.empty(1, 17, 8).normal_(std=0.02, generator=generator("encoder.pos_embedding"))
    assert torch.equal(made.get_parameter("encoder.pos_embedding"), expected)


def test_a_parameter_drawn_in_pieces_repeats_no_numbers(tmp_path, monkeypatch):
    code = """
def make(classes):
    net = nn.Linear(4, 3 * classes)
    for piece in net.weight.detach().chunk(3):
        nn.init.normal_(piece)
    return net
"""
    write_module(tmp_path, monkeypatch, "pieces_net", code)
    first, second, third = net("pieces_net:make", classes=6).weight.chunk(3)
    assert not torch.equal(first, second) and not torch.equal(second, third) and not torch.equal(first, third)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arch": "resnet18"}, {"arch": "resnet34"}),
        ({"arch": "resnet20"}, {"arch": "resnet56"}),
        ({"arch": "resnet18_cifar"}, {"arch": "plain18_cifar"}),
        ({"arch": "resnet18"}, {"arch": "resnet18", "head": HeadConfig(hidden=(128,), dropout=0.3)}),
    ],
)
def test_layers_that_two_arms_share_start_equal(one, other):
    left, right = net(**one, seed=5).state_dict(), net(**other, seed=5).state_dict()
    shared = [name for name in left if name in right and left[name].shape == right[name].shape]
    assert len(shared) > 60
    assert all(torch.equal(left[name], right[name]) for name in shared)


def test_layers_of_one_shape_and_other_seeds_start_different():
    made = net("resnet18")
    assert not torch.equal(made.layer1[0].conv1.weight, made.layer1[0].conv2.weight)
    assert not torch.equal(made.layer1[0].conv1.weight, net("resnet18", seed=1).layer1[0].conv1.weight)


@pytest.mark.parametrize("arch", ["resnet20", "own_random:make"])
def test_weights_neither_depend_on_nor_change_the_global_random_state(tmp_path, monkeypatch, arch):
    code = """
import random
import numpy as np
def make(classes):
    net = nn.Linear(3, classes)
    net.register_buffer("noise", torch.tensor([random.random(), np.random.rand(), torch.randperm(1000)[0]]))
    return net
"""
    write_module(tmp_path, monkeypatch, "own_random", code)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        states.append(net(arch).state_dict())
        models.check(ModelConfig(arch=arch), 10)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# ---- weights -------------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, content: object, name: str = "weights.pth", **options) -> str:
    torch.save(content, tmp_path / name, **options)
    return str(tmp_path / name)


def test_weights_of_a_file_are_taken_over_but_for_the_last_layer(tmp_path):
    state = random_state(torchvision.models.resnet18(num_classes=200))
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
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
        lambda state: {"net": {f"module.{name}": value for name, value in state.items()}, "acc": 95.0},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_wrapped_and_prefixed_state_dicts_are_understood(tmp_path, wrap):
    state = random_state(net("resnet20"))
    made = net("resnet20", weights=saved(tmp_path, wrap(state)))
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())


def test_old_file_formats_and_missing_counters_are_understood(tmp_path):
    state = {name: value for name, value in random_state(net("resnet20")).items() if "tracked" not in name}
    made = net("resnet20", weights=saved(tmp_path, state, _use_new_zipfile_serialization=False))
    assert torch.equal(made.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("arch", ["mnasnet0_5", "densenet121", "googlenet"])
def test_networks_with_loading_rules_of_their_own_take_their_state_dict_back(arch):
    state = random_state(net(arch, classes=4))
    given = dict(state)
    if arch == "densenet121":  # as in the published file: denselayer1.norm.1 for denselayer1.norm1
        given = {re.sub(r"(denselayer\d+\.(norm|conv))(\d)", r"\1.\3", name): value for name, value in state.items()}
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
        with pytest.raises(EnvironmentProblem, match=rf"{name}\.pth cannot be read as weights") as error:
            net("resnet20", weights=str(tmp_path / f"{name}.pth"))
        assert error.value.exit_code == 6
        assert "Traceback" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_missing_files_are_the_environments_fault_and_found_without_loading(tmp_path):
    for path, said in ((tmp_path / "no.pth", "is not there"), (tmp_path, "is a folder")):
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
    assert statistics("efficientnet_v2_l", state) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # see its documentation
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
    assert torch.equal(models.build(config, 10).layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


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
    path = weights_module._downloaded(SimpleNamespace(url=(tmp_path / f"right-{digest}.pth").as_uri()))
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
        pytest.skip("SUITE_TINYIMAGENET_WEIGHTS names no file of Tiny ImageNet weights for torchvision's resnet18")
    config = ModelConfig(arch="resnet18", weights=path, freeze_depth=7, head=HeadConfig(hidden=(128,), dropout=0.3))
    found = models.load_weights(config)
    assert found.mean == (0.485, 0.456, 0.406)
    assert models.check(config, 10, found, image_size=32) == []
    made = models.build(config, 10, weights=found.state)
    file = torch.load(path, weights_only=True)
    assert torch.equal(made.layer4[1].conv2.weight, file["layer4.1.conv2.weight"].float())
    assert torch.equal(made.bn1.running_var, file["bn1.running_var"].float())
    (problem,) = models.check(ModelConfig(arch="resnet34", weights=path), 10, found)
    assert problem.remedy.startswith("They look like those of resnet18. ")


# ---- freezing ------------------------------------------------------------------------------------------------------

RESNET = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool"]


@pytest.mark.parametrize("depth", [0, 1, 4, 5, 7, 8, 9])
def test_the_first_children_are_frozen_and_no_others(depth):
    made = net("resnet18", freeze_depth=depth)
    assert models.freezable_layers(made) == RESNET
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in made.named_parameters() if name.split(".")[0] in RESNET[:depth]}
    prefix = {0: 0, 1: 1, 8: 9}.get(depth, max(depth, 4))  # relu, maxpool and avgpool have nothing to freeze
    assert models.frozen_prefix(made) == RESNET[:prefix]


def test_parameters_are_counted():
    # From the shapes: conv1, bn1, and 4 convolutions and 4 BatchNorms of layer1; fc has 512 weights and a bias each.
    frozen = 64 * 3 * 49 + 128 + 4 * (64 * 64 * 9 + 128)
    total = 11_689_512 - 1000 * 513 + 10 * 513  # torchvision's own figure for 1000 classes
    assert models.count_parameters(net("resnet18", freeze_depth=5)) == (total - frozen, total)


def test_where_the_body_is_called_features_its_children_count():
    made = net("mobilenet_v3_small", freeze_depth=3)
    names = [name for name, _ in models.layers(made)]
    assert names == [*(f"features.{number}" for number in range(13)), "avgpool", "classifier"]
    frozen = {".".join(name.split(".")[:2]) for name, weight in made.named_parameters() if not weight.requires_grad}
    assert frozen == {"features.0", "features.1", "features.2"} == {*models.frozen_prefix(made)}
    assert models.freezable_layers(models._sketch(ModelConfig(arch="vgg11"), 10))[-2:] == ["features.20", "avgpool"]


@pytest.mark.parametrize(("depth", "frozen"), [(0, False), (1, False), (2, True)])
def test_a_class_token_is_frozen_with_the_whole_body(tmp_path, monkeypatch, depth, frozen):
    write_module(tmp_path, monkeypatch, "small_vit", SMALL_VIT)
    assert net("small_vit:make", freeze_depth=depth).class_token.requires_grad is not frozen


def statistics(made: nn.Module, name: str) -> list[torch.Tensor]:
    layer = made.get_submodule(name)
    return [layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()]


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
    changed = {name.split(".")[0] for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer4", "fc"}


# ---- dropout between layers ----------------------------------------------------------------------------------------


def test_dropout_drops_the_rate_of_units_after_the_layers_named_and_only_while_training():
    made = net("resnet18_cifar", dropout=DropoutConfig(rate=0.3, after=("bn1", "layer2.0")))
    plain = net("resnet18_cifar")
    assert str(made) == str(plain) and [*made.state_dict()] == [*plain.state_dict()]
    seen = {}
    for name in ("bn1", "layer1", "layer2.0"):
        made.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.detach()}))
    made.train()(images(4))
    for name, size in (("bn1", 4 * 64 * 32 * 32), ("layer2.0", 4 * 128 * 16 * 16)):
        zeros = (seen[name] == 0).sum().item() / size
        # layer2.0 ends in a ReLU: of what it lets through, 70 % is kept.
        clean = {}
        plain.get_submodule(name).register_forward_hook(lambda _m, _i, out, clean=clean: clean.update(out=out.detach()))
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
    made = net("resnet20", freeze_depth=2, freeze_batchnorm=True, dropout=DropoutConfig(rate=0.9, after=("bn1",)))
    outs = []
    made.bn1.register_forward_hook(lambda _m, _i, out: outs.append((out == 0).float().mean().item()))
    copied = copy.deepcopy(made)
    made(images()), made.train()(images()), made.eval()(images())
    assert outs[0] > 0.85 and outs[1] > 0.85 and outs[2] < 0.1
    copied.train()(images()), copied.eval()(images())
    assert outs[3] > 0.85 and outs[4] < 0.1


def test_a_rate_of_zero_is_no_dropout():
    made = net("resnet20", dropout=DropoutConfig(rate=0.0, after=("layer1",))).train()
    assert torch.equal(made(images()), net("resnet20").train()(images()))


# ---- copies and checks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["resnet18_cifar", "plain20", "resnet18", "squeezenet1_1"])
def test_networks_can_be_copied_and_their_state_dicts_loaded_strictly(arch):
    settings = {"freeze_depth": 2, "freeze_batchnorm": True, "head": HeadConfig(hidden=(8,), dropout=0.2)}
    made = net(arch, **settings)
    again = net(arch, seed=1, **settings)
    again.load_state_dict(made.state_dict(), strict=True)
    copied = copy.deepcopy(made)
    for other in (again, copied):
        assert all(torch.equal(value, made.state_dict()[name]) for name, value in other.state_dict().items())
        assert models.head_name(other) == models.head_name(made)
        assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in made.parameters()]
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(next(copied.parameters()), next(made.parameters()))


def test_a_sound_network_has_no_problems():
    for arch in ("resnet18_cifar", "resnet110", "resnet18", "regnet_y_400mf"):
        assert models.check(ModelConfig(arch=arch, freeze_depth=1), 10, image_size=32) == []


@pytest.mark.parametrize(
    ("arch", "near"), [("resnet19_cifar", "resnet18_cifar"), ("mobilenetv3_small", "mobilenet_v3_small")]
)
def test_an_unknown_architecture_names_the_nearest(arch, near):
    (problem,) = models.check(ModelConfig(arch=arch), 10)
    assert problem.rule == f"model.arch: unknown architecture '{arch}'"
    assert problem.remedy.startswith(f"Did you mean '{near}'? Known: resnet18_cifar, ")
    assert not problem.environment
    with pytest.raises(UsageError, match="unknown architecture"):
        net(arch)


def test_all_problems_are_listed_at_once(tmp_path):
    config = ModelConfig(
        arch="resnet18",
        freeze_depth=10,
        dropout=DropoutConfig(rate=0.1, after=("layer1", "layr2", "zzz")),
        weights=str(tmp_path / "no.pth"),
    )
    depth, near, far, missing = models.check(config, 10)
    assert depth.rule == "model.freeze_depth must be at most 9 for this network, got 10"
    assert "conv1=1, bn1=2, relu=3, maxpool=4, layer1=5, " in depth.remedy and "avgpool=9" in depth.remedy
    assert near.rule.endswith("no layer 'layr2'") and near.remedy.startswith("Did you mean 'layer2'? ")
    assert far.remedy.startswith("Its top-level layers are conv1, bn1, relu, maxpool, layer1,")
    assert missing.environment
    with pytest.raises(UsageError) as error:
        models.build(config, 10)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(
    ("arch", "size", "said"),
    [("vit_b_32", 32, "Wrong image height! Expected 224 but got 32!"), ("alexnet", 32, "Output size is too small")],
)
def test_images_that_the_network_cannot_take_are_found_before_training(arch, size, said):
    (problem,) = models.check(ModelConfig(arch=arch), 10, image_size=size)
    assert said in problem.rule and f"{arch} does not take images of 32 x 32 pixels" in problem.rule


def test_a_network_without_logits_is_found_before_training(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "flat_net", "def make(classes): return nn.Conv2d(3, classes, 1)")
    (problem,) = models.check(ModelConfig(arch="flat_net:make"), 10, image_size=32)
    assert problem.rule.endswith("must turn 2 images into logits of shape (2, 10), got a tensor (2, 10, 32, 32)")
