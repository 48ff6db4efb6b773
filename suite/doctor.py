"""``python -m suite.doctor [--fix]``: find problems of this machine, its sweeps, or a cluster file.

Checks versions, disks, GPUs and the tracking store, and every sweep below ``--storage-path``: its
lock, its journal, trials that a dead process left running, checkpoints, and which entries MLflow
lacks. ``--fix`` repairs sweeps that no process runs; it never changes results. Exit codes: 0 no
problem, or all fixed; 2 a cluster file is wrong; 6 another problem.
"""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click
from rich.console import Console

from suite import tracking
from suite.console.output import exit_codes, standard
from suite.core.errors import (
    EnvironmentProblem,
    LockedError,
    ProblemsError,
    SuiteError,
    UsageError,
    raise_problems,
)
from suite.core.records import Status
from suite.core.redaction import redacted
from suite.storage.bucket import is_bucket
from suite.storage.journal import FILE_NAME, History, Journal, Lock, close_stale, read
from suite.system import disk, environment
from suite.tracking.uri import tracking_uri_of

MIN_FREE = 2 * 2**30  # bytes below which a disk is called low
SEND_S = 120.0  # for a sweep's journal to reach the store
CURSOR = "tracking.json"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        about: what was checked, in a word or two.
        text: the result.
        remedy: what to do; "" if there is no problem.
        fixed: whether ``--fix`` repaired it.
    """

    about: str
    text: str
    remedy: str = ""
    fixed: bool = False

    @property
    def well(self) -> bool:
        """Whether nothing is left to do."""
        return self.fixed or not self.remedy


def examine(storage: Path, uri: str, fix: bool) -> Iterator[Finding]:
    """Check everything but cluster files; yields each result as soon as it is known.

    Args:
        storage: folder of the sweeps' folders.
        uri: the tracking store, absolute.
        fix: whether to repair.
    """
    yield _versions()
    yield _gpus()
    yield from _disks(storage)
    store = _store(uri)
    yield store
    if storage.exists() and not storage.is_dir():
        remedy = "Move it away, or name the sweeps' folder: --storage-path."
        yield Finding("sweeps", f"{storage} is not a folder", remedy)
    for journal in sorted(storage.glob(f"*/{FILE_NAME}")):
        yield from _sweep(journal.parent, uri, fix, store.well)


# ---- the machine ---------------------------------------------------------------------------------


def _versions() -> Finding:
    packages = ("ray", "mlflow", "torch", "torchvision", "optuna")
    text = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    try:
        environment.check_floors()
    except EnvironmentProblem as error:
        return Finding(
            "versions",
            "; ".join(problem.rule for problem in error.problems),
            error.problems[0].remedy,
        )
    return Finding("versions", f"Python {platform.python_version()}, {text}")


def _gpus() -> Finding:
    """The GPUs that torch can use, and those that the driver sees."""
    import torch

    there = 0
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=20
        )
        there = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there > usable:
        return Finding(
            "GPUs",
            f"the driver sees {there}, torch {torch.__version__} can use {usable}",
            "Install the torch that fits the driver; look at CUDA_VISIBLE_DEVICES.",
        )
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(usable))
    return Finding("GPUs", names or "none: sweeps run on the CPU")


def _disks(storage: Path) -> Iterator[Finding]:
    from suite import data

    for about, place in (
        ("results", storage),
        ("cache", data.cache_folder()),
        ("Ray's files", Path("/tmp/ray")),
    ):
        there = disk.free(place)
        low = (
            "Make room there: checkpoints, decoded images and Ray's files need some."
            if there < MIN_FREE
            else ""
        )
        yield Finding(f"disk, {about}", f"{disk.size(there)} free at {place}", low)


def _store(uri: str) -> Finding:
    """Whether the tracking store can be used, with the installed MLflow's schema."""
    about = f"tracking in {redacted(uri)}"
    try:
        store = tracking.MlflowStore("doctor", uri, tracking.default_artifacts(uri), "")
        tracking.Projection(store).check()
    except EnvironmentProblem as error:
        problem = error.problems[0]
        return Finding(about, problem.rule, problem.remedy)
    return Finding(about, "can be used")


