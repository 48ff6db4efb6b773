"""Tables of ``benchmarks.plain_loop``'s rows: what an epoch's last, smaller batch does to accuracy.

    python -m benchmarks.plain_loop --results rows.jsonl --epochs 4 --train-size 5000 2600
        --augment none crop+flip --optimizer sgd adam --last-batch drop spread keep --seeds 0 1 2
    python -m benchmarks.last_batch rows.jsonl            # prints the tables
    python -m benchmarks.last_batch rows.jsonl --keep   # also to benchmarks/results, with rows

Accuracy is of the last epoch, in percent; ± is the standard deviation over seeds. Differences are
paired by seed (equal initial weights and equal order of images), with a 95 % t-interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.record import keep_table, markdown

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


def table(rows: pd.DataFrame) -> list[list[str]]:
    """Cells: accuracies of each setting, and the paired differences."""
    lines = []
    for cell, part in rows.groupby(CELL, sort=False):
        wide = part.pivot_table(index="seed", columns="last_batch", values="acc")
        by_seed = wide.reindex(columns=MODES)
        columns = [spread(part.loc[part.last_batch == mode, "acc"]) for mode in MODES]
        texts = [interval(pair) for pair in _pairs(by_seed)]
        lines.append([*map(str, cell), *columns, *texts])
    return lines


def _pairs(by_seed: pd.DataFrame) -> list[np.ndarray]:
    return [(by_seed[first] - by_seed[second]).dropna().to_numpy() for first, second in PAIRS]


def pooled(rows: pd.DataFrame) -> list[list[str]]:
    """Cells: differences averaged over settings; the seed is the unit of the interval.

    Only seeds that all settings of a group have count.
    """
    wide = rows.pivot_table(index=[*CELL, "seed"], columns="last_batch", values="acc")
    wide = wide.reindex(columns=MODES).reset_index()
    groups = [("all", wide)]
    for name in CELL:
        groups += [(f"{name} {value}", part) for value, part in wide.groupby(name, sort=False)]
    return [
        [name, *(interval(_seed_means(part, *pair)) for pair in PAIRS)] for name, part in groups
    ]


def _seed_means(wide: pd.DataFrame, first: str, second: str) -> np.ndarray:
    by_seed = (wide[first] - wide[second]).dropna().groupby(wide["seed"])
    cells = len(wide.groupby(CELL))
    return by_seed.mean()[by_seed.size() == cells].to_numpy()


def notes(rows: pd.DataFrame) -> str:
    """What the rows are, and the pooled table."""
    arm = rows.iloc[0]
    return (
        f"{arm.arch} of torchvision at 32 px, batch {arm.batch_size}, {arm.epochs} epochs, last "
        "epoch, "
        f"{arm.test_size:,} test images, {arm.precision}; SGD lr .05, momentum .9, weight decay "
        "5e-4; "
        "Adam lr 1e-3; cosine per step. 5,000 images leave a remainder of 8, 2,600 one of 40. ± "
        "is the "
        "SD over seeds; differences are paired by seed, in points, with a 95 % t-interval. "
        "`benchmarks/plain_loop.py` made the rows; they are in the CSV beside this file.\n\n"
        "Averaged over settings (unit: the seed; seeds that all settings have):\n\n"
        + markdown(("settings", *(f"{first} - {second}" for first, second in PAIRS)), pooled(rows))
    )


def main() -> None:
    """Print the tables; with ``--keep`` also write them, and the rows as CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.last_batch", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", type=Path)
    parser.add_argument("--keep", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    raw = pd.read_json(options.rows, lines=True)
    rows = raw.assign(acc=100 * raw.test_acc)
    header = (*CELL, *MODES, *(f"{first} - {second}" for first, second in PAIRS))
    if not options.keep:
        print(markdown(header, table(rows)), notes(rows), sep="\n\n")
        return
    title = "What an epoch's remainder batch does to accuracy"
    file = keep_table("last-batch", title, header, table(rows), notes(rows))
    raw.to_csv(file.with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
