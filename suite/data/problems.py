"""Messages about problems that may be thousands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from suite.core.errors import Problem

MAX_LISTED = 10  # entries before "and N more"


def enough(names: Iterable[object]) -> str:
    """``a, b, c``, with ``and N more`` after the first ten."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more


def capped(rules: Sequence[str], remedy: str) -> list[Problem]:
    """One environment problem per rule, after ten ``and N more``; the last has the remedy."""
    if not rules:
        return []
    shown = list(rules[:MAX_LISTED])
    if len(rules) > MAX_LISTED:
        shown.append(f"and {len(rules) - MAX_LISTED} more")
    problems = [Problem(rule, environment=True) for rule in shown]
    return [*problems[:-1], replace(problems[-1], remedy=remedy)]
