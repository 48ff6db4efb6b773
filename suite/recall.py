"""A tracked run as something that can be run or used again: its trial, numerics, objective, data and weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from suite import data, models, tracking
from suite.errors import UsageError
from suite.plan import fetch_weights
from suite.records import Numerics, Objective, Trial
from suite.spec import TrialConfig


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
