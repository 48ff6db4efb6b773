"""Sliced convolutions: the same sums without their zeros."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from suite import models
from suite.config.trial import ModelConfig
from suite.core.records import Numerics
from suite.models import strip_conv
from suite.models.small_conv import SmallConv2d, use_small_conv
from tests.training import finish, training, trial

TAKEN = [
    (1, 3, 1, 1),
    (1, 3, 2, 1),
    (1, 1, 1, 0),
    (1, 1, 2, 0),
    (1, 5, 1, 2),
    (1, 7, 2, 3),
    (2, 3, 1, 1),
    (2, 3, 2, 1),
]
NOT_TAKEN = [(2, 1, 2, 0), (2, 2, 2, 1), (3, 3, 1, 1), (8, 3, 1, 1), (4, 3, 2, 1)]


def pair(
    side: int, kernel: int, stride: int, padding: int, bias: bool
) -> tuple[nn.Conv2d, nn.Conv2d, torch.Tensor]:
    torch.manual_seed(side + kernel)
    whole = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias).double()
    sliced = copy.deepcopy(whole)
    sliced = use_small_conv(sliced)
    return whole, sliced, torch.randn(4, 5, side, side, dtype=torch.double)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("side", "kernel", "stride", "padding"), [*TAKEN, *NOT_TAKEN])
def test_values_and_gradients_are_the_convolutions(
    side: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    whole, sliced, images = pair(side, kernel, stride, padding, bias)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    out, expected = sliced(ours), whole(theirs)
    gradient = torch.randn_like(expected)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)
    for mine, other in zip(sliced.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "taken"), [*((each, True) for each in TAKEN), *((each, False) for each in NOT_TAKEN)]
)
def test_only_maps_whose_every_block_lies_in_the_kernel_are_sliced(
    shape: tuple[int, int, int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, sliced, images = pair(*shape, bias=False)
    called: list[int] = []
    real = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, given: called.append(1) or real(self, given)
    )
    sliced(images)
    assert bool(called) != taken


def test_what_is_no_plain_convolution_stays() -> None:
    odd = [
        nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ]  # fmt: skip
    net = nn.Sequential(*odd, nn.Conv2d(4, 4, 3))
    use_small_conv(net)
    assert [isinstance(layer, SmallConv2d) for layer in net] == [False] * 5 + [True]
    twin = copy.deepcopy(net)
    assert isinstance(twin[5], SmallConv2d) and twin.state_dict().keys() == net.state_dict().keys()


@pytest.fixture
def strips_taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What has gone the way of strips, on any processor: oneDNN computes in bf16 on all of them."""
    taken: list[tuple[int, ...]] = []
    real = strip_conv.StripConv.apply

    def watched(images: torch.Tensor, *given: Any) -> Any:
        taken.append(tuple(images.shape))
        return real(images, *given)

    monkeypatch.setattr(strip_conv.StripConv, "apply", watched)
    monkeypatch.setattr(strip_conv, "has_amx", lambda: True)
    return taken


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [1, 16, 21])
@pytest.mark.parametrize(
    ("side", "kernel", "stride"),
    [(4, 3, 1), (8, 3, 2), (8, 3, 1), (16, 3, 2), (7, 5, 2), (3, 3, 1), (5, 7, 3), (6, 5, 1)],
)
def test_strips_give_the_convolution_in_fp32_to_what_bf16_can_tell(
    side: int, kernel: int, stride: int, count: int, bias: bool, strips_taken: list[tuple[int, ...]]
) -> None:
    """Values and all gradients, as near as oneDNN's own bf16 kernels come; of less than a strip,
    one, and more.
    """
    torch.manual_seed(side + kernel)
    whole = nn.Conv2d(48, 32, kernel, stride, kernel // 2, bias=bias).to(
        memory_format=torch.channels_last
    )
    twin = copy.deepcopy(whole)
    twin = use_small_conv(twin, tiled=True)
    images = torch.randn(count, 48, side, side).contiguous(memory_format=torch.channels_last)
    found = {}
    for name, layer, in_bf16 in (
        ("fp32", whole, False),
        ("oneDNN", copy.deepcopy(whole), True),
        ("ours", twin, True),
    ):
        fed = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            out = layer(fed)
        out.float().backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
        assert fed.grad is not None and all(
            each.grad.dtype is torch.float32 for each in layer.parameters()
        )
        assert out.is_contiguous(memory_format=torch.channels_last)
        found[name] = [out.detach().float(), fed.grad, *(each.grad for each in layer.parameters())]
    assert strips_taken == [tuple(images.shape)]
    for exact, theirs, ours in zip(*found.values(), strict=True):
        assert ours.shape == exact.shape
        off, known = (float((exact - each).norm() / exact.norm()) for each in (ours, theirs))
        assert 0 < off < max(0.006, 1.5 * known), (off, known)


