"""From the name of an architecture to a network with random weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from suite.config import plugin
from suite.core.errors import UsageError
from suite.models.scratch import NETS

# Their auxiliary classifiers would return more than logits.
_WITH_AUXILIARY = ("googlenet", "inception_v3")


def _torchvision_models() -> Any:
    from suite.system.torchvision_import import (
        torchvision,
    )  # takes a second; scratch nets do not need it

    return torchvision.models


def from_torchvision(arch: str) -> bool:
    """Whether ``arch`` is a torchvision classifier, not for detection, segmentation or video."""
    if arch in NETS or plugin.is_reference(arch):
        return False
    models = _torchvision_models()
    return arch in models.list_models(module=models)


def names() -> list[str]:
    """All built-in architectures: the scratch nets, then torchvision's classifiers."""
    models = _torchvision_models()
    return [*NETS, *models.list_models(module=models)]


def published_weights(arch: str) -> Any:
    """torchvision's enum of published weights for a classifier, e.g. ``ResNet18_Weights``."""
    return _torchvision_models().get_model_weights(arch)


def maker(arch: str, *, pretrained: bool) -> Callable[[int], nn.Module]:
    """The function from the number of classes to the network.

    Args:
        arch: a scratch net, a torchvision classifier, or ``module:function``.
        pretrained: whether published weights follow; googlenet and inception_v3 then rescale their
            input.

    Raises:
        UsageError: there is no such architecture; names the nearest one.
    """
    if arch in NETS:
        return NETS[arch]
    if plugin.is_reference(arch):
        return _users(arch)
    if not from_torchvision(arch):
        raise _unknown(arch)
    return lambda num_classes: _from_torchvision(arch, num_classes, pretrained)


def _from_torchvision(arch: str, num_classes: int, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {}
    if arch in _WITH_AUXILIARY:
        options = {"aux_logits": False, "init_weights": True, "transform_input": pretrained}
    net: nn.Module = _torchvision_models().get_model(
        arch, weights=None, num_classes=num_classes, **options
    )
    return net


def _unknown(arch: str) -> UsageError:
    known = names()
    near = difflib.get_close_matches(arch, known, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"model.arch: unknown architecture {arch!r}",
        remedy=f"{meant}Known: {', '.join(known)}, or module:function.",
    )


def _users(reference: str) -> Callable[[int], nn.Module]:
    function = plugin.resolve(reference, "model.arch")

    def make(num_classes: int) -> nn.Module:
        try:
            net = function(num_classes)
        except Exception as error:
            raise UsageError(
                f"model.arch: {reference}({num_classes}) failed: {type(error).__name__}: {error}",
                remedy="It is called with the number of classes, and returns a torch.nn.Module.",
            ) from error
        if not isinstance(net, nn.Module):
            raise UsageError(
                f"model.arch: {reference} must return a torch.nn.Module, got {type(net).__name__}"
            )
        if any(is_lazy(parameter) for parameter in net.parameters()):
            raise UsageError(
                f"model.arch: {reference} has layers of unknown shape",
                remedy="Give the sizes instead of using torch's Lazy layers.",
            )
        return net

    return make
