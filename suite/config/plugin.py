"""The user's own code: ``module:name`` strings, resolved here and nowhere else.

Modules are looked up beside the sweep file first, then as usual (``search_path`` is put on
``sys.path`` once, also in the Ray workers).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from suite.core.errors import UsageError

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Whether ``text`` has the form ``module:name`` (and is not ``runs:/...`` or a Windows
    path).
    """
    return _REFERENCE.fullmatch(text) is not None


def add_search_path(folder: Path | str) -> None:
    """Let modules in ``folder`` be imported by name."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def resolve(reference: str, what: str) -> Callable[..., Any]:
    """The function that ``module:name`` names.

    Args:
        reference: e.g. ``my_module:build``.
        what: the setting it came from, for the message, e.g. ``model.arch``.

    Raises:
        UsageError: if the module cannot be found or imported, or has no such function.
    """
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name not in (module_name, module_name.partition(".")[0]):
            raise _broken(reference, what, error) from error
        raise UsageError(
            f"{what}: no module named {module_name!r} for {reference!r}",
            remedy="Put the module beside the sweep file, or on PYTHONPATH.",
        ) from error
    except Exception as error:
        raise _broken(reference, what, error) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
        ]
        raise UsageError(
            f"{what}: module {module_name!r} has no function {name!r}",
            remedy=f"It has: {', '.join(sorted(known)) or 'no function at all'}.",
        )
    return function  # type: ignore[no-any-return]


def _broken(reference: str, what: str, error: Exception) -> UsageError:
    return UsageError(f"{what}: importing {reference!r} failed: {type(error).__name__}: {error}")


def digest(reference: str) -> str:
    """SHA-256 of the source of the module that ``module:name`` names: part of the identity of
    trials that use it.

    Covers that one file, not what it imports in turn.
    """
    module_name = reference.partition(":")[0]
    spec = importlib.util.find_spec(module_name)
    if spec is None or not spec.origin:
        return hashlib.sha256(reference.encode()).hexdigest()
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
