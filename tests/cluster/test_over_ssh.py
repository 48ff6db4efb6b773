"""The shipped cluster-local.yaml from nothing to a running sweep and back to nothing, on hosts in
namespaces.

Real: ``ray up`` and ``ray down`` over ssh, the autoscaler that starts the workers, the token,
    MLflow's server on the
head, images from a folder. A folder of this machine stands for NFS, and ssh's set-up finds the
packages installed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from alone import alone
from conftest import REPO, Folder
from hosts import SHARED, Network, why_not
from test_tracking import free_port

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

IMAGES = {"train": 40, "test": 10}  # of each class


class Shared(Folder):
    """A user's folder on the shared file system, with MLflow's database on the head's disk."""

    def __init__(self, path: Path, database: Path) -> None:
        path.mkdir()
        super().__init__(path)
        self.database = database

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.database) as connection:
            return connection.execute(sql, arguments).fetchall()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:  # it wants a token
        return True
    except OSError:
        return False
    return True


def images(folder: Path) -> None:
    """A small image folder: of the real images that SUITE_CIFAR10 names, else made up."""
    source = os.environ.get("SUITE_CIFAR10")
    random = np.random.default_rng(0)
    for part, count in IMAGES.items():
        if source:
            for kind in sorted(Path(source, part).iterdir()):
                (folder / part / kind.name).mkdir(parents=True)
                for image in sorted(kind.iterdir())[:count]:
                    shutil.copy(image, folder / part / kind.name)
            continue
        for number in range(3):
            (folder / part / f"kind{number}").mkdir(parents=True)
            for index in range(count):
                pixels = (random.random((32, 32, 3)) * 120 + number * 60).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / f"kind{number}" / f"{index}.png")


