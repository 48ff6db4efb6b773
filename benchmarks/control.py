"""What it costs to run and to track trials that do next to nothing: the suite, and stock parts.

40 trials x 10 reports x 12 metrics, two at once. The peer (``benchmarks/peers/control.py``) trains
nothing and keeps nothing: it only reports. The suite does all that it does for real: a one-layer
network on 48 images of 8 x 8 pixels, evaluated on two sets, a checkpoint, ``best.pt`` and test
predictions at each trial's end, a synced journal, artifacts in MLflow, the champion's registration;
only ``activations: false`` and ``--no-report`` are set.

    python -m benchmarks.control [--repeat 5] [--short]

Times run from the first trial's start to the last one's end, as Tune's loop tells its callbacks:
for the suite they are in the journal, for the peer in its MLflow runs. The suite tracks on a thread
of its own, so its time until MLflow has everything is given too.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.processes import middle, ratio, timed
from benchmarks.record import keep_table
from suite.core.records import METRICS
from suite.storage import journal

NAME, CONCURRENT = "control", 2
MODULE = """
import numpy as np
from torch import nn


def load(root):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8), np.arange(64) % 2
    train, test = (images[:48], labels[:48]), (images[48:], labels[48:])
    return {"train": train, "test": test, "classes": ["even", "odd"]}


