"""Tables of ``benchmarks.plain_loop``'s rows: what an epoch's last, smaller batch does to accuracy.

    python -m benchmarks.last_batch rows.jsonl rows.csv   # prints Markdown, writes the rows as CSV

Accuracy is of the last epoch, in percent; ± is the standard deviation over seeds. Differences are
paired by seed (equal initial weights and equal order of images), with a 95 % t-interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

CELL = ["train_size", "optimizer", "augment"]
MODES = ["keep", "drop", "spread"]
PAIRS = (("drop", "spread"), ("keep", "drop"))


def interval(differences: np.ndarray) -> str:
    """Mean difference and its 95 % t-interval."""
    count = len(differences)
    if count == 0:
        return "-"
    mean = differences.mean()
    if count == 1:
        return f"{mean:+.2f} (n = 1)"
    half = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}], n = {count}"


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation."""
    return f"{values.mean():.2f} ± {values.std():.2f} (n = {len(values)})" if len(values) else "-"


def table(rows: pd.DataFrame) -> list[str]:
    """Markdown lines: accuracies of the cells, and the paired differences."""
    lines = [
        "| images | optimizer | augment | keep | drop | spread | drop - spread | keep - drop |",
        "|--:|---|---|--:|--:|--:|--:|--:|",
    ]
    for cell, part in rows.groupby(CELL, sort=False):
        by_seed = part.pivot_table(index="seed", columns="last_batch", values="acc").reindex(columns=MODES)
        columns = [spread(part.loc[part.last_batch == mode, "acc"]) for mode in MODES]
        texts = [interval(pair) for pair in _pairs(by_seed)]
        lines.append("| " + " | ".join([*map(str, cell), *columns, *texts]) + " |")
    return lines


def _pairs(by_seed: pd.DataFrame) -> list[np.ndarray]:
    return [(by_seed[first] - by_seed[second]).dropna().to_numpy() for first, second in PAIRS]


def pooled(rows: pd.DataFrame) -> list[str]:
    """Markdown lines: differences averaged over cells; the seed is the unit of the interval.

    Only seeds that all cells of a group have count.
    """
    wide = rows.pivot_table(index=[*CELL, "seed"], columns="last_batch", values="acc")
    wide = wide.reindex(columns=MODES).reset_index()
    groups = [("all", wide)]
    for name in CELL:
        groups += [(f"{name} {value}", part) for value, part in wide.groupby(name, sort=False)]
    lines = ["| cells | drop - spread | keep - drop |", "|---|--:|--:|"]
    for name, part in groups:
        texts = [interval(_seed_means(part, *pair)) for pair in PAIRS]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines


def _seed_means(wide: pd.DataFrame, first: str, second: str) -> np.ndarray:
    by_seed = (wide[first] - wide[second]).dropna().groupby(wide["seed"])
    cells = len(wide.groupby(CELL))
    return by_seed.mean()[by_seed.size() == cells].to_numpy()


def main() -> None:
    """Print the tables and write the CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.last_batch", description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("csv", type=Path, nargs="?")
    options = parser.parse_args()
    rows = pd.read_json(options.rows, lines=True)
    if options.csv:
        rows.to_csv(options.csv, index=False)
    rows["acc"] = 100 * rows.pop("test_acc")
    print("\n".join([*table(rows), "", *pooled(rows)]))


if __name__ == "__main__":
    main()
