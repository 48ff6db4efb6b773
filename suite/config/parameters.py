"""The settings of every trial, and what varies: ``trial``, ``parameters`` and ``arms`` as a
``Space``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from suite.config import setting_fields
from suite.config.partial_sweep import FIELDS, Draft, overlap
from suite.config.space import (
    DISTRIBUTIONS,
    Choice,
    Choices,
    Condition,
    Parameter,
    Range,
    Space,
    ordered,
    same,
    show,
)
from suite.config.sweep import ARMS, ParameterConfig
from suite.config.trial import TrialConfig
from suite.config.yaml_lines import Path_

_MOST_PARAMETERS = 100  # there are fewer settings than that
_MOST_CONDITIONS = 100
_LARGEST = 1e15  # of a bound; whole numbers up to it are exact

# ---- the settings of every trial -----------------------------------------------------------------


def base_settings(draft: Draft) -> dict[str, Any]:
    """The settings of every trial: defaults, the file's ``trial``, ``value`` parameters, the
    command line.
    """
    settings, wrong = setting_fields.flatten(
        draft.mapping(("trial",), draft.raw.get("trial")), ("trial",)
    )
    draft.found += wrong
    parameters = draft.raw.get("parameters")
    for name, raw in parameters.items() if isinstance(parameters, dict) else ():
        if _is_constant(name, raw):
            settings[name] = setting_fields.Setting(raw["value"], ("parameters", name, "value"))
    over = {key: setting for key, setting in settings.items() if not draft.is_fixed(key)}
    fixed = {
        key: setting_fields.Setting(value, ("trial", key)) for key, value in draft.fixed.items()
    }
    checked = setting_fields.merged(draft.settings(over), draft.settings(fixed))
    draft.values["trial"] = checked
    return setting_fields.merged(setting_fields.flat(TrialConfig()), checked)


def _is_constant(name: str, raw: Any) -> bool:
    """Whether a parameter is only another way to write a setting of every trial."""
    return isinstance(raw, dict) and set(raw) == {"value"} and name in setting_fields.LEAVES


# ---- what varies ---------------------------------------------------------------------------------


def varied(draft: Draft) -> list[Parameter]:
    """What varies, the file's ``arms`` first; what is wrong is left out."""
    found: list[Parameter | None] = [_named_arms(draft)]
    raw = draft.mapping(("parameters",), draft.raw.get("parameters"))
    if len(raw) > _MOST_PARAMETERS:
        draft.complain(
            ("parameters",), f"at most {_MOST_PARAMETERS} parameters vary together, got {len(raw)}"
        )
        raw = {}
    kept = {name: each for name, each in raw.items() if not _is_replaced(draft, name, each)}
    found += [_parameter(draft, name, each, ("parameters", name)) for name, each in kept.items()]
    draft.values["parameters"] = {
        name: _with_empty_recipes(each) for name, each in kept.items() if name not in draft.labels
    }
    parameters = [each for each in found if each is not None and each.name not in draft.labels]
    _set_twice(draft, parameters)
    return parameters


def _is_replaced(draft: Draft, name: str, raw: Any) -> bool:
    """Whether the command line fixed this parameter.

    Labels and zips lose only the settings that it fixed.
    """
    several = isinstance(raw, dict) and ("zip" in raw or isinstance(raw.get("values"), dict))
    return name in setting_fields.LEAVES and not several and draft.is_fixed(name)


def _with_empty_recipes(raw: Any) -> Any:
    """A parameter whose labels without settings have an empty mapping instead of null."""
    if not isinstance(raw, dict) or not isinstance(raw.get("values"), dict):
        return raw
    return {**raw, "values": {label: settings or {} for label, settings in raw["values"].items()}}


def _set_twice(draft: Draft, parameters: Sequence[Parameter]) -> None:
    for index, parameter in enumerate(parameters):
        for other in parameters[:index]:
            clash = {a for a in parameter.keys for b in other.keys if overlap(a, b)}
            for key in sorted(clash):
                first = "arms" if other.name == ARMS else f"parameters.{other.name}"
                path = draft.parameter_paths[parameter.name]
                draft.complain(
                    path, f"{key} varies twice, also in {first}", "Vary a setting in one place."
                )


