"""A whole launch in one process, and its end at any sync or rename.

Everything of the suite runs as it does for a user (sweep file, plan, journal, checkpoints, tracking
in a real MLflow store) but for Ray, whose place a loop over the packs takes: a launch then takes a
second, so hundreds of crashes can be looked at. What Ray adds is tested with real sweeps in
``test_signals.py``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
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
    from suite.storage import checkpoint

    def save(
        folder: Path, files: Any, *, trial: str, epoch: int, step: int, allowed: Any = None
    ) -> Path:
        target = folder / checkpoint._name(epoch, step)
        target.mkdir(parents=True, exist_ok=True)
        checkpoint._write_text(
            target / checkpoint.MANIFEST, f'{{"epoch": {epoch}, "step": {step}}}'
        )
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
def folders_not_synced() -> None:
    """Files reach the disk, and their names do not."""
    real = os.fsync
    os.fsync = lambda handle: None if stat.S_ISDIR(os.fstat(handle).st_mode) else real(handle)


@broken
def runs_by_memory() -> None:
    """Each launch makes its runs anew, as Ray's own callback does."""
    from suite.tracking import MlflowStore

    MlflowStore.load = lambda self: setattr(self, "_experiment", self._experiment_of()) or {}  # type: ignore[attr-defined]

    def experiment_of(self: Any) -> str:
        found = self._client().get_experiment_by_name(self.sweep)
        return str(found.experiment_id) if found else None  # type: ignore[return-value]

    MlflowStore._experiment_of = experiment_of  # type: ignore[attr-defined]


# ---- in the process ------------------------------------------------------------------------------


