"""Optimizers and learning-rate schedules.

A schedule is a pure function of the step, so a resumed trial restores no scheduler.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from suite.config import TrainConfig

ONE_CYCLE_RISE = 0.3  # share of the steps with a rising rate (OneCycleLR's pct_start)
# Shares of the steps at which `step` multiplies the rate by 0.1 (He et al. 2015: 32k, 48k of 64k).
STEP_AT = (0.5, 0.75)


def _eager(kind: type[Optimizer]) -> type[Optimizer]:
    """The optimizer with the same arithmetic, but without torch's compiler.

    torch imports its compiler into every process that makes an optimizer, only to exclude these
    methods from it: 1.7 s of the 3.4 s that a worker needs to import torch (torch 2.13, AMD EPYC,
    one core; n = 1).
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def _in_layout_of(parameter: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` in the parameter's memory layout.

    torch 2.13's fused kernels pair values by their position in memory and ignore strides: a
    gradient in another layout would silently update the wrong weights.
    """
    return (
        tensor
        if tensor.stride() == parameter.stride()
        else torch.empty_like(parameter).copy_(tensor)
    )


def _flat(tensor: Tensor) -> Tensor:
    """A view of the same values in memory order.

    torch's fused kernels copy channels-last weights first: 10.7 ms instead of 4.0 for four of
    512 x 512 x 3 x 3 (one thread, AMD EPYC with AVX-512).
    """
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 and not tensor.is_contiguous() else tensor


class _SGD(_eager(torch.optim.SGD)):  # type: ignore[misc]
    """torch's, bit for bit."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            new, known = self._by_momentum(parameters, group)
            for same_age in (new, known):
                if same_age:
                    self._update(same_age, group, first=same_age is new)

    def _by_momentum(
        self, parameters: list[Tensor], group: dict[str, Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters without a moving average yet, and the others."""
        new: list[Tensor] = []
        known: list[Tensor] = []
        for parameter in parameters:
            is_new = group["momentum"] and "momentum_buffer" not in self.state[parameter]
            (new if is_new else known).append(parameter)
        return new, known

    def _update(self, parameters: list[Tensor], group: dict[str, Any], *, first: bool) -> None:
        """Update parameters of one group; ``first``: they have no moving average yet."""
        averages: list[Tensor] = []
        grads = [
            _in_layout_of(parameter, grad)
            for parameter in parameters
            if (grad := parameter.grad) is not None
        ]
        for parameter in parameters if group["momentum"] else ():
            average = (
                torch.empty_like(parameter) if first else self.state[parameter]["momentum_buffer"]
            )
            averages.append(_in_layout_of(parameter, average))
            self.state[parameter]["momentum_buffer"] = averages[-1]
        torch._fused_sgd_(
            [_flat(parameter) for parameter in parameters],
            [_flat(grad) for grad in grads],
            [_flat(average) for average in averages],
            **{
                name: group[name]
                for name in ("weight_decay", "momentum", "lr", "dampening", "nesterov")
            },
            maximize=False,
            is_first_step=first,
        )


def _adam(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """torch's, bit for bit."""
    stock: Any = _eager(kind)

    class Flat(stock):  # type: ignore[misc]
        def _init_group(
            self, group: dict[str, Any], parameters: list[Tensor], *lists: list[Tensor]
        ) -> bool:
            is_complex: bool = super()._init_group(group, parameters, *lists)
            grads, firsts, seconds = lists[:3]
            for place, parameter in enumerate(parameters):
                grads[place] = _flat(_in_layout_of(parameter, grads[place]))
                for moments, name in ((firsts, "exp_avg"), (seconds, "exp_avg_sq")):
                    self.state[parameter][name] = _in_layout_of(parameter, moments[place])
                    moments[place] = _flat(self.state[parameter][name])
                parameters[place] = _flat(parameter)
            return is_complex

    return Flat


_Adam, _AdamW = _adam(torch.optim.Adam), _adam(torch.optim.AdamW)


def multiplier(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate as a multiple of ``train.lr``, in [0, 1].

    Args:
        step: from 0, over the whole training.
    """
    total = config.epochs * steps_per_epoch
    if config.schedule == "one_cycle":
        rise = max(1.0, ONE_CYCLE_RISE * total)
        if step < rise:
            return (step + 1) / rise if step + 1 < rise else 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, total - rise)))
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / math.ceil(warmup)
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "step":
        return float(0.1 ** sum(step >= share * total for share in STEP_AT))
    progress = (step - warmup) / max(1.0, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def build(
    backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter], config: TrainConfig
) -> Optimizer:
    """The optimizer over the trainable parameters, in up to four groups.

    Each group carries ``scale``, its learning rate as a multiple of the scheduled one. With
    ``train.decay: weights`` weight decay acts only on tensors of two or more dimensions: kernels
    and matrices, not biases and BatchNorm (common since Goyal et al. 2017).
    """
    groups = []
    for parameters, scale in ((backbone, config.backbone_lr_scale), (head, 1.0)):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        for decayed in (True, False):
            members = [weight for weight in trainable if _is_decayed(weight, config) == decayed]
            if members:
                decay = config.weight_decay if decayed else 0.0
                groups.append({"params": members, "weight_decay": decay, "scale": scale})
    if not groups:
        raise ValueError("nothing to train: every layer is frozen")
    # fused: one pass over each parameter instead of one per operation; exact and deterministic
    if config.optimizer == "sgd":
        return _SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
        )
    make = _Adam if config.optimizer == "adam" else _AdamW
    return make(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)


def _is_decayed(parameter: nn.Parameter, config: TrainConfig) -> bool:
    return config.decay == "all" or parameter.ndim >= 2


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of this step in every group, times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
