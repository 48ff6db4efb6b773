"""Trials that fail, and workers that die: the sweep goes on, and says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from alone import alone, ends
from conftest import SWEEP, TINY, Folder

pytestmark = pytest.mark.slow

# Networks that end their process in training, or fail until a file is there; and one whose worker
# keeps a checkpoint of every epoch and counts its steps.
MORE = """

class Exits(Tiny):
    def forward(self, x):
        if self.training:
            os._exit(7)
        return super().forward(x)


def exits(num_classes):
    return Exits(num_classes)


class Needs(Tiny):
    def forward(self, x):
        if self.training and not os.path.exists("licence"):
            raise RuntimeError("no licence")
        return super().forward(x)


def needs(num_classes):
    return Needs(num_classes)


class Counted(Tiny):
    def forward(self, x):
        import suite.training.state
        suite.training.state.SAVE_EVERY_S = 0.0
        return super().forward(x)


def counted(num_classes):
    return Counted(num_classes)


class Hangs(Tiny):
    def forward(self, x):
        if self.training:
            open("hangs", "w").close()
            time.sleep(10_000)
        return super().forward(x)


def hangs(num_classes):
    return Hangs(num_classes)
"""
# Precision is measured, in a few steps of training before any trial, as on a processor that has
# bf16.
MEASURED = "\nimport suite.planning.measure\n\nsuite.planning.measure.has_bf16 = lambda: True\n"
AUTO = SWEEP["trial"] | {"train": SWEEP["trial"]["train"] | {"precision": "auto"}}

# A thread whose garbage, which only the collector frees, holds references to Ray's objects.
GOES_DOWN = """
import gc, os, threading, time
import ray
from suite.execution import ray_session


class Garbage:
    pass


def litter():
    while references:
        garbage = Garbage()
        garbage.itself, garbage.reference = garbage, references.pop()
        del garbage
        time.sleep(0.0005)


with ray_session.running(None, False):
    folder = ray._private.worker._global_node.get_session_dir_path()
    assert os.path.isdir(folder)
    references = [ray.put(number) for number in range(4000)]
    gc.set_threshold(50, 1, 1)
    threading.Thread(target=litter, daemon=True).start()
    time.sleep(0.3)
