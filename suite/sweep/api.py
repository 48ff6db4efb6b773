"""Run a sweep file from Python: what ``suite.sweep`` offers to notebooks and to the command."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from suite import config as specs
from suite.config import SweepSpec
from suite.console.output import standard
from suite.core.errors import SuiteError
from suite.storage.bucket import Bucket
from suite.sweep.locate import check_writable, locate_sweep, nearest_existing, storage_of
from suite.sweep.prepare import check_disk_space, prepare_plan
from suite.sweep.summary import print_summary
from suite.system import environment
from suite.system.signals import deaf
from suite.tracking.uri import tracking_uri_of

if TYPE_CHECKING:  # heavy: only once the file is known to be right
    import pandas as pd

    from suite.launch import Options

SMOKE_BATCHES = 2
SMOKE_ARMS = 4  # suggestions of a search that a smoke run tries


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind.

    Attributes:
        name: the sweep's.
        trials: one row per trial: arm, seed, what varies, status, all figures at the epoch that
            speaks for it, run_id.
        arms: one row per arm, best first: seeds, mean and 95 % interval over seeds.
        run_ids: trial id -> MLflow run id.
        parent_run: the sweep's own run.
        tracking_uri: where MLflow has it all.
        report: the report's page, None where none was made.
        exit_code: as of the command line.
    """

    name: str
    trials: pd.DataFrame
    arms: pd.DataFrame
    run_ids: dict[str, str] = field(default_factory=dict)
    parent_run: str | None = None
    tracking_uri: str = field(
        default="", repr=False
    )  # a notebook keeps what it shows; there may be a password in it
    report: Path | None = None
    exit_code: int = 0


def run(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    options: Options | None = None,
    tracking_uri: str | None = None,
    storage_path: str | Path | Bucket = "runs",
    smoke: bool = False,
    report: bool = True,
    console: Console | None = None,
) -> SweepResult:
    """Run a sweep file, or what is left of it.

    Args:
        path: the file.
        overrides: ``key=value`` texts with dotted keys.
        options: force, only, budget and the like.
        tracking_uri: MLflow's store; default MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working
            folder.
        storage_path: folder of the sweeps' folders, or ``s3://bucket/prefix``.
        smoke: one epoch and a few batches of each arm, on one seed, tracked nowhere.
        report: write ``reports/<sweep>/`` in the working folder when all trials have ended.
        console: where progress is shown; ``Console(quiet=True)`` for none.

    Raises:
        UsageError, EnvironmentProblem, LockedError: nothing was started.
    """
    from suite.launch import Options
    from suite.launch.cluster import uses_cluster

    console = console or standard()
    spec = specs.load(path, overrides)
    if smoke:
        spec = specs.load(path, _smoke_overrides(spec, overrides))
    options = options or Options()
    storage = storage_of(storage_path)
    if smoke:
        place = None
        if uses_cluster(options):  # its nodes see no folder of this machine's
            place = nearest_existing(storage if isinstance(storage, Path) else Path.cwd())
        with tempfile.TemporaryDirectory(prefix="suite-smoke-", dir=place) as folder:
            return _run(
                spec,
                replace(options, limit_batches=SMOKE_BATCHES),
                None,
                Path(folder),
                False,
                console,
            )
    return _run(spec, options, tracking_uri_of(tracking_uri), storage, report, console)


def _run(
    spec: SweepSpec,
    options: Options,
    uri: str | None,
    storage: Path | Bucket,
    report: bool,
    console: Console,
) -> SweepResult:
    """``uri`` None: tracked in memory only."""
    with deaf():  # numpy's and torch's own threads, too: see suite.system.signals
        import torch

        from suite import analysis, tracking
        from suite.console.board import Board
        from suite.launch import launch
        from suite.launch.cluster import on_cluster
        from suite.storage.journal import FILE_NAME, History, identity

        torch.ones(2**18).sum()  # torch starts its threads at the first sum that is worth it

    place = locate_sweep(storage, spec.name)
    folder = place.folder

    def make_tracker(journal: str) -> tracking.Tracker:
        if uri is None:
            return tracking.Projection(tracking.MemoryStore(spec.name, journal), folder)
        store = tracking.MlflowStore(spec.name, uri, tracking.default_artifacts(uri), journal)
        return tracking.Projection(store, folder)

    environment.check_floors()
    if uri is not None:
        tracking.warm()
    plan = prepare_plan(spec, uri, console)
    place.check()
    place.download_journal()
    make_tracker(identity(folder / FILE_NAME)).check()
    check_writable(folder.parent)
    check_disk_space(folder.parent, plan, options)
    board = Board(spec.name, History(), spec.objectives, console)
    with on_cluster(spec, options, place, console):
        ended = launch(plan, place, make_tracker, options, board)
    items = list(ended.history.in_plan())
    trials = analysis.trials_frame(items, spec.objective, ended.run_ids)
    unseen = analysis.without_search_seed(items, ended.confirmed, spec.search_seed)
    arms = analysis.arms_frame(analysis.trials_frame(unseen, spec.objective), spec.objective)
    judged = [item for item in unseen if not spec.search or item.trial.arm in ended.confirmed]
    arms = _lost_last(arms, analysis.lost_seeds(judged, analysis.baselines(judged)))
    page = None
    try:
        if uri and report and ended.exit_code in (0, 3) and not ended.message:
            page = _report(spec, uri, console)
    finally:  # whatever becomes of the page, a Ctrl-C too: the sweep has ended
        print_summary(spec, ended, arms, uri, page, options.only, console)
    return SweepResult(
        spec.name, trials, arms, ended.run_ids, ended.parent_run, uri or "", page, ended.exit_code
    )


def _lost_last(arms: pd.DataFrame, lost: Iterable[str]) -> pd.DataFrame:
    """Arms that lost seeds after all others: the mean of their survivors is no lead."""
    return arms.sort_values(
        "arm", key=lambda names: names.isin(list(lost)), kind="stable", ignore_index=True
    )


def _smoke_overrides(spec: SweepSpec, given: Sequence[str]) -> list[str]:
    """The user's overrides, with one epoch and one seed whatever they say."""
    small = {"train.epochs": 1, "train.warmup_epochs": 0, "seeds": f"[{spec.seeds[0]}]"}
    if spec.search:
        small["run_cap"] = min(spec.run_cap, SMOKE_ARMS)
    keys = {override: override.partition("=")[0].strip() for override in given}
    kept = [
        override
        for override, key in keys.items()
        if key not in small and not key.startswith("seeds.")
    ]
    return [*kept, *(f"{key}={value}" for key, value in small.items())]


def _report(spec: SweepSpec, uri: str, console: Console) -> Path | None:
    """The report's page; a report that fails takes nothing from the sweep."""
    from suite import report

    try:
        return report.make(spec.name, uri, Path.cwd() / "reports")
    except SuiteError as error:
        console.print(f"no report: {error}", style="yellow", markup=False, highlight=False)
        return None


# ---- the command line ----------------------------------------------------------------------------
