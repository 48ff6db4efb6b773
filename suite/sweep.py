"""The command ``python -m suite.sweep FILE.yaml``, and the same for notebooks: ``suite.sweep.run``.

Exit codes: 0 all trials finished (or ``--budget`` ran out, and it says so); 1 a bug of ours; 2 the file or the command
line is wrong; 3 some trials failed; 4 tracking not fully synced; 5 another process runs this sweep; 6 data, weights,
folder, disk or tracking server missing; 130 / 143 interrupted, resumable. With 2, 5 and 6
nothing was started and nothing written, but for a disk that filled up meanwhile, which is 6 and resumable too.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from suite import disk, environment
from suite import spec as specs
from suite.bucket import Bucket, is_bucket, reached
from suite.console import duration, exit_codes, standard
from suite.errors import EnvironmentProblem, SuiteError, UsageError
from suite.redaction import redacted
from suite.signals import deaf
from suite.spec import SweepSpec

if TYPE_CHECKING:  # heavy: only once the file is known to be right
    import pandas as pd

    from suite.launch import Ended, Options
    from suite.plan import Plan

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
    with deaf():  # numpy's and torch's own threads, too: see suite.signals
        import torch

        from suite import analysis, tracking
        from suite.console import Board
        from suite.journal import FILE_NAME, History, identity
        from suite.launch import launch

        torch.ones(2**18).sum()  # torch starts its threads at the first sum that is worth it

    folder, bucket = _place(storage, spec.name)

    def make_tracker(journal: str) -> Any:
        if uri is None:
            return tracking.MemoryTracker(spec.name, journal, folder)
        return tracking.MlflowTracker(spec.name, uri, tracking.default_artifacts(uri), journal, folder)

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
    trials = analysis.trials_frame(ended.history.in_plan(), spec.objective, ended.run_ids)
    arms = analysis.arms_frame(trials, spec.objective)
    page = None
    try:
        if uri and report and ended.exit_code in (0, 3) and not ended.message:
            page = _report(spec, uri, console)
    finally:  # whatever becomes of the page, a Ctrl-C too: the sweep has ended
        _last_words(spec, ended, arms, uri, page, options.only, console)
    return SweepResult(spec.name, trials, arms, ended.run_ids, ended.parent_run, uri or "", page, ended.exit_code)


def prepared(spec: SweepSpec, uri: str | None, console: Console) -> Plan:
    """Load data and weights, with a progress bar where images have to be decoded, and check every arm."""
    from suite import tracking
    from suite.plan import prepare

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
        from suite import cluster, nodes

        with cluster.running(options.address, options.verbose):
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
    kept = [override for override in given if override.partition("=")[0].strip() not in small]
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

    from suite.estimate import estimate
    from suite.journal import FILE_NAME
    from suite.launch import check_only

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
    for line in found.lines:
        console.print(line, highlight=False, soft_wrap=True)


# ---- the command line ------------------------------------------------------------------------------------------------


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``2h``, ``1h30m`` -> seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", value.strip())
    parts = [float(part or 0) for part in found.groups()] if found and value.strip() else [0.0]
    total = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if total <= 0:
        raise click.BadParameter(f"must be a time such as 90s, 30m or 2h, got {value!r}")
    return total


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--dry-run", is_flag=True, help="Show every trial and an estimate of time, memory and disk; start nothing."
)
@click.option("--smoke", is_flag=True, help="One epoch and a few batches of each arm, tracked nowhere: the file works.")
@click.option(
    "--resume", is_flag=True, help="Go on where it stopped (also the default); nothing to resume is an error."
)
@click.option("--retry-errored", is_flag=True, help="Run failed trials again.")
@click.option("--force", is_flag=True, help="Run finished trials again.")
@click.option("--only", multiple=True, metavar="ARM", help="Run just this arm; may be given several times.")
@click.option("--budget", callback=_seconds, metavar="TIME", help="Stop cleanly after e.g. 90s, 30m, 2h.")
@click.option("--address", metavar="ADDRESS", help="A running Ray cluster. Default: RAY_ADDRESS, else this machine.")
@click.option("--tracking-uri", metavar="URI", help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.")
@click.option("--storage-path", metavar="FOLDER|s3://BUCKET/PREFIX", default="runs", show_default=True,
              help="Where checkpoints and journals go; a cluster's nodes must share it.")  # fmt: skip
@click.option("--max-concurrent", type=click.IntRange(min=1), metavar="N", help="At most so many trials at once.")
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

    Launching the same file again goes on where it stopped; a new seed, value or arm in it runs only what is new.
    KEY=VALUE changes a setting of the file, with a dotted key:

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
            show_plan(specs.load(file, overrides), console, tracking_uri, storage, only, max_concurrent)
            return
        from suite.launch import Options

        options = Options(resume, force, retry_errored, only, budget, address, max_concurrent, None, verbose)
        result = run(
            file, overrides, options=options, tracking_uri=tracking_uri, storage_path=storage, smoke=smoke,
            report=not no_report, console=console,
        )  # fmt: skip
        sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