def _named_arms(draft: Draft) -> Parameter | None:
    raw = draft.mapping(("arms",), draft.raw.get("arms"))
    choices = []
    for name, settings in raw.items():
        path = ("arms", name)
        _nameable(draft, name, path, "an arm")
        choices.append(Choice(name, _recipe(draft, settings, path)))
    draft.values["arms"] = {name: each or {} for name, each in raw.items()}
    draft.parameter_paths[ARMS] = ("arms",)
    return Choices(ARMS, _distinct(draft, choices), kind="arms") if choices else None


def _nameable(draft: Draft, name: str, path: Path_, what: str) -> None:
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 100:
        draft.complain(
            path,
            f"{setting_fields.quoted(name)} cannot name {what}",
            "Use up to 100 printable characters.",
        )


def _recipe(draft: Draft, raw: Any, path: Path_) -> dict[str, Any]:
    """The settings of an arm or a label, without what the command line fixed."""
    settings, wrong = setting_fields.flatten(draft.mapping(path, raw), path)
    draft.found += wrong
    return draft.settings({key: each for key, each in settings.items() if not draft.is_fixed(key)})


def _distinct(draft: Draft, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Choices without those that the command line made equal to an earlier one."""
    if not draft.narrowed:
        return tuple(choices)
    seen: dict[str, Choice] = {}
    for choice in choices:
        seen.setdefault(repr(sorted(choice.settings.items())), choice)
    return tuple(seen.values())


# ---- one parameter -------------------------------------------------------------------------------


def _parameter(draft: Draft, name: str, raw: Any, path: Path_) -> Parameter | None:
    draft.parameter_paths[name] = path
    if not isinstance(raw, dict):
        written = "{values: [...]}" if isinstance(raw, list) else "{value: ...}"
        rule = f"a parameter must be a mapping, got {setting_fields.quoted(raw)}"
        draft.complain(path, rule, f"Write {name}: {written}.")
        return None
    known = ParameterConfig.model_fields
    for key in [each for each in raw if each not in known]:
        draft.complain(
            (*path, key),
            f"unknown key {key!r} of a parameter",
            setting_fields.did_you_mean(key, known)
            or (
                "Lists to vary together stand as NAME: {zip: {...}}."
                if name == "zip"
                else f"Known: {', '.join(known)}."
            ),
        )
    if name == ARMS:
        draft.complain(
            path, f"{ARMS!r} stands for `arms` and cannot name a parameter", "Choose another name."
        )
        return None
    if name.partition(".")[0] in FIELDS:
        draft.complain(
            path,
            f"{name!r} is a key of the file and cannot name a parameter",
            "Choose another name.",
        )
        return None
    _nameable(draft, name, path, "a parameter")
    if _is_constant(name, raw):
        return None  # a setting of every trial, read with these
    when = _when(draft, raw.get("when"), (*path, "when"))
    kind = _kind(draft, name, raw, path)
    if kind is None:
        return None
    if kind == "zip":
        return _zip(draft, name, raw["zip"], (*path, "zip"), when)
    if kind == "values" and isinstance(raw["values"], dict):
        return _labels(draft, name, raw["values"], (*path, "values"), when)
    if name not in setting_fields.LEAVES:
        problem = setting_fields.unknown_setting(name)
        hint = "Only labelled `values` and `zip` may have a name of their own."
        draft.complain(path, problem.rule, f"{problem.remedy} {hint}")
        return None
    if kind == "range":
        return _range(draft, name, raw, path, when)
    values = raw["values"] if kind == "values" else [raw["value"]]
    return _values(draft, name, values, (*path, kind), when)


def _kind(draft: Draft, name: str, raw: Mapping[str, Any], path: Path_) -> str | None:
    """``value``, ``values``, ``zip`` or ``range``: exactly one."""
    kinds = [each for each in ("value", "values", "zip") if each in raw]
    kinds += ["range"] if "min" in raw or "max" in raw else []
    if not kinds and any(each not in ParameterConfig.model_fields for each in raw):
        return None  # an unknown key stands for it, and was reported
    if len(kinds) != 1:
        has = " and ".join(each.replace("range", "min/max") for each in kinds) or "none of them"
        draft.complain(
            path, f"a parameter has one of value, values, min with max, zip; {name} has {has}"
        )
        return None
    if "distribution" in raw and kinds != ["range"]:
        draft.complain(
            (*path, "distribution"), f"distribution needs min and max, {name} has {kinds[0]}"
        )
    return kinds[0]


def _when(draft: Draft, raw: Any, path: Path_) -> tuple[Condition, ...]:
    if raw is None or not _filled(draft, raw, path, dict):
        return ()
    conditions = []
    for key, values in raw.items():
        wanted = values if isinstance(values, list) else [values]
        if len(wanted) > _MOST_CONDITIONS:
            draft.complain(
                (*path, key), f"`when` lists at most {_MOST_CONDITIONS} values, got {len(wanted)}"
            )
        elif _filled(draft, wanted, (*path, key), list):
            conditions.append(Condition(key, tuple(wanted)))
    return tuple(conditions)


def _filled(draft: Draft, raw: Any, path: Path_, kind: type) -> bool:
    what = "list" if kind is list else "mapping"
    if not isinstance(raw, kind):
        draft.complain(path, f"{path[-1]} must be a {what}, got {setting_fields.quoted(raw)}")
        return False
    if not raw:
        draft.complain(path, f"{path[-1]} must not be empty: the space would be")
        return False
    return True


def _values(
    draft: Draft, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]
) -> Parameter | None:
    if not _filled(draft, raw, path, list):
        return None
    choices = []
    for index, each in enumerate(raw):
        value = draft.value(name, each, (*path, index))
        label = each if isinstance(each, str | int | float | bool | None) else show(each)
        choices.append(Choice(label, {name: value}))
    _no_repeats(draft, raw, path)
    return Choices(name, tuple(choices), when)


def _no_repeats(draft: Draft, raw: Sequence[Any], path: Path_) -> None:
    seen: set[str] = set()
    for index, each in enumerate(raw):
        number = isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 2**53
        key = repr(float(each)) if number else repr(each)
        if key in seen:
            draft.complain((*path, index), f"{show(each)} is listed twice")
        seen.add(key)


def _labels(
    draft: Draft, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]
) -> Parameter | None:
    if not _filled(draft, raw, path, dict):
        return None
    for label in raw:
        _nameable(draft, label, (*path, label), "a label")
    choices = [
        Choice(label, _recipe(draft, settings, (*path, label))) for label, settings in raw.items()
    ]
    return Choices(name, _distinct(draft, choices), when, "labels")


def _zip(
    draft: Draft, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]
) -> Parameter | None:
    if not _filled(draft, raw, path, dict):
        return None
    columns: dict[str, list[Any]] = {}
    for key, values in raw.items():
        if key not in setting_fields.LEAVES:
            problem = setting_fields.unknown_setting(key)
            draft.complain((*path, key), problem.rule, problem.remedy)
        elif _filled(draft, values, (*path, key), list) and not draft.is_fixed(key):
            columns[key] = [
                draft.value(key, each, (*path, key, index)) for index, each in enumerate(values)
            ]
    lengths = {key: len(values) for key, values in raw.items() if isinstance(values, list)}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        draft.complain(path, f"lists that vary together must be equally long: {counts}")
        return None
    if not columns:
        return None
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not draft.narrowed:
        _no_repeats(draft, [list(row.values()) for row in rows], path)
    choices = [Choice(",".join(map(show, row.values())), row) for row in rows]
    return Choices(name, _distinct(draft, choices), when, "zip")


def _range(
    draft: Draft, name: str, raw: Mapping[str, Any], path: Path_, when: tuple[Condition, ...]
) -> Parameter | None:
    before = len(draft.found)
    bounds = [_bound(draft, raw, side, path) for side in ("min", "max")]
    distribution = raw.get("distribution")
    if distribution is not None and distribution not in DISTRIBUTIONS:
        rule = (
            f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got "
            f"{setting_fields.quoted(distribution)}"
        )
        draft.complain(
            (*path, "distribution"),
            rule,
            setting_fields.did_you_mean(str(distribution), DISTRIBUTIONS),
        )
    if draft.values.get("method", "grid") == "grid":
        remedy = "List `values`, or set `method: random` or `method: optuna` with a `run_cap`."
        draft.complain(
            path, "min and max need a method that draws values; a grid needs `values`", remedy
        )
    if len(draft.found) > before:
        return None
    low, high = bounds
    if not low < high:
        draft.complain(path, f"min < max must hold, got min={show(low)}, max={show(high)}")
        return None
    return _distributed(draft, name, low, high, distribution, path, when)


def _bound(draft: Draft, raw: Mapping[str, Any], side: str, path: Path_) -> Any:
    value = raw.get(side)
    if side not in raw:
        draft.complain(path, f"{side} is missing: a range has min and max")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        draft.complain(
            (*path, side), f"{side} must be a finite number, got {setting_fields.quoted(value)}"
        )
    elif abs(value) > _LARGEST:
        rule = (
            f"{side} must lie between {show(-_LARGEST)} and {show(_LARGEST)}, got "
            f"{setting_fields.quoted(value)}"
        )
        draft.complain((*path, side), rule)
    return value


def _distributed(
    draft: Draft,
    name: str,
    low: Any,
    high: Any,
    distribution: str | None,
    path: Path_,
    when: tuple[Condition, ...],
) -> Parameter | None:
    fraction = low + (high - low) * 0.37
    whole_only = bool(
        setting_fields.check(
            name, fraction if fraction != int(fraction) else fraction + 1e-3 * (high - low)
        )[1]
    )
    distribution = distribution or ("int_uniform" if whole_only and low == int(low) else "uniform")
    if distribution == "log_uniform" and low <= 0:
        draft.complain((*path, "min"), f"min must be above 0 for log_uniform, got {show(low)}")
        return None
    if distribution == "int_uniform" and not (low == int(low) and high == int(high)):
        draft.complain(
            path, f"int_uniform needs whole bounds, got min={show(low)}, max={show(high)}"
        )
        return None
    if distribution == "int_uniform":
        low, high = int(low), int(high)
    before = len(draft.found)
    for side, bound in (("min", low), ("max", high)):
        draft.value(name, bound, (*path, side))
    if len(draft.found) == before and distribution != "int_uniform" and whole_only:
        draft.complain(
            path, f"{name} takes no fractions, {distribution} draws them", "Use int_uniform."
        )
    return Range(name, low, high, distribution, when) if len(draft.found) == before else None


# ---- the space -----------------------------------------------------------------------------------


def space_of(draft: Draft, parameters: Sequence[Parameter], base: Mapping[str, Any]) -> Space:
    """The space of what varies, over the settings of every trial; complaints about conditions
    that cannot be.
    """
    space = Space(tuple(parameters), {**base, **draft.labels})
    for parameter in parameters:
        for condition in parameter.when:
            _condition(draft, parameter, condition, space)
    try:
        ordered(parameters)
    except ValueError as error:
        draft.complain(draft.parameter_paths[parameters[0].name], str(error))
    return space


def _condition(draft: Draft, parameter: Parameter, condition: Condition, space: Space) -> None:
    path = (*draft.parameter_paths[parameter.name], "when", condition.key)
    asked = [
        each
        for each in space.parameters
        if condition.key == each.name or condition.key in each.keys
    ]
    if draft.is_fixed(condition.key) or condition.key in draft.labels:
        return  # it holds in every trial or in none
    if not asked:
        names = {
            name
            for each in space.parameters
            for name in (each.name, *each.keys)
            if each is not parameter
        }
        raw = draft.raw.get("parameters")
        if isinstance(raw, dict) and condition.key in raw:
            return  # known, but wrong: reported there
        remedy = (
            setting_fields.did_you_mean(condition.key, sorted(names))
            or f"What varies: {', '.join(sorted(names)) or '-'}."
        )
        draft.complain(path, f"`when` asks about {condition.key!r}, which varies nowhere", remedy)
        return
    if not any(_reachable(each, condition, space.fixed) for each in asked):
        values = list(dict.fromkeys(map(show, _possible(asked[0], condition.key, space.fixed))))
        more = f" and {len(values) - 10} more" if len(values) > 10 else ""
        draft.complain(
            path, f"`when` never holds: {condition.key} is one of {', '.join(values[:10])}{more}"
        )


def _reachable(parameter: Parameter, condition: Condition, fixed: Mapping[str, Any]) -> bool:
    if isinstance(parameter, Range):
        return any(
            isinstance(value, int | float) and parameter.low <= value <= parameter.high
            for value in condition.values
        )
    possible = _possible(parameter, condition.key, fixed)
    return any(same(value, each) for value in condition.values for each in possible)


def _possible(parameter: Parameter, key: str, fixed: Mapping[str, Any]) -> list[Any]:
    """The values that a condition on ``key`` may see."""
    if isinstance(parameter, Range):
        return [parameter.low, parameter.high]
    if key != parameter.name:
        return [choice.settings.get(key, fixed.get(key)) for choice in parameter.choices]
    settings = (
        [choice.settings.get(key) for choice in parameter.choices] if key in parameter.keys else []
    )
    return [*parameter.labels, *settings]
