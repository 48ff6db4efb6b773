"""Sweeps on several nodes that come, go, and do not all see what they should.

Ray is started by hand on hosts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from alone import alone
from conftest import REPO, SWEEP, Folder
from fault_table import Tally
from hosts import SHARED, Host, Network, why_not
from servers import ObjectStore

from suite.storage import bucket_journal
from suite.storage.bucket import Bucket

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

STEP_S = "0.1"  # of the slow network: an epoch has 8 steps
RAY = "~/suite-venv/bin/ray"


class Cluster:
    """A head that trains nothing; workers with one processor each are added and lost."""

    def __init__(self, folder: Path) -> None:
        environment = {
            "PYTHONPATH": str(REPO),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
            "SLOW": STEP_S,
            "RAY_AUTH_MODE": "disabled",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "5000",
        }
        self.network = Network(
            folder, environment | {"SUITE_CACHE": "~/suite-cache"}
        )  # a disk for each host
        self.store = ObjectStore(folder, f"{self.network.subnet}.1")
        self.network.environment |= self.store.variables()
        self.head = self.network.host("head")
        self.start_ray()

    def start_ray(self) -> None:
        """On the head."""
        self.on(self.head, f"{RAY} start --head --port=6379 --num-cpus=0 --include-dashboard=false")

    def on(self, host: Host, command: str) -> str:
        done = subprocess.run(
            self.network.ssh(host, command), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def worker(self, name: str, shared: bool = True) -> Host:
        host = self.network.host(name, shared)
        self.on(host, f"{RAY} start --address={self.head.address}:6379 --num-cpus=1")
        return host


class Work(Folder):
    """A user's folder on the shared file system, whose commands run on the head."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        path = cluster.network.shared / name
        path.mkdir()
        super().__init__(path)
        self.cluster, self.there = cluster, SHARED / name

    def command(self, *arguments: str, module: str = "suite.sweep") -> list[str]:
        words = " ".join(["python", "-m", module, *arguments, "--no-report"])
        where = (
            f"cd {self.there} && PATH=~/suite-venv/bin:$PATH "
            f"RAY_ADDRESS={self.cluster.head.address}:6379"
        )
        return self.cluster.network.ssh(self.cluster.head, f"{where} {words}")

    def end(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """What a sweep in the background said, once it has ended as it should."""
        said, _ = process.communicate(timeout=150)
        assert process.returncode == code, said
        assert "Traceback" not in said, said
        return said


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("hosts"))
    yield made
    made.network.close()
    made.store.close()


@pytest.fixture
def work(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Work]:
    """A folder; the workers that a test adds go with it."""
    yield Work(cluster, request.node.name)
    for host in cluster.network.hosts[1:]:
        host.pull_the_plug()


def epochs(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Trial -> epochs on record."""
    found: dict[str, int] = {}
    for entry in entries:
        if entry["kind"] == "epoch":
            found[entry["id"]] = found.get(entry["id"], 0) + 1
    return found


def files(folder: Path) -> list[Path]:
    """All below a folder, but for what Python itself keeps of the user's module."""
    return sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)


def test_a_head_waits_for_its_first_worker(cluster: Cluster, work: Work) -> None:
    """As on a cluster that starts workers when they are asked for."""
    work.write(parameters={"train.lr": {"values": [0.05]}}, seeds=[0])
    process = work.start()
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("no workers yet" in line for line in lines)
    cluster.worker("first")
    work.end(process)
    assert set(work.runs().values()) == {"FINISHED"}


@pytest.mark.fault(18)
def test_a_node_without_the_folder_is_refused_before_training(cluster: Cluster, work: Work) -> None:
    worker, lonely = cluster.worker("sees"), cluster.worker("blind", shared=False)
    work.write()
    before = files(work.path)
    done = work.sweep(code=6)
    assert (
        f"node {lonely.address} (blind" in done.stderr
        and f"does not see {work.there}/runs/tiny" in done.stderr
    )
    assert worker.address not in done.stderr and "--storage-path" in done.stderr
    assert files(work.path) == before, "something was left behind"


