"""A sweep as users assemble it from stock parts: Ray Tune, its MLflow callback, a function that
reports and keeps a checkpoint of each epoch. What the faults do to it is the control for what they
do not do to the suite's.

    python stock.py FOLDER [--epochs 8] [--pause 0.15] [--failures 0] [--gpu 0] [--restore]
    [--values 0.1,0.2]
                    [--storage FOLDER] [--bytes 10] [--uri URI]

Each trial's curve is a known one, so nothing is trained: what is looked at is the record. A rate
over 100 is the user's own mistake, one over 1000 asks for more memory than there is; FACTOR in the
environment stands for other code.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
EXPERIMENT = "stock"


def train(config: dict[str, Any]) -> None:
    """Report ``epochs`` times; go on from the checkpoint that Tune hands over."""
    from ray import tune

    first, factor = 1, float(os.environ.get("FACTOR", "1"))
    if (kept := tune.get_checkpoint()) is not None:
        with kept.as_directory() as place:
            first = json.loads(Path(place, "state.json").read_text())["epoch"] + 1
    for epoch in range(first, config["epochs"] + 1):
        time.sleep(config["pause"])
        if config["lr"] > 1000:
            raise MemoryError
        if config["lr"] > 100:
            raise ValueError("the user's own mistake")
        with tempfile.TemporaryDirectory() as draft:
            Path(draft, "state.json").write_text(json.dumps({"epoch": epoch}))
            Path(draft, "weights.bin").write_bytes(os.urandom(config["bytes"]))
            tune.report(
                {"loss": factor * config["lr"] / epoch, "epoch": epoch},
                checkpoint=tune.Checkpoint.from_directory(draft),
            )


def main() -> None:
    """Run the sweep, or restore it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--storage", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.15)
    parser.add_argument("--bytes", type=int, default=10)
    parser.add_argument("--failures", type=int, default=0)
    parser.add_argument("--gpu", type=float, default=0)
    parser.add_argument("--uri", default="")
    parser.add_argument("--restore", action="store_true")
    parser.add_argument("--values", default="0.1,0.2")
    given = parser.parse_args()

    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    folder = given.folder.absolute()
    storage = (given.storage or folder / "ray").absolute()
    callback = MLflowLoggerCallback(
        given.uri or f"sqlite:///{folder}/mlflow.db", experiment_name=EXPERIMENT
    )
    trainable = tune.with_resources(train, {"cpu": 1, "gpu": given.gpu})
    space = {
        "lr": tune.grid_search([float(value) for value in given.values.split(",")]),
        "epochs": given.epochs, "pause": given.pause, "bytes": given.bytes,
    }  # fmt: skip
    if given.restore:
        tuner = tune.Tuner.restore(
            str(storage / EXPERIMENT), trainable, param_space=space, resume_unfinished=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            run_config=tune.RunConfig(
                name=EXPERIMENT, storage_path=str(storage), callbacks=[callback], verbose=0,
                failure_config=tune.FailureConfig(max_failures=given.failures),
            ),
        )  # fmt: skip
    tuner.fit()


if __name__ == "__main__":
    main()
