"""The sweep file's format for editors (``search_spaces/schema.json``) and for readers
(``docs/settings.md``).

Both come from the models alone: ``python -m suite.config.schema`` writes them, ``--check``
says whether they are in step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from suite.config import setting_fields
from suite.config.space import show
from suite.config.sweep import (
    AshaConfig,
    CheckpointsConfig,
    ConfirmConfig,
    MedianConfig,
    MetricConfig,
    ParameterConfig,
    ResourcesConfig,
    SeedPlan,
    SweepSpec,
)
from suite.config.trial import AUGMENTATIONS, TrialConfig

ROOT = Path(__file__).resolve().parents[2]
SCHEMA_FILE = ROOT / "search_spaces" / "schema.json"
SETTINGS_FILE = ROOT / "docs" / "settings.md"

Json = dict[str, Any]
_REF = "#/$defs/"


# ---- for editors ---------------------------------------------------------------------------------


def json_schema() -> Json:
    """The JSON schema of a sweep file.

    Closed where the format is: unknown keys are errors in an editor too.
    """
    models: list[tuple[type[BaseModel], Any]] = [
        (SweepSpec, "validation"),
        (TrialConfig, "validation"),
    ]
    defs: Json = models_json_schema(models, by_alias=True)[1]["$defs"]
    top = defs.pop("SweepSpec")
    defs["Settings"] = _settings()
    defs.update(_parameter_parts(defs["ParameterConfig"]["properties"]))
    properties = top["properties"]
    for name, part in (
        ("trial", {"$ref": _REF + "Settings"}),
        ("arms", {"type": "object", "additionalProperties": {"$ref": _REF + "Settings"}}),
        ("parameters", _parameters()),
        ("augmentations", _augmentations()),
    ):
        properties[name] = {"description": properties[name]["description"], **part}
    for model in (AshaConfig, MedianConfig):
        defs[model.__name__]["required"] = ["type"]
    defs.pop("ParameterConfig")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sweep file of the suite",
    }
    top.pop("title")
    return {**head, **top, "$defs": dict(sorted(defs.items()))}


def _leaf(key: str) -> Json:
    leaf = setting_fields.LEAVES[key]
    return {"$ref": f"{_REF}{leaf.owner.__name__}/properties/{leaf.name}"}


def _settings() -> Json:
    """Settings of a trial, nested or dotted."""
    sections = {key: _section(key) for key in setting_fields.SECTIONS}
    return {
        "type": "object",
        "description": "Settings of a trial, nested or dotted.",
        "additionalProperties": False,
        "properties": {**sections, **{key: _leaf(key) for key in setting_fields.LEAVES}},
    }


def _section(key: str) -> Json:
    ref = {"$ref": _REF + setting_fields.SECTIONS[key].__name__}
    return {"anyOf": [ref, {"type": "null"}]} if key in setting_fields.OPTIONAL_SECTIONS else ref


def _zip() -> Json:
    columns = {
        key: {"type": "array", "minItems": 1, "items": _leaf(key)} for key in setting_fields.LEAVES
    }
    return {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": columns,
    }


def _parameter_parts(fields: Json) -> Json:
    """What parameters share, for ``$defs``."""
    text = {name: {"description": field["description"]} for name, field in fields.items()}
    settings = {"$ref": _REF + "Settings"}
    return {
        "Labels": {
            **text["values"],
            "type": "object",
            "minProperties": 1,
            "additionalProperties": settings,
        },
        "Bound": {"type": "number", "description": "Smallest or largest value, inclusive."},
        "When": {**text["when"], "type": ["object", "null"], "minProperties": 1},
        "Distribution": {
            name: value for name, value in fields["distribution"].items() if name != "default"
        },
        "Zip": {**text["zip"], **_zip()},
        "NamedParameter": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"values": _def("Labels"), "zip": _def("Zip"), "when": _def("When")},
            "oneOf": [{"required": ["values"]}, {"required": ["zip"]}],
        },
    }


def _def(name: str) -> Json:
    return {"$ref": _REF + name}


def _parameters() -> Json:
    properties = {key: _parameter(_leaf(key)) for key in setting_fields.LEAVES}
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": _def("NamedParameter"),
    }


def _parameter(leaf: Json) -> Json:
    """A parameter that is named after a setting."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "value": leaf,
            "values": {"anyOf": [{"type": "array", "minItems": 1, "items": leaf}, _def("Labels")]},
            "min": _def("Bound"),
            "max": _def("Bound"),
            "distribution": _def("Distribution"),
            "zip": _def("Zip"),
            "when": _def("When"),
        },
        "oneOf": [
            {"required": names} for names in (["value"], ["values"], ["min", "max"], ["zip"])
        ],
    }


def _augmentations() -> Json:
    models = {name: {"$ref": _REF + model.__name__} for name, model in AUGMENTATIONS.items()}
    return {
        "type": "object",
        "properties": models,
        "additionalProperties": {
            "anyOf": [{"allOf": [model], "required": ["type"]} for model in models.values()]
        },
    }


