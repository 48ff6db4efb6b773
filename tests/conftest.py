"""What the tests share: small sweep files with a small network of the user's own, and real
processes to run them in.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

# pytest finds its hooks and fixtures in this module
from fault_table import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    tally,
)

REPO = Path(__file__).parent.parent

# A network whose steps take as long as the test needs: SLOW is seconds per training step.
TINY = """
import os, time
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("SLOW", "0")))
            if "STEPS" in os.environ:
                with open(os.environ["STEPS"], "a") as file:
                    file.write(f"{os.getpid()}\\n")
        return self.fc(self.drop(torch.relu(self.bn1(self.conv1(x))).mean((2, 3))))


def build(num_classes):
    return Tiny(num_classes)


class Broken(Tiny):
    def forward(self, x):
        if self.training:
            raise ValueError("the user's own mistake")
        return super().forward(x)


def broken(num_classes):
    return Broken(num_classes)


class Hungry(Tiny):
    def forward(self, x):
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)


def hungry(num_classes):
    return Hungry(num_classes)
"""

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "trial": {
        "data": {"name": "digits", "image_size": 8, "train_size": 400},
        "model": {"arch": "tiny_net:build"},
        "train": {"epochs": 4, "batch_size": 50, "lr": 0.05, "precision": "fp32"},
    },
    "parameters": {"train.lr": {"values": [0.05, 0.2]}},
    "seeds": [0, 1],
    "checkpoints": {
        "keep": 0
    },  # exporting the champion takes 4 s of a processor; tests that are about it keep one
}


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images and probes of the tests are kept apart from the user's."""
    if "SUITE_CACHE" in os.environ:
        yield
        return
    os.environ["SUITE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["SUITE_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """A shell has its background jobs ignore SIGINT, which their children inherit: sweeps of
    tests hear it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _empty_store() -> Path:
    """MLflow's database without a run, as MLflow makes it."""
    file = Path(os.environ["SUITE_CACHE"]) / f"empty-{os.getpid()}" / "mlflow.db"
    if file.exists():  # pytest has this module twice
        return file
    draft = file.parent.with_suffix(".draft")
    draft.mkdir(parents=True, exist_ok=True)
    code = (
        "import sys; from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as S; "
        "S(*sys.argv[1:])"
    )
    uri, artifacts = f"sqlite:///{draft / 'mlflow.db'}", str(draft / "mlartifacts")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, uri, artifacts],
        check=True,
        capture_output=True,
    )
    draft.rename(file.parent)
    return file


