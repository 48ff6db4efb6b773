"""``python -m suite.predict RUN FOLDER``: class probabilities for a folder of images, as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from suite.console.output import exit_codes
from suite.core.cells import escape_formula
from suite.core.errors import UsageError
from suite.tracking.uri import tracking_uri_of

BATCH = 256


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A best.pt of this run that MLflow no longer has, e.g. from suite.replay.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Default: standard output.",
)
def main(
    run: str, folder: Path, tracking_uri: str | None, checkpoint: Path | None, out: Path | None
) -> None:
    """Class probabilities of RUN's best checkpoint for every image below FOLDER, one CSV row each.

    RUN is the id of a trial's run, or models:/SWEEP@champion for a sweep's best.

    \b
      python -m suite.predict models:/quickstart@champion photos/ > probabilities.csv
      python -m suite.predict 3f2a... photos/ --checkpoint replays/3f2a.../best.pt
    """
    with exit_codes():
        rows = predict(tracking_uri_of(tracking_uri), run, folder, checkpoint)
        header = next(rows)
        if out is None:
            _write(sys.stdout, header, rows)
        else:
            with out.open("w", newline="") as file:
                _write(file, header, rows)


def predict(
    uri: str, run: str, folder: Path, checkpoint: Path | None = None
) -> Iterator[list[Any]]:
    """The header, then a row for each image: path, predicted class, probability of each class.

    Raises:
        UsageError: the folder holds no image, or there is no such run.
        EnvironmentProblem: images that cannot be decoded (all of them), or the run's files are
            missing.
    """
    import torch

    from suite.data import read_images
    from suite.restore import restore

    if not folder.is_dir():
        raise UsageError(f"FOLDER must be a folder of images, got {folder}")
    trained = restore(uri, run).trained(checkpoint)
    paths, images = read_images(folder, trained.side)
    if not paths:
        raise UsageError(f"FOLDER must hold images, got none below {folder}")
    classes = [escape_formula(name) for name in trained.classes]
    yield ["file", "class", *classes]
    with torch.inference_mode():
        for start in range(0, len(paths), BATCH):
            batch = torch.from_numpy(images[start : start + BATCH]).float() / 255
            shares = trained.network(batch).softmax(1)
            for path, share in zip(paths[start : start + BATCH], shares.tolist(), strict=True):
                top = max(range(len(share)), key=share.__getitem__)
                yield [
                    escape_formula(str(path)),
                    classes[top],
                    *(f"{value:.6f}" for value in share),
                ]


def _write(file: IO[str], header: list[Any], rows: Iterator[list[Any]]) -> None:
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)


if __name__ == "__main__":
    main()
