"""The augmentation sweep, end to end: ``python -m suite.sweep`` and the same work made of stock
parts.

Eight arms, one seed, 2,560 training, 256 validation and 500 test images of 32 x 32 pixels,
torchvision's resnet18, batch 128, 2 epochs of SGD, two trials at once on a core each, tracked in
sqlite, checkpoints kept. Time is that of the whole process with all caches empty: imports, Ray's
start, decoding, the choice of numerics, training, tracking. The images are those of the folder that
SUITE_CIFAR10 names, else made up.

    python -m benchmarks.augmentation_sweep [--repeat 5] [--workers 0|2] [--short]

The peer (``benchmarks/peers/augmentation_sweep.py``) reuses its workers, which is not Tune's
default but faster, and writes a checkpoint after each epoch; the suite writes one when 30 seconds
have passed, and at a trial's end, synced and verified; it also stores predictions and registers the
champion. Compared is the suite without what the peer has not: activation sheets and the report
(``activations=false --no-report``); beside it stands the plain command with both. The limit is the
trials' pure training time on two cores: (images / images per second) summed over the epochs of all
trials / 2.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml
from PIL import Image

from benchmarks.control import finished_runs, mlflow_client
from benchmarks.peers.augmentation_sweep import ARMS, EXPERIMENT, VAL
from benchmarks.processes import Span, middle, ratio, timed
from benchmarks.record import FAILS, keep_table
from suite.storage import journal

TRAIN, TEST, CLASSES, SIDE, SLOTS = 2560, 500, 10, 32, 2
WHOLE = "suite with its report, n = 1"
# As the training loop of the peer; weight decay acts on all parameters in both.
PEER_SETTINGS = {"nesterov": True, "last_batch": "keep", "evaluate_test": "every"}
BAND = 0.05  # largest difference of the two mean test accuracies over arms, as a fraction


@dataclass
class Turn:
    """One run of a sweep.

    Attributes:
        wall_s: the whole process.
        before_s, trials_s, after_s: its parts: until the first trial's start, until the last one's
            end, until it ended.
        limit_s: pure training time over the slots.
        img_per_s: of one trial, the median.
        accuracy: mean test accuracy over arms after the last epoch, a fraction.
        finished: trials that finished and are tracked with all their epochs.
    """

    wall_s: float
    before_s: float
    trials_s: float
    after_s: float
    limit_s: float
    img_per_s: float
    accuracy: float
    finished: int


@click.command()
@click.option("--repeat", default=5, show_default=True)
@click.option("--epochs", default=2, show_default=True)
@click.option(
    "--workers", type=int, help="The peer's DataLoader workers. Default: the faster of 0 and 2."
)
@click.option("--short", is_flag=True, help="Two arms, 512 images, one epoch, once, no report.")
def main(repeat: int, epochs: int, workers: int | None, short: bool) -> None:
    """Run both in turn and compare."""
    size = TRAIN // 5 if short else TRAIN
    arms, repeat, epochs, workers = (2, 1, 1, 0) if short else (len(ARMS), repeat, epochs, workers)
    with tempfile.TemporaryDirectory(prefix="suite-augmentation-") as name:
        folder = Path(name)
        source = os.environ.get("SUITE_CIFAR10")
        write_images(folder / "images", size + VAL, source)
        tried = ""
        if workers is None:
            workers, tried = choose_workers(folder, size)
            print(tried, flush=True)
        kinds: dict[str, Callable[[Path], Turn]] = {
            "peer": partial(peer, size=size, epochs=epochs, arms=arms, workers=workers),
            "suite": partial(
                suite,
                size=size,
                epochs=epochs,
                arms=arms,
                options=["--no-report", "activations=false"],
            ),
        }
        if not short:
            kinds[WHOLE] = partial(suite, size=size, epochs=epochs, arms=arms)
        turns: dict[str, list[Turn]] = {kind: [] for kind in kinds}
        for number in range(repeat):
            for place, (kind, run) in enumerate(kinds.items()):
                if number and kind == WHOLE:
                    continue
                turns[kind].append(run(folder / f"{place}-{number}"))
                print(f"{kind}: {turns[kind][-1]}", flush=True)
    about = "CIFAR-10" if source else "made-up images"
    notes = (__doc__ or "").partition("\n")[2].strip()
    text = f"n = {repeat}, in turn, on {about}. {tried} {gate(turns, arms, short)}\n\n{notes}"
    title = f"The augmentation sweep: {arms} arms x {epochs} epochs on {size:,} images"
    question = "augmentation-sweep-short" if short else "augmentation-sweep"
    keep_table(question, title, ["What", *kinds, "ratio"], table(turns, arms), text)


def table(turns: dict[str, list[Turn]], arms: int) -> list[list[str]]:
    """The rows: figures of each kind, and the suite against the peer."""

    def row(name: str, what: str, digits: int = 1) -> list[str]:
        figures = {kind: [getattr(turn, what) for turn in found] for kind, found in turns.items()}
        theirs, *ours = figures.values()
        ratios = " / ".join(ratio(theirs[: len(own)], own) for own in ours) if ", s" in name else ""
        return [name, *(middle(values, digits) for values in figures.values()), ratios]

    fewest = [min(turn.finished for turn in found) for found in turns.values()]
    return [
        row("whole process, s (goal: 3 times less)", "wall_s"),
        row("before the first trial's start, s", "before_s"),
        row("first trial's start to last one's end, s", "trials_s"),
        row("after the last trial's end, s", "after_s"),
        row("limit: pure training on 2 slots, s", "limit_s"),
        row("images per second of a trial", "img_per_s"),
        row("mean test accuracy over arms", "accuracy", 3),
        ["trials finished and tracked", *(f"{few} of {arms}" for few in fewest), ""],
    ]


def gate(turns: dict[str, list[Turn]], arms: int, short: bool) -> str:
    """A sentence: whether every trial of each turn finished, and the accuracies are alike (four
    steps tell nothing).
    """
    every = [turn for found in turns.values() for turn in found]
    means = [statistics.mean(turn.accuracy for turn in found) for found in turns.values()]
    whole = all(turn.finished == arms for turn in every)
    alike = short or max(means) - min(means) <= BAND
    said = (
        "not compared" if short else f"at most {100 * (max(means) - min(means)):.1f} points apart"
    )
    fine = "passes" if whole and alike else FAILS
    return (
        f"Gate {fine}: trials {'all there' if whole else 'missing'}; accuracies {said} "
        f"({100 * BAND:.0f} allowed)."
    )


# ---- images --------------------------------------------------------------------------------------


def write_images(folder: Path, train: int, source: str | None) -> None:
    """``train/<class>/*.png`` and ``test/<class>/*.png``: the first of each class of ``source``,
    or made up.
    """
    for part, count in (("train", train), ("test", TEST)):
        shares = [count // CLASSES + (label < count % CLASSES) for label in range(CLASSES)]
        if source:
            link_images(Path(source).expanduser() / part, folder / part, shares)
        else:
            make_images(folder / part, shares, part == "test")


def link_images(source: Path, folder: Path, shares: Sequence[int]) -> None:
    """Symbolic links to the first images of each class."""
    for there, share in zip(
        sorted(path for path in source.iterdir() if path.is_dir()), shares, strict=True
    ):
        (folder / there.name).mkdir(parents=True)
        for file in sorted(there.iterdir())[:share]:
            (folder / there.name / file.name).symlink_to(file.resolve())


def make_images(folder: Path, shares: Sequence[int], test: bool) -> None:
    """Noise over a pattern of 4 x 4 fields for each class, which a network can learn."""
    patterns = (
        np.random.default_rng(0).integers(64, 192, (CLASSES, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    )
    random = np.random.default_rng(1 + test)
    for label, share in enumerate(shares):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(share):
            pixels = patterns[label] + random.normal(0, 60, (SIDE, SIDE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / f"class{label}" / f"{number:04d}.png"
            )


# ---- the two -------------------------------------------------------------------------------------


def choose_workers(folder: Path, size: int) -> tuple[int, str]:
    """The faster of 0 and 2 DataLoader workers, on two arms for one epoch; and what was
    measured.
    """
    seconds = {
        workers: peer(
            folder / f"workers{workers}", size, epochs=1, arms=2, workers=workers
        ).trials_s
        for workers in (0, 2)
    }
    best = min(seconds, key=lambda workers: seconds[workers])
    tried = " and ".join(f"{took:.1f} s with {workers}" for workers, took in seconds.items())
    return best, f"DataLoader workers of the peer: {best} (two arms, one epoch: {tried})."


def peer(folder: Path, size: int, epochs: int, arms: int, workers: int) -> Turn:
    """Stock parts."""
    options = (
        "--epochs",
        str(epochs),
        "--arms",
        str(arms),
        "--workers",
        str(workers),
        "--concurrent",
        str(SLOTS),
    )
    span = timed(folder, "benchmarks.peers.augmentation_sweep", ".", "../images", *options)
    client = mlflow_client(folder)
    runs = finished_runs(client, EXPERIMENT)
    speeds = [
        [metric.value for metric in client.get_metric_history(run.info.run_id, "time/img_per_s")]
        for run in runs
    ]
    started, ended = (
        min(run.info.start_time for run in runs),
        max(run.info.end_time for run in runs),
    )
    accuracy = statistics.mean(run.data.metrics["test/acc"] for run in runs)
    return turn(span, started, ended, speeds, accuracy, size, epochs)


def suite(folder: Path, size: int, epochs: int, arms: int, options: Sequence[str] = ()) -> Turn:
    """``python -m suite.sweep`` of a generated file."""
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump(sweep_file(size, epochs, arms), sort_keys=False)
    )
    span = timed(folder, "suite.sweep", "sweep.yaml", "--max-concurrent", str(SLOTS), *options)
    entries = journal.read(folder / "runs" / EXPERIMENT / journal.FILE_NAME)
    kinds = {
        kind: [entry for entry in entries if entry["kind"] == kind]
        for kind in ("start", "end", "epoch")
    }
    client = mlflow_client(folder)
    runs = [run for run in finished_runs(client, EXPERIMENT) if "suite.trial" in run.data.tags]
    tracked = [client.get_metric_history(run.info.run_id, "test/acc") for run in runs]
    speeds = [
        [
            entry["metrics"]["time/img_per_s"]
            for entry in kinds["epoch"]
            if entry["id"] == run.data.tags["suite.trial"]
        ]
        for run, metrics in zip(runs, tracked, strict=True)
        if len(metrics) == epochs
    ]
    started, ended = (
        min(entry["ts_ms"] for entry in kinds["start"]),
        max(entry["ts_ms"] for entry in kinds["end"]),
    )
    accuracy = statistics.mean(
        max(metrics, key=lambda metric: metric.step).value for metrics in tracked
    )
    return turn(span, started, ended, speeds, accuracy, size, epochs)


def turn(
    span: Span,
    started: int,
    ended: int,
    speeds: list[list[float]],
    accuracy: float,
    size: int,
    epochs: int,
) -> Turn:
    """A turn, from the first start and the last end of a trial, in milliseconds, and each
    epoch's images per second.
    """
    whole = [epochs_of for epochs_of in speeds if len(epochs_of) == epochs]
    every = [speed for epochs_of in whole for speed in epochs_of]
    limit = sum(size / speed for speed in every) / SLOTS
    before, between, after = (
        started / 1000 - span.started,
        (ended - started) / 1000,
        span.ended - ended / 1000,
    )
    return Turn(
        span.seconds, before, between, after, limit, statistics.median(every), accuracy, len(whole)
    )


def sweep_file(size: int, epochs: int, arms: int) -> dict[str, Any]:
    """The sweep."""
    return {
        "name": EXPERIMENT,
        "description": "Which augmentation helps?",
        "metric": {"name": "val/acc", "goal": "maximize"},
        "trial": {
            "data": {"name": "folder", "root": "../images", "train_size": size, "val_size": VAL},
            "model": {"arch": "resnet18"},
            "train": {"epochs": epochs, "batch_size": 128, "lr": 0.05, **PEER_SETTINGS},
        },
        "parameters": {"augment": {"values": list(ARMS[:arms])}},
        "seeds": [0],
        "baseline": {"augment": "none"},
        "resources": {"cpu": 1},
    }


if __name__ == "__main__":
    main()
