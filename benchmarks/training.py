"""One training epoch on the CPU, both cores for one trial: the common loop and
``suite.training.trainer.Trainer``.

ResNet-18 with the CIFAR stem, and torchvision's at 32 px; batch 128, SGD, no augmentation. The peer
is the usual loop: fp32, NCHW, a DataLoader over single images with torchvision v2 transforms
(workers: the faster of 0 and 2). Where the processor has bf16, a second peer is that loop with the
two lines that guides to it add: channels_last and autocast. Ours takes the precision that
``suite.planning.measure`` chooses here. All do forward, backward and the optimizer's step on the
same number of images, one after the other in one process, in turn; the first epoch of each is not
counted.

    python -m benchmarks.training [--images 1280] [--repeat 5] [--short]

The limit is arithmetic: 3 x 555.4 (37.0) million multiply-adds an image at the rate of a matrix
product on both cores (the best of three sizes and all turns), in the precision that each used. In
torchvision's net at 32 px 41 % of these meet padding (layer3 and layer4 see 2 x 2 and 1 x 1
pixels); suite/models/small_conv.py leaves them out, and the share of the limit is of what is left.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.peers.augmentation_sweep import MEAN, STD, Pictures
from benchmarks.processes import middle, ratio
from benchmarks.record import gate, keep_table
from suite import data, models
from suite.config import ModelConfig, ResourcesConfig, TrialConfig
from suite.core.records import Numerics, Objective, Trial
from suite.planning import measure
from suite.system import torchvision_import
from suite.training.evaluation import clock
from suite.training.setup import prepare_trainer

BATCH, THREADS, CLASSES, SIDE = 128, 2, 10, 32
# arch -> millions of multiply-adds of one image forward, as printed and without those that meet
# padding; goal
NETS = {"resnet18_cifar": (555.4, 555.4, 3.5), "resnet18": (37.0, 21.7, 1.5)}
GATES = ("tests/test_slicing.py", "tests/test_training.py", "tests/test_equal_accuracy.py")


@click.command()
@click.option(
    "--images",
    default=1280,
    show_default=True,
    help="Of the CIFAR stem; four times as many of the other.",
)
@click.option("--repeat", default=5, show_default=True)
@click.option("--short", is_flag=True, help="1,280 images, twice; of the CIFAR stem 256, once.")
def main(images: int, repeat: int, short: bool) -> None:
    """Measure both nets."""
    torch.set_num_threads(THREADS)
    kinds = (torch.float32, torch.bfloat16) if measure.has_bf16() else (torch.float32,)
    rates = dict.fromkeys(kinds, 0.0)
    rows, notes = [], []
    for arch, (_, _, goal) in NETS.items():
        count = images if arch == "resnet18_cifar" else 4 * images
        if short:
            count, repeat = (2 * BATCH, 1) if arch == "resnet18_cifar" else (images, 2)
        row, reached, note = measured(arch, count, repeat, goal, rates)
        rows.append((row, reached))
        notes.append(note)
    # now that the fastest product of the whole run is known
    table = [
        [*row, *(f"{100 * flops / rates[kind]:.0f}" if kind else "-" for flops, kind in each)]
        for row, each in rows
    ]
    peaks = ", ".join(
        f"{str(kind).removeprefix('torch.')} {rate / 1e12:.3f}" for kind, rate in rates.items()
    )
    text = "\n\n".join(
        [
            f"Large matrix products on {THREADS} threads, TFLOP/s: {peaks}. n = {repeat}, in turn.",
            f"Gate {gate(*GATES, full=not short)}",
            *notes,
            (__doc__ or "").partition("\n")[2].strip(),
        ]
    )
    header = [
        "Net",
        "peer, img/s",
        "peer with autocast, img/s",
        "suite, img/s",
        "ratio",
        "goal",
        "ratio to autocast",
        "peer, % of GEMM",
        "with autocast, % of GEMM",
        "suite, % of GEMM",
    ]
    keep_table(
        "training-short" if short else "training",
        "One training epoch, batch 128",
        header,
        table,
        text,
    )


def measured(arch: str, count: int, repeat: int, goal: float, rates: dict[torch.dtype, float]
) -> tuple[list[str], list[tuple[float, torch.dtype | None]], str]:  # fmt: skip
    """A row of the table, the arithmetic a second of each contender and its kind (None: not
    run), what was chosen.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ours, numerics = suite_epoch(arch, pixels, labels, Path(folder), said.append)
        chosen_s = time.perf_counter() - started
        theirs, workers = peer_epoch(arch, pixels, labels)
        epochs = {"peer": theirs}
        if measure.has_bf16():
            epochs["autocast"], others = peer_epoch(arch, pixels, labels, autocast=True)
            workers = f"{workers} (with autocast {others})"
        epochs["suite"] = ours
        first_s = ours()
        found: dict[str, list[float]] = {name: [] for name in epochs}
        products: list[str] = []
        for _ in range(repeat):
            now = {kind: max(gemm(kind, size) for size in (1024, 2048, 4096)) for kind in rates}
            rates.update({kind: max(rates[kind], rate) for kind, rate in now.items()})
            products.append(" and ".join(f"{rate / 1e12:.2f}" for rate in now.values()))
            for name, epoch in epochs.items():
                found[name].append(count / epoch())
                print(f"{arch}, {name}: {found[name][-1]:.1f} img/s", flush=True)
    printed, left, _ = NETS[arch]
    reached = [
        (statistics.median(found[name]) * 6e6 * work, kind) if name in found else (0.0, None)
        for name, work, kind in (
            ("peer", printed, torch.float32),
            ("autocast", printed, torch.bfloat16),
            ("suite", left, torch.bfloat16 if numerics.precision == "bf16" else torch.float32),
        )
    ]
    known = "autocast" in found
    row = [
        arch,
        middle(found["peer"]),
        middle(found["autocast"]) if known else "-",
        middle(found["suite"]),
        ratio(found["suite"], found["peer"]),
        f"{goal:g}",
        ratio(found["suite"], found["autocast"]) if known else "-",
    ]
    epoch_s = count / statistics.median(found["suite"])
    turns = zip(products, *found.values(), strict=True)
    each = "; ".join(
        f"{now} TFLOP/s: {', '.join(f'{rate:.0f}' for rate in speeds)}" for now, *speeds in turns
    )
    return (
        row,
        reached,
        f"{arch}: {count:,} images; the peer has {workers} DataLoader workers; the suite: "
        f"{numerics}. {' '.join(said)}."
        f" Not in the figures: {chosen_s:.1f} s to build it and choose the precision, where no "
        "earlier sweep has; its "
        f"first epoch, {first_s - epoch_s:+.1f} s beside a later one. Each turn's products "
        f"({', '.join(map(str, rates))}) and images a second ({', '.join(found)}): {each}.",
    )


