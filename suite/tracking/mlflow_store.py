"""Runs in MLflow, through ``MlflowClient`` with explicit run ids, never the fluent API."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.tracking import checking, images, reading, registry
from suite.tracking.failures import translated
from suite.tracking.port import Metric, Run, RunMissing, SweepRuns
from suite.tracking.tags import JOURNAL, KIND
from suite.tracking.text import chunks, safe_file
from suite.tracking.uri import mlflow_client, sqlite_file

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

MAX_METRICS, MAX_PARAMS = 1000, 100  # of one call
# By this tag MLflow's UI shows the experiment as one that trains models, not one of LLM traces.
EXPERIMENT_KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"


class MlflowStore:
    """See ``RunStore``: runs in a sqlite file, another database, or an MLflow server."""

    has_model_registry = True

    def __init__(self, sweep: str, uri: str, artifacts: Path | None, journal_id: str) -> None:
        """
        Args:
            sweep: the sweep's name, which is also the experiment's.
            uri: an absolute address (see ``default_uri``).
            artifacts: the folder for artifacts (see ``default_artifacts``); None = MLflow decides.
            journal_id: the id of the sweep's journal; runs of another journal are foreign.
        """
        self.sweep, self.journal_id = sweep, journal_id
        self.uri = uri
        self.artifacts = artifacts
        self._mlflow: Any = None
        self._experiment: str | None = None
        self._foreign: list[Run] = []

    def check(self, home: str) -> None:
        """See ``RunStore``."""
        checking.check(self.uri, self.artifacts, self.sweep, self.journal_id, home)

    def read(self, sweep: str) -> SweepRuns:
        """See ``RunStore``."""
        return reading.read(self.uri, sweep)

    def load(self) -> dict[str | None, Run]:
        """See ``RunStore``. A deleted experiment of the sweep's name is restored."""
        with translated():
            client = self._client()
            experiment = client.get_experiment_by_name(self.sweep)
            if experiment is None:
                self._experiment = None
                return {}
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
            self._experiment = experiment.experiment_id
            runs: dict[str | None, Run] = {}
            self._foreign = []
            for run in reading.search(client, self._experiment):
                self._add(reading.as_run(run), runs)
            return runs

    def _add(self, run: Run, runs: dict[str | None, Run]) -> None:
        """Sort a run in: this journal's, foreign, or not of the suite; a trial keeps one run."""
        if run.tags.get(KIND) not in ("sweep", "trial"):
            return
        twin = runs.get(run.trial)
        if run.tags.get(JOURNAL) != self.journal_id:
            self._foreign.append(run)
        elif twin is None:
            runs[run.trial] = run
        else:  # ``create`` got no answer, or a deleted experiment was restored with its runs
            first, second = sorted((twin, run), key=lambda twin: twin.precedence)
            self._foreign.append(first)
            runs[run.trial] = second

    def delete_foreign(self) -> None:
        """See ``RunStore``."""
        while self._foreign:
            try:
                self.delete(self._foreign[-1])
            except RunMissing:
                pass
            self._foreign.pop()

    def create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        """See ``RunStore``."""
        with translated():
            client = self._client()
            if self._experiment is None:
                self._experiment = client.create_experiment(
                    self.sweep,
                    artifact_location=self._location(),
                    tags={KIND: "sweep", EXPERIMENT_KIND: TRAINING},
                )
            run = client.create_run(self._experiment, start_time=start_ms, tags=tags, run_name=name)
            return Run(run.info.run_id, trial, dict(tags))

    def write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """See ``RunStore``."""
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.entities import Param, RunTag

        param_chunks = chunks(list(params.items()), MAX_PARAMS)
        calls = list(zip_longest(param_chunks, chunks(metrics, MAX_METRICS))) or [(None, None)]
        with self._client_for(run) as client:
            for number, (some_params, some_metrics) in enumerate(calls, start=1):
                # The tags (a few dozen) go with the last call: they hold the mark of progress,
                # which must not be there before the rest.
                client.log_batch(
                    run.id,
                    metrics=[MlflowMetric(*metric) for metric in some_metrics or ()],
                    params=[Param(*param) for param in some_params or ()],
                    tags=[RunTag(*tag) for tag in tags.items()] if number == len(calls) else (),
                    synchronous=True,
                )

    def set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        """See ``RunStore``."""
        with self._client_for(run) as client:
            if end_ms is None:
                client.update_run(run.id, status=status)
            else:
                client.set_terminated(run.id, status, end_ms)

    def delete(self, run: Run) -> None:
        """See ``RunStore``."""
        with self._client_for(run) as client:
            client.delete_run(run.id)

    def add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        """See ``RunStore``."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", "training")]
        with self._client_for(run) as client:
            client.log_inputs(run.id, datasets=[DatasetInput(Dataset(**dataset), tags)])

    def upload(self, run: Run, path: Path, folder: str) -> None:
        """See ``RunStore``."""
        if not path.exists():
            raise FileNotFoundError(path)
        with self._client_for(run) as client:
            client.log_artifact(run.id, str(path), folder or None)

    def replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        """See ``RunStore``."""
        with self._client_for(run) as client:
            images.replace_images(client, run.id, key, files, ts_ms)

    def delete_artifact(self, run: Run, artifact: str) -> bool:
        """See ``RunStore``."""
        with self._client_for(run) as client:
            return images.delete_artifact(client, run.id, artifact)

    def page_url(self) -> str:
        """See ``RunStore``. The experiment's start page would show traces, not runs."""
        return f"/#/experiments/{self._experiment}/runs?workflowType=machine_learning"

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """See ``RunStore``."""
        with translated():
            return registry.register(self._client(), self.sweep, run_id, model, example)

    def restore_champion(self, run_id: str) -> int | None:
        """See ``RunStore``."""
        with translated():
            return registry.restore(self._client(), self.sweep, run_id)

    @contextmanager
    def _client_for(self, run: Run) -> Iterator[Any]:
        """The client, for a call about ``run``."""
        with translated(run):
            yield self._client()

    def _client(self) -> Any:
        if self._mlflow is None:
            self._mlflow = mlflow_client(self.uri)
            _use_wal(self.uri)
        return self._mlflow

    def _location(self) -> str | None:
        if self.artifacts is None:
            return None
        return (self.artifacts / safe_file(self.sweep)).absolute().as_uri()


def _use_wal(uri: str) -> None:
    """Let the UI read while the suite writes (saves 7 ms an epoch); not on network file systems."""
    file = sqlite_file(uri)
    if file is None or not _is_local(file):
        return
    try:
        with sqlite3.connect(file, timeout=5.0) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    except sqlite3.Error:
        pass  # slower, not wrong


def _is_local(file: Path) -> bool:
    """False on network file systems, where WAL loses data; True if the type is unknown."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return True
    inside = [(len(place), kind) for place, kind in mounts if file.is_relative_to(place)]
    kind = max(inside, default=(0, ""))[1]
    return not kind.startswith(
        ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "glusterfs", "fuse", "9p", "beegfs")
    )
