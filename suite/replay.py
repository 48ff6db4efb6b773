"""``python -m suite.replay RUN``: train a trial again and compare each epoch with its run."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from suite.console.output import exit_codes, standard
from suite.core.errors import EnvironmentProblem
from suite.core.records import MACHINE_METRICS, EpochRecord
from suite.tracking.uri import tracking_uri_of


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("replays"), show_default=True,
              help="Folder for the checkpoint and the predictions.")  # fmt: skip
def main(run: str, tracking_uri: str | None, out: Path) -> None:
    """Train the trial of RUN again and compare each epoch with the record.

    RUN is the id of a trial's run, or models:/SWEEP@champion for a sweep's best.

    With the same numerics on the same kind of machine the figures are equal, on the CPU bit for
    bit. The output folder then holds the checkpoint, also if the budget removed it.

    \b
      python -m suite.replay 3f2a...  # the id of a trial's run, from MLflow's page or results.csv
    """
    console = standard()
    with exit_codes():
        differing = replay(tracking_uri_of(tracking_uri), run, out, console)
        sys.exit(3 if differing else 0)


def replay(uri: str, run: str, out: Path, console: Console) -> int:
    """Train again; returns how many epochs came out differently.

    Raises:
        UsageError, EnvironmentProblem: the run, its data or its weights are missing.
    """
    from suite.restore import restore
    from suite.training.setup import prepare_trainer
    from suite.training.trainer import fit

    restored = restore(uri, run)
    dataset = restored.dataset()
    recorded = restored.run.tags.get("suite.data_digest", dataset.digest)
    if dataset.digest != recorded:
        raise EnvironmentProblem(
            f"the images differ from those of the run: digest {dataset.digest[:12]}, recorded "
            f"{recorded[:12]}",
            remedy="Put the same images where the run's config.yaml says (data.root).",
        )
    folder = out / restored.run.run_id
    trainer = prepare_trainer(
        restored.trial,
        dataset,
        weights=restored.weights(),
        objective=restored.objective,
        numerics=restored.numerics,
        folder=folder,
    )
    differing = 0
    for record in fit(trainer):
        wrong = _differences(record, restored.run.metrics)
        differing += bool(wrong)
        word = f"differs: {', '.join(wrong)}" if wrong else "as recorded"
        figure = record.metrics.get(restored.objective.name, float("nan"))
        console.print(
            f"epoch {record.epoch}: {restored.objective.name} {figure:.4f} {word}", highlight=False
        )
    facts = trainer.finish()
    if facts["test"] and facts["best_epoch"] is not None:
        record = EpochRecord(facts["best_epoch"], facts["test"])
        if wrong := _differences(record, restored.run.metrics):
            differing += 1
            console.print(f"epoch {record.epoch}: differs: {', '.join(wrong)}", highlight=False)
    console.print(f"checkpoint: {folder / 'best.pt'}", highlight=False, soft_wrap=True)
    if differing:
        console.print(f"{differing} epochs differ from the record", style="yellow", highlight=False)
    return differing


def _differences(record: EpochRecord, recorded: object) -> list[str]:
    """Metrics whose recorded value at this epoch differs; none if the epoch was not recorded."""
    assert isinstance(recorded, dict)
    return [
        name
        for name, value in record.metrics.items()
        if name not in MACHINE_METRICS and recorded.get(name, {}).get(record.epoch, value) != value
    ]


if __name__ == "__main__":
    main()
