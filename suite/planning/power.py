"""How many seeds the question of a sweep file needs, before anything runs (``--dry-run``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite import analysis, data
from suite.config import SweepSpec
from suite.core.errors import SuiteError
from suite.core.records import TEST_ACC, Looks
from suite.planning.plan import Plan
from suite.storage.journal import FILE_NAME, History, TrialHistory, read

ASSUMED_ERROR = 0.2  # of the baseline on the test images, if the file's `reference` does not tell
_MAX_ARMS = (
    8  # that are simulated; more are scaled by the table, so that it takes about 2 s at most
)
_LARGE = analysis.SEEDS[-1]
_KIND = (
    ("data", "train_size"), ("data", "test_size"), ("data", "image_size"),
    ("model", "arch"), ("model", "weights"), ("train", "epochs"),
)  # fmt: skip
_KIND_TEXT = "same images, sizes, network and epochs"
_MAX_JOURNALS = 20  # of other sweeps that are read, the latest first


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds of a paired difference, and where it comes from.

    Attributes:
        value: in the unit of the tested figure.
        source: a line to print.
    """

    value: float
    source: str


def seed_advice(plan: Plan, folder: Path) -> list[str]:
    """Lines on the smallest difference that the sweep will see; empty if it gives no verdicts.

    Args:
        folder: the sweep's, where there may be finished trials of an earlier launch.
    """
    arms = _compared(plan.spec)
    spread = _spread(plan, folder) if arms else None
    if spread is None:
        return []
    sizes = {seeds: size * spread.value for seeds, size in analysis.seed_power(arms).items()}
    metric = analysis.tested(plan.spec.objective)
    row = ", ".join(f"{_text(size, metric)} with {seeds}" for seeds, size in sizes.items())
    return [
        f"smallest difference seen with {100 * analysis.POWER:.0f} % power: "
        f"{_own(plan.spec, arms, spread.value)}; by number of seeds {row}",
        spread.source,
        _margin(plan.spec, sizes),
    ]


def _compared(spec: SweepSpec) -> int:
    """How many arms will be compared with a baseline."""
    if spec.baseline is None or spec.pareto:
        return 0
    return spec.confirm.top if spec.search else len(spec.arms_list) - len(spec.baseline_arms)


# ---- the spread ----------------------------------------------------------------------------------


def _spread(plan: Plan, folder: Path) -> Spread | None:
    own = _measured(plan.spec, History(read(folder / FILE_NAME)), "this sweep's finished trials")
    return own or _measured_elsewhere(plan, folder) or _lower_bound(plan)


def _measured(spec: SweepSpec, history: History, source: str) -> Spread | None:
    """The spread of the finished trials of a journal; None if too few tell it."""
    search_seed = history.launch.get("search_seed", spec.search_seed)
    trials = [trial for trial in history.in_plan() if trial.trial.seed != search_seed]
    value = analysis.spread(trials, spec.objective)
    if value is None:
        return None
    text = _text(value, analysis.tested(spec.objective))
    return Spread(value, f"at the spread over seeds of {source}: {text}")


def _measured_elsewhere(plan: Plan, folder: Path) -> Spread | None:
    """The spread of the latest finished sweep of the same kind in the storage folder, if any.

    Same kind: the same images and all settings of ``_KIND``. The rest of the recipe may differ.
    """
    journals = [path for path in folder.parent.glob(f"*/{FILE_NAME}") if path.parent != folder]
    journals.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for journal in journals[:_MAX_JOURNALS]:
        try:
            history = History(read(journal))
        except SuiteError:  # a damaged journal of another sweep is of no concern here
            continue
        if _is_same_kind(plan, list(history.in_plan())):
            source = f"the finished sweep {journal.parent.name!r} ({_KIND_TEXT})"
            if spread := _measured(plan.spec, history, source):
                return spread
    return None


