"""Entries about the whole sweep, and what they change in its parent run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite.core.records import Status
from suite.storage.journal import DIED, Entry
from suite.tracking.looks import LOOKS, SEARCH_SEED
from suite.tracking.runs import RunTable, is_new
from suite.tracking.sweep_state import SweepState
from suite.tracking.tags import (
    ARM,
    CHAMPION,
    HOME,
    JOURNAL,
    KIND,
    PARENT,
    PLANNED,
    REASON,
    SEQ,
    STATUS,
    flatten,
)
from suite.tracking.text import as_json, as_text


class SweepEntries:
    """Applies the entries about the whole sweep; each method takes the entry of its name."""

    def __init__(
        self, runs: RunTable, state: SweepState, sweep: str, journal_id: str, home: str
    ) -> None:
        self._runs, self._state = runs, state
        self._sweep, self._journal_id, self._home = sweep, journal_id, home

    def launch(self, entry: Entry) -> None:
        """The parent is RUNNING; trials that another process left RUNNING are KILLED."""
        self._state.learn(entry)
        parent = self._runs.get(None)
        self._runs.delete_foreign()
        if parent is None:
            tags = {
                KIND: "sweep",
                "suite.sweep": self._sweep,
                JOURNAL: self._journal_id,
                HOME: self._home,
            }
            parent = self._runs.create(None, self._sweep, tags, entry["ts_ms"])
        if entry["seq"] <= parent.mark(SEQ):
            return
        for run in self._runs.children():  # if somebody deleted their parent, this is a new one
            self._runs.put(run, tags={PARENT: parent.id})
        for run in self._runs.children():  # this process holds the sweep's lock: theirs is gone
            if run.status == "RUNNING" and is_new(run, entry):
                self._runs.end(run, Status.INTERRUPTED, entry, {REASON: DIED})
        self._runs.set_status(parent, "RUNNING")
        if entry.get("text"):
            name = Path(str(entry.get("file") or "sweep.yaml")).name
            self._runs.upload_text(parent, str(entry["text"]), name)
        self._runs.upload_text(
            parent, as_json(self._state.environment, indent=2), "environment.json"
        )
        params = flatten(entry.get("params") or {})
        tags = self._state.launch_tags | self._launch_tags(entry)
        self._runs.put(parent, params=params, tags=tags, seq=entry["seq"])

    def _launch_tags(self, entry: Entry) -> dict[str, str]:
        """The tags that only the parent carries."""
        overrides, seed = entry.get("overrides") or [], entry.get("search_seed")
        tags: dict[str, Any] = {
            STATUS: Status.RUNNING,
            HOME: self._home,
            "suite.overrides": as_text(overrides),
            LOOKS: self._state.looks_tag(),
            SEARCH_SEED: "" if seed is None else as_text(seed),
        }
        if entry.get("margin") is not None:
            tags["suite.margin"] = as_text(entry["margin"])
        if entry.get("description"):
            tags["mlflow.note.content"] = str(entry["description"])
        return tags

    def plan(self, entry: Entry) -> None:
        """The trials' tags say whether they are in this plan, and their arms baselines."""
        self._state.learn(entry)
        parent = self._runs.parent()
        if entry["seq"] <= parent.mark(SEQ):
            return
        for run in self._runs.children():
            self._runs.put(run, tags=self._state.plan_tags(run.trial or "", run.tags.get(ARM, "")))
        plan = {name: entry[name] for name in entry if name not in ("seq", "ts_ms", "kind")}
        self._runs.upload_text(parent, as_json(plan, indent=2), "plan.json")
        self._runs.put(parent, tags={PLANNED: str(len(entry["ids"]))}, seq=entry["seq"])

    def look(self, entry: Entry) -> None:
        """The parent's tag lists the looks."""
        self._state.learn(entry)
        parent = self._runs.parent()
        if entry["seq"] > parent.mark(SEQ):
            self._runs.put(parent, tags={LOOKS: self._state.looks_tag()}, seq=entry["seq"])

    def champion(self, entry: Entry) -> None:
        """Tags of the parent, the winner and the winner before it."""
        parent = self._runs.parent()
        if entry["seq"] <= parent.mark(SEQ):
            return
        winner = self._runs.get(entry["id"])
        for run in self._runs.children():
            if run is winner or run.tags.get(CHAMPION) == "true":
                self._runs.put(run, tags={CHAMPION: "true" if run is winner else "false"})
        tags = {CHAMPION: entry["id"], "suite.champion_run": winner.id if winner else ""}
        if entry.get("value") is not None:
            tags["suite.champion_value"] = as_text(entry["value"])
        self._runs.put(parent, tags=tags, seq=entry["seq"])

    def close(self, entry: Entry) -> None:
        """The parent is FINISHED or KILLED."""
        parent = self._runs.parent()
        if entry["seq"] > parent.mark(SEQ):
            counts = {"suite.counts": as_text(entry.get("counts") or {})}
            self._runs.end(parent, Status(entry["status"]), entry, counts)
