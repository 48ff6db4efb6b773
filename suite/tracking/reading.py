"""Read runs, files and weights from MLflow, for reports, replay and ``model.weights``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from suite.core.errors import EnvironmentProblem, SuiteError, UsageError, brief
from suite.core.redaction import redacted
from suite.tracking.port import Run, SweepRuns, TrialRun
from suite.tracking.tags import ARM, KIND, ORDER, PARENT, SEED, STATUS, TRIAL
from suite.tracking.text import chunks
from suite.tracking.uri import mlflow_client, sqlite_file

WEIGHTS_FILE = "weights.pt"  # beside the exported network in a registered model: its state dict
_PAGE, _RUNS_AT_ONCE, _POINTS_AT_ONCE = 1000, 100, 25_000

History = dict[str, dict[int, float]]


def read(uri: str, sweep: str) -> SweepRuns:
    """Everything that the store has of a sweep.

    Raises:
        UsageError: if there is no such sweep; names those that there are.
        EnvironmentProblem: if the store cannot be read.
    """
    with _reading(uri) as client:
        experiment = client.get_experiment_by_name(sweep)
        active = experiment is not None and experiment.lifecycle_stage == "active"
        runs = list(search(client, experiment.experiment_id)) if active else []
        parents = [run for run in runs if run.data.tags.get(KIND) == "sweep"]
        if not parents:
            raise UsageError(
                f"there is no sweep {sweep} in {redacted(uri)}; known: {_known(client)}"
            )
        parent = max(parents, key=lambda run: (run.info.start_time, as_run(run).precedence))
        children = _latest(run for run in runs if run.data.tags.get(PARENT) == parent.info.run_id)
        histories = _histories(client, [parent, *children])
        return SweepRuns(
            sweep,
            _as_trial(parent, histories),
            tuple(_as_trial(run, histories) for run in children),
        )


def find_run(uri: str, reference: str) -> TrialRun:
    """One run, whatever its sweep.

    Args:
        uri: the store.
        reference: its id, or ``models:/NAME@ALIAS`` (or /VERSION) for a registered model's run.

    Raises:
        UsageError: there is no such run.
        EnvironmentProblem: if the store cannot be read.
    """
    with _reading(uri) as client:
        kind, _, name = reference.partition(":/")
        try:
            run = client.get_run(_version(client, name).run_id if kind == "models" else reference)
        except Exception as error:
            if _is_missing(error):
                raise UsageError(
                    f"there is no run {reference} in {redacted(uri)}",
                    remedy="Give a run id, which MLflow's page shows, or models:/SWEEP@champion.",
                ) from error
            raise
        return _as_trial(run, _histories(client, [run]))


def download(uri: str, run_id: str, artifact_path: str, dst: Path | None = None) -> Path:
    """A file or folder of a run's artifacts, downloaded to ``dst``.

    If ``dst`` is None and the store is on this machine, the path is in the store itself.

    Raises:
        EnvironmentProblem: if it is not there.
    """
    with _reading(uri) as client:
        if dst is not None:
            dst.mkdir(parents=True, exist_ok=True)
        try:
            _refuse_ways_out(client, run_id, artifact_path)
            return Path(client.download_artifacts(run_id, artifact_path, str(dst) if dst else None))
        except Exception as error:
            raise EnvironmentProblem(
                f"run {run_id} has no artifact {artifact_path}: {brief(error)}",
                remedy="See the run's artifacts in MLflow; to train a removed checkpoint again: "
                f"python -m suite.replay {run_id}.",
            ) from error


def _refuse_ways_out(client: Any, run_id: str, artifact_path: str) -> None:
    """If artifacts are on this machine, refuse ``..`` and links that leave the run's folder.

    Raises:
        ValueError: a path leaves it. (MLflow checks names, also those from a server, but follows
            links.)
    """
    place = getattr(client._tracking_client._get_artifact_repo(run_id), "artifact_dir", None)
    if place is None:
        return
    root = Path(place).resolve()
    wanted = root / artifact_path
    for path in (wanted, *wanted.rglob("*")):
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path} leads out of the run's folder")


def resolve_weights(uri: str, reference: str) -> Path:
    """The state dict's file for ``runs:/ID/PATH`` or ``models:/NAME@ALIAS`` (or /VERSION).

    Raises:
        UsageError: the reference has neither form.
        EnvironmentProblem: there is no such file.
    """
    kind, _, rest = reference.partition(":/")
    if kind == "runs":
        run_id, _, path = rest.strip("/").partition("/")
        file = download(uri, run_id, path or "checkpoints/best.pt")
    elif kind == "models" and rest.strip("/"):
        file = _model_weights(uri, reference, rest.strip("/"))
    else:
        raise UsageError(
            f"model.weights must be runs:/ID/PATH or models:/NAME@ALIAS here, got {reference}"
        )
    if not file.is_file():
        raise EnvironmentProblem(
            f"model.weights {reference} is a folder", remedy="Name a file in it."
        )
    return file


def _model_weights(uri: str, reference: str, name: str) -> Path:
    with _reading(uri) as client:
        from mlflow.artifacts import download_artifacts

        try:
            source = _version(client, name).source
            return Path(
                download_artifacts(artifact_uri=f"{source}/{WEIGHTS_FILE}", tracking_uri=uri)
            )
        except Exception as error:
            raise EnvironmentProblem(
                f"model.weights {reference} cannot be read from {redacted(uri)}: {brief(error)}",
                remedy=f"Name a model that the suite registered (it holds {WEIGHTS_FILE}), or "
                "give the path "
                "of a local file.",
            ) from error


def _version(client: Any, name: str) -> Any:
    """The version of a registered model that ``NAME@ALIAS`` or ``NAME/VERSION`` names."""
    model, _, alias = name.partition("@")
    if alias:
        return client.get_model_version_by_alias(model, alias)
    return client.get_model_version(*[*name.split("/", 1), ""][:2])


def search(client: Any, experiment_id: str) -> Iterator[Any]:
    """All active runs of an experiment, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    file = sqlite_file(uri)
    if file is not None and not file.exists():  # MLflow would create it
        raise EnvironmentProblem(
            f"there are no runs: {file} does not exist",
            remedy="Go to the folder in which the sweep was launched, or give --tracking-uri.",
        )
    try:
        yield mlflow_client(uri)
    except SuiteError:
        raise
    except Exception as error:
        raise EnvironmentProblem(
            f"the runs in {redacted(uri)} cannot be read: {brief(error)}",
            remedy="Check that the server runs, and the address in --tracking-uri or "
            "MLFLOW_TRACKING_URI.",
        ) from error