class Folder:
    """A working folder with a sweep file in it, and the commands that a user would give there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "tiny_net.py").write_text(TINY)
        self.name = "tiny"
        self.first = False  # whether MLflow's store is not there yet, and the sweep makes it
        self.report = False  # whether sweeps make their report, a fifth of a small launch's work

    def write(self, **changes: Any) -> Path:
        """The sweep file: SWEEP with top-level keys replaced, or dropped where None."""
        content = {key: value for key, value in (SWEEP | changes).items() if value is not None}
        self.name = content["name"]
        file = self.path / "sweep.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    def command(self, *arguments: str, module: str = "suite.sweep") -> list[str]:
        return [sys.executable, "-m", module, *arguments]

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
        }
        return kept | {"PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"} | extra

    def run(
        self, *arguments: str, module: str = "suite.sweep", timeout: float = 200, **extra: str
    ) -> Any:
        """Run a command to its end; stdout and stderr as text."""
        return subprocess.run(
            self.command(*arguments, module=module), cwd=self.path, env=self.environment(**extra),
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def sweep(self, *arguments: str, code: int = 0, **extra: str) -> Any:
        """Run the sweep file and insist on the exit code."""
        if code not in (2, 6):  # what is refused must leave nothing behind
            self._store_as_elsewhere(arguments)
        done = self.run("sweep.yaml", *self._as_asked(arguments), **extra)
        assert done.returncode == code, (
            f"exit code {done.returncode} instead of {code}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        """Start the sweep file in the background, in a process group of its own as a shell
        would.
        """
        self._store_as_elsewhere(arguments)
        return subprocess.Popen(
            self.command("sweep.yaml", *self._as_asked(arguments)),
            cwd=self.path,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _as_asked(self, arguments: tuple[str, ...]) -> list[str]:
        return [
            *arguments,
            *(["--no-report"] if not self.report and "--no-report" not in arguments else []),
        ]

    def _store_as_elsewhere(self, arguments: tuple[str, ...]) -> None:
        """An empty MLflow store, as a user has after the first sweep: its 40 tables take 3 s of
        each new folder.
        """
        elsewhere = self.first or {"--tracking-uri", "--dry-run", "--smoke"} & {*arguments}
        if not elsewhere and not (self.path / "mlflow.db").exists():
            shutil.copy(_empty_store(), self.path / "mlflow.db")

    # ---- what is left behind

    @property
    def journal(self) -> list[dict[str, Any]]:
        """All whole entries of the journal."""
        file = self.path / "runs" / self.name / "journal.jsonl"
        if not file.exists():
            return []
        lines = file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line]

    def wait_for(
        self,
        process: subprocess.Popen[str],
        condition: Callable[[list[dict[str, Any]]], bool],
        seconds: float = 120,
    ) -> None:
        """Wait until the journal fulfils a condition while the process lives."""
        end = time.monotonic() + seconds
        while not condition(self.journal):
            if process.poll() is not None:
                raise AssertionError(
                    f"ended too early with {process.returncode}:\n{process.communicate()[0]}"
                )
            assert time.monotonic() < end, "the journal never got there"
            time.sleep(0.02)

    def curves(self) -> dict[str, dict[int, dict[str, float]]]:
        """Trial name -> epoch -> metrics that the machine has no say in, as the journal has
        them.
        """
        names = {entry["id"]: entry["name"] for entry in self.journal if entry["kind"] == "trial"}
        found: dict[str, dict[int, dict[str, float]]] = {}
        for entry in self.journal:
            if entry["kind"] == "epoch":
                own = {
                    k: v
                    for k, v in entry["metrics"].items()
                    if not k.startswith(("time/", "memory/"))
                }
                assert entry["epoch"] not in found.setdefault(names[entry["id"]], {}), (
                    "an epoch was written twice"
                )
                found[names[entry["id"]]][entry["epoch"]] = own
            elif entry["kind"] == "forget":
                found.pop(names[entry["id"]], None)
        return found

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Ask MLflow's database itself, not our reader of it."""
        with sqlite3.connect(self.path / "mlflow.db") as connection:
            return connection.execute(sql, arguments).fetchall()

    def runs(self) -> dict[str, str]:
        """Name -> status of the living child runs."""
        rows = self.query(
            "select r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "and t.key = 'mlflow.parentRunId' where r.lifecycle_stage = 'active'"
        )
        assert len({name for name, _ in rows}) == len(rows), f"a trial has two runs: {rows}"
        return dict(rows)

    def parents(self) -> list[str]:
        """Status of each living parent run."""
        return [
            status
            for (status,) in self.query(
                "select r.status from runs r join tags t on t.run_uuid = r.run_uuid and t.key = "
                "'suite.kind' "
                "and t.value = 'sweep' where r.lifecycle_stage = 'active'"
            )
        ]

    def metric_rows(self, sweep: str = "%") -> dict[tuple[str, str, int], list[float]]:
        """(run name, metric, step) -> values, of living runs of a sweep, or of all."""
        found: dict[tuple[str, str, int], list[float]] = {}
        for name, key, step, value in self.query(
            "select r.name, m.key, m.step, m.value from metrics m join runs r on r.run_uuid = "
            "m.run_uuid "
            "join experiments e on e.experiment_id = r.experiment_id "
            "where r.lifecycle_stage = 'active' and e.name like ?",
            sweep,
        ):
            found.setdefault((name, key, step), []).append(value)
        return found

    def assert_tracked(self) -> None:
        """All figures of the journal are in MLflow once, and nothing else is."""
        self.curves()
        rows = self.metric_rows(self.name)
        assert all(len(values) == 1 for values in rows.values()), "a metric row was doubled"
        assert {key: value for key, (value,) in rows.items()} == self._figures()

    def assert_reported(self) -> None:
        """The report's table, made now of MLflow alone, has each trial once, with the figures of
        the journal.
        """
        done = self.run(self.name, module="suite.report")
        assert done.returncode == 0, done.stdout + done.stderr
        with (self.path / "reports" / self.name / "results.csv").open(newline="") as file:
            rows = {row["trial"]: row for row in csv.DictReader(file)}
        ends = {entry["id"]: entry for entry in self.journal if entry["kind"] == "end"}
        epochs = {
            (entry["id"], entry["epoch"]): entry["metrics"]
            for entry in self.journal
            if entry["kind"] == "epoch"
        }
        assert rows.keys() == ends.keys()
        for trial, end in ends.items():
            assert (rows[trial]["status"], int(rows[trial]["epochs"])) == (
                end["status"],
                end["epochs"],
            )
            best = epochs[trial, end["best_epoch"]] | (end.get("test") or {})
            assert {name: float(rows[trial][name]) for name in best} == best

    def _figures(self) -> dict[tuple[str, str, int], float]:
        """(trial name, metric, step) -> value, of epochs with their times and memory, of ends
        and of pictures.
        """
        names = {entry["id"]: entry["name"] for entry in self.journal if entry["kind"] == "trial"}
        found: dict[tuple[str, str, int], float] = {}
        for entry in self.journal:
            name = names.get(entry.get("id") or "", "")
            if entry["kind"] in ("epoch", "images"):
                step = entry["epoch" if entry["kind"] == "epoch" else "step"]
                found |= {
                    (name, key, step): value
                    for key, value in entry["metrics"].items()
                    if value is not None
                }
            elif entry["kind"] == "end" and entry.get("best_value") is not None:
                step = entry.get("best_epoch") or entry.get("epochs") or 0
                found[name, "best/value", step] = entry["best_value"]
                found |= {
                    (name, key, step): value for key, value in (entry.get("test") or {}).items()
                }
            elif entry["kind"] == "forget":
                found = {key: value for key, value in found.items() if key[0] != name}
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A working folder of a user's."""
    return Folder(tmp_path)
