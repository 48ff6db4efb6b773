"""Series of images in a run, which MLflow's page steps through; each is replaced as a whole."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suite.core.errors import EnvironmentProblem, brief
from suite.core.redaction import redacted
from suite.tracking.reading import download
from suite.tracking.tags import IMAGES
from suite.tracking.text import safe_key
from suite.tracking.uri import mlflow_client


def log_images(
    uri: str,
    run_id: str,
    key: str,
    files: Sequence[Path],
    *,
    beside: Sequence[Path] = (),
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
) -> bool:
    """Put images in place of those under the same key; repeating it changes nothing.

    Args:
        uri: the store.
        run_id: the run.
        key: the name of the series; file number n becomes its step n.
        files: images.
        beside: other files, uploaded to the top of the run's artifacts.
        metrics: written at ``step`` if the run's value differs.
        step: completed epochs.

    Returns:
        Whether the run had other images before.

    Raises:
        EnvironmentProblem: if the store does not take them.
    """
    from mlflow.entities import Metric, RunTag
    from mlflow.utils.time import get_current_time_millis

    try:
        client = mlflow_client(uri)
        data = client.get_run(run_id).data
        digest, now = images_digest(files), get_current_time_millis()
        changed: bool = data.tags.get(IMAGES + key) != digest
        if changed:
            replace_images(client, run_id, key, files, now)
        for path in beside:
            client.log_artifact(run_id, str(path))
        named = {safe_key(name): value for name, value in (metrics or {}).items()}
        fresh = [
            Metric(name, value, now, step)
            for name, value in named.items()
            if data.metrics.get(name) != value
        ]
        client.log_batch(run_id, metrics=fresh, tags=[RunTag(IMAGES + key, digest)])
    except Exception as error:
        raise EnvironmentProblem(
            f"the images could not be logged to run {run_id} in {redacted(uri)}: {brief(error)}",
            remedy="They are in the output folder; --no-log leaves MLflow alone.",
        ) from error
    return changed


def read_images(uri: str, run_id: str, key: str) -> dict[int, bytes]:
    """Step -> image (a file's content) of a run's series; empty if the run has no such series.

    Raises:
        EnvironmentProblem: if the store cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
        name = re.compile(
            re.escape(key.replace("/", "~")) + r"\+step\+(\d+)\+timestamp\+(\d+)\+[^+]*\.png"
        )
        images: dict[int, tuple[int, bytes]] = {}
        for path in download(uri, run_id, "images", Path(folder)).iterdir():
            if matched := name.fullmatch(path.name):
                step, made = int(matched[1]), int(matched[2])
                # A store that cannot delete keeps earlier images: the latest counts.
                if step not in images or images[step][0] < made:
                    images[step] = made, path.read_bytes()
    return {step: content for step, (_, content) in sorted(images.items())}


def images_digest(files: Sequence[Path]) -> str:
    """SHA-256 (64 hex digits) over images in their order.

    Raises:
        FileNotFoundError: a file is gone.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def replace_images(
    client: Any, run_id: str, key: str, files: Sequence[Path], timestamp_ms: int
) -> None:
    """Put images in place of those under ``key``: as ``mlflow.log_image``, two files each."""
    from PIL import Image

    for old in client.list_artifacts(run_id, "images"):
        if Path(old.path).name.startswith(f"{key.replace('/', '~')}+step+"):
            delete_artifact(client, run_id, old.path)
    for step, path in enumerate(files):
        with Image.open(path) as image:
            client.log_image(
                run_id, image, key=key, step=step, timestamp=timestamp_ms, synchronous=True
            )


def delete_artifact(client: Any, run_id: str, artifact: str) -> bool:
    """Delete an artifact; False if the store cannot or there is none."""
    try:  # no public call for this; a store may be unable to delete
        client._tracking_client._get_artifact_repo(run_id).delete_artifacts(artifact)
    except (AttributeError, NotImplementedError, FileNotFoundError):
        return False
    except Exception as error:
        if "404" in str(error) or "403" in str(error):  # already gone, or not allowed
            return False
        raise
    return True
