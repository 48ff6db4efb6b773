"""What the same faults do to a sweep of stock parts (``stock.py``): each must fail there what the
suite survives.

A fault that the stock stack survives too would show nothing; these tests fail when that happens,
with an update of Ray or MLflow for one, and the row's claim should then be looked at.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from test_disk_full import fill, small  # noqa: F401 - a fixture
from test_tracking import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parent / "stock.py"


class Stock:
    """A folder with a stock sweep in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
        }
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.folder), *options],
            cwd=self.folder,
            env=kept | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell's background job, as these tests may be, ignores it, and Python leaves that as
            # it is
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def finish(self, *options: str, **variables: str) -> tuple[int, str]:
        """Its exit code and output."""
        process = self.start(*options, **variables)
        output = process.communicate(timeout=240)[0]
        return process.returncode, output

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if not (self.folder / "mlflow.db").exists():
            return []
        with sqlite3.connect(self.folder / "mlflow.db", timeout=30) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError:  # its tables are being made
                return []

    def runs(self) -> list[str]:
        return sorted(status for (status,) in self.query("select status from runs"))

    def rows(self) -> int:
        return len(self.query("select 1 from metrics where key = 'loss'"))

    def wait_for_rows(self, process: subprocess.Popen[str], count: int) -> None:
        wait_for(process, lambda: self.rows() >= count)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def end(process: subprocess.Popen[str]) -> None:
    """The driver and all that it started."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it may have died of the fault
        below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for one in below:
        if one.is_running():
            one.kill()


@pytest.fixture
def stock(tmp_path: Path) -> Stock:
    return Stock(tmp_path)


@pytest.mark.fault(1, 3, 4, control=True, full=True)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name
)
def test_a_stopped_sweep_leaves_runs_running_and_goes_on_in_others(
    stock: Stock, number: signal.Signals
) -> None:
    process = stock.start("--epochs", "40")
    stock.wait_for_rows(process, 5)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert "RUNNING" in stock.runs()
    code, output = stock.finish("--restore", "--epochs", "40")
    assert code == 0, output
    assert "RUNNING" in stock.runs() and len(stock.runs()) > 2, "one run for each of two trials"


@pytest.mark.fault(2, control=True, full=True)
def test_after_a_second_signal_too(stock: Stock) -> None:
    process = stock.start("--epochs", "40")
    stock.wait_for_rows(process, 5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert "RUNNING" in stock.runs()


@pytest.mark.fault(7, control=True, full=True)
def test_without_its_raylet_its_trials_fail_and_it_ends_with_zero(stock: Stock) -> None:
    process = stock.start("--epochs", "400")
    stock.wait_for_rows(process, 5)
    below = psutil.Process(process.pid).children(recursive=True)
    (raylet,) = [one for one in below if one.name() == "raylet"]
    raylet.kill()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and stock.runs() == ["FAILED", "FAILED"], output


@pytest.mark.fault(6, control=True, full=True)
def test_with_tunes_default_a_trial_does_not_outlive_its_worker(stock: Stock) -> None:
    """FailureConfig(max_failures=0).

    With retries the stock stack survives this one too (tried with 3).
    """
    process = stock.start("--epochs", "40")
    stock.wait_for_rows(process, 3)
    workers = [
        one
        for one in psutil.Process(process.pid).children(recursive=True)
        if "ImplicitFunc" in one.name()
    ]
    assert workers, "no worker is named as Ray 2.60 names those of a function"
    workers[0].kill()
    process.communicate(timeout=120)
    assert "FAILED" in stock.runs()


@pytest.mark.fault(8, 10, control=True, full=True)
def test_a_sweep_with_failed_trials_ends_as_if_it_had_none(stock: Stock) -> None:
    """One trial with a mistake in it, one without memory."""
    code, _ = stock.finish("--values", "0.1,200,2000", "--epochs", "2")
    assert code == 0 and stock.runs() == ["FAILED", "FAILED", "FINISHED"]


@pytest.mark.fault(11, control=True, full=True)
def test_a_diverged_trial_goes_on_to_its_end_and_counts_as_finished(stock: Stock) -> None:
    code, output = stock.finish("--values", "0.1,nan", "--epochs", "4")
    assert code == 0, output
    assert stock.runs() == ["FINISHED", "FINISHED"]
    assert stock.query("select count(*) from metrics where key = 'loss' and is_nan = 1") == [(4,)]


@pytest.mark.fault(19, control=True, full=True)
def test_a_trial_does_not_outlive_a_full_disk(stock: Stock, small: Path) -> None:  # noqa: F811
    """The suite waits, and goes on when there is room. This one has failed before there is any."""
    process = stock.start("--storage", str(small), "--bytes", "200000", "--epochs", "300")
    stock.wait_for_rows(process, 3)
    fill(small, 0)
    end_of_wait = time.monotonic() + 90
    while (
        process.poll() is None and "FAILED" not in stock.runs() and time.monotonic() < end_of_wait
    ):
        time.sleep(0.2)
    ended, runs = process.poll(), stock.runs()
    if ended is None:
        end(process)
    assert "FAILED" in runs or ended not in (None, 0), f"{ended} {runs}"


@pytest.mark.fault(20, control=True)
@pytest.mark.filterwarnings("ignore")
def test_mlflow_alone_loses_what_a_full_disk_does_not_take(small: Path) -> None:  # noqa: F811
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{small}/mlflow.db")
    run = client.create_run("0").info.run_id
    ballast = fill(small, 0)

    def log() -> None:
        for step in range(200):
            client.log_param(run, f"p{step}", "x" * 5000)

    with pytest.raises(MlflowException, match="full"):
        log()
    ballast.unlink()
    assert len(client.get_run(run).data.params) < 200


@pytest.mark.fault(24, control=True, full=True)
def test_a_folder_that_cannot_be_written_ends_in_a_traceback(stock: Stock, small: Path) -> None:  # noqa: F811
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    code, output = stock.finish("--storage", str(small))
    assert code == 1 and "Traceback" in output, output


@pytest.mark.fault(25, control=True, full=True)
def test_a_folder_that_was_moved_goes_on_in_other_runs(stock: Stock, tmp_path: Path) -> None:
    stock.folder = tmp_path / "here"
    stock.folder.mkdir()
    process = stock.start("--epochs", "40")
    stock.wait_for_rows(process, 5)
    end(process)
    stock.folder = stock.folder.rename(tmp_path / "there")
    code, output = stock.finish("--restore", "--epochs", "40")
    assert code != 0 or "RUNNING" in stock.runs(), output


@pytest.mark.fault(26, control=True)
def test_torch_takes_weights_of_another_network_without_a_word(tmp_path: Path) -> None:
    """As tutorials load them, with ``strict=False``."""
    from suite import models
    from suite.config import ModelConfig

    torch.save(
        models.build(ModelConfig(arch="resnet34_cifar"), 10).state_dict(), tmp_path / "other.pth"
    )
    network = models.build(ModelConfig(arch="resnet18_cifar"), 10)
    left = network.load_state_dict(
        torch.load(tmp_path / "other.pth", weights_only=True), strict=False
    )
    assert left.unexpected_keys, "layers of the other network that were passed over"


@pytest.mark.fault(28, control=True, full=True)
def test_while_a_server_is_away_nothing_is_trained(stock: Stock) -> None:
    """Training stands still while the callback waits: 4, 8, 16, 32 ... s between tries."""
    server = Server(stock.folder)
    server.start()
    process = stock.start("--uri", server.uri, "--epochs", "400")
    try:
        stock.wait_for_rows(process, 5)
        server.kill()
        time.sleep(3)
        before = len(list(stock.folder.glob("ray/stock/*/checkpoint_*")))
        assert before
        time.sleep(8)
        after = len(list(stock.folder.glob("ray/stock/*/checkpoint_*")))
        assert process.poll() is not None or after - before <= 10, (
            "it trained on: 100 epochs of 0.15 s fit"
        )
    finally:
        end(process)
        if server.process.poll() is None:
            server.kill()


@pytest.mark.fault(29, control=True, full=True)
def test_without_its_server_the_sweep_ends_before_its_trials_do(stock: Stock) -> None:
    server = Server(stock.folder)
    server.start()
    process = stock.start(
        "--uri", server.uri, "--epochs", "30", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1"
    )
    try:
        stock.wait_for_rows(process, 5)
        server.kill()
        output = process.communicate(timeout=240)[0]
        trained = len(list(stock.folder.glob("ray/stock/*/checkpoint_*")))
        assert process.returncode != 0 or trained < 60, output
    finally:
        if process.poll() is None:
            end(process)
        if server.process.poll() is None:
            server.kill()


# In a process of its own: Ray's part names MLflow's store in the environment.
LOCKED = """
import subprocess, sys
from mlflow.tracking import MlflowClient
from ray.air._internal.mlflow import _MLflowLoggerUtil

