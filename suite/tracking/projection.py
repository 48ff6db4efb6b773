"""What each journal entry becomes in a store of runs; the store itself is filled in by subclasses.

==========  ==================================================================================================
launch      the parent run: RUNNING, its tags, the sweep file and environment.json; RUNNING trials -> KILLED
plan        plan.json and ``suite.planned`` on the parent; ``suite.in_plan`` and ``suite.baseline`` on the trials
trial       kept in mind until it begins, so that MLflow's duration of a run is that of the trial
start       a child run: RUNNING, params (the flattened config), config.yaml, tags, the data set as an input
epoch       metrics, step = epoch, at the time of the journal
end         FINISHED (finished, stopped), FAILED, KILLED (interrupted); tags, the metric ``best/value``, and test
            figures of the best epoch that its ``epoch`` entry does not have, step = that epoch
file        an artifact
images      pictures that MLflow's page steps through, as ``mlflow.log_image`` stores them; metrics
drop        the artifact ``checkpoints/best.pt`` is deleted; the tag ``suite.checkpoint`` says so
forget      the run is deleted (MLflow keeps deleted runs until ``mlflow gc``); its next ``start`` makes a new one
look        ``suite.looks`` on the parent: the seeds of the planned looks and of those made
champion    ``suite.champion`` on the parent and on the winner
close       the parent: FINISHED or KILLED; ``suite.counts``
==========  ==================================================================================================

Applying twice changes nothing, because a run says how far it has come: its tag ``suite.seq`` is the last entry that
changed its state, and ``suite.born`` the ``forget`` entry that it was made after; older entries are passed over.
Metrics need no such mark: MLflow keeps one of equal (name, step, time, value).
"""

from __future__ import annotations

import logging
import math
import socket
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from suite.core.records import Status
from suite.core.redaction import redacted
from suite.storage.journal import DIED, Entry
from suite.tracking.images import images_digest
from suite.tracking.looks import LOOKS, SEARCH_SEED, looks_tag
from suite.tracking.port import EntryRejected, Metric, Run, RunMissing
from suite.tracking.tags import (
    ARM,
    BASELINE,
    BEST_CHECKPOINT,
    BEST_VALUE,
    BORN,
    CHAMPION,
    HOME,
    IMAGES,
    IN_PLAN,
    JOURNAL,
    KIND,
    MADE,
    ORDER,
    PARENT,
    PLANNED,
    REASON,
    RUN_STATUS,
    SEED,
    SEQ,
    STATUS,
    TRIAL,
    describe_dataset,
    flatten,
)  # fmt: skip
from suite.tracking.text import (
    LONGEST_NAME,
    LONGEST_PARAM,
    LONGEST_TAG,
    as_json,
    as_text,
    cut,
    safe_file,
    safe_key,
    storable,
)  # fmt: skip

log = logging.getLogger(__name__)


