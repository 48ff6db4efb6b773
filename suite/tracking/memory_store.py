"""A store of runs in memory, with the rules of the real one; for tests of whatever drives a tracker."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from suite.core.errors import EnvironmentProblem, UsageError
from suite.tracking.port import Metric, Run, RunMissing, SweepRuns, TrackingUnavailable, TrialRun
from suite.tracking.projection import Projection
from suite.tracking.reading import trial_run
from suite.tracking.tags import JOURNAL, ORDER, PARENT


@dataclass
class Stored:
    """A run as the store holds it."""

    run: Run
    sweep: str
    name: str
    start_ms: int
    end_ms: int | None = None
    metrics: set[Metric] = field(default_factory=set)
    inputs: list[Mapping[str, str]] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    deleted: bool = False


class MemoryTracker(Projection):
    """A tracker without MLflow.

    Attributes:
        stored: run id -> run; hand it to a second tracker to play a relaunch.
        down: True plays a server that is away.
    """

    def __init__(
        self,
        sweep: str = "sweep",
        journal_id: str = "journal",
        folder: Path | None = None,
        stored: dict[str, Stored] | None = None,
    ) -> None:
        super().__init__(sweep, journal_id, folder)
        self.stored: dict[str, Stored] = {} if stored is None else stored
        self.down = False
        self._numbers = itertools.count(len(self.stored))

    def check(self) -> None:
        """See ``Tracker.check``."""
        if self.down:
            raise EnvironmentProblem(
                "the tracking server memory: cannot be reached", remedy="Start it."
            )

    def read(self, sweep: str) -> SweepRuns:
        """See ``Tracker.read``."""
        alive = [item for item in self.stored.values() if item.sweep == sweep and not item.deleted]
        parents = [item for item in alive if item.run.trial is None]
        if not parents:
            known = (
                ", ".join(sorted({item.sweep for item in self.stored.values() if not item.deleted}))
                or "none"
            )
            raise UsageError(f"there is no sweep {sweep} in memory:; known: {known}")
        children = sorted(
            (item for item in alive if item.run.trial), key=lambda item: int(item.run.tags[ORDER])
        )
        return SweepRuns(
            sweep, self._read(parents[-1]), tuple(self._read(item) for item in children)
        )

    def _read(self, item: Stored) -> TrialRun:
        metrics: dict[str, dict[int, float]] = {}
        for name, value, _, step in sorted(item.metrics, key=lambda metric: (metric[0], metric[2])):
            metrics.setdefault(name, {})[step] = value
        return trial_run(
            item.run.id,
            item.name,
            item.run.status,
            item.run.tags,
            item.run.params,
            metrics,
            item.start_ms,
            item.end_ms,
        )

    def _alive(self, run: Run | None = None) -> Stored | None:
        if self.down:
            raise TrackingUnavailable("down")
        if run is None:
            return None
        item = self.stored.get(run.id)
        if item is None or item.deleted:
            self._known = None
            raise RunMissing(run.trial)
        return item

    def _load(self) -> dict[str | None, Run]:
        self._alive()
        return {item.run.trial: _copy(item.run) for item in self._mine(True)}

    def _mine(self, mine: bool) -> list[Stored]:
        alive = [
            item for item in self.stored.values() if item.sweep == self.sweep and not item.deleted
        ]
        return [item for item in alive if (item.run.tags.get(JOURNAL) == self.journal_id) == mine]

    def _replace_foreign(self) -> None:
        for item in self._mine(False):
            item.deleted = True

    def _create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        self._alive()
        if trial is not None:
            tags = {**tags, PARENT: self._parent().id}
        run = Run(f"run{next(self._numbers)}", trial, dict(tags))
        self.stored[run.id] = Stored(run, self.sweep, name, start_ms)
        return _copy(run)

    def _write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        item = self._alive(run)
        assert item is not None
        item.metrics.update(metrics)
        item.run.params.update(params)
        item.run.tags.update(tags)

    def _set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        item = self._alive(run)
        assert item is not None
        item.run.status, item.end_ms = status, item.end_ms if end_ms is None else end_ms

    def _delete(self, run: Run) -> None:
        item = self._alive(run)
        assert item is not None
        item.deleted = True

    def _add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        item = self._alive(run)
        assert item is not None
        if dataset not in item.inputs:
            item.inputs.append(dict(dataset))

    def _upload(self, run: Run, path: Path, folder: str) -> None:
        item = self._alive(run)
        assert item is not None
        files = (
            [path]
            if path.is_file()
            else [file for file in sorted(path.rglob("*")) if file.is_file()]
        )
        if not path.exists():
            raise FileNotFoundError(path)
        for file in files:
            item.artifacts[str(Path(folder) / file.relative_to(path.parent))] = file.read_bytes()

    def _replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        item = self._alive(run)
        assert item is not None
        for name in [name for name in item.artifacts if name.startswith(f"images/{key}+step+")]:
            del item.artifacts[name]
        for step, file in enumerate(files):
            item.artifacts[f"images/{key}+step+{step}+timestamp+{ts_ms}.png"] = file.read_bytes()

    def _remove(self, run: Run, artifact: str) -> bool:
        item = self._alive(run)
        assert item is not None
        return item.artifacts.pop(artifact, None) is not None


def _copy(run: Run) -> Run:
    return Run(run.id, run.trial, dict(run.tags), dict(run.params), run.status)
