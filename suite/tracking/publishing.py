"""The report among the artifacts of the sweep's run, where MLflow's page shows it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from suite.core.errors import EnvironmentProblem, brief
from suite.core.redaction import redacted
from suite.tracking.uri import mlflow_client

log = logging.getLogger(__name__)
REPORT = "report"


def publish_report(uri: str, run_id: str, folder: Path) -> None:
    """Copy a report's files to ``report/`` of a run, in place of those of an earlier one.

    Raises:
        EnvironmentProblem: the store does not take them.
    """
    try:
        client = mlflow_client(uri)
        client.log_artifacts(run_id, str(folder), REPORT)
        ours = {
            f"{REPORT}/{path.relative_to(folder).as_posix()}"
            for path in folder.rglob("*")
            if path.is_file()
        }
        _remove(
            client, run_id, [path for path in _files(client, run_id, REPORT) if path not in ours]
        )
    except Exception as error:
        raise EnvironmentProblem(
            f"the report was made, but could not be uploaded to {redacted(uri)}: {brief(error)}",
            remedy="Check that the artifact store is writable, and make the report again.",
        ) from error


def _files(client: Any, run_id: str, folder: str) -> Iterator[str]:
    """All files of a run below a folder of its artifacts."""
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from _files(client, run_id, file.path)
        else:
            yield file.path


def _remove(client: Any, run_id: str, paths: list[str]) -> None:
    """Delete files that only an earlier report had, if the store can delete."""
    if not paths:
        return
    try:  # no public call for this
        repository = client._tracking_client._get_artifact_repo(run_id)
        for path in paths:
            repository.delete_artifacts(path)
    except Exception as error:
        log.info("files of an earlier report stay: %s", brief(error))
