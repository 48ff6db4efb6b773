"""Check a ``ModelConfig`` before anything starts."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suite.config.trial import ModelConfig
from suite.core.errors import Problem, ProblemsError
from suite.models import init
from suite.models.assemble import sketch
from suite.models.freezing import freezing_problems
from suite.models.head import dropout_problems, head_name
from suite.models.scratch import NETS
from suite.models.weights import Weights, mismatch, missing_file, put_into

# Up to this size a network is tried with memory for its weights, else on torch's meta device.
TRIED_SIDE, TRIED_PARAMETERS = 64, 30_000_000
# Weights that do not fit are compared with the scratch nets, and with these: the most used others.
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


def check(
    config: ModelConfig,
    num_classes: int,
    weights: Weights | None = None,
    *,
    image_size: int | None = None,
) -> list[Problem]:
    """All problems of ``config``. Built-in networks are made without memory for their weights.

    Args:
        config: the network.
        num_classes: K.
        weights: from ``load_weights``; None = check only that the file exists.
        image_size: pixels per side, to try whether the network takes them; None = do not try.
    """
    try:
        net = sketch(config, num_classes)
    except ProblemsError as error:
        return [*error.problems, *missing_file(config)]
    problems = structural_problems(net, config)
    if image_size is not None:
        problems += _size_problems(net, config, num_classes, image_size)
    if weights is None:
        return problems + missing_file(config)
    return problems + weight_problems(net, config, num_classes, weights.state)


def structural_problems(net: nn.Module, config: ModelConfig) -> list[Problem]:
    return [
        *freezing_problems(net, config.freeze_depth, head_name(net)),
        *dropout_problems(net, config.dropout),
    ]


def weight_problems(
    net: nn.Module, config: ModelConfig, num_classes: int, state: Mapping[str, Tensor]
) -> list[Problem]:
    """Load ``state`` into ``net``; a problem if it does not fit."""
    misfits = put_into(net, state)
    return (
        [mismatch(config, config.weights, misfits, _look_alikes(state, num_classes))]
        if misfits
        else []
    )


def _look_alikes(state: Mapping[str, Tensor], num_classes: int) -> list[str]:
    """The common architectures that ``state`` fits."""
    shapes = OrderedDict((name, value.to("meta")) for name, value in state.items())
    plain = [ModelConfig(arch=arch) for arch in (*NETS, *_COMMON)]
    return [config.arch for config in plain if not put_into(sketch(config, num_classes), shapes)]


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
    except Exception as error:  # any error of a layer at this size
        return [
            _size_problem(
                config, image_size, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            )
        ]
    finally:
        net.train(training)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, num_classes):
        is_tensor = isinstance(logits, Tensor)
        output = f"a tensor {tuple(logits.shape)}" if is_tensor else type(logits).__name__
        return [
            Problem(
                f"model.arch: {config.arch} must turn 2 images into logits of shape "
                f"(2, {num_classes}), got {output}"
            )
        ]
    return []


def _with_memory(net: nn.Module) -> nn.Module:
    """A copy on the CPU of a network on the meta device, with weights of any value.

    On the meta device torch imports its compiler to find the shape of BatchNorm's output: 1.5 s.
    """
    if all(not tensor.is_meta for tensor in itertools.chain(net.parameters(), net.buffers())):
        return net
    net = copy.deepcopy(net)
    apply: Any = net._apply
    apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu"))
    return net


def _size_problem(config: ModelConfig, image_size: int, reason: str) -> Problem:
    return Problem(
        f"model.arch: {config.arch} does not take images of {image_size} x {image_size} pixels: "
        f"{reason}",
        remedy="Choose another model.arch or data.image_size; "
        "torchvision's transformers take 224 only.",
    )
