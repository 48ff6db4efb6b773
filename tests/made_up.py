"""Made-up sweeps for the tests of the report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from suite import tracking
from suite.analysis.predictions import Predictions
from suite.core.errors import EnvironmentProblem
from suite.core.records import EpochRecord, Objective, Status, Trial
from suite.report.content import Content, content
from suite.report.runs import Rules
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns, TrialRun

VAL = Objective("val/acc")
EVIL = "<script>alert(1)</script>"


def history(
    arm: str,
    seed: int,
    test: float = 0.5,
    *,
    baseline: bool = False,
    status: str = "finished",
    numerics: str = "fp32",
    settings: Mapping[str, Any] | None = None,
) -> TrialHistory:
    """A trial of two epochs, of which validation prefers the first."""
    records = {
        1: EpochRecord(1, {"val/acc": 0.6, "test/acc": test, "train/acc": 0.7}),
        2: EpochRecord(2, {"val/acc": 0.55, "test/acc": 0.99, "train/acc": 0.9}),
    }
    trial = Trial(f"{arm}-{seed}", arm, seed, f"{arm} seed={seed}", settings or {})
    return TrialHistory(
        trial, {"baseline": baseline, "numerics": {"precision": numerics}}, records, Status(status)
    )


def sweep_of(table: Mapping[str, Sequence[float]], baseline: str = "base") -> list[TrialHistory]:
    """Arm -> test figure by seed."""
    return [
        history(arm, seed, value, baseline=arm == baseline)
        for arm, values in table.items()
        for seed, value in enumerate(values)
    ]


def run(
    arm: str,
    seed: int,
    *,
    status: str = "finished",
    epochs: int = 4,
    params: Mapping[str, str] | None = None,
    **tags: str,
) -> TrialRun:
    """A trial's run as the store has it."""
    rng = np.random.default_rng([seed, len(arm), ord(arm[0])])
    curve = np.linspace(0.3, 0.6 + len(arm) / 100, epochs) + rng.normal(0, 0.01, epochs)
    metrics = {
        name: {epoch + 1: float(value + shift) for epoch, value in enumerate(curve)}
        for name, shift in (
            ("val/acc", 0.0),
            ("test/acc", -0.01),
            ("train/acc", 0.1),
            ("time/epoch_s", 1.0),
        )
    }
    known = {
        "suite.arm": arm,
        "suite.settings": json.dumps({"augment": arm}),
        "suite.in_plan": "true",
        "suite.reason": "",
        "suite.baseline": "true" if arm == "base" else "false",
        "suite.numerics": '{"precision": "fp32"}',
        "suite.objective": '{"name": "val/acc", "goal": "maximize", "strategy": "best"}',
    }
    tags = {f"suite.{name}": value for name, value in tags.items()}
    metrics = {name: history for name, history in metrics.items() if history}
    name = f"{arm} seed={seed}"
    return TrialRun(
        f"r{arm}{seed}",
        f"{arm}{seed}",
        arm,
        seed,
        name,
        status,
        known | tags,
        params or {},
        metrics,
    )


def runs(
    *trials: TrialRun, status: str = "finished", description: str = "What helps?", **tags: str
) -> SweepRuns:
    """A sweep as the store has it."""
    known = {
        "mlflow.note.content": description,
        "suite.margin": "0.005",
        "mlflow.source.name": "suite.sweep x.yaml",
    }
    known |= {f"suite.{name}": value for name, value in tags.items()}
    return SweepRuns(
        "fruit", TrialRun("p", "", "", -1, "fruit", status, known, {"metric": "val/acc"}), trials
    )


def grid(arms: Sequence[str], seeds: int, **more: Any) -> list[TrialRun]:
    return [run(arm, seed, **more) for arm in arms for seed in range(seeds)]


def report(*trials: TrialRun, **more: Any) -> Content:
    return content(runs(*trials, **more), Rules(VAL))


def said(found: Content) -> str:
    return "\n".join((*found.conclusions, *found.notices))


def evil() -> Content:
    """A sweep whose every text wants to be something else."""
    trials = [
        run("base", 0),
        run(EVIL, 0),
        run("=1+1", 0),
        run("$x_{|`*[a](b)", 0),
        run("名\x07\n前", 0),
    ]
    trials.append(run(EVIL, 1, status="failed", epochs=0, reason=f"{EVIL} | `x`"))
    return report(*trials, description=EVIL, status="running")


