"""A plain PyTorch training loop that shares no code with the suite, to compare the suite with.

It has its own data order (``torch.randperm``), torchvision's transforms on single images, torch's
optimizers and torchvision's ResNet. It imports nothing of ``suite``: a fault of the suite cannot
reach it.

    python -m benchmarks.plain_loop --data CIFAR10 --results rows.jsonl --train-size 5000 2600
        --augment none crop+flip --last-batch drop spread --seeds 0 1 2

Options that take several values are crossed. Seeds are outermost: an interrupted campaign has the
same seeds of all arms. A run that ``--results`` holds already is not repeated.

``--data`` is a folder with ``train/CLASS/*`` and ``test/CLASS/*`` (default: SUITE_CIFAR10).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

CACHE = Path.home() / ".cache" / "plain-loop"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10, as published
SUBSET_SEED = 0
"""Which images a subset holds: the same for every run."""
AUGMENTS = ("none", "crop+flip", "rotation", "color_jitter")
LAST_BATCHES = ("keep", "drop", "spread")


def _import_torchvision() -> Any:
    """torchvision. Beside a CPU-only torch, its CUDA build needs two operators to be declared."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", schema)
    return importlib.import_module("torchvision")


torchvision = _import_torchvision()
v2 = importlib.import_module("torchvision.transforms.v2")


@dataclass(frozen=True)
class Arm:
    """All settings of a run but its seed. ``lr`` None: 0.05 for SGD, 0.001 for Adam."""

    train_size: int = 5000
    epochs: int = 6
    augment: str = "none"
    optimizer: str = "sgd"
    last_batch: str = "drop"
    nesterov: bool = False
    decay: str = "all"
    batch_size: int = 128
    arch: str = "resnet18"
    test_size: int = 5000
    precision: str = "bf16"
    lr: float | None = None


@dataclass(frozen=True, eq=False)
class Images:
    """Images uint8 (N, 3, H, W) and labels int64 (N,) of both parts."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load(folder: Path, train_size: int, test_size: int) -> Images:
    """Equally many images of each class, the same for every seed."""
    train, test = _decode(folder / "train"), _decode(folder / "test")
    return Images(*_subset(*train, train_size), *_subset(*test, test_size))


def _decode(folder: Path) -> tuple[Tensor, Tensor]:
    """All images of a part; decoded once, then read from ``~/.cache``."""
    files = [sorted(path for path in each.iterdir()) for each in sorted(folder.iterdir())]
    names = "\n".join(str(path) for group in files for path in group)
    cached = CACHE / f"{hashlib.sha256(names.encode()).hexdigest()[:16]}.npy"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        pixels = np.stack(
            [np.asarray(Image.open(path).convert("RGB")) for group in files for path in group]
        )
        np.save(cached, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    labels = np.repeat(np.arange(len(files)), [len(group) for group in files])
    return torch.from_numpy(np.load(cached)), torch.from_numpy(labels)


def _subset(images: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    rows = subset_rows(labels, size)
    return images[rows], labels[rows]


def subset_rows(labels: Tensor, size: int) -> Tensor:
    """Rows of ``size`` images, equally many of each class."""
    generator = torch.Generator().manual_seed(SUBSET_SEED)
    classes = int(labels.max()) + 1
    rows = []
    for label in range(classes):
        own = (labels == label).nonzero()[:, 0]
        count = size // classes + (label < size % classes)
        rows.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return torch.cat(rows)


def batch_sizes(count: int, size: int, last_batch: str) -> list[int]:
    """Sizes of an epoch's batches, in order."""
    full, rest = divmod(count, size)
    if rest == 0 or full == 0:
        return [size] * full + [rest] * (rest > 0)
    if last_batch == "drop":
        return [size] * full
    if last_batch == "keep":
        return [size] * full + [rest]
    small, larger = divmod(count, full + 1)
    return [small + 1] * larger + [small] * (full + 1 - larger)


def make_transform(augment: str) -> Callable[[Tensor], Tensor] | None:
    """torchvision's transform of one uint8 image, or None."""
    match augment:
        case "none":
            return None
        case "crop+flip":
            return v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])  # type: ignore[no-any-return]
        case "rotation":
            return v2.RandomRotation(15)  # type: ignore[no-any-return]
        case "color_jitter":
            return v2.ColorJitter(0.2, 0.2, 0.2, 0.1)  # type: ignore[no-any-return]
    raise ValueError(f"augment is one of {', '.join(AUGMENTS)}, not {augment!r}")


