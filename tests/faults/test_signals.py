"""Real sweeps: signals to the driver, to workers and to Ray itself, triggered by what the
journal says.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from alone import alone
from conftest import REPO, SWEEP, TINY, Folder
from fault_table import Tally

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# The worker keeps a checkpoint of every epoch, as a longer sweep does every 30 s.
OFTEN = TINY.replace(
    "import os, time\n",
    "import os, time\nimport suite.training.state\n\nsuite.training.state.SAVE_EVERY_S = 0.0\n",
)
SLEEPS = """

class Sleeps(Tiny):
    def forward(self, x):
        if self.training:
            deep_asleep()
        return super().forward(x)


def deep_asleep():
    time.sleep(10000)


def sleeps(num_classes):
    return Sleeps(num_classes)
"""


def epochs_done(count: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= count


def often(folder: Folder, **changes: Any) -> Folder:
    """The folder with a sweep whose workers keep a checkpoint of every epoch."""
    (folder.path / "tiny_net.py").write_text(OFTEN + SLEEPS)
    folder.write(**{"checkpoints": {"keep": 1}} | changes)
    return folder


def ours(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray's processes below a driver."""
    return psutil.Process(process.pid).children(recursive=True)


def left_of(processes: list[psutil.Process], seconds: float) -> list[str]:
    """Command lines of those that still live after so long: workers, raylet, head.

    What else Ray started, and a worker that had not joined yet, goes within two minutes of a killed
    driver.
    """
    writers = [one for one in processes if _writes(_line(one))]
    _, alive = psutil.wait_procs(writers, timeout=seconds)
    return [line for one in alive if (line := _line(one))]


def _writes(line: str) -> bool:
    program = line.partition(" ")[0]
    worker = program.startswith("ray::") and not program.endswith("Agent")
    return worker or program.endswith(("/raylet", "/gcs_server"))


def _line(process: psutil.Process) -> str:
    """The command line; "" of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.fault(1, 3, 4, full=True)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sweep_stopped_and_killed_again_and_again(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, seed: int
) -> None:
    """Twelve signals in a row to one sweep; then it ends with the numbers of trials that nothing
    disturbed.
    """
    drawn = random.Random(seed)
    trial = {**SWEEP["trial"], "train": {**SWEEP["trial"]["train"], "epochs": 14}}
    often(folder, trial=trial)
    stops = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] * 4
    drawn.shuffle(stops)
    ends_s: list[float] = []
    first_epoch_s: list[float] = []
    for number in stops:
        before = len(folder.journal) and sum(entry["kind"] == "epoch" for entry in folder.journal)
        began = time.monotonic()
        process = folder.start(SLOW="0.04")
        folder.wait_for(process, epochs_done(before + 1))
        first_epoch_s.append(time.monotonic() - began)
        folder.wait_for(process, epochs_done(before + 1 + drawn.randrange(3)))
        below = ours(process)
        began = time.monotonic()
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), output
        assert "Traceback" not in output, output
        if number != signal.SIGKILL:
            ends_s.append(time.monotonic() - began)
            assert "RUNNING" not in [*folder.runs().values(), *folder.parents()]
        assert left_of(below, 15) == [], "processes of Ray outlived their driver"
        tally.add(kills=1)
    folder.sweep()
    curves = folder.curves()
    assert folder.runs() == dict.fromkeys(curves, "FINISHED") and folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    folder.assert_reported()
    assert curves == alone(folder.path, tmp_path / "alone", monkeypatch)
    assert max(ends_s) < 10, ends_s
    tally.figures["signal to exit"] = (
        f"{statistics.median(ends_s):.1f} s (longest {max(ends_s):.1f})"
    )
    tally.figures["relaunch to first new epoch"] = (
        f"{statistics.median(first_epoch_s):.1f} s (longest {max(first_epoch_s):.1f})"
    )


@pytest.mark.fault(6, full=True)
def test_workers_killed_one_after_another(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A worker is killed again and again while six trials run: none is lost, each goes on in the
    same run.
    """
    trial = {**SWEEP["trial"], "train": {**SWEEP["trial"]["train"], "epochs": 6}}
    often(folder, trial=trial, parameters={"train.lr": {"values": [0.05, 0.1, 0.2]}})
    process = folder.start(SLOW="0.06")
    killed: set[str] = set()
    end = time.monotonic() + 300
    while process.poll() is None and len(killed) < 6 and time.monotonic() < end:
        running = {entry["id"] for entry in folder.journal if entry["kind"] == "epoch"} - killed
        running -= {entry["id"] for entry in folder.journal if entry["kind"] == "end"}
        workers = [
            one
            for one in ours(process)
            if one.name().startswith("ray::") and "train" in one.name().lower()
        ]
        if running and workers:
            workers[0].kill()
            killed |= running  # whichever of them it was
            tally.add(kills=1)
        time.sleep(0.05)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert tally.kills >= 3, (
        "two trials run at a time: so often there was one that had not lost a worker"
    )
    assert output.count("the worker died") >= tally.kills and "came out differently" not in output
    curves = folder.curves()
    assert folder.runs() == dict.fromkeys(curves, "FINISHED")
    folder.assert_tracked()
    assert curves == alone(folder.path, tmp_path / "alone", monkeypatch)


