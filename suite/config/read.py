"""``load``: a sweep file and overrides -> a ``SweepSpec``, or all that is wrong with them at once.

Stage 1 of validation: the text only. Whether data, weights, layers and folders exist is stage 2,
elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from suite.config import parameters, rules, setting_fields, yaml_lines
from suite.config.overrides import apply_overrides
from suite.config.partial_sweep import FIELDS, Draft
from suite.config.space import show
from suite.config.sweep import (
    COSTS,
    EARLY_TERMINATE,
    ArmBuilder,
    MetricConfig,
    SeedList,
    SeedPlan,
    SweepSpec,
    problems_of,
)
from suite.config.trial import AUGMENTATIONS
from suite.config.yaml_lines import Path_, SweepSource
from suite.core.errors import UsageError

_READ_ELSEWHERE = (
    "trial",
    "parameters",
    "arms",
    "baseline",
    "metric",
    "early_terminate",
    "augmentations",
    "seeds",
)
_MAY_BE_NULL = ("description", "resources", "confirm", "reference", "checkpoints")


def load(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The sweep that a file asks for.

    Args:
        path: the YAML file.
        overrides: ``key=value`` with a dotted key of a setting (``train.epochs=3``), of a
            parameter, or of the file (``seeds=[0,1]``, ``resources.gpu=0.5``). Relative paths in
            them are seen from the working folder. Their order does not matter: a setting given by
            itself goes before what a label given beside it stands for.

    Raises:
        UsageError: with every problem of the file and the overrides.
    """
    path = Path(path)
    text = yaml_lines.read_text(path)
    root = yaml_lines.parse(text, str(path))
    raw = root.plain()
    if raw is None:
        raise UsageError(
            "the file is empty", place=str(path), remedy="Start from search_spaces/quickstart.yaml."
        )
    if not isinstance(raw, dict):
        raise UsageError(
            f"a sweep file is a mapping of keys, got {setting_fields.quoted(raw)}",
            place=f"{path}:{root.line}",
            remedy="Start from search_spaces/quickstart.yaml.",
        )
    return _sweep(Draft(SweepSource(path, text, tuple(overrides), root), raw))


def _sweep(draft: Draft) -> SweepSpec:
    """Read everything, in the order in which parts need each other."""
    apply_overrides(draft)
    _unknown_keys(draft)
    _plain_fields(draft)
    before = len(draft.found)
    _augmentations(draft)
    base = parameters.base_settings(draft)
    varied = parameters.varied(draft)
    space = parameters.space_of(draft, varied, base)
    builder = ArmBuilder(
        str(draft.values.get("name", "sweep")), base, space, draft.variants, draft.written
    )
    sound = len(draft.found) == before and all(
        key in draft.values for key in ("method", "run_cap") if key in draft.raw
    )
    arms = rules.known_arms(draft, builder) if sound else ()
    sound = sound and len(draft.found) == before
    rules.check_trials(draft, space)
    rules.check_search(draft, varied)
    rules.check_seed_plan(draft)
    baseline = rules.baseline_arms(draft, builder, arms, sound)
    if sound:
        rules.check_reference(draft, arms, baseline)
    if draft.found:
        raise UsageError(problems_of(draft.source, draft.found))
    spec = SweepSpec.model_validate(draft.values)
    spec._source = draft.source
    spec._space, spec._builder = space, builder
    spec._arms, spec._baseline = arms, baseline
    return spec


def _unknown_keys(draft: Draft) -> None:
    for key in [each for each in draft.raw if each not in FIELDS]:
        setting = key in setting_fields.SECTIONS or key in setting_fields.LEAVES
        remedy = (
            "Settings of a trial stand under `trial:`."
            if setting
            else setting_fields.did_you_mean(key, FIELDS)
        )
        draft.complain(
            (key,), f"unknown key {key!r}", remedy or f"Known keys: {', '.join(FIELDS)}."
        )
        del draft.raw[key]


def _plain_fields(draft: Draft) -> None:
    for key, field in FIELDS.items():
        if draft.raw.get(key) is None and key in _MAY_BE_NULL:
            continue
        if key in draft.raw and key not in _READ_ELSEWHERE:
            draft.checked(
                key, Annotated[field.annotation, *field.metadata, key], (key,), draft.raw[key]
            )
    if "name" not in draft.raw:
        draft.complain(
            (),
            "`name` is missing",
            f"Add e.g. `name: {draft.file.path.stem}`: runs are kept under it.",
        )
    _metric(draft)
    _early_terminate(draft)
    if "seeds" in draft.raw:
        _seeds(draft, draft.raw["seeds"])


