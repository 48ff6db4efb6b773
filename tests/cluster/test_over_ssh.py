"""The shipped cluster-local.yaml from nothing to a running sweep and back to nothing, on hosts in namespaces.

Real: ``ray up`` and ``ray down`` over ssh, the autoscaler that starts the workers, the token, MLflow's server on the
head, images from a folder. A folder of this machine stands for NFS, and ssh's set-up finds the packages installed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from alone import alone
from conftest import REPO, Folder
from hosts import SHARED, Network, why_not

from suite import cluster_file

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

    network = Network(tmp_path, {"SLOW": "0.2", "COLUMNS": "200", "SUITE_CACHE": str(tmp_path / "cache")})
    try:
        head, first, second = (network.host(name) for name in ("head", "first", "second"))
        text = (REPO / "cluster-local.yaml").read_text()
        text = text.replace("head_ip: REPLACE", f"head_ip: {head.address}")
        text = text.replace("[REPLACE]", f"[{first.address}, {second.address}]").replace("REPLACE", "root")
        file = tmp_path / "cluster.yaml"
        file.write_text(text)
        assert cluster_file.examine(file) == []
        images(network.shared / "data")
        work = Shared(network.shared / "work", head.home / "mlflow/mlflow.db")
        work.write(
            trial={
                "data": {"name": "folder", "root": str(SHARED / "data"), "image_size": 32},
                "model": {"arch": "tiny_net:build"},
                "train": {"epochs": 12, "batch_size": 60, "lr": 0.05, "precision": "fp32"},
            },
            resources={"cpu": 2},
        )

        def launch() -> Any:
            command = (
                f"python -m suite.sweep {SHARED}/work/sweep.yaml --no-report --storage-path {SHARED}/work/runs "
                "--tracking-uri http://127.0.0.1:5000"
            )
            path = "RAY_AUTH_MODE=token RAY_ADDRESS=auto"
            ray = (sys.executable, "-m", "ray.scripts.scripts")
            return network.start(*ray, "exec", str(file), f"cd ~/suite && {path} {command}")

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
        process = launch()
        work.wait_for(process, trained(4))
        tell(f"the same command goes on: {counts()}")
        first.cut()
        time.sleep(40)
        first.heal()
        tell(f"the network was cut for 40 s: {counts()}")
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
        tell(f"the sweep has ended: {counts()}")

        assert set(work.runs().values()) == {"FINISHED"} and len(work.runs()) == 4 and work.parents() == ["FINISHED"]
        assert not work.query("select 1 from runs where status = 'RUNNING'")
        work.assert_tracked()
        network.ray("down", "-y", str(file))
        tell("down")
        end = time.monotonic() + 120  # workers go when they have looked for the head for a minute
        while left := [line for host in (head, first, second) for line in host.processes("raylet")]:
            assert time.monotonic() < end, left
            time.sleep(1)
        tell("no Ray is left on any host")

        sweep = yaml.safe_load((work.path / "sweep.yaml").read_text())
        sweep["trial"]["data"]["root"] = str(network.shared / "data")
        (work.path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        monkeypatch.setenv("SUITE_CACHE", str(tmp_path / "cache"))
        assert work.curves() == alone(work.path, tmp_path / "alone", monkeypatch), "figures differ from one machine's"
        tell("figures are those of one machine")
    finally:
        network.close()
