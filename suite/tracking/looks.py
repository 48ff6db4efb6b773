"""The looks of a sweep as the tag ``suite.looks`` of its parent run, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suite.core.records import Looks

LOOKS, SEARCH_SEED = "suite.looks", "suite.search_seed"
MAX_LENGTH = 5000  # of the tag; MLflow takes 8000
MAX_SEEDS = 100_000  # of a look, in a tag that somebody else may have written


def looks_tag(
    planned: Iterable[Sequence[int]], made: Iterable[Sequence[int]], other_plan: bool = False
) -> str:
    """JSON: ``{"planned": ["0-7", "0-11"], "made": ["0-7"]}``, or "" without looks.

    If it is too long for a tag, the oldest looks of the longer list are left out.

    Args:
        other_plan: whether a look was made without this plan; then ``"open": true`` is added.
    """
    named = {
        "planned": [_ranges(seeds) for seeds in planned],
        "made": [_ranges(seeds) for seeds in made],
    }
    if not any(named.values()):
        return ""
    while len(text := json.dumps(named)) > MAX_LENGTH:
        max(named.values(), key=lambda looks: sum(map(len, looks))).pop(0)
    return json.dumps(named | {"open": True}) if other_plan else text


def looks_of(tags: Mapping[str, str]) -> Looks:
    """The looks in a parent run's tags; none if an older version or another tool wrote them."""
    try:
        named: Any = json.loads(tags.get(LOOKS) or "{}")
        planned, made = (tuple(map(_seeds, named.get(part, ()))) for part in ("planned", "made"))
        return Looks(planned, made, open=named.get("open") is True)
    except (ValueError, TypeError, AttributeError):
        return Looks()


def search_seed_of(tags: Mapping[str, str]) -> int | None:
    """The seed by which a search chose its arms; it counts in no verdict. None without a search."""
    text = tags.get(SEARCH_SEED, "")
    return int(text) if text.isdecimal() else None


def _ranges(seeds: Sequence[int]) -> str:
    """``(0, 1, 2, 5)`` -> ``0-2,5``."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def _seeds(text: str) -> tuple[int, ...]:
    """``0-2,5`` -> ``(0, 1, 2, 5)``.

    Raises:
        ValueError: the text does not name seeds, or too many.
    """
    pairs = [part.partition("-") for part in text.split(",")]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in pairs]
    if sum(map(len, ranges)) > MAX_SEEDS:
        raise ValueError(f"at most {MAX_SEEDS} seeds, got {text}")
    return tuple(seed for seeds in ranges for seed in seeds)
