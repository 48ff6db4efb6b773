"""What a parameter may be, and the points of a space.

Pure values: knows nothing of files, networks or trials. A *point* holds one ``Choice`` for each
parameter that is active there; a choice carries the dotted settings that it stands for::

    Choices("train.lr", ...) + Choices("head", ...)
        -- grid, draw, walk --> {"train.lr": Choice, "head": Choice}
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Kind = Literal["values", "labels", "zip", "arms"]
Scalar = str | int | float | bool | None
DISTRIBUTIONS = ("uniform", "log_uniform", "int_uniform")
_DIGITS = 6  # significant digits of a drawn number: what a name shows is exactly what is trained
_STEPS = 2**53


@dataclass(frozen=True)
class Condition:
    """A parameter is active only where the setting or parameter ``key`` has one of ``values``."""

    key: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.key}: [{', '.join(show(value) for value in self.values)}]"


@dataclass(frozen=True)
class Choice:
    """One value of a parameter.

    Attributes:
        label: what names and tables show; a scalar, so that any searcher can be told it.
        settings: the dotted settings that it stands for.
    """

    label: Scalar
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Choices:
    """A parameter with listed values.

    Attributes:
        kind: ``values`` of the one setting that it is named after; ``labels`` of recipes; ``zip``:
            lists varied together; ``arms``: the arms of the sweep file.
    """

    name: str
    choices: tuple[Choice, ...]
    when: tuple[Condition, ...] = ()
    kind: Kind = "values"

    @cached_property
    def labels(self) -> tuple[Scalar, ...]:
        """The label of each value, in the order of the file."""
        return tuple(choice.label for choice in self.choices)

    @property
    def keys(self) -> frozenset[str]:
        """The dotted settings that any of its values sets."""
        return frozenset(key for choice in self.choices for key in choice.settings)

    def at(self, u: float) -> Scalar:
        """The label at ``u`` in [0, 1], all equally wide."""
        return self.labels[min(int(u * len(self.choices)), len(self.choices) - 1)]

    def choose(self, label: Any) -> Choice:
        """The value with this label.

        Raises:
            ValueError: if it has none.
        """
        found = (
            self._by_label.get((isinstance(label, bool), label))
            if isinstance(label, Scalar)
            else None
        )
        if found is None:
            raise ValueError(
                f"{self.name} must be one of {', '.join(map(show, self.labels))}, got {show(label)}"
            )
        return found

    @cached_property
    def _by_label(self) -> dict[tuple[bool, Scalar], Choice]:
        """Each label, so marked that 1 is 1.0 but not true, -> its choice, the first where two
        are the same.
        """
        return {(isinstance(each.label, bool), each.label): each for each in reversed(self.choices)}


@dataclass(frozen=True)
class Range:
    """A parameter with bounds, both inclusive.

    Attributes:
        low, high: smallest and largest value.
        distribution: ``uniform``, ``log_uniform`` (needs ``low > 0``) or ``int_uniform`` (whole
            numbers).
    """

    name: str
    low: float
    high: float
    distribution: str = "uniform"
    when: tuple[Condition, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """The dotted setting that it sets: its name."""
        return frozenset((self.name,))

    @property
    def log(self) -> bool:
        """Whether the logarithm is uniform."""
        return self.distribution == "log_uniform"

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return self.distribution == "int_uniform"

    def at(self, u: float) -> float:
        """The value at ``u`` in [0, 1]: ``at(0)`` is ``low``, ``at(1)`` is ``high``."""
        if self.whole:
            return self._round(
                min(int(self.low) + int(u * (self.high - self.low + 1)), int(self.high))
            )
        if self.log:
            return self._round(
                math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
            )
        return self._round(self.low + u * (self.high - self.low))

    def choose(self, value: Any) -> Choice:
        """The value as a choice, rounded to what its label shows.

        Raises:
            ValueError: if it lies outside the bounds or is no number.
        """
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
        ):
            raise ValueError(
                f"{self.name} must lie in [{show(self.low)}, {show(self.high)}], got {show(value)}"
            )
        if self.whole and value != int(value):
            raise ValueError(f"{self.name} must be a whole number, got {show(value)}")
        rounded = self._round(value)
        return Choice(rounded, {self.name: rounded})

    def _round(self, value: float) -> float:
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{_DIGITS}g}"), float(self.low)), float(self.high))


Parameter = Choices | Range
Point = dict[str, Choice]


@dataclass(frozen=True)
class Space:
    """Parameters that multiply, in the order of the file.

    Attributes:
        parameters: no two of them set the same setting.
        fixed: dotted setting -> value where no parameter sets it; conditions may ask for it.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def size(self) -> int | None:
        """The number of points before conditions remove some, by multiplication; None with a
        range in it.
        """
        if any(isinstance(parameter, Range) for parameter in self.parameters):
            return None
        return math.prod(
            len(parameter.choices)
            for parameter in self.parameters
            if isinstance(parameter, Choices)
        )

    def active(self, parameter: Parameter, point: Mapping[str, Choice]) -> bool:
        """Whether all conditions of ``parameter`` hold at ``point``.

        A condition on an absent parameter does not.
        """
        return all(
            any(
                same(found, value)
                for found in self._found(condition.key, point)
                for value in condition.values
            )
            for condition in parameter.when
        )

    def grid(self) -> Iterator[Point]:
        """Every point, the last parameter varying fastest. A parameter is absent where its
        conditions fail.

        No point comes twice. Ranges have no grid.
        """
        return self._grid(self._ordered, {})

    def walk(self, suggest: Callable[[Parameter], Any]) -> Point:
        """One point, asking ``suggest`` for the label or number of each active parameter,
        conditions first.
        """
        point: Point = {}
        for parameter in self._ordered:
            if self.active(parameter, point):
                point[parameter.name] = parameter.choose(suggest(parameter))
        return self._in_file_order(point)

    def draw(self, index: int) -> Point:
        """The ``index``-th random point: the same on any machine, whatever other points or
        parameters there are.
        """
        return self.walk(lambda parameter: parameter.at(_uniform(f"{index}/{parameter.name}")))

    def draws(self, count: int) -> Iterator[Point]:
        """Up to ``count`` different random points; fewer where the space has no more.

        Raising ``count`` only adds points.
        """
        size = self.size()
        if size is not None and size <= count:
            yield from self.grid()
            return
        seen: set[tuple[tuple[str, str], ...]] = set()
        repeats = 0
        for index in range(count * 20):
            point = self.draw(index)
            key = tuple((name, repr(choice.label)) for name, choice in point.items())
            if key not in seen:
                seen.add(key)
                repeats = 0
                yield point
            else:
                repeats += 1
            if len(seen) == count or repeats > 1000 + 10 * len(seen):
                return

    @cached_property
    def _ordered(self) -> tuple[Parameter, ...]:
        return ordered(self.parameters)

    def _grid(self, rest: Sequence[Parameter], point: Point) -> Iterator[Point]:
        if not rest:
            yield self._in_file_order(point)
            return
        parameter, *others = rest
        if not self.active(parameter, point):
            yield from self._grid(others, point)
            return
        if isinstance(parameter, Range):
            raise TypeError(f"{parameter.name} is a range and has no grid")
        for choice in parameter.choices:
            yield from self._grid(others, {**point, parameter.name: choice})

    def _in_file_order(self, point: Point) -> Point:
        return {each.name: point[each.name] for each in self.parameters if each.name in point}

    def _found(self, key: str, point: Mapping[str, Choice]) -> list[Any]:
        """What a condition on ``key`` sees at ``point``: a label, the setting's value, or
        nothing.
        """
        if key in point:
            chosen = point[key]
            return [chosen.label, *([chosen.settings[key]] if key in chosen.settings else [])]
        for choice in point.values():
            if key in choice.settings:
                return [choice.settings[key]]
        if any(parameter.name == key for parameter in self.parameters) or key not in self.fixed:
            return []
        return [self.fixed[key]]


