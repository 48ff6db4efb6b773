"""On one GPU: ResNet-18 from scratch, what augmentation takes of a step, and 32 small trials three
ways.

- scratch: ``resnet18_cifar``, batch 128, crop+flip, 50 epochs on the images of SUITE_CIFAR10 (else
made-up ones, whose
  accuracy means nothing); seconds of training in all and to 94 % test accuracy, and the share of
  the rate of a large matrix product. Goals: under 60 s, 25 %.
- augmentation: flip+crop+color_jitter+cutout of one batch on the device, beside a whole step. Goal:
under 2 %.
- 32 trials of torchvision's resnet18 at 32 px, 2,560 images, 2 epochs, from the first one's start
to the last one's
  end, as sweeps of processes of their own: one after the other (``gpu: 1``), eight at once on an
  eighth of the GPU each (``gpu: 0.125``), and ``gpu: auto``, which joins as many as pay into one
  network. Goal: 4 times one after the other.

    python -m benchmarks.gpu [--device cuda] [--repeat 5] [--short]

NOT RUN ON A GPU YET: no machine that this was written on has one. ``--device cpu --short`` tries
the script itself.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import yaml

from benchmarks.augmentation_sweep import write_images
from benchmarks.processes import middle, ratio, timed
from benchmarks.record import keep_table
from benchmarks.training import NETS, gemm
from suite import augment, data
from suite.config import DataConfig, ResourcesConfig, TrialConfig
from suite.core.records import Numerics, Objective, Trial
from suite.planning import measure
from suite.storage import journal
from suite.training.evaluation import clock
from suite.training.setup import prepare_trainer
from suite.training.trainer import Trainer

BATCH, SIDE, CLASSES, GOAL_ACC = 128, 32, 10, 0.94
SMALL = {"images": 2560, "epochs": 2, "trials": 32}
WAYS: dict[str, float | str] = {"one by one": 1, "eight at once": 0.125, "auto": "auto"}


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--repeat", default=5, show_default=True, help="Turns of the 32 trials.")
@click.option("--short", is_flag=True, help="One epoch on 1,024 images; four small trials, once.")
def main(device: str, repeat: int, short: bool) -> None:
    """Measure all three."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException(
            "no GPU here that torch can use; --device cpu --short tries the script itself"
        )
    rows = [*scratch(device, short), augmented(device)]
    with tempfile.TemporaryDirectory(prefix="suite-gpu-") as folder:
        rows += small_trials(Path(folder), 1 if short else repeat, 4 if short else SMALL["trials"])
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else "no GPU: tries the script, measures nothing"
    )
    text = f"Device: {name}.\n\n{(__doc__ or '').partition(chr(10))[2].strip()}"
    question = "gpu-short" if short or device == "cpu" else "gpu"
    keep_table(question, "On one GPU", ["What", "Figure", "Goal"], rows, text)


def scratch(device: str, short: bool) -> list[list[str]]:
    """ResNet-18 with the CIFAR stem."""
    epochs, size = (1, 1024) if short else (50, 50_000)
    source = os.environ.get("SUITE_CIFAR10")
    settings = {
        "data": {"name": "folder", "root": source, "val_size": 0, "train_size": size}
        if source
        else {"val_size": 0},
        "model": {"arch": "resnet18_cifar"},
        "augment": "crop+flip",
        "train": {
            "epochs": epochs,
            "batch_size": BATCH,
            "lr": 0.1,
            "nesterov": True,
            "evaluate_test": "every",
        },
    }
    config = TrialConfig.model_validate(settings)
    dataset = data.load(DataConfig.model_validate(settings["data"])) if source else made_up(size)
    numerics = measure.choose_numerics(
        [(config, CLASSES, SIDE)],
        ResourcesConfig(cpu=2),
        measure.Room(1, None, (2,), device),
        print,
    )
    seconds, reached, speeds = 0.0, "never", []
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(config, dataset, numerics, Path(folder))
        while not training.complete:
            record = training.train_epoch()
            assert record is not None
            seconds += record.metrics["time/epoch_s"]
            speeds.append(record.metrics["time/img_per_s"])
            if record.metrics["test/acc"] >= GOAL_ACC and reached == "never":
                reached = f"{seconds:.1f} s"
            print(
                f"epoch {record.epoch}: test/acc {record.metrics['test/acc']:.4f}, {seconds:.1f} s",
                flush=True,
            )
    kind = torch.bfloat16 if numerics.precision == "bf16" else torch.float32
    share = (
        float(np.median(speeds))
        * 6e6
        * NETS["resnet18_cifar"][0]
        / max(gemm(kind, n, device) for n in (2048, 8192))
    )
    return [
        [
            f"scratch, {epochs} epochs, training and evaluation, s",
            f"{seconds:.1f}, n = 1",
            "under 60",
        ],
        [f"scratch, to {GOAL_ACC:.0%} test accuracy", reached, ""],
        [f"scratch, share of a {numerics.precision} matrix product", f"{share:.0%}", "25 %"],
    ]


