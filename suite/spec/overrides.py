"""The command line's ``key=value``: each changes the file's mapping, or fixes a setting or a label for every trial."""

from __future__ import annotations

from functools import cache
from typing import Any

from suite.errors import UsageError
from suite.space import show
from suite.spec import keys, loader
from suite.spec.draft import FIELDS, Draft, field_names
from suite.spec.loader import Path_
from suite.spec.sweep import ParameterConfig


def apply_overrides(draft: Draft) -> None:
    """Do what the overrides say, each seen alone, in the order in which they were typed."""
    typed: set[str] = set()
    for text in draft.file.overrides:
        key, equals, value_text = text.partition("=")
        key = key.strip().removeprefix("trial.")
        if not equals or not key:
            _typed_wrong(draft, text, "must be key=value, e.g. train.epochs=3")
        elif key in typed:
            _typed_wrong(draft, key, f"{key} is given twice")
        else:
            typed.add(key)
            _override(draft, key, value_text)


def _override(draft: Draft, key: str, text: str) -> None:
    try:
        value = loader.parse(text, key).plain()
    except UsageError as error:
        _typed_wrong(draft, key, f"{error.problems[0].rule}, in {text!r}", "Quote the value.")
        return
    top, _, rest = key.partition(".")
    named = draft.raw.get("parameters")
    if isinstance(named, dict) and key in named and _is_labelled(named[key]):
        _fix_label(draft, key, value, named)
    elif key in keys.LEAVES or key in keys.SECTIONS:
        _fix_setting(draft, key, value)
    elif top in FIELDS:
        _set(draft, top, rest, value, key)
    else:
        known = [*keys.LEAVES, *FIELDS, *_nested_fields(), *(named if isinstance(named, dict) else ())]
        remedy = keys.did_you_mean(key, known) or f"Top-level keys: {', '.join(FIELDS)}."
        _typed_wrong(draft, key, f"unknown key {key!r}", remedy)


def _fix_label(draft: Draft, name: str, value: Any, parameters: dict[str, Any]) -> None:
    """One label of a labelled parameter for every trial."""
    recipes = parameters[name]["values"]
    label = next((each for each in recipes if each == show(value) or each == value), None)
    if label is None:
        rule = f"{name} must be one of {', '.join(recipes)}, got {keys.quoted(value)}"
        _typed_wrong(draft, name, rule, keys.did_you_mean(str(value), recipes))
        return
    del parameters[name]
    draft.fixed[name] = label
    if isinstance(recipes[label], dict):
        settings, _ = keys.flatten(recipes[label], ())
        for key, setting in settings.items():
            draft.overridden[("trial", key)] = f"{name}={label}"
            draft.fixed[key] = setting.value


def _fix_setting(draft: Draft, key: str, value: Any) -> None:
    if key in keys.SECTIONS and isinstance(value, dict):
        settings, wrong = keys.flatten(value, (), key + ".")
        for _, problem in wrong:
            _typed_wrong(draft, key, problem.rule, problem.remedy)
        for inner, setting in settings.items():
            _fix_setting(draft, inner, setting.value)
        return
    if key in keys.SECTIONS and not (key in keys.OPTIONAL_SECTIONS and value is None):
        _typed_wrong(draft, key, f"{key} must be a mapping of settings, got {keys.quoted(value)}")
        return
    draft.overridden[("trial", key)] = key
    draft.fixed[key] = value


def _set(draft: Draft, top: str, rest: str, value: Any, key: str) -> None:
    """Put a value at a dotted key of the file itself."""
    path = (top, *_split(draft, top, rest)) if rest else (top,)
    inner: Any = draft.raw
    for part in path[:-1]:
        if not isinstance(inner.get(part), dict):
            if isinstance(inner.get(part), list):
                _typed_wrong(draft, key, f"{part} is a list in the file", f"Give the whole list: {top}=[...].")
                return
            inner[part] = {}
        inner = inner[part]
    inner[path[-1]] = value
    draft.overridden[path] = key


def _split(draft: Draft, top: str, rest: str) -> list[str]:
    """The keys below ``top``; names that hold dots themselves are kept whole."""
    if top == "baseline":
        return [rest]
    if top in ("parameters", "arms", "reference"):
        names = draft.raw.get(top)
        for name in sorted(names if isinstance(names, dict) else (), key=len, reverse=True):
            if rest == name:
                return [name]
            if rest.startswith(name + "."):
                return [name, *_within(top, rest[len(name) + 1 :])]
        name, _, last = rest.rpartition(".")
        if top == "parameters" and last in ParameterConfig.model_fields:
            return [name, last]
        name, _, last = rest.partition(".")
        return [name, last] if last else [name]
    return rest.split(".")


def _within(top: str, rest: str) -> list[str]:
    if top != "parameters":
        return [rest]
    field, _, last = rest.partition(".")
    return [field, last] if last else [field]


def _is_labelled(parameter: Any) -> bool:
    return isinstance(parameter, dict) and isinstance(parameter.get("values"), dict)


def _typed_wrong(draft: Draft, key: str, rule: str, remedy: str = "") -> None:
    path: Path_ = ("command line", key)
    draft.overridden[path] = key
    draft.complain(path, rule, remedy)


@cache
def _nested_fields() -> tuple[str, ...]:
    """``metric.goal``, ``resources.gpu`` and so on."""
    return tuple(f"{key}.{name}" for key, field in FIELDS.items() for name in field_names(field.annotation))
