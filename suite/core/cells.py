"""Cells of a table that a spreadsheet opens without running anything."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_formula(value: object) -> object:
    """``value``, with an apostrophe before text that a spreadsheet would take for a formula.

    A lone carriage return becomes a line break: nobody puts it in quotes, and what follows would be a cell of its own.
    """
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + value.replace("\r\n", "\n").replace("\r", "\n")
