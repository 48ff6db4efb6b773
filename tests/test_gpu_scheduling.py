"""Fractions of GPUs: scheduled with logical ones that are given to Ray at its start, as no real one
is needed for that.

That trials then really use a GPU is not tested here: see the marker ``gpu``.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import Folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="there is a GPU here: these test a machine without one"
    ),
]

SCRIPT = """
import ray
quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
ray.init(num_cpus=4, num_gpus=1, **quiet)
from rich.console import Console
from suite import sweep
from suite.launch import Options
result = sweep.run("sweep.yaml", ["resources.gpu=%s"], options=Options(), report=False)
print("code", result.exit_code, "trials", len(result.trials))
"""


def concurrency(folder: Folder) -> int:
    """The most trials that ran at the same time, by the journal's clock."""
    running, most = 0, 0
    for entry in folder.journal:
        running += (entry["kind"] == "start") - (entry["kind"] == "end")
        most = max(most, running)
    return most


@pytest.mark.parametrize(("fraction", "expected"), [("0.5", 2), ("1", 1)])
@pytest.mark.full
def test_a_fraction_of_a_gpu_decides_how_many_run_at_once(
    folder: Folder, fraction: str, expected: int
) -> None:
    folder.write()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % fraction],
        cwd=folder.path,
        env=folder.environment(SLOW="0.2"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "code 0 trials 4" in done.stdout, done.stdout + done.stderr
    assert concurrency(folder) == expected
    assert (
        next(entry for entry in folder.journal if entry["kind"] == "launch")["numerics"]["device"]
        == "cpu"
    )


@pytest.mark.parametrize("wanted", [pytest.param(0.25, marks=pytest.mark.full), "auto"])
@pytest.mark.fault(43)
def test_without_a_gpu_the_sweep_runs_on_the_cpu_and_says_so_in_one_line(
    folder: Folder, wanted: object
) -> None:
    folder.write(resources={"cpu": 1, "gpu": wanted}, seeds=[0], parameters=None)
    done = folder.sweep()
    lines = [line for line in done.stdout.splitlines() if "GPU" in line or "gpu" in line]
    assert lines == ["no GPU here: the sweep runs on the CPU"]
