"""Cells of a table that run nothing in a spreadsheet."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_formula(value: object) -> object:
    """``value``, with an apostrophe before text that a spreadsheet would run as a formula.

    A lone carriage return becomes a line break: csv writers do not quote it, so the text after it
    would start a cell.
    """
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + value.replace("\r\n", "\n").replace(
        "\r", "\n"
    )
