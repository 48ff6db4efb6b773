"""The runs of one sweep: loaded from the store once, then kept up to date with each write."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from suite.core.records import Status
from suite.core.redaction import redacted
from suite.storage.journal import Entry
from suite.tracking.port import EntryRejected, Metric, Run, RunMissing, RunStore
from suite.tracking.tags import BORN, MADE, PARENT, RUN_STATUS, SEQ, STATUS
from suite.tracking.text import (
    MAX_NAME_LENGTH,
    MAX_PARAM_LENGTH,
    MAX_TAG_LENGTH,
    cut,
    safe_file,
    storable,
)


class RunTable:
    """The runs of one sweep. Every change to a run goes through here, so no write is repeated.

    Each method may raise TrackingUnavailable, RunMissing or EntryRejected. After a RunMissing the
    runs are loaded again: somebody has deleted at least one of them.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._loaded: dict[str | None, Run] | None = None
        self._loading = threading.Lock()  # ``run_id`` may be asked from another thread

    def all(self) -> dict[str | None, Run]:
        """Trial id -> run; the parent under None."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self._store.load()
            return self._loaded

    def get(self, trial: str | None) -> Run | None:
        """The run of a trial, or with None of the sweep; None if there is no such run."""
        return self.all().get(trial)

    def children(self) -> list[Run]:
        """The trials' runs."""
        return [run for run in self.all().values() if run.trial is not None]

    def parent(self) -> Run:
        """The sweep's run; raises RunMissing if it does not exist."""
        run = self.get(None)
        if run is None:
            raise RunMissing(None)
        return run

    def create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        """Create a run; a trial's becomes a child of the parent."""
        try:
            tags = {**tags, MADE: str(time.time_ns() // 1_000_000)}
            if trial is not None:
                tags[PARENT] = self.parent().id
            run = self._store.create(trial, cut(storable(name), MAX_NAME_LENGTH), tags, start_ms)
        except Exception:
            self._loaded = None  # the store may have created it: look before the next try
            raise
        self.all()[trial] = run
        return run

    def delete(self, run: Run) -> None:
        """Delete a run."""
        with self._reload_if_missing():
            self._store.delete(run)
        self.all().pop(run.trial, None)

    def put(
        self,
        run: Run,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        seq: int | None = None,
    ) -> None:
        """Write what the run does not have yet.

        Args:
            seq: the number of the entry that this completes; it is written last, so that an
                interrupted entry is applied again.
        """
        new_params = {
            name: storable(redacted(value))
            for name, value in (params or {}).items()
            if name not in run.params
        }
        wanted = {
            name: cut(storable(redacted(str(value))), MAX_TAG_LENGTH)
            for name, value in (tags or {}).items()
        }
        new_tags = {
            name: value for name, value in wanted.items() if run.tags.get(name, "") != value
        }
        if seq is not None and seq > run.mark(SEQ):
            new_tags[SEQ] = str(seq)
        metrics = list(metrics)
        if metrics or new_params or new_tags:
            with self._reload_if_missing():
                self._store.write(run, metrics, new_params, new_tags)
        run.params.update(new_params)
        run.tags.update(new_tags)

    def set_status(self, run: Run, status: str, end_ms: int | None = None) -> None:
        """Change a run's status, and its end unless that is None."""
        with self._reload_if_missing():
            self._store.set_status(run, status, end_ms)
        run.status = status

    def end(
        self,
        run: Run,
        status: Status,
        entry: Entry,
        tags: Mapping[str, str],
        metrics: Iterable[Metric] = (),
    ) -> None:
        """End a run as of an entry."""
        self.set_status(run, RUN_STATUS[status], entry["ts_ms"])
        self.put(run, metrics=metrics, tags={STATUS: status, **tags}, seq=entry["seq"])

    def add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        """Record a run's data set."""
        with self._reload_if_missing():
            self._store.add_input(run, dataset)

    def upload(self, run: Run, path: Path, folder: str = "") -> None:
        """Copy a file or a folder to the run's artifacts; FileNotFoundError if it is gone."""
        with self._reload_if_missing():
            self._store.upload(run, path, folder)

    def upload_text(self, run: Run, text: str, name: str) -> None:
        """Write a text file to the run's artifacts."""
        with tempfile.TemporaryDirectory(prefix="suite-tracking-") as folder:
            path = Path(folder) / safe_file(name)
            path.write_text(redacted(text), encoding="utf-8", errors="backslashreplace")
            self.upload(run, path)

    def replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        """Put images in place of those under ``key``; FileNotFoundError if one is gone."""
        with self._reload_if_missing():
            self._store.replace_images(run, key, files, ts_ms)

    def delete_artifact(self, run: Run, artifact: str) -> None:
        """Delete an artifact, if the store has it and can."""
        with self._reload_if_missing():
            self._store.delete_artifact(run, artifact)

    def delete_foreign(self) -> None:
        """Delete the runs that another journal left under this sweep's name."""
        self._store.delete_foreign()

    @contextmanager
    def noting_rejection(self, entry: Entry) -> Iterator[None]:
        """If the store rejects the entry, say so in a tag of its run."""
        try:
            yield
        except EntryRejected as error:
            run = (self._loaded or {}).get(entry.get("id"))
            if run is not None:
                note = redacted(f"entry {entry['seq']} ({entry['kind']}): {error}")
                try:
                    self.put(run, tags={"suite.tracking_error": cut(note, MAX_PARAM_LENGTH)})
                except EntryRejected:
                    pass
            raise

    @contextmanager
    def _reload_if_missing(self) -> Iterator[None]:
        try:
            yield
        except RunMissing:
            self._loaded = None
            raise


def is_new(run: Run, entry: Entry) -> bool:
    """Whether an entry is newer than the run and than all that the run has."""
    return bool(entry["seq"] > max(run.mark(SEQ), run.mark(BORN)))