# ---- a sweep -------------------------------------------------------------------------------------


def _sweep(folder: Path, uri: str, fix: bool, reachable: bool) -> Iterator[Finding]:
    """A sweep's folder; skipped while a process runs the sweep."""
    name = folder.name
    try:
        entries = read(folder / FILE_NAME)
        lock = Lock(folder)
    except LockedError as error:
        yield Finding(name, str(error).splitlines()[0].removeprefix("this sweep is already "))
        return
    except ProblemsError as error:
        yield Finding(name, str(error.problems[0]), error.problems[0].remedy)
        return
    try:
        if not entries:
            yield Finding(name, "nothing was run yet")
            return
        yield _stale(folder, entries, fix)
        yield from _checkpoints(folder, History(entries), fix)
        if reachable:
            yield _tracked(folder, uri, fix)
    finally:
        lock.release()


def _stale(folder: Path, entries: list[dict[str, object]], fix: bool) -> Finding:
    """Trials that are running by the journal, while no process holds the lock."""
    history = History(entries)
    stale = sum(trial.status is Status.RUNNING for trial in history.trials.values())
    ended = sum(trial.ended for trial in history.in_plan())
    state = f"{ended} of {len(history.plan)} trials ended"
    if not stale and entries[-1]["kind"] == "close":
        return Finding(folder.name, state)
    text = f"{state}; its process died, {stale} trials were running"
    if not fix:
        return Finding(
            folder.name, text, "Launch it again to continue, or close its runs with --fix."
        )
    journal = Journal(folder / FILE_NAME)
    try:
        close_stale(history, lambda kind, **fields: history.feed(journal.append(kind, **fields)))
        journal.append("close", status="interrupted", counts=history.counts())
        written = journal.flush(10.0)
    finally:
        journal.close()
    return Finding(
        folder.name,
        f"{text}: closed",
        "" if written else "The disk is full: make room.",
        fixed=written,
    )


def _checkpoints(folder: Path, history: History, fix: bool) -> Iterator[Finding]:
    """Damaged checkpoints, drafts of killed workers, changed results, missing checkpoints."""
    from suite.storage import checkpoint

    damaged, drafts = [], []
    for trial in sorted((folder / "trials").glob("*")):
        corrupt = checkpoint.damaged(trial / "checkpoints", trial.name)
        damaged += corrupt
        drafts += list((trial / "checkpoints").glob(".tmp-*"))
        if fix and corrupt:
            checkpoint.newest(trial / "checkpoints", trial.name)
    if damaged:
        text = f"{len(damaged)} damaged checkpoints: {', '.join(str(path) for path in damaged[:3])}"
        remedy = (
            "A launch skips them and continues from the one before; --fix renames them to "
            "*.corrupt."
        )
        yield Finding(folder.name, text + (": set aside" if fix else ""), remedy, fixed=fix)
    if drafts:
        if fix:
            for draft in drafts:
                shutil.rmtree(draft, ignore_errors=True)
        text = f"{len(drafts)} half-written checkpoints of killed workers"
        yield Finding(
            folder.name, text + (": removed" if fix else ""), "--fix removes them.", fixed=fix
        )
    results = [
        path
        for planned in history.in_plan()
        for name, digest in planned.end.get("sha256", {}).items()
        if (path := folder / "trials" / planned.trial.id / name).exists()
        and checkpoint.digest(path) != digest
    ]
    if results:
        listed = ", ".join(str(path) for path in results[:3])
        text = f"{len(results)} files differ from what was written: {listed}"
        remedy = "The disk or somebody changed them; --force --only ARM trains their arm again."
        yield Finding(folder.name, text, remedy)
    missing = [
        planned.trial.name
        for planned in history.in_plan()
        if planned.status is Status.FINISHED
        and planned.kept
        and not (folder / "trials" / planned.trial.id / "best.pt").exists()
    ]
    if missing:
        remedy = "suite.replay RUN trains it again; its figures are complete."
        yield Finding(
            folder.name, f"no best.pt of {', '.join(missing[:3])} ({len(missing)} in all)", remedy
        )


