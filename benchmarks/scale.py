"""What one more trial, and one more node, costs the process that drives a sweep.

1,000 trials that do next to nothing (those of ``benchmarks.control``, one epoch each) on 1, 2 and 4
nodes with one processor each; the nodes are Ray's on this machine, the head trains nothing. The
driver does all that it does for real: journal, MLflow, artifacts, the champion. Its processor time
is that of its own process, tracking included.

    python -m benchmarks.scale [--trials 1000] [--short]
"""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.control import MODULE, NAME, sweep_file
from benchmarks.processes import timed
from benchmarks.record import keep_table
from suite.storage import journal

NODES = (1, 2, 4)


@dataclass(frozen=True)
class Turn:
    """One sweep.

    Attributes:
        trials_s: from the first trial's start to the last one's end.
        wall_s: the driver's process, from its start to its end.
        driver_s: the driver's processor time.
        tracked: finished runs in MLflow, the sweep's own included.
    """

    trials_s: float
    wall_s: float
    driver_s: float
    tracked: int


@click.command()
@click.option("--trials", default=1000, show_default=True)
@click.option("--short", is_flag=True, help="20 trials, on one and two nodes.")
def main(trials: int, short: bool) -> None:
    """Run the same sweep on more and more nodes."""
    trials, nodes = (20, NODES[:2]) if short else (trials, NODES)
    turns = {}
    for count in nodes:
        with (
            tempfile.TemporaryDirectory(prefix="suite-scale-") as folder,
            cluster(Path(folder) / "ray", count),
        ):
            turns[count] = sweep(Path(folder) / "work", trials)
        print(f"{count} nodes: {turns[count]}", flush=True)
    rows = [
        ["first start to last end, s", *(f"{turn.trials_s:.1f}" for turn in turns.values())],
        ["trials a second", *(f"{trials / turn.trials_s:.1f}" for turn in turns.values())],
        [
            "driver's processor time a trial, ms",
            *(f"{1000 * turn.driver_s / trials:.0f}" for turn in turns.values()),
        ],
        ["whole process, s", *(f"{turn.wall_s:.1f}" for turn in turns.values())],
        ["finished runs in MLflow", *(f"{turn.tracked:,}" for turn in turns.values())],
    ]
    header = ["What", *(f"{count} node{'s' if count > 1 else ''}" for count in nodes)]
    title = f"{trials:,} empty trials on nodes of one processor each"
    keep_table(
        "scale-short" if short else "scale",
        title,
        header,
        rows,
        (__doc__ or "").partition("\n")[2].strip(),
    )


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[None]:
    """A Ray cluster on this machine, named by RAY_ADDRESS: a head that trains nothing, and so
    many nodes.
    """
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from ray.cluster_utils import Cluster

    folder.mkdir(parents=True)
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "temp_dir": str(folder),
        "object_store_memory": 200_000_000,
    }
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, object_store_memory=200_000_000)
        made.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = made.address
        yield
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        made.shutdown()


def sweep(folder: Path, trials: int) -> Turn:
    """The sweep of ``benchmarks.control``, one epoch a trial."""
    folder.mkdir(parents=True)
    (folder / "empty.py").write_text(MODULE)
    (folder / "control.yaml").write_text(json.dumps(sweep_file(trials, epochs=1)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = timed(folder, "suite.sweep", "control.yaml", "--no-report").seconds
    after = resource.getrusage(
        resource.RUSAGE_CHILDREN
    )  # of children that have ended: Ray's have not
    driver = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    entries = journal.read(folder / "runs" / NAME / journal.FILE_NAME)
    started = min(entry["ts_ms"] for entry in entries if entry["kind"] == "start")
    ended = max(entry["ts_ms"] for entry in entries if entry["kind"] == "end")
    return Turn((ended - started) / 1000, wall, driver, finished(folder))


def finished(folder: Path) -> int:
    """How many finished runs the store has."""
    with sqlite3.connect(folder / "mlflow.db") as connection:
        (count,) = connection.execute(
            "select count(*) from runs where status = 'FINISHED'"
        ).fetchone()
    return int(count)


if __name__ == "__main__":
    main()