util = _MLflowLoggerUtil()
util.setup_mlflow(tracking_uri="sqlite:///mlflow.db", experiment_name="stock")
run = util.start_run(run_name="mine", set_active=False).info.run_id
lock = "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); "
lock += "time.sleep(23); c.execute('ROLLBACK')"
code = "import sqlite3, time; c = sqlite3.connect('mlflow.db', isolation_level=None); " + lock
holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
assert holder.stdout.readline().strip() == "held"
util.log_metrics(step=1, metrics_to_log={"loss": 0.5}, run_id=run)
holder.communicate()
util._mlflow.end_run()
kept = MlflowClient("sqlite:///mlflow.db").get_run(run).data.metrics
assert kept == {}, "the value came where it belongs"
"""


@pytest.mark.fault(31, control=True, full=True)
def test_a_locked_database_costs_a_value_and_nobody_is_told(tmp_path: Path) -> None:
    """MLflow's own wait is 20 s; then Ray's callback logs elsewhere, into a run that it makes
    up, or nowhere.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOCKED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.fault(32, control=True)
def test_eight_writers_that_do_not_wait_for_each_other_lose_rows(tmp_path: Path) -> None:
    """sqlite3 without its wait."""
    path = tmp_path / "it.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table rows (value)")

    def write(number: int) -> int:
        lost = 0
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as mine:
            for step in range(100):
                try:
                    mine.execute("insert into rows values (?)", (number * 100 + step,))
                except sqlite3.OperationalError:
                    lost += 1
        return lost

    with ThreadPoolExecutor(8) as pool:
        lost = sum(pool.map(write, range(8)))
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*) from rows").fetchone() == (800 - lost,)
    assert lost > 0


