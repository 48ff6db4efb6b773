"""Whether the suite and ``benchmarks.plain_loop`` reach the same accuracy on 5,000 CIFAR-10 images.

Both train torchvision's ResNet-18 at 32 pixels on the same images with the same settings, the suite
through ``python -m suite.sweep``. Compared is the accuracy on 5,000 test images after the last
epoch, arm by arm.

    python -m benchmarks.plain_loop --results loop.jsonl --epochs 10 --seeds 0 1 2
        --augment none crop+flip rotation color_jitter
    python -m benchmarks.plain_loop_sweep loop.jsonl --epochs 10 --seeds 3

The second command writes links to the images, a sweep file and the sweep's journal to ``--folder``.
Launched again, it continues.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import yaml
from scipy import stats

from benchmarks import plain_loop
from benchmarks.record import keep_table
from suite.storage.journal import FILE_NAME, History, read

IMAGES = 5000
NAME = "plain-loop"
MARGIN = 3.0
"""Points. A remainder batch of 8 cost up to 5.9 points here (crop+flip), so the margin must be
smaller; three seeds a side cannot resolve much less. Fixed before the suite's side was run.
"""

Accuracies = Mapping[str, Sequence[float]]
"""Of each arm, the accuracy of each seed, in percent."""


def link_images(source: Path, folder: Path) -> None:
    """Links in ``folder`` to the images that the plain loop trains and tests on."""
    for part in ("train", "test"):
        groups = [sorted(path.iterdir()) for path in sorted((source / part).iterdir())]
        files = [file for group in groups for file in group]
        labels = torch.tensor([label for label, group in enumerate(groups) for _ in group])
        for row in plain_loop.subset_rows(labels, IMAGES).tolist():
            link = folder / part / files[row].parent.name / files[row].name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(files[row].resolve())


def sweep_file(epochs: int, seeds: Sequence[int], settings: Mapping[str, object]) -> str:
    """The sweep, as YAML. It has no validation images, as the loop has none."""
    train = {"epochs": epochs, "batch_size": 128, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
    train |= {"weight_decay": 5e-4, "schedule": "cosine", "precision": "bf16", **settings}
    strengths = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
    return yaml.safe_dump(
        {
            "name": NAME,
            "method": "grid",
            "metric": {"name": "train/loss", "goal": "minimize", "strategy": "last"},
            "trial": {
                "data": {"name": "folder", "root": "images", "val_size": 0},
                "model": {"arch": "resnet18"},
                "train": train,
            },
            "parameters": {"augment": {"values": ["none", "crop+flip", "rotation", "jitter"]}},
            "augmentations": {"jitter": {"type": "color_jitter", **strengths}},
            "seeds": list(seeds),
            "resources": {"cpu": 1},
            "activations": False,
            "checkpoints": {"keep": 0},
        },
        sort_keys=False,
    )


def accuracies_of_suite(folder: Path) -> Accuracies:
    """From the journal of a finished sweep."""
    by_arm: dict[str, list[float]] = {arm: [] for arm in plain_loop.AUGMENTS}
    for trial in History(read(folder / "runs" / NAME / FILE_NAME)).in_plan():
        augment = trial.entry["choices"]["augment"].replace("jitter", "color_jitter")
        by_arm[augment].append(100 * trial.curve[-1].metrics["test/acc"])
    return by_arm


def accuracies_of_loop(
    rows: Path, epochs: int, seeds: Sequence[int], last_batch: str
) -> Accuracies:
    """From the rows of ``benchmarks.plain_loop`` at the settings of the sweep."""
    by_arm: dict[str, list[float]] = {arm: [] for arm in plain_loop.AUGMENTS}
    settings = {
        "train_size": IMAGES,
        "test_size": IMAGES,
        "epochs": epochs,
        "last_batch": last_batch,
    }
    settings |= {"optimizer": "sgd", "nesterov": False, "decay": "all", "lr": None}
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        if row["seed"] in seeds and all(row[name] == value for name, value in settings.items()):
            by_arm[row["augment"]].append(100 * row["test_acc"])
    return by_arm


def compare(suite: Accuracies, loop: Accuracies) -> list[list[str]]:
    """A row per arm: both means ± SD, the difference with a 90 % interval, and the verdict.

    A 90 % interval inside the margin is two one-sided tests at 5 % (Schuirmann 1987). The variance
    is pooled over arms and sides.
    """
    groups = [np.asarray(side[arm]) for arm in suite for side in (suite, loop)]
    freedom = sum(len(group) - 1 for group in groups)
    variance = sum((len(group) - 1) * group.var(ddof=1) for group in groups) / freedom
    rows = []
    for arm in suite:
        ours, theirs = np.asarray(suite[arm]), np.asarray(loop[arm])
        error = np.sqrt(variance * (1 / len(ours) + 1 / len(theirs)))
        half = stats.t.ppf(0.95, freedom) * error
        difference = ours.mean() - theirs.mean()
        inside = abs(difference) + half < MARGIN
        verdict = "equivalent" if inside else "not shown"
        if abs(difference) - half > 0:
            verdict += ", but differs"
        interval = f"{difference:+.2f} [{difference - half:+.2f}, {difference + half:+.2f}]"
        rows.append([arm, describe(theirs), describe(ours), interval, verdict])
    return rows


def describe(values: np.ndarray) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f} (n = {len(values)})"


@click.command()
@click.argument("loop", type=click.Path(path_type=Path, exists=True))
@click.option("--folder", type=click.Path(path_type=Path), default=Path("scratch/plain-loop"))
@click.option("--data", type=click.Path(path_type=Path), default=os.environ.get("SUITE_CIFAR10"))
@click.option("--epochs", default=10)
@click.option("--seeds", "count", default=3, help="how many, from 0")
@click.option("--last-batch", default="drop", help="of both sides")
def main(loop: Path, folder: Path, data: Path, epochs: int, count: int, last_batch: str) -> None:
    """Run the sweep, then keep the table that compares it with the rows in LOOP."""
    if not (folder / "images").exists():
        link_images(data.expanduser(), folder / "images")
    seeds = range(count)
    text = sweep_file(epochs, seeds, {"last_batch": last_batch})
    (folder / "sweep.yaml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "suite.sweep",
        "sweep.yaml",
        "--no-report",
        "--max-concurrent",
        "1",
    ]
    subprocess.run(command, cwd=folder, check=True)
    rows = compare(accuracies_of_suite(folder), accuracies_of_loop(loop, epochs, seeds, last_batch))
    header = (
        "augment",
        "plain loop, %",
        "suite, %",
        "suite - loop [90 %]",
        f"margin {MARGIN:g} points",
    )
    notes = (
        f"ResNet-18 of torchvision, {IMAGES:,} training and {IMAGES:,} test images, {epochs} "
        "epochs, last epoch, "
        f"batch 128, last_batch {last_batch}, SGD lr .05, momentum .9, weight decay 5e-4, cosine, "
        "bf16. ± is the SD "
        "over seeds. Intervals: t, unpaired, variance pooled over arms and sides; one inside the "
        "margin is an "
        "equivalence test at 5 % for that arm.\n\nThe sweep file:\n\n```yaml\n" + text + "```"
    )
    keep_table(NAME, "The suite beside a plain PyTorch loop", header, rows, notes)


if __name__ == "__main__":
    main()
