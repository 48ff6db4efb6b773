"""The main table: one row per arm, and the published figures beside the measured ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite import analysis
from suite.config.space import short_names, show
from suite.core.records import TRAIN_ACC, VAL_ACC, Objective
from suite.report.elements import Table
from suite.report.formatting import (
    count,
    figure,
    heading,
    p_value,
    percentage_points,
    rounded,
    seconds,
    with_interval,
)
from suite.report.image_error import ImageError
from suite.report.runs import Rules
from suite.report.verdicts import verdict_cell, worst_case
from suite.storage.journal import TrialHistory

Row = Mapping[Any, Any]
PARAMETERS = ("trainable", "parameters")
WINS, DUNNETT, WORST = "P(better)", "If normal (Dunnett)", "Worst case"


def arms_frame(
    items: Sequence[TrialHistory],
    trials: pd.DataFrame,
    rules: Rules,
    sizes: Mapping[str, tuple[int, int]],
    images: Mapping[str, ImageError] | None = None,
    planned_trials: int = 0,
    removed: Sequence[TrialHistory] = (),
) -> pd.DataFrame:
    """One row per arm, best first: all figures over seeds, and the verdict.

    Arms of a search that were not confirmed, and arms that lost seeds, come after all others.

    Args:
        trials: one row per trial, of ``items``.
        images: arm -> what the choice of test images does to its difference.
        planned_trials: of the sweep; those that have no run yet are missing in ``items``.
        removed: trials of seeds that the file no longer has.
    """
    judged = analysis.without_search_seed(items, rules.confirmed, rules.search_seed)
    if len(judged) < len(items):
        trials = analysis.trials_frame(judged, rules.objective)
    planned = Counter(history.trial.arm for history in judged)
    frame = analysis.arms_frame(trials, rules.objective)
    frame.insert(1, "planned", [planned[arm] for arm in frame["arm"]])
    compared = analysis.compare(
        judged,
        rules.objective,
        rules.margin,
        rules.confirmed,
        rules.looks,
        planned_trials - (len(items) - len(judged)),
        removed,
    )
    for more in (
        compared,
        analysis.epochs_to_baseline(items, convergence_objective(items, rules)),
        analysis.training_seconds(items),
    ):
        frame = frame.merge(more, on="arm", how="left", sort=False)
    for name in [str(name) for name in frame if str(name).endswith("/acc")]:
        error = name.replace("/acc", "/error")
        frame[error], frame[f"{error} low"], frame[f"{error} high"] = (
            1 - frame[name], 1 - frame[f"{name} high"], 1 - frame[f"{name} low"]
        )  # fmt: skip
    if sizes:
        for place, name in enumerate(PARAMETERS):
            frame[name] = [sizes[arm][place] if arm in sizes else None for arm in frame["arm"]]
    for place, (name, column) in enumerate(columns(varying(items)).items()):
        values = {history.trial.arm: history.trial.settings.get(name) for history in items}
        frame.insert(1 + place, column, [show(values[arm]) for arm in frame["arm"]])
    _add_image_errors(frame, images or {})
    return _ordered(frame, [*removed, *judged], rules)


def _add_image_errors(frame: pd.DataFrame, images: Mapping[str, ImageError]) -> None:
    if images:
        known = [images.get(arm) for arm in frame["arm"]]
        frame["test images"] = [error.half if error else float("nan") for error in known]
        frame["test images exact"] = [error is not None and error.exact for error in known]


def _ordered(frame: pd.DataFrame, items: Sequence[TrialHistory], rules: Rules) -> pd.DataFrame:
    """The arms that may lead first; ``lost`` counts lost seeds of arms without a comparison too."""
    confirmed = None if rules.confirmed is None else set(rules.confirmed)
    candidates = [
        history for history in items if confirmed is None or history.trial.arm in confirmed
    ]
    lost = analysis.lost_seeds(candidates, analysis.baselines(candidates))
    frame["lost"] = [len(lost.get(arm, ())) for arm in frame["arm"]]
    behind = [(confirmed is not None and arm not in confirmed, arm in lost) for arm in frame["arm"]]
    return frame.iloc[sorted(range(len(behind)), key=behind.__getitem__)].reset_index(drop=True)


def varying(items: Iterable[TrialHistory]) -> list[str]:
    """The settings in which the arms differ."""
    values: dict[str, set[str]] = {}
    arms = {history.trial.arm: history.trial.settings for history in items}
    for name in dict.fromkeys(name for settings in arms.values() for name in settings):
        values[name] = {show(settings.get(name)) for settings in arms.values()}
    return [name for name, shown in values.items() if len(shown) > 1]


def columns(settings: Iterable[str]) -> dict[str, str]:
    """Setting -> its column; a free name of the sweep file may equal a column of the table."""
    return {
        name: name if "." in name or name in ("augment", "head") else f"setting {name}"
        for name in settings
    }


def convergence_objective(items: Iterable[TrialHistory], rules: Rules) -> Objective:
    """The metric of convergence: validation accuracy if it was measured, else the objective."""
    has = any(VAL_ACC in record.metrics for history in items for record in history.curve)
    return Objective(VAL_ACC) if has else rules.objective


# ---- as text -------------------------------------------------------------------------------------


def main_table(arms: pd.DataFrame, rules: Rules) -> Table:
    """The main table: accuracies, the comparison with the baseline, the verdict last.

    Costs that are the same for all arms stand below.
    """
    rows = arms.to_dict("records")
    cells_of: dict[str, list[str]] = {}
    cells_of["Seeds"] = [_seeds(row) for row in rows]
    wanted = dict.fromkeys((rules.objective.name, TRAIN_ACC, VAL_ACC, rules.tested, "test/acc"))
    shown = [name for name in sorted(wanted, key=_order) if name in arms]
    cells_of |= {_title(name): [_mean(row, name) for row in rows] for name in shown}
    cells_of |= _compared(arms, rows, rules)
    _, same = _costs(arms)
    cells = list(zip(*cells_of.values(), strict=True))
    return Table(
        "arms",
        ("Arm", *cells_of, "Verdict"),
        tuple(
            (str(row["arm"]), *line, verdict_cell(row))
            for row, line in zip(rows, cells, strict=True)
        ),
        "The same for all arms: " + "; ".join(f"{name} {cell}" for name, cell in same.items()) + "."
        if same
        else "",
        ends_in_verdict=True,
        wraps=(WINS, DUNNETT, WORST),
    )


def cost_table(arms: pd.DataFrame) -> Table | None:
    """Convergence and cost of each arm; None if they are equal for all arms, or unknown."""
    differing, _ = _costs(arms)
    if not differing:
        return None
    lines = zip(arms["arm"], *differing.values(), strict=True)
    return Table("costs", ("Arm", *differing), tuple(tuple(map(str, line)) for line in lines))


def _costs(arms: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Costs that differ between arms, by column; and those that are the same for all."""
    rows = arms.to_dict("records")
    known = {
        name: cells
        for name, cells in _cost(arms, rows).items()
        if any(cell != "–" for cell in cells)
    }
    same = {
        name: cells[0] for name, cells in known.items() if len(rows) > 1 and len(set(cells)) == 1
    }
    return {name: cells for name, cells in known.items() if name not in same}, same


