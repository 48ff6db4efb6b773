"""The classifier at a network's end, and dropout between its layers."""

from __future__ import annotations

import difflib

from torch import Tensor, nn
from torch.nn import functional as F

from suite.config.trial import DropoutConfig, HeadConfig
from suite.core.errors import Problem, UsageError
from suite.models.freezing import top_level


def attach(net: nn.Module, config: HeadConfig | None, num_classes: int) -> None:
    """Replace the last layer by the head of ``config``; its name goes into ``net.suite_head``.

    The last layer is the last ``nn.Linear`` in order of definition. In a network without one it is
    the last ``nn.Conv2d`` (SqueezeNet classifies by a 1x1 convolution), and the head then consists
    of 1x1 convolutions, too.

    Args:
        net: the network, changed in place.
        config: the head; None keeps the network's own last layer.
        num_classes: K.
    """
    name = _last_layer(net)
    if config is not None:
        last = net.get_submodule(name) if name else None
        if not isinstance(last, nn.Linear | nn.Conv2d):
            raise UsageError(
                "model.head: the network has no linear layer to replace",
                remedy="Leave model.head out for this network.",
            )
        parent, _, own = name.rpartition(".")
        setattr(net.get_submodule(parent), own, _head(last, config, num_classes))
    # A name, not the module: it survives deepcopy and is absent from str() and the state dict.
    setattr(net, "suite_head", name or _last_with_weights(net))  # noqa: B010


def head_name(net: nn.Module) -> str:
    """Name of the module that classifies, e.g. ``fc``: the one that a head replaces."""
    name: object = getattr(net, "suite_head", None)
    return str(name) if isinstance(name, str) else _last_layer(net) or _last_with_weights(net)


def in_head(net: nn.Module, parameter: str) -> bool:
    """Whether the parameter of that name belongs to the head."""
    head = head_name(net)
    return parameter.startswith(f"{head}.") or not head


def _last_layer(net: nn.Module) -> str:
    for kind in (nn.Linear, nn.Conv2d):
        names: list[str] = [
            name for name, module in net.named_modules() if isinstance(module, kind)
        ]
        if names:
            return names[-1]
    return ""


def _last_with_weights(net: nn.Module) -> str:
    names = [
        name
        for name, module in net.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    return names[-1] if names else ""


def _head(last: nn.Linear | nn.Conv2d, config: HeadConfig, num_classes: int) -> nn.Module:
    """The new head: one layer, or a Sequential of Linear, ReLU, Dropout, ..., Linear."""
    width = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    layers: list[nn.Module] = []
    for hidden, rate in zip(config.hidden, config.rates(), strict=True):
        layers += [_layer(last, width, hidden), nn.ReLU()]
        if rate > 0:
            layers.append(nn.Dropout(rate))
        width = hidden
    final = _layer(last, width, num_classes)
    return nn.Sequential(*layers, final) if layers else final


def _layer(like: nn.Module, inputs: int, outputs: int) -> nn.Module:
    return (
        nn.Linear(inputs, outputs) if isinstance(like, nn.Linear) else nn.Conv2d(inputs, outputs, 1)
    )


class _Drop:
    """A forward hook that drops units of a layer's output. deepcopy copies it with the network."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        # A BatchNorm kept in eval mode records the mode of its network (see freezing).
        return F.dropout(
            output, self.rate, training=getattr(module, "suite_training", module.training)
        )


def insert_dropout(net: nn.Module, config: DropoutConfig) -> None:
    """Drop units of the outputs of the named layers. ``str(net)`` and layer names stay the same.

    Masks come from torch's global generator, which training seeds at each step, as the head's do.
    """
    if config.rate > 0:
        for name in dict.fromkeys(config.after):
            net.get_submodule(name).register_forward_hook(_Drop(config.rate))


def dropout_problems(net: nn.Module, config: DropoutConfig) -> list[Problem]:
    """A problem for each layer in ``dropout.after`` that the network does not have."""
    known = [name for name, _ in net.named_modules() if name]
    return [_unknown(net, name, known) for name in config.after if name not in known]


def _unknown(net: nn.Module, name: str, known: list[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    return Problem(
        f"model.dropout.after: the network has no layer {name!r}",
        remedy=f"{meant}Its top-level layers are {', '.join(top_level(net))}; "
        "parts of them are named like layer1.0.",
    )