def _seeds(draft: Draft, raw: Any) -> None:
    """A list of seeds, or a plan for rounds of them."""
    if isinstance(raw, dict):
        draft.checked("seeds", SeedPlan, ("seeds",), raw)
        return
    seeds = draft.checked("seeds", SeedList, ("seeds",), raw) or ()
    if twice := sorted(seed for seed, count in Counter(seeds).items() if count > 1):
        draft.complain(
            ("seeds",), f"seeds must be different, got {', '.join(map(str, twice))} more than once"
        )


def _metric(draft: Draft) -> None:
    raw = draft.raw.get("metric", {})
    if not isinstance(raw, list):
        _one_metric(draft, raw, ("metric",))
        return
    before = len(draft.found)
    metrics = [_one_metric(draft, each, ("metric", index)) for index, each in enumerate(raw)]
    names = [each.name for each in metrics if each]
    if len(raw) < 2 or len(set(names)) < len(names):
        draft.complain(
            ("metric",), f"a list of metrics names at least two different ones, got {show(names)}"
        )
    if len(draft.found) == before:
        draft.values["metric"] = tuple(metrics)


def _one_metric(draft: Draft, raw: Any, path: Path_) -> MetricConfig | None:
    name = raw.get("name") if isinstance(raw, dict) else None
    if isinstance(name, str) and name.startswith("test/"):
        remedy = (
            f"Name {name.replace('test/', 'val/')}; test figures are read at the epoch that "
            "it chooses."
        )
        draft.complain((*path, "name"), f"{name} must not select anything", remedy)
        return None
    if len(path) == 1 and name in COSTS:
        draft.complain(
            (*path, "name"), f"{name} alone is no objective", "Name it in a list with val/acc."
        )
    metric: MetricConfig | None = draft.checked("metric", MetricConfig, path, raw)
    return metric


def _early_terminate(draft: Draft) -> None:
    raw = draft.raw.get("early_terminate")
    if raw is None:
        return
    kind = raw.get("type") if isinstance(raw, dict) else None
    model = EARLY_TERMINATE.get(kind) if isinstance(kind, str) else None
    if model is None:
        types = " or ".join(EARLY_TERMINATE)
        rule = (
            f"early_terminate must be a mapping with type: {types}, got "
            f"{setting_fields.quoted(raw)}"
        )
        draft.complain(
            ("early_terminate",), rule, setting_fields.did_you_mean(str(kind), EARLY_TERMINATE)
        )
        return
    draft.checked("early_terminate", model, ("early_terminate",), raw)


def _augmentations(draft: Draft) -> None:
    path = ("augmentations",)
    for name, raw in draft.mapping(path, draft.raw.get("augmentations")).items():
        _variant(draft, name, raw, (*path, name))
    draft.values["augmentations"] = draft.variants


def _variant(draft: Draft, name: str, raw: Any, path: Path_) -> None:
    draft.variants[name] = None  # known by name even if its settings are wrong
    if not isinstance(raw, dict):
        draft.complain(
            path,
            f"{name} must be a mapping such as {{type: cutout, size: 8}}, got "
            f"{setting_fields.quoted(raw)}",
        )
        return
    kind = raw.get("type", name)
    model = AUGMENTATIONS.get(kind) if isinstance(kind, str) else None
    if name == "none" or not name.replace("_", "a").replace("-", "a").isalnum():
        draft.complain(
            path, f"{name!r} cannot name an augmentation", "Use letters, digits, `_` and `-`."
        )
    elif model is None:
        rule = (
            f"{name}.type must be one of {', '.join(AUGMENTATIONS)}, got "
            f"{setting_fields.quoted(raw.get('type'))}"
        )
        draft.complain((*path, "type"), rule, setting_fields.did_you_mean(str(kind), AUGMENTATIONS))
    elif name in AUGMENTATIONS and kind != name:
        draft.complain(
            path, f"{name} is a built-in name and cannot be a {kind}", "Choose another name."
        )
    else:
        draft.variants[name] = draft.checked("augmentations", model, path, raw)