def make_optimizer(model: nn.Module, arm: Arm) -> torch.optim.Optimizer:
    """torch's own optimizer. ``decay`` "weights": none on biases and BatchNorm's parameters."""
    if arm.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), arm.lr or 1e-3)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if arm.decay == "weights":
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    lr = arm.lr or 0.05
    return torch.optim.SGD(groups, lr, momentum=0.9, weight_decay=5e-4, nesterov=arm.nesterov)


def normalise(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) -> float32, channels last."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def train(arm: Arm, seed: int, images: Images) -> dict[str, Any]:
    """Train once; returns the test accuracy after the last epoch and the time it took."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(1_000_003 * seed + 17)
    model = getattr(torchvision.models, arm.arch)(num_classes=int(images.train_labels.max()) + 1)
    model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, arm)
    sizes = batch_sizes(len(images.train), arm.batch_size, arm.last_batch)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arm.epochs * len(sizes))
    transform = make_transform(arm.augment)
    autocast = functools.partial(
        torch.autocast, "cpu", dtype=torch.bfloat16, enabled=arm.precision == "bf16"
    )
    started = time.perf_counter()
    for _ in range(arm.epochs):
        model.train()
        rows = torch.randperm(len(images.train), generator=order)[: sum(sizes)]
        for batch in rows.split(sizes):
            pixels = images.train[batch]
            if transform is not None:
                pixels = torch.stack([transform(image) for image in pixels])
            with autocast():
                logits = model(normalise(pixels))
            loss = F.cross_entropy(logits.float(), images.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.inference_mode(), autocast():
        answers = torch.cat([model(normalise(part)).argmax(1) for part in images.test.split(500)])
    return {
        "test_acc": float((answers == images.test_labels).float().mean()),
        "images_per_second": round(arm.epochs * sum(sizes) / seconds, 1),
        "seconds": round(time.perf_counter() - started, 2),
        "torch": torch.__version__,
    }


def _arms(options: argparse.Namespace) -> Iterator[tuple[int, Arm]]:
    fields = [name for name in Arm.__dataclass_fields__ if isinstance(getattr(options, name), list)]
    fixed = {
        name: getattr(options, name) for name in Arm.__dataclass_fields__ if name not in fields
    }
    for seed in options.seeds:
        for values in itertools.product(*(getattr(options, name) for name in fields)):
            yield seed, Arm(**fixed, **dict(zip(fields, values, strict=True)))


def _known(results: Path) -> set[tuple[Any, ...]]:
    if not results.exists():
        return set()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return {(row["seed"], *(row[name] for name in Arm.__dataclass_fields__)) for row in rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain_loop", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--data", type=Path, default=os.environ.get("SUITE_CIFAR10"))
    add("--results", type=Path, required=True, help="a JSON line per run is appended here")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--train-size", type=int, nargs="+", default=[5000])
    add("--test-size", type=int, default=5000)
    add("--epochs", type=int, nargs="+", default=[6])
    add("--augment", nargs="+", choices=AUGMENTS, default=["none"])
    add("--optimizer", nargs="+", choices=("sgd", "adam"), default=["sgd"])
    add("--last-batch", nargs="+", choices=LAST_BATCHES, default=["drop"])
    add("--nesterov", action="store_true")
    add("--decay", nargs="+", choices=("all", "weights"), default=["all"])
    add("--batch-size", type=int, default=128)
    add("--arch", default="resnet18", help="a network of torchvision.models")
    add("--precision", choices=("bf16", "fp32"), default="bf16")
    add("--lr", type=float, help="default: 0.05 (SGD), 0.001 (Adam)")
    add("--threads", type=int, default=1)
    return parser


def main() -> None:
    """Run what the command line asks for."""
    options = _parser().parse_args()
    if options.data is None:
        sys.exit("no images: give --data, or set SUITE_CIFAR10")
    torch.set_num_threads(options.threads)
    known = _known(options.results)
    load_once = functools.cache(load)
    for seed, arm in _arms(options):
        if (seed, *asdict(arm).values()) in known:
            continue
        figures = train(arm, seed, load_once(options.data, arm.train_size, arm.test_size))
        line = json.dumps({"seed": seed, **asdict(arm), **figures})
        print(line, flush=True)
        with options.results.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
