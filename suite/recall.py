"""A tracked run as something that can be run or used again: its trial, numerics, objective, data and weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from suite import data, models, tracking
from suite.errors import EnvironmentProblem, UsageError
from suite.plan import fetch_weights
from suite.records import Numerics, Objective, Trial
from suite.spec import TrialConfig
from suite.train import Normalised, rebuild


@dataclass(frozen=True)
class Recalled:
    """What the store knows of a trial.

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
        """The images, loaded from where the run had them."""
        return data.load(self.config.data)

    def weights(self) -> models.Weights | None:
        """What the run started from, None for a random start."""
        return fetch_weights(self.config.model, lambda address: tracking.resolve_weights(self.uri, address))

    def best(self) -> Path:
        """The checkpoint of the best epoch."""
        return tracking.download(self.uri, self.run.run_id, "checkpoints/best.pt")

    def trained(self, checkpoint: Path | None = None) -> Trained:
        """The network of the best epoch, from the store or from a ``best.pt`` of this run.

        Raises:
            EnvironmentProblem: the file is missing, or no ``best.pt`` of this run.
        """
        best = checkpoint or self.best()
        try:
            content = torch.load(best, map_location="cpu", weights_only=True)
            network = rebuild(self.trial, best)
            return Trained(network, tuple(content["classes"]), content["image_size"], content["epoch"])
        except Exception as error:
            raise EnvironmentProblem(
                f"{best} is no best.pt of run {self.run.run_id}: {str(error).splitlines()[0]}",
                remedy=f"Make it again: python -m suite.replay {self.run.run_id}",
            ) from error


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: in evaluation mode, with the normalisation of its images before it.
        classes: names, in the order of the logits.
        side: of the images that it was trained on, in pixels.
        epoch: completed epochs.
    """

    network: Normalised
    classes: tuple[str, ...]
    side: int
    epoch: int


def recall(uri: str, reference: str) -> Recalled:
    """Read a trial back from the store: by its run's id, or as the run behind ``models:/NAME@ALIAS``.

    Raises:
        UsageError: there is no such run, or it is not a trial of this suite.
        EnvironmentProblem: the store or one of the run's files cannot be read.
    """
    run = tracking.find_run(uri, reference)
    if not run.trial:
        remedy = "Give a child run's id; a sweep's page in MLflow lists them."
        raise UsageError(f"run {reference} is not a trial of a sweep", remedy=remedy)
    config = TrialConfig.model_validate(yaml.safe_load(tracking.download(uri, run.run_id, "config.yaml").read_text()))
    objective = Objective(**json.loads(run.tags["suite.objective"]))
    numerics = Numerics(**json.loads(run.tags["suite.numerics"]))
    trial = Trial(run.trial, run.arm, run.seed, run.name, config=config.model_dump(mode="json"))
    return Recalled(uri, run, trial, config, numerics, objective)
