"""The shell commands of a file for ``ray up``, taken apart as far as its rules ask: no more than
a reader would see.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from suite.cluster_lint.source import Source
from suite.config.yaml_lines import Path_

COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
OF_TYPES = (
    "initialization_commands",
    "worker_setup_commands",
)  # what a node type may have of its own
_ENDS = re.compile(r"\n|;|&&|\|\|?|(?<![<>])&(?![>&])|[()]|\b(?:do|then|else)\s")
_BEFORE_A_COMMAND = re.compile(
    r"(?:(?:env|exec|nohup|setsid|time|sudo(?: -[A-Za-z]+)*|(?:ba)?sh -l?c ['\"]?"
    r"|[A-Za-z_]\w*=\S*)\s+)*"
)


def commands(source: Source) -> Iterator[tuple[Path_, str]]:
    """Every command that nodes run, a line that goes on in the next one as one line."""
    for pattern in [
        *((name, "*") for name in COMMANDS),
        *(("available_node_types", "*", n, "*") for n in OF_TYPES),
    ]:
        for path in source.places(*pattern):
            yield path, re.sub(r"\\\n\s*", " ", str(source.get(*path, default="")))


def parts(text: str) -> list[str]:
    """The simple commands of a text, in their order, without comments."""
    return [
        part.strip()
        for part in _ENDS.split(text)
        if part.strip() and not part.strip().startswith("#")
    ]


def starts(source: Source) -> list[tuple[Path_, str]]:
    """The commands that start Ray."""
    return [(path, text) for path, text in commands(source) if re.search(r"\bray start\b", text)]


def in_force(name: str, text: str, command: str) -> list[str | None]:
    """What a variable is at each ``command`` of a text: exported before it, or written in front
    of it.
    """
    exported, found = None, []
    for part in parts(text):
        if set_here := re.fullmatch(rf"(?:\w+=\S*\s+)*export\s+(?:.*\s)?{name}=(\S*)(\s.*)?", part):
            exported = set_here[1]
        elif re.search(rf"\b{command}\b", part):
            before = part[: re.search(rf"\b{command}\b", part).start()]  # type: ignore[union-attr]
            values = (
                re.findall(rf"(?<!\S){name}=(\S*)", before)
                if _BEFORE_A_COMMAND.fullmatch(before)
                else []
            )
            found.append(values[-1] if values else exported)
    return [value.strip("'\"") if value is not None else None for value in found]
