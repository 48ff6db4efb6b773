"""Networks: scratch ResNets and plain nets, torchvision's classifiers, your own; heads, freezing, dropout, weights.

``build`` is the one door to every network, ``load_weights`` to every file of weights, and ``check`` says all that is
wrong with a ``ModelConfig`` before anything is started.

    zoo (name -> network) -> head (last layer) -> initial (random weights by name) -> weights -> freezing -> dropout
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import OrderedDict
from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from suite.config import plugin
from suite.config.trial import ModelConfig
from suite.core.errors import Problem, ProblemsError, raise_problems
from suite.models import init, zoo
from suite.models.freezing import (
    count_parameters,
    freezable,
    freeze,
    freezing_problems,
    frozen_prefix,
    layers,
)
from suite.models.fused import agrees, fuse
from suite.models.head import attach, dropout_problems, head_name, in_head, insert_dropout
from suite.models.prefix import Prefix, after_prefix, examine, run_prefix
from suite.models.scratch import NETS
from suite.models.small_conv import use_small_conv
from suite.models.weights import Weights, load_weights, mismatch, missing_file, put_into
from suite.models.zoo import names as architectures

__all__ = [
    "Prefix",
    "Weights",
    "after_prefix",
    "agrees",
    "architectures",
    "build",
    "check",
    "count_parameters",
    "examine",
    "freezable_layers",
    "frozen_prefix",
    "fuse",
    "head_name",
    "layers",
    "load_weights",
    "parameter_groups",
    "run_prefix",
    "use_small_conv",
]

TRIED_SIDE, TRIED_PARAMETERS = (
    64,
    30_000_000,
)  # up to which a network is tried on images with memory for its weights
# Whose weights a file is compared with when it does not fit: the scratch nets and the most used of the others.
_COMMON = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "vgg16",
    "alexnet",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
]


def build(
    config: ModelConfig,
    num_classes: int,
    *,
    seed: int = 0,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The network that ``config`` describes, on the CPU, in training mode. [B, 3, H, W] -> [B, num_classes] logits.

    Random weights depend on ``seed`` and on the parameter's name alone, never on the global random state.

    Args:
        config: the network.
        num_classes: classes to tell apart.
        seed: the trial's seed, for initial weights.
        weights: ``Weights.state`` where the caller has loaded ``config.weights`` already (as it must for ``runs:/``
            and ``models:/``); otherwise they are loaded here. Ignored with ``weights: none``.

    Raises:
        UsageError: if the architecture, a layer or the depth does not exist, or the weights are another network's.
        EnvironmentProblem: if the weights are missing or unreadable.
    """
    sketch = not plugin.is_reference(
        config.arch
    )  # the user's own code may not expect torch's meta device
    ready = weights if sketch and config.weights != "none" else None

    def given(first: nn.Module) -> Container[str]:
        return {name for name in ready or () if not in_head(first, name)}

    net = init.draw(lambda: _assemble(config, num_classes), seed, sketch=sketch, given=given)
    raise_problems(_structural_problems(net, config))
    if config.weights != "none":
        raise_problems(
            _weight_problems(
                net, config, num_classes, _loaded(config) if weights is None else weights
            )
        )
    freeze(net, config.freeze_depth, head_name(net), batchnorm=config.freeze_batchnorm)
    insert_dropout(net, config.dropout)
    return net


def check(
    config: ModelConfig,
    num_classes: int,
    weights: Weights | None = None,
    *,
    image_size: int | None = None,
) -> list[Problem]:
    """All that is wrong with ``config``. Built-in networks are made without allocating or drawing their weights.

    Args:
        config: the network.
        num_classes: classes to tell apart.
        weights: what ``load_weights`` gave; None = not loaded, so only the file's existence is checked.
        image_size: side of the images in pixels, to try whether the network takes them; None = not tried.
    """
    try:
        net = _sketch(config, num_classes)
    except ProblemsError as error:
        return [*error.problems, *missing_file(config)]
    problems = _structural_problems(net, config)
    if image_size is not None:
        problems += _size_problems(net, config, num_classes, image_size)
    if weights is None:
        return problems + missing_file(config)
    return problems + _weight_problems(net, config, num_classes, weights.state)


