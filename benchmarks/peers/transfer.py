"""Transfer with frozen layers as torchvision's fine-tuning tutorial has it, in a function trainable
under plain Tune.

Leading children's weights get ``requires_grad = False`` and their BatchNorm stays in evaluation
mode; the whole network is run in each step. Single images are transformed in a DataLoader. No
tracking, no checkpoints.

    python -m benchmarks.peers.transfer FOLDER IMAGES WEIGHTS --depth 7 [--augment] [--arms 12]
    [--epochs 10]

Leaves ``spans.jsonl`` in FOLDER: when each trial began, had its images and ended, and its last
figures.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.peers.augmentation_sweep import (
    EVAL_BATCH,
    MEAN,
    STD,
    Pictures,
    evaluate,
    read,
    train_epoch,
)
from suite.system import torchvision_import

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
HEADS = ([128], [256, 128], [256, 128, 128, 64, 32])
RATES = (0.1, 0.2, 0.3, 0.5)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--depth", default=7, show_default=True)
@click.option("--augment", is_flag=True, help="Random crop and flip.")
@click.option(
    "--arms", default=len(HEADS) * len(RATES), show_default=True, help="So many of the arms."
)
@click.option("--epochs", default=10, show_default=True)
@click.option("--val", default=500, show_default=True)
def main(
    folder: Path,
    images: Path,
    weights: Path,
    depth: int,
    augment: bool,
    arms: int,
    epochs: int,
    val: int,
) -> None:
    """Run the arms, two at once."""
    from ray import tune

    heads = [{"hidden": hidden, "rate": rate} for hidden in HEADS for rate in RATES]
    space = {
        "head": tune.grid_search(heads[:arms]),
        "spans": str(folder.absolute() / "spans.jsonl"),
        "images": str(images.absolute()),
        "weights": str(weights.absolute()),
        "depth": depth,
        "augment": augment,
        "epochs": epochs,
        "val": val,
    }
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(
            name="transfer", storage_path=str(folder.absolute() / "ray"), verbose=0
        ),
    ).fit()


def network(weights: str, depth: int, hidden: list[int], rate: float) -> nn.Module:
    """torchvision's resnet18 with its first ``depth`` children frozen and a new head."""
    model = torchvision_import.torchvision.models.resnet18(num_classes=10)
    state = torch.load(weights, weights_only=True)
    model.load_state_dict(
        {name: value for name, value in state.items() if not name.startswith("fc.")}, strict=False
    )
    for child in list(model.children())[:depth]:
        for parameter in child.parameters():
            parameter.requires_grad = False
    layers: list[nn.Module] = []
    width = model.fc.in_features
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(rate)]
        width = units
    model.fc = nn.Sequential(*layers, nn.Linear(width, 10))
    return model


class Frozen(nn.Module):
    """Keeps BatchNorm of the first ``depth`` children in evaluation mode whenever the network
    trains.
    """

    def __init__(self, model: nn.Module, depth: int) -> None:
        super().__init__()
        self.model, self.depth = model, depth

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        for child in list(self.model.children())[: self.depth]:
            child.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits


def train(config: dict[str, Any]) -> None:
    """One trial."""
    from ray import tune
    from torchvision.transforms import v2

    begun = time.time()
    torch.manual_seed(0)
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    random = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()] if config["augment"] else []
    samples = read(Path(config["images"]) / "train")
    order = torch.randperm(len(samples)).tolist()
    val = [samples[index] for index in order[: config["val"]]]
    kept = Pictures(
        [samples[index] for index in order[config["val"] :]], v2.Compose([*random, *tensor])
    )
    loader = DataLoader(kept, 128, shuffle=True)
    plain = v2.Compose(tensor)
    held_out = {
        "val": DataLoader(Pictures(val, plain), EVAL_BATCH),
        "test": DataLoader(Pictures(read(Path(config["images"]) / "test"), plain), EVAL_BATCH),
    }
    model = Frozen(network(config["weights"], config["depth"], **config["head"]), config["depth"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["epochs"] * len(loader))
    ready = time.time()
    for _ in range(config["epochs"]):
        figures = train_epoch(model, loader, optimizer, schedule)
        for name, part in held_out.items():
            figures |= evaluate(model, name, part)
        tune.report(figures)
    with Path(config["spans"]).open("a") as file:
        file.write(
            json.dumps({"begun": begun, "ready": ready, "ended": time.time(), **figures}) + "\n"
        )


if __name__ == "__main__":
    main()
