"""The frozen prefix: leading layers that give an image the same features whenever they see it.

``after_prefix(net)(run_prefix(net, images))`` is ``net(images)``, so features can be computed once
and the layers behind them trained on these. A prefix is used only if that holds bit for bit, which
``examine`` tries on the network itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from suite.models.freezing import frozen_prefix


@dataclass(frozen=True)
class Prefix:
    """A network's frozen leading layers, if their features can be cached.

    Attributes:
        layers: their names, in order; empty if features cannot be cached.
        why_not: the reason if ``layers`` is empty.
        bytes: size of one image's features.
    """

    layers: tuple[str, ...] = ()
    why_not: str = ""
    bytes: int = 0


class _Reached(Exception):
    def __init__(self, output: object) -> None:
        self.output = output


def run_prefix(net: nn.Module, layers: Sequence[str], images: Tensor) -> Tensor:
    """The output of the last of ``layers`` for images (B, C, H, W), without a gradient.

    Later layers are not run.
    """

    def stop(_module: nn.Module, _inputs: object, output: object) -> None:
        raise _Reached(output)

    handle = net.get_submodule(layers[-1]).register_forward_hook(stop)
    try:
        with torch.no_grad():
            net(images)
    except _Reached as reached:
        if isinstance(reached.output, Tensor):
            return reached.output
    finally:
        handle.remove()
    raise TypeError(f"layer {layers[-1]} gives no tensor")


def after_prefix(net: nn.Module, layers: Sequence[str]) -> nn.Module:
    """``net`` with ``layers`` replaced by the identity: takes features. Shares other modules."""
    shortened = _shallow(net)
    for name in layers:
        *parents, last = name.split(".")
        holder = shortened
        for parent in parents:  # ``features``, whose layers are counted in its place
            if holder._modules[parent] is net.get_submodule(parent):
                holder._modules[parent] = _shallow(net.get_submodule(parent))
            holder = holder.get_submodule(parent)
        holder._modules[last] = nn.Identity()
    return shortened


def _shallow(net: nn.Module) -> nn.Module:
    twin = copy.copy(net)
    twin._modules = dict(net._modules)
    return twin


def examine(
    net: nn.Module,
    images: Tensor,
    sizes: Sequence[int],
    around: Callable[[], object] = torch.no_grad,
) -> Prefix:
    """Whether features of ``net``'s frozen prefix can be cached, tried on ``images``.

    Args:
        net: in its memory format of training; left as it was.
        images: float32 (B, C, H, W), normalised; as many as the largest of ``sizes``.
        sizes: numbers of images that run together; features must not depend on them.
        around: makes the context of a forward pass (autocast).
    """
    layers = frozen_prefix(net)
    if not layers:
        return Prefix(why_not="no leading layer is frozen")
    moving = [name for name in layers if any(map(_moves, net.get_submodule(name).modules()))]
    if moving:
        return Prefix(
            why_not=f"BatchNorm in {moving[0]} updates its statistics; "
            "model.freeze_batchnorm: true keeps them"
        )
    training = net.training
    try:
        with torch.random.fork_rng(), torch.no_grad():
            return _try(net, layers, images, sizes, around)
    except Exception as error:  # any error of a network of another structure
        return Prefix(
            why_not=f"the network cannot be cut after {layers[-1]} ({type(error).__name__})"
        )
    finally:
        net.train(training)


def _moves(module: nn.Module) -> bool:
    """Whether training changes more of a module than its weights: a BatchNorm in training mode."""
    return (
        isinstance(module, _BatchNorm)
        and "train" not in vars(module)
        and module.track_running_stats
    )


def _format(images: Tensor) -> torch.memory_format:
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _try(
    net: nn.Module,
    layers: Sequence[str],
    images: Tensor,
    sizes: Sequence[int],
    around: Callable[[], object],
) -> Prefix:
    def features(count: int, seed: int, training: bool) -> Tensor:
        torch.manual_seed(seed)
        net.train(training)
        with around():  # type: ignore[attr-defined]
            return run_prefix(net, layers, images[:count])

    largest, smallest = max(sizes), min(sizes)
    first = features(largest, 0, training=False)
    if not all(
        torch.equal(features(smallest, seed, True), features(smallest, seed + 1, False))
        for seed in (1, 3)
    ):
        return Prefix(why_not=f"the layers up to {layers[-1]} are random in training (dropout)")
    for count in sorted(set(sizes)):
        if not torch.equal(features(count, 0, training=False), first[:count]):
            return Prefix(
                why_not=f"features differ between batches of {count} and of {largest} images "
                "on this machine"
            )
    net.eval()
    with around():  # type: ignore[attr-defined]
        why_not = _difference(net, layers, images[:largest], first)
    if why_not:
        return Prefix(why_not=why_not)
    return Prefix(tuple(layers), bytes=first[0].numel() * first.element_size())


def _difference(net: nn.Module, layers: Sequence[str], images: Tensor, features: Tensor) -> str:
    """Why ``net`` cannot be cut after ``layers``, whose output for ``images`` is ``features``."""
    backwards = images.flip(0).contiguous(memory_format=_format(images))
    if not torch.equal(run_prefix(net, layers, backwards).flip(0), features):
        return "features depend on an image's position in its batch on this machine"
    if not torch.equal(after_prefix(net, layers)(features), net(images)):
        return f"the network computes between its layers up to {layers[-1]}, not only in them"
    return ""
