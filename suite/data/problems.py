"""Words for problems of which there may be thousands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from suite.core.errors import Problem

LISTED = 10  # things of one kind that a message shows before it says "and N more"


def enough(names: Iterable[object]) -> str:
    """``a, b, c``, with ``and N more`` after the first ten."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


def capped(rules: Sequence[str], remedy: str) -> list[Problem]:
    """One environment problem per rule, at most ten and then ``and N more``; the common remedy is said once, last."""
    if not rules:
        return []
    shown = list(rules[:LISTED])
    if len(rules) > LISTED:
        shown.append(f"and {len(rules) - LISTED} more")
    problems = [Problem(rule, environment=True) for rule in shown]
    return [*problems[:-1], replace(problems[-1], remedy=remedy)]