SCRATCH = {
    "model.arch": "resnet18",
    "model.weights": "none",
    "model.freeze_depth": "0",
    "model.head": "null",
}
FINETUNE = SCRATCH | {"model.weights": "imagenet"}
CONFIG1 = {
    "model.arch": "resnet18",
    "model.weights": "imagenet",
    "model.freeze_depth": "7",
    "model.head.hidden": "[128]",
    "model.head.dropout": "0.3",
}
CONFIG2 = CONFIG1 | {
    "model.head.hidden": "[256, 128, 128, 64, 32]",
    "model.head.dropout": "[0.2, 0.2, 0.2, 0.2, 0.0]",
}


def taught(
    arm: str, seed: int, params: Mapping[str, str], end: float, speed: float, lowest: int = 99
) -> TrialRun:
    """A trial of twelve epochs that comes to ``end`` and whose validation loss is lowest at an
    epoch.
    """
    epochs = np.arange(1, 13)
    acc = end * (1 - np.exp(-speed * epochs)) + 0.001 * np.random.default_rng(
        [seed, len(arm)]
    ).normal(size=12)
    loss = 2 - acc + 0.1 * np.maximum(0, epochs - lowest) + 0.3 * np.maximum(0, lowest - epochs)
    table = {
        "val/acc": acc,
        "test/acc": acc,
        "train/acc": acc + 0.1,
        "val/loss": loss,
        "train/loss": loss,
    }
    metrics = {
        name: dict(zip(map(int, epochs), map(float, values), strict=True))
        for name, values in table.items()
    }
    made = run(arm, seed, params=params, baseline="true" if arm == "scratch" else "false")
    return replace(made, metrics=metrics)


def transfer(seeds: int, frozen: float = 0.8) -> list[TrialRun]:
    return [
        trial
        for seed in range(seeds)
        for trial in (
            taught("scratch", seed, SCRATCH, 0.7, 0.3, lowest=5),
            taught("finetune", seed, FINETUNE, 0.8, 0.9),
            taught("config1", seed, CONFIG1, frozen, 0.9),
            taught("config2", seed, CONFIG2, frozen, 0.3 if frozen > 0.7 else 0.9),
        )
    ]


# ---- a store -------------------------------------------------------------------------------------


class Store:
    """Runs whose artifacts are made here; it stands for ``tracking.download`` and
    ``read_images``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trials: list[TrialRun] = []
        self.images: dict[str, dict[int, bytes]] = {}

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "download", self.download)
        monkeypatch.setattr(
            tracking, "read_images", lambda uri, run_id, key: self.images.get(run_id, {})
        )

    def add(
        self, arm: str, seed: int, one: Predictions | None, status: str = "finished", **tags: str
    ) -> TrialRun:
        run = TrialRun(f"r{len(self.trials)}", f"t{len(self.trials)}", arm, seed, arm, status,
                       {"suite.numerics": '{"precision": "fp32"}', "suite.data_digest": "d"}
                       | {f"suite.{name}": value for name, value in tags.items()})  # fmt: skip
        self.trials.append(run)
        if one is not None:
            self.put(
                run.run_id,
                "predictions.npz",
                {"index": one.index, "labels": one.labels, "logits": one.logits},
            )
        return run

    def put(self, run_id: str, name: str, arrays: Mapping[str, Any]) -> None:
        file = io.BytesIO()
        np.savez(file, **arrays)
        self.write(run_id, name, file.getvalue())

    def write(self, run_id: str, name: str, content: bytes) -> None:
        (self.folder / run_id).mkdir(exist_ok=True)
        (self.folder / run_id / name).write_bytes(content)

    def download(self, uri: str, run_id: str, name: str, dst: Path | None = None) -> Path:
        path = self.folder / run_id / name
        if not path.exists():
            raise EnvironmentProblem(f"run {run_id} has no artifact {name}")
        return path

    @property
    def runs(self) -> SweepRuns:
        return SweepRuns("s", TrialRun("p", "", "", -1, "s", "finished"), tuple(self.trials))


def network(seed: int, skill: float, images: int = 300, classes: int = 3) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(99).integers(0, classes, images)
    logits = rng.normal(size=(images, classes)) + skill * np.eye(classes)[labels]
    return Predictions(np.arange(images) * 2, labels, logits.astype(np.float32))
