"""Trials of a sweep file one by one in this process, each in a fresh folder: what Ray must not
change.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from suite import config
from suite.core.records import MACHINE_METRICS, EpochRecord, Numerics, Trial
from suite.planning import plan
from suite.storage.journal import read
from suite.training.setup import prepare_trainer
from suite.training.trainer import fit

Curve = dict[int, dict[str, float]]


def plain(records: list[EpochRecord]) -> Curve:
    """Epoch -> metrics that the machine has no say in."""
    return {
        record.epoch: {
            name: value for name, value in record.metrics.items() if name not in MACHINE_METRICS
        }
        for record in records
    }


def alone(
    folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, name: str = "tiny"
) -> dict[str, Curve]:
    """Trial name -> curve of each trial in the sweep's journal that can be trained, computed
    here without Ray.
    """
    monkeypatch.syspath_prepend(folder)
    for module in ("tiny_net",):
        monkeypatch.delitem(sys.modules, module, raising=False)
    prepared = plan.prepare(config.load(folder / "sweep.yaml"))
    entries = read(folder / "runs" / name / "journal.jsonl")
    numerics = next(entry["numerics"] for entry in entries if entry["kind"] == "launch")
    curves: dict[str, Curve] = {}
    for entry in entries:
        if entry["kind"] == "trial":
            trial = Trial(
                **{key: entry[key] for key in ("id", "arm", "seed", "name", "settings", "config")}
            )
            curves[trial.name] = curve_of(trial, prepared, Numerics(**numerics), scratch / trial.id)
    return curves


def curve_of(trial: Trial, prepared: plan.Plan, numerics: Numerics, folder: Path) -> Curve:
    """The curve up to where the trial ends or fails."""
    (dataset,) = prepared.datasets.values()
    training = prepare_trainer(
        trial, dataset, objective=prepared.spec.objective, numerics=numerics, folder=folder
    )  # fmt: skip
    try:
        return plain(list(fit(training)))
    except Exception:
        return plain(training.records)


def ends(journal: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Trial name -> its ``end`` entries, in order."""
    names = {entry["id"]: entry["name"] for entry in journal if entry["kind"] == "trial"}
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in journal:
        if entry["kind"] == "end":
            found.setdefault(names[entry["id"]], []).append(entry)
    return found
