"""The text of a sweep file as values that know their line.

YAML 1.2 as its core schema reads it: ``1e-4`` is a number, ``12:30:45``, ``yes`` and ``on`` are
text, only ``true`` and ``false`` are booleans; keys are always text. Built from parser events, so
nesting, aliases and tags cost nothing before they are checked. ``<<: *anchor`` merges a mapping, as
editors and other tools expect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from suite.core.errors import Problem, UsageError

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 500_000  # with aliases expanded; a file of 1 MB without any stays below it

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_TAG = "tag:yaml.org,2002:"
_CORE_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")}

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Node:
    """A value of the file.

    Attributes:
        line: of the value itself, or of its key, from 1.
        value: a scalar, a list of nodes, or a dict of key -> node.
        size: how many scalars and containers it has, itself and aliases included.
    """

    line: int
    value: Any
    size: int = 1

    def plain(self) -> Any:
        """The value as plain Python: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def line_of(self, path: Path_) -> int:
        """The line of the deepest part of ``path`` that exists.

        A text may join keys of several levels by dots.
        """
        return self._descend(path)[0].line

    def find(self, path: Path_) -> Node | None:
        """The node at ``path``, if there is one."""
        node, rest = self._descend(path)
        return None if rest else node

    def _descend(self, path: Path_) -> tuple[Node, list[str | int]]:
        node, rest = self, list(path)
        while rest and (step := node._step(rest)) is not None:
            node, rest = step
        return node, rest

    def _step(self, rest: list[str | int]) -> tuple[Node, list[str | int]] | None:
        head, tail = rest[0], rest[1:]
        if isinstance(self.value, list):
            return (
                (self.value[head], tail)
                if isinstance(head, int) and head < len(self.value)
                else None
            )
        if not isinstance(self.value, dict):
            return None
        if str(head) in self.value:
            return self.value[str(head)], tail
        for cut in _cuts(str(head)):
            if head[:cut] in self.value:  # type: ignore[index]
                return self.value[head[:cut]], [head[cut + 1 :], *tail]  # type: ignore[index]
        return None


def _cuts(text: str) -> Iterator[int]:
    """The places of dots in ``text``, the last first."""
    cut = text.rfind(".")
    while cut > 0:
        yield cut
        cut = text.rfind(".", 0, cut)


@dataclass
class _Reader:
    """Builds one document's nodes from parser events, collecting what is wrong but can be passed
    over.
    """

    events: Iterator[Any]
    name: str
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    nodes: int = 0

    def complain(self, mark: Any, rule: str, remedy: str = "") -> None:
        self.problems.append(
            Problem(rule, f"{self.name}:{mark.line + 1}:{mark.column + 1}", remedy)
        )

    def stop(self, mark: Any, rule: str, remedy: str = "") -> UsageError:
        self.complain(mark, rule, remedy)
        return UsageError(self.problems)

    def document(self) -> Node | None:
        """The only document, or None where there is nothing but comments."""
        root = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self.stop(
                        event.start_mark,
                        "a sweep file is one document, got a second one after `---`",
                    )
                root = self.node(next(self.events), 0)
        return root

    def node(self, event: Any, depth: int) -> Node:
        mark = event.start_mark
        if depth > MAX_DEPTH:
            raise self.stop(mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            node = Node(mark.line + 1, self._scalar(event))
        else:
            self._check_tag(event)
            build = self._mapping if isinstance(event, yaml.MappingStartEvent) else self._sequence
            value = build(depth)
            parts = value.values() if isinstance(value, dict) else value
            node = Node(mark.line + 1, value, 1 + sum(part.size for part in parts))
        if node.size > MAX_NODES:
            raise self.stop(
                mark,
                f"aliases expand to over {MAX_NODES:,} values",
                "Write the values out, or nest fewer aliases.",
            )
        if not isinstance(event, yaml.AliasEvent) and event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        node = self.anchors.get(event.anchor)
        if node is None:
            self.complain(
                event.start_mark, f"alias *{event.anchor} has no anchor &{event.anchor} before it"
            )
            return Node(event.start_mark.line + 1, None)
        return replace(node, line=event.start_mark.line + 1)

    def _sequence(self, depth: int) -> list[Node]:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark = event.start_mark
            key = self._key(event, depth)
            node = self.node(next(self.events), depth + 1)
            if key == "<<" and not event.style:
                merged = {**self._merge(node, mark), **merged}
            elif key in found:
                self.complain(
                    mark,
                    f"duplicate key {key!r}, first given on line {found[key].line}",
                    "Remove one of them: YAML would silently keep the last.",
                )
            elif key is not None:
                found[key] = replace(node, line=mark.line + 1)
        return {**merged, **found}

    def _key(self, event: Any, depth: int) -> str | None:
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event)
            return str(event.value)
        self.node(event, depth + 1)
        self.complain(event.start_mark, "a key must be plain text")
        return None

    def _merge(self, node: Node, mark: Any) -> dict[str, Node]:
        parts = node.value if isinstance(node.value, list) else [node]
        if not all(isinstance(part.value, dict) for part in parts):
            self.complain(mark, "`<<` merges a mapping or a list of mappings")
            return {}
        return {key: value for part in reversed(parts) for key, value in part.value.items()}

    def _check_tag(self, event: Any) -> None:
        if event.tag and event.tag != "!" and event.tag not in _CORE_TAGS:
            shown = event.tag.replace(_TAG, "!!")
            self.complain(
                event.start_mark,
                f"tag {shown} is not allowed",
                "Sweep files hold plain values only.",
            )

    def _scalar(self, event: Any) -> Any:
        self._check_tag(event)
        if event.tag and event.tag != "!" and event.tag in _CORE_TAGS and event.tag != _TAG + "str":
            return self._tagged(event)
        return event.value if event.style or event.tag else resolved(event.value)

    def _tagged(self, event: Any) -> Any:
        kind = event.tag.removeprefix(_TAG)
        value = resolved(event.value)
        if kind == "float" and type(value) is int:
            return float(value)
        if type(value).__name__.replace("NoneType", "null") != kind:
            self.complain(
                event.start_mark, f"{event.value!r} is not of the type that its tag !!{kind} says"
            )
        return value


