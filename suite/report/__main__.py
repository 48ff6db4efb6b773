"""The command ``python -m suite.report SWEEP``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from suite import tracking
from suite.core.errors import ProblemsError, SuiteError, UsageError
from suite.report import error_analysis, make, make_comparison


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sweep")
@click.argument("other", required=False)
@click.option("--compare", nargs=2, metavar="A B",
              help="Compare the stored predictions of two arms or two trials, here.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports"), show_default=True,
              help="Folder of the reports; this one goes to OUT/SWEEP.")  # fmt: skip
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
def main(
    sweep: str,
    other: str | None,
    compare: tuple[str, str] | None,
    out: Path,
    tracking_uri: str | None,
) -> None:
    """Make the report of SWEEP, a sweep's name, from its runs in MLflow. With OTHER: compare the
    two, arm by arm.

    OUT/SWEEP then holds index.html (one file, opens offline), report.md, results.csv, arms.csv,
    table.tex and figures/; the same is among the artifacts of the sweep's run, in report/. A
    comparison goes to OUT/SWEEP-and-OTHER alone.

    \b
      python -m suite.report quickstart
      python -m suite.report quickstart quickstart2
      python -m suite.report augmentation --compare augment=none augment=crop+flip
      python -m suite.report augmentation --compare 'augment=none seed=0' 'augment=none seed=1'
    """
    try:
        uri = tracking.default_uri(tracking_uri, Path.cwd())
        if compare is not None and other is not None:
            raise UsageError(
                "--compare takes two of one sweep, got a second sweep", remedy=f"Leave {other} out."
            )
        if compare is not None:
            click.echo("\n".join(error_analysis.compare(tracking.read(uri, sweep), uri, *compare)))
        elif other is not None:
            click.echo(make_comparison(sweep, other, uri, out))
        else:
            click.echo(
                make(sweep, uri, out, tell=lambda text: click.echo(f"warning: {text}", err=True))
            )
    except ProblemsError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(error.exit_code)
    except SuiteError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(prog_name="python -m suite.report")
