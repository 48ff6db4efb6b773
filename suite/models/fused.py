"""Run several networks of the same shapes as one, each on its own images.

Legend: N networks, B images and C channels of each.

Channels lie side by side, (B, N C, H, W): a convolution in N groups, a BatchNorm over N C channels
and a batched matrix product are then exactly the N layers, in one kernel instead of N. Layers that
work per channel or per value (ReLU, pooling) stay as they are. The method is that of Wang et al.
2021 (HFTA, MLSys). Each network keeps its weights, statistics and optimizer; they are joined for
each pass, so gradients reach their network, and a network can leave at any step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def fuse(nets: Sequence[nn.Module], generators: Sequence[Generator]) -> nn.Module:
    """One network that shares the weights of all: (B, N C, H, W) -> (B, N K) logits.

    Args:
        nets: in the order of their channels and logits.
        generators: one per network, for its dropout.

    Raises:
        TypeError: a layer, or the way in which a network holds its weights, is not supported.
    """
    first = nets[0]
    if any(type(net) is not type(first) for net in nets):
        raise TypeError("the networks are of different types")
    if first._forward_hooks or first._forward_pre_hooks:
        raise TypeError(f"{type(first).__name__} has hooks")
    match first:
        case nn.Conv2d():
            return _Conv2d(nets)
        case nn.BatchNorm2d():
            return _BatchNorm2d(nets)
        case nn.Linear():
            return _Linear(nets)
        case nn.Dropout():
            return _Dropout(nets, generators)
    if any(True for _ in (*first.parameters(recurse=False), *first.buffers(recurse=False))):
        raise TypeError(f"{type(first).__name__} holds weights in a way that is not supported")
    twin = copy.copy(first)
    twin._modules = {
        name: fuse([net.get_submodule(name) for net in nets], generators)
        for name, _ in first.named_children()
    }
    return twin


def agrees(nets: Sequence[nn.Module], images: Tensor) -> bool:
    """Whether the fused network gives the logits of each network alone.

    Code between layers may mix channels, or draw random numbers for all networks at once
    (stochastic depth, ``F.dropout``).

    Args:
        images: float32 (B, C, H, W), for each network.
    """
    try:
        nets = [copy.deepcopy(net) for net in nets]  # training changes BatchNorm statistics
        side_by_side = torch.cat([images] * len(nets), 1)
        with torch.no_grad():
            alone = torch.cat([net.eval()(images) for net in nets], 1)
            joined = fuse(nets, [Generator(images.device) for _ in nets])
            if not torch.allclose(alone, joined(side_by_side), rtol=1e-3, atol=1e-3):
                return False
            for net in (joined, *nets):
                net.train()
            before = _random_state(images.device)
            joined(side_by_side)
            after = _random_state(images.device)
            return torch.equal(before, after)  # each network has its own generator
    except (TypeError, RuntimeError, ValueError, IndexError, MemoryError):
        return False


def _random_state(device: torch.device) -> Tensor:
    """State of torch's default generators."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    if tensors[0] is None:
        return None
    return torch.cat([tensor for tensor in tensors if tensor is not None])


class _Conv2d(nn.Module):
    """``nn.Conv2d`` of N networks: one with N times the groups."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        if self.layers[0].padding_mode != "zeros" or isinstance(self.layers[0].padding, str):
            raise TypeError("a convolution pads in a way that is not supported")

    def forward(self, images: Tensor) -> Tensor:
        first = self.layers[0]
        weight, bias = (
            _joined([layer.weight for layer in self.layers]),
            _joined([layer.bias for layer in self.layers]),
        )
        assert weight is not None
        groups = first.groups * len(self.layers)
        return F.conv2d(images, weight, bias, first.stride, first.padding, first.dilation, groups)


class _BatchNorm2d(nn.Module):
    """``nn.BatchNorm2d`` of N networks; each keeps its statistics."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = [layer for layer in layers if isinstance(layer, _BatchNorm)]
        if self.layers[0].momentum is None or not self.layers[0].track_running_stats:
            raise TypeError("a BatchNorm keeps statistics in a way that is not supported")

    def forward(self, images: Tensor) -> Tensor:
        first = self.layers[0]
        mean, var = (
            _joined([getattr(layer, f"running_{name}") for layer in self.layers])
            for name in ("mean", "var")
        )
        weight, bias = (
            _joined([layer.weight for layer in self.layers]),
            _joined([layer.bias for layer in self.layers]),
        )
        assert mean is not None and var is not None and first.momentum is not None
        out = F.batch_norm(
            images, mean, var, weight, bias, first.training, first.momentum, first.eps
        )
        if first.training:
            count = len(self.layers)
            for layer, own_mean, own_var in zip(
                self.layers, mean.chunk(count), var.chunk(count), strict=True
            ):
                assert layer.running_mean is not None and layer.running_var is not None
                assert layer.num_batches_tracked is not None
                layer.running_mean.copy_(own_mean)
                layer.running_var.copy_(own_var)
                layer.num_batches_tracked += 1
        return out


class _Linear(nn.Module):
    """``nn.Linear`` of N networks, (B, N inputs) -> (B, N outputs)."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = [layer for layer in layers if isinstance(layer, nn.Linear)]

    def forward(self, rows: Tensor) -> Tensor:
        weight = torch.stack([layer.weight for layer in self.layers])
        own = rows.view(len(rows), len(self.layers), -1).transpose(0, 1)
        out = own @ weight.transpose(1, 2)
        if self.layers[0].bias is not None:
            out = out + torch.stack([layer.bias for layer in self.layers])[:, None]
        return out.transpose(0, 1).reshape(len(rows), -1)


class _Dropout(nn.Module):
    """``nn.Dropout`` of N networks, each with its own rate and generator."""

    def __init__(self, layers: Sequence[nn.Module], generators: Sequence[Generator]) -> None:
        super().__init__()
        self.layers = [layer for layer in layers if isinstance(layer, nn.Dropout)]
        self.generators = generators

    def forward(self, values: Tensor) -> Tensor:
        if not self.layers[0].training:
            return values
        own = values.chunk(len(self.layers), 1)
        masks = [
            torch.empty_like(part).bernoulli_(1 - layer.p, generator=generator).div_(1 - layer.p)
            for part, layer, generator in zip(own, self.layers, self.generators, strict=True)
        ]
        return values * torch.cat(masks, 1)