def _tracked(folder: Path, uri: str, fix: bool) -> Finding:
    """How many entries the store lacks; ``fix`` sends them."""
    entries = read(folder / FILE_NAME)
    sent, run = tracking.read_cursor(folder / CURSOR)
    store = tracking.MlflowStore(
        folder.name, uri, tracking.default_artifacts(uri), str(entries[0].get("id", ""))
    )
    tracker = tracking.Projection(store, folder)
    about, behind = f"{folder.name} in MLflow", sum(entry["seq"] > sent for entry in entries)
    try:
        tracker.check()
        known = tracker.run_id(None) if tracking.exists(uri) else None
    except (SuiteError, tracking.TrackingUnavailable) as error:
        return Finding(about, str(error).splitlines()[0], "See the tracking store above.")
    if run and known != run:
        remedy = (
            "Name its store with --tracking-uri; without the store, launch it again, which "
            "creates its runs again."
        )
        return Finding(about, "it was tracked in another store, or its runs were deleted", remedy)
    if not behind:
        return Finding(about, f"all {len(entries)} entries are there")
    if not fix:
        return Finding(
            about, f"{behind} of {len(entries)} entries are not there yet", "Send them with --fix."
        )
    lines: list[str] = []
    sender = tracking.Sender(tracker, folder / CURSOR, lines.append)
    try:
        for entry in entries:
            sender.put(entry)
        sent_all = sender.drain(SEND_S)
    finally:
        sender.close()
    if sent_all:
        return Finding(about, f"{behind} entries sent: all {len(entries)} are there", fixed=True)
    return Finding(
        about,
        f"not all could be sent: {lines[-1] if lines else 'it takes too long'}",
        "Try again later.",
    )


# ---- the command line ----------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--fix",
    is_flag=True,
    help="Close stale runs, send missing entries to MLflow, rename damaged checkpoints.",
)
@click.option(
    "--storage-path",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of the sweeps' folders; with FILES: s3://... where that is an object store.",
)
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="MLflow's store. Default: MLFLOW_TRACKING_URI, else ./mlflow.db.",
)
def main(files: tuple[Path, ...], fix: bool, storage_path: Path, tracking_uri: str | None) -> None:
    """Find problems, and with --fix repair them. With FILES, check these cluster files instead.

    \b
      python -m suite.doctor                  # this machine, and the sweeps below runs/
      python -m suite.doctor --fix      # after a crash or an outage: close and send what was left
      python -m suite.doctor cluster.yaml     # before `ray up cluster.yaml`
    """
    console = standard()
    with exit_codes():
        if files:
            _cluster_files(console, files, is_bucket(storage_path))
            return
        if is_bucket(storage_path):
            raise UsageError(
                f"--storage-path must be a folder here, got {redacted(str(storage_path))}",
                remedy="Launch the sweep again: that closes what was left in an object store, and "
                "sends it.",
            )
        well = True
        for finding in examine(storage_path.absolute(), tracking_uri_of(tracking_uri), fix):
            _show(console, finding)
            well &= finding.well
        console.print(
            f"{socket.gethostname()}: {'no problem left' if well else 'problems found'}",
            highlight=False,
        )
        sys.exit(0 if well else EnvironmentProblem.exit_code)


def _cluster_files(console: Console, files: Sequence[Path], in_a_bucket: bool) -> None:
    """Check cluster files.

    Raises:
        UsageError: lists every problem.
    """
    from suite import cluster_lint

    raise_problems(problem for file in files for problem in cluster_lint.examine(file, in_a_bucket))
    for file in files:
        console.print(f"{file}: no problem found", highlight=False)


def _show(console: Console, finding: Finding) -> None:
    mark, style = (
        ("ok   ", "green")
        if not finding.remedy
        else ("fixed", "green")
        if finding.fixed
        else ("!    ", "red")
    )
    console.print(mark, style=style, end=" ")
    console.print(f"{finding.about}: {finding.text}", markup=False, highlight=False, soft_wrap=True)
    if finding.remedy and not finding.fixed:
        console.print(
            f"          {finding.remedy}",
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