def _is_missing(error: Exception) -> bool:
    return getattr(error, "error_code", None) in (
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_PARAMETER_VALUE",
    )


def _known(client: Any) -> str:
    experiments = client.search_experiments()
    sweeps = [experiment.name for experiment in experiments if experiment.tags.get(KIND) == "sweep"]
    return ", ".join(sorted(sweeps)) or "none"


def _latest(runs: Iterable[Any]) -> list[Any]:
    """One run for each trial, in the order of planning."""
    best: dict[str, Any] = {}
    for run in runs:
        trial = run.data.tags.get(TRIAL, run.info.run_id)
        if trial not in best or as_run(run).precedence > as_run(best[trial]).precedence:
            best[trial] = run
    return sorted(best.values(), key=lambda run: (as_run(run).mark(ORDER), run.info.start_time))


def as_run(run: Any) -> Run:
    """MLflow's run as the projection sees it."""
    tags, params = dict(run.data.tags), dict(run.data.params)
    return Run(run.info.run_id, tags.get(TRIAL), tags, params, run.info.status)


def _as_trial(run: Any, histories: Mapping[str, History]) -> TrialRun:
    info = run.info
    return trial_run(
        info.run_id,
        info.run_name or "",
        info.status,
        run.data.tags,
        run.data.params,
        histories.get(info.run_id, {}),
        info.start_time,
        info.end_time,
        info.artifact_uri or "",
    )


def trial_run(
    run_id: str,
    name: str,
    status: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    metrics: Mapping[str, Mapping[int, float]],
    start_ms: int,
    end_ms: int | None,
    artifact_uri: str = "",
) -> TrialRun:
    """A ``TrialRun`` of a store's values; tags that a foreign run lacks get neutral values."""
    seed = tags.get(SEED, "")
    return TrialRun(
        run_id=run_id,
        trial=tags.get(TRIAL, ""),
        arm=tags.get(ARM, ""),
        seed=int(seed) if seed.isdigit() else -1,
        name=name,
        status=tags.get(STATUS) or status.lower(),
        tags=dict(tags),
        params=dict(params),
        metrics=metrics,
        start_ms=start_ms,
        end_ms=end_ms or None,
        artifact_uri=artifact_uri,
    )


# ---- metric histories: one call per metric, not per metric and run -------------------------------


def _histories(client: Any, runs: list[Any]) -> dict[str, History]:
    """Run id -> metric -> step -> value."""
    histories: dict[str, History] = {run.info.run_id: {} for run in runs}
    names = sorted({name for run in runs for name in run.data.metrics})
    store = client._tracking_client.store
    for name in names:
        having = [run.info.run_id for run in runs if name in run.data.metrics]
        for some in chunks(having, _RUNS_AT_ONCE):
            for run_id, step, value in _points(client, store, some, name):
                histories[run_id].setdefault(name, {})[step] = value
    return histories


def _points(client: Any, store: Any, run_ids: list[str], name: str) -> list[tuple[str, int, float]]:
    """(run, step, value) in the order of time."""
    if hasattr(store, "ManagedSessionMaker"):
        return _stored_points(store, run_ids, name)
    points = _rest_points(store, run_ids, name) if hasattr(store, "get_host_creds") else None
    if points is None:
        with ThreadPoolExecutor(8) as pool:
            histories = pool.map(lambda run_id: client.get_metric_history(run_id, name), run_ids)
            points = [
                (run_id, point.step, point.value)
                for run_id, history in zip(run_ids, histories, strict=True)
                for point in sorted(history, key=lambda point: point.timestamp)
            ]
    return points


def _stored_points(store: Any, run_ids: list[str], name: str) -> list[tuple[str, int, float]]:
    """From the database, by MLflow's session: its own call makes two objects per point."""
    from mlflow.store.tracking.dbmodels.models import SqlMetric as Metric

    with store.ManagedSessionMaker() as session:
        rows = (
            session.query(Metric.run_uuid, Metric.step, Metric.value, Metric.is_nan)
            .filter(Metric.key == name, Metric.run_uuid.in_(run_ids))
            .order_by(Metric.timestamp, Metric.step, Metric.value)
        )
        return [
            (run_id, step, math.nan if is_nan else value) for run_id, step, value, is_nan in rows
        ]


def _rest_points(store: Any, run_ids: list[str], name: str) -> list[tuple[str, int, float]] | None:
    """By the call that MLflow's page uses; None if a server lacks it or would cut the answer."""
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            store.get_host_creds(),
            "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
            "GET",
            params={"run_id": run_ids, "metric_key": name, "max_results": _POINTS_AT_ONCE},
        )
        points = answer.json()["metrics"] if answer.status_code == 200 else None
    except Exception:
        return None
    if points is None or len(points) >= _POINTS_AT_ONCE:
        return None
    return [(point["run_id"], int(point.get("step", 0)), float(point["value"])) for point in points]
