"""A transfer sweep of 24 arms: freeze depth 7 and 8 x three heads x four rates of dropout, beside
the usual loop.

torchvision's resnet18 at 32 px, BatchNorm of frozen layers frozen too, 10 epochs of SGD at batch
128, two trials at once on a core each. Three ways are timed, each in processes of its own, in turn:

- peer: the loop of torchvision's fine-tuning tutorial under plain Tune, without tracking and
checkpoints
  (``benchmarks/peers/transfer.py``). Its cost does not depend on head, rate or number of the epoch,
  so some arms and epochs are run and scaled up, a trial's set-up by arms alone; the table says
  which.
- suite, run each time: our own data path and kernels with ``train.cache_prefix: off``; scaled up
alike.
- suite: as it comes, all 12 arms of each depth, all 10 epochs, tracked, checkpoints kept. Computing
the features is
  part of its time.

    python -m benchmarks.transfer [--images 5000] [--repeat 5] [--case "depth 8"] [--short]

Time is that from the first trial's start to the last one's end; Ray's start is beside it. With kept
features nothing of the prefix is left to compute but once: a trial is its set-up, its head and its
tracking. The gate is tests/test_prefix.py: equal numbers, bit for bit, with and without kept
features.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import yaml

from benchmarks.augmentation_sweep import write_images
from benchmarks.peers.transfer import HEADS, RATES
from benchmarks.processes import middle, ratio, timed
from benchmarks.record import gate, keep_table
from suite.storage import journal
from suite.system import torchvision_import

ARMS, EPOCHS, VAL, TEST = len(HEADS) * len(RATES), 10, 500, 500
CASES = {"depth 7": (7, False), "depth 8": (8, False), "depth 7, crop+flip": (7, True)}
GOALS = {"depth 7": "3 / 1.9", "depth 8": "30", "depth 7, crop+flip": "1.8"}


@dataclass(frozen=True)
class Turn:
    """Seconds of the trials of one depth, scaled up where not all ran, and of the whole process
    as it ran.
    """

    trials_s: float
    wall_s: float


@click.command()
@click.option("--images", default=5000, show_default=True, help="Training images.")
@click.option("--repeat", default=5, show_default=True)
@click.option(
    "--peer-arms", default=4, show_default=True, help="Arms of the ways that are scaled up."
)
@click.option("--peer-epochs", default=2, show_default=True, help="Their epochs.")
@click.option(
    "--case", "chosen", type=click.Choice(list(CASES)), multiple=True, help="Default: all."
)
@click.option("--short", is_flag=True, help="Depth 8 alone, 1,000 images, once.")
def main(
    images: int, repeat: int, peer_arms: int, peer_epochs: int, chosen: tuple[str, ...], short: bool
) -> None:
    """Run the three ways in turn and compare."""
    cases = {case: CASES[case] for case in (("depth 8",) if short else chosen or CASES)}
    images, repeat, peer_arms = (1000, 1, 2) if short else (images, repeat, peer_arms)
    with tempfile.TemporaryDirectory(prefix="suite-transfer-") as name:
        folder = Path(name)
        write_images(folder / "images", images + VAL, os.environ.get("SUITE_CIFAR10"))
        torch.manual_seed(0)
        torch.save(
            torchvision_import.torchvision.models.resnet18().state_dict(), folder / "weights.pth"
        )
        rows = [
            row
            for case, (depth, augment) in cases.items()
            for row in measured(
                case, folder, depth, augment, images, repeat, peer_arms, peer_epochs
            )
        ]
    header = [
        "What",
        "peer",
        "suite, run each time",
        "suite",
        "ratio: peer / suite",
        "ratio: each time / suite",
        "goal",
    ]
    text = (
        f"{images:,} training, {VAL} validation, {TEST} test images; n = {repeat} of each, in "
        'turn. Peer and "run each '
        f'time": {peer_arms} of {ARMS} arms, {peer_epochs} of {EPOCHS} epochs, scaled up. '
        f"Gate {gate('tests/test_prefix.py')}.\n\n" + (__doc__ or "").partition("\n")[2].strip()
    )
    about = (
        ["short"]
        if short
        else [case.translate({ord(" "): "-", ord(","): None, ord("+"): "-"}) for case in chosen]
    )
    question = "-".join(["transfer", *about])
    keep_table(question, "A transfer sweep of frozen layers, heads and dropout", header, rows, text)


def measured(
    case: str,
    folder: Path,
    depth: int,
    augment: bool,
    images: int,
    repeat: int,
    arms: int,
    epochs: int,
) -> list[list[str]]:
    """The rows of one depth."""
    ways: dict[str, Callable[[Path], Turn]] = {
        "peer": partial(peer, depth=depth, augment=augment, arms=arms, epochs=epochs),
        "each": partial(
            suite,
            depth=depth,
            augment=augment,
            images=images,
            arms=arms,
            epochs=epochs,
            cache="off",
        ),
        "suite": partial(
            suite,
            depth=depth,
            augment=augment,
            images=images,
            arms=ARMS,
            epochs=EPOCHS,
            cache="auto",
        ),
    }
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for number in range(repeat):
        for way, run in ways.items():
            turns[way].append(run(folder / f"{depth}{'a' if augment else ''}-{way}-{number}"))
            print(f"{case}, {way}: {turns[way][-1]}", flush=True)
    seconds = {way: [turn.trials_s for turn in found] for way, found in turns.items()}
    walls = [middle([turn.wall_s for turn in found]) for found in turns.values()]
    return [
        [
            f"{case}: {ARMS} arms x {EPOCHS} epochs, s",
            *map(middle, seconds.values()),
            ratio(seconds["peer"], seconds["suite"]),
            ratio(seconds["each"], seconds["suite"]),
            GOALS[case],
        ],
        [f"{case}: whole process as run, start-up included, s", *walls, "", "", ""],
    ]


def peer(folder: Path, depth: int, augment: bool, arms: int, epochs: int) -> Turn:
    """The usual loop."""
    options = [
        "--depth",
        str(depth),
        "--arms",
        str(arms),
        "--epochs",
        str(epochs),
        *(["--augment"] if augment else []),
    ]
    given = (".", "../images", "../weights.pth", "--val", str(VAL))
    wall = timed(folder, "benchmarks.peers.transfer", *given, *options).seconds
    spans = [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]
    assert len(spans) == arms, f"{len(spans)} of {arms} trials ended"
    seconds = max(span["ended"] for span in spans) - min(span["begun"] for span in spans)
    epochs_s = sum(span["ended"] - span["ready"] for span in spans)
    share = epochs_s / sum(span["ended"] - span["begun"] for span in spans)
    return Turn(scaled(seconds, share, arms, epochs), wall)


def scaled(seconds: float, share: float, arms: int, epochs: int) -> float:
    """Seconds of all arms and epochs, of so many of which ``seconds`` were measured, ``share``
    of them in epochs.
    """
    return seconds * (ARMS / arms) * (1 - share + share * EPOCHS / epochs)


def suite(
    folder: Path, depth: int, augment: bool, images: int, arms: int, epochs: int, cache: str
) -> Turn:
    """The sweep file."""
    folder.mkdir(parents=True)
    (folder / "transfer.yaml").write_text(
        yaml.safe_dump(sweep_file(depth, augment, images, arms, epochs, cache))
    )
    wall = timed(folder, "suite.sweep", "transfer.yaml", "--no-report").seconds
    entries = journal.read(folder / "runs" / "transfer" / journal.FILE_NAME)
    ends = [entry for entry in entries if entry["kind"] == "end"]
    assert [entry["status"] for entry in ends] == ["finished"] * arms, ends
    kept = all("features kept" in str(entry["prefix"]) for entry in ends)
    assert kept == (cache == "auto"), ends[0]["prefix"]
    starts = [entry for entry in entries if entry["kind"] == "start"]
    seconds = (
        max(entry["ts_ms"] for entry in ends) - min(entry["ts_ms"] for entry in starts)
    ) / 1000
    epochs_s = sum(
        entry["metrics"]["time/epoch_s"] for entry in entries if entry["kind"] == "epoch"
    )
    trials_s = (
        sum(entry["ts_ms"] for entry in ends) / 1000
        - sum(entry["ts_ms"] for entry in starts) / 1000
    )
    return Turn(scaled(seconds, epochs_s / trials_s, arms, epochs), wall)


def sweep_file(
    depth: int, augment: bool, images: int, arms: int, epochs: int, cache: str
) -> dict[str, Any]:
    """So many arms of one depth."""
    heads = [{"hidden": hidden, "dropout": rate} for hidden in HEADS for rate in RATES][:arms]
    return {
        "name": "transfer",
        "description": "Which head, and how much dropout, on frozen layers?",
        "trial": {
            "data": {"name": "folder", "root": "../images", "val_size": VAL, "train_size": images},
            "model": {
                "arch": "resnet18",
                "weights": "../weights.pth",
                "freeze_depth": depth,
                "freeze_batchnorm": True,
            },
            "augment": "crop+flip" if augment else "none",
            "train": {
                "epochs": epochs,
                "batch_size": 128,
                "lr": 0.05,
                "precision": "fp32",
                "cache_prefix": cache,
                "nesterov": True,
                "last_batch": "keep",
                "evaluate_test": "every",  # as the peer
            },
        },
        "arms": {
            f"head{number}": {
                "model.head.hidden": head["hidden"],
                "model.head.dropout": head["dropout"],
            }
            for number, head in enumerate(heads)
        },
        "seeds": [0],
        "activations": False,
    }


if __name__ == "__main__":
    main()
