"""What a trial best gets of two cores: both for one trial, or one each for two at once; and how images lie in memory.

Images a second of the node, training alone, batch 128, in the precision that ``suite.probe`` chooses; each trial in a
process of its own, two at once begun together and timed over the epochs that both train.

    python -m benchmarks.threads [--repeat 5] [--short]

``resources.cpu`` is 1 by default, and channels lie behind pixels, for what this shows (docs/decisions/0013).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.processes import ROOT, middle, ratio
from benchmarks.record import keep_table

WAYS = {"two threads": (1, 2, True), "two trials": (2, 1, True), "two trials, NCHW": (2, 1, False)}
ARCHS = {"resnet18": 1280, "resnet18_cifar": 256, "resnet20": 1280}  # images of an epoch
SECONDS = 8.0  # of training, after the first epoch


@click.command()
@click.option("--repeat", default=5, show_default=True)
@click.option("--short", is_flag=True, help="torchvision's net alone, once.")
@click.option("--worker", hidden=True, default="", help="One trial: arch, threads, layout, precision.")
def main(repeat: int, short: bool, worker: str) -> None:
    """Measure each net each way, in turn."""
    if worker:
        train(json.loads(worker))
        return
    rows = []
    for arch in list(ARCHS)[: 1 if short else None]:
        precision = chosen(arch)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(1 if short else repeat):
            for way, (trials, threads, channels_last) in WAYS.items():
                found[way].append(rate(arch, trials, threads, channels_last, precision))
                print(f"{arch}, {way}: {found[way][-1]:.0f} img/s", flush=True)
        one, two, plain = found.values()
        rows.append([arch, precision, *map(middle, found.values()), ratio(two, one), ratio(two, plain)])
    header = ["Net", "precision", *(f"{way}, img/s" for way in WAYS), "two trials / two threads", "/ NCHW"]
    text = f"n = {1 if short else repeat}, in turn.\n\n{(__doc__ or '').partition(chr(10))[2].strip()}"
    keep_table("threads-short" if short else "threads", "One trial on two cores, or two trials", header, rows, text)


def chosen(arch: str) -> str:
    """What the probe takes for trials of one thread."""
    from suite import probe
    from suite.spec import TrialConfig

    config = TrialConfig.model_validate({"model": {"arch": arch}, "train": {"batch_size": 128}})
    return probe.choose_numerics([(config, 10, 32)], threads=1, device="cpu", say=lambda text: None).precision


def rate(arch: str, trials: int, threads: int, channels_last: bool, precision: str) -> float:
    """Images a second of all trials together."""
    what = json.dumps({"arch": arch, "threads": threads, "channels_last": channels_last, "precision": precision})
    command = [sys.executable, "-m", "benchmarks.threads", "--worker", what]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    running = [
        subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(trials)
    ]
    for each in running:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in running:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0]) for each in running)


def train(what: dict[str, object]) -> None:
    """One trial: says when its first epoch is over, waits, trains for ``SECONDS``, prints images a second."""
    from suite import data
    from suite.records import Numerics, Objective, Trial
    from suite.spec import TrialConfig
    from suite.train import Training

    arch = str(what.pop("arch"))
    count, random = ARCHS[arch], np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels, names = np.arange(count) % 10, tuple(map(str, range(10)))
    dataset = data.Dataset("bench", names, "bench", pixels, labels, pixels[:128], labels[:128])
    settings = {
        "data": {"name": "own:load", "val_size": 0},
        "model": {"arch": arch},
        "train": {"epochs": 10_000, "batch_size": 128},
    }
    config = TrialConfig.model_validate(settings).model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            Trial("bench", "bench", 0, "bench", config=config), dataset, folder=Path(folder),
            objective=Objective("train/loss", "minimize", "last"), numerics=Numerics(**what, sliced=True),  # type: ignore[arg-type]
        )  # fmt: skip
        training.advance()
        print("ready", flush=True)
        sys.stdin.readline()
        seen, seconds, end = 0, 0.0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            record = training.advance()
            assert record is not None
            seen, seconds = seen + count, seconds + count / record.metrics["time/img_per_s"]
    print(seen / seconds)


if __name__ == "__main__":
    main()