def suite_epoch(
    arch: str, pixels: Any, labels: Any, folder: Path, say: Callable[[str], None]
) -> tuple[Callable[[], float], Numerics]:
    """What times one epoch of ours, in seconds."""
    images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    names = tuple(map(str, range(CLASSES)))
    dataset = data.Dataset("bench", names, "bench", images, labels, images[:BATCH], labels[:BATCH])
    settings = {
        "data": {"name": "own:load", "val_size": 0},
        "model": {"arch": arch},
        "train": {
            "epochs": 10_000,
            "batch_size": BATCH,
            "nesterov": True,
            "last_batch": "keep",
        },  # as the peer
    }
    config = TrialConfig.model_validate(settings)
    numerics = measure.choose_numerics(
        [(config, CLASSES, SIDE)],
        ResourcesConfig(cpu=THREADS),
        measure.Room(1, None, (THREADS,)),
        say,
    )
    trial = Trial("bench", "bench", 0, "bench", config=config.model_dump(mode="json"))
    objective = Objective("train/loss", "minimize", "last")
    training = prepare_trainer(
        trial, dataset, objective=objective, numerics=numerics, folder=folder
    )

    def epoch() -> float:
        record = training.train_epoch()
        assert record is not None
        return (
            len(images) / record.metrics["time/img_per_s"]
        )  # of training alone, without evaluation

    return epoch, numerics


def peer_epoch(
    arch: str, pixels: Any, labels: Any, autocast: bool = False
) -> tuple[Callable[[], float], int]:
    """What times one epoch of the usual loop with the better number of workers, in seconds; that
    number.

    Args:
        arch: the network.
        pixels: [N, H, W, 3] uint8.
        labels: [N].
        autocast: in bf16 with channels behind pixels, as guides to it have it.
    """
    from torchvision.transforms import v2

    assert torchvision_import.torchvision
    tensor = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )
    samples = [
        (Image.fromarray(image), int(label)) for image, label in zip(pixels, labels, strict=True)
    ]
    model = models.build(ModelConfig(arch=arch), CLASSES).train()
    if autocast:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loaders = {
        workers: DataLoader(
            Pictures(samples, tensor),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for workers in (0, 2)
    }
    warm = {
        workers: loop(model, optimizer, loader, autocast)
        for _ in range(2)
        for workers, loader in loaders.items()
    }
    best = min(warm, key=lambda workers: warm[workers])  # of the second epoch of each
    return lambda: loop(model, optimizer, loaders[best], autocast), best


def loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any], autocast: bool
) -> float:
    """One epoch as tutorials have it; seconds."""
    started, running = time.perf_counter(), 0.0
    for images, labels in loader:
        if autocast:
            images = images.to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
    return time.perf_counter() - started


def gemm(kind: torch.dtype, side: int, device: str = "cpu") -> float:
    """Floating-point operations a second of a square matrix product, the best of eight."""
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = clock(a.device)
        a @ b
        seconds.append(clock(a.device) - started)
    return 2 * side**3 / min(seconds)


if __name__ == "__main__":
    main()
