"""The sweep's winner as a registered model.

The network is saved as a torch.export program (MLflow's ``pt2``): no pickle, and it loads without
the suite. Its state dict is stored beside it, for ``model.weights: models:/NAME@champion``.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import tempfile
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.core.errors import brief
from suite.tracking.reading import WEIGHTS_FILE
from suite.tracking.text import safe_file

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

log = logging.getLogger(__name__)
ALIAS, FOLDER = "champion", "model"


def warm_export() -> threading.Thread:
    """Import what an export needs, on a thread: 3 s, while the last trials train and Ray stops."""

    def load() -> None:
        with contextlib.suppress(ImportError):  # then the registration reports it
            importlib.import_module("mlflow.pytorch")
            # torch.export.export would import this and torch's compiler.
            importlib.import_module("torch.export._trace")
            requirements = importlib.import_module("mlflow.utils.requirements_utils")
            # Reads the installed packages, once a process.
            requirements.warn_dependency_requirement_mismatches(["mlflow"])

    # Not a daemon: the process must not end during an import.
    thread = threading.Thread(target=load, name="warm-export")
    thread.start()
    return thread


def register(
    client: Any, name: str, run_id: str, model: nn.Module, example: np.ndarray
) -> int | None:
    """See ``Tracker.register_champion``; raises whatever MLflow raises."""
    name = model_name(name)
    version = _version_of(client, name, run_id)
    if version is None:
        run = client.get_run(run_id)
        with tempfile.TemporaryDirectory(prefix="suite-champion-") as folder:
            try:
                save(model, example, Path(folder) / FOLDER)
            except Exception as error:  # torch.export cannot follow every network of a user's own
                log.warning(
                    "the champion was not registered: torch.export failed: %s", brief(error)
                )
                client.set_tag(run_id, "suite.champion_export", f"failed: {brief(error)}")
                return None
            client.log_artifacts(run_id, str(Path(folder) / FOLDER), FOLDER)
        _ensure_model(client, name)
        tags = {
            key: run.data.tags[key]
            for key in ("suite.trial", "suite.arm", "suite.seed")
            if key in run.data.tags
        }
        made = client.create_model_version(
            name, f"{run.info.artifact_uri}/{FOLDER}", run_id, tags=tags
        )
        version = int(made.version)
    client.set_registered_model_alias(name, ALIAS, str(version))
    return version


def restore(client: Any, name: str, run_id: str) -> int | None:
    """See ``Tracker.restore_champion``; raises whatever MLflow raises."""
    name = model_name(name)
    version = _version_of(client, name, run_id)
    if version is not None:
        client.set_registered_model_alias(name, ALIAS, str(version))
    elif any(ALIAS in model.aliases for model in client.search_registered_models(f"name='{name}'")):
        client.delete_registered_model_alias(name, ALIAS)
    return version


def model_name(sweep: str) -> str:
    """The registered model of a sweep."""
    return safe_file(sweep)


def save(model: nn.Module, example: np.ndarray, folder: Path) -> None:
    """Write the network in MLflow's format, with a free batch size, and its state dict."""
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    if len(example) < 2:  # torch.export takes a size of 1 for a constant
        example = np.concatenate([example, example])
    example = np.ascontiguousarray(example[:2], dtype=np.float32)
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval()
    plain = plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with torch.no_grad():
        classes = plain(torch.from_numpy(example)).shape[1]
    kind = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(kind, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(kind, (-1, classes))]),
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.export and MLflow, about themselves
        mlflow.pytorch.save_model(
            plain,
            str(folder),
            signature=signature,
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "mlflow"],
        )
    torch.save(plain.state_dict(), folder / WEIGHTS_FILE)


def _version_of(client: Any, name: str, run_id: str) -> int | None:
    listed = client.search_model_versions(f"name='{name}'")
    versions = [version for version in listed if version.run_id == run_id]
    return max((int(version.version) for version in versions), default=None)


def _ensure_model(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise
