"""Write the ``requirements*.txt`` files from the lists in ``pyproject.toml``; ``--check`` compares.

Comments stay: each line says which package of the suite needs it. Only direct dependencies are
pinned, because torch brings other packages on each platform. No network is used.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
GENERATED = "# Generated from pyproject.toml by `make requirements`; do not edit by hand.\n"
# cluster.yaml, cluster-gcp.yaml, cluster-local.yaml and the Dockerfile drop what follows this line.
DEVELOPMENT = "# --- for development: make test, make check ---\n"
COMMENT_COLUMN = 27


def files(pyproject: str) -> dict[str, str]:
    """Name of each generated file -> its text."""
    main = _section(pyproject, "dependencies") + _section(pyproject, "server")
    return {
        "requirements.txt": GENERATED + main + DEVELOPMENT + _section(pyproject, "dev"),
        "requirements-cluster.txt": GENERATED + _section(pyproject, "cluster"),
        "requirements-docs.txt": GENERATED + _section(pyproject, "docs"),
        "requirements-bench.txt": GENERATED + _section(pyproject, "bench"),
    }


def _section(pyproject: str, name: str) -> str:
    """The requirements of one list, with their comments.

    Raises:
        ValueError: a line of the list is neither a pinned requirement with a reason nor a comment.
    """
    block = re.search(rf"^{name} = \[(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    if block is None:
        raise ValueError(f"pyproject.toml has no list {name}")
    return "".join(map(_line, block[1].splitlines()[1:]))


def _line(line: str) -> str:
    entry = re.fullmatch(r'\s*"([^"=]+==[^"]+)",\s*# (.+)', line)
    if entry is None:
        raise ValueError(f'pyproject.toml: must be "name==version",  # who needs it, got {line!r}')
    return f"{entry[1]:<{COMMENT_COLUMN - 2}}  # {entry[2]}\n"


def main() -> None:
    wanted = files((REPO / "pyproject.toml").read_text())
    if sys.argv[1:] == ["--check"]:
        stale = [name for name, text in wanted.items() if _read(REPO / name) != text]
        sys.exit(f"{', '.join(stale)}: run `make requirements`" if stale else 0)
    for name, text in wanted.items():
        (REPO / name).write_text(text)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
