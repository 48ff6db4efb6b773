"""The command ``python -m suite.sweep FILE.yaml``.

Exit codes: 0 all trials finished (or ``--budget`` ran out, and it says so); 1 a bug of ours; 2 the
file or the command line is wrong; 3 some trials failed; 4 tracking not fully synced; 5 another
process runs this sweep; 6 data, weights, folder, disk or tracking server missing; 130 / 143
interrupted, resumable. With 2, 5 and 6 nothing was started and nothing written, but for a disk that
filled up meanwhile, which is 6 and resumable too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from suite import config as specs
from suite.console.output import exit_codes, standard
from suite.sweep.api import run
from suite.sweep.locate import storage_of
from suite.sweep.plan_table import show_plan


def _seconds(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """``90``, ``90s``, ``30m``, ``2h``, ``1h30m`` -> seconds."""
    if value is None:
        return None
    found = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip()
    )
    parts = [float(part or 0) for part in found.groups()] if found and value.strip() else [0.0]
    total = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if total <= 0:
        raise click.BadParameter(f"must be a time such as 90s, 30m or 2h, got {value!r}")
    return total


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show every trial and an estimate of time, memory and disk; start nothing.",
)
@click.option(
    "--smoke",
    is_flag=True,
    help="One epoch and a few batches of each arm, tracked nowhere: the file works.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where it stopped (also the default); nothing to resume is an error.",
)
@click.option("--retry-errored", is_flag=True, help="Run failed trials again.")
@click.option("--force", is_flag=True, help="Run finished trials again.")
@click.option(
    "--only", multiple=True, metavar="ARM", help="Run just this arm; may be given several times."
)
@click.option(
    "--budget", callback=_seconds, metavar="TIME", help="Stop cleanly after e.g. 90s, 30m, 2h."
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="A running Ray cluster. Default: RAY_ADDRESS, else this machine.",
)
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
@click.option(
    "--storage-path",
    metavar="FOLDER|s3://BUCKET/PREFIX",
    default="runs",
    show_default=True,
    help="Where checkpoints and journals go; a cluster's nodes must share it.",
)
@click.option(
    "--max-concurrent",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many trials at once.",
)
@click.option("--no-report", is_flag=True, help="Do not write reports/<sweep>/ at the end.")
@click.option("-v", "--verbose", is_flag=True, help="Show what Ray and MLflow say, too.")
def main(
    file: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    smoke: bool,
    resume: bool,
    retry_errored: bool,
    force: bool,
    only: tuple[str, ...],
    budget: float | None,
    address: str | None,
    tracking_uri: str | None,
    storage_path: str,
    max_concurrent: int | None,
    no_report: bool,
    verbose: bool,
) -> None:
    """Run the sweep in FILE: every trial that has not finished yet, tracked in MLflow.

    Launching the same file again goes on where it stopped; a new seed, value or arm in it runs only
    what is new. KEY=VALUE changes a setting of the file, with a dotted key:

    \b
      python -m suite.sweep search_spaces/quickstart.yaml
      python -m suite.sweep search_spaces/augmentation.yaml train.epochs=3 seeds=[0,1] --dry-run
      python -m suite.sweep search_spaces/transfer.yaml data.name=folder data.root=/data/cifar10
      mlflow ui                                   # browse the runs
    """
    console = standard()
    with exit_codes():
        storage = storage_of(storage_path)
        if dry_run:
            show_plan(
                specs.load(file, overrides), console, tracking_uri, storage, only, max_concurrent
            )
            return
        from suite.launch import Options

        options = Options(
            resume, force, retry_errored, only, budget, address, max_concurrent, None, verbose
        )
        result = run(
            file,
            overrides,
            options=options,
            tracking_uri=tracking_uri,
            storage_path=storage,
            smoke=smoke,
            report=not no_report,
            console=console,
        )
        sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
