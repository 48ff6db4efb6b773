"""Build the network of a ``ModelConfig``."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor, nn

from suite.config import plugin
from suite.config.trial import ModelConfig
from suite.core.errors import raise_problems
from suite.models import init
from suite.models.assemble import assemble
from suite.models.checks import structural_problems, weight_problems
from suite.models.freezing import freezable, freeze
from suite.models.head import head_name, in_head, insert_dropout
from suite.models.weights import load_weights


def build(
    config: ModelConfig,
    num_classes: int,
    *,
    seed: int = 0,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The network of ``config``, on the CPU, in training mode: [B, 3, H, W] -> [B, K] logits.

    Random weights depend only on ``seed`` and the parameter's name, not on global random states.

    Args:
        config: the network.
        num_classes: K.
        seed: the trial's seed, for initial weights.
        weights: ``Weights.state`` if the caller has loaded ``config.weights`` (required for
            ``runs:/`` and ``models:/``). Default: load them here. Ignored with ``weights: none``.

    Raises:
        UsageError: the architecture, a layer or the depth does not exist, or the weights are
            another network's.
        EnvironmentProblem: the weights are missing or unreadable.
    """
    sketch = not plugin.is_reference(config.arch)  # user code may not expect the meta device
    ready = weights if sketch and config.weights != "none" else None

    def given(first: nn.Module) -> Container[str]:
        return {name for name in ready or () if not in_head(first, name)}

    net = init.draw(lambda: assemble(config, num_classes), seed, sketch=sketch, given=given)
    raise_problems(structural_problems(net, config))
    if config.weights != "none":
        raise_problems(
            weight_problems(
                net, config, num_classes, _loaded(config) if weights is None else weights
            )
        )
    freeze(net, config.freeze_depth, head_name(net), batchnorm=config.freeze_batchnorm)
    insert_dropout(net, config.dropout)
    return net


def parameter_groups(net: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the backbone's and of the head's parameters, frozen ones included, in order."""
    every = [name for name, _ in net.named_parameters()]
    return [name for name in every if not in_head(net, name)], [
        name for name in every if in_head(net, name)
    ]


def freezable_layers(net: nn.Module) -> list[str]:
    """Names of the layers that ``freeze_depth`` may freeze, from the front."""
    return freezable(net, head_name(net))


def _loaded(config: ModelConfig) -> Mapping[str, Tensor]:
    weights = load_weights(config)
    return weights.state if weights else {}
