"""The dotted settings of a trial: which exist, what each may hold, and what to say when it does
not.

``LEAVES`` maps ``train.lr`` and its like to their pydantic fields; a value is checked alone once,
however many arms use it. Rules between settings are the models' own (``config.py``) and run once
per distinct section.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from suite.config import plugin
from suite.config.space import show
from suite.config.trial import AUGMENTATIONS, TrialConfig
from suite.core.errors import Problem

DATA_SETS = ("cifar10", "cifar100", "svhn", "stl10", "fashion_mnist", "folder", "digits")
NOT_SETTINGS = ("augmentations",)
PATHS = ("data.root", "model.weights", "model.imagenet_file")
"""Settings that hold a path (``model.weights``: also other things, see ``is_path``)."""
WEIGHT_ADDRESSES = ("runs:/", "models:/")

_SIZE = "be a number of images (a whole number from 1) or a fraction above 0 and below 1"
_EXPECTED = {
    "data.train_size": _SIZE,
    "data.test_size": _SIZE,
    "data.val_size": f"{_SIZE}, or 0 for none",
}


@dataclass(frozen=True)
class Leaf:
    """One setting: its dotted key, the model it belongs to and its field there."""

    key: str
    owner: type[BaseModel]
    field: FieldInfo

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, ``Model`` or ``Model | None``."""
    candidates = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    models = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if len(models) == 1 else None


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Leaf | type[BaseModel]]]:
    for name, field in model.model_fields.items():
        key = prefix + name
        if key in NOT_SETTINGS:
            continue
        section = _section(field.annotation)
        yield key, section or Leaf(key, model, field)
        if section is not None:
            yield from _walk(section, key + ".")


_ALL = dict(_walk(TrialConfig, ""))
LEAVES: dict[str, Leaf] = {key: value for key, value in _ALL.items() if isinstance(value, Leaf)}
SECTIONS: dict[str, type[BaseModel]] = {
    key: value for key, value in _ALL.items() if not isinstance(value, Leaf)
}
OPTIONAL_SECTIONS = frozenset(("model.head",))


def flat(config: TrialConfig) -> dict[str, Any]:
    """The value of every setting; those below an absent section are left out and the section
    itself is None.
    """
    return dict(_flat(config, ""))


