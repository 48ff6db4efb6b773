"""Optimizers and learning-rate schedules.

A schedule is a pure function of the step, so a resumed trial needs no scheduler state.
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

ONE_CYCLE_RISE = 0.3  # share of the steps in which one_cycle rises (torch.optim.lr_scheduler.OneCycleLR's pct_start)
STEP_AT = (
    0.5,
    0.75,
)  # where `step` multiplies the rate by 0.1, as shares of the steps (He et al. 2015: 32k, 48k of 64k)


def _eager(kind: type[Optimizer]) -> type[Optimizer]:
    """The optimizer with the same arithmetic, but without torch's compiler.

    torch imports its compiler into every process that makes an optimizer, only to tell it to leave these methods alone:
    1.7 s of 3.4 s that a worker needs until it has torch (torch 2.13, AMD EPYC, one core; n = 1).
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def _laid_out(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor`` in the parameter's layout. torch 2.13's fused kernels pair values by their place in memory, whatever
    the strides say: of another layout a gradient would go to other weights, without a word.
    """
    return (
        tensor
        if tensor.stride() == parameter.stride()
        else torch.empty_like(parameter).copy_(tensor)
    )


def _flat(tensor: Tensor) -> Tensor:
    """The same values in the order of memory. Of kernels with channels behind pixels torch's fused kernels make copies
    first: 10.7 ms instead of 4.0 for four of 512 x 512 x 3 x 3 (one thread, AMD EPYC with AVX-512).
    """
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 and not tensor.is_contiguous() else tensor


class _SGD(_eager(torch.optim.SGD)):  # type: ignore[misc]
    """torch's, bit for bit."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            new = [
                one
                for one in parameters
                if group["momentum"] and "momentum_buffer" not in self.state[one]
            ]
            known = (
                [one for one in parameters if not any(one is other for other in new)]
                if new
                else parameters
            )
            for some in (new, known):
                if some:
                    self._pass_over(some, group, first=some is new)

    def _pass_over(self, parameters: list[Tensor], group: dict[str, Any], first: bool) -> None:
        """One step of parameters of a group; ``first``: they have no average yet."""
        averages: list[Tensor] = []
        grads = [_laid_out(grad, one) for one in parameters if (grad := one.grad) is not None]
        for parameter in parameters if group["momentum"] else ():
            average = (
                torch.empty_like(parameter) if first else self.state[parameter]["momentum_buffer"]
            )
            averages.append(_laid_out(average, parameter))
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
                grads[place] = _flat(_laid_out(grads[place], parameter))
                for found, name in ((firsts, "exp_avg"), (seconds, "exp_avg_sq")):
                    self.state[parameter][name] = _laid_out(found[place], parameter)
                    found[place] = _flat(self.state[parameter][name])
                parameters[place] = _flat(parameter)
            return is_complex

    return Flat


_Adam, _AdamW = _adam(torch.optim.Adam), _adam(torch.optim.AdamW)


def multiplier(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate at ``step`` (from 0, over the whole training) as a multiple of ``train.lr``, in [0, 1]."""
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

    Each group carries ``scale``, its learning rate as a multiple of the scheduled one. With ``train.decay: weights``
    weight decay acts on tensors of two or more dimensions only: kernels and matrices, not biases and BatchNorm
    (common since Goyal et al. 2017).
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
    # fused: one pass over each parameter instead of one per operation; exact, and the same on every run
    if config.optimizer == "sgd":
        return _SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
        )
    make = _Adam if config.optimizer == "adam" else _AdamW
    return make(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)


def _is_decayed(parameter: nn.Parameter, config: TrainConfig) -> bool:
    return config.decay == "all" or parameter.ndim >= 2


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every group the rate of this step, times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