@pytest.mark.fault(7, full=True)
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_itself_is_killed(folder: Folder, name: str, tally: Tally) -> None:
    often(folder)
    process = folder.start(SLOW="0.1")
    folder.wait_for(process, epochs_done(3))
    below = ours(process)
    (victim,) = [one for one in below if one.name() == name]
    victim.kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode not in (0, 2, 3), output
    assert left_of(below, 15) == []
    folder.sweep()
    assert folder.runs() == dict.fromkeys(folder.curves(), "FINISHED") and len(folder.curves()) == 4
    assert folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    tally.add(kills=1)
    tally.figures[f"{name} killed"] = f"exit code {process.returncode}"


@pytest.mark.fault(2, full=True)
def test_a_second_signal_ends_it_at_once(folder: Folder, tally: Tally) -> None:
    often(folder)
    process = folder.start(SLOW="3")  # a step that does not look for the stop
    folder.wait_for(process, lambda journal: any(entry["kind"] == "start" for entry in journal))
    below = ours(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 2
    assert left_of(below, 15) == []
    folder.sweep()
    assert folder.runs() == dict.fromkeys(folder.curves(), "FINISHED")
    tally.add(kills=2)


def to_the_group(process: subprocess.Popen[str], below: list[psutil.Process]) -> None:
    """As `timeout` does: the child, then its group."""
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)


def to_each_process(process: subprocess.Popen[str], below: list[psutil.Process]) -> None:
    """As Slurm does at a job's end, and systemd: everything that the job started, in any order."""
    for one in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)


@pytest.mark.fault(3, full=True)
@pytest.mark.parametrize("send", [to_the_group, to_each_process])
def test_a_signal_to_all_is_a_signal_to_the_driver(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally,
    send: Callable[[subprocess.Popen[str], list[psutil.Process]], None],
) -> None:  # fmt: skip
    often(folder)
    process = folder.start(SLOW="0.1")
    folder.wait_for(process, epochs_done(3))
    below = ours(process)
    began = time.monotonic()
    send(process, below)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 143, output
    assert time.monotonic() - began < 10
    assert "SIGTERM" in output and "Traceback" not in output and "worker died" not in output, output
    assert "RUNNING" not in [*folder.runs().values(), *folder.parents()]
    assert left_of(below, 15) == []
    ended = [entry for entry in folder.journal if entry["kind"] == "end"]
    assert not any(entry["status"] == "FAILED" for entry in ended), ended
    folder.sweep()
    folder.assert_tracked()
    assert folder.curves() == alone(folder.path, tmp_path / "alone", monkeypatch)
    tally.add()


@pytest.mark.fault(3, full=True)
@pytest.mark.parametrize("child", ["gcs_server", "raylet", "ray::"])
def test_a_signal_while_ray_starts_is_one_to_the_suite(
    folder: Folder, tally: Tally, child: str
) -> None:
    """Ray has handlers of its own there, which end the process at once."""
    often(folder)
    process = folder.start(SLOW="0.1")
    end = time.monotonic() + 60
    while not (
        below := [
            one for one in ours(process) if _line(one).startswith(child) or one.name() == child
        ]
    ):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    began = time.monotonic()
    to_the_group(process, [])
    output = process.communicate(timeout=60)[0]
    assert (
        process.returncode == 143 and "stopped (SIGTERM); launch the same command again" in output
    ), output
    assert time.monotonic() - began < 20  # heard once Ray is there: it has to be ended in order
    assert left_of(below, 15) == [] and "RUNNING" not in [
        *folder.runs().values(),
        *folder.parents(),
    ]
    tally.add()


@pytest.mark.fault(3, control=True, full=True)
def test_without_the_mask_ray_goes_first(folder: Folder) -> None:
    """A build that starts Ray as Ray starts itself."""
    often(folder)
    (folder.path / "sitecustomize.py").write_text(
        "import signal\nsignal.pthread_sigmask = lambda how, mask: set()\n"
    )
    process = folder.start(SLOW="0.1", PYTHONPATH=f"{folder.path}:{REPO}")
    folder.wait_for(process, epochs_done(3))
    to_the_group(process, [])
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 143, output


