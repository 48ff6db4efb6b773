"""Empty trials tracked with stock parts: a function trainable, ``tune.report``,
``MLflowLoggerCallback``, sqlite.

    python -m benchmarks.peers.control FOLDER [--trials 40] [--epochs 10] [--reuse]

Leaves ``mlflow.db`` in the folder.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import click

from suite.core.records import METRICS

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
EXPERIMENT = "control"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--trials", default=40, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--concurrent", default=2, show_default=True)
@click.option(
    "--reuse/--no-reuse", default=False, help="TuneConfig(reuse_actors=...); Ray's default is no."
)
def main(folder: Path, trials: int, epochs: int, concurrent: int, reuse: bool) -> None:
    """Run the trials."""
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(
        f"sqlite:///{folder.absolute()}/mlflow.db", experiment_name=EXPERIMENT
    )
    tune.Tuner(
        tune.with_resources(report, {"cpu": 1}),
        param_space={"seed": tune.grid_search(list(range(trials))), "epochs": epochs},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=reuse),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(folder.absolute() / "ray"),
            callbacks=[callback],
            verbose=0,
        ),
    ).fit()


def report(config: dict[str, int]) -> None:
    """One trial: nothing but its reports."""
    from ray import tune

    for _ in range(config["epochs"]):
        tune.report({name: random.random() for name in METRICS})


if __name__ == "__main__":
    main()