def _is_same_kind(plan: Plan, trials: Sequence[TrialHistory]) -> bool:
    """Whether these trials have all ended, and their baseline is like the plan's but for its
    recipe.
    """
    baselines = [trial for trial in trials if trial.entry.get("baseline")]
    if not baselines or not all(trial.ended for trial in trials):
        return False
    config = next(iter(plan.spec.baseline_arms)).config
    entry = baselines[0].entry
    return entry.get("digests", {}).get("data") == plan.dataset(config).digest and _kind(
        entry.get("config", {})
    ) == _kind(config.model_dump(mode="json"))


def _kind(config: Mapping[str, Any]) -> list[Any]:
    return [config.get(section, {}).get(name) for section, name in _KIND]


def _lower_bound(plan: Plan) -> Spread | None:
    """Of two unpaired test accuracies, each with variance error / 2N over seeds (Jordan 2023)."""
    if analysis.tested(plan.spec.objective) != TEST_ACC:
        return None
    images = _test_images(plan)
    published = _published_error(plan.spec)
    error = ASSUMED_ERROR if published is None else published
    value = float((2 * error / (2 * images)) ** 0.5)
    origin = "assumed" if published is None else "from `reference`"
    return Spread(
        value,
        f"note: at a spread of {_text(value, TEST_ACC)}, a lower bound: √2 · √(error / 2N) with an "
        f"error of {100 * error:.1f} % ({origin}) and N = {images:,} test images (arXiv "
        "2304.01910); "
        "the spread of a finished sweep of the same kind takes its place",
    )


def _test_images(plan: Plan) -> int:
    config = next(iter(plan.spec.baseline_arms)).config
    images = plan.dataset(config)
    parts = data.split(images.train_labels, images.test_labels, config.data, images.classes)
    return len(parts.test)


def _published_error(spec: SweepSpec) -> float | None:
    """The test error of the baseline that the file's ``reference`` gives."""
    for arm in spec.baseline_arms:
        figures = spec.reference.get(arm.name, {})
        value = next((value for name, value in figures.items() if name == TEST_ACC), None)
        if isinstance(value, tuple):
            value = sum(value) / len(value)
        if isinstance(value, float) and 0 < value < 1:
            return 1 - value
    return None


# ---- sizes ---------------------------------------------------------------------------------------


def _own(spec: SweepSpec, arms: int, spread: float) -> str:
    """What this file's seeds see, at the level of their looks."""
    seeds = len(spec.confirm_seeds if spec.search else spec.seeds)
    level = analysis.look_level(Looks(planned=spec.looks), arms)
    size = _size(seeds, arms, level)
    metric = analysis.tested(spec.objective)
    known = _text(size * spread, metric) if size < float("inf") else "none"
    at_most = "at most " if spec.looks else ""
    return f"{known} with this file's {at_most}{seeds} seed{'' if seeds == 1 else 's'}"


def _size(seeds: int, arms: int, level: float) -> float:
    """In standard deviations of a difference; infinite if the seeds can give no verdict."""
    tabulated = analysis.seed_power(arms)
    if level == analysis.FIRST_LOOK and seeds in tabulated:
        return tabulated[seeds]
    size = analysis.detectable(seeds, min(arms, _MAX_ARMS), level=level)
    return size * tabulated[_LARGE] / analysis.seed_power(min(arms, _MAX_ARMS))[_LARGE]


def _margin(spec: SweepSpec, sizes: dict[int, float]) -> str:
    """From how many seeds on a difference of the margin is seen."""
    margin = spec.metrics[0].margin
    enough = [seeds for seeds, size in sizes.items() if size <= margin]
    count = f"at most {min(enough)} seeds" if enough else f"more than {max(sizes)} seeds"
    return (
        f"a true difference of the margin, {_text(margin, analysis.tested(spec.objective))}, "
        f"needs {count}"
    )


def _text(size: float, metric: str) -> str:
    return f"{100 * size:.2f} points" if metric.endswith("acc") else f"{size:.4f} {metric}"
