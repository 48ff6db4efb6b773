"""A cluster file's values with their lines, and how a finding is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suite.config.yaml_lines import Node, Path_, parse, read_text
from suite.core.errors import Problem, UsageError


@dataclass(frozen=True)
class Finding:
    """A problem, and the line to sort it by."""

    problem: Problem
    line: int


@dataclass(frozen=True)
class Source:
    """A cluster file.

    Attributes:
        path: as the user named it.
        text: its whole text.
        root: its values.
    """

    path: Path
    text: str
    root: Node

    def get(self, *path: str | int, default: Any = None) -> Any:
        """The plain value at a path; ``default`` where there is none, or null."""
        node = self._at(path)
        value = node.plain() if node is not None else None
        return default if value is None else value

    def has(self, *path: str | int) -> bool:
        """Whether there is something at a path."""
        return self._at(path) is not None

    def mapping(self, *path: str | int) -> dict[str, Any]:
        """The mapping at a path; an empty one where there is none."""
        return mapping(self.get(*path))

    def items(self, *path: str | int) -> list[Any]:
        """The list at a path; an empty one where there is none."""
        return items(self.get(*path))

    def texts(self) -> Iterator[tuple[Path_, str]]:
        """Path and value of every text in the file."""
        yield from _texts(self.root, ())

    def places(self, *pattern: str | int) -> Iterator[Path_]:
        """The paths that are there of a pattern, in which ``*`` stands for every key or index."""
        yield from _places(self.root, pattern, ())

    def finding(self, name: str, path: Path_, rule: str, remedy: str = "") -> Finding:
        """What is wrong at a path, or at the nearest thing around it that is there."""
        line = self._line(path)
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(
            "."
        )
        place = f"{self.path}:{line}" + (f": {key}" if key else "")
        return Finding(Problem(f"{rule} [{name}]", place=place, remedy=remedy), line)

    def _at(self, path: Path_) -> Node | None:
        node: Node | None = self.root
        for part in path:
            node = _step(node, part)
        return node

    def _line(self, path: Path_) -> int:
        node = self.root
        for part in path:
            inner = _step(node, part)
            if inner is None:
                break
            node = inner
        return node.line


def read(path: Path) -> Source:
    """A file that is YAML and holds a mapping.

    Raises:
        UsageError: it is not, or cannot be read.
    """
    text = read_text(path)
    try:
        root = parse(text, str(path))
    except UsageError as error:
        raise UsageError([_of_cluster_files(problem) for problem in error.problems]) from None
    if not isinstance(root.value, dict):
        raise UsageError("a cluster file is a mapping of keys", place=f"{path}:{root.line}")
    return Source(path, text, root)


def mapping(value: Any, *keys: str) -> dict[str, Any]:
    """The mapping below ``keys`` in a plain value; an empty one where there is none, whatever
    else there is.
    """
    for key in keys:
        value = mapping(value).get(key)
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """``value`` where it is a list; else an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; none where it is no list."""
    return [each for each in items(value) if isinstance(each, dict)]


def _of_cluster_files(problem: Problem) -> Problem:
    """What the reader of sweep files says, of cluster files."""
    rule = problem.rule.replace("a sweep file", "a cluster file")
    return replace(
        problem, rule=rule, remedy=problem.remedy.replace("Sweep files", "Cluster files")
    )


def _places(node: Node, pattern: Path_, path: Path_) -> Iterator[Path_]:
    if not pattern:
        yield path
    elif pattern[0] != "*":
        inner = _step(node, pattern[0])
        if inner is not None:
            yield from _places(inner, pattern[1:], (*path, pattern[0]))
    elif isinstance(node.value, (dict, list)):
        for key in list(node.value) if isinstance(node.value, dict) else range(len(node.value)):
            inner = _step(node, key)
            if inner is not None:
                yield from _places(inner, pattern[1:], (*path, key))


def _step(node: Node | None, part: str | int) -> Node | None:
    """The value under one key or index.

    Keys may have dots here, so ``Node.find``, which splits at them, is no use.
    """
    value = node.value if node is not None else None
    if isinstance(value, dict):
        return value.get(part) if isinstance(part, str) else None
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part] if isinstance(value[part], Node) else None
    return None


def _texts(node: Node, path: Path_) -> Iterator[tuple[Path_, str]]:
    if isinstance(node.value, str):
        yield path, node.value
    elif isinstance(node.value, dict):
        for key, inner in node.value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(node.value, list):
        for index, inner in enumerate(node.value):
            yield from _texts(inner, (*path, index))
