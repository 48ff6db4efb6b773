"""The main table: one row per arm, and the published figures beside the measured ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from suite import analysis
from suite.journal import TrialHistory
from suite.records import TRAIN_ACC, VAL_ACC, Objective
from suite.report.parts import Table
from suite.report.stored import Rules
from suite.report.words import count, figure, half_width, heading, points, seconds
from suite.space import short_names, show

Row = Mapping[Any, Any]
PARAMETERS = ("trainable", "parameters")


def arms_frame(
    items: Sequence[TrialHistory],
    trials: pd.DataFrame,
    rules: Rules,
    sizes: Mapping[str, tuple[int, int]],
) -> pd.DataFrame:
    """One row per arm, best first, confirmed ones before all others: all figures over seeds, and the verdict."""
    planned = Counter(item.trial.arm for item in items)
    frame = analysis.arms_frame(trials, rules.objective)
    frame.insert(1, "planned", [planned[arm] for arm in frame["arm"]])
    compared = analysis.compare(items, rules.objective, rules.margin, rules.confirmed)
    for more in (compared, analysis.epochs_to_baseline(items, course(items, rules)), analysis.training_seconds(items)):
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
        values = {item.trial.arm: item.trial.settings.get(name) for item in items}
        frame.insert(1 + place, column, [show(values[arm]) for arm in frame["arm"]])
    if rules.confirmed is None:
        return frame
    first = [arm not in rules.confirmed for arm in frame["arm"]]
    return frame.iloc[sorted(range(len(first)), key=lambda row: first[row])].reset_index(drop=True)


def varying(items: Iterable[TrialHistory]) -> list[str]:
    """The settings in which the arms differ."""
    values: dict[str, set[str]] = {}
    arms = {item.trial.arm: item.trial.settings for item in items}
    for name in dict.fromkeys(name for each in arms.values() for name in each):
        values[name] = {show(each.get(name)) for each in arms.values()}
    return [name for name, found in values.items() if len(found) > 1]


def columns(settings: Iterable[str]) -> dict[str, str]:
    """Setting -> its column of the arms' table; free names of the sweep file may be words of that table."""
    return {name: name if "." in name or name in ("augment", "head") else f"setting {name}" for name in settings}


def course(items: Iterable[TrialHistory], rules: Rules) -> Objective:
    """What "how fast" is asked of: validation accuracy where it was measured, else what the sweep optimised."""
    has = any(VAL_ACC in record.metrics for item in items for record in item.curve)
    return Objective(VAL_ACC) if has else rules.objective


# ---- as text ---------------------------------------------------------------------------------------------------------


def main_table(arms: pd.DataFrame, rules: Rules) -> Table:
    """The main table. The first column is the arm, the last the verdict; what is the same for all stands below."""
    rows = arms.to_dict("records")
    cells_of: dict[str, list[str]] = {}
    cells_of["Seeds"] = [_seeds(row) for row in rows]
    wanted = dict.fromkeys((rules.objective.name, TRAIN_ACC, VAL_ACC, rules.tested, "test/acc"))
    shown = [name for name in sorted(wanted, key=_order) if name in arms]
    cells_of |= {_title(name): [_mean(row, name) for row in rows] for name in shown}
    cells_of |= _compared(arms, rows, rules)
    optional = {name: cells for name, cells in _cost(arms, rows).items() if any(cell != "–" for cell in cells)}
    same = {name: cells[0] for name, cells in optional.items() if len(rows) > 1 and len(set(cells)) == 1}
    cells_of |= {name: cells for name, cells in optional.items() if name not in same}
    caption = "The same for all arms: " + "; ".join(f"{name} {cell}" for name, cell in same.items()) + "."
    cells = list(zip(*cells_of.values(), strict=True))
    return Table(
        "arms",
        ("Arm", *cells_of, "Verdict"),
        tuple((str(row["arm"]), *line, str(row["verdict"])) for row, line in zip(rows, cells, strict=True)),
        caption if same else "",
        told=True,
    )


def settings_table(arms: pd.DataFrame, settings: Sequence[str]) -> Table | None:
    """The settings in which the arms differ; None where the arms' names say them already."""
    rows = arms.to_dict("records")
    if not settings or all(_says(row, settings) for row in rows):
        return None
    place, short = columns(settings), short_names(settings)
    lines = tuple((str(row["arm"]), *(str(row[place[name]]) for name in settings)) for row in rows)
    return Table("settings", ("Arm", *(short[name] for name in settings)), lines, "What the arms differ in.")


