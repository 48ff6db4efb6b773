"""What the parts of a sweep file mean together: the arms of its space, rules between its parts,
baseline, reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from suite.config import setting_fields
from suite.config.partial_sweep import Draft
from suite.config.space import Choice, Choices, Parameter, Range, Space, same, show
from suite.config.sweep import ARMS, COSTS, Arm, ArmBuilder, MetricConfig, SectionError, matches
from suite.config.yaml_lines import Path_

_PROBES = 500  # points of a search whose combinations are checked before it starts
_SHOWN = 100  # wrong names that are reported, and arms whose names may be meant by them


# ---- the arms ------------------------------------------------------------------------------------


def known_arms(draft: Draft, builder: ArmBuilder) -> tuple[Arm, ...]:
    """The arms known beforehand; for a search, some points are tried so that contradictions show
    now.
    """
    method, cap = draft.values.get("method", "grid"), draft.values.get("run_cap", 1000)
    space = builder.space
    if method == "grid":
        points = _within_cap(draft, space, cap)
    elif method == "random":
        points = space.draws(cap)
    else:
        points = _probes(space)
    arms = _built(draft, builder, points)
    if any(arm.config.data.name == "folder" and arm.config.data.root is None for arm in arms):
        remedy = "Add data.root=FOLDER with train/<class>/* and test/<class>/* in it."
        draft.complain(
            _path_of(draft, space, "data.name"), "data.name: folder needs data.root", remedy
        )
    return () if method == "optuna" else _unlike(draft, arms)


def _within_cap(draft: Draft, space: Space, cap: int) -> Iterable[dict[str, Choice]]:
    """The grid, or nothing after a complaint.

    The size is a product; with conditions, counted up to the cap.
    """
    size = space.size() or 0
    conditional = any(parameter.when for parameter in space.parameters)
    if size > cap and (
        not conditional or sum(1 for _ in zip(space.grid(), range(cap + 1), strict=False)) > cap
    ):
        factors = " x ".join(
            str(len(each.choices)) for each in space.parameters if isinstance(each, Choices)
        )
        path = ("run_cap",) if "run_cap" in draft.raw else ("parameters",)
        counted = f"more than {cap:,}, at most {size:,}" if conditional else f"{size:,}"
        remedy = "List fewer values, raise run_cap, or use method: random."
        draft.complain(path, f"the grid has {counted} arms ({factors}), run_cap is {cap:,}", remedy)
        return ()
    return space.grid()


def _probes(space: Space) -> Iterator[dict[str, Choice]]:
    """Points of a search that show contradictions: all, with the ends for ranges, if they are
    few; else some.
    """
    corners = tuple(
        Choices(each.name, tuple(each.choose(end) for end in (each.low, each.high)), each.when)
        if isinstance(each, Range)
        else each
        for each in space.parameters
    )
    small = Space(corners, space.fixed)
    yield from small.grid() if (small.size() or 0) <= _PROBES else small.draws(_PROBES)


def _built(draft: Draft, builder: ArmBuilder, points: Iterable[dict[str, Choice]]) -> list[Arm]:
    arms = []
    reported: set[str] = set()
    for point in points:
        try:
            arms.append(builder.arm(point))
        except SectionError as error:
            for key, rule in error.rules:
                if rule not in reported:
                    reported.add(rule)
                    _contradiction(draft, error.root, key, rule, point)
    return arms


def _contradiction(
    draft: Draft, root: str, key: str, rule: str, point: Mapping[str, Choice]
) -> None:
    """A rule between settings that the point breaks, placed at what varies and is named in the
    rule.
    """
    named = [
        setting
        for setting in setting_fields.LEAVES
        if setting.startswith(root) and setting.partition(".")[2] in rule
    ]
    touching = {
        name: each
        for name, each in point.items()
        if any(setting in each.settings for setting in named)
    }
    path = next(
        (draft.origins[setting] for setting in named if setting in draft.origins), ("trial", key)
    )
    for name, choice in touching.items():
        path = ("arms", str(choice.label)) if name == ARMS else ("parameters", name)
    where = ", ".join(
        f"{name}={show(each.label)}" for name, each in touching.items() if name != ARMS
    )
    draft.complain(path, f"{rule} ({where})" if where else rule)


def _unlike(draft: Draft, arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """The arms without those that the command line made equal; two equal ones in the file are a
    mistake.
    """
    seen: dict[tuple[int | str, ...], Arm] = {}
    names: dict[str, Arm] = {}
    for arm in arms:
        config = arm.config
        first = seen.setdefault(
            (id(config.data), id(config.model), id(config.train), config.augment), arm
        )
        if first is not arm and not draft.narrowed:
            path = ("arms", str(arm.choices[ARMS])) if ARMS in arm.choices else ("parameters",)
            draft.complain(
                path,
                f"{arm.name!r} and {first.name!r} are the same configuration",
                "Remove one of them.",
            )
        if first is arm and names.setdefault(arm.name, arm) is not arm:
            draft.complain(("arms",), f"two arms are called {arm.name!r}", "Rename one of them.")
    return tuple(seen.values())


# ---- rules between parts -------------------------------------------------------------------------


def check_trials(draft: Draft, space: Space) -> None:
    """What one section alone cannot know."""
    if any(same(value, 0) for value in _all_values(space, "data.val_size")):
        _without_validation(draft, _path_of(draft, space, "data.val_size"))
    if len(_metrics(draft)) > 1 and any(
        value is not None for value in _all_values(space, "train.patience")
    ):
        rule = "train.patience needs one metric to watch, a Pareto search has several"
        draft.complain(_path_of(draft, space, "train.patience"), rule)


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


def _path_of(draft: Draft, space: Space, key: str) -> Path_:
    """Where a setting varies, or where it is given."""
    for parameter in space.parameters:
        if key in parameter.keys:
            return draft.parameter_paths[parameter.name]
    return draft.origins.get(key, ("trial", key))


def _metrics(draft: Draft) -> tuple[MetricConfig, ...]:
    metric = draft.values.get("metric", MetricConfig())
    return metric if isinstance(metric, tuple) else (metric,)


def _without_validation(draft: Draft, path: Path_) -> None:
    for metric in _metrics(draft):
        if metric.name.startswith("val/"):
            rule = f"data.val_size: 0 leaves no {metric.name} to decide by"
            draft.complain(
                path, rule, "Set metric: {name: train/acc, strategy: last}, or a val_size above 0."
            )
        elif metric.strategy != "last" and metric.name not in COSTS:
            rule = (
                "data.val_size: 0 allows only strategy: last: the best epoch of a training "
                "figure says nothing"
            )
            draft.complain(path, rule, f"Set metric: {{name: {metric.name}, strategy: last}}.")
    if "early_terminate" in draft.values:
        draft.complain(
            path,
            "data.val_size: 0 leaves early_terminate nothing to judge by",
            "Remove early_terminate.",
        )


def check_search(draft: Draft, parameters: Sequence[Parameter]) -> None:
    """What the method allows."""
    method = draft.values.get("method", "grid")
    pareto = len(_metrics(draft)) > 1
    if pareto and method != "optuna":
        draft.complain(("metric",), f"a list of metrics needs method: optuna, got {method}")
    if pareto and "early_terminate" in draft.values:
        draft.complain(
            ("early_terminate",),
            "a search with several metrics cannot stop trials early",
            "Remove it.",
        )
    resources = draft.values.get("resources")
    if (
        resources is not None
        and resources.pack not in (1, "auto")
        and "early_terminate" in draft.values
    ):
        rule = f"pack must be 1 with early_terminate, got {resources.pack}"
        draft.complain(
            ("resources", "pack"), rule, "Trials of one pack could not be stopped alone."
        )
    if method == "grid":
        if draft.raw.get("confirm") is not None:
            draft.complain(
                ("confirm",), "confirm needs method: random or optuna; a grid runs all seeds anyway"
            )
        return
    if "run_cap" not in draft.raw:
        draft.complain(
            ("method",),
            f"method: {method} needs run_cap, the number of arms to try",
            "Add run_cap: 50.",
        )
    if not parameters and not draft.raw.get("parameters"):
        remedy = "List some under `parameters`, or set method: grid."
        draft.complain(("method",), f"method: {method} needs parameters to vary", remedy)


def check_seed_plan(draft: Draft) -> None:
    """What ``seeds: {at_least, at_most, until}`` needs of the rest of the file."""
    if not isinstance(draft.raw.get("seeds"), dict):
        return
    as_list = "or give seeds as a list, e.g. seeds: [0, 1, 2, 3, 4, 5, 6, 7]."
    if draft.raw.get("baseline") is None:
        rule = "seeds until decided needs a baseline: verdicts are about differences to it"
        draft.complain(("seeds",), rule, f"Add e.g. `baseline: ARM`, {as_list}")
    method = draft.values.get("method", "grid")
    if method != "grid":
        rule = f"seeds until decided needs method: grid, got {method}"
        draft.complain(
            ("seeds",),
            rule,
            "A search confirms its best arms on a list of seeds: seeds: [0, 1, 2, 3].",
        )
    elif len(_metrics(draft)) > 1:
        draft.complain(
            ("seeds",), "seeds until decided needs one metric, got a list", f"Name one, {as_list}"
        )
    if draft.raw.get("early_terminate") is not None:
        rule = (
            "seeds until decided cannot be combined with early_terminate: stopped trials "
            "decide nothing"
        )
        draft.complain(("seeds",), rule, f"Remove early_terminate, {as_list}")


# ---- baseline and reference ----------------------------------------------------------------------


def baseline_arms(
    draft: Draft, builder: ArmBuilder, arms: tuple[Arm, ...], sound: bool
) -> tuple[Arm, ...]:
    """The arms that others are compared with; none where the rest of the file is not sound."""
    raw = draft.raw.get("baseline")
    if raw is None:
        return ()
    if isinstance(raw, dict):
        raw = {
            key: value
            for key, value in raw.items()
            if not draft.is_fixed(key) and key not in draft.labels
        }
    elif not isinstance(raw, str):
        raw = show(raw)
    if raw == {}:
        return ()
    draft.values["baseline"] = raw
    if not sound:
        _baseline_alone(draft, raw)
        return ()
    if draft.values.get("method", "grid") != "grid":
        return _searched_baseline(draft, builder, raw)
    return (
        _named_baseline(draft, arms, raw)
        if isinstance(raw, str)
        else _matching_baseline(draft, builder, arms, raw)
    )


def _baseline_alone(draft: Draft, raw: Any) -> None:
    """What can be said about a baseline where the space itself is wrong."""
    arms, parameters = draft.raw.get("arms"), draft.raw.get("parameters")
    if isinstance(raw, dict):
        names = [ARMS, *(parameters if isinstance(parameters, dict) else ())]
        for key in [
            each for each in raw if each not in setting_fields.LEAVES and each not in names
        ]:
            problem = setting_fields.unknown_setting(key, names)
            draft.complain(("baseline", key), problem.rule, problem.remedy)
    elif isinstance(arms, dict) and raw not in arms and not parameters:
        _no_arm(draft, ("baseline",), f"baseline {raw!r} is no arm", raw, list(arms))


def _named_baseline(draft: Draft, arms: tuple[Arm, ...], name: str) -> tuple[Arm, ...]:
    found = [arm for arm in arms if arm.name == name] or [
        arm for arm in arms if arm.choices.get(ARMS) == name
    ]
    if not found:
        names = list(dict.fromkeys(str(arm.choices.get(ARMS, arm.name)) for arm in arms))
        _no_arm(draft, ("baseline",), f"baseline {name!r} is no arm", name, names)
    return tuple(found)


def _no_arm(draft: Draft, path: Path_, rule: str, name: str, names: Sequence[str]) -> None:
    more = f", and {len(names) - 10} more" if len(names) > 10 else ""
    listed = f"Arms: {', '.join(names[:10])}{more}."
    draft.complain(
        path, rule, f"{setting_fields.did_you_mean(name, names[:_SHOWN])} {listed}".strip()
    )


def _matching_baseline(
    draft: Draft, builder: ArmBuilder, arms: tuple[Arm, ...], raw: Mapping[str, Any]
) -> tuple[Arm, ...]:
    before = len(draft.found)
    wanted = _baseline_keys(draft, builder.space, raw)
    found = tuple(arm for arm in arms if matches(arm, wanted))
    if not found and len(draft.found) == before:
        _no_arm(
            draft,
            ("baseline",),
            f"baseline {setting_fields.quoted(raw)} fits no arm",
            "",
            [arm.name for arm in arms],
        )
    return found


def _baseline_keys(draft: Draft, space: Space, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with settings as their types have them; complaints about keys that do not
    exist.
    """
    names = [each.name for each in space.parameters]
    checked = {}
    for key, value in raw.items():
        if key in names:
            checked[key] = value
        elif key in setting_fields.LEAVES:
            checked[key] = draft.value(key, value, ("baseline", key))
        else:
            problem = setting_fields.unknown_setting(key, names)
            draft.complain(("baseline", key), problem.rule, problem.remedy)
    return checked


