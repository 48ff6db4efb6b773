"""A whole launch in one process, and its end at any sync or rename.

Everything of the suite runs as it does for a user (sweep file, plan, journal, checkpoints, tracking in a real MLflow
store) but for Ray, whose place a loop over the packs takes: a launch then takes a second, so hundreds of crashes can be
looked at. What Ray adds is tested with real sweeps in ``test_signals.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Each makes a launch that a row of the matrix must catch: the controls.
BROKEN: dict[str, Callable[[], None]] = {}
HOOKED = ("fsync", "replace", "rename", "unlink")


def broken(build: Callable[[], None]) -> Callable[[], None]:
    """Register a deliberately broken build."""
    BROKEN[build.__name__] = build
    return build


@broken
def checkpoints_in_place() -> None:
    """Checkpoints are written where they are read, and believed."""
    from suite import checkpoint

    def save(folder: Path, files: Any, *, trial: str, epoch: int, step: int, allowed: Any = None) -> Path:
        target = folder / checkpoint._name(epoch, step)
        target.mkdir(parents=True, exist_ok=True)
        checkpoint._write_text(target / checkpoint.MANIFEST, f'{{"epoch": {epoch}, "step": {step}}}')
        for name, content in files.items():
            checkpoint._write(target / name, content)
        return target

    checkpoint.save = save
    checkpoint._damage = lambda candidate, trial: None


@broken
def nothing_synced() -> None:
    """No sync reaches the disk."""
    os.fsync = lambda handle: None


@broken
def runs_by_memory() -> None:
    """Each launch makes its runs anew, as Ray's own callback does."""
    from suite.tracking import MlflowTracker

    MlflowTracker._load = lambda self: setattr(self, "_experiment", self._experiment_of()) or {}  # type: ignore[attr-defined]

    def experiment_of(self: Any) -> str:
        found = self._client().get_experiment_by_name(self.sweep)
        return str(found.experiment_id) if found else None  # type: ignore[return-value]

    MlflowTracker._experiment_of = experiment_of  # type: ignore[attr-defined]


# ---- in the process --------------------------------------------------------------------------------------------------


def launch(folder: str, at: int = 0, build: str = "", options: dict[str, Any] | None = None) -> None:
    """Launch ``sweep.yaml`` in ``folder``; ends this process with its exit code, or with SIGKILL at the point ``at``.

    Args:
        at: the crash point, from 1; 0 = none. ``points`` in the folder counts those that were reached.
        build: a name of ``BROKEN``.
    """
    os.chdir(folder)
    sys.stdout = sys.stderr = Path("output.txt").open("a")  # noqa: SIM115
    _leave_ray_out()
    _note_epochs()
    _Points(at)
    if build:
        BROKEN[build]()
    from rich.console import Console

    from suite import sweep
    from suite.errors import SuiteError
    from suite.launch import Options

    code = 1
    try:
        with Path("output.txt").open("a") as file:
            console = Console(file=file, width=200)
            code = sweep.run(
                "sweep.yaml", options=Options(**(options or {})), report=False, console=console, storage_path="runs"
            ).exit_code
    except SuiteError as error:
        print(f"error: {error}", flush=True)
        code = error.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stdout.flush()
    sys.stdout.flush()
    os._exit(code)


class _Points:
    """Counts what reaches the disk in an order that matters; kills the process at one of them.

    A line of ``synced`` says how much of which file a sync made safe: what a power cut leaves is worked out from it.
    """

    def __init__(self, at: int) -> None:
        self.at, self.count, self.lock = at, 0, threading.Lock()
        self.points = os.open("points", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self.synced = os.open("synced", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for name in HOOKED:
            setattr(os, name, self._hooked(name, getattr(os, name)))

    def _hooked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._reach()
            result = real(*arguments, **options)
            if name == "fsync":
                state = os.fstat(arguments[0])
                os.write(self.synced, f"{state.st_ino} {state.st_size}\n".encode())
            self._reach()
            return result

        return call

    def _reach(self) -> None:
        with self.lock:
            self.count += 1
            os.pwrite(self.points, f"{self.count:9d}".encode(), 0)
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def _note_epochs() -> None:
    """``trained`` gets a line for each epoch that is trained, whatever becomes of its record."""
    from suite import train

    train.SAVE_EVERY_S = 0.0
    kept = train.Training._close_epoch

    def close(self: Any) -> Any:
        with Path("trained").open("a") as file:
            file.write(f"{self.trial.id} {self.epoch + 1}\n")
        return kept(self)

    train.Training._close_epoch = close  # type: ignore[method-assign]


def _leave_ray_out() -> None:
    import ray

    from suite import tuner
    from suite.trainable import Member

    @contextmanager
    def cluster(address: str | None, verbose: bool) -> Iterator[dict[str, float]]:
        yield {"CPU": 1.0}

    def run_packs(
        following: Any, *, shared: Any, callback: Any, stop: Any, scheduler: Any = None,
        on_complete: Any = lambda trial_id, failed: None, **others: Any,
    ) -> None:  # fmt: skip
        while not stop.requested and (pack := following()) is not None:
            trial = SimpleNamespace(config={"pack": pack})
            members = [Member(shared, **payload) for payload in pack]
            callback.on_trial_start(0, [], trial)
            while left := [member for member in members if not member.done]:
                outcomes = [outcome for member in left for outcome in member.advance()]
                callback.on_trial_result(0, [], trial, {"outcomes": outcomes})
            callback.on_trial_complete(0, [], trial)
            for payload in pack:
                on_complete(payload["trial"]["id"], False)

    tuner.cluster, tuner.run_packs = cluster, run_packs
    ray.put = ray.get = lambda value: value


# ---- in the test -----------------------------------------------------------------------------------------------------


class Processes:
    """Forks launches from a process that has imported everything."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["preload", "inline"])

    def launch(self, folder: Path, at: int = 0, build: str = "", **options: Any) -> int:
        """The exit code of a launch; -9 where it was killed."""
        process = self.context.Process(target=launch, args=(str(folder), at, build, options))
        process.start()
        process.join(120)
        assert process.exitcode is not None, "the launch hangs"
        return process.exitcode


def points(folder: Path) -> int:
    """How many crash points the last launch reached."""
    return int((folder / "points").read_text())


def cut_power(folder: Path) -> int:
    """Undo what was written below ``runs/`` and never synced; how many files lost something."""
    synced: dict[int, int] = {}
    for line in (folder / "synced").read_text().splitlines():
        inode, size = map(int, line.split())
        synced[inode] = size
    lost = 0
    for path in (folder / "runs").rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name != "lock":
            state = path.stat()
            if state.st_size > synced.get(state.st_ino, 0):
                os.truncate(path, synced.get(state.st_ino, 0))
                lost += 1
    return lost


def copy(source: Path, target: Path) -> Path:
    """A folder's copy, e.g. of one with an empty MLflow store in it."""
    shutil.copytree(source, target)
    return target
