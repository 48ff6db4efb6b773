"""``load``: a sweep file and overrides -> a ``SweepSpec``, or all that is wrong with them at once.

Stage 1 of validation: the text only. Whether data, weights, layers and folders exist is stage 2, elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from suite.errors import Problem, UsageError
from suite.space import DISTRIBUTIONS, Choice, Choices, Condition, Parameter, Range, Space, ordered, same, show
from suite.spec import keys, loader
from suite.spec.config import AUGMENTATIONS, TrialConfig
from suite.spec.loader import Path_, SweepSource
from suite.spec.sweep import (
    ARMS,
    COSTS,
    EARLY_TERMINATE,
    Arm,
    ArmBuilder,
    MetricConfig,
    ParameterConfig,
    SectionError,
    SweepSpec,
    matches,
    problems_of,
)

FIELDS = {field.alias or name: field for name, field in SweepSpec.model_fields.items()}
"""Top-level key of a sweep file -> its field."""
_READ_ELSEWHERE = ("trial", "parameters", "arms", "baseline", "metric", "early_terminate", "augmentations")
_MAY_BE_NULL = ("description", "resources", "confirm", "reference", "checkpoints")
_PROBES = 500  # points of a search whose combinations are checked before it starts


def load(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The sweep that a file asks for.

    Args:
        path: the YAML file.
        overrides: ``key=value`` with a dotted key of a setting (``train.epochs=3``), of a parameter, or of the file
            (``seeds=[0,1]``, ``resources.gpu=0.5``). Relative paths in them are seen from the working folder.

    Raises:
        UsageError: with every problem of the file and the overrides.
    """
    path = Path(path)
    text = loader.read_text(path)
    root = loader.parse(text, str(path))
    raw = root.plain()
    if raw is None:
        raise UsageError("the file is empty", place=str(path), remedy="Start from search_spaces/quickstart.yaml.")
    if not isinstance(raw, dict):
        raise UsageError(
            f"a sweep file is a mapping of keys, got {keys.quoted(raw)}",
            place=f"{path}:{root.line}",
            remedy="Start from search_spaces/quickstart.yaml.",
        )
    return _Reading(SweepSource(path, text, tuple(overrides), root), raw).sweep()


class _Reading:
    """One call of ``load``: what has been read so far, and what was wrong with it."""

    def __init__(self, source: SweepSource, raw: dict[str, Any]) -> None:
        self.source = source
        self.raw = raw
        self.found: list[tuple[Path_, Problem]] = []
        self.overridden: dict[Path_, str] = {}
        self.fixed: dict[str, Any] = {}  # setting or parameter fixed on the command line -> its value as typed
        self.written: dict[str, str] = {}
        self.origins: dict[str, Path_] = {}  # setting -> where its value for every trial stands
        self.values: dict[str, Any] = {}  # top-level key -> validated value
        self.variants: dict[str, Any] = {}
        self.parameter_paths: dict[str, Path_] = {}

    def complain(self, path: Sequence[str | int], rule: str, remedy: str = "") -> None:
        self.found.append((tuple(path), Problem(rule, remedy=remedy)))

    def sweep(self) -> SweepSpec:
        """Read everything, in the order in which parts need each other."""
        self._overrides()
        self._unknown_keys()
        self._plain_fields()
        before = len(self.found)
        self._augmentations()
        base = self._base()
        parameters = self._parameters()
        space = self._space(parameters, base)
        builder = ArmBuilder(str(self.values.get("name", "sweep")), base, space, self.variants, self.written)
        sound = len(self.found) == before and all(
            key in self.values for key in ("method", "run_cap") if key in self.raw
        )
        arms = self._arms(builder) if sound else ()
        sound = sound and len(self.found) == before
        self._trial_rules(space, arms, sound)
        self._search_rules(parameters)
        baseline = self._baseline(builder, arms, sound)
        if sound:
            self._reference(arms, baseline)
        self._stop_if_wrong()
        return self._finished(builder, arms, baseline)

    def _stop_if_wrong(self) -> None:
        if self.found:
            raise UsageError(problems_of(self._source(), self.found))

    def _source(self) -> SweepSource:
        source = self.source
        return SweepSource(source.path, source.text, source.overrides, source.root, tuple(self.overridden.items()))

    def _finished(self, builder: ArmBuilder, arms: tuple[Arm, ...], baseline: tuple[Arm, ...]) -> SweepSpec:
        spec = SweepSpec.model_validate(self.values)
        spec._source = self._source()
        spec._space, spec._builder = builder.space, builder
        spec._arms, spec._baseline = arms, baseline
        return spec

    # ---- the command line

    def _overrides(self) -> None:
        typed: set[str] = set()
        for text in self.source.overrides:
            key, equals, value_text = text.partition("=")
            key = key.strip().removeprefix("trial.")
            if not equals or not key:
                self._typed_wrong(text, "must be key=value, e.g. train.epochs=3")
            elif key in typed:
                self._typed_wrong(key, f"{key} is given twice")
            else:
                typed.add(key)
                self._override(key, value_text)

    def _typed_wrong(self, key: str, rule: str, remedy: str = "") -> None:
        path: Path_ = ("command line", key)
        self.overridden[path] = key
        self.complain(path, rule, remedy)

    def _override(self, key: str, text: str) -> None:
        try:
            value = loader.parse(text, key).plain()
        except UsageError as error:
            self._typed_wrong(key, f"{error.problems[0].rule}, in {text!r}", "Quote the value.")
            return
        top, _, rest = key.partition(".")
        named = self.raw.get("parameters")
        if isinstance(named, dict) and key in named and self._is_labelled(named[key]):
            self._fix_label(key, value, named)
        elif key in keys.LEAVES or key in keys.SECTIONS:
            self._fix_setting(key, value)
        elif top in FIELDS:
            self._set(top, rest, value, key)
        else:
            known = [*keys.LEAVES, *FIELDS, *_nested_fields(), *(named if isinstance(named, dict) else ())]
            remedy = keys.did_you_mean(key, known) or f"Top-level keys: {', '.join(FIELDS)}."
            self._typed_wrong(key, f"unknown key {key!r}", remedy)

    def _is_labelled(self, parameter: Any) -> bool:
        return isinstance(parameter, dict) and isinstance(parameter.get("values"), dict)

    def _fix_label(self, name: str, value: Any, parameters: dict[str, Any]) -> None:
        """One label of a labelled parameter for every trial."""
        recipes = parameters[name]["values"]
        label = next((each for each in recipes if each == show(value) or each == value), None)
        if label is None:
            rule = f"{name} must be one of {', '.join(recipes)}, got {keys.quoted(value)}"
            self._typed_wrong(name, rule, keys.did_you_mean(str(value), recipes))
            return
        del parameters[name]
        self.fixed[name] = label
        if isinstance(recipes[label], dict):
            settings, _ = keys.flatten(recipes[label], ())
            for key, setting in settings.items():
                self.overridden[("trial", key)] = f"{name}={label}"
                self.fixed[key] = setting.value

    def _fix_setting(self, key: str, value: Any) -> None:
        if key in keys.SECTIONS and isinstance(value, dict):
            settings, wrong = keys.flatten(value, (), key + ".")
            for _, problem in wrong:
                self._typed_wrong(key, problem.rule, problem.remedy)
            for inner, setting in settings.items():
                self._fix_setting(inner, setting.value)
            return
        if key in keys.SECTIONS and not (key in keys.OPTIONAL_SECTIONS and value is None):
            self._typed_wrong(key, f"{key} must be a mapping of settings, got {keys.quoted(value)}")
            return
        self.overridden[("trial", key)] = key
        self.fixed[key] = value

    def _set(self, top: str, rest: str, value: Any, key: str) -> None:
        """Put a value at a dotted key of the file itself."""
        path = (top, *self._split(top, rest)) if rest else (top,)
        inner: Any = self.raw
        for part in path[:-1]:
            if not isinstance(inner.get(part), dict):
                if isinstance(inner.get(part), list):
                    self._typed_wrong(key, f"{part} is a list in the file", f"Give the whole list: {top}=[...].")
                    return
                inner[part] = {}
            inner = inner[part]
        inner[path[-1]] = value
        self.overridden[path] = key

    def _split(self, top: str, rest: str) -> list[str]:
        """The keys below ``top``; names that hold dots themselves are kept whole."""
        if top == "baseline":
            return [rest]
        if top in ("parameters", "arms", "reference"):
            names = self.raw.get(top)
            for name in sorted(names if isinstance(names, dict) else (), key=len, reverse=True):
                if rest == name:
                    return [name]
                if rest.startswith(name + "."):
                    return [name, *self._within(top, rest[len(name) + 1 :])]
            name, _, last = rest.rpartition(".")
            if top == "parameters" and last in ParameterConfig.model_fields:
                return [name, last]
            name, _, last = rest.partition(".")
            return [name, last] if last else [name]
        return rest.split(".")

    def _within(self, top: str, rest: str) -> list[str]:
        if top != "parameters":
            return [rest]
        field, _, last = rest.partition(".")
        return [field, last] if last else [field]

    # ---- the top level

    def _unknown_keys(self) -> None:
        for key in [each for each in self.raw if each not in FIELDS]:
            setting = key in keys.SECTIONS or key in keys.LEAVES
            remedy = "Settings of a trial stand under `trial:`." if setting else keys.did_you_mean(key, FIELDS)
            self.complain((key,), f"unknown key {key!r}", remedy or f"Known keys: {', '.join(FIELDS)}.")
            del self.raw[key]

    def _plain_fields(self) -> None:
        for key, field in FIELDS.items():
            if self.raw.get(key) is None and key in _MAY_BE_NULL:
                continue
            if key in self.raw and key not in _READ_ELSEWHERE:
                self._checked(key, Annotated[field.annotation, *field.metadata, key], (key,), self.raw[key])
        if "name" not in self.raw:
            self.complain((), "`name` is missing", f"Add e.g. `name: {self.source.path.stem}`: runs are kept under it.")
        self._metric()
        self._early_terminate()
        seeds = self.values.get("seeds", ())
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            self.complain(("seeds",), f"seeds must be different, got {', '.join(map(str, twice))} more than once")

    def _checked(self, key: str, annotation: Any, path: Path_, value: Any) -> Any:
        """A validated value; complaints and None where it is wrong."""
        try:
            result = TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            for where, rule, remedy in _explained(value, path, error, annotation):
                self.complain(where, rule, remedy)
            return None
        self.values[key] = result
        return result

    def _metric(self) -> None:
        raw = self.raw.get("metric", {})
        if not isinstance(raw, list):
            self._one_metric(raw, ("metric",))
            return
        before = len(self.found)
        metrics = [self._one_metric(each, ("metric", index)) for index, each in enumerate(raw)]
        names = [each.name for each in metrics if each]
        if len(raw) < 2 or len(set(names)) < len(names):
            self.complain(("metric",), f"a list of metrics names at least two different ones, got {show(names)}")
        if len(self.found) == before:
            self.values["metric"] = tuple(metrics)

    def _one_metric(self, raw: Any, path: Path_) -> MetricConfig | None:
        name = raw.get("name") if isinstance(raw, dict) else None
        if isinstance(name, str) and name.startswith("test/"):
            remedy = f"Name {name.replace('test/', 'val/')}; test figures are read at the epoch that it chooses."
            self.complain((*path, "name"), f"{name} must not select anything", remedy)
            return None
        if len(path) == 1 and name in COSTS:
            self.complain((*path, "name"), f"{name} alone is no objective", "Name it in a list with val/acc.")
        metric: MetricConfig | None = self._checked("metric", MetricConfig, path, raw)
        return metric

    def _early_terminate(self) -> None:
        raw = self.raw.get("early_terminate")
        if raw is None:
            return
        kind = raw.get("type") if isinstance(raw, dict) else None
        model = EARLY_TERMINATE.get(kind) if isinstance(kind, str) else None
        if model is None:
            rule = (
                f"early_terminate must be a mapping with type: {' or '.join(EARLY_TERMINATE)}, got {keys.quoted(raw)}"
            )
            self.complain(("early_terminate",), rule, keys.did_you_mean(str(kind), EARLY_TERMINATE))
            return
        self._checked("early_terminate", model, ("early_terminate",), raw)

    def _mapping(self, path: Path_, value: Any) -> dict[str, Any]:
        """A mapping, or an empty one after a complaint; null is an empty one."""
        if value is None or isinstance(value, dict):
            return value or {}
        self.complain(path, f"{path[-1]} must be a mapping, got {keys.quoted(value)}")
        return {}

    def _augmentations(self) -> None:
        path = ("augmentations",)
        for name, raw in self._mapping(path, self.raw.get("augmentations")).items():
            self._variant(name, raw, (*path, name))
        self.values["augmentations"] = self.variants

    def _variant(self, name: str, raw: Any, path: Path_) -> None:
        self.variants[name] = None  # known by name even if its settings are wrong
        if not isinstance(raw, dict):
            self.complain(path, f"{name} must be a mapping such as {{type: cutout, size: 8}}, got {keys.quoted(raw)}")
            return
        kind = raw.get("type", name)
        model = AUGMENTATIONS.get(kind) if isinstance(kind, str) else None
        if name == "none" or not name.replace("_", "a").replace("-", "a").replace(".", "a").isalnum():
            self.complain(path, f"{name!r} cannot name an augmentation", "Use letters, digits, `_`, `-` and `.`.")
        elif model is None:
            rule = f"{name}.type must be one of {', '.join(AUGMENTATIONS)}, got {keys.quoted(raw.get('type'))}"
            self.complain((*path, "type"), rule, keys.did_you_mean(str(kind), AUGMENTATIONS))
        elif name in AUGMENTATIONS and kind != name:
            self.complain(path, f"{name} is a built-in name and cannot be a {kind}", "Choose another name.")
        else:
            self.variants[name] = self._checked("augmentations", model, path, raw)

    # ---- settings

    def _base(self) -> dict[str, Any]:
        """The settings of every trial: defaults, the file's ``trial``, ``value`` parameters, the command line."""
        settings, wrong = keys.flatten(self._mapping(("trial",), self.raw.get("trial")), ("trial",))
        self.found += wrong
        parameters = self.raw.get("parameters")
        for name, raw in parameters.items() if isinstance(parameters, dict) else ():
            if _is_constant(name, raw):
                settings[name] = keys.Setting(raw["value"], ("parameters", name, "value"))
        over = {key: setting for key, setting in settings.items() if not self._is_fixed(key)}
        fixed = {key: keys.Setting(value, ("trial", key)) for key, value in self.fixed.items() if _is_setting(key)}
        checked = keys.merged(self._settings(over), self._settings(fixed))
        self.values["trial"] = checked
        return keys.merged(keys.flat(TrialConfig()), checked)

    def _settings(self, settings: Mapping[str, keys.Setting]) -> dict[str, Any]:
        """Settings with checked values and absolute paths; those that are wrong are left out."""
        result: dict[str, Any] = {}
        for key, setting in settings.items():
            before = len(self.found)
            value = self._value(key, setting.value, setting.path)
            self.origins.setdefault(key, setting.path)
            if len(self.found) == before:
                result[key] = value
        return result

    def _value(self, key: str, value: Any, path: Path_) -> Any:
        value, rule, remedy = keys.check(key, value, self.variants)
        if rule:
            self.complain(path, rule, remedy)
        elif keys.is_path(key, value):
            folder = Path() if self._source().typed(path) else self.source.path.parent
            written, value = value, keys.absolute(value, folder)
            self.written[value] = written
        return value

    # ---- what varies

    def _parameters(self) -> list[Parameter]:
        found: list[Parameter | None] = [self._named_arms()]
        raw = self._mapping(("parameters",), self.raw.get("parameters"))
        kept = {name: each for name, each in raw.items() if not self._is_replaced(name)}
        found += [self._parameter(name, each, ("parameters", name)) for name, each in kept.items()]
        self.values["parameters"] = {name: _with_empty_recipes(each) for name, each in kept.items()}
        parameters = [each for each in found if each is not None]
        self._set_twice(parameters)
        return parameters

    def _is_replaced(self, name: str) -> bool:
        """Whether the command line fixed this parameter. Labels and zips lose only the settings that it fixed."""
        return self._is_fixed(name) if name in keys.LEAVES else name in self.fixed

    def _named_arms(self) -> Parameter | None:
        raw = self._mapping(("arms",), self.raw.get("arms"))
        choices = []
        for name, settings in raw.items():
            path = ("arms", name)
            if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > 100:
                self.complain(path, f"{name!r} cannot name an arm", "Use up to 100 printable characters.")
            choices.append(Choice(name, self._recipe(settings, path)))
        self.values["arms"] = {name: each or {} for name, each in raw.items()}
        self.parameter_paths[ARMS] = ("arms",)
        return Choices(ARMS, self._distinct(choices), kind="arms") if choices else None

    def _recipe(self, raw: Any, path: Path_) -> dict[str, Any]:
        """The settings of an arm or a label, without what the command line fixed."""
        settings, wrong = keys.flatten(self._mapping(path, raw), path)
        self.found += wrong
        return self._settings({key: each for key, each in settings.items() if not self._is_fixed(key)})

    def _is_fixed(self, key: str) -> bool:
        """Whether the command line says what ``key`` is, itself or by its section."""
        return any(key == each or key.startswith(each + ".") or each.startswith(key + ".") for each in self.fixed)

    def _distinct(self, choices: Sequence[Choice]) -> tuple[Choice, ...]:
        """Choices without those that the command line made equal to an earlier one."""
        if not self.fixed:
            return tuple(choices)
        seen: dict[str, Choice] = {}
        for choice in choices:
            seen.setdefault(repr(sorted(choice.settings.items())), choice)
        return tuple(seen.values())

    def _parameter(self, name: str, raw: Any, path: Path_) -> Parameter | None:
        self.parameter_paths[name] = path
        if not isinstance(raw, dict):
            written = "{values: [...]}" if isinstance(raw, list) else "{value: ...}"
            rule = f"a parameter must be a mapping, got {keys.quoted(raw)}"
            self.complain(path, rule, f"Write {name}: {written}.")
            return None
        known = ParameterConfig.model_fields
        for key in [each for each in raw if each not in known]:
            self.complain(
                (*path, key),
                f"unknown key {key!r} of a parameter",
                keys.did_you_mean(key, known)
                or (
                    "Lists to vary together stand as NAME: {zip: {...}}."
                    if name == "zip"
                    else f"Known: {', '.join(known)}."
                ),
            )
        if name == ARMS:
            self.complain(path, f"{ARMS!r} stands for `arms` and cannot name a parameter", "Choose another name.")
            return None
        if _is_constant(name, raw):
            return None  # a setting of every trial, read with these
        when = self._when(raw.get("when"), (*path, "when"))
        kind = self._kind(name, raw, path)
        if kind is None:
            return None
        if kind == "zip":
            return self._zip(name, raw["zip"], (*path, "zip"), when)
        if kind == "values" and isinstance(raw["values"], dict):
            return self._labels(name, raw["values"], (*path, "values"), when)
        if name not in keys.LEAVES:
            problem = keys.unknown_setting(name)
            hint = "Only labelled `values` and `zip` may have a name of their own."
            self.complain(path, problem.rule, f"{problem.remedy} {hint}")
            return None
        if kind == "range":
            return self._range(name, raw, path, when)
        values = raw["values"] if kind == "values" else [raw["value"]]
        return self._values(name, values, (*path, kind), when)

    def _kind(self, name: str, raw: Mapping[str, Any], path: Path_) -> str | None:
        """``value``, ``values``, ``zip`` or ``range``: exactly one."""
        kinds = [each for each in ("value", "values", "zip") if each in raw]
        kinds += ["range"] if "min" in raw or "max" in raw else []
        if not kinds and any(each not in ParameterConfig.model_fields for each in raw):
            return None  # an unknown key stands for it, and was reported
        if len(kinds) != 1:
            has = " and ".join(each.replace("range", "min/max") for each in kinds) or "none of them"
            self.complain(path, f"a parameter has one of value, values, min with max, zip; {name} has {has}")
            return None
        if "distribution" in raw and kinds != ["range"]:
            self.complain((*path, "distribution"), f"distribution needs min and max, {name} has {kinds[0]}")
        return kinds[0]

    def _values(self, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]) -> Parameter | None:
        if not self._filled(raw, path, list):
            return None
        choices = []
        for index, each in enumerate(raw):
            value = self._value(name, each, (*path, index))
            label = each if isinstance(each, str | int | float | bool | None) else show(each)
            choices.append(Choice(label, {name: value}))
        self._no_repeats(raw, path)
        return Choices(name, tuple(choices), when)

    def _filled(self, raw: Any, path: Path_, kind: type) -> bool:
        what = "list" if kind is list else "mapping"
        if not isinstance(raw, kind):
            self.complain(path, f"{path[-1]} must be a {what}, got {keys.quoted(raw)}")
            return False
        if not raw:
            self.complain(path, f"{path[-1]} must not be empty: the space would be")
            return False
        return True

    def _no_repeats(self, raw: Sequence[Any], path: Path_) -> None:
        seen: set[str] = set()
        for index, each in enumerate(raw):
            number = isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 2**53
            key = repr(float(each)) if number else repr(each)
            if key in seen:
                self.complain((*path, index), f"{show(each)} is listed twice")
            seen.add(key)

    def _labels(self, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]) -> Parameter | None:
        if not self._filled(raw, path, dict):
            return None
        choices = [Choice(label, self._recipe(settings, (*path, label))) for label, settings in raw.items()]
        return Choices(name, self._distinct(choices), when, "labels")

    def _zip(self, name: str, raw: Any, path: Path_, when: tuple[Condition, ...]) -> Parameter | None:
        if not self._filled(raw, path, dict):
            return None
        columns: dict[str, list[Any]] = {}
        for key, values in raw.items():
            if key not in keys.LEAVES:
                problem = keys.unknown_setting(key)
                self.complain((*path, key), problem.rule, problem.remedy)
            elif self._filled(values, (*path, key), list) and not self._is_fixed(key):
                columns[key] = [self._value(key, each, (*path, key, index)) for index, each in enumerate(values)]
        lengths = {key: len(values) for key, values in raw.items() if isinstance(values, list)}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            self.complain(path, f"lists that vary together must be equally long: {counts}")
            return None
        if not columns:
            return None
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if not self.fixed:
            self._no_repeats([list(row.values()) for row in rows], path)
        choices = [Choice(",".join(map(show, row.values())), row) for row in rows]
        return Choices(name, self._distinct(choices), when, "zip")

    def _range(self, name: str, raw: Mapping[str, Any], path: Path_, when: tuple[Condition, ...]) -> Parameter | None:
        before = len(self.found)
        bounds = [self._bound(raw, side, path) for side in ("min", "max")]
        distribution = raw.get("distribution")
        if distribution is not None and distribution not in DISTRIBUTIONS:
            rule = f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {keys.quoted(distribution)}"
            self.complain((*path, "distribution"), rule, keys.did_you_mean(str(distribution), DISTRIBUTIONS))
        if self.values.get("method", "grid") == "grid":
            remedy = "List `values`, or set `method: random` or `method: optuna` with a `run_cap`."
            self.complain(path, "min and max need a method that draws values; a grid needs `values`", remedy)
        if len(self.found) > before:
            return None
        low, high = bounds
        if not low < high:
            self.complain(path, f"min < max must hold, got min={show(low)}, max={show(high)}")
            return None
        return self._distributed(name, low, high, distribution, path, when)

    def _bound(self, raw: Mapping[str, Any], side: str, path: Path_) -> Any:
        value = raw.get(side)
        if side not in raw:
            self.complain(path, f"{side} is missing: a range has min and max")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.complain((*path, side), f"{side} must be a finite number, got {keys.quoted(value)}")
        return value

    def _distributed(
        self, name: str, low: Any, high: Any, distribution: str | None, path: Path_, when: tuple[Condition, ...]
    ) -> Parameter | None:
        fraction = low + (high - low) * 0.37
        whole_only = bool(
            keys.check(name, fraction if fraction != int(fraction) else fraction + 1e-3 * (high - low))[1]
        )
        distribution = distribution or ("int_uniform" if whole_only and low == int(low) else "uniform")
        if distribution == "log_uniform" and low <= 0:
            self.complain((*path, "min"), f"min must be above 0 for log_uniform, got {show(low)}")
            return None
        if distribution == "int_uniform" and not (low == int(low) and high == int(high)):
            self.complain(path, f"int_uniform needs whole bounds, got min={show(low)}, max={show(high)}")
            return None
        if distribution == "int_uniform":
            low, high = int(low), int(high)
        before = len(self.found)
        for side, bound in (("min", low), ("max", high)):
            self._value(name, bound, (*path, side))
        if len(self.found) == before and distribution != "int_uniform" and whole_only:
            self.complain(path, f"{name} takes no fractions, {distribution} draws them", "Use int_uniform.")
        return Range(name, low, high, distribution, when) if len(self.found) == before else None

    def _when(self, raw: Any, path: Path_) -> tuple[Condition, ...]:
        if raw is None:
            return ()
        if not self._filled(raw, path, dict):
            return ()
        conditions = []
        for key, values in raw.items():
            wanted = values if isinstance(values, list) else [values]
            if self._filled(wanted, (*path, key), list):
                conditions.append(Condition(key, tuple(wanted)))
        return tuple(conditions)

    def _set_twice(self, parameters: Sequence[Parameter]) -> None:
        for index, parameter in enumerate(parameters):
            for other in parameters[:index]:
                clash = {a for a in parameter.keys for b in other.keys if a == b or _overlap(a, b)}
                for key in sorted(clash):
                    first = "arms" if other.name == ARMS else f"parameters.{other.name}"
                    path = self.parameter_paths[parameter.name]
                    self.complain(path, f"{key} varies twice, also in {first}", "Vary a setting in one place.")

    # ---- the space

    def _space(self, parameters: Sequence[Parameter], base: Mapping[str, Any]) -> Space:
        labels = {name: value for name, value in self.fixed.items() if not _is_setting(name)}
        space = Space(tuple(parameters), {**base, **labels})
        for parameter in parameters:
            for condition in parameter.when:
                self._condition(parameter, condition, space)
        try:
            ordered(parameters)
        except ValueError as error:
            self.complain(self.parameter_paths[parameters[0].name], str(error))
        return space

    def _condition(self, parameter: Parameter, condition: Condition, space: Space) -> None:
        path = (*self.parameter_paths[parameter.name], "when", condition.key)
        asked = [each for each in space.parameters if condition.key == each.name or condition.key in each.keys]
        if condition.key in self.fixed:
            return
        if not asked:
            names = {name for each in space.parameters for name in (each.name, *each.keys) if each is not parameter}
            raw = self.raw.get("parameters")
            if isinstance(raw, dict) and condition.key in raw:
                return  # known, but wrong: reported there
            remedy = (
                keys.did_you_mean(condition.key, sorted(names)) or f"What varies: {', '.join(sorted(names)) or '-'}."
            )
            self.complain(path, f"`when` asks about {condition.key!r}, which varies nowhere", remedy)
            return
        if not any(_reachable(each, condition, space.fixed) for each in asked):
            values = ", ".join(map(show, _possible(asked[0], condition.key, space.fixed)))
            self.complain(path, f"`when` never holds: {condition.key} is one of {values}")

    def _arms(self, builder: ArmBuilder) -> tuple[Arm, ...]:
        """The arms known beforehand; for a search, some points are tried so that contradictions show now."""
        method, cap = self.values.get("method", "grid"), self.values.get("run_cap", 1000)
        space = builder.space
        if method == "grid":
            points = self._within_cap(space, cap)
        elif method == "random":
            points = space.draws(cap)
        else:
            points = _probes(space)
        arms = self._built(builder, points)
        return () if method == "optuna" else self._unlike(arms)

    def _within_cap(self, space: Space, cap: int) -> Iterable[dict[str, Choice]]:
        """The grid, or nothing after a complaint. The size is a product; with conditions, counted up to the cap."""
        size = space.size() or 0
        conditional = any(parameter.when for parameter in space.parameters)
        if size > cap and (not conditional or sum(1 for _ in zip(space.grid(), range(cap + 1), strict=False)) > cap):
            factors = " x ".join(str(len(each.choices)) for each in space.parameters if isinstance(each, Choices))
            path = ("run_cap",) if "run_cap" in self.raw else ("parameters",)
            counted = f"more than {cap:,}, at most {size:,}" if conditional else f"{size:,}"
            remedy = "List fewer values, raise run_cap, or use method: random."
            self.complain(path, f"the grid has {counted} arms ({factors}), run_cap is {cap:,}", remedy)
            return ()
        return space.grid()

    def _built(self, builder: ArmBuilder, points: Iterable[dict[str, Choice]]) -> list[Arm]:
        arms = []
        reported: set[str] = set()
        for point in points:
            try:
                arms.append(builder.arm(point))
            except SectionError as error:
                for key, rule in error.rules:
                    if rule not in reported:
                        reported.add(rule)
                        self._contradiction(error.root, key, rule, point)
        return arms

    def _contradiction(self, root: str, key: str, rule: str, point: Mapping[str, Choice]) -> None:
        """A rule between settings that the point breaks, placed at what varies and is named in the rule."""
        named = [setting for setting in keys.LEAVES if setting.startswith(root) and setting.partition(".")[2] in rule]
        touching = {name: each for name, each in point.items() if any(setting in each.settings for setting in named)}
        path = next((self.origins[setting] for setting in named if setting in self.origins), ("trial", key))
        for name, choice in touching.items():
            path = ("arms", str(choice.label)) if name == ARMS else ("parameters", name)
        where = ", ".join(f"{name}={show(each.label)}" for name, each in touching.items() if name != ARMS)
        self.complain(path, f"{rule} ({where})" if where else rule)

    def _unlike(self, arms: Sequence[Arm]) -> tuple[Arm, ...]:
        """The arms without those that the command line made equal; two equal ones in the file are a mistake."""
        seen: dict[tuple[int | str, ...], Arm] = {}
        names: dict[str, Arm] = {}
        for arm in arms:
            config = arm.config
            first = seen.setdefault((id(config.data), id(config.model), id(config.train), config.augment), arm)
            if first is not arm and not self.fixed:
                path = ("arms", str(arm.choices[ARMS])) if ARMS in arm.choices else ("parameters",)
                self.complain(
                    path, f"{arm.name!r} and {first.name!r} are the same configuration", "Remove one of them."
                )
            if first is arm and names.setdefault(arm.name, arm) is not arm:
                self.complain(("arms",), f"two arms are called {arm.name!r}", "Rename one of them.")
        return tuple(seen.values())

    # ---- rules between parts

    def _trial_rules(self, space: Space, arms: Sequence[Arm], sound: bool) -> None:
        """What one section alone cannot know."""
        if sound and _folder_without_root(space, arms):
            remedy = "Add data.root=FOLDER with train/<class>/* and test/<class>/* in it."
            self.complain(self._path_of(space, "data.name"), "data.name: folder needs data.root", remedy)
        if any(same(value, 0) for value in _all_values(space, "data.val_size")):
            self._without_validation(self._path_of(space, "data.val_size"))
        if len(self._metrics()) > 1 and any(value is not None for value in _all_values(space, "train.patience")):
            rule = "train.patience needs one metric to watch, a Pareto search has several"
            self.complain(self._path_of(space, "train.patience"), rule)

    def _path_of(self, space: Space, key: str) -> Path_:
        """Where a setting varies, or where it is given."""
        for parameter in space.parameters:
            if key in parameter.keys:
                return self.parameter_paths[parameter.name]
        return self.origins.get(key, ("trial", key))

    def _metrics(self) -> tuple[MetricConfig, ...]:
        metric = self.values.get("metric", MetricConfig())
        return metric if isinstance(metric, tuple) else (metric,)

    def _without_validation(self, path: Path_) -> None:
        for metric in self._metrics():
            if metric.name.startswith("val/"):
                rule = f"data.val_size: 0 leaves no {metric.name} to decide by"
                self.complain(path, rule, "Set metric: {name: train/acc, strategy: last}, or a val_size above 0.")
            elif metric.strategy != "last" and metric.name not in COSTS:
                rule = "data.val_size: 0 allows only strategy: last: the best epoch of a training figure says nothing"
                self.complain(path, rule, f"Set metric: {{name: {metric.name}, strategy: last}}.")
        if "early_terminate" in self.values:
            self.complain(
                path, "data.val_size: 0 leaves early_terminate nothing to judge by", "Remove early_terminate."
            )

    def _search_rules(self, parameters: Sequence[Parameter]) -> None:
        method = self.values.get("method", "grid")
        pareto = len(self._metrics()) > 1
        if pareto and method != "optuna":
            self.complain(("metric",), f"a list of metrics needs method: optuna, got {method}")
        if pareto and "early_terminate" in self.values:
            self.complain(("early_terminate",), "a search with several metrics cannot stop trials early", "Remove it.")
        resources = self.values.get("resources")
        if resources is not None and resources.pack > 1 and "early_terminate" in self.values:
            rule = f"pack must be 1 with early_terminate, got {resources.pack}"
            self.complain(("resources", "pack"), rule, "Trials of one pack could not be stopped alone.")
        if method == "grid":
            if self.raw.get("confirm") is not None:
                self.complain(("confirm",), "confirm needs method: random or optuna; a grid runs all seeds anyway")
            return
        if "run_cap" not in self.raw:
            self.complain(("method",), f"method: {method} needs run_cap, the number of arms to try", "Add run_cap: 50.")
        if not parameters and not self.raw.get("parameters"):
            self.complain(("method",), f"method: {method} needs parameters to vary")

    # ---- baseline and reference

    def _baseline(self, builder: ArmBuilder, arms: tuple[Arm, ...], sound: bool) -> tuple[Arm, ...]:
        raw = self.raw.get("baseline")
        if raw is None:
            return ()
        if isinstance(raw, dict):
            raw = {key: value for key, value in raw.items() if not self._is_fixed(key)}
        elif not isinstance(raw, str):
            raw = show(raw)
        if raw == {}:
            return ()
        self.values["baseline"] = raw
        if not sound:
            self._baseline_alone(raw)
            return ()
        if self.values.get("method", "grid") != "grid":
            return self._searched_baseline(builder, raw)
        return self._named_baseline(arms, raw) if isinstance(raw, str) else self._matching_baseline(builder, arms, raw)

    def _baseline_alone(self, raw: Any) -> None:
        """What can be said about a baseline where the space itself is wrong."""
        arms, parameters = self.raw.get("arms"), self.raw.get("parameters")
        if isinstance(raw, dict):
            names = [ARMS, *(parameters if isinstance(parameters, dict) else ())]
            for key in [each for each in raw if each not in keys.LEAVES and each not in names]:
                problem = keys.unknown_setting(key, names)
                self.complain(("baseline", key), problem.rule, problem.remedy)
        elif isinstance(arms, dict) and raw not in arms and not parameters:
            self._no_arm(("baseline",), f"baseline {raw!r} is no arm", raw, list(arms))

    def _named_baseline(self, arms: tuple[Arm, ...], name: str) -> tuple[Arm, ...]:
        found = [arm for arm in arms if arm.name == name] or [arm for arm in arms if arm.choices.get(ARMS) == name]
        if not found:
            names = list(dict.fromkeys(str(arm.choices.get(ARMS, arm.name)) for arm in arms))
            self._no_arm(("baseline",), f"baseline {name!r} is no arm", name, names)
        return tuple(found)

    def _no_arm(self, path: Path_, rule: str, name: str, names: Sequence[str]) -> None:
        more = f", and {len(names) - 10} more" if len(names) > 10 else ""
        listed = f"Arms: {', '.join(names[:10])}{more}."
        self.complain(path, rule, f"{keys.did_you_mean(name, names)} {listed}".strip())

    def _baseline_keys(self, space: Space, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The mapping with settings as their types have them; complaints about keys that do not exist."""
        names = [each.name for each in space.parameters]
        checked = {}
        for key, value in raw.items():
            if key in keys.LEAVES and not any(key == each.name for each in space.parameters):
                checked[key] = self._value(key, value, ("baseline", key))
            elif key in names:
                checked[key] = value
            else:
                problem = keys.unknown_setting(key, names)
                self.complain(("baseline", key), problem.rule, problem.remedy)
        return checked

    def _matching_baseline(self, builder: ArmBuilder, arms: tuple[Arm, ...], raw: Mapping[str, Any]) -> tuple[Arm, ...]:
        before = len(self.found)
        wanted = self._baseline_keys(builder.space, raw)
        found = tuple(arm for arm in arms if matches(arm, wanted))
        if not found and len(self.found) == before:
            self._no_arm(("baseline",), f"baseline {keys.quoted(raw)} fits no arm", "", [arm.name for arm in arms])
        return found

    def _searched_baseline(self, builder: ArmBuilder, raw: Any) -> tuple[Arm, ...]:
        """The one configuration that a search compares with: every active parameter must be given."""
        space = builder.space
        before = len(self.found)
        wanted = {ARMS: raw} if isinstance(raw, str) else self._baseline_keys(space, raw)
        if len(self.found) > before:
            return ()
        try:
            return (builder.arm(space.walk(lambda parameter: _wanted(parameter, wanted))),)
        except ValueError as error:
            remedy = "A search compares with one configuration: give every parameter a value, e.g. " + ", ".join(
                f"{each.name}: ..." for each in space.parameters[:3]
            )
            self.complain(("baseline",), f"baseline: {error}", remedy + ".")
            return ()

    def _reference(self, arms: Sequence[Arm], baseline: Sequence[Arm]) -> None:
        known = {arm.name for arm in (*arms, *baseline)} | {str(arm.choices.get(ARMS, arm.name)) for arm in arms}
        raw = self.raw.get("reference")
        if not isinstance(raw, dict) or not arms or self.fixed or "reference" not in self.values:
            return
        for name in raw:
            if name not in known:
                self._no_arm(("reference", name), f"reference {name!r} is no arm", name, [arm.name for arm in arms])


# ---- helpers without state -----------------------------------------------------------------------------------------


def _is_setting(key: str) -> bool:
    return key in keys.LEAVES or key in keys.SECTIONS


def _with_empty_recipes(raw: Any) -> Any:
    """A parameter whose labels without settings have an empty mapping instead of null."""
    if not isinstance(raw, dict) or not isinstance(raw.get("values"), dict):
        return raw
    return {**raw, "values": {label: settings or {} for label, settings in raw["values"].items()}}


def _is_constant(name: str, raw: Any) -> bool:
    """Whether a parameter is only another way to write a setting of every trial."""
    return isinstance(raw, dict) and set(raw) == {"value"} and name in keys.LEAVES


def _folder_without_root(space: Space, arms: Sequence[Arm]) -> bool:
    if arms:
        return any(arm.config.data.name == "folder" and arm.config.data.root is None for arm in arms)
    return "folder" in _all_values(space, "data.name") and None in _all_values(space, "data.root")


def _overlap(a: str, b: str) -> bool:
    return a.startswith(b + ".") or b.startswith(a + ".")


def _possible(parameter: Parameter, key: str, fixed: Mapping[str, Any]) -> list[Any]:
    """The values that a condition on ``key`` may see."""
    if isinstance(parameter, Range):
        return [parameter.low, parameter.high]
    found = [choice.settings.get(key, fixed.get(key)) for choice in parameter.choices] if key != parameter.name else []
    labels = [choice.label for choice in parameter.choices] if key == parameter.name else []
    if key == parameter.name and key in parameter.keys:
        found = [choice.settings.get(key) for choice in parameter.choices]
    unique: list[Any] = []
    for value in [*labels, *found]:
        if not any(same(value, each) for each in unique):
            unique.append(value)
    return unique


def _reachable(parameter: Parameter, condition: Condition, fixed: Mapping[str, Any]) -> bool:
    if isinstance(parameter, Range):
        return any(
            isinstance(value, int | float) and parameter.low <= value <= parameter.high for value in condition.values
        )
    possible = _possible(parameter, condition.key, fixed)
    return any(same(value, each) for value in condition.values for each in possible)


def _all_values(space: Space, key: str) -> list[Any]:
    """Every value that a setting may have in this space; of a range, its ends."""
    found: list[Any] = []
    everywhere = False
    for parameter in space.parameters:
        if isinstance(parameter, Range):
            found += [parameter.low, parameter.high] if parameter.name == key else []
            everywhere |= parameter.name == key and not parameter.when
        else:
            given = [choice.settings[key] for choice in parameter.choices if key in choice.settings]
            found += given
            everywhere |= len(given) == len(parameter.choices) and not parameter.when
    return found if everywhere else [*found, space.fixed.get(key)]


def _probes(space: Space) -> Iterator[dict[str, Choice]]:
    """Points of a search that show contradictions: all, with the ends for ranges, if they are few; else some."""
    corners = tuple(
        Choices(each.name, tuple(each.choose(end) for end in (each.low, each.high)), each.when)
        if isinstance(each, Range)
        else each
        for each in space.parameters
    )
    small = Space(corners, space.fixed)
    yield from small.grid() if (small.size() or 0) <= _PROBES else small.draws(_PROBES)


def _wanted(parameter: Parameter, wanted: Mapping[str, Any]) -> Any:
    if parameter.name in wanted:
        return wanted[parameter.name]
    if isinstance(parameter, Choices):
        for choice in parameter.choices:
            if choice.settings and all(
                key in wanted and same(wanted[key], choice.settings[key]) for key in choice.settings
            ):
                return choice.label
    raise ValueError(f"{parameter.name} is not given")


def _explained(value: Any, path: Path_, error: ValidationError, annotation: Any) -> Iterator[tuple[Path_, str, str]]:
    """What pydantic found wrong with a value below ``path``: once per key, in the file's own words."""
    groups: dict[Path_, list[Any]] = {}
    for each in error.errors(include_url=False):
        groups.setdefault(_inside(value, each), []).append(each)
    for inner, errors in groups.items():
        if len(groups) > 1 and {each["type"] for each in errors} == {"too_short"}:
            continue  # pydantic counts only the entries that are right
        where = (*path, *inner)
        key = ".".join(str(part) for part in where)
        unknown = [each for each in errors if each["type"] == "extra_forbidden"]
        if unknown:
            known = sorted(_field_names(annotation))
            remedy = keys.did_you_mean(str(inner[-1]), known) or f"Known: {', '.join(known)}."
            yield where, f"unknown key {str(inner[-1])!r}", remedy
            continue
        yield where, *_rule(key, errors)


def _inside(value: Any, error: Any) -> Path_:
    """The part of an error's location that is in the value: pydantic adds names of types to it."""
    inner: list[str | int] = []
    for part in error["loc"]:
        known = isinstance(value, dict) and part in value
        listed = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if known or listed:
            value = value[part]
            inner.append(part)
        elif error["type"] == "missing" and part == error["loc"][-1]:
            inner.append(part)
    return tuple(inner)


def _rule(key: str, errors: Sequence[Any]) -> tuple[str, str]:
    custom = [each for each in errors if each["type"] == "value_error"]
    if custom:
        return keys.phrase(custom[0]), ""
    if errors[0]["type"] == "missing":
        return f"{key} must be given", ""
    value = errors[0]["input"]
    return f"{key} must {keys.expected(errors)}, got {keys.quoted(value)}", keys.remedy_of(value, errors)


@cache
def _nested_fields() -> tuple[str, ...]:
    """``metric.goal``, ``resources.gpu`` and so on."""
    return tuple(f"{key}.{name}" for key, field in FIELDS.items() for name in _field_names(field.annotation))


def _field_names(annotation: Any) -> set[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return set(annotation.model_fields)
    return {name for each in get_args(annotation) if not isinstance(each, str) for name in _field_names(each)}