def ordered(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    """The parameters so that each comes after those that its conditions ask about; else in the
    given order.

    Raises:
        ValueError: if conditions go round in a circle, naming it.
    """
    waiting = list(parameters)
    done: list[Parameter] = []
    while waiting:
        ready = next((each for each in waiting if not _needs(each, waiting)), None)
        if ready is None:
            raise ValueError(f"`when` goes round in a circle: {' -> '.join(_circle(waiting))}")
        waiting.remove(ready)
        done.append(ready)
    return tuple(done)


def _needs(parameter: Parameter, others: Iterable[Parameter]) -> list[Parameter]:
    keys = {condition.key for condition in parameter.when}
    return [
        each for each in others if each is not parameter and (each.name in keys or each.keys & keys)
    ] + [parameter for _ in [0] if parameter.name in keys or parameter.keys & keys]


def _circle(waiting: Sequence[Parameter]) -> list[str]:
    names: list[str] = []
    current = waiting[0]
    while current.name not in names:
        names.append(current.name)
        current = _needs(current, waiting)[0]
    return [*names[names.index(current.name) :], current.name]


def _uniform(key: str) -> float:
    """A number in [0, 1], both ends reachable, from a text."""
    return random.Random(key).randrange(_STEPS + 1) / _STEPS


def same(a: Any, b: Any) -> bool:
    """Whether two values of a sweep file are the same: 1 is 1.0, but true is not 1; a list is
    its tuple.
    """
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def show(value: Any) -> str:
    """A value as names and messages show it: ``0.001``, ``true``, ``none``, ``[256,128]``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        short = f"{value:.{_DIGITS}g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    return str(value)


def short_names(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Each dotted name -> its shortest tail that no other name, used or known, ends in.

    >>> short_names(["model.head.dropout", "train.lr", "head"])
    {'model.head.dropout': 'dropout', 'train.lr': 'lr', 'head': 'head'}
    """
    chosen = list(names)
    tails: dict[str, set[str]] = {}
    for name in {*chosen, *known}:
        for tail in _tails(name):
            tails.setdefault(tail, set()).add(name)
    return {
        name: next((tail for tail in _tails(name) if tails[tail] == {name}), name)
        for name in chosen
    }


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