def parameter_groups(net: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters of (the backbone, the head), frozen ones included, each in order of definition."""
    every = [name for name, _ in net.named_parameters()]
    return [name for name in every if not in_head(net, name)], [
        name for name in every if in_head(net, name)
    ]


def freezable_layers(net: nn.Module) -> list[str]:
    """Names of the layers that ``freeze_depth`` may freeze, from the front: number n is the n-th."""
    return freezable(net, head_name(net))


def _assemble(config: ModelConfig, num_classes: int) -> nn.Module:
    net = zoo.maker(config.arch, pretrained=config.weights != "none")(num_classes)
    attach(net, config.head, num_classes)
    return net


def _sketch(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network for looking at, on torch's meta device where its constructor allows."""
    with init.own_randomness(seed=0):
        if not plugin.is_reference(config.arch):
            # As in initial: RegNet's constructor needs real tensors.
            with (
                contextlib.suppress(NotImplementedError, RuntimeError),
                torch.device("meta"),
                init.Undrawn(),
            ):
                return _assemble(config, num_classes)
        return _assemble(config, num_classes)


def _loaded(config: ModelConfig) -> Mapping[str, Tensor]:
    found = load_weights(config)
    return found.state if found else {}


def _structural_problems(net: nn.Module, config: ModelConfig) -> list[Problem]:
    return [
        *freezing_problems(net, config.freeze_depth, head_name(net)),
        *dropout_problems(net, config.dropout),
    ]


def _weight_problems(
    net: nn.Module, config: ModelConfig, num_classes: int, state: Mapping[str, Tensor]
) -> list[Problem]:
    """Puts ``state`` into ``net``; a problem if it does not fit."""
    misfits = put_into(net, state)
    return (
        [mismatch(config, config.weights, misfits, _look_alikes(state, num_classes))]
        if misfits
        else []
    )


def _look_alikes(state: Mapping[str, Tensor], num_classes: int) -> list[str]:
    """The common architectures that ``state`` would fit."""
    shapes = OrderedDict((name, value.to("meta")) for name, value in state.items())
    plain = [ModelConfig(arch=arch) for arch in (*NETS, *_COMMON)]
    return [config.arch for config in plain if not put_into(_sketch(config, num_classes), shapes)]


def _size_problems(
    net: nn.Module, config: ModelConfig, num_classes: int, image_size: int
) -> list[Problem]:
    """A problem if the network does not turn two images of that size into two rows of logits."""
    if (
        image_size <= TRIED_SIDE
        and sum(parameter.numel() for parameter in net.parameters()) <= TRIED_PARAMETERS
    ):
        net = _with_memory(net)
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    images = torch.zeros(2, 3, image_size, image_size, device=device)
    training = net.training
    try:
        with torch.no_grad(), init.own_randomness(seed=0):
            logits = net.eval()(images)
    except Exception as error:  # whatever a layer says about a size that it cannot take
        return [
            _refuses(
                config, image_size, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
        ]
    finally:
        net.train(training)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, num_classes):
        found = (
            f"a tensor {tuple(logits.shape)}"
            if isinstance(logits, Tensor)
            else type(logits).__name__
        )
        return [
            Problem(
                f"model.arch: {config.arch} must turn 2 images into logits of shape (2, {num_classes}), got {found}"
            )
        ]
    return []


def _with_memory(net: nn.Module) -> nn.Module:
    """A copy of a network on the meta device with weights, whatever their values, on the CPU.

    On the meta device torch reaches for its compiler to know the shape of what BatchNorm gives: 1.5 s.
    """
    if all(not tensor.is_meta for tensor in itertools.chain(net.parameters(), net.buffers())):
        return net
    net = copy.deepcopy(net)
    net._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu"))  # type: ignore[no-untyped-call]
    return net


def _refuses(config: ModelConfig, image_size: int, why: str) -> Problem:
    return Problem(
        f"model.arch: {config.arch} does not take images of {image_size} x {image_size} pixels: {why}",
        remedy="Choose another model.arch or data.image_size; torchvision's transformers take 224 only.",
    )
