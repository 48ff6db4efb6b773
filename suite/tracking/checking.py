"""Check, before anything starts and without writing to it, that a store can be used."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from suite.core.errors import EnvironmentProblem, SuiteError, brief
from suite.core.redaction import redacted
from suite.system import signals
from suite.tracking.tags import HOME, JOURNAL, KIND
from suite.tracking.uri import mlflow_client, sqlite_file, warm

_DEADLINE_S = 6.0
_SERVER_REMEDY = (
    "Start it, correct the address (--tracking-uri or MLFLOW_TRACKING_URI), "
    "or leave both out to track in ./mlflow.db."
)
_PARENT_SQL = f"""
SELECT journal.value, home.value FROM runs
JOIN experiments ON experiments.experiment_id = runs.experiment_id
JOIN tags kind ON kind.run_uuid = runs.run_uuid AND kind.key = '{KIND}' AND kind.value = 'sweep'
LEFT JOIN tags journal ON journal.run_uuid = runs.run_uuid AND journal.key = '{JOURNAL}'
LEFT JOIN tags home ON home.run_uuid = runs.run_uuid AND home.key = '{HOME}'
WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'
"""


def check(uri: str, artifacts: Path | None, sweep: str, journal_id: str, home: str) -> None:
    """See ``Tracker.check``.

    Raises:
        EnvironmentProblem: if the store cannot be used for this sweep.
    """
    if artifacts is not None:
        _check_writable(artifacts, "the folder for artifacts")
    file = sqlite_file(uri)
    if file is not None:
        parents = _check_sqlite(uri, file, sweep)
    else:
        warm().join()  # not on the server's time
        parents = _within(_DEADLINE_S, uri, lambda: _check_server(uri, sweep))
    for other_journal, other_home in parents:
        if other_journal != journal_id and other_home and other_home != home:
            raise EnvironmentProblem(
                f"the name {sweep} is taken in {redacted(uri)}: "
                f"a sweep in {other_home} is tracked under it",
                remedy="Give this sweep another name, or delete that experiment in MLflow.",
            )


def _check_writable(place: Path, what: str) -> None:
    """Whether ``place`` can be written to, or created."""
    existing = next((folder for folder in (place, *place.parents) if folder.exists()), Path("/"))
    if not existing.is_dir():
        raise EnvironmentProblem(
            f"{what} cannot be created: {existing} is a file", remedy="Move it out of the way."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise EnvironmentProblem(
            f"{what} cannot be written: no permission for {existing}",
            remedy="Launch from a folder of your own, or give --tracking-uri.",
        )


def _check_sqlite(uri: str, file: Path, sweep: str) -> list[tuple[str, str]]:
    """Journal and home of the sweep's parent runs."""
    _check_writable(file.parent, "the folder of the tracking database")
    if not file.exists() or file.stat().st_size == 0:
        return []
    if not os.access(file, os.R_OK | os.W_OK):
        raise EnvironmentProblem(
            f"the tracking database {file} cannot be written: no permission",
            remedy="Change its owner or its mode.",
        )
    # Immutable: a plain read-only look at a database in WAL mode would put files beside it.
    mode = "mode=ro" if Path(f"{file}-wal").exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, timeout=5.0)
        try:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            }
            if "alembic_version" not in tables:
                _refuse_strange(file, tables)
                return []
            _check_revision(
                uri, connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
            )
            return list(connection.execute(_PARENT_SQL, (sweep,)))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise EnvironmentProblem(
            f"the tracking database {file} cannot be read: {error}",
            remedy="Is it MLflow's? Move it away, or give another one with --tracking-uri.",
        ) from error


def _refuse_strange(file: Path, tables: set[str]) -> None:
    if tables:
        raise EnvironmentProblem(
            f"{file} is a database, but not one of MLflow",
            remedy="Give another one with --tracking-uri.",
        )


def _check_revision(uri: str, revision: str) -> None:
    warm().join()
    from mlflow.store.db.utils import _get_latest_schema_revision

    wanted = _get_latest_schema_revision()
    if revision != wanted:
        raise _outdated(uri, f"found {revision}, need {wanted}")


def _outdated(uri: str, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the schema of the tracking database {redacted(uri)} does not fit the installed MLflow: "
        f"{detail}",
        remedy=f"Back it up, then run: mlflow db upgrade {redacted(uri)} "
        "(or install the MLflow that created it).",
    )


def _check_server(uri: str, sweep: str) -> list[tuple[str, str]]:
    if not uri.startswith(("http://", "https://", "databricks")):
        _check_database(uri)
    client = mlflow_client(uri)
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None or experiment.lifecycle_stage != "active":
        return []
    parents = client.search_runs([experiment.experiment_id], f"tags.`{KIND}` = 'sweep'")
    return [(run.data.tags.get(JOURNAL, ""), run.data.tags.get(HOME, "")) for run in parents]


def _check_database(uri: str) -> None:
    """Check a database other than sqlite first: MLflow's client creates or migrates its tables."""
    import sqlalchemy
    from mlflow.store.db import utils

    engine = sqlalchemy.create_engine(uri)
    try:
        if utils._is_empty_database(engine):
            raise EnvironmentProblem(
                f"the tracking database {redacted(uri)} is empty",
                remedy=f"Create its tables: mlflow db upgrade {redacted(uri)}",
            )
        utils._verify_schema(engine)
    finally:
        engine.dispose()


def _within(
    seconds: float, uri: str, look: Callable[[], list[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """Look on a thread: an unknown name or a silent server blocks a call for minutes."""
    result: list[Any] = []

    def work() -> None:
        try:
            result.append(look())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work, name="tracking-check", daemon=True)
    signals.start(thread)
    thread.join(seconds)
    if not result:
        raise EnvironmentProblem(
            f"the tracking server {redacted(uri)} did not answer within {seconds:g} s",
            remedy=_SERVER_REMEDY,
        )
    if isinstance(result[0], Exception):
        raise _explained(uri, result[0]) from result[0]
    return list(result[0])


def _explained(uri: str, error: Exception) -> Exception:
    if isinstance(error, SuiteError):
        return error
    text = brief(error)
    if "out-of-date database schema" in text:
        return _outdated(uri, text)
    if getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED") or re.search(
        r"error code 40[13]", text
    ):
        return EnvironmentProblem(
            f"the tracking server {redacted(uri)} refuses us: {text}",
            remedy="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN); a "
            "server that "
            "answers 403 to its own name needs --allowed-hosts NAME,NAME:PORT.",
        )
    return EnvironmentProblem(
        f"the tracking server {redacted(uri)} cannot be reached: {text}", remedy=_SERVER_REMEDY
    )
