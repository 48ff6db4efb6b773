"""Run a sweep file from Python: what ``suite.sweep`` offers to notebooks and to the command."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from suite import config as specs
from suite.config import SweepSpec
from suite.console.output import duration, standard
from suite.core.errors import EnvironmentProblem, SuiteError, UsageError
from suite.core.redaction import redacted
from suite.storage.bucket import Bucket, is_bucket, reached
from suite.system import disk, environment
from suite.system.signals import deaf

if TYPE_CHECKING:  # heavy: only once the file is known to be right
    import pandas as pd

    from suite.launch import Ended, Options
    from suite.planning.plan import Plan

SMOKE_BATCHES = 2
SMOKE_ARMS = 4  # suggestions of a search that a smoke run tries


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind.

    Attributes:
        name: the sweep's.
        trials: one row per trial: arm, seed, what varies, status, all figures at the epoch that speaks for it, run_id.
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
    tracking_uri: str = field(default="", repr=False)  # a notebook keeps what it shows; there may be a password in it
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
        tracking_uri: MLflow's store; default MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working folder.
        storage_path: folder of the sweeps' folders, or ``s3://bucket/prefix``.
        smoke: one epoch and a few batches of each trial, tracked nowhere.
        report: write ``reports/<sweep>/`` in the working folder when all trials have ended.
        console: where progress is shown; ``Console(quiet=True)`` for none.

    Raises:
        UsageError, EnvironmentProblem, LockedError: nothing was started.
    """
    from suite.launch import Options

    console = console or standard()
    spec = specs.load(path, overrides)
    if smoke:
        spec = specs.load(path, _smoke_overrides(spec, overrides))
    options = options or Options()
    storage = storage_of(storage_path)
    if smoke:
        place = None
        if _on_cluster(options):  # its nodes see no folder of this machine's
            place = _existing(storage if isinstance(storage, Path) else Path.cwd())
        with tempfile.TemporaryDirectory(prefix="suite-smoke-", dir=place) as folder:
            return _run(spec, replace(options, limit_batches=SMOKE_BATCHES), None, Path(folder), False, console)
    return _run(spec, options, tracking_uri_of(tracking_uri), storage, report, console)


def _run(
    spec: SweepSpec, options: Options, uri: str | None, storage: Path | Bucket, report: bool, console: Console
) -> SweepResult:
    """``uri`` None: tracked in memory only."""
    with deaf():  # numpy's and torch's own threads, too: see suite.system.signals
        import torch

        from suite import analysis, tracking
        from suite.console.board import Board
        from suite.launch import launch
        from suite.storage.journal import FILE_NAME, History, identity

        torch.ones(2**18).sum()  # torch starts its threads at the first sum that is worth it

    folder, bucket = _place(storage, spec.name)

    def make_tracker(journal: str) -> tracking.Tracker:
        if uri is None:
            return tracking.Projection(tracking.MemoryStore(spec.name, journal), folder)
        store = tracking.MlflowStore(spec.name, uri, tracking.default_artifacts(uri), journal)
        return tracking.Projection(store, folder)

    environment.check_floors()
    if uri is not None:
        tracking.warm()
    plan = prepared(spec, uri, console)
    if bucket is not None:
        bucket.check()
        with reached(bucket.address):
            bucket.take_journal(folder / FILE_NAME)
    make_tracker(identity(folder / FILE_NAME)).check()
    _writable(folder.parent)
    _roomy(folder.parent, plan, options)
    board = Board(spec.name, History(), spec.objectives, console)
    with _cluster(spec, options, folder, bucket, console):
        ended = launch(plan, folder, make_tracker, options, board, bucket)
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
        _last_words(spec, ended, arms, uri, page, options.only, console)
    return SweepResult(spec.name, trials, arms, ended.run_ids, ended.parent_run, uri or "", page, ended.exit_code)


def _lost_last(arms: pd.DataFrame, lost: Iterable[str]) -> pd.DataFrame:
    """Arms that lost seeds after all others: the mean of their survivors is no lead."""
    return arms.sort_values("arm", key=lambda names: names.isin(list(lost)), kind="stable", ignore_index=True)