@pytest.mark.fault(12, 13, 14, 16)
def test_up_sweep_lost_worker_lost_head_cut_network_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()

    def tell(what: str) -> None:
        with capsys.disabled():
            print(f"  {time.monotonic() - began:6.1f} s  {what}", flush=True)

    tunnels: list[Any] = []
    network = Network(
        tmp_path, {"SLOW": "0.2", "COLUMNS": "200", "SUITE_CACHE": str(tmp_path / "cache")}
    )
    try:
        head, first, second = (network.host(name) for name in ("head", "first", "second"))
        text = (REPO / "cluster-local.yaml").read_text()
        text = text.replace("head_ip: REPLACE", f"head_ip: {head.address}")
        text = text.replace("[REPLACE]", f"[{first.address}, {second.address}]").replace(
            "REPLACE", "root"
        )
        file = tmp_path / "cluster.yaml"
        file.write_text(text)
        seen = network.run(network.python, "-m", "suite.doctor", str(file))
        assert seen.returncode == 0 and "no problem found" in seen.stdout, seen.stdout
        images(tmp_path / "images")
        work = Shared(network.shared / "work", head.home / "mlflow/mlflow.db")
        work.write(
            trial={
                "data": {"name": "folder", "root": str(SHARED / "data"), "image_size": 32},
                "model": {"arch": "tiny_net:build"},
                "train": {"epochs": 12, "batch_size": 60, "lr": 0.05, "precision": "fp32"},
            },
            resources={"cpu": 2},
        )

        command = (
            f"python -m suite.sweep {SHARED}/work/sweep.yaml --no-report --storage-path "
            f"{SHARED}/work/runs "
            "--tracking-uri http://127.0.0.1:5000"
        )
        ray = (network.python, "-m", "ray.scripts.scripts")

        def launch() -> Any:
            path = "RAY_AUTH_MODE=token RAY_ADDRESS=auto"
            return network.start(*ray, "exec", str(file), f"cd ~/suite && {path} {command}")

        def tunnel(remote: int) -> str:
            """An address of this machine that leads to a port of the head."""
            port = free_port()
            process = network.start(
                *ray, "dashboard", str(file), "--port", f"{port}", "--remote-port", f"{remote}"
            )
            tunnels.append(process)
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
            while not answers(address):
                assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
                time.sleep(0.5)
            return address

        def submit(address: str, number: int) -> Any:
            """The sweep as a job, as docs/how-to/cluster.md has it."""
            job = (
                "job",
                "submit",
                "--address",
                address,
                "--submission-id",
                f"sweep-{number}",
                "--working-dir",
                ".",
            )
            return network.start(*ray, *job, "--", *command.split(), RAY_AUTH_MODE="token")

        def up() -> None:
            network.ray("up", "-y", "--no-config-cache", str(file))
            tell("the head is up")

        def counts() -> list[int]:
            return sorted(len(epochs) for epochs in work.curves().values())

        def trained(more: int) -> Callable[[Any], bool]:
            """So many more epochs than now."""
            at = sum(counts())
            return lambda entries: sum(counts()) >= at + more

        up()
        network.ray("rsync-up", str(file), f"{tmp_path}/images/", f"{SHARED}/data/")
        process = launch()
        work.wait_for(process, lambda entries: sum(count >= 2 for count in counts()) == 2)
        tell(f"two trials train on two workers: {counts()}")
        second.pull_the_plug()
        work.wait_for(process, trained(8))
        tell(f"a worker lost its power, and the sweep goes on: {counts()}")
        head.pull_the_plug()
        said, _ = process.communicate(timeout=60)
        tell(f"the head lost its power: {counts()}")
        second.start()
        head.start()
        up()
        jobs = tunnel(8265)
        process = submit(jobs, 1)
        work.wait_for(process, trained(4))
        tell(f"the same command goes on, now as a job: {counts()}")
        stopped = network.run(
            *ray, "job", "stop", "--address", jobs, "sweep-1", RAY_AUTH_MODE="token"
        )
        assert stopped.returncode == 0, stopped.stdout
        said, _ = process.communicate(timeout=60)
        assert "stopped (SIGTERM); launch the same command again" in said, said
        assert "RUNNING" not in work.runs().values() and work.parents() == ["KILLED"]
        logs = network.run(*ray, "job", "logs", "--address", jobs, "sweep-1", RAY_AUTH_MODE="token")
        assert "stopped (SIGTERM)" in logs.stdout, logs.stdout
        tell(f"the job was stopped: {counts()}")
        process = submit(jobs, 2)
        work.wait_for(process, trained(1))
        first.cut()
        time.sleep(40)
        first.heal()
        tell(f"the network was cut for 40 s: {counts()}")
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
        tell(f"the sweep has ended: {counts()}")

        assert (
            set(work.runs().values()) == {"FINISHED"}
            and len(work.runs()) == 4
            and work.parents() == ["FINISHED"]
        )
        assert not work.query("select 1 from runs where status = 'RUNNING'")
        work.assert_tracked()
        uri = tunnel(5000)
        report = network.run(
            network.python,
            "-m",
            "suite.report",
            "tiny",
            "--tracking-uri",
            uri,
            "--out",
            f"{tmp_path}/report",
        )
        assert report.returncode == 0, report.stdout
        assert "val/acc" in (tmp_path / "report" / "tiny" / "index.html").read_text()
        tell("the report is made through a tunnel")
        network.ray("down", "-y", str(file))
        tell("down")
        end = time.monotonic() + 120  # workers go when they have looked for the head for a minute
        while left := [line for host in (head, first, second) for line in host.processes("raylet")]:
            assert time.monotonic() < end, left
            time.sleep(1)
        tell("no Ray is left on any host")

        sweep = yaml.safe_load((work.path / "sweep.yaml").read_text())
        sweep["trial"]["data"]["root"] = str(tmp_path / "images")
        (work.path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        monkeypatch.setenv("SUITE_CACHE", str(tmp_path / "cache"))
        assert work.curves() == alone(work.path, tmp_path / "alone", monkeypatch), (
            "figures differ from one machine's"
        )
        tell("figures are those of one machine")
    finally:
        for process in tunnels:
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    one.kill()
            process.communicate()
        network.close()
