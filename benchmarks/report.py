"""How long ``suite.report`` takes for a large sweep, and how much memory, as a process of its own.

The runs are made up, but they lie in a real store as a sweep's tracker writes them: 25 arms on 8
seeds, 50 epochs of 12 metrics, a ``predictions.npz`` of 10,000 images in each run, sheets of
activations in each, pictures in the parent.

    python -m benchmarks.report [--trials 200] [--epochs 50] [--repeat 5] [--short]
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.record import keep, spread
from suite.core.records import METRICS
from suite.tracking import MlflowStore, Projection, default_artifacts

SEEDS, IMAGES, CLASSES, SHEETS = 8, 10_000, 10, 11


@click.command()
@click.option("--trials", default=200, show_default=True)
@click.option("--epochs", default=50, show_default=True)
@click.option(
    "--repeat", default=5, show_default=True, help="Reports made, after one that is not counted."
)
@click.option("--short", is_flag=True, help="Once.")
def main(trials: int, epochs: int, repeat: int, short: bool) -> None:
    """Make up a sweep, make its report, print seconds and GiB."""
    repeat = 1 if short else repeat
    with tempfile.TemporaryDirectory(prefix="suite-bench-") as name:
        folder = Path(name)
        print(f"making up {trials} trials of {epochs} epochs", flush=True)
        fill(folder, trials, epochs)
        seconds, pages = [], 0
        for turn in range(repeat + 1):
            took, size = report(folder)
            if turn:
                seconds.append(took)
                pages = size
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rows = [
        ("Wall time of `python -m suite.report`", f"{spread(seconds, 's')} (goal: under 20 s)"),
        (
            "Peak memory of its process",
            f"{peak:.2f} GiB, the highest of {repeat + 1} (goal: under 1 GiB)",
        ),
        ("The page", f"{pages / 1e6:.1f} MB"),
    ]
    keep(
        "report-short" if short else "report",
        f"A report of {trials} trials x {epochs} epochs",
        rows,
    )


def fill(folder: Path, trials: int, epochs: int) -> None:
    """A store in ``folder`` with a finished sweep, projected entry by entry as a launch does it."""
    random = np.random.default_rng(0)
    uri = f"sqlite:///{folder}/mlflow.db"
    tracker = Projection(MlflowStore("bench", uri, default_artifacts(uri), "journal"), folder)
    number = 0

    def add(kind: str, **fields: object) -> dict[str, object]:
        nonlocal number
        number += 1
        return {"seq": number, "ts_ms": 1_700_000_000_000 + number, "kind": kind, **fields}

    text = (
        "name: bench\nmetric: {name: val/acc, margin: 0.005}\ntrial: {data: {name: digits}, "
        "model: {arch: resnet20}}"
    )
    tracker.apply(
        add(
            "launch",
            text=text,
            file="bench.yaml",
            overrides=[],
            description="What does a report cost?",
            environment={"python": sys.version},
            command="python -m suite.sweep bench.yaml",
            params={"method": "grid", "metric": "val/acc"},
        )
    )
    (folder / "activations").mkdir()
    files = sheets(folder / "activations")
    for trial in range(trials):
        arm, seed = divmod(trial, SEEDS)
        about = {
            "id": f"t{trial}",
            "arm": f"lr={arm}",
            "seed": seed,
            "name": f"lr={arm} seed={seed}",
        }
        tracker.apply(
            add(
                "trial",
                **about,
                settings={"train.lr": arm},
                config={"train": {"lr": arm}},
                baseline=arm == 0,
                numerics={"precision": "fp32"},
                objective={"name": "val/acc", "goal": "maximize"},
            )
        )
        tracker.apply(add("start", id=about["id"]))
        skill = 0.5 + arm / 100 + random.normal(0, 0.01)
        curve = skill * (1 - np.exp(-np.arange(1, epochs + 1) / 8)) + random.normal(
            0, 0.005, epochs
        )
        tracker.epochs([
            add("epoch", id=about["id"], epoch=epoch, metrics=dict.fromkeys(METRICS, float(value)))
            for epoch, value in enumerate(curve, start=1)
        ])  # fmt: skip
        labels = np.arange(IMAGES) % CLASSES
        logits = random.normal(size=(IMAGES, CLASSES)) + 2 * skill * np.eye(CLASSES)[labels]
        np.savez(
            folder / "predictions.npz",
            index=np.arange(IMAGES),
            labels=labels,
            logits=logits.astype(np.float32),
        )
        tracker.apply(add("file", id=about["id"], path="predictions.npz"))
        shares = {f"dead/layer{depth}": float(depth) / 100 for depth in range(17)}
        tracker.apply(
            add(
                "images",
                id=about["id"],
                key="activations",
                folder="activations",
                files=files,
                step=epochs,
                metrics=shares,
            )
        )
        tracker.apply(
            add(
                "end",
                id=about["id"],
                status="finished",
                epochs=epochs,
                best_epoch=epochs,
                best_value=float(curve[-1]),
                parameters_trainable=9_000,
                parameters_total=9_000,
            )
        )
    images = random.integers(0, 255, (2_000, 32, 32, 3), dtype=np.uint8)
    index, classes = np.arange(2_000), np.array([f"c{n}" for n in range(CLASSES)])
    np.savez_compressed(
        folder / "test_images.npz",
        images=images,
        index=index,
        labels=index % CLASSES,
        classes=classes,
    )
    (folder / "augmentations.png").write_bytes(noise(1_500, 1_800, random))
    for name in ("test_images.npz", "augmentations.png"):
        tracker.apply(add("file", id=None, path=name))
    tracker.apply(add("close", status="finished", counts={"finished": trials}))


def sheets(folder: Path) -> list[str]:
    """Files that stand for a trial's sheets of channels, as large as those of a ResNet-18; their
    names.
    """
    random = np.random.default_rng(1)
    names = [f"{step:03d}.png" for step in range(SHEETS)]
    for name in names:
        (folder / name).write_bytes(noise(560, 560, random))
    listed = [
        {"step": step, "layer": f"layer{step}", "title": f"layer{step}"} for step in range(SHEETS)
    ]
    dead = {f"layer{depth}": [depth, 100] for depth in range(17)}
    facts = {"image": "test image 0 (c0)", "dead": dead, "sheets": listed}
    (folder / "activations.json").write_text(json.dumps(facts))
    return names


def noise(width: int, height: int, random: np.random.Generator) -> bytes:
    """A PNG of coarse grey noise, which does not compress to nothing."""
    small = random.integers(0, 16, (height // 4, width // 4), dtype=np.uint8) * 16
    file = io.BytesIO()
    Image.fromarray(small.repeat(4, 0).repeat(4, 1)).save(file, format="png")
    return file.getvalue()


def report(folder: Path) -> tuple[float, int]:
    """Seconds that the command takes, and the bytes of its page."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "suite.report", "bench"]
    subprocess.run(command, cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - started, (folder / "reports" / "bench" / "index.html").stat().st_size


if __name__ == "__main__":
    main()