def launch(
    folder: str, at: int = 0, build: str = "", options: dict[str, Any] | None = None
) -> None:
    """Launch ``sweep.yaml`` in ``folder``; ends this process with its exit code, or with SIGKILL at
    the point ``at``.

    Args:
        at: the crash point, from 1; 0 = none. ``points`` in the folder counts those that were
            reached.
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

    from suite.core.errors import SuiteError
    from suite.launch import Options
    from suite.sweep import api

    code = 1
    try:
        with Path("output.txt").open("a") as file:
            console = Console(file=file, width=200)
            code = api.run(
                "sweep.yaml",
                options=Options(**(options or {})),
                report=False,
                console=console,
                storage_path="runs",
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

    Lines of ``synced`` are what a power cut is worked out from, ``[inode, ...]`` each: of a file
    how much of it a sync made safe, of a folder which names, and null for a folder that was made,
    as the inode may have been another's. A link in ``kept`` stays of every file that is safe.
    """

    def __init__(self, at: int) -> None:
        self.at, self.count, self.lock = at, 0, threading.Lock()
        self.points = os.open("points", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self.synced = os.open("synced", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.folder = Path.cwd()
        Path("kept").mkdir(exist_ok=True)
        for name in HOOKED:
            setattr(os, name, self._hooked(name, getattr(os, name)))
        os.mkdir = self._making(os.mkdir)

    def _hooked(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._reach()
            safe = (
                self._safe(arguments[0]) if name == "fsync" else b""
            )  # what comes while it syncs is not
            result = real(*arguments, **options)
            os.write(self.synced, safe)
            self._reach()
            return result

        return call

    def _making(self, real: Callable[..., None]) -> Callable[..., None]:
        def mkdir(path: Any, *arguments: Any, **options: Any) -> None:
            real(path, *arguments, **options)
            with suppress(OSError):  # a path below an open folder: none of ours
                os.write(self.synced, _line(Path(path).stat().st_ino, None))

        return mkdir

    def _safe(self, handle: int) -> bytes:
        path, state = Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle)
        if path != self.folder and self.folder / "runs" not in (path, *path.parents):
            return b""
        if not stat.S_ISDIR(state.st_mode):
            self._keep(path, state.st_ino)
            return _line(state.st_ino, state.st_size)
        names = {each.name: [each.inode(), each.is_dir()] for each in os.scandir(path)}
        if path == self.folder:  # what else is there is the user's, and MLflow's
            names = {name: facts for name, facts in names.items() if name == "runs"}
        for name, (inode, is_folder) in names.items():
            if not is_folder:
                self._keep(path / name, inode)
        return _line(state.st_ino, names)

    def _keep(self, path: Path, inode: int) -> None:
        with suppress(FileExistsError, FileNotFoundError):
            os.link(path, self.folder / "kept" / str(inode))

    def _reach(self) -> None:
        with self.lock:
            self.count += 1
            os.pwrite(self.points, f"{self.count:9d}".encode(), 0)
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def _note_epochs() -> None:
    """``trained`` gets a line for each epoch that is trained, whatever becomes of its record, and
    ``told`` one for each that the journal tells others of.
    """
    from suite.storage.journal import Journal
    from suite.training import state
    from suite.training.trainer import Trainer

    state.SAVE_EVERY_S = 0.0
    record_epoch = Trainer._record_epoch

    def close(self: Any) -> Any:
        with Path("trained").open("a") as file:
            file.write(f"{self.trial.id} {self.epoch + 1}\n")
        return record_epoch(self)

    Trainer._record_epoch = close  # type: ignore[method-assign]
    opened = Journal.__init__

    def tell(entry: dict[str, Any]) -> None:
        if entry["kind"] == "epoch":
            with Path("told").open("a") as file:
                file.write(f"{entry['id']} {entry['epoch']}\n")

    def open_(self: Any, *arguments: Any) -> None:
        opened(self, *arguments)
        self.subscribe(tell)

    Journal.__init__ = open_  # type: ignore[method-assign]


def _leave_ray_out() -> None:
    import ray

    from suite.execution import ray_session, tuner
    from suite.execution.worker import TrialRunner

    @contextmanager
    def running(address: str | None, verbose: bool) -> Iterator[dict[str, float]]:
        yield {"CPU": 1.0}

    def run_packs(
        following: Any, *, shared: Any, callback: Any, stop: Any, scheduler: Any = None,
        on_complete: Any = lambda trial_id, failed: None, **others: Any,
    ) -> None:  # fmt: skip
        while not stop.requested and (pack := following()) is not None:
            trial = SimpleNamespace(config={"pack": pack})
            members = [TrialRunner(shared, request) for request in pack]
            callback.on_trial_start(0, [], trial)
            while left := [member for member in members if not member.done]:
                events = [event for member in left for event in member.advance()]
                callback.on_trial_result(0, [], trial, {"events": events})
            callback.on_trial_complete(0, [], trial)
            for request in pack:
                on_complete(request.trial.id, False)

    ray_session.running, tuner.run_packs = running, run_packs
    ray.put = ray.get = lambda value: value


# ---- in the test ---------------------------------------------------------------------------------


class Processes:
    """Forks launches from a process that has imported everything."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["preload", "inline"])
        kept = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), kept]
        )  # it passes over sys.path
        try:
            forkserver.ensure_running()
        finally:
            os.environ["PYTHONPATH"] = kept

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


def cut_power(folder: Path, names: bool = False) -> int:
    """Undo what was written below ``runs/`` and never synced; how many files lost something.

    Args:
        names: a folder that was not synced since loses new files, and has old names back. Disks may
            do either.
    """
    sizes: dict[int, int] = {}
    made: Counter[int] = Counter()  # an inode may be given to one folder after another
    listed: dict[tuple[int, int], dict[str, tuple[int, int | None]]] = {}
    for line in (folder / "synced").read_text().splitlines():
        inode, safe = json.loads(line)
        if safe is None:
            made[inode] += 1
        elif isinstance(safe, int):
            sizes[inode] = safe
        else:
            listed[inode, made[inode]] = {
                name: (child, made[child] if is_folder else None)
                for name, (child, is_folder) in safe.items()
            }

    def lay(target: Path, inode: int, birth: int) -> None:
        for name, (child, born) in listed.get((inode, birth), {}).items():
            if born is None:
                safe_one = folder / "kept" / str(child)
                if safe_one.exists():
                    os.link(safe_one, target / name)
                # Another thread's draft, seen when its folder was synced: the name is safe, the
                # content is not.
                else:
                    (target / name).touch()
            else:
                (target / name).mkdir()
                lay(target / name, child, born)

    runs, lost = folder / "runs", 0
    before = {path.relative_to(folder) for path in runs.rglob("*") if path.is_file()}
    if names and runs.exists():
        root = folder.stat().st_ino
        shutil.rmtree(runs)
        lay(folder, root, made[root])
    after = [path for path in runs.rglob("*") if path.is_file() and path.name != "lock"]
    for path in after:
        state = path.stat()
        if state.st_size > sizes.get(state.st_ino, 0):
            os.truncate(path, sizes.get(state.st_ino, 0))
            lost += 1
    if names:
        _all_is_safe(folder)
    return lost + len(before ^ {path.relative_to(folder) for path in after})


def _all_is_safe(folder: Path) -> None:
    """What a power cut left is on the disk."""
    lines = []
    for path in (folder, *(folder / "runs").rglob("*"), folder / "runs"):
        if path.is_dir():
            inside = [folder / "runs"] if path == folder else path.iterdir()
            safe: Any = {
                each.name: [each.stat().st_ino, each.is_dir()] for each in inside if each.exists()
            }
        elif path.exists():
            safe = path.stat().st_size
        else:
            continue
        lines.append(_line(path.stat().st_ino, safe))
    (folder / "synced").write_bytes(b"".join(lines))


def _line(inode: int, safe: Any) -> bytes:
    return json.dumps([inode, safe]).encode() + b"\n"


def copy(source: Path, target: Path) -> Path:
    """A folder's copy, e.g. of one with an empty MLflow store in it."""
    shutil.copytree(source, target)
    return target
