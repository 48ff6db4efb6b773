"""Load images and weights and check every arm, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from suite.config import SweepSpec
from suite.core.errors import EnvironmentProblem
from suite.system import disk, environment
from suite.tracking.uri import tracking_uri_of

if TYPE_CHECKING:  # imports torch
    from suite.launch import Options
    from suite.planning.plan import Plan


def prepare_plan(spec: SweepSpec, uri: str | None, console: Console) -> Plan:
    """Load data and weights, with a progress bar where images have to be decoded, and check
    every arm.
    """
    from suite import tracking
    from suite.planning.plan import prepare

    def fetch(address: str) -> Path:
        return tracking.resolve_weights(uri or tracking_uri_of(None), address)

    with _decoding(console) as report:
        return prepare(spec, fetch, report)


@contextmanager
def _decoding(console: Console) -> Iterator[Any]:
    columns = (
        TextColumn("decoding images"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("decode", total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def check_disk_space(storage: Path, plan: Plan, options: Options) -> None:
    """Whether the checkpoints of as many trials as run at once fit beside what is there."""
    slots = max(1, environment.cores() // plan.spec.resources.least_cpu)
    text = disk.lacking(
        storage, min(slots, options.max_concurrent or slots) * plan.trial_bytes, "checkpoints"
    )
    if text:
        raise EnvironmentProblem(
            text, remedy="Make room there, or name another folder with --storage-path."
        )
