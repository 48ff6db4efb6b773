"""What is printed when a launch has ended."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from suite.config import SweepSpec
from suite.console.output import duration
from suite.core.redaction import redacted
from suite.tracking.uri import tracking_uri_of

if TYPE_CHECKING:  # pandas takes half a second to import
    import pandas as pd

    from suite.launch import LaunchResult


def print_summary(
    spec: SweepSpec,
    ended: LaunchResult,
    arms: pd.DataFrame,
    uri: str | None,
    page: Path | None,
    only: Sequence[str],
    console: Console,
) -> None:
    from rich.table import Table

    if uri is None and ended.exit_code == 0 and not ended.message:
        console.print("the file works; nothing of this was kept", highlight=False)
    elif len(arms) and spec.objective.name in arms:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("arm")
        for name in ("seeds", spec.objective.name, "test/acc"):
            table.add_column(name, justify="right")
        for row in arms.head(20).to_dict("records"):
            table.add_row(
                escape(str(row["arm"])),
                str(row["seeds"]),
                _cell(row, spec.objective.name),
                _cell(row, "test/acc"),
            )
        console.print(table)
        if len(arms) > 20:
            console.print(f"and {len(arms) - 20} more arms", highlight=False)
    items = [item for item in ended.history.in_plan() if uri or not only or item.trial.arm in only]
    if ended.message and not items:
        console.print(f"{spec.name}: {ended.message}", highlight=False)
        return
    settled = sum(item.ended for item in items)
    failed = [item for item in items if item.status == "failed"]
    for item in failed[:5]:
        line = f"failed: {item.trial.name}: {item.reason}"
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    if len(failed) > 5:
        console.print(f"and {len(failed) - 5} more failed", style="red")
    whole = settled == len(items)
    state = (
        "already complete"
        if whole and not ended.ran and not failed
        else "complete"
        if whole
        else "unfinished"
    )
    console.print(
        f"{spec.name}: {state} ({settled}/{len(items)} trials, {duration(ended.seconds)})",
        highlight=False,
    )
    if spec.looks and whole:
        most = len(spec.arms_list) * len(spec.seeds)
        console.print(
            f"seeds until decided: {len(items)} of at most {most} trials were needed",
            highlight=False,
        )
    if ended.message:
        console.print(ended.message, style="yellow", highlight=False)
    if failed:
        console.print("run failed trials again with --retry-errored", highlight=False)
    if ended.exit_code == 4:
        text = (
            "tracking is not fully synced; launching again, or `python -m suite.doctor --fix`, "
            "sends what is missing"
        )
        console.print(text, style="yellow", soft_wrap=True)
    if ended.champion in ended.history.trials:
        name = ended.history.trials[ended.champion].trial.name
        why = "" if spec.checkpoints.keep else ": checkpoints.keep is 0"
        where = (
            f", as models:/{spec.name}@champion" if ended.registered else f", not registered{why}"
        )
        console.print(
            f"champion: {name}{where if uri else ''}", markup=False, highlight=False, soft_wrap=True
        )
    if page is not None:
        console.print(f"report: {os.path.relpath(page)}", highlight=False, soft_wrap=True)
    if uri is not None and ended.page:
        console.print(f"browse: {_browse(uri, ended.page)}", highlight=False, soft_wrap=True)


def _browse(uri: str, page: str) -> str:
    """How to see the runs: the server's page, or the command that serves it."""
    if uri.startswith("http"):
        return redacted(uri).rstrip("/") + page
    command = (
        "mlflow ui"
        if uri == tracking_uri_of(None)
        else f"mlflow ui --backend-store-uri {redacted(uri)}"
    )
    return f"{command}   then http://127.0.0.1:5000{page}"


def _cell(row: Mapping[Hashable, Any], name: str) -> str:
    mean, low, high = (row.get(key) for key in (name, f"{name} low", f"{name} high"))
    if mean is None or mean != mean:
        return ""
    if low is None or low != low or high is None:
        return f"{mean:.4f}"
    if abs((low + high) / 2 - mean) > 1e-9:  # 0 or 1 cuts the interval off
        return f"{mean:.4f} [{low:.4f}, {high:.4f}]"
    return f"{mean:.4f} ± {(high - low) / 2:.4f}"
