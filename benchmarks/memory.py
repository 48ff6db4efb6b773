"""Memory of each further trial on a node: what of a worker is its own, and what it shares.

A sweep of two trials at once on 60,000 images of 32 x 32 (184 MB decoded), made up. While it
trains, each worker's memory is read from /proc: resident, private (USS), and shared. The data lie
once in Ray's object store, whatever the number of trials; the usual way keeps a copy in each trial.

    python -m benchmarks.memory [--arch resnet18_cifar] [--short]

Limit: private memory without any data: interpreter, torch, Ray, the network, its optimizer, a
    batch's activations.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil
import yaml

from benchmarks.processes import ROOT
from benchmarks.record import keep_table

WORKER = "ray::ResourceTrainable"
LOADER = """
import numpy as np

def load(root):
    random = np.random.default_rng(0)
    def part(count):
        return random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10
    classes = [str(number) for number in range(10)]
    return {"train": part(TRAIN), "test": part(TEST), "classes": classes}
"""


@click.command()
@click.option("--arch", default="resnet18", show_default=True)
@click.option(
    "--seconds", default=40.0, show_default=True, help="Watched after both workers train."
)
@click.option("--short", is_flag=True, help="Watched for five seconds.")
def main(arch: str, seconds: float, short: bool) -> None:
    """Watch the two workers."""
    with tempfile.TemporaryDirectory(prefix="suite-memory-") as name:
        folder = Path(name)
        (folder / "noise.py").write_text(
            LOADER.replace("TRAIN", "50_000").replace("TEST", "10_000")
        )
        (folder / "memory.yaml").write_text(yaml.safe_dump(sweep_file(arch)))
        peaks = watched(folder, 5.0 if short else seconds)
    rows = [
        [f"worker {number}", *(f"{value / 2**20:.0f}" for value in peak)]
        for number, peak in enumerate(peaks.values(), 1)
    ]
    header = [
        "Worker",
        "resident, MiB (goal: under 700)",
        "of it private, MiB",
        "shared with others, MiB",
    ]
    text = (__doc__ or "").partition("\n")[2].strip()
    keep_table(
        "memory-short" if short else "memory",
        f"Memory of two trials at once, {arch}",
        header,
        rows,
        text,
    )


def watched(folder: Path, seconds: float) -> dict[int, tuple[int, int, int]]:
    """Of each worker: its process -> peaks of resident, private and shared bytes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SUITE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "suite.sweep", "memory.yaml", "--no-report"]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
        peaks: dict[int, tuple[int, int, int]] = {}
        journal = folder / "runs" / "memory" / "journal.jsonl"
        try:
            while not (journal.exists() and journal.read_text().count('"kind": "epoch"') >= 2):
                assert process.poll() is None, (folder / "output.txt").read_text()
                time.sleep(0.5)
            until = time.monotonic() + seconds
            while time.monotonic() < until and process.poll() is None:
                for worker in workers():
                    known = worker.memory_full_info()
                    now = np.array([known.rss, known.uss, known.rss - known.uss])
                    peaks[worker.pid] = tuple(
                        np.maximum(now, peaks.get(worker.pid, (0, 0, 0))).tolist()
                    )
                time.sleep(0.25)
        finally:
            process.terminate()
            process.wait(60)
    return peaks


def workers() -> list[psutil.Process]:
    """Those that train: by the title that Ray gives them, as they are no children of the driver."""
    lines = (
        (process, process.info["cmdline"] or [""]) for process in psutil.process_iter(["cmdline"])
    )
    return [process for process, line in lines if line[0].startswith(WORKER)]


def sweep_file(arch: str) -> dict[str, object]:
    """Two trials that go on until they are stopped."""
    return {
        "name": "memory",
        "description": "What does a further trial take?",
        "trial": {
            "data": {"name": "noise:load", "train_size": 2560, "val_size": 500, "test_size": 500},
            "model": {"arch": arch},
            "train": {"epochs": 1000, "batch_size": 128, "precision": "fp32"},
        },
        "seeds": [0, 1],
    }


if __name__ == "__main__":
    main()