@pytest.mark.parametrize(("of_images", "of_weight"), [(True, False), (False, True)])
@pytest.mark.parametrize("side", [4, 8])
def test_strips_give_each_gradient_alone(
    side: int, of_images: bool, of_weight: bool, strips_taken: list[tuple[int, ...]]
) -> None:
    """The first layer after frozen ones asks for no gradient of its input, a frozen one for none
    of its weights.
    """
    layer = nn.Conv2d(32, 64, 3, padding=1, bias=False)
    layer = use_small_conv(layer, tiled=True)
    found = []
    for both in (True, False):
        fed = torch.randn(5, 32, side, side, generator=torch.Generator().manual_seed(0))
        fed.requires_grad_(both or of_images)
        layer.weight.requires_grad_(both or of_weight)
        layer.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            layer(fed).float().square().sum().backward()
        found.append((fed.grad, layer.weight.grad))
    assert len(strips_taken) == 2
    for asked, whole, alone in zip((of_images, of_weight), *found, strict=True):
        assert torch.equal(alone, whole) if asked else alone is None


@pytest.mark.skipif(
    not strip_conv.has_amx(), reason="no AMX: strips are not used, and oneDNN has other kernels"
)
def test_an_image_in_a_strip_is_the_same_among_any_others(
    strips_taken: list[tuple[int, ...]],
) -> None:
    """Bit for bit, forward and its gradient, wherever in a strip and however many strips."""
    layer = nn.Conv2d(64, 256, 3, padding=1, bias=False)
    layer = use_small_conv(layer, tiled=True)
    images = torch.randn(37, 64, 4, 4)

    def through(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fed = some.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(fed)
        out.float().square().sum().backward()
        assert fed.grad is not None
        return out.detach(), fed.grad

    whole = through(images)
    for first, last in ((0, 1), (5, 6), (3, 20), (20, 37)):
        for all_of_them, some in zip(whole, through(images[first:last]), strict=True):
            assert torch.equal(all_of_them[first:last], some)
    assert len(strips_taken) == 5


def test_a_network_may_add_into_what_a_convolution_by_strips_gave(
    strips_taken: list[tuple[int, ...]],
) -> None:
    """As a block that ends in ``out += shortcut`` does."""
    layer = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, bias=False))
    layer = use_small_conv(layer, tiled=True)
    for count in (2, 16):
        images = torch.randn(count, 256, 4, 4, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(images)
            out += images
        out.float().sum().backward()
        assert images.grad is not None
    assert len(strips_taken) == 2


@pytest.mark.parametrize(
    ("c_in", "channels", "side", "kernel", "padding", "in_bf16", "asked", "amx"),
    [
        (32, 32, 8, 3, 1, True, True, True),
        (32, 32, 8, 3, 1, True, False, True), (32, 32, 8, 3, 1, False, True, True),
        (32, 32, 8, 3, 1, True, True, False), (32, 32, 7, 5, 1, True, True, True),
        (32, 31, 8, 3, 1, True, True, True), (31, 32, 8, 3, 1, True, True, True),
        (32, 32, 9, 3, 1, True, True, True),
        (32, 32, 8, 1, 0, True, True, True), (32, 32, 8, 3, 0, True, True, True),
        (32, 32, 6, 4, 2, True, True, True),
    ],
)  # fmt: skip
def test_strips_are_for_many_channels_of_small_maps_in_bf16_with_amx(
    c_in: int,
    channels: int,
    side: int,
    kernel: int,
    padding: int,
    in_bf16: bool,
    asked: bool,
    amx: bool,
    strips_taken: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(strip_conv, "has_amx", lambda: amx)
    layer = nn.Sequential(nn.Conv2d(c_in, channels, kernel, padding=padding))
    layer = use_small_conv(layer, tiled=asked)
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        layer(torch.randn(2, c_in, side, side))
    first = (
        (c_in, channels, side, kernel, padding) == (32, 32, 8, 3, 1) and in_bf16 and asked and amx
    )
    assert bool(strips_taken) == first


@pytest.mark.parametrize(
    ("arch", "side", "count"),
    [("resnet18_cifar", 8, 10), ("resnet18", 32, 64), ("resnet20", 8, 64)],
)
def test_a_network_s_gradients_in_strips_are_as_near_to_fp32_as_without(
    arch: str, side: int, count: int, strips_taken: list[tuple[int, ...]]
) -> None:
    """bf16 both times, so rounding differs. A gradient of fresh weights is a third off in bf16; the
    control is another network's, which is 1.4 lengths off.
    """
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))

    def gradients(seed: int, in_bf16: bool, tiled: bool) -> list[torch.Tensor]:
        net = (
            models.build(ModelConfig(arch=arch), 10, seed=seed)
            .to(memory_format=torch.channels_last)
            .train()
        )
        if tiled:
            use_small_conv(net, tiled=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            logits = net(images.contiguous(memory_format=torch.channels_last))
        nn.functional.cross_entropy(logits.float(), torch.arange(count) % 10).backward()
        return [weight.grad for weight in net.parameters() if weight.grad is not None]

    exact = gradients(0, in_bf16=False, tiled=False)

    def off(found: list[torch.Tensor]) -> float:
        distances = [
            (one - right).norm() / right.norm() for one, right in zip(found, exact, strict=True)
        ]
        return float(torch.stack(distances).median())

    without = off(gradients(0, in_bf16=True, tiled=False))
    assert strips_taken == []
    assert 0 < off(gradients(0, in_bf16=True, tiled=True)) < 1.25 * without < 0.6
    assert strips_taken != []
    assert off(gradients(1, in_bf16=False, tiled=False)) > 1


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_sliced_resnet18_is_the_network(kind: torch.dtype) -> None:
    """Forward and backward at 32 pixels; in bf16 within what bf16 itself does."""
    torch.manual_seed(0)
    net = models.build(ModelConfig(arch="resnet18"), 10).to(memory_format=torch.channels_last)
    twin = copy.deepcopy(net)
    twin = use_small_conv(twin)
    images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    losses, gradients = [], []
    for each in (net, twin):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind is torch.bfloat16):
            logits = each(images)
        losses.append(nn.functional.cross_entropy(logits.float(), torch.arange(16) % 10))
        losses[-1].backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in each.parameters()]))
        assert all(weight.grad.dtype is torch.float32 for weight in each.parameters())
    distance = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert abs(losses[0] - losses[1]) < (1e-5 if kind is torch.float32 else 0.05)
    assert distance < (1e-4 if kind is torch.float32 else 0.15)