class Projection(ABC):
    """The rules; a subclass keeps the runs."""

    def __init__(self, sweep: str, journal_id: str, folder: Path | None = None) -> None:
        """
        Args:
            sweep: the sweep's name.
            journal_id: what tells this journal from another one of a sweep of that name.
            folder: the journal's folder, against which paths of ``file`` entries resolve.
        """
        self.sweep = sweep
        self.journal_id = journal_id
        self.folder = (folder or Path()).absolute()
        self.home = f"{socket.gethostname()}:{self.folder}"
        self._known: dict[str | None, Run] | None = None
        self._loading = threading.Lock()
        self._planned: dict[str, Entry] = {}  # trial -> its entry
        self._born: dict[str, int] = {}
        self._plan: Entry = {}
        self._stamp: dict[str, str] = {}
        self._environment: Any = {}
        self._planned_looks: list[list[int]] = []
        self._looks_made: dict[int, list[int]] = {}  # number of the entry -> seeds
        self._look_plans: dict[int, list[list[int]]] = {}  # and the planned looks in force then

    # ---- the store, by subclasses; each raises TrackingUnavailable, RunMissing or EntryRejected --------------------

    @abstractmethod
    def _load(self) -> dict[str | None, Run]:
        """All runs of this sweep and this journal; the parent under None."""

    @abstractmethod
    def _replace_foreign(self) -> None:
        """Delete what another journal left under this sweep's name."""

    @abstractmethod
    def _create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        """A new run, RUNNING."""

    @abstractmethod
    def _write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """Add to a run. Any number of each; params are new ones."""

    @abstractmethod
    def _set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        """Change a run's status, and its end where that is given."""

    @abstractmethod
    def _delete(self, run: Run) -> None:
        """Delete a run softly."""

    @abstractmethod
    def _add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        """Name the data set (``name``, ``digest``, ``source``, ``source_type``) that a run was given."""

    @abstractmethod
    def _upload(self, run: Run, path: Path, folder: str) -> None:
        """Copy a file or a folder to the run's artifacts. FileNotFoundError if it went away."""

    @abstractmethod
    def _replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        """Show pictures in place of those under ``key``. FileNotFoundError if they went away."""

    @abstractmethod
    def _remove(self, run: Run, artifact: str) -> bool:
        """Delete an artifact; False if the store cannot or there is none."""

    # ---- the port --------------------------------------------------------------------------------------------------

    def run_id(self, trial_id: str | None) -> str | None:
        """The run of a trial, or with None of the sweep; None if there is none."""
        run = self._runs().get(trial_id)
        return run.id if run else None

    def apply(self, entry: Entry) -> None:
        """Project one entry; see ``Tracker.apply``."""
        handler = getattr(self, f"_on_{entry['kind']}", None)
        if handler is not None:
            with self._noting(entry):
                handler(entry)

    def learn(self, entry: Entry) -> None:
        """See ``Tracker.learn``."""
        if entry["kind"] == "launch":
            self._stamp = self._stamped(entry)
            self._environment = entry.get("environment") or {}
            self._planned_looks = entry.get("looks") or []
        elif entry["kind"] == "plan":
            self._plan = entry
        elif entry["kind"] == "look":
            self._looks_made[entry["seq"]] = entry["seeds"]
            self._look_plans.setdefault(entry["seq"], self._planned_looks)

    def epochs(self, entries: Sequence[Entry]) -> None:
        """Project ``epoch`` entries of one trial in one call to the store."""
        run = self._run(entries[0])
        metrics: list[Metric] = []
        gaps: list[str] = []
        for entry in entries:
            if entry["seq"] <= run.mark(BORN):
                continue
            for name, value in entry["metrics"].items():
                if value is None or not math.isfinite(value):
                    gaps.append(f"{name} at epoch {entry['epoch']}")
                else:
                    metrics.append((safe_key(name), float(value), entry["ts_ms"], entry["epoch"]))
        tags = {"suite.nan": ", ".join(gaps)} if gaps else {}
        if metrics or tags:
            with self._noting(entries[0]):
                self._put(run, metrics=metrics, tags=tags)

    # ---- entries ---------------------------------------------------------------------------------------------------

    def _on_launch(self, entry: Entry) -> None:
        self.learn(entry)
        parent = self._runs().get(None)
        self._replace_foreign()
        if parent is None:
            tags = {
                KIND: "sweep",
                "suite.sweep": self.sweep,
                JOURNAL: self.journal_id,
                HOME: self.home,
            }
            parent = self._make(None, self.sweep, tags, entry["ts_ms"])
        if entry["seq"] <= parent.mark(SEQ):
            return
        for run in self._children():
            self._put(
                run, tags={PARENT: parent.id}
            )  # if somebody deleted their parent, this is a new one
        for (
            run
        ) in self._children():  # whoever ran them is gone: this process holds the sweep's lock now
            if run.status == "RUNNING" and self._is_new(run, entry):
                self._end(run, Status.INTERRUPTED, entry, {REASON: DIED})
        self._status(parent, "RUNNING")
        if entry.get("text"):
            self._text(
                parent, str(entry["text"]), Path(str(entry.get("file") or "sweep.yaml")).name
            )
        self._text(parent, as_json(self._environment, indent=2), "environment.json")
        tags = {
            STATUS: Status.RUNNING,
            HOME: self.home,
            "suite.overrides": as_text(entry.get("overrides") or []),
        }
        if entry.get("margin") is not None:
            tags["suite.margin"] = as_text(entry["margin"])
        tags[LOOKS] = self._looks_tag()
        tags[SEARCH_SEED] = (
            as_text(entry["search_seed"]) if entry.get("search_seed") is not None else ""
        )
        if entry.get("description"):
            tags["mlflow.note.content"] = str(entry["description"])
        self._put(
            parent,
            params=flatten(entry.get("params") or {}),
            tags={**self._stamp, **tags},
            seq=entry["seq"],
        )

    def _on_plan(self, entry: Entry) -> None:
        self.learn(entry)
        parent = self._parent()
        if entry["seq"] <= parent.mark(SEQ):
            return
        for run in self._children():
            self._put(run, tags=self._place(run.trial or "", run.tags.get(ARM, "")))
        plan = {
            name: value for name, value in entry.items() if name not in ("seq", "ts_ms", "kind")
        }
        self._text(parent, as_json(plan, indent=2), "plan.json")
        self._put(parent, tags={PLANNED: str(len(entry["ids"]))}, seq=entry["seq"])

    def _on_trial(self, entry: Entry) -> None:
        self._parent()
        self._planned[entry["id"]] = entry

    def _begin(self, entry: Entry, start_ms: int) -> Run:
        """The run of a ``trial`` entry."""
        run = self._runs().get(entry["id"])
        if run is None:
            tags = {
                KIND: "trial",
                "suite.sweep": self.sweep,
                TRIAL: entry["id"],
                JOURNAL: self.journal_id,
            }
            born = self._born.get(entry["id"])
            tags |= {BORN: str(born)} if born else {}
            run = self._make(entry["id"], entry["name"], tags, start_ms)
        if entry["seq"] <= run.mark(SEQ):
            return run
        config = entry.get("config") or {}
        self._text(run, yaml.safe_dump(config, sort_keys=False), "config.yaml")
        self._text(run, as_json(self._environment, indent=2), "environment.json")
        if dataset := describe_dataset(entry):
            self._add_input(run, dataset)
        self._put(run, params=flatten(config), tags=self._trial_tags(entry), seq=entry["seq"])
        return run

    def _on_start(self, entry: Entry) -> None:
        run = self._run(entry)
        if self._is_new(run, entry):
            if run.status != RUN_STATUS[Status.RUNNING]:  # a new run is
                self._status(run, RUN_STATUS[Status.RUNNING])
            host = {"suite.host": str(entry["host"])} if entry.get("host") else {}
            self._put(run, tags={STATUS: Status.RUNNING, REASON: "", **host}, seq=entry["seq"])

    def _on_epoch(self, entry: Entry) -> None:
        self.epochs([entry])

    def _on_end(self, entry: Entry) -> None:
        run = self._run(entry)
        if not self._is_new(run, entry):
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
        self._end(run, Status(entry["status"]), entry, tags)

    def _on_file(self, entry: Entry) -> None:
        run = self._run(entry) if entry.get("id") else self._parent()
        if entry["seq"] <= run.mark(BORN):
            return
        path = self.folder / entry["path"]
        try:
            self._upload(run, path, entry.get("folder") or "")
        except FileNotFoundError:
            log.info("%s is gone and was not uploaded", path)

    def _on_images(self, entry: Entry) -> None:
        run = self._run(entry)
        if not self._is_new(run, entry):
            return
        folder, tag = self.folder / entry["folder"], IMAGES + entry["key"]
        files = [folder / name for name in entry["files"]]
        try:
            digest = images_digest(files)
            if run.tags.get(tag) == digest:  # drawn again after an interruption
                return
            self._replace_images(run, entry["key"], files, entry["ts_ms"])
            facts = folder / f"{entry['key']}.json"
            if facts.exists():
                self._upload(run, facts, "")
        except FileNotFoundError:
            log.info("the pictures in %s are gone and were not uploaded", folder)
            return
        metrics = [
            (safe_key(name), value, entry["ts_ms"], entry["step"])
            for name, value in entry["metrics"].items()
        ]
        self._put(run, metrics=metrics, tags={tag: digest}, seq=entry["seq"])

    def _on_drop(self, entry: Entry) -> None:
        run = self._run(entry)
        if self._is_new(run, entry):
            self._remove(run, BEST_CHECKPOINT)
            note = f"removed by the checkpoint budget; python -m suite.replay {run.id}"
            self._put(run, tags={"suite.checkpoint": note}, seq=entry["seq"])

    def _on_forget(self, entry: Entry) -> None:
        trial, seq = entry["id"], entry["seq"]
        self._born[trial] = max(seq, self._born.get(trial, 0))
        run = self._runs().get(trial)
        if run is None or run.mark(BORN) >= seq:
            return
        self._delete(run)
        self._runs().pop(trial, None)

    def _on_look(self, entry: Entry) -> None:
        self.learn(entry)
        parent = self._parent()
        if entry["seq"] > parent.mark(SEQ):
            self._put(parent, tags={LOOKS: self._looks_tag()}, seq=entry["seq"])

    def _looks_tag(self) -> str:
        other_plan = any(plan != self._planned_looks for plan in self._look_plans.values())
        return looks_tag(self._planned_looks, self._looks_made.values(), other_plan)

    def _on_champion(self, entry: Entry) -> None:
        parent = self._parent()
        if entry["seq"] <= parent.mark(SEQ):
            return
        winner = self._runs().get(entry["id"])
        for run in self._children():
            if run is winner or run.tags.get(CHAMPION) == "true":
                self._put(run, tags={CHAMPION: "true" if run is winner else "false"})
        tags = {CHAMPION: entry["id"], "suite.champion_run": winner.id if winner else ""}
        if entry.get("value") is not None:
            tags["suite.champion_value"] = as_text(entry["value"])
        self._put(parent, tags=tags, seq=entry["seq"])

    def _on_close(self, entry: Entry) -> None:
        parent = self._parent()
        if entry["seq"] > parent.mark(SEQ):
            self._end(
                parent,
                Status(entry["status"]),
                entry,
                {"suite.counts": as_text(entry.get("counts") or {})},
            )

    # ---- steps that several entries share --------------------------------------------------------------------------

    def _runs(self) -> dict[str | None, Run]:
        with self._loading:
            if self._known is None:
                self._known = self._load()
            return self._known

    def _children(self) -> list[Run]:
        return [run for run in self._runs().values() if run.trial is not None]

    def _run(self, entry: Entry) -> Run:
        """The run of the trial that an entry speaks of; begun now where there is none yet."""
        trial = entry["id"]
        run = self._runs().get(trial)
        if run is not None and run.mark(SEQ):
            return run
        self._parent()  # if even that is missing, one run is not enough
        if trial not in self._planned:
            raise RunMissing(trial)
        return self._begin(self._planned[trial], entry["ts_ms"])

    def _parent(self) -> Run:
        run = self._runs().get(None)
        if run is None:
            raise RunMissing(None)
        return run

    def _make(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        try:
            name = cut(storable(name), LONGEST_NAME)
            run = self._create(
                trial, name, {**tags, MADE: str(time.time_ns() // 1_000_000)}, start_ms
            )
        except Exception:
            self._known = None  # it may have been made all the same: look before trying again
            raise
        self._runs()[trial] = run
        return run

    def _put(
        self,
        run: Run,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        seq: int | None = None,
    ) -> None:
        """Write what is new. The mark of progress goes last, so that an interrupted entry is done again."""
        fresh_params = {
            name: storable(redacted(value))
            for name, value in (params or {}).items()
            if name not in run.params
        }
        wanted = {
            name: cut(storable(redacted(str(value))), LONGEST_TAG)
            for name, value in (tags or {}).items()
        }
        fresh_tags = {
            name: value for name, value in wanted.items() if run.tags.get(name, "") != value
        }
        if seq is not None and seq > run.mark(SEQ):
            fresh_tags[SEQ] = str(seq)
        metrics = list(metrics)
        if metrics or fresh_params or fresh_tags:
            self._write(run, metrics, fresh_params, fresh_tags)
        run.params.update(fresh_params)
        run.tags.update(fresh_tags)

    def _status(self, run: Run, status: str, end_ms: int | None = None) -> None:
        self._set_status(run, status, end_ms)
        run.status = status

    def _end(self, run: Run, status: Status, entry: Entry, tags: dict[str, str]) -> None:
        metrics: list[Metric] = []
        if run.trial and isinstance(entry.get("best_value"), (int, float)):
            step = entry.get("best_epoch") or entry.get("epochs") or 0
            metrics.append((BEST_VALUE, float(entry["best_value"]), entry["ts_ms"], step))
            for name, value in (entry.get("test") or {}).items():
                metrics.append((safe_key(name), float(value), entry["ts_ms"], step))
        self._status(run, RUN_STATUS[status], entry["ts_ms"])
        self._put(run, metrics=metrics, tags={STATUS: status, **tags}, seq=entry["seq"])

    def _is_new(self, run: Run, entry: Entry) -> bool:
        return bool(entry["seq"] > max(run.mark(SEQ), run.mark(BORN)))

    def _text(self, run: Run, text: str, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="suite-tracking-") as folder:
            path = Path(folder) / safe_file(name)
            path.write_text(redacted(text), encoding="utf-8", errors="backslashreplace")
            self._upload(run, path, "")

    @contextmanager
    def _noting(self, entry: Entry) -> Iterator[None]:
        """Leave a note on the run that an entry was refused for."""
        try:
            yield
        except EntryRejected as error:
            run = (self._known or {}).get(entry.get("id"))
            if run is not None:
                note = cut(
                    redacted(f"entry {entry['seq']} ({entry['kind']}): {error}"), LONGEST_PARAM
                )
                try:
                    self._put(run, tags={"suite.tracking_error": note})
                except EntryRejected:
                    pass
            raise

    def _place(self, trial: str, arm: str) -> dict[str, str]:
        """Where a trial stands in the current plan."""
        if not self._plan:
            return {}
        tags = {IN_PLAN: as_text(trial in self._plan["ids"])}
        baseline = self._plan.get("baseline")
        if isinstance(baseline, Mapping):
            tags[BASELINE] = as_text(bool(baseline.get(arm)))
        elif isinstance(baseline, (list, tuple)):
            tags[BASELINE] = as_text(arm in baseline)
        return tags

    def _trial_tags(self, entry: Entry) -> dict[str, str]:
        tags = {
            ARM: entry["arm"],
            SEED: as_text(entry["seed"]),
            "suite.signature": entry["id"],
            ORDER: str(entry["seq"]),
            "suite.settings": as_text(entry.get("settings") or {}),
            IN_PLAN: "true",
            **self._stamp,
        }
        digests = entry.get("digests") or {}
        if digests.get("data"):
            tags["suite.data_digest"] = str(digests["data"])
        if digests.get("weights"):
            tags["suite.weights_digest"] = str(digests["weights"])
        if entry.get("numerics"):
            tags["suite.numerics"] = as_text(entry["numerics"])
        if entry.get("objective"):
            tags["suite.objective"] = as_text(entry["objective"])
        if entry.get("baseline") is not None:
            tags[BASELINE] = as_text(bool(entry["baseline"]))
        return tags | self._place(entry["id"], entry["arm"])

    def _stamped(self, entry: Entry) -> dict[str, str]:
        """Tags of the launch that its parent and each of its trials carry."""
        environment = entry.get("environment") or {}
        git = environment.get("git") or {}
        data = entry.get("data") or {}
        values = {
            "suite.version": environment.get("suite"),
            "suite.numerics": entry.get("numerics"),
            "suite.data_digest": data.get("digest") if isinstance(data, Mapping) else None,
            "suite.classes": data.get("classes") if isinstance(data, Mapping) else None,
            "mlflow.user": environment.get("user"),
            "mlflow.source.name": entry.get("file"),
            "suite.command": entry.get("command"),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": git.get("commit") if isinstance(git, Mapping) else git,
        }
        return {name: redacted(as_text(value)) for name, value in values.items() if value}