def prepared(spec: SweepSpec, uri: str | None, console: Console) -> Plan:
    """Load data and weights, with a progress bar where images have to be decoded, and check every arm."""
    from suite import tracking
    from suite.planning.plan import prepare

    def fetch(address: str) -> Path:
        return tracking.resolve_weights(uri or tracking_uri_of(None), address)

    with _decoding(console) as report:
        return prepare(spec, fetch, report)


@contextmanager
def _decoding(console: Console) -> Iterator[Any]:
    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("decode", total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


def tracking_uri_of(tracking_uri: str | None) -> str:
    """The store to use: the argument, else MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working folder."""
    from suite import tracking

    return tracking.default_uri(tracking_uri, Path.cwd())


def storage_of(storage_path: str | Path | Bucket) -> Path | Bucket:
    """Where the sweeps' folders are: a folder, absolute, or a place in an object store.

    Raises:
        UsageError: for an address of another kind.
    """
    if isinstance(storage_path, Bucket):
        return storage_path
    if is_bucket(storage_path):
        return Bucket(str(storage_path))
    if re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/", str(storage_path)):
        raise UsageError(
            f"--storage-path must be a folder or s3://bucket/prefix, got the address {redacted(str(storage_path))}",
            remedy="Mount a file system that all nodes share (NFS, EFS, Filestore), and name a folder in it; or use "
            "the S3 interface of the store, with AWS_ENDPOINT_URL_S3.",
        )
    return Path(storage_path).absolute()


def _place(storage: Path | Bucket, name: str) -> tuple[Path, Bucket | None]:
    """A sweep's folder; with an object store its place there, and the folder of its working copy here."""
    if isinstance(storage, Path):
        return storage / name, None
    from suite import data

    place = storage / name
    return place.working_folder(data.cache_folder()) / name, place


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _on_cluster(options: Options) -> bool:
    """Whether trials run on a Ray that others started, here or elsewhere."""
    ray = sys.modules.get("ray")
    return bool(options.address or os.environ.get("RAY_ADDRESS") or (ray is not None and ray.is_initialized()))


@contextmanager
def _cluster(
    spec: SweepSpec, options: Options, folder: Path, bucket: Bucket | None, console: Console
) -> Iterator[None]:
    """A cluster is met, and its nodes asked for the sweep's folder, before anything is written; on this machine alone,
    only the cores are counted.
    """
    if _on_cluster(options):
        from suite.execution import nodes, ray_session

        with ray_session.running(options.address, options.verbose):
            wanted = spec.resources
            nodes.wait_for_workers(wanted.least_cpu, wanted.gpu, partial(console.print, highlight=False))
            with reached(bucket.address) if bucket is not None else nullcontext():
                nodes.check_storage(folder, bucket)
            yield
        return
    cores = environment.cores()
    if spec.resources.least_cpu > cores and "ray" not in sys.modules:
        raise EnvironmentProblem(
            f"resources.cpu must be at most the CPUs that there are, got {spec.resources.cpu}, there are {cores}",
            place=spec.where("resources.cpu"),
            remedy=f"Lower it: resources.cpu={cores} on the command line; or name a cluster with --address.",
        )
    yield


def _writable(storage: Path) -> None:
    """Whether the sweep's folder can be made and written to, tried where it would be and undone."""
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(storage), prefix=".suite-"):
            pass
    except OSError as error:
        raise EnvironmentProblem(
            f"the folder for results must be writable, got {storage}: {error.strerror}",
            remedy="Name another one with --storage-path.",
        ) from error


