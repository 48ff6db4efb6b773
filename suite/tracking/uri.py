"""The address of the store, its default, and the settings of MLflow's client."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from suite.core.errors import UsageError
from suite.system import signals

SQLITE = "sqlite:///"
_REMEDY = "Use sqlite:///PATH/mlflow.db, or the address of an MLflow server."


def default_uri(tracking_uri: str | None, folder: Path) -> str:
    """The argument, else MLFLOW_TRACKING_URI, else ``mlflow.db`` in ``folder``; always absolute.

    Raises:
        UsageError: MLflow 3.13 and later refuses the address (a folder), or it is a database in
            memory, which would lose everything.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith("sqlite:"):
        place = uri.removeprefix(SQLITE) if uri.startswith(SQLITE) else ""
        if place in ("", ":memory:"):
            raise UsageError(f"the tracking address {uri} names no file", remedy=_REMEDY)
        return SQLITE + str(Path(os.path.normpath(folder.absolute() / place)))
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        raise UsageError(
            f"MLflow no longer stores runs in folders, got the tracking address {uri}",
            remedy=_REMEDY,
        )
    return uri


def default_artifacts(uri: str) -> Path | None:
    """Where files go: ``mlartifacts`` beside a sqlite store; None = the server decides."""
    file = sqlite_file(uri)
    return file.parent / "mlartifacts" if file else None


def sqlite_file(uri: str) -> Path | None:
    """The database file of a sqlite address, else None."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def exists(uri: str) -> bool:
    """False for a sqlite file that does not exist; MLflow's client would create it."""
    file = sqlite_file(uri)
    return file is None or file.exists()


def mlflow_client(uri: str) -> Any:
    """An ``MlflowClient``; the first call imports mlflow. Creates a missing sqlite store."""
    _prepare()
    from mlflow import MlflowClient

    _quiet()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def warm() -> threading.Thread:
    """Import mlflow on a thread, so that its seconds pass beside something else."""

    def load() -> None:
        _prepare()
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracking  # noqa: F401

        _quiet()

    thread = threading.Thread(target=load, name="warm-mlflow", daemon=True)
    signals.start(thread)
    return thread


def _prepare() -> None:
    """Settings that mlflow reads from the environment; what the user has set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sender retries, in order
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)


def _quiet() -> None:
    """Keep MLflow's and alembic's log lines off the console, unless the suite logs at DEBUG."""
    if logging.getLogger("suite").isEnabledFor(logging.DEBUG) and logging.getLogger("suite").level:
        return
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It prints a traceback for each locked database that the sender retries anyway.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def tracking_uri_of(tracking_uri: str | None) -> str:
    """The store to use: the argument, else MLFLOW_TRACKING_URI, else ``mlflow.db`` in the
    working folder.
    """
    return default_uri(tracking_uri, Path.cwd())