def test_a_sliced_resnet18_learns_what_the_other_learns() -> None:
    """Six steps in float64, whose rounding is too small to be amplified: the same losses, the
    same weights.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(6, 8, 3, 32, 32).double(), torch.randint(0, 10, (6, 8))
    losses, ends = [], []
    for sliced in (False, True):
        net = (
            models.build(ModelConfig(arch="resnet18"), 10)
            .double()
            .to(memory_format=torch.channels_last)
        )
        if sliced:
            use_small_conv(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for batch, truth in zip(images, labels, strict=True):
            loss = nn.functional.cross_entropy(net(batch), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        ends.append(torch.cat([weight.detach().flatten() for weight in net.parameters()]))
    assert losses[:6] == pytest.approx(losses[6:], rel=1e-7)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-7)


def test_training_slices_where_the_numerics_say_so(tmp_path: Path) -> None:
    for sliced in (False, True):
        numerics = Numerics(channels_last=True, sliced=sliced)
        run = finish(
            training(trial("resnet18", epochs=1), tmp_path / str(sliced), numerics=numerics)
        )
        assert any(isinstance(layer, SmallConv2d) for layer in run.model.modules()) == sliced


def test_a_replaced_convolution_keeps_hooks_mode_and_sharing() -> None:
    """A layer that occurs under two names stays one layer, and its hooks run."""
    shared = nn.Conv2d(4, 4, 3, padding=1).eval()
    called: list[int] = []
    shared.register_forward_hook(lambda *_: called.append(1))
    net = nn.Sequential(shared, nn.ReLU(), shared)
    names, weight = list(net.state_dict()), shared.weight
    use_small_conv(net)
    assert net[0] is net[2] and isinstance(net[0], SmallConv2d) and type(shared) is nn.Conv2d
    assert net[0].weight is weight and list(net.state_dict()) == names and not net[0].training
    net(torch.randn(1, 4, 2, 2))
    assert called == [1, 1]
