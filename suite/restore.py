"""Restore a trial from its run: config, numerics, objective, data and weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import ValidationError

from suite import data, models, tracking
from suite.config import TrialConfig, read_stored_config, yaml_lines
from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Numerics, Objective, Trial
from suite.core.redaction import WORD
from suite.models.trained import Normalised, rebuild
from suite.planning.plan import fetch_weights
from suite.system.environment import check_floors, suite_version


@dataclass(frozen=True)
class RestoredTrial:
    """A trial as read from the store.

    Attributes:
        run: the run as stored, with its metric histories.
        trial, config: what was trained.
        numerics, objective: how it was trained and judged.
    """

    uri: str
    run: tracking.TrialRun
    trial: Trial
    config: TrialConfig
    numerics: Numerics
    objective: Objective

    def dataset(self) -> data.Dataset:
        """The images, loaded from where the run had them.

        Raises:
            EnvironmentProblem: they are missing, or their place was not recorded.
        """
        self._on_record("data.root", self.config.data.root)
        return data.load(self.config.data)

    def weights(self) -> models.Weights | None:
        """The weights that the run started from, None for a random start; raises as ``dataset``."""
        self._on_record("model.weights", self.config.model.weights)
        return fetch_weights(
            self.config.model, lambda address: tracking.resolve_weights(self.uri, address)
        )

    def _on_record(self, name: str, address: str | None) -> None:
        if address and WORD in address:
            raise EnvironmentProblem(
                f"{name} of run {self.run.run_id} held a password, which is not recorded: "
                f"{address}",
                remedy="Put the files on this machine, name them in the sweep file and run that.",
            )

    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return tracking.download(self.uri, self.run.run_id, "checkpoints/best.pt")

    def trained(self, checkpoint: Path | None = None) -> Trained:
        """The network of the best epoch, from the store or from a ``best.pt`` of this run.

        Raises:
            EnvironmentProblem: the file is missing, or not a ``best.pt`` of this run.
        """
        best = checkpoint or self.best()
        try:
            content = torch.load(best, map_location="cpu", weights_only=True)
            network = rebuild(self.trial, best)
            return Trained(
                network, tuple(content["classes"]), content["image_size"], content["epoch"]
            )
        except Exception as error:
            raise EnvironmentProblem(
                f"{best} is not a best.pt of run {self.run.run_id}: {str(error).splitlines()[0]}",
                remedy=f"Train it again: python -m suite.replay {self.run.run_id}",
            ) from error


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: in evaluation mode; normalises its input itself.
        classes: names, in the order of the logits.
        side: width and height of its training images, in pixels.
        epoch: completed epochs.
    """

    network: Normalised
    classes: tuple[str, ...]
    side: int
    epoch: int


def restore(uri: str, reference: str) -> RestoredTrial:
    """Restore a trial by its run's id, or by ``models:/NAME@ALIAS``.

    Raises:
        UsageError: there is no such run, or it is not a trial of this suite.
        EnvironmentProblem: the store or a file of the run cannot be read, or another version of the
            suite wrote fields that this one does not know.
    """
    check_floors()
    run = tracking.find_run(uri, reference)
    if not run.trial:
        remedy = "Give a child run's id; a sweep's page in MLflow lists them."
        raise UsageError(f"run {reference} is not a trial of a sweep", remedy=remedy)
    config = _config(run, tracking.download(uri, run.run_id, "config.yaml").read_text())
    objective = _tagged(run, "suite.objective", Objective)
    numerics = _tagged(run, "suite.numerics", Numerics)
    trial = Trial(run.trial, run.arm, run.seed, run.name, config=config.model_dump(mode="json"))
    return RestoredTrial(uri, run, trial, config, numerics, objective)


# ---- written by another version of the suite -----------------------------------------------------

Tagged = TypeVar("Tagged", Objective, Numerics)


def _config(run: tracking.TrialRun, text: str) -> TrialConfig:
    """The run's ``config.yaml``; an unknown setting is an error: ignoring it changes the trial."""
    try:
        yaml_lines.parse(text, "config.yaml")  # the store may hold a YAML bomb
        return read_stored_config(yaml.safe_load(text))
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, entry['loc'])) or 'all of it'} ({entry['msg']})"
            for entry in error.errors()
        ]
        raise _foreign(run, f"{', '.join(wrong)}, in config.yaml") from error
    except (yaml.YAMLError, UsageError) as error:
        raise _foreign(run, "config.yaml, which is not YAML") from error


def _tagged(run: tracking.TrialRun, tag: str, kind: type[Tagged]) -> Tagged:
    """The value of a tag; a field that ``kind`` does not have is an error."""
    try:
        value: dict[str, Any] = dict(json.loads(run.tags.get(tag, "")))
        unknown = sorted(set(value) - {field.name for field in fields(kind)})
        if not unknown:
            return kind(**value)
    except (ValueError, TypeError) as error:
        raise _foreign(run, f"{run.tags.get(tag) or 'nothing'}, in the tag {tag}") from error
    raise _foreign(run, f"{', '.join(unknown)}, in the tag {tag}")


def _foreign(run: tracking.TrialRun, what: str) -> EnvironmentProblem:
    wrote = run.tags.get("suite.version") or "unknown"
    return EnvironmentProblem(
        f"run {run.run_id} was written by a suite of version {wrote}; "
        f"this one, version {suite_version()}, does not know: {what}",
        remedy="Use the suite that wrote it (the run's tags have its version and commit), or run "
        "its "
        "sweep again with this one.",
    )
