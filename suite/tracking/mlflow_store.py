"""The real store: MLflow, through ``MlflowClient`` with explicit run ids and never the fluent API."""

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
from suite.tracking.projection import Projection
from suite.tracking.tags import JOURNAL, KIND, PARENT
from suite.tracking.text import chunks, safe_file
from suite.tracking.uri import mlflow_client, sqlite_file

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

_METRICS, _PARAMS = 1000, 100  # of one call
# With this tag the UI knows an experiment that trains models from one that traces language models.
EXPERIMENT_KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"


class MlflowTracker(Projection):
    """Runs in an MLflow store: a sqlite file, another database, or a server."""

    def __init__(
        self,
        sweep: str,
        uri: str,
        artifacts: Path | None,
        journal_id: str,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            sweep: the sweep's name, which is the experiment's too.
            uri: an absolute address (see ``default_uri``).
            artifacts: the folder for files (see ``default_artifacts``); None = the store decides.
            journal_id: tells this sweep's journal from another one under the same name.
            folder: the journal's folder, against which paths of ``file`` entries resolve.
        """
        super().__init__(sweep, journal_id, folder)
        self.uri = uri
        self.artifacts = artifacts
        self._mlflow: Any = None
        self._experiment: str | None = None
        self._foreign: list[Run] = []

    def check(self) -> None:
        """See ``Tracker.check``. Refuses too where another folder's journal tracks a sweep of this name."""
        checking.check(self.uri, self.artifacts, self.sweep, self.journal_id, self.home)

    def read(self, sweep: str) -> SweepRuns:
        """See ``Tracker.read``."""
        return reading.read(self.uri, sweep)

    def register_champion(self, run_id: str, model: nn.Module, example: np.ndarray) -> int | None:
        """Log the winner's network to its run and register it under the sweep's name, alias ``champion``.

        Doing it again for the same run makes no new version.

        Args:
            run_id: the winner's run.
            model: the network with the weights of its best epoch.
            example: normalised images as it takes them, float32 (N, 3, H, W); at least 2, so that N stays free.

        Returns:
            The version; None if the network cannot be exported (the run's tag ``suite.champion_export`` says why).

        Raises:
            TrackingUnavailable, EntryRejected: as ``apply``.
        """
        with translated():
            return registry.register(self._client(), self.sweep, run_id, model, example)

    def restore_champion(self, run_id: str) -> int | None:
        """Point the alias ``champion`` at the version that a run was registered as before.

        Returns:
            The version; None if it never was, and then the alias is gone: better no champion than another one.

        Raises:
            TrackingUnavailable, EntryRejected: as ``apply``.
        """
        with translated():
            return registry.restore(self._client(), self.sweep, run_id)

    @property
    def page(self) -> str:
        """Where the sweep's runs are in MLflow's UI, below its address; its start page shows traces instead."""
        return f"/#/experiments/{self._experiment}/runs?workflowType=machine_learning"

    # ---- what Projection asks for ----------------------------------------------------------------------------------

    def _load(self) -> dict[str | None, Run]:
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
            for found in reading.search(client, self._experiment):
                self._sort_in(reading.as_run(found), runs)
            return runs

    def _sort_in(self, run: Run, runs: dict[str | None, Run]) -> None:
        """Ours, another journal's, or not of the suite; of two of one trial one stays."""
        if run.tags.get(KIND) not in ("sweep", "trial"):
            return
        twin = runs.get(run.trial)
        if run.tags.get(JOURNAL) != self.journal_id:
            self._foreign.append(run)
        elif twin is None:
            runs[run.trial] = run
        else:  # a request whose answer got lost, or a deleted experiment that was restored with all it had
            first, second = sorted((twin, run), key=lambda one: one.precedence)
            self._foreign.append(first)
            runs[run.trial] = second

    def _replace_foreign(self) -> None:
        while self._foreign:
            try:
                self._delete(self._foreign[-1])
            except RunMissing:
                pass
            self._foreign.pop()

    def _create(self, trial: str | None, name: str, tags: dict[str, str], start_ms: int) -> Run:
        if trial is not None:
            tags = {**tags, PARENT: self._parent().id}
        with translated():
            client = self._client()
            if self._experiment is None:
                self._experiment = client.create_experiment(
                    self.sweep,
                    artifact_location=self._location(),
                    tags={KIND: "sweep", EXPERIMENT_KIND: TRAINING},
                )
            made = client.create_run(
                self._experiment, start_time=start_ms, tags=tags, run_name=name
            )
            return Run(made.info.run_id, trial, dict(tags))

    def _write(
        self, run: Run, metrics: list[Metric], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.entities import Param, RunTag

        calls = list(
            zip_longest(chunks(list(params.items()), _PARAMS), chunks(metrics, _METRICS))
        ) or [(None, None)]
        with self._about(run) as client:
            for number, (some_params, some_metrics) in enumerate(calls, start=1):
                # The tags (a few dozen) go with the last call: a mark of progress must never be too early.
                client.log_batch(
                    run.id,
                    metrics=[MlflowMetric(*item) for item in some_metrics or ()],
                    params=[Param(*item) for item in some_params or ()],
                    tags=[RunTag(*item) for item in tags.items()] if number == len(calls) else (),
                    synchronous=True,
                )

    def _set_status(self, run: Run, status: str, end_ms: int | None) -> None:
        with self._about(run) as client:
            if end_ms is None:
                client.update_run(run.id, status=status)
            else:
                client.set_terminated(run.id, status, end_ms)

    def _delete(self, run: Run) -> None:
        with self._about(run) as client:
            client.delete_run(run.id)

    def _add_input(self, run: Run, dataset: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", "training")]
        with self._about(run) as client:
            client.log_inputs(run.id, datasets=[DatasetInput(Dataset(**dataset), tags)])

    def _upload(self, run: Run, path: Path, folder: str) -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        with self._about(run) as client:
            client.log_artifact(run.id, str(path), folder or None)

    def _replace_images(self, run: Run, key: str, files: Sequence[Path], ts_ms: int) -> None:
        with self._about(run) as client:
            images.replace_images(client, run.id, key, files, ts_ms)

    def _remove(self, run: Run, artifact: str) -> bool:
        with self._about(run) as client:
            return images.remove(client, run.id, artifact)

    # ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _about(self, run: Run) -> Iterator[Any]:
        """The client, for a call about ``run``."""
        try:
            with translated(run):
                yield self._client()
        except RunMissing:
            self._known = None
            raise

    def _client(self) -> Any:
        if self._mlflow is None:
            self._mlflow = mlflow_client(self.uri)
            _use_wal(self.uri)
        return self._mlflow

    def _location(self) -> str | None:
        return (
            (self.artifacts / safe_file(self.sweep)).absolute().as_uri() if self.artifacts else None
        )


def _use_wal(uri: str) -> None:
    """Let readers (the UI) and the writer not wait for each other: 7 ms an epoch. Not where files are remote."""
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
    """False on network file systems, where WAL loses data; True where nothing can be known."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return True
    inside = [(len(place), kind) for place, kind in mounts if file.is_relative_to(place)]
    kind = max(inside, default=(0, ""))[1]
    return not kind.startswith(
        ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "glusterfs", "fuse", "9p", "beegfs")
    )
