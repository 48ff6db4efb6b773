"""The augmentation sweep with stock parts, as torchvision's and Ray Tune's own examples put them
together.

A function trainable in reused workers, torchvision v2 transforms on single images in a DataLoader,
fp32, ``tune.report`` with a checkpoint after each epoch, ``MLflowLoggerCallback`` with sqlite.
Images are decoded once per trial and kept in memory.

    python -m benchmarks.peers.augmentation_sweep FOLDER IMAGES [--epochs 2] [--workers 0] [--arms
    8]

IMAGES holds ``train/<class>/*.png`` and ``test/<class>/*.png``.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from suite.system import torchvision_import  # torchvision, usable beside a torch without CUDA too

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
EXPERIMENT = "augmentation_sweep"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VAL, EVAL_BATCH = 256, 500
ARMS = (
    "none",
    "flip",
    "rotation",
    "color_jitter",
    "random_resized_crop",
    "cutout",
    "gaussian_blur",
    "salt_and_pepper",
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--epochs", default=2, show_default=True)
@click.option("--workers", default=0, show_default=True, help="DataLoader(num_workers=...).")
@click.option("--concurrent", default=2, show_default=True)
@click.option("--arms", default=len(ARMS), show_default=True, help="So many of the arms.")
def main(folder: Path, images: Path, epochs: int, workers: int, concurrent: int, arms: int) -> None:
    """Run the sweep."""
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(
        f"sqlite:///{folder.absolute()}/mlflow.db", experiment_name=EXPERIMENT
    )
    space = {
        "augment": tune.grid_search(list(ARMS[:arms])),
        "images": str(images.absolute()),
        "epochs": epochs,
        "batch_size": 128,
        "lr": 0.05,
        "workers": workers,
    }
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(folder.absolute() / "ray"),
            callbacks=[callback],
            verbose=0,
        ),
    ).fit()


def read(root: Path) -> list[tuple[Image.Image, int]]:
    """The images of a folder, decoded, with their labels."""
    found = torchvision_import.torchvision.datasets.ImageFolder(str(root)).samples
    return [(Image.open(path).convert("RGB"), label) for path, label in found]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory, transformed one by one."""

    def __init__(self, samples: list[tuple[Image.Image, int]], transform: Any) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.samples[index]
        return self.transform(image), label


def transforms(augment: str) -> Any:
    """The arm's transforms, with the parameters that the suite has."""
    from torchvision.transforms import v2

    before = {
        "flip": [v2.RandomHorizontalFlip()],
        "rotation": [v2.RandomRotation(15)],
        "color_jitter": [v2.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        "random_resized_crop": [v2.RandomResizedCrop(32, scale=(0.35, 1.0), antialias=True)],
        "gaussian_blur": [v2.GaussianBlur(3, (0.1, 2.0))],
    }
    after = {
        "cutout": [v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))],
        "salt_and_pepper": [v2.Lambda(salt_and_pepper)],
    }
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose(
        [*before.get(augment, []), *tensor, *after.get(augment, []), v2.Normalize(MEAN, STD)]
    )


def salt_and_pepper(image: Tensor) -> Tensor:
    """A twentieth of the pixels black or white."""
    noise = torch.rand(image.shape[-2:])
    return image.masked_fill(noise < 0.025, 0.0).masked_fill(noise > 0.975, 1.0)


def train(config: dict[str, Any]) -> None:
    """One trial."""
    from ray import tune

    torch.manual_seed(0)
    root = Path(config["images"])
    samples = read(root / "train")
    order = torch.randperm(len(samples)).tolist()
    plain, val = transforms("none"), [samples[index] for index in order[:VAL]]
    kept = Pictures([samples[index] for index in order[VAL:]], transforms(config["augment"]))
    loader = DataLoader(kept, config["batch_size"], shuffle=True, num_workers=config["workers"])
    held_out = {
        "val": DataLoader(Pictures(val, plain), EVAL_BATCH),
        "test": DataLoader(Pictures(read(root / "test"), plain), EVAL_BATCH),
    }
    model = torchvision_import.torchvision.models.resnet18(num_classes=10)
    optimizer = torch.optim.SGD(
        model.parameters(), config["lr"], momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["epochs"] * len(loader))
    for _ in range(config["epochs"]):
        figures = train_epoch(model, loader, optimizer, schedule)
        for name, part in held_out.items():
            figures |= evaluate(model, name, part)
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, Path(folder) / "checkpoint.pt")
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder))


def train_epoch(
    model: nn.Module, loader: DataLoader[Any], optimizer: Any, schedule: Any
) -> dict[str, float]:
    """Loss in nats, accuracy, images per second of the training images."""
    model.train()
    started, loss_sum, hits, count = time.perf_counter(), 0.0, 0, 0
    for images, labels in loader:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        loss_sum += loss.item() * len(labels)
        hits += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    seconds = time.perf_counter() - started
    return {
        "train/loss": loss_sum / count,
        "train/acc": hits / count,
        "time/img_per_s": count / seconds,
    }


@torch.no_grad()
def evaluate(model: nn.Module, name: str, loader: DataLoader[Any]) -> dict[str, float]:
    """Loss in nats, and accuracy."""
    model.eval()
    pairs = [(model(images), labels) for images, labels in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    hits = (logits.argmax(1) == labels).double()
    return {
        f"{name}/loss": float(F.cross_entropy(logits, labels)),
        f"{name}/acc": float(hits.mean()),
    }


if __name__ == "__main__":
    main()