# ---- for readers ---------------------------------------------------------------------------------

_INTRO = """# Settings of a sweep file

Generated from the models in `suite/config/` by `python -m suite.config.schema`; do not edit by
hand.

A sweep file is YAML 1.2: `1e-4` is a number, only `true` and `false` are booleans, and a key given
twice is an error. With `# yaml-language-server: $schema=schema.json` as its first line, an editor
completes and checks it. Relative paths are relative to the file; on the command line, to the
working folder.

Any setting can be given on the command line as `key=value`: `train.epochs=3`, `seeds=[0,1]`,
`resources.gpu=0.5`. An override fixes a setting or parameter that varies, in `arms`, `parameters`
and `baseline` alike. The order does not matter. Beside a label such as `head=wide`, a setting that
is given by itself takes precedence over the label's.
"""


def settings_page() -> str:
    """Every setting with its default, what it may be, and its meaning, as Markdown."""
    parts = [_INTRO, *_tables()]
    return "\n".join(parts)


def _tables() -> Iterator[str]:
    yield _table("The file", SweepSpec, intro="Top-level keys.")
    parts: tuple[tuple[str, type[BaseModel]], ...] = (
        ("metric", MetricConfig),
        ("seeds", SeedPlan),
        ("resources", ResourcesConfig),
        ("early_terminate", AshaConfig),
        ("early_terminate", MedianConfig),
        ("confirm", ConfirmConfig),
        ("checkpoints", CheckpointsConfig),
    )
    for key, model in parts:
        kind = model.model_fields["type"].default if "type" in model.model_fields else ""
        yield _table(f"`{key}`" + (f", type `{kind}`" if kind else ""), model)
    yield _table("One of `parameters`", ParameterConfig)
    yield "## Settings of a trial\n\nUnder `trial`, `arms` and `parameters`, nested or dotted.\n"
    for key, model in setting_fields.SECTIONS.items():
        yield _table(f"`{key}`", model, prefix=f"{key}.", level=3)
    augment = TrialConfig.model_fields["augment"]
    yield f"### `augment`\n\nDefault `{augment.default}`. {_text(augment.description)}\n"
    yield "## Augmentations\n\nNames for `augment`; their settings under `augmentations`.\n"
    for name, augmentation in AUGMENTATIONS.items():
        yield _table(f"`{name}`", augmentation, level=3)


def _table(
    title: str, model: type[BaseModel], *, prefix: str = "", level: int = 2, intro: str = ""
) -> str:
    lines = [f"{'#' * level} {title}", "", intro or _text(model.__doc__), ""]
    rows = [
        f"| `{prefix}{field.alias or name}` | {_default(field)} | "
        f"{_cell(_allowed(model, field, name))} "
        f"| {_cell(_text(field.description))} |"
        for name, field in model.model_fields.items()
        if prefix + name not in setting_fields.SECTIONS and name != "type"
    ]
    if rows:
        lines += ["| key | default | may be | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _text(description: str | None) -> str:
    return " ".join((description or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"`{value:.6g}`"
    return (
        f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`" if value else "-"
    )


def _allowed(model: type[BaseModel], field: FieldInfo, name: str) -> str:
    """What a field may hold, in words."""
    schema = model.model_json_schema(by_alias=True)
    part = schema["properties"][field.alias or name]
    if part.keys() <= {"title", "description", "default"}:
        return "any value"
    text = " or ".join(dict.fromkeys(_words(part, schema.get("$defs", {}))))
    return text if NoneType in get_args(field.annotation) else text.removesuffix(" or null")


def _words(part: Json, defs: Json) -> Iterator[str]:
    if "$ref" in part:
        yield from _words(defs[part["$ref"].removeprefix(_REF)], defs)
    elif options := part.get("anyOf") or part.get("oneOf") or part.get("allOf"):
        for option in options:
            yield from _words(option, defs)
    elif "enum" in part:
        yield ", ".join(f"`{value}`" for value in part["enum"])
    elif "const" in part:
        yield f"`{part['const']}`"
    elif part.get("type") == "array":
        items = " or ".join(dict.fromkeys(_words(part["items"], defs))) if part.get("items") else ""
        yield f"list of {items}" if items else "list"
    else:
        yield _simple(part)


def _simple(part: Json) -> str:
    kinds = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true` or `false`",
        "object": "mapping",
        "null": "null",
    }
    limits = [
        f"{sign} {show(part[name])}"
        for name, sign in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if name in part
    ]
    return " ".join([kinds.get(part.get("type", ""), "any value"), ", ".join(limits)]).strip()


# ---- files ---------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Each generated file and what belongs in it."""
    return {
        SCHEMA_FILE: json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n",
        SETTINGS_FILE: settings_page(),
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files; with ``--check`` only say which are out of step. Returns an exit code."""
    stale = [
        path
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" not in arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files()[path], encoding="utf-8")
        sys.stdout.write(
            f"{'out of step' if '--check' in arguments else 'written'}: {path.relative_to(ROOT)}\n"
        )
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