def settings_table(arms: pd.DataFrame, settings: Sequence[str]) -> Table | None:
    """The settings in which the arms differ; None where the arms' names say them already."""
    rows = arms.to_dict("records")
    if not settings or all(_says(row, settings) for row in rows):
        return None
    place, short = columns(settings), short_names(settings)
    lines = tuple((str(row["arm"]), *(str(row[place[name]]) for name in settings)) for row in rows)
    return Table(
        "settings", ("Arm", *(short[name] for name in settings)), lines, "What the arms differ in."
    )


def _says(row: Row, settings: Sequence[str]) -> bool:
    """Whether an arm's name has all that varies."""
    name = str(row["arm"])
    place = columns(settings)
    values = {tail: str(row[place[key]]) for key, tail in short_names(settings).items()}
    return all(
        f"{tail}={value}" in name or value in ("none", name) for tail, value in values.items()
    )


def _order(metric: str) -> tuple[int, int]:
    split, _, name = metric.partition("/")
    return ("train", "val", "test").index(split) if split in ("train", "val", "test") else 3, int(
        name != "acc"
    )


def _title(metric: str) -> str:
    return (
        heading(metric).replace(", %", " (error), %")
        if metric.endswith("/acc")
        else heading(metric)
    )


def _seeds(row: Row) -> str:
    parts = [
        str(row["seeds"])
        if row["seeds"] == row["planned"]
        else f"{row['seeds']} of {row['planned']}"
    ]
    parts += [
        f"{row[word]} {text}"
        for word, text in (("failed", "failed"), ("stopped", "stopped early"))
        if row[word]
    ]
    return ", ".join(parts)