def _roomy(storage: Path, plan: Plan, options: Options) -> None:
    """Whether the checkpoints of as many trials as run at once fit beside what is there."""
    slots = max(1, environment.cores() // plan.spec.resources.least_cpu)
    text = disk.lacking(storage, min(slots, options.max_concurrent or slots) * plan.trial_bytes, "checkpoints")
    if text:
        raise EnvironmentProblem(text, remedy="Make room there, or name another folder with --storage-path.")


def _smoke_overrides(spec: SweepSpec, given: Sequence[str]) -> list[str]:
    """The user's overrides, with one epoch and one seed whatever they say."""
    small = {"train.epochs": 1, "train.warmup_epochs": 0, "seeds": f"[{spec.seeds[0]}]"}
    if spec.search:
        small["run_cap"] = min(spec.run_cap, SMOKE_ARMS)
    keys = {override: override.partition("=")[0].strip() for override in given}
    kept = [override for override, key in keys.items() if key not in small and not key.startswith("seeds.")]
    return [*kept, *(f"{key}={value}" for key, value in small.items())]


def _report(spec: SweepSpec, uri: str, console: Console) -> Path | None:
    """The report's page; a report that fails takes nothing from the sweep."""
    from suite import report

    try:
        return report.make(spec.name, uri, Path.cwd() / "reports")
    except SuiteError as error:
        console.print(f"no report: {error}", style="yellow", markup=False, highlight=False)
        return None


def _last_words(
    spec: SweepSpec,
    ended: Ended,
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
                escape(str(row["arm"])), str(row["seeds"]), _cell(row, spec.objective.name), _cell(row, "test/acc")
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
    state = "already complete" if whole and not ended.ran and not failed else "complete" if whole else "unfinished"
    console.print(f"{spec.name}: {state} ({settled}/{len(items)} trials, {duration(ended.seconds)})", highlight=False)
    if spec.looks and whole:
        most = len(spec.arms_list) * len(spec.seeds)
        console.print(f"seeds until decided: {len(items)} of at most {most} trials were needed", highlight=False)
    if ended.message:
        console.print(ended.message, style="yellow", highlight=False)
    if failed:
        console.print("run failed trials again with --retry-errored", highlight=False)
    if ended.exit_code == 4:
        text = "tracking is not fully synced; launching again, or `python -m suite.doctor --fix`, sends what is missing"
        console.print(text, style="yellow", soft_wrap=True)
    if ended.champion in ended.history.trials:
        name = ended.history.trials[ended.champion].trial.name
        why = "" if spec.checkpoints.keep else ": checkpoints.keep is 0"
        where = f", as models:/{spec.name}@champion" if ended.registered else f", not registered{why}"
        console.print(f"champion: {name}{where if uri else ''}", markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"report: {os.path.relpath(page)}", highlight=False, soft_wrap=True)
    if uri is not None and ended.page:
        console.print(f"browse: {_browse(uri, ended.page)}", highlight=False, soft_wrap=True)


def _browse(uri: str, page: str) -> str:
    """How to see the runs: the server's page, or the command that serves it."""
    if uri.startswith("http"):
        return redacted(uri).rstrip("/") + page
    command = "mlflow ui" if uri == tracking_uri_of(None) else f"mlflow ui --backend-store-uri {redacted(uri)}"
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


# ---- the plan, without running it ------------------------------------------------------------------------------------


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
    from suite.storage.journal import FILE_NAME

    check_only(spec, only)

    plan = prepared(spec, tracking_uri, console)
    folder, bucket = _place(storage_of(storage or "runs"), spec.name)
    if bucket is not None:
        bucket.check()
        with reached(bucket.address):
            bucket.take_journal(folder / FILE_NAME)
    found = estimate(plan, folder, only, max_concurrent)
    console.print(f"[bold]{spec.name}[/bold]: {escape(redacted(spec.description))}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("arm", "seeds", "epochs", "trainable", "parameters", "an epoch", "a trial", "left to run"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in found.rows:
        mark = " (baseline)" if row.baseline else ""
        table.add_row(
            escape(row.arm) + mark, row.seeds, str(row.epochs), f"{row.trainable:,}", f"{row.total:,}",
            f"{row.epoch_s:.1f} s", duration(row.trial_s), str(row.left),
        )  # fmt: skip
    console.print(table)
    for line in (*found.lines, *seed_advice(plan, folder)):
        console.print(line, highlight=False, soft_wrap=True)


# ---- the command line ------------------------------------------------------------------------------------------------