print("alive, and its folder is", "there" if os.path.exists(folder) else "gone", flush=True)
os._exit(0)
"""


def workers(driver: int) -> list[psutil.Process]:
    """The Ray workers of a sweep that train at this moment."""
    return [
        process
        for process in psutil.Process(driver).children(recursive=True)
        if process.name().startswith("ray::") and "train" in process.name().lower()
    ]


def kill_the_worker(process: Any) -> None:
    """SIGKILL to the worker of the only trial that runs."""
    end = time.monotonic() + 60
    while not (found := workers(process.pid)):
        assert time.monotonic() < end, "there is no worker to kill"
        time.sleep(0.02)
    for worker in found:
        os.kill(worker.pid, signal.SIGKILL)


def reasons(folder: Folder) -> dict[str, str]:
    """Run name -> ``suite.reason`` of the failed runs, as MLflow has it."""
    rows = folder.query(
        "select r.name, t.value from runs r join tags t on t.run_uuid = r.run_uuid and t.key = "
        "'suite.reason' "
        "where r.status = 'FAILED' and r.lifecycle_stage = 'active'"
    )
    return dict(rows)


@pytest.mark.fault(8, 10, 11)
def test_each_failure_is_its_trials_own_and_says_why(folder: Folder) -> None:
    """Divergence, an exception, no memory, a process that ends itself; then launched again, then
    with a retry.

    All but the first show already while precision is measured.
    """
    (folder.path / "tiny_net.py").write_text(TINY + MORE + MEASURED)
    folder.write(
        trial=AUTO,
        parameters=None,
        arms={
            "exits": {"model.arch": "tiny_net:exits"},
            "diverges": {"train.lr": 1e30},
            "broken": {"model.arch": "tiny_net:broken"},
            "hungry": {"model.arch": "tiny_net:hungry"},
            "needs": {"model.arch": "tiny_net:needs"},
            "fine": {},
        },
        seeds=[0],
        baseline="fine",
    )
    done = folder.sweep(code=3)
    assert "precision: fp32 (not measured: " in done.stdout
    failing = ["exits", "diverges", "broken", "hungry", "needs"]
    assert folder.runs() == {f"{arm} seed=0": "FAILED" for arm in failing} | {
        "fine seed=0": "FINISHED"
    }
    assert folder.parents() == ["FINISHED"]
    found = reasons(folder)
    assert "diverged in epoch 1: train/loss is nan" in found["diverges seed=0"]
    line = 1 + TINY.split("the user's own mistake")[0].count("\n")
    assert found["broken seed=0"] == f"ValueError: the user's own mistake (tiny_net.py:{line})"
    assert "out of memory with tiny_net:hungry at batch 50" in found["hungry seed=0"]
    assert found["exits seed=0"].startswith("the worker died each time")
    assert "(raylet)" not in done.stdout + done.stderr, "Ray's page about each lost worker"
    for name, reason in found.items():
        assert f"failed: {name}: {reason}" in done.stdout
    # an exception may be an accident, so it is tried once more; divergence and memory are not
    assert done.stdout.count("! broken seed=0:") == 1 and "trying once more" in done.stdout
    assert "! diverges" not in done.stdout and "! hungry" not in done.stdout
    folder.assert_tracked()

    # the same again runs nothing, and still says that not all is well
    ids = folder.query("select run_uuid, name from runs")
    before = folder.journal
    done = folder.sweep(code=3)
    assert not [
        entry
        for entry in folder.journal[len(before) :]
        if entry["kind"] in ("start", "epoch", "end")
    ]
    assert "--retry-errored" in done.stdout

    # once what was wrong is no longer wrong, a retry finishes it: in the same run
    before = folder.journal
    (folder.path / "licence").touch()
    folder.sweep("--retry-errored", "--only", "hungry", "--only", "needs", code=3)
    names = {entry["id"]: entry["arm"] for entry in before if entry["kind"] == "trial"}
    added = [entry for entry in folder.journal[len(before) :] if entry["kind"] in ("start", "end")]
    assert {names[entry["id"]] for entry in added} == {"hungry", "needs"} and len(added) == 4
    assert sorted(folder.query("select run_uuid, name from runs")) == sorted(ids), (
        "a retry must not make a second run"
    )
    assert (
        folder.runs()["hungry seed=0"] == "FAILED" and folder.runs()["needs seed=0"] == "FINISHED"
    )
    assert reasons(folder).keys() == {f"{arm} seed=0" for arm in failing if arm != "needs"}
    rows = folder.query(
        "select t.value from runs r join tags t on t.run_uuid = r.run_uuid and t.key = "
        "'suite.reason' "
        "where r.name = 'needs seed=0' and t.value != ''"
    )
    assert rows == [], "a finished run has no reason to have failed"
    folder.assert_tracked()


@pytest.mark.fault(1, 9, full=True)
def test_a_signal_while_a_network_hangs_that_is_measured(folder: Folder) -> None:
    (folder.path / "tiny_net.py").write_text(TINY + MORE + MEASURED)
    trial = AUTO | {"model": {"arch": "tiny_net:hangs"}}
    folder.write(trial=trial, parameters=None, seeds=[0])
    process = folder.start()
    end = time.monotonic() + 60
    while not (folder.path / "hangs").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=20)[0]
    assert (
        process.returncode == 130 and "stopped (SIGINT)" in output and "Traceback" not in output
    ), output
    assert "/None" not in output
    folder.write(parameters=None, seeds=[0])  # nothing is in the way of another network
    folder.sweep()
    assert set(folder.runs().values()) == {"FINISHED"}


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("starting", "SIGINT"),
        ("starting", "SIGTERM"),
        pytest.param("report", "SIGINT", marks=pytest.mark.full),
    ],
)
def test_a_signal_before_and_after_the_trials_is_no_bug(
    folder: Folder, when: str, number: str
) -> None:
    """While images are decoded, or the report is made: no code of the launch has the signal in
    hand.
    """
    place = {"starting": "suite.sweep.api.prepare_plan", "report": "suite.sweep.api._report"}[when]
    code = (
        f"import os, signal, suite.sweep.__main__\nkept = {place}\ndef late(*a):\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        f"    return kept(*a)\n{place} = late\nsuite.sweep.__main__.main()"
    )
    folder.write(parameters=None, seeds=[0], activations=False)
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep.yaml"],
        cwd=folder.path,
        env=folder.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 128 + signal.Signals[number] and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert "interrupted: give the same command again" in done.stderr
    assert (folder.path / "runs").exists() == (when == "report")
    assert ("complete (1/1" in done.stdout) == (when == "report")


@pytest.mark.fault(6)
def test_a_killed_worker_is_replaced_and_goes_on_from_its_checkpoint(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials of different length in one pack: what is over stays over, what is left loses no
    checkpointed epoch.
    """
    (folder.path / "tiny_net.py").write_text(TINY + MORE)
    folder.write(
        trial={
            "data": {"name": "digits", "image_size": 8, "train_size": 400},
            "model": {"arch": "tiny_net:counted"},
            "train": {"epochs": 8, "batch_size": 50, "lr": 0.05, "precision": "fp32"},
        },
        parameters={"train.epochs": {"values": [1, 8]}},
        resources={"cpu": 1, "pack": 2},
        seeds=[0],
    )
    steps = tmp_path / "steps"
    process = folder.start(SLOW="0.1", STEPS=str(steps))
    folder.wait_for(
        process, lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= 4
    )
    kill_the_worker(process)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert (
        "! epochs=8 seed=0: the worker died" in output
        and "going on from the last checkpoint" in output
    )
    assert "! epochs=1" not in output and "came out differently" not in output
    assert folder.runs() == {"epochs=1 seed=0": "FINISHED", "epochs=8 seed=0": "FINISHED"}
    assert {name: len(each) for name, each in ends(folder.journal).items()} == {
        "epochs=1 seed=0": 1,
        "epochs=8 seed=0": 1,
    }
    # 8 steps an epoch, 9 epochs: no more than the epoch in progress may have been trained twice
    done = steps.read_text().split()
    assert len(set(done)) == 2, "the trial must have gone on in another process"
    assert 72 <= len(done) <= 72 + 8, f"{len(done) - 72} steps were trained again"
    folder.assert_tracked()
    curves = folder.curves()
    monkeypatch.setenv("STEPS", str(steps))
    assert curves == alone(folder.path, tmp_path / "alone", monkeypatch)


def test_garbage_that_another_thread_collects_while_ray_goes_down_does_not_end_the_process(
    tmp_path: Path,
) -> None:
    """It did: "The core worker has already been shutdown", exit code 1 after a sweep's last
    trial.
    """
    script = tmp_path / "goes_down.py"
    script.write_text(GOES_DOWN)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and "alive, and its folder is gone" in done.stdout, done.stderr