def _flat(model: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        key, value = prefix + name, getattr(model, name)
        if key in NOT_SETTINGS:
            continue
        if isinstance(value, BaseModel):
            yield from _flat(value, key + ".")
        else:
            yield key, value


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the settings of ``over``; a section set to None removes what is below it,
    and the reverse.
    """
    result = dict(base)
    for key, value in over.items():
        if key in OPTIONAL_SECTIONS:
            for below in [each for each in result if each.startswith(key + ".")]:
                del result[below]
        for section in OPTIONAL_SECTIONS:
            if key.startswith(section + "."):
                result.pop(section, None)
        result[key] = value
    return result


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings as nested mappings."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return result


# ---- one value -----------------------------------------------------------------------------------


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    leaf = LEAVES[key]
    annotation: Any = Annotated[leaf.field.annotation, *leaf.field.metadata, key]
    return TypeAdapter(annotation)


def check(key: str, value: Any, variants: Iterable[str] = ()) -> tuple[Any, str, str]:
    """A value of a setting as its type has it.

    Args:
        variants: names under the sweep's ``augmentations``.

    Returns:
        value, rule, remedy: the rule is empty where the value is right.
    """
    if key in OPTIONAL_SECTIONS:
        return (
            (None, "", "")
            if value is None
            else (value, f"{key} must be a mapping or null, got {quoted(value)}", "")
        )
    try:
        value = _adapter(key).validate_python(value)
    except ValidationError as error:
        return value, *_explain(key, value, error)
    return value, *_meaning(key, value, variants)


def _explain(key: str, value: Any, error: ValidationError) -> tuple[str, str]:
    if key in _EXPECTED:
        return f"{key} must {_EXPECTED[key]}, got {quoted(value)}", ""
    errors = error.errors(include_url=False)
    inside = any(isinstance(part, int) for each in errors for part in each["loc"])
    each = "every value of " if inside else ""
    return f"{each}{key} must {expected(errors)}, got {quoted(value)}", remedy_of(value, errors)


def expected(errors: Sequence[Any]) -> str:
    """What pydantic wanted, as the end of a sentence that starts with "must"."""
    # Of several allowed types, speak of the one that the value has.
    fitting = [each for each in errors if not each["type"].endswith(("_type", "literal_error"))]
    first, *others = dict.fromkeys(phrase(each) for each in fitting or errors)
    if not others:
        return first
    *between, last = [part.removeprefix("be ").removeprefix("one of ") for part in others]
    return ", ".join([first, *between]).replace(" or ", ", ") + f" or {last}"


def phrase(error: Any) -> str:
    """One of pydantic's errors as the end of such a sentence; of a model's own rule, the rule."""
    kind, context = error["type"], error.get("ctx", {})
    phrases = {
        "int_type": "be a whole number",
        "int_parsing": "be a whole number",
        "int_from_float": "be a whole number",
        "int_parsing_size": "be a smaller number",
        "float_type": "be a number",
        "string_type": "be text",
        "bool_type": "be true or false",
        "tuple_type": "be a list",
        "list_type": "be a list",
        "dict_type": "be a mapping",
        "model_type": "be a mapping",
        "model_attributes_type": "be a mapping",
        "none_required": "be null",
        "finite_number": "be a finite number",
        "missing": "be given",
        "greater_than": f"be above {show(context.get('gt'))}",
        "greater_than_equal": f"be at least {show(context.get('ge'))}",
        "less_than": f"be below {show(context.get('lt'))}",
        "less_than_equal": f"be at most {show(context.get('le'))}",
        "literal_error": _one_of(str(context.get("expected", ""))),
        "string_pattern_mismatch": "start with a letter or digit and hold only letters, digits, "
        "`_`, `-` and `.`",
        "too_short": f"have at least {context.get('min_length')} entries",
        "string_too_short": f"have at least {context.get('min_length')} characters",
        "string_too_long": f"have at most {context.get('max_length')} characters",
    }
    return phrases.get(kind, str(error["msg"]).removeprefix("Value error, "))


def _one_of(expected: str) -> str:
    """``be one of a, b, c`` of pydantic's ``'a', 'b' or 'c'``; ``be a`` if there is only one."""
    listed = expected.replace("'", "").replace(" or ", ", ")
    return f"be one of {listed}" if ", " in listed else f"be {listed}"


def remedy_of(value: Any, errors: Sequence[Any]) -> str:
    """What to write instead, where that can be guessed."""
    kinds = {each["type"] for each in errors}
    if isinstance(value, str):
        expected = [
            str(each["ctx"]["expected"]) for each in errors if each["type"] == "literal_error"
        ]
        known = [
            word.strip("' ") for text in expected for word in text.replace(" or ", ",").split(",")
        ]
        if near := did_you_mean(value, known):
            return near
    if "bool_type" in kinds:
        return "Write true or false: `yes`, `no`, `on` and `off` are plain text in YAML 1.2."
    numeric = isinstance(value, str) and kinds & {"float_type", "int_type"}
    return "Write the number without quotes, units or underscores." if numeric else ""


def quoted(value: Any) -> str:
    """A value as a message shows it, so that text and numbers can be told apart."""
    text = repr(value) if isinstance(value, str) else "null" if value is None else _compact(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _compact(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {quoted(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(quoted, value)) + "]"
    return show(value)


def _meaning(key: str, value: Any, variants: Iterable[str]) -> tuple[str, str]:
    """What a type cannot say: names that must be known."""
    if key == "augment":
        return _augment(value, {*AUGMENTATIONS, *variants})
    if key == "data.name" and value not in DATA_SETS and not plugin.is_reference(value):
        rule = (
            f"data.name must be one of {', '.join(DATA_SETS)}, or module:function of your own, "
            f"got {value!r}"
        )
        return rule, did_you_mean(value, DATA_SETS)
    if isinstance(value, str) and not value.strip():
        return f"{key} must not be empty", ""
    if is_path(key, value) and "\0" in value:
        return f"{key} must be a path, got {value!r}", ""
    if is_path(key, value) and not _has_home(value):
        return (
            f"{key} must not start with an unknown home folder, got {value!r}",
            "Write the whole path.",
        )
    return "", ""


def _augment(value: str, known: set[str]) -> tuple[str, str]:
    names = value.split("+")
    if value == "none":
        return "", ""
    if "none" in names:
        return f"`none` stands alone in augment, got {value!r}", "Leave `none` out."
    if any(name != name.strip() or not name for name in names):
        return (
            f"augment must be names joined by `+` without spaces, got {value!r}",
            "Write e.g. flip+crop+cutout.",
        )
    if unknown := [name for name in names if name not in known]:
        plural = "s" if len(unknown) > 1 else ""
        rule = f"unknown augmentation{plural} {', '.join(map(repr, unknown))}"
        known_names = f"Known: none, {', '.join(sorted(known))}."
        return (
            rule,
            f"{' '.join(filter(None, (did_you_mean(name, known) for name in unknown)))} "
            f"{known_names}".strip(),
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        remedy = (
            f"To apply it twice, define a second name for it under `augmentations`: "
            f"{twice}2: {{type: {twice}}}."
        )
        return (
            f"augment names {twice!r} twice, got {value!r}",
            remedy if twice in AUGMENTATIONS else "",
        )
    return "", ""


# ---- mappings of settings ------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A value and where it stands in the file."""

    value: Any
    path: tuple[str | int, ...]


def flatten(
    mapping: Mapping[str, Any], path: tuple[str | int, ...], prefix: str = ""
) -> tuple[dict[str, Setting], list[tuple[tuple[str | int, ...], Problem]]]:
    """Nested and dotted settings as dotted ones.

    Returns:
        settings, problems: what is there, and what is not a setting, each with its path.
    """
    found: dict[str, Setting] = {}
    wrong: list[tuple[tuple[str | int, ...], Problem]] = []
    for name, value in mapping.items():
        key, here = prefix + name, (*path, name)
        if key in LEAVES or (key in OPTIONAL_SECTIONS and value is None):
            _add(found, wrong, {key: Setting(value, here)})
        elif key in SECTIONS and isinstance(value, Mapping):
            inner, problems = flatten(value, here, key + ".")
            wrong += problems
            _add(found, wrong, inner)
        elif key in SECTIONS:
            wrong.append(
                (here, Problem(f"{key} must be a mapping of settings, got {quoted(value)}"))
            )
        else:
            wrong.append((here, unknown_setting(key)))
    return found, wrong


def _add(
    found: dict[str, Setting],
    wrong: list[tuple[tuple[str | int, ...], Problem]],
    new: Mapping[str, Setting],
) -> None:
    for key, setting in new.items():
        clash = next(
            (
                each
                for each in found
                if each == key or key.startswith(each + ".") or each.startswith(key + ".")
            ),
            None,
        )
        if clash is not None:
            wrong.append(
                (
                    setting.path,
                    Problem(
                        f"{key} is given twice here, also as "
                        f"{'.'.join(map(str, found[clash].path))}"
                    ),
                )
            )
        else:
            found[key] = setting


def unknown_setting(key: str, also: Iterable[str] = ()) -> Problem:
    """The problem that no setting has this key, with the nearest one that exists."""
    if key.split(".")[0] == "augmentations":
        return Problem(
            f"unknown setting {key!r}", remedy="`augmentations` stand at the top level of the file."
        )
    return Problem(
        f"unknown setting {key!r}",
        remedy=did_you_mean(key, [*LEAVES, *SECTIONS, *also]) or _all_of(key),
    )


def _all_of(key: str) -> str:
    section = key.rpartition(".")[0]
    if section in SECTIONS:
        return f"{section} has: {', '.join(SECTIONS[section].model_fields)}."
    return (
        f"Settings start with {', '.join(f'{each}.' for each in SECTIONS if '.' not in each)} "
        "or are `augment`."
    )


_SYNONYMS = {
    "learning_rate": "train.lr",
    "bs": "train.batch_size",
    "wd": "train.weight_decay",
    "scheduler": "train.schedule",
    "dataset": "data.name",
    "pretrained": "model.weights",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "augmentation": "augment",
    "num_samples": "run_cap",
    "scheduler_type": "early_terminate",
    "search_space": "parameters",
    "early_stopping": "train.patience",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?``, or nothing if no known word is near."""
    found = nearest(word, known)
    return f"Did you mean {found!r}?" if found else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like ``word``: by its last part where parts are joined by dots, else
    by its letters.
    """
    words = [str(each) for each in known]
    tail = word.rpartition(".")[2]
    if (synonym := _SYNONYMS.get(tail)) in words:
        return synonym
    for fits in (tail.__eq__, lambda last: len(tail) > 2 and str(last).startswith(tail)):
        for each in words:
            if fits(each.rpartition(".")[2]):
                return each
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    if close:
        return close[0]
    tails = {each.rpartition(".")[2]: each for each in reversed(words)}
    close = difflib.get_close_matches(tail.lower(), tails, n=1, cutoff=0.7)
    return tails[close[0]] if close else None


# ---- paths ---------------------------------------------------------------------------------------


def is_path(key: str, value: Any) -> bool:
    """Whether this setting's value is a path on this machine."""
    if key not in PATHS or not isinstance(value, str):
        return False
    return key != "model.weights" or not (
        value in ("none", "imagenet") or value.startswith(WEIGHT_ADDRESSES)
    )


def _has_home(value: str) -> bool:
    try:
        Path(value).expanduser()
    except RuntimeError:
        return False
    return True


def absolute(value: str, folder: Path) -> str:
    """A path as seen from ``folder``; ``~`` is the home folder."""
    return os.path.normpath(folder.absolute() / Path(value).expanduser())


def is_optional(leaf: Leaf) -> bool:
    """Whether null is a value of this setting."""
    return NoneType in get_args(leaf.field.annotation)