def assert_a_lost_node_costs_a_line(
    cluster: Cluster,
    work: Work,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    lose: Callable[[Host], object],
) -> None:
    """Of two workers one goes in the middle: one line, and the figures of one machine."""
    cluster.worker("stays")
    goes = cluster.worker("goes")
    work.write()
    process = work.start()
    work.wait_for(
        process, lambda entries: sum(count >= 2 for count in epochs(entries).values()) == 2
    )
    lose(goes)
    said = work.end(process)
    assert said.count("was lost") == 1 and goes.address in said, said
    assert (
        set(work.runs().values()) == {"FINISHED"}
        and len(work.runs()) == 4
        and work.parents() == ["FINISHED"]
    )
    work.assert_tracked()
    assert work.curves() == alone(work.path, scratch, monkeypatch)


@pytest.mark.fault(12)
def test_a_lost_node_costs_a_line_and_nothing_else(
    cluster: Cluster, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_a_lost_node_costs_a_line(cluster, work, tmp_path, monkeypatch, Host.pull_the_plug)


@pytest.mark.fault(17)
def test_a_node_that_is_told_to_go_costs_a_line_and_nothing_else(
    cluster: Cluster, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spot machine's notice: its Ray gets SIGTERM, drains, and ends."""
    assert_a_lost_node_costs_a_line(
        cluster, work, tmp_path, monkeypatch, lambda goes: cluster.on(goes, "pkill -TERM -x raylet")
    )


@pytest.mark.fault(15)
def test_a_slow_lossy_network_is_slower_and_nothing_else(
    cluster: Cluster, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    workers = [cluster.worker("one"), cluster.worker("two")]
    for worker in workers:
        worker.slow_down()
    work.write()
    work.sweep()
    lost = sum(worker.dropped() for worker in workers)
    assert lost > 0, "the network lost nothing"
    assert (
        set(work.runs().values()) == {"FINISHED"}
        and len(work.runs()) == 4
        and work.parents() == ["FINISHED"]
    )
    work.assert_tracked()
    assert work.curves() == alone(work.path, tmp_path, monkeypatch)
    tally.add()
    tally.figures["packets lost"] = str(lost)


@pytest.mark.fault(12, 27)
def test_nodes_that_share_no_folder_share_an_object_store(
    cluster: Cluster, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two is lost in the middle; the figures are those of one machine."""
    for name, value in cluster.store.variables().items():
        monkeypatch.setenv(name, value)
    address = f"s3://{cluster.store.bucket}/runs"
    there = Bucket(address) / "tiny"
    monkeypatch.setattr(
        Work,
        "journal",
        property(
            lambda _: [json.loads(line) for line in bucket_journal.read_journal(there).splitlines()]
        ),
    )
    cluster.worker("stays", shared=False)
    goes = cluster.worker("goes", shared=False)
    settings = SWEEP["trial"] | {
        "model": {"arch": "resnet20"}
    }  # built in: these nodes do not see the user's modules
    work.write(trial=settings | {"train": settings["train"] | {"epochs": 12}})
    process = work.start("--storage-path", address)
    work.wait_for(
        process, lambda entries: sum(count >= 2 for count in epochs(entries).values()) == 2
    )
    goes.pull_the_plug()
    said = work.end(process)
    assert said.count("was lost") == 1 and goes.address in said, said
    assert (
        set(work.runs().values()) == {"FINISHED"}
        and len(work.runs()) == 4
        and work.parents() == ["FINISHED"]
    )
    work.assert_tracked()
    assert not (work.path / "runs").exists()
    local = work.path / "runs" / "tiny"
    local.mkdir(parents=True)
    (local / "journal.jsonl").write_bytes(bucket_journal.read_journal(there))
    assert work.curves() == alone(work.path, tmp_path, monkeypatch)


@pytest.mark.fault(18)
def test_a_node_that_joins_without_the_folder_stops_the_sweep(cluster: Cluster, work: Work) -> None:
    cluster.worker("early")
    long = SWEEP["trial"] | {
        "train": SWEEP["trial"]["train"] | {"epochs": 50}
    }  # until the late node has a worker
    work.write(trial=long, seeds=[0])
    process = work.start()
    work.wait_for(process, lambda entries: bool(epochs(entries)))
    late = cluster.worker("late", shared=False)
    said = work.end(process, code=6)
    assert f"node {late.address} (late) does not see {work.there}/runs/tiny" in said
    assert "RUNNING" not in work.runs().values()
    late.pull_the_plug()
    work.sweep()  # without the node it goes on
    assert list(work.runs().values()) == ["FINISHED"] * 2
    work.assert_tracked()


# ---- what stock parts do -------------------------------------------------------------------------


class StockWork(Work):
    """``tests/faults/stock.py`` on the head, in a folder on the shared file system."""

    def command(self, *arguments: str, module: str = "") -> list[str]:
        """``arguments``: the sweep file, which it has none of, and options."""
        script = REPO / "tests" / "faults" / "stock.py"
        words = " ".join(
            [
                f"python {script} {self.there} --values 0.1,0.2 --pause 0.3 --epochs 60",
                *arguments[1:],
            ]
        )
        where = (
            f"cd {self.there} && PATH=~/suite-venv/bin:$PATH "
            f"RAY_ADDRESS={self.cluster.head.address}:6379"
        )
        return self.cluster.network.ssh(self.cluster.head, f"{where} {words}")

    def statuses(self) -> list[str]:
        """Of all runs."""
        return [status for (status,) in self.query("select status from runs")]

    def rows(self) -> int:
        return (
            len(self.query("select 1 from metrics where key = 'loss'"))
            if (self.path / "mlflow.db").exists()
            else 0
        )


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("no-power", marks=pytest.mark.fault(12, 13, control=True)),
        pytest.param("cable-cut", marks=pytest.mark.fault(14, control=True)),
        pytest.param("told-to-go", marks=pytest.mark.fault(17, control=True)),
    ],
)
def test_with_tunes_default_a_lost_node_costs_a_trial(
    cluster: Cluster, work: Work, fault: str
) -> None:
    stock = StockWork(cluster, f"{work.path.name}-stock")
    cluster.worker("stays")
    goes = cluster.worker("goes")
    process = stock.start()
    wait_for(process, lambda: stock.rows() >= 8)
    if fault == "no-power":
        goes.pull_the_plug()
    elif fault == "cable-cut":
        goes.cut()
        time.sleep(45)  # after some 30 s without an answer Ray takes a node for lost
        goes.heal()
    else:
        cluster.on(goes, "pkill -TERM -x raylet")
    process.communicate(timeout=150)
    assert {"FAILED", "RUNNING"} & {*stock.statuses()}, stock.statuses()


LISTEN = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    s.bind((\"\", 7000)); print(\"ready\", flush=True); s.settimeout(3); count = 0
    try:
        while s.recv(2000): count += 1
    except TimeoutError: print(count)
"""
SEND = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for _ in range(2000): s.sendto(bytes(1000), (\"{head}\", 7000))
"""


@pytest.mark.fault(15, control=True)
def test_on_the_slow_network_what_is_not_sent_again_is_lost(cluster: Cluster, work: Work) -> None:
    """Datagrams, of which nobody asks for a receipt: that the cable is as bad as the test with
    the sweep says.
    """
    worker = cluster.worker("slow")
    worker.slow_down()
    listener = subprocess.Popen(
        cluster.network.ssh(cluster.head, f"python3 -c '{LISTEN}'"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None and listener.stdout.readline() == "ready\n"
    cluster.on(worker, f"python3 -c '{SEND.format(head=cluster.head.address)}'")
    came = int(listener.communicate(timeout=60)[0])
    assert 0 < came < 1000, "of 2,000"


@pytest.mark.fault(18, control=True)
def test_a_node_without_the_folder_is_noticed_once_it_trains(cluster: Cluster, work: Work) -> None:
    stock = StockWork(cluster, f"{work.path.name}-stock")
    cluster.worker("sees")
    cluster.worker("blind", shared=False)
    process = stock.start("--epochs", "3")
    process.communicate(timeout=150)
    assert "FINISHED" in stock.statuses() and {"FAILED", "RUNNING"} & {*stock.statuses()}, (
        stock.statuses()
    )


@pytest.mark.fault(16, control=True)
def test_without_its_head_runs_stay_running_and_others_go_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    cluster = Cluster(tmp_path_factory.mktemp("hosts"))
    try:
        stock = StockWork(cluster, "head-stock")
        cluster.worker("one")
        cluster.worker("two")
        process = stock.start()
        wait_for(process, lambda: stock.rows() >= 8)
        for host in cluster.network.hosts:
            host.pull_the_plug()
        process.communicate(timeout=60)
        cluster.head = cluster.network.host("new-head")
        cluster.start_ray()
        cluster.worker("three")
        cluster.worker("four")
        stock.end(stock.start("--restore"))
        assert "RUNNING" in stock.statuses() and len(stock.statuses()) > 2, (
            "one run for each of two trials"
        )
    finally:
        cluster.network.close()
        cluster.store.close()


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