def build(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
"""


@dataclass
class Turn:
    """One run: seconds, and what was found in MLflow.

    Attributes:
        trials_s: from the first trial's start to the last one's end.
        tracked_s: from the first trial's start until MLflow had everything.
        wall_s: the whole process.
        present, expected: metric values in MLflow, each once; how many there should be.
        held_ms: how long Tune's loop was in the callback, for each report.
        ends_ms: the same for the reports that end a trial.
    """

    trials_s: float
    tracked_s: float
    wall_s: float
    present: int
    expected: int
    held_ms: list[float]
    ends_ms: list[float]


@click.command()
@click.option("--trials", default=40, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--repeat", default=5, show_default=True)
@click.option(
    "--short", is_flag=True, help="Four trials, once, without the peer that reuses workers."
)
def main(trials: int, epochs: int, repeat: int, short: bool) -> None:
    """Run both in turn and compare."""
    trials, repeat = (4, 1) if short else (trials, repeat)
    kinds = {
        "peer": peer,
        **({} if short else {"peer, reuse_actors": peer_reusing}),
        "suite": suite,
    }
    turns: dict[str, list[Turn]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="suite-control-") as name:
        for number in range(repeat):
            for kind, run in kinds.items():
                turns[kind].append(run(Path(name) / f"{kind.split()[-1]}{number}", trials, epochs))
                print(
                    f"{kind}: {turns[kind][-1].trials_s:.1f} s of {turns[kind][-1].wall_s:.1f} s",
                    flush=True,
                )
    notes = (__doc__ or "").partition("\n")[2].strip()
    text = f"n = {repeat} of each, in turn, each in a fresh process and folder.\n\n{notes}"
    title = f"{trials} empty trials x {epochs} reports x {len(METRICS)} metrics, tracked"
    keep_table(
        "control-short" if short else "control",
        title,
        ["What", *kinds, "ratio"],
        table(turns),
        text,
    )


def table(turns: dict[str, list[Turn]]) -> list[list[str]]:
    """The rows: figures of each kind, and the suite against the peer (against the peer that
    reuses actors).
    """

    def seconds(name: str, what: str) -> list[str]:
        figures = {kind: [getattr(turn, what) for turn in found] for kind, found in turns.items()}
        *peers, ours = figures.values()
        return [
            name,
            *map(middle, figures.values()),
            " / ".join(ratio(theirs, ours) for theirs in peers),
        ]

    return [
        seconds("first start to last end, s (goal: 10 times less)", "trials_s"),
        seconds("first start until MLflow has all, s", "tracked_s"),
        seconds("whole process, start-up included, s", "wall_s"),
        [
            "loop held per report, ms (goal: under 1)",
            *(held(found, "held_ms") for found in turns.values()),
            "",
        ],
        [
            "loop held per report that ends a trial, ms",
            *(held(found, "ends_ms") for found in turns.values()),
            "",
        ],
        ["metric values in MLflow, once and equal", *map(complete, turns.values()), ""],
    ]


def held(turns: Sequence[Turn], what: str) -> str:
    """``median, p99, max`` over all turns."""
    values = [value for turn in turns for value in getattr(turn, what)]
    if not values:
        return ""
    return (
        f"{statistics.median(values):.2f}, p99 {np.percentile(values, 99):.2f}, max "
        f"{max(values):.1f}"
    )


def complete(turns: Sequence[Turn]) -> str:
    """``found of expected``, of the worst turn."""
    worst = min(turns, key=lambda turn: turn.present)
    return f"{worst.present:,} of {worst.expected:,}"


# ---- the peer ------------------------------------------------------------------------------------


def peer(folder: Path, trials: int, epochs: int, *options: str) -> Turn:
    """Stock parts."""
    result = folder / "watched.json"
    options = (
        ".",
        "--trials",
        str(trials),
        "--epochs",
        str(epochs),
        "--concurrent",
        str(CONCURRENT),
        *options,
    )
    wall = timed(
        folder, "benchmarks.watched", str(result), "benchmarks.peers.control", *options
    ).seconds
    client = mlflow_client(folder)
    runs = finished_runs(client, NAME)
    started, ended = (
        min(run.info.start_time for run in runs),
        max(run.info.end_time for run in runs),
    )
    present = sum(count == 1 for run in runs for count in Counter(values(client, run)).values())
    watched = json.loads(result.read_text())
    seconds = (ended - started) / 1000
    return Turn(
        seconds,
        seconds,
        wall,
        present,
        trials * epochs * len(METRICS),
        milliseconds(watched["report_s"]),
        [],
    )


def peer_reusing(folder: Path, trials: int, epochs: int) -> Turn:
    """Stock parts, one worker for many trials."""
    return peer(folder, trials, epochs, "--reuse")


# ---- the suite -----------------------------------------------------------------------------------


def suite(folder: Path, trials: int, epochs: int) -> Turn:
    """The sweep file through ``python -m suite.sweep``, watched."""
    folder.mkdir(parents=True)
    (folder / "empty.py").write_text(MODULE)
    (folder / "control.yaml").write_text(json.dumps(sweep_file(trials, epochs)))  # JSON is YAML
    result = folder / "watched.json"
    options = ("--no-report", "--max-concurrent", str(CONCURRENT))
    wall = timed(
        folder, "benchmarks.watched", str(result), "suite.sweep", "control.yaml", *options
    ).seconds
    entries = journal.read(folder / "runs" / NAME / journal.FILE_NAME)
    started = min(entry["ts_ms"] for entry in entries if entry["kind"] == "start")
    ended = max(entry["ts_ms"] for entry in entries if entry["kind"] == "end")
    watched = json.loads(result.read_text())
    tracked = max(watched["drained"]) - started / 1000
    present = matching(
        mlflow_client(folder), [entry for entry in entries if entry["kind"] == "epoch"]
    )
    held_ms, ends_ms = milliseconds(watched["report_s"]), milliseconds(watched["report_end_s"])
    expected = trials * epochs * len(METRICS)
    return Turn((ended - started) / 1000, tracked, wall, present, expected, held_ms, ends_ms)


def sweep_file(trials: int, epochs: int) -> dict[str, Any]:
    """The sweep: one arm, so many seeds."""
    return {
        "name": NAME,
        "description": "What do trials cost that do next to nothing?",
        "trial": {
            "data": {"name": "empty:load"},
            "model": {"arch": "empty:build"},
            "train": {"epochs": epochs, "batch_size": 48, "precision": "fp32"},
        },
        "seeds": list(range(trials)),
        "activations": False,
    }


def matching(client: Any, entries: list[journal.Entry]) -> int:
    """How many metric values of the journal are in MLflow: under that name and step, once, and
    equal.
    """
    recorded = Counter(
        (entry["id"], entry["epoch"], name, value)
        for entry in entries
        for name, value in entry["metrics"].items()
    )
    runs = [run for run in finished_runs(client, NAME) if "suite.trial" in run.data.tags]
    stored = Counter(
        (run.data.tags["suite.trial"], step, name, value)
        for run in runs
        for name, step, value in values(client, run)
    )
    return sum(count == 1 and stored[key] == 1 for key, count in recorded.items())


# ---- what MLflow has -----------------------------------------------------------------------------


def mlflow_client(folder: Path) -> Any:
    """A client of the store that was written in ``folder``."""
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder.absolute()}/mlflow.db")


def finished_runs(client: Any, experiment: str) -> list[Any]:
    """The finished runs of an experiment."""
    found = client.search_runs(
        [client.get_experiment_by_name(experiment).experiment_id], max_results=1000
    )
    return [run for run in found if run.info.status == "FINISHED"]


def values(client: Any, run: Any) -> list[tuple[str, int, float]]:
    """Name, step and value of all that is stored of a run under the names of ``METRICS``."""
    history = client.get_metric_history
    return [
        (name, metric.step, metric.value)
        for name in METRICS
        for metric in history(run.info.run_id, name)
    ]


def milliseconds(seconds: Sequence[float]) -> list[float]:
    """Seconds as milliseconds."""
    return [1000 * value for value in seconds]


if __name__ == "__main__":
    main()