@pytest.mark.fault(33, control=True, full=True)
@pytest.mark.filterwarnings("ignore")
def test_a_database_of_another_schema_ends_in_a_traceback(stock: Stock) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{stock.folder}/mlflow.db").search_experiments()
    with closing(sqlite3.connect(stock.folder / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("update alembic_version set version_num = 'old'")
    code, output = stock.finish("--epochs", "1")
    assert code == 1 and "Traceback" in output, output


@pytest.mark.fault(34, 35, control=True)
@pytest.mark.filterwarnings("ignore")
def test_mlflow_alone_cuts_what_is_long_and_refuses_a_name(tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run("0").info.run_id
    client.log_param(run, "long", "x" * 20_000)
    assert len(client.get_run(run).data.params["long"]) == 6000
    with pytest.raises(MlflowException, match="Invalid value"):
        client.log_metric(run, 'said "it"', 1.0)


@pytest.mark.fault(36, 38, control=True, full=True)
def test_complete_it_runs_again_and_twice_where_it_is_started_twice(stock: Stock) -> None:
    stock.finish("--epochs", "1")  # two at once that make MLflow's tables end with an error
    assert len(stock.runs()) == 2
    both = [stock.start("--epochs", "4"), stock.start("--epochs", "4")]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    runs = len(stock.runs())
    assert runs == 6, f"complete, and trained again twice would be 6: {runs}; {outputs}"


@pytest.mark.fault(37, control=True, full=True)
def test_of_two_in_a_new_folder_one_ends_with_an_error(stock: Stock) -> None:
    """Both find no tables of MLflow's, and both make them."""
    processes = [stock.start("--epochs", "3") for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert any(codes) or len(stock.runs()) < 4, outputs


@pytest.mark.fault(39, control=True, full=True)
def test_other_values_are_passed_over_when_it_is_restored(stock: Stock) -> None:
    process = stock.start("--epochs", "40")
    stock.wait_for_rows(process, 3)
    process.kill()
    process.communicate()
    code, output = stock.finish("--restore", "--values", "0.7,0.8", "--epochs", "40")
    assert code == 0, output
    found = {value for (value,) in stock.query("select value from params where key = 'lr'")}
    assert found == {"0.1", "0.2"}, "the values that the user asks for now"


@pytest.mark.fault(40, control=True, full=True)
def test_a_restored_sweep_mixes_two_codes_in_one_curve(stock: Stock) -> None:
    long = ("--epochs", "150")
    process = stock.start(*long, FACTOR="1")
    stock.wait_for_rows(process, 200)  # its state is written every ten seconds at most
    end(process)
    code, output = stock.finish("--restore", *long, FACTOR="100")
    assert code == 0, output
    for file in stock.folder.glob("ray/stock/*/result.json"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        curve = [row["loss"] * row["epoch"] for row in rows]  # of one code it is a constant
        assert max(curve) > 50 * min(curve)


@pytest.mark.fault(41, control=True)
def test_the_newest_state_is_the_one_with_the_largest_name(tmp_path: Path) -> None:
    """Names carry the wall clock, so after it stepped back the older file is taken."""
    from ray.tune.execution.experiment_state import _find_newest_experiment_checkpoint

    older, newer = (
        tmp_path / f"experiment_state-2026-11-28_{hour}-00-00.json" for hour in (12, 11)
    )
    older.write_text("{}")
    newer.write_text("{}")
    os.utime(older, (1, 1))
    assert str(_find_newest_experiment_checkpoint(str(tmp_path))).endswith(older.name)


@pytest.mark.fault(42, control=True, full=True)
def test_a_head_with_a_port_of_its_own_does_not_start_where_it_is_taken() -> None:
    """As tutorials start it; the suite lets the system choose."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ray = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--node-ip-address=127.0.0.1",
        ]
        done = subprocess.run(
            [*ray, f"--port={taken.getsockname()[1]}", "--include-dashboard=false"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode != 0, done.stdout + done.stderr


@pytest.mark.fault(43, control=True, full=True)
def test_for_a_gpu_that_is_not_there_it_waits(stock: Stock) -> None:
    process = stock.start("--gpu", "64")
    try:
        wait_for(process, lambda: any(stock.folder.glob("ray/stock/experiment_state*")))
        time.sleep(20)
        assert process.poll() is None and "FAILED" not in stock.runs() and stock.rows() == 0
    finally:
        end(process)


@pytest.mark.fault(44, control=True)
def test_yaml_alone_takes_what_cannot_be_meant() -> None:
    read: Any = yaml.safe_load("lr: 1e-3\nbatch_size: 12:30\nlr: 2e-3\non: yes\nepochs: .nan\n")
    assert read["lr"] == "2e-3", "a number, and given twice"
    assert read["batch_size"] == 750 and read[True] is True and math.isnan(read["epochs"])
