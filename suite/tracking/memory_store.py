"""A store of runs in memory, with MLflow's rules; for sweeps without tracking, and for tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from suite.core.errors import EnvironmentProblem, UsageError
from suite.tracking.port import (
    Metric,
    Run,
    RunMissing,
    SweepRuns,
    TrackingUnavailable,
    TrialRun,
)
from suite.tracking.reading import trial_run
from suite.tracking.tags import JOURNAL, ORDER

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


@dataclass
class StoredRun:
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


class MemoryStore:
    """See ``RunStore``.

    Attributes:
        stored: run id -> run; pass it to a second store to simulate a relaunch.
        down: True simulates a server that cannot be reached.
    """

    has_model_registry = False

    def __init__(
        self,
        sweep: str = "sweep",
        journal_id: str = "journal",
        stored: dict[str, StoredRun] | None = None,
    ) -> None:
        self.sweep, self.journal_id = sweep, journal_id
        self.stored: dict[str, StoredRun] = {} if stored is None else stored
        self.down = False
        self._numbers = itertools.count(len(self.stored))

    def check(self, home: str) -> None:
        """See ``RunStore``."""
        if self.down:
            raise EnvironmentProblem(
                "the tracking server memory: cannot be reached", remedy="Start it."
            )

    def read(self, sweep: str) -> SweepRuns:
        """See ``RunStore``."""
        runs = [run for run in self.stored.values() if run.sweep == sweep and not run.deleted]
        parents = [run for run in runs if run.run.trial is None]
        if not parents:
            sweeps = sorted({run.sweep for run in self.stored.values() if not run.deleted})
            raise UsageError(
                f"there is no sweep {sweep} in memory:; known: {', '.join(sweeps) or 'none'}"
            )
        children = sorted(
            (run for run in runs if run.run.trial), key=lambda run: int(run.run.tags[ORDER])
        )
        return SweepRuns(sweep, _as_trial(parents[-1]), tuple(map(_as_trial, children)))

    def load(self) -> dict[str | None, Run]:
        """See ``RunStore``."""
        self._refuse_if_down()
        return {run.run.trial: _copy(run.run) for run in self._active() if self._is_own(run)}

    def delete_foreign(self) -> None:
        """See ``RunStore``."""
        for run in self._active():
            if not self._is_own(run):
                run.deleted = True

    def create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        """See ``RunStore``."""
        self._refuse_if_down()
        run = Run(f"run{next(self._numbers)}", trial, dict(tags))
        self.stored[run.id] = StoredRun(run, self.sweep, name, start_ms)
        return _copy(run)

    def write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """See ``RunStore``."""
        stored = self._find(run)
        stored.metrics.update(metrics)
        stored.run.params.update(params)
        stored.run.tags.update(tags)

    def set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        """See ``RunStore``."""
        stored = self._find(run)
        stored.run.status = status
        if end_ms is not None:
            stored.end_ms = end_ms

    def delete(self, run: Run) -> None:
        """See ``RunStore``."""
        self._find(run).deleted = True

    def add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        """See ``RunStore``."""
        stored = self._find(run)
        if dataset not in stored.inputs:
            stored.inputs.append(dict(dataset))

    def upload(self, run: Run, path: Path, folder: str) -> None:
        """See ``RunStore``."""
        stored = self._find(run)
        if not path.exists():
            raise FileNotFoundError(path)
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.is_file():
                name = str(Path(folder) / file.relative_to(path.parent))
                stored.artifacts[name] = file.read_bytes()

    def replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        """See ``RunStore``."""
        stored = self._find(run)
        prefix = f"images/{key}+step+"
        for name in [name for name in stored.artifacts if name.startswith(prefix)]:
            del stored.artifacts[name]
        for step, file in enumerate(files):
            stored.artifacts[f"{prefix}{step}+timestamp+{ts_ms}.png"] = file.read_bytes()

    def delete_artifact(self, run: Run, artifact: str) -> bool:
        """See ``RunStore``."""
        return self._find(run).artifacts.pop(artifact, None) is not None

    def page_url(self) -> str:
        """See ``RunStore``: there is no page."""
        return ""

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """See ``RunStore``: there is no registry."""
        return None

    def restore_champion(self, run_id: str) -> int | None:
        """See ``RunStore``: there is no registry."""
        return None

    def _refuse_if_down(self) -> None:
        if self.down:
            raise TrackingUnavailable("down")

    def _find(self, run: Run) -> StoredRun:
        self._refuse_if_down()
        stored = self.stored.get(run.id)
        if stored is None or stored.deleted:
            raise RunMissing(run.trial)
        return stored

    def _active(self) -> list[StoredRun]:
        return [run for run in self.stored.values() if run.sweep == self.sweep and not run.deleted]

    def _is_own(self, stored: StoredRun) -> bool:
        return stored.run.tags.get(JOURNAL) == self.journal_id


def _as_trial(stored: StoredRun) -> TrialRun:
    metrics: dict[str, dict[int, float]] = {}
    for name, value, _, step in sorted(stored.metrics, key=lambda metric: (metric[0], metric[2])):
        metrics.setdefault(name, {})[step] = value
    run = stored.run
    return trial_run(
        run.id,
        stored.name,
        run.status,
        run.tags,
        run.params,
        metrics,
        stored.start_ms,
        stored.end_ms,
    )


def _copy(run: Run) -> Run:
    return Run(run.id, run.trial, dict(run.tags), dict(run.params), run.status)
