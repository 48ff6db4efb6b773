"""The command line's ``key=value``: each changes the file's mapping, or fixes a setting or a
label for every trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from suite.config import setting_fields, yaml_lines
from suite.config.partial_sweep import FIELDS, Draft, field_names, overlap
from suite.config.space import show
from suite.config.sweep import ParameterConfig
from suite.config.yaml_lines import MAX_DEPTH, Path_
from suite.core.errors import UsageError


def apply_overrides(draft: Draft) -> None:
    """Do what the overrides say, whatever their order: what they change in the file first, then
    settings, then labels.

    A setting given by itself goes before what a label given beside it stands for.
    """
    typed = _typed(draft)
    in_file = [key for key in typed if key.partition(".")[0] in FIELDS]
    for key in sorted(in_file, key=lambda key: sum(key.startswith(f"{each}.") for each in in_file)):
        top, _, rest = key.partition(".")  # what stands around others comes before them
        _set(draft, top, rest, typed.pop(key), key)
    parameters = draft.raw.get("parameters")
    named = parameters if isinstance(parameters, dict) else {}
    labels = [key for key in typed if key in named and _is_labelled(named[key])]
    for key in [each for each in typed if each not in labels]:
        if key in setting_fields.LEAVES or key in setting_fields.SECTIONS:
            _fix_setting(draft, key, typed[key])
        else:
            _unknown(draft, key, named)
    explicit = tuple(draft.fixed)
    for key in labels:
        _fix_label(draft, key, typed[key], named[key]["values"], explicit)


def _typed(draft: Draft) -> dict[str, Any]:
    """The value of each key; what is no key or no value is left out after a complaint."""
    typed: dict[str, Any] = {}
    for text in draft.file.overrides:
        key, equals, value_text = text.partition("=")
        key = key.strip().removeprefix("trial.")
        shown = text.encode(errors="backslashreplace").decode()
        if shown != text:
            _typed_wrong(draft, shown, "is not UTF-8 text")
        elif not equals or not key:
            _typed_wrong(draft, text, "must be key=value, e.g. train.epochs=3")
        elif key in typed:
            _typed_wrong(draft, key, f"{key} is given twice")
        elif key.count(".") > MAX_DEPTH:
            _typed_wrong(draft, key, f"a key has at most {MAX_DEPTH} dots")
        else:
            try:
                typed[key] = yaml_lines.parse(value_text, key).plain()
            except UsageError as error:
                _typed_wrong(
                    draft,
                    key,
                    f"{error.problems[0].rule}, in {setting_fields.quoted(value_text)}",
                    "Quote the value.",
                )
    return typed


def _unknown(draft: Draft, key: str, named: Mapping[str, Any]) -> None:
    if key in named:
        rule = f"{key} has no labels to choose from"
        _typed_wrong(draft, key, rule, "Give the settings that it varies, e.g. train.epochs=3.")
        return
    known = [*setting_fields.LEAVES, *FIELDS, *_nested_fields(), *named]
    remedy = setting_fields.did_you_mean(key, known) or f"Top-level keys: {', '.join(FIELDS)}."
    _typed_wrong(draft, key, f"unknown key {setting_fields.quoted(key)}", remedy)


def _fix_label(
    draft: Draft, name: str, value: Any, recipes: Mapping[str, Any], explicit: Sequence[str]
) -> None:
    """One label of a labelled parameter for every trial, less what is given explicitly."""
    label = next((each for each in recipes if each == show(value) or each == value), None)
    if label is None:
        rule = f"{name} must be one of {', '.join(recipes)}, got {setting_fields.quoted(value)}"
        _typed_wrong(draft, name, rule, setting_fields.did_you_mean(str(value), recipes))
        return
    draft.labels[name] = label
    settings, _ = setting_fields.flatten(
        recipes[label] if isinstance(recipes[label], dict) else {}, ()
    )
    for key, setting in settings.items():
        if any(overlap(key, each) for each in explicit):
            continue
        if clash := next((each for each in draft.fixed if overlap(key, each)), None):
            _typed_wrong(draft, name, f"{key} is also set by {draft.overridden[('trial', clash)]}")
            continue
        draft.overridden[("trial", key)] = f"{name}={label}"
        draft.fixed[key] = setting.value


def _fix_setting(draft: Draft, key: str, value: Any) -> None:
    if key in setting_fields.SECTIONS and isinstance(value, dict):
        settings, wrong = setting_fields.flatten(value, (), key + ".")
        for _, problem in wrong:
            _typed_wrong(draft, key, problem.rule, problem.remedy)
        for inner, setting in settings.items():
            _fix_setting(draft, inner, setting.value)
        return
    if key in setting_fields.SECTIONS and not (
        key in setting_fields.OPTIONAL_SECTIONS and value is None
    ):
        _typed_wrong(
            draft, key, f"{key} must be a mapping of settings, got {setting_fields.quoted(value)}"
        )
        return
    if clash := next((each for each in draft.fixed if overlap(key, each)), None):
        _typed_wrong(
            draft,
            key,
            f"{key} is given twice" if clash == key else f"{key} and {clash} contradict each other",
        )
        return
    draft.overridden[("trial", key)] = key
    draft.fixed[key] = value


def _set(draft: Draft, top: str, rest: str, value: Any, key: str) -> None:
    """Put a value at a dotted key of the file itself."""
    path = (top, *_split(draft, top, rest)) if rest else (top,)
    inner: Any = draft.raw
    for depth, part in enumerate(path[:-1], start=1):
        if not isinstance(inner.get(part), dict):
            if isinstance(inner.get(part), list):
                remedy = f"Give the whole list: {'.'.join(path[:depth])}=[...]."
                _typed_wrong(draft, key, f"{part} is a list in the file", remedy)
                return
            inner[part] = {}
        inner = inner[part]
    if _in_recipe(path):
        settings, wrong = setting_fields.flatten({path[-1]: value}, ())
        new = (
            {path[-1]: value}
            if wrong
            else {each: setting.value for each, setting in settings.items()}
        )
        for each in new:
            _drop(inner, each)
    else:
        new = {path[-1]: value}
    for name, each in new.items():
        inner[name] = each
        draft.overridden[(*path[:-1], name)] = key


def _in_recipe(path: Sequence[str]) -> bool:
    """Whether a path leads to a setting of an arm or of a label, which may stand there nested or
    dotted.
    """
    return (path[0] == "arms" and len(path) == 3) or (path[0] == "parameters" and len(path) == 5)


def _drop(recipe: dict[str, Any], key: str, prefix: str = "") -> None:
    """Take out of a recipe what ``key`` is going to say."""
    for name, value in list(recipe.items()):
        here = prefix + name
        if (
            here == key
            or here.startswith(key + ".")
            or (key.startswith(here + ".") and value is None)
        ):
            del recipe[name]
        elif key.startswith(here + ".") and isinstance(value, dict):
            _drop(value, key, here + ".")


def _split(draft: Draft, top: str, rest: str) -> list[str]:
    """The keys below ``top``; names that hold dots themselves are kept whole."""
    if top == "baseline":
        return [rest]
    below = draft.raw.get(top)
    if top in ("arms", "reference"):
        return _name_and_rest(below, rest)
    if top != "parameters":
        return rest.split(".")
    name, _, last = rest.rpartition(".")
    if not _starts_with_name(below, rest) and last in ParameterConfig.model_fields:
        return [name, last]
    name, *within = _name_and_rest(below, rest)
    field, _, last = within[0].partition(".") if within else ("", "", "")
    if field == "values" and last:
        labelled = below.get(name) if isinstance(below, dict) else None
        return [
            name,
            field,
            *_name_and_rest(labelled.get("values") if isinstance(labelled, dict) else None, last),
        ]
    return [each for each in (name, field, last) if each]


def _starts_with_name(named: Any, text: str) -> str | None:
    """The longest key of a mapping with which a dotted text starts."""
    names = named if isinstance(named, dict) else ()
    fitting = [name for name in names if text == name or text.startswith(name + ".")]
    return max(fitting, key=len, default=None)


def _name_and_rest(named: Any, text: str) -> list[str]:
    """A name and what follows it, if anything; a new name ends at its first dot."""
    name = _starts_with_name(named, text) or text.partition(".")[0]
    rest = text[len(name) + 1 :]
    return [name, rest] if rest else [name]


def _is_labelled(parameter: Any) -> bool:
    return isinstance(parameter, dict) and isinstance(parameter.get("values"), dict)


def _typed_wrong(draft: Draft, key: str, rule: str, remedy: str = "") -> None:
    path: Path_ = ("command line", key)
    draft.overridden[path] = key
    draft.complain(path, rule, remedy)


@cache
def _nested_fields() -> tuple[str, ...]:
    """``metric.goal``, ``resources.gpu`` and so on."""
    return tuple(
        f"{key}.{name}" for key, field in FIELDS.items() for name in field_names(field.annotation)
    )
