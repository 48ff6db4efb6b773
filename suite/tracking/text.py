"""Text as a store of runs takes it: keys, file names, lengths, JSON."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MAX_PARAM_LENGTH, MAX_TAG_LENGTH, MAX_KEY_LENGTH = 500, 5000, 250  # MLflow: 6000, 8000, 250
MAX_NAME_LENGTH = 250  # of a run; sqlite takes more, PostgreSQL does not


def safe_key(name: str) -> str:
    """A name that MLflow takes for a metric or a param."""
    key = re.sub(r"[^\w.\- :/]", "_", name)[:MAX_KEY_LENGTH]
    return (
        key
        if posixpath.normpath(key) == key and key[0] not in "./"
        else re.sub(r"^[./]+|/", "_", key)
    )


def safe_file(name: str) -> str:
    """A name that can stand for one file in any store of artifacts."""
    return re.sub(r"[^\w.\- ]", "_", name).strip(". ") or "file"


def storable(text: str) -> str:
    """``text`` as any store takes it: without NUL (PostgreSQL) and lone surrogates."""
    return (
        text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        .encode("utf-8", "backslashreplace")
        .decode("utf-8")
    )


def cut(text: str, length: int, mark: str = "...") -> str:
    """``text``, with a visible mark where it had to be cut."""
    return text if len(text) <= length else text[: length - len(mark)] + mark


def chunks(items: Sequence[T], size: int) -> list[list[T]]:
    """``items`` in lists of at most ``size``."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


def as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)