def _says(row: Row, settings: Sequence[str]) -> bool:
    """Whether an arm's name has all that varies."""
    name = str(row["arm"])
    place = columns(settings)
    values = {tail: str(row[place[key]]) for key, tail in short_names(settings).items()}
    return all(f"{tail}={value}" in name or value in ("none", name) for tail, value in values.items())


def _order(metric: str) -> tuple[int, int]:
    split, _, name = metric.partition("/")
    return ("train", "val", "test").index(split) if split in ("train", "val", "test") else 3, int(name != "acc")


def _title(metric: str) -> str:
    return heading(metric).replace(", %", " (error), %") if metric.endswith("/acc") else heading(metric)


def _seeds(row: Row) -> str:
    parts = [str(row["seeds"]) if row["seeds"] == row["planned"] else f"{row['seeds']} of {row['planned']}"]
    parts += [f"{row[word]} {text}" for word, text in (("failed", "failed"), ("stopped", "stopped early")) if row[word]]
    return ", ".join(parts)


def _mean(row: Row, name: str) -> str:
    if pd.isna(row[name]):
        return "–"
    text = figure(name, row[name]) + half_width(name, row[f"{name} low"], row[f"{name} high"])
    error = 100 - float(figure(name, row[name]))  # of the rounded figure, so that the two add up
    return f"{text} ({error:.2f})" if name.endswith("/acc") else text


def _compared(arms: pd.DataFrame, rows: Sequence[Row], rules: Rules) -> dict[str, list[str]]:
    unit = "percentage points" if rules.tested.endswith("acc") else rules.tested
    found: dict[str, list[str]] = {}
    if (arms["against"] != "").any():
        found[f"Difference to the baseline, {unit}"] = [difference(row, rules.tested) for row in rows]
    if arms["p"].notna().any():
        found["Adjusted p"] = [p_value(row) for row in rows]
    return found


def difference(row: Row, test: str) -> str:
    """A difference with its interval."""
    if pd.isna(row["difference"]):
        return "–"
    text = points(test, row["difference"])
    if pd.isna(row["difference low"]):
        return text
    return f"{text} [{points(test, row['difference low'])}, {points(test, row['difference high'])}]"


def p_value(row: Row) -> str:
    """An adjusted p."""
    return "–" if pd.isna(row["p"]) else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


def _cost(arms: pd.DataFrame, rows: Sequence[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if (arms["of baseline"] > 0).any():
        found["Epochs to the baseline’s best"] = [_epochs(row) for row in rows]
    found["Time to train"] = [_time(row) for row in rows]
    if PARAMETERS[0] in arms:
        found |= {
            "Trainable parameters": [
                "–" if pd.isna(row["trainable"]) else f"{count(row['trainable'])} of {count(row['parameters'])}"
                for row in rows
            ],
        }
    return found


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


# ---- published figures -----------------------------------------------------------------------------------------------


def reference_table(arms: pd.DataFrame, trials: pd.DataFrame, rules: Rules) -> Table | None:
    """The sweep file's ``reference`` beside what was measured; None where it has none for any arm."""
    known = {str(row["arm"]): row for row in arms.to_dict("records")}
    rows = []
    for arm, published in rules.reference.items():
        note = str(published.get("note", ""))
        for name, value in published.items() if arm in known else ():
            if name != "note" and isinstance(value, (int, float)):
                rows.append((arm, *_beside(name, float(value), known[arm], _measured(trials, arm, name)), note))
                note = ""
    if not rows:
        return None
    noted = any(row[-1] for row in rows)
    headings = ("Arm", "Figure", "Published", "Measured", "Difference", "Note")
    return Table(
        "published",
        headings if noted else headings[:-1],
        tuple(row if noted else row[:-1] for row in rows),
        "Published figures are as the sweep file gives them; they come without seeds, so that no difference to them "
        "is tested. Data, budget and machine may differ from those here.",
    )


def _measured(trials: pd.DataFrame, arm: str, name: str) -> list[float]:
    """A figure of each finished trial of an arm."""
    if name not in trials:
        return []
    chosen = trials[(trials["arm"] == arm) & (trials["status"] == "finished")]
    return [float(value) for value in chosen[name].dropna()]


def _beside(name: str, value: float, row: Row, measured: Sequence[float]) -> tuple[str, str, str, str]:
    if name == "time_s":
        known = not pd.isna(row["seconds"])
        spent = seconds(row["seconds"]) if known else "–"
        return "Time to train", seconds(value), spent, f"× {row['seconds'] / value:.2f}" if known and value else "–"
    mean, low, high = analysis.interval(measured)
    if mean is None:
        return heading(name), figure(name, value), "–", "–"
    shown = figure(name, mean) + half_width(name, low, high)
    return heading(name), figure(name, value), shown, points(name, mean - value)