def _mean(row: Row, name: str) -> str:
    if pd.isna(row[name]):
        return "–"
    text = with_interval(name, row[name], row[f"{name} low"], row[f"{name} high"])
    error = 100 - float(figure(name, row[name]))  # of the rounded figure, so that the two add up
    return f"{text} ({error:.2f})" if name.endswith("/acc") else text


def _compared(arms: pd.DataFrame, rows: Sequence[Row], rules: Rules) -> dict[str, list[str]]:
    """Columns of the comparison with the baseline: those that have anything to say."""
    unit = "percentage points" if rules.tested.endswith("acc") else rules.tested
    test = rules.tested
    untested = bool(arms["p"].isna().all())
    if not (arms["against"] != "").any():
        return {}
    columns = {
        f"Difference to the baseline, {unit}": [difference(row, test) for row in rows],
        "Test images": [_image_error(row, test) for row in rows],
        "Adjusted p": [adjusted_p(row) for row in rows],
        WINS: [_wins(row) for row in rows],
        DUNNETT: [_dunnett(row, test, alone=untested) for row in rows],
        WORST: [worst_case(row, test) for row in rows],
    }
    first = next(iter(columns))
    return {
        name: cells
        for name, cells in columns.items()
        if name == first or any(cell != "–" for cell in cells)
    }


def difference(row: Row, test: str) -> str:
    """A difference, with its simultaneous interval if it was tested."""
    if pd.isna(row["difference"]):
        return "–"
    text = percentage_points(test, row["difference"])
    if row["verdict"] == analysis.UNFINISHED or pd.isna(row["p"]) or pd.isna(row["difference low"]):
        return text  # an interval would be a verdict
    low, high = (percentage_points(test, row[f"difference {end}"]) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def adjusted_p(row: Row) -> str:
    """An adjusted p."""
    if pd.isna(row["p"]) or row["verdict"] == analysis.UNFINISHED:
        return "–"
    return p_value(row["p"])


def _image_error(row: Row, test: str) -> str:
    """``± 0.42``, or ``≤ 0.61`` for an upper bound."""
    half = row.get("test images", float("nan"))
    if pd.isna(half):
        return "–"
    return f"{'±' if row['test images exact'] else '≤'} {figure(test, half)}"


def _wins(row: Row) -> str:
    if pd.isna(row["wins"]):
        return "–"
    share, low, high = (rounded(row[name], 2) for name in ("wins", "wins low", "wins high"))
    return f"{share} [{low}, {high}]"


def _dunnett(row: Row, test: str, alone: bool) -> str:
    """Dunnett's verdict; with its interval if no arm has another one."""
    if pd.isna(row["dunnett low"]) or row["verdict"] == analysis.UNFINISHED:
        return "–"
    low, high = (percentage_points(test, row[f"dunnett {end}"]) for end in ("low", "high"))
    word, qualified, _ = str(row["dunnett verdict"]).partition(" on the ")
    word += " (of finished seeds)" if qualified else ""
    return f"{word} [{low}, {high}]" if alone else word


def _cost(arms: pd.DataFrame, rows: Sequence[Row]) -> dict[str, list[str]]:
    by_heading: dict[str, list[str]] = {}
    if (arms["of baseline"] > 0).any():
        by_heading["Epochs to the baseline’s best"] = [_epochs(row) for row in rows]
    by_heading["Time to train"] = [_time(row) for row in rows]
    if PARAMETERS[0] in arms:
        by_heading |= {
            "Trainable parameters": [
                "–"
                if pd.isna(row["trainable"])
                else f"{count(row['trainable'])} of {count(row['parameters'])}"
                for row in rows
            ],
        }
    return by_heading


def _epochs(row: Row) -> str:
    if not row["of baseline"]:
        return "–"
    if not row["reach baseline"]:
        return "not reached"
    text = f"{row['epochs to baseline']:.1f}"
    few = row["reach baseline"] < row["of baseline"]
    return f"{text} ({row['reach baseline']} of {row['of baseline']})" if few else text


def _time(row: Row) -> str:
    return "–" if pd.isna(row["seconds"]) else seconds(row["seconds"])