def _searched_baseline(draft: Draft, builder: ArmBuilder, raw: Any) -> tuple[Arm, ...]:
    """The one configuration that a search compares with: every active parameter must be given."""
    space = builder.space
    before = len(draft.found)
    wanted = {ARMS: raw} if isinstance(raw, str) else _baseline_keys(draft, space, raw)
    if len(draft.found) > before:
        return ()
    try:
        return (builder.arm(space.walk(lambda parameter: _wanted(parameter, wanted))),)
    except ValueError as error:
        remedy = (
            "A search compares with one configuration: give every parameter a value, e.g. "
            + ", ".join(f"{each.name}: ..." for each in space.parameters[:3])
        )
        draft.complain(("baseline",), f"baseline: {error}", remedy + ".")
        return ()


def _wanted(parameter: Parameter, wanted: Mapping[str, Any]) -> Any:
    if parameter.name in wanted:
        value = wanted[parameter.name]
        return show(value) if isinstance(value, list | tuple) else value  # lists are labelled so
    if isinstance(parameter, Choices):
        for choice in parameter.choices:
            if choice.settings and all(
                key in wanted and same(wanted[key], choice.settings[key]) for key in choice.settings
            ):
                return choice.label
    raise ValueError(f"{parameter.name} is not given")


def check_reference(draft: Draft, arms: Sequence[Arm], baseline: Sequence[Arm]) -> None:
    """Whether the published figures are of arms that exist."""
    known = {arm.name for arm in (*arms, *baseline)} | {
        str(arm.choices.get(ARMS, arm.name)) for arm in arms
    }
    raw = draft.raw.get("reference")
    if not isinstance(raw, dict) or not arms or draft.narrowed or "reference" not in draft.values:
        return
    for name in [each for each in raw if each not in known][:_SHOWN]:
        _no_arm(
            draft,
            ("reference", name),
            f"reference {name!r} is no arm",
            name,
            [arm.name for arm in arms],
        )
    for name, figures in raw.items():
        for metric, values in figures.items() if isinstance(figures, dict) else ():
            _check_fractions(draft, ("reference", name, metric), values)


def _check_fractions(draft: Draft, path: Path_, values: Any) -> None:
    """Published accuracies are fractions, like measured ones."""
    numbers = values if isinstance(values, list) else [values]
    above = [value for value in numbers if isinstance(value, (int, float)) and value > 1]
    if str(path[-1]).endswith("acc") and above:
        draft.complain(
            path,
            f"an accuracy is a fraction of at most 1, got {above[0]:g}",
            f"Write {above[0] / 100:g} for {above[0]:g} %.",
        )
