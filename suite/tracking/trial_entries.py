"""Entries about one trial, and what they change in its run."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from suite.core.records import Status
from suite.storage.journal import Entry
from suite.tracking.images import images_digest
from suite.tracking.port import Metric, Run, RunMissing
from suite.tracking.runs import RunTable, is_new
from suite.tracking.sweep_state import SweepState
from suite.tracking.tags import (
    BEST_CHECKPOINT,
    BEST_VALUE,
    BORN,
    IMAGES,
    JOURNAL,
    KIND,
    REASON,
    RUN_STATUS,
    SEQ,
    STATUS,
    TRIAL,
    describe_dataset,
    flatten,
)
from suite.tracking.text import as_json, as_text, safe_key

log = logging.getLogger(__name__)


class TrialEntries:
    """Applies the entries about one trial; each method takes the entry of its name."""

    def __init__(
        self, runs: RunTable, state: SweepState, sweep: str, journal_id: str, folder: Path
    ) -> None:
        self._runs, self._state, self._folder = runs, state, folder
        self._sweep, self._journal_id = sweep, journal_id

    def trial(self, entry: Entry) -> None:
        """Noted only: the run is created when the trial starts, so that their durations agree."""
        self._runs.parent()
        self._state.planned_trials[entry["id"]] = entry

    def start(self, entry: Entry) -> None:
        """The run is RUNNING."""
        run = self._run(entry)
        if is_new(run, entry):
            if run.status != RUN_STATUS[Status.RUNNING]:  # a new run is
                self._runs.set_status(run, RUN_STATUS[Status.RUNNING])
            host = {"suite.host": str(entry["host"])} if entry.get("host") else {}
            tags = {STATUS: Status.RUNNING, REASON: "", **host}
            self._runs.put(run, tags=tags, seq=entry["seq"])

    def epochs(self, entries: Sequence[Entry]) -> None:
        """Metrics of several epochs of one trial; a tag lists values that are not finite."""
        run = self._run(entries[0])
        metrics: list[Metric] = []
        not_finite: list[str] = []
        for entry in entries:
            if entry["seq"] <= run.mark(BORN):
                continue
            for name, value in entry["metrics"].items():
                if value is None or not math.isfinite(value):
                    not_finite.append(f"{name} at epoch {entry['epoch']}")
                else:
                    metrics.append((safe_key(name), float(value), entry["ts_ms"], entry["epoch"]))
        tags = {"suite.nan": ", ".join(not_finite)} if not_finite else {}
        if metrics or tags:
            with self._runs.noting_rejection(entries[0]):
                self._runs.put(run, metrics=metrics, tags=tags)

    def end(self, entry: Entry) -> None:
        """The run is FINISHED, FAILED or KILLED; its best value, and test figures of that epoch."""
        run = self._run(entry)
        if not is_new(run, entry):
            return
        tags = {REASON: str(entry.get("reason") or "")}
        for name in (
            "epochs",
            "best_epoch",
            "best_value",
            "parameters_trainable",
            "parameters_total",
            "prefix",
        ):
            if entry.get(name) is not None:
                tags[f"suite.{name}"] = as_text(entry[name])
        self._runs.end(run, Status(entry["status"]), entry, tags, _end_metrics(entry))

    def file(self, entry: Entry) -> None:
        """Upload a file of a trial, or of the sweep if the entry names no trial."""
        run = self._run(entry) if entry.get("id") else self._runs.parent()
        if entry["seq"] <= run.mark(BORN):
            return
        path = self._folder / entry["path"]
        try:
            self._runs.upload(run, path, entry.get("folder") or "")
        except FileNotFoundError:
            log.info("not uploaded, the file no longer exists: %s", path)

    def images(self, entry: Entry) -> None:
        """Replace a series of images, and log its metrics."""
        run = self._run(entry)
        if not is_new(run, entry):
            return
        folder, tag = self._folder / entry["folder"], IMAGES + entry["key"]
        files = [folder / name for name in entry["files"]]
        try:
            digest = images_digest(files)
            if run.tags.get(tag) == digest:  # drawn again after an interruption
                return
            self._runs.replace_images(run, entry["key"], files, entry["ts_ms"])
            facts = folder / f"{entry['key']}.json"
            if facts.exists():
                self._runs.upload(run, facts)
        except FileNotFoundError:
            log.info("not uploaded, images no longer exist: %s", folder)
            return
        metrics = [
            (safe_key(name), value, entry["ts_ms"], entry["step"])
            for name, value in entry["metrics"].items()
        ]
        self._runs.put(run, metrics=metrics, tags={tag: digest}, seq=entry["seq"])

    def drop(self, entry: Entry) -> None:
        """Delete the best checkpoint."""
        run = self._run(entry)
        if is_new(run, entry):
            self._runs.delete_artifact(run, BEST_CHECKPOINT)
            note = f"removed by the checkpoint budget; python -m suite.replay {run.id}"
            self._runs.put(run, tags={"suite.checkpoint": note}, seq=entry["seq"])

    def forget(self, entry: Entry) -> None:
        """Delete the run; the trial's next ``start`` creates another."""
        trial, seq = entry["id"], entry["seq"]
        self._state.forgotten[trial] = max(seq, self._state.forgotten.get(trial, 0))
        run = self._runs.get(trial)
        if run is not None and run.mark(BORN) < seq:
            self._runs.delete(run)

    def _run(self, entry: Entry) -> Run:
        """The run of the entry's trial, created now if it does not exist.

        Raises:
            RunMissing: it is not there, and the trial's ``trial`` entry has not been applied here.
        """
        trial = entry["id"]
        run = self._runs.get(trial)
        if run is not None and run.mark(SEQ):
            return run
        self._runs.parent()  # if the parent is missing too, all runs must be created again
        if trial not in self._state.planned_trials:
            raise RunMissing(trial)
        return self._begin(self._state.planned_trials[trial], entry["ts_ms"])

    def _begin(self, entry: Entry, start_ms: int) -> Run:
        """The run of a ``trial`` entry, with its config."""
        run = self._runs.get(entry["id"])
        if run is None:
            tags = {
                KIND: "trial",
                "suite.sweep": self._sweep,
                TRIAL: entry["id"],
                JOURNAL: self._journal_id,
            }
            forgotten = self._state.forgotten.get(entry["id"])
            tags |= {BORN: str(forgotten)} if forgotten else {}
            run = self._runs.create(entry["id"], entry["name"], tags, start_ms)
        if entry["seq"] <= run.mark(SEQ):
            return run
        config = entry.get("config") or {}
        self._runs.upload_text(run, yaml.safe_dump(config, sort_keys=False), "config.yaml")
        self._runs.upload_text(run, as_json(self._state.environment, indent=2), "environment.json")
        if dataset := describe_dataset(entry):
            self._runs.add_input(run, dataset)
        tags = self._state.trial_tags(entry)
        self._runs.put(run, params=flatten(config), tags=tags, seq=entry["seq"])
        return run


def _end_metrics(entry: Entry) -> list[Metric]:
    """The best value of an ``end`` entry, and the test figures that its epoch entry lacks."""
    best = entry.get("best_value")
    if not isinstance(best, (int, float)):
        return []
    step = entry.get("best_epoch") or entry.get("epochs") or 0
    metrics: list[Metric] = [(BEST_VALUE, float(best), entry["ts_ms"], step)]
    for name, value in (entry.get("test") or {}).items():
        metrics.append((safe_key(name), float(value), entry["ts_ms"], step))
    return metrics
