"""The table of ``--dry-run``: every trial, and what the sweep will cost here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from suite.config import SweepSpec
from suite.console.output import duration
from suite.core.redaction import redacted
from suite.storage.bucket import Bucket
from suite.sweep.locate import locate_sweep, storage_of
from suite.sweep.prepare import prepare_plan


def show_plan(
    spec: SweepSpec,
    console: Console,
    tracking_uri: str | None = None,
    storage: Path | Bucket | None = None,
    only: Sequence[str] = (),
    max_concurrent: int | None = None,
) -> None:
    """Show every trial, and what the sweep will cost here; start nothing."""
    from rich.table import Table

    from suite.launch import check_only
    from suite.planning.estimate import estimate
    from suite.planning.power import seed_advice

    check_only(spec, only)

    plan = prepare_plan(spec, tracking_uri, console)
    place = locate_sweep(storage_of(storage or "runs"), spec.name)
    place.check()
    place.download_journal()
    folder = place.folder
    found = estimate(plan, folder, only, max_concurrent)
    console.print(
        f"[bold]{spec.name}[/bold]: {escape(redacted(spec.description))}", highlight=False
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in (
        "arm",
        "seeds",
        "epochs",
        "trainable",
        "parameters",
        "an epoch",
        "a trial",
        "left to run",
    ):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in found.rows:
        mark = " (baseline)" if row.baseline else ""
        table.add_row(
            escape(row.arm) + mark,
            row.seeds,
            str(row.epochs),
            f"{row.trainable:,}",
            f"{row.total:,}",
            f"{row.epoch_s:.1f} s",
            duration(row.trial_s),
            str(row.left),
        )
    console.print(table)
    for line in (*found.lines, *seed_advice(plan, folder)):
        console.print(line, highlight=False, soft_wrap=True)
