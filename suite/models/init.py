"""Initial weights drawn per parameter name, so that layers which two arms share start equal.

A network's constructor draws all weights from one generator: one more layer in front changes all
weights behind it. Here the distribution stays the constructor's, but each parameter has its own
random stream. The full name of a parameter is known only once the network is complete, so the
constructor runs twice: first to learn the names in the order of registration, then with the
generator reseeded whenever the constructor begins to draw another parameter.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from suite.core.errors import UsageError
from suite.core.records import stream


def draw(
    make: Callable[[], nn.Module],
    seed: int,
    *,
    sketch: bool,
    given: Callable[[nn.Module], Container[str]] = lambda net: (),
) -> nn.Module:
    """The network of ``make``, each parameter drawn from ``stream(seed, "init:<name>")``.

    Neither depends on nor changes the global random states of torch (CPU), NumPy and Python.

    Args:
        make: the constructor. It is called twice and must do the same both times.
        seed: the trial's seed.
        sketch: whether the first call may run on torch's meta device, without memory or drawing.
        given: takes the first network; names of parameters to fill with zeros, as their values come
            from elsewhere. Drawing those of ResNet-18 takes 0.1 s.

    Raises:
        UsageError: ``make`` does not do the same both times.
    """
    with own_randomness(seed):
        first, names = _first(make, seed, sketch)
        net, names_again = _construct(make, seed, names, given(first))
    if net is first:
        raise UsageError(
            "model.arch: the function returns the same network twice; "
            "it must make a new one each time"
        )
    if names_again != names:
        raise UsageError(
            "model.arch: the function makes different layers each time it is called",
            remedy="The network may depend on the number of classes alone.",
        )
    return net


def _first(make: Callable[[], nn.Module], seed: int, sketch: bool) -> tuple[nn.Module, list[str]]:
    """The first network: only its names are needed."""
    if sketch:
        # Some constructors compute with real tensors: torchvision's RegNet does.
        with contextlib.suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            return _construct(make, seed, [])
    return _construct(make, seed, [])


def _construct(
    make: Callable[[], nn.Module], seed: int, names: Sequence[str], given: Container[str] = ()
) -> tuple[nn.Module, list[str]]:
    """The network, and the names of its parameters and buffers in the order of registration.

    Args:
        make: the constructor.
        seed: the trial's seed.
        names: these names, as far as known.
        given: names to fill with zeros.
    """
    draws = _Draws(seed, names, given)
    with _registrations(draws.register), draws:
        net = make()
    return net, draws.names_in(net)


@contextlib.contextmanager
def _registrations(on_register: Callable[[Tensor], None]) -> Iterator[None]:
    """Call ``on_register`` for each parameter and buffer that a module registers in this thread."""
    thread = threading.get_ident()

    def hook(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        if tensor is not None and not is_lazy(tensor) and threading.get_ident() == thread:
            on_register(tensor)

    handles = (
        hooks.register_module_parameter_registration_hook(hook),
        hooks.register_module_buffer_registration_hook(hook),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Undrawn(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Skips random fills of tensors on torch's meta device, which hold no values.

    torch would import its compiler to do nothing: 1.6 s of a sweep's start.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler here, too, only to exclude this mode from it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if _fills_nothing(func, args) else func(*args, **kwargs or {})


def _fills_nothing(func: Any, args: Any) -> bool:
    """Whether ``func`` fills a tensor without memory at random."""
    target = args[0] if args and isinstance(args[0], Tensor) else None
    at_random = torch.Tag.nondeterministic_seeded in func.tags
    return (
        at_random
        and target is not None
        and target.is_meta
        and func.overloadpacket.__name__.endswith("_")
    )


class _Draws(Undrawn):  # type: ignore[no-untyped-call]
    """Seeds torch's generator whenever a constructor begins to draw another parameter.

    Args:
        seed: the trial's seed.
        names: names of the parameters in the order of registration, as far as known.
        given: names to fill with zeros.
    """

    def __init__(self, seed: int, names: Sequence[str], given: Container[str]) -> None:
        super().__init__()
        self.seed = seed
        self.names = names
        self.given = given
        # References keep each address in use.
        self.registered: list[Tensor] = []
        self.numbers: dict[int, int] = {}  # address -> index in `registered`
        self.parts: dict[int, int] = {}  # index in `registered` -> draws so far
        # Of the last seeded draw, until something else is registered.
        self.shape: torch.Size | None = None

    def register(self, tensor: Tensor) -> None:
        self.numbers[_address(tensor)] = len(self.registered)
        self.registered.append(tensor)
        self.shape = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A draw from an explicit generator stays as it is.
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            target = args[0] if args and isinstance(args[0], Tensor) else None
            name = self._before_draw(target)
            if _fills_nothing(func, args):
                return target
            if (
                target is not None
                and name in self.given
                and func.overloadpacket.__name__.endswith("_")
            ):
                return target.zero_()
        return func(*args, **kwargs)

    def _before_draw(self, target: Tensor | None) -> str:
        """Seed the generator if a new parameter begins; returns the name to be drawn."""
        number = None if target is None else self.numbers.get(_address(target))
        if number is None:
            # trunc_normal_ draws rejected values again into another tensor: same parameter.
            if target is not None and target.shape == self.shape:
                return ""
            # Drawn before it becomes a parameter: nn.Parameter(torch.randn(...)).
            number = len(self.registered)
        # Drawing the whole again restarts its stream; drawing parts (query, key and value) must not
        # repeat numbers.
        restart = target is not None and number < len(self.registered) and _is_whole(target)
        self.parts[number] = 0 if restart else self.parts.get(number, -1) + 1
        torch.default_generator.manual_seed(
            stream(self.seed, f"init:{self._name(number)}", step=self.parts[number])
        )
        self.shape = None if target is None else target.shape
        return self._name(number)

    def _name(self, number: int) -> str:
        return self.names[number] if number < len(self.names) else _nameless(number)

    def names_in(self, net: nn.Module) -> list[str]:
        """Final names of all registered tensors, in that order."""
        owners: dict[int, str] = {}
        for name, tensor in itertools.chain(net.named_parameters(), net.named_buffers()):
            owners.setdefault(_address(tensor), name)
        return [
            owners.get(_address(tensor), _nameless(number))
            for number, tensor in enumerate(self.registered)
        ]


def _nameless(number: int) -> str:
    """For a tensor that left the network, such as a layer that a head replaced."""
    return f"#{number}"


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_whole(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global random states from ``seed`` inside, and restore them after."""
    python, numbers = random.getstate(), np.random.get_state()
    own = stream(seed, "init")
    # Always on the CPU: weights are then the same on every machine.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        random.seed(own)
        np.random.seed(own % 2**32)
        torch.default_generator.manual_seed(own)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
