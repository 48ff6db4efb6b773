"""Hooks of the documentation site: all files of ``docs/decisions`` belong to the menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> None:
    """Fill the menu's entry ``Decisions``, in the order of the decisions' numbers."""
    folder = Path(config["docs_dir"])
    pages = [str(path.relative_to(folder)) for path in sorted(folder.glob("decisions/*.md"))]
    next(entry for entry in config["nav"] if "Decisions" in entry)["Decisions"] = pages