def resolved(text: str) -> Any:
    """A plain scalar as YAML 1.2's core schema reads it."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text) and len(text) < 200:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return (
            float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) + 0.0
        )  # -0.0 is 0.0
    return text


def parse(text: str, name: str) -> Node:
    """The nodes of a text.

    Args:
        name: what messages call it, e.g. the file's path.

    Raises:
        UsageError: if it is not YAML, too large, or uses what sweep files do not allow; all at
            once.
    """
    reader = _Reader(yaml.parse(text, Loader=_PARSER), name)  # a generator: nothing is read yet
    try:
        root = reader.document()
    except yaml.MarkedYAMLError as error:
        raise reader.stop(*_not_yaml(error, text)) from None
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"not YAML: character {_codepoint(error.character)} is not allowed in a text file",
            place=f"{name}:{_line_at(text, error.position)}",
            remedy="Save the file as plain UTF-8 text.",
        ) from None
    except ValueError as error:
        raise UsageError(
            f"not YAML: {error}", place=name, remedy="Write plain UTF-8 text."
        ) from None
    if reader.problems:
        raise UsageError(reader.problems)
    return root if root is not None else Node(1, None)


def _codepoint(character: Any) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _line_at(text: str, position: Any) -> int:
    return text.count("\n", 0, position if isinstance(position, int) else 0) + 1


def _not_yaml(error: Any, text: str) -> tuple[Any, str, str]:
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1]:
        return mark, "not YAML: a tab", "Indent with spaces."
    why = ", ".join(part for part in (error.context, error.problem) if part)
    return (
        mark,
        f"not YAML: {why}",
        "Check indentation, colons, quotes and brackets on this line and the one before.",
    )


def read_text(path: Path) -> str:
    """The text of a sweep file.

    Raises:
        UsageError: if there is no such file, or it is no text of a reasonable size.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            size = max(path.stat().st_size, len(content))
            raise UsageError(
                f"a sweep file has at most {MAX_BYTES:,} bytes, got {size:,}", place=str(path)
            )
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"not UTF-8 text: byte 0x{error.object[error.start]:02X}",
            place=f"{path}:{line}",
            remedy="Save the file as UTF-8.",
        ) from None
    except FileNotFoundError:
        raise UsageError("no such file", place=str(path), remedy=_other_files(path)) from None
    except IsADirectoryError:
        raise UsageError(
            "is a folder, not a sweep file", place=str(path), remedy=_other_files(path / "x")
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", place=str(path)
        ) from None


def _other_files(path: Path) -> str:
    try:
        names = sorted(
            each.name for each in path.parent.iterdir() if each.suffix in (".yaml", ".yml")
        )
    except OSError:
        return f"The folder {path.parent} does not exist either."
    return (
        f"{path.parent} has: {', '.join(names)}." if names else f"{path.parent} has no YAML file."
    )


@dataclass(frozen=True)
class SweepSource:
    """Where a sweep came from.

    Attributes:
        path: the file as the user named it.
        text: its whole text.
        overrides: the ``key=value`` arguments as the user typed them.
        root: its nodes.
        overridden: the keys that came from the command line: path in the file -> argument's key.
    """

    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    root: Node = field(default_factory=lambda: Node(1, None), repr=False, compare=False)
    overridden: tuple[tuple[Path_, str], ...] = ()

    def place(self, path: Sequence[str | int]) -> str:
        """``file:line: key`` of a value, or of the nearest thing around it; ``command line:
        key`` of an override.
        """
        key = ".".join(map(str, path))
        if typed := self.typed(path):
            return f"command line: {typed}"
        line = f"{self.path}:{self.root.line_of(tuple(path))}"
        return f"{line}: {key}" if key else line

    def find(self, path: Sequence[str | int]) -> Node | None:
        """The node at ``path``, if it is in the file."""
        return self.root.find(tuple(path))

    def has(self, path: Sequence[str | int]) -> bool:
        """Whether the file holds something at ``path``."""
        return self.find(path) is not None

    def names(self, *path: str | int) -> list[str]:
        """The keys of the mapping at ``path``; none where there is no mapping."""
        node = self.find(path)
        return list(node.value) if node is not None and isinstance(node.value, dict) else []

    def order(self, path: Sequence[str | int]) -> int:
        """For sorting problems: the line; what was typed on the command line comes after the
        file.
        """
        return 2**31 if self.typed(path) else self.root.line_of(tuple(path))

    def typed(self, path: Sequence[str | int]) -> str | None:
        """The key of the override that gave the value at ``path`` or a part of it, if one did."""
        path = tuple(path)
        for start, typed in self.overridden:
            if path[: len(start)] == start or (path and start[: len(path)] == path):
                return typed
        return None
