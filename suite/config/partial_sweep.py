"""What has been read of a sweep file so far, and what was wrong with it.

The modules that read a file share one ``Draft``: they check values through it, and complain to it.
What pydantic finds wrong is said here in the file's own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from suite.config import setting_fields
from suite.config.sweep import SweepSpec
from suite.config.yaml_lines import Path_, SweepSource
from suite.core.errors import Problem

FIELDS = {info.alias or name: info for name, info in SweepSpec.model_fields.items()}
"""Top-level key of a sweep file -> its field."""


@dataclass
class Draft:
    """One call of ``load``.

    Attributes:
        file: the file, with the overrides as the user typed them.
        raw: its mapping, with the overrides that concern the file itself.
        found: what is wrong, and where.
        overridden: path in the file -> key of the override that gave its value.
        fixed: setting fixed on the command line -> its value as typed.
        labels: labelled parameter fixed on the command line -> its label.
        written: path as resolved -> as the user wrote it.
        origins: setting -> where its value for every trial stands.
        values: top-level key -> validated value.
        variants: the named augmentations.
        parameter_paths: parameter -> where it stands.
    """

    file: SweepSource
    raw: dict[str, Any]
    found: list[tuple[Path_, Problem]] = field(default_factory=list)
    overridden: dict[Path_, str] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    origins: dict[str, Path_] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, Any] = field(default_factory=dict)
    parameter_paths: dict[str, Path_] = field(default_factory=dict)

    @property
    def source(self) -> SweepSource:
        """The file, and which of its keys came from the command line."""
        return replace(self.file, overridden=tuple(self.overridden.items()))

    def complain(self, path: Sequence[str | int], rule: str, remedy: str = "") -> None:
        """Note what is wrong at a path of the file."""
        self.found.append((tuple(path), Problem(rule, remedy=remedy)))

    def is_fixed(self, key: str) -> bool:
        """Whether the command line says what ``key`` is, itself or by its section."""
        return any(overlap(key, each) for each in self.fixed)

    @property
    def narrowed(self) -> bool:
        """Whether the command line fixes something that may vary in the file."""
        return bool(self.fixed or self.labels)

    def mapping(self, path: Path_, value: Any) -> dict[str, Any]:
        """A mapping, or an empty one after a complaint; null is an empty one."""
        if value is None or isinstance(value, dict):
            return value or {}
        self.complain(path, f"{path[-1]} must be a mapping, got {setting_fields.quoted(value)}")
        return {}

    def checked(self, key: str, annotation: Any, path: Path_, value: Any) -> Any:
        """A validated value; complaints and None where it is wrong."""
        try:
            result = TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            for where, rule, remedy in _explained(value, path, error, annotation):
                self.complain(where, rule, remedy)
            return None
        self.values[key] = result
        return result

    def settings(self, settings: Mapping[str, setting_fields.Setting]) -> dict[str, Any]:
        """Settings with checked values and absolute paths; those that are wrong are left out."""
        result: dict[str, Any] = {}
        for key, setting in settings.items():
            before = len(self.found)
            value = self.value(key, setting.value, setting.path)
            self.origins.setdefault(key, setting.path)
            if len(self.found) == before:
                result[key] = value
        return result

    def value(self, key: str, value: Any, path: Path_) -> Any:
        """One setting's value with its path absolute, after a complaint if it is wrong."""
        value, rule, remedy = setting_fields.check(key, value, self.variants)
        if rule:
            self.complain(path, rule, remedy)
        elif setting_fields.is_path(key, value):
            folder = Path() if self.source.typed(path) else self.file.path.parent
            written, value = value, setting_fields.absolute(value, folder)
            self.written[value] = written
        return value


def _explained(
    value: Any, path: Path_, error: ValidationError, annotation: Any
) -> Iterator[tuple[Path_, str, str]]:
    """What pydantic found wrong with a value below ``path``: once per key, in the file's own
    words.
    """
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
            known = sorted(field_names(annotation))
            remedy = (
                setting_fields.did_you_mean(str(inner[-1]), known) or f"Known: {', '.join(known)}."
            )
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
        return setting_fields.phrase(custom[0]), ""
    if errors[0]["type"] == "missing":
        return f"{key} must be given", _REMEDIES.get(key, "")
    value = errors[0]["input"]
    remedy = setting_fields.remedy_of(value, errors) or _REMEDIES.get(key, "")
    return (
        f"{key} must {setting_fields.expected(errors)}, got {setting_fields.quoted(value)}",
        remedy,
    )


_REMEDIES = {
    "seeds": "Write a list such as [0, 1, 2], or a plan: {at_least: 8, at_most: 16, until: "
    "decided}.",
    "seeds.until": "Write `until: decided`.",
}


def overlap(a: str, b: str) -> bool:
    """Whether two dotted keys are the same, or one is a section around the other."""
    return a == b or a.startswith(b + ".") or b.startswith(a + ".")


def field_names(annotation: Any) -> set[str]:
    """The fields of the models that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return set(annotation.model_fields)
    return {
        name
        for each in get_args(annotation)
        if not isinstance(each, str)
        for name in field_names(each)
    }
