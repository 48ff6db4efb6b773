"""Put a network together, in memory or as a sketch on torch's meta device."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from suite.config import plugin
from suite.config.trial import ModelConfig
from suite.models import init, zoo
from suite.models.head import attach


def assemble(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network with its head, with the constructor's random weights."""
    net = zoo.maker(config.arch, pretrained=config.weights != "none")(num_classes)
    attach(net, config.head, num_classes)
    return net


def sketch(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network without memory for its weights, if its constructor allows that."""
    with init.own_randomness(seed=0):
        if not plugin.is_reference(config.arch):
            # RegNet's constructor needs real tensors.
            with (
                contextlib.suppress(NotImplementedError, RuntimeError),
                torch.device("meta"),
                init.Undrawn(),
            ):
                return assemble(config, num_classes)
        return assemble(config, num_classes)
