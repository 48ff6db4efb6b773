"""The command ``python -m suite.report SWEEP``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from suite import tracking
from suite.errors import ProblemsError, SuiteError
from suite.report import make


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sweep")
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports"), show_default=True,
              help="Folder of the reports; this one goes to OUT/SWEEP.")  # fmt: skip
@click.option("--tracking-uri", metavar="URI", help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.")
def main(sweep: str, out: Path, tracking_uri: str | None) -> None:
    """Make the report of SWEEP, a sweep's name, from its runs in MLflow.

    OUT/SWEEP then holds index.html (one file, opens offline), report.md, results.csv, arms.csv and figures/.

    \b
      python -m suite.report quickstart
    """
    try:
        click.echo(make(sweep, tracking.default_uri(tracking_uri, Path.cwd()), out))
    except ProblemsError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(error.exit_code)
    except SuiteError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(prog_name="python -m suite.report")
