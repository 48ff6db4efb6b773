"""Count layers from the front, and freeze the first of them."""

from __future__ import annotations

import types

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.core.errors import Problem


def layers(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers as ``freeze_depth`` counts them: top-level children, with those of ``features``.

    For ResNet-18: conv1, bn1, relu, maxpool, layer1, ..., layer4, avgpool, fc.
    """
    counted = []
    for name, child in net.named_children():
        parts = list(child.named_children()) if name == "features" else []
        counted += [(f"{name}.{part}", module) for part, module in parts] or [(name, child)]
    return counted


def top_level(net: nn.Module) -> list[str]:
    """Names of the top-level children."""
    return [name for name, _ in net.named_children()]


def freezable(net: nn.Module, head: str) -> list[str]:
    """Names of the layers before the one that holds the head."""
    names = [name for name, _ in layers(net)]
    holders = [index for index, name in enumerate(names) if f"{head}.".startswith(f"{name}.")]
    return names[: holders[0]] if holders else names


def freeze(net: nn.Module, depth: int, head: str, *, batchnorm: bool) -> None:
    """Freeze the weights of the first ``depth`` layers.

    Parameters of the network itself (ViT's class token) belong to no layer. They are frozen if all
    layers before the head are.

    Args:
        net: the network, changed in place.
        depth: number of layers, as ``layers`` counts them.
        head: name of the module that classifies.
        batchnorm: whether their BatchNorm keeps its statistics too: stays in eval mode for good.
    """
    for _, layer in layers(net)[:depth]:
        layer.requires_grad_(False)
        for module in layer.modules():
            if batchnorm and isinstance(module, _BatchNorm):
                _keep_statistics(module)
    body = [
        parameter
        for name in freezable(net, head)
        for parameter in net.get_submodule(name).parameters()
    ]
    if depth and not any(parameter.requires_grad for parameter in body):
        for parameter in net.parameters(recurse=False):
            parameter.requires_grad_(False)


def _keep_statistics(module: nn.Module) -> None:
    mode = module.training
    module.eval()
    # A bound method: deepcopy binds it to the copy, and `net.train()` calls it.
    setattr(module, "train", types.MethodType(_stay, module))  # noqa: B010
    module.train(mode)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    setattr(module, "suite_training", mode)  # noqa: B010  # for dropout after this layer
    return module


def freezing_problems(net: nn.Module, depth: int, head: str) -> list[Problem]:
    """A problem if ``depth`` would freeze the head, or exceeds the number of layers."""
    names = freezable(net, head)
    if depth <= len(names):
        return []
    numbered = ", ".join(f"{name}={number}" for number, name in enumerate(names, 1))
    return [
        Problem(
            f"model.freeze_depth must be at most {len(names)} for this network, got {depth}",
            remedy=f"The layers before the head are {numbered or 'none'}.",
        )
    ]


def frozen_prefix(net: nn.Module) -> list[str]:
    """Names of the leading layers without a trained weight; empty if nothing is frozen.

    Layers without weights count if a layer with frozen weights comes before them.
    """
    names: list[str] = []
    frozen = False
    for name, layer in layers(net):
        trained = [parameter.requires_grad for parameter in layer.parameters()]
        if any(trained):
            break
        frozen = frozen or bool(trained)
        names.append(name)
    return names if frozen else []


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """Number of trainable parameters, and of all; buffers (BatchNorm's statistics) do not count."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in net.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