@pytest.mark.fault(5, full=True)
def test_a_worker_that_outlives_its_driver_writes_nothing(folder: Folder, tally: Tally) -> None:
    """It is held (SIGSTOP) while the driver dies and the next launch finishes, then let go."""
    often(folder, parameters=None, seeds=[0])
    process = folder.start(SLOW="0.1")
    folder.wait_for(process, epochs_done(2))
    (worker,) = [
        one
        for one in ours(process)
        if one.name().startswith("ray::") and "train" in one.name().lower()
    ]
    worker.suspend()
    process.kill()
    process.communicate()
    folder.sweep()
    before = {
        path: path.stat().st_mtime_ns
        for path in (folder.path / "runs").rglob("*")
        if path.is_file()
    }
    with contextlib.suppress(psutil.NoSuchProcess):  # Ray may have ended it as it went down itself
        worker.resume()
    assert left_of([worker], 30) == [], "the orphan stays"
    after = {
        path: path.stat().st_mtime_ns
        for path in (folder.path / "runs").rglob("*")
        if path.is_file()
    }
    assert after == before, "the orphan wrote"
    folder.assert_tracked()
    tally.add(kills=1)


@pytest.mark.fault(9, full=True)
def test_a_hung_trial_is_ended_tried_once_more_and_says_where(folder: Folder, tally: Tally) -> None:
    often(
        folder,
        parameters=None,
        arms={"hangs": {"model.arch": "tiny_net:sleeps"}, "fine": {}},
        seeds=[0],
        resources={"cpu": 1, "hang_after_s": 25},
        baseline="fine",
    )
    done = folder.sweep(code=3, timeout=400)
    assert folder.runs() == {"hangs seed=0": "FAILED", "fine seed=0": "FINISHED"}
    assert done.stdout.count("trying once more") == 1 and "no step for 25 s" in done.stdout
    stacks = sorted((folder.path / "runs").rglob("hung-*.txt"))
    assert len(stacks) == 2 and all("deep_asleep" in path.read_text() for path in stacks)
    assert not list((folder.path / "runs").rglob("stack.txt"))
    tally.add(2)


@pytest.mark.fault(9, control=True, full=True)
def test_without_the_watchdog_it_hangs(folder: Folder) -> None:
    """What Ray Tune does: nothing."""
    often(
        folder,
        trial={**SWEEP["trial"], "model": {"arch": "tiny_net:sleeps"}},
        parameters=None,
        seeds=[0],
        resources={"cpu": 1, "hang_after_s": 0},
    )
    process = folder.start()
    folder.wait_for(process, lambda journal: any(entry["kind"] == "start" for entry in journal))
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(
            timeout=70
        )  # with one, the test above is told of the hang twice by then
    process.kill()
    process.communicate()


@pytest.mark.fault(36, full=True)
def test_the_same_sweep_started_twice_within_a_moment(folder: Folder, tally: Tally) -> None:
    often(folder, seeds=[0])
    folder.first = True
    for number in range(5):
        both = [folder.start(SLOW="0.05"), folder.start(SLOW="0.05")]
        outputs = [process.communicate(timeout=120)[0] for process in both]
        codes = sorted(process.returncode for process in both)
        if number == 0:
            assert codes == [0, 5], outputs
            refused = next(
                text for process, text in zip(both, outputs, strict=True) if process.returncode == 5
            )
            assert "already running: process" in refused and "Traceback" not in refused
        else:  # nothing is left to run, so the second may come after the first has ended
            assert codes in ([0, 0], [0, 5]), outputs
        tally.add()
    assert folder.runs() == dict.fromkeys(folder.curves(), "FINISHED") and len(folder.curves()) == 2
    folder.assert_tracked()


@pytest.mark.fault(37, full=True)
def test_two_sweeps_side_by_side_in_one_folder(folder: Folder, tally: Tally) -> None:
    often(folder, seeds=[0])
    first = folder.start(SLOW="0.05")
    folder.wait_for(first, epochs_done(1))
    (folder.path / "other.yaml").write_text(
        (folder.path / "sweep.yaml").read_text().replace("name: tiny", "name: other")
    )
    second = subprocess.run(
        folder.command("other.yaml"),
        cwd=folder.path,
        env=folder.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    output = first.communicate(timeout=120)[0]
    assert (first.returncode, second.returncode) == (0, 0), output + second.stdout + second.stderr
    found = folder.query(
        "select e.name, r.name, r.status, count(m.key) from runs r join experiments e using "
        "(experiment_id) "
        "join metrics m using (run_uuid) where r.lifecycle_stage = 'active' and m.key = 'val/acc' "
        "group by 1, 2, 3"
    )
    assert sorted({(name, status, count) for name, _, status, count in found}) == [
        ("other", "FINISHED", 4), ("tiny", "FINISHED", 4),
    ]  # fmt: skip
    assert len(found) == 4
    tally.add()


@pytest.mark.fault(42, full=True)
def test_ports_that_are_taken_do_not_matter(folder: Folder, tally: Tally) -> None:
    often(folder, parameters=None, seeds=[0])
    held = []
    for port in (5000, 6379, 8265, 10001):
        one = socket.socket()
        try:
            one.bind(("127.0.0.1", port))
            one.listen()
        except OSError:  # somebody else has it: as good
            pass
        held.append(one)
    folder.sweep()
    for one in held:
        one.close()
    assert set(folder.runs().values()) == {"FINISHED"}
    tally.add(len(held))