def prepared(
    config: TrialConfig, dataset: data.Dataset, numerics: Numerics, folder: Path
) -> Trainer:
    """A trial of ``config`` with seed 0."""
    trial = Trial("bench", "bench", 0, "bench", config=config.model_dump(mode="json"))
    objective = Objective("train/loss", "minimize", "last")
    return prepare_trainer(
        trial, dataset, objective=objective, numerics=numerics, folder=folder, cache=folder
    )


def made_up(size: int) -> data.Dataset:
    """Noise."""
    random = np.random.default_rng(0)
    train, test = (
        random.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8) for count in (size, 1000)
    )
    names = tuple(map(str, range(CLASSES)))
    return data.Dataset.of(
        "noise", names, (train, np.arange(size) % CLASSES), (test, np.arange(1000) % CLASSES)
    )


def augmented(device: str) -> list[str]:
    """The share of a step of ``resnet18_cifar`` that augmentation would take, one after the
    other.
    """
    config = TrialConfig.model_validate(
        {
            "model": {"arch": "resnet18_cifar"},
            "data": {"val_size": 0},
            "augment": "flip+crop+color_jitter+cutout",
            "train": {"epochs": 100, "batch_size": BATCH},
        }
    )
    numerics = measure.choose_numerics(
        [(config, CLASSES, SIDE)],
        ResourcesConfig(cpu=2),
        measure.Room(1, None, (2,), device),
        lambda text: None,
    )
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(config, made_up(4 * BATCH), numerics, Path(folder))
        pipeline: augment.Pipeline = training.images.augment
        images, labels = training.images.train.take(torch.arange(BATCH))
        pipeline(images, labels, torch.Generator())
        started = clock(training.device)
        for step in range(20):
            pipeline(images, labels, torch.Generator().manual_seed(step))
        alone = (clock(training.device) - started) / 20
        training.train_epoch()
        record = training.train_epoch()
        assert record is not None
        step_s = BATCH / record.metrics["time/img_per_s"]
    return [
        "augmentation, share of a step",
        f"{alone / step_s:.1%} ({1e3 * alone:.2f} of {1e3 * step_s:.2f} ms)",
        "2 %",
    ]


def small_trials(folder: Path, repeat: int, trials: int) -> list[list[str]]:
    """The same trials in three ways, in turn."""
    write_images(folder / "images", SMALL["images"] + 256, os.environ.get("SUITE_CIFAR10"))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(repeat):
        for way, gpu in WAYS.items():
            place = folder / f"{way}-{number}".replace(" ", "-")
            place.mkdir()
            (place / "small.yaml").write_text(yaml.safe_dump(sweep_file(trials, gpu)))
            wall = timed(place, "suite.sweep", "small.yaml", "--no-report").seconds
            entries = journal.read(place / "runs" / "small" / journal.FILE_NAME)
            times = {
                kind: [each["ts_ms"] for each in entries if each["kind"] == kind]
                for kind in ("start", "end")
            }
            assert len(times["end"]) == trials
            seconds[way].append((max(times["end"]) - min(times["start"])) / 1000)
            print(f"{way}: {seconds[way][-1]:.1f} s of {wall:.1f} s", flush=True)
    first = seconds["one by one"]
    return [
        [
            f"{trials} small trials, {way}, s",
            f"{middle(found)}; {ratio(first, found)} times",
            "4" if way == "auto" else "",
        ]
        for way, found in seconds.items()
    ]


def sweep_file(trials: int, gpu: float | str) -> dict[str, Any]:
    """So many seeds of one arm."""
    return {
        "name": "small",
        "description": "How are small trials best run on one GPU?",
        "trial": {
            "data": {
                "name": "folder",
                "root": "../images",
                "train_size": SMALL["images"],
                "val_size": 256,
            },
            "model": {"arch": "resnet18"},
            "augment": "crop+flip",
            "train": {"epochs": SMALL["epochs"], "batch_size": BATCH, "lr": 0.05},
        },
        "seeds": list(range(trials)),
        "resources": {"cpu": 1, "gpu": gpu},
        "activations": False,
    }


if __name__ == "__main__":
    main()
