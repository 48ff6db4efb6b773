"""From a validated file to trials that can start: data and weights loaded, every arm checked
against them.

The second stage of validation. It lists all problems at once, each with its place in the file, and
starts nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from suite import augment, data, models
from suite.config import Arm, DataConfig, ModelConfig, SweepSpec, TrialConfig, plugin
from suite.config.evaluation import EpochImages
from suite.core.errors import Problem, ProblemsError, raise_problems
from suite.core.records import Trial
from suite.storage.journal import History, TrialHistory
from suite.system import disk

SAMPLES = 32  # points of an open-ended space that are checked before it is searched
Fetch = Callable[[str], Path]
Config = TypeVar("Config", DataConfig, ModelConfig)


@dataclass
class Plan:
    """What a sweep needs to run.

    Attributes:
        spec: the sweep.
        datasets: ``data_key`` -> images.
        weights: ``weights_key`` -> weights.
    """

    spec: SweepSpec
    datasets: dict[str, data.Dataset] = field(default_factory=dict)
    weights: dict[str, models.Weights] = field(default_factory=dict)
    _modules: dict[str, str] = field(default_factory=dict)
    _splits: dict[str, data.Split] = field(default_factory=dict)

    def trial(self, arm: Arm, seed: int) -> Trial:
        """The trial of an arm and a seed, with its computed id."""
        key = weights_key(arm.config.model)
        return self.spec.trial(
            arm,
            seed,
            data_digest=self.datasets[data_key(arm.config.data)].digest,
            weights_digest=self.weights[key].digest if key else None,
            module_digests=[self._digest(text) for text in references(arm.config)],
        )

    def trials(
        self, arms: Iterable[Arm], seeds: Iterable[int] | None = None
    ) -> list[tuple[Arm, Trial]]:
        """Every arm with every seed: seed by seed, so that early results compare all arms.

        Args:
            seeds: default all seeds of the sweep.
        """
        chosen = list(arms)
        repeats = self.spec.seeds if seeds is None else seeds
        return [(arm, self.trial(arm, seed)) for seed in repeats for arm in chosen]

    def networks(self) -> list[tuple[TrialConfig, int, int]]:
        """(config, classes, side in pixels) of one arm for each architecture: what is measured
        to choose numerics.
        """
        arms = self.spec.arms_list or _corners(self.spec)
        examples = {arm.config.model.arch: arm.config for arm in reversed(arms)}
        return [(config, *self.shape(config)) for config in examples.values()]

    @cached_property
    def shortest_images(self) -> int:
        """Images that the shortest trial trains on, once for each of its epochs before it may be
        stopped.
        """
        early, counts = self.spec.early_terminate, []
        for arm in self.spec.arms_list or _corners(self.spec):
            trained = self.epoch_images(arm.config).train
            epochs = arm.config.train.epochs
            counts.append(trained * (min(epochs, early.grace_epochs) if early else epochs))
        return min(counts)

    @cached_property
    def trial_bytes(self) -> int:
        """Room on the disk that one trial of the largest network asks for while it runs."""
        return disk.MARGIN + disk.AT_ONCE * max(
            self._checkpoint_bytes(config) for config, _, _ in self.networks()
        )

    def _checkpoint_bytes(self, config: TrialConfig) -> int:
        """Weights, those of the best epoch, the optimizer's state and the averaged weights, in
        float32.
        """
        network = models.build(
            config.model.model_copy(update={"weights": "none"}), self.shape(config)[0]
        )
        copies = 2 + (1 if config.train.optimizer == "sgd" else 2) + (config.train.ema is not None)
        return 4 * copies * models.count_parameters(network)[0]

    def shape(self, config: TrialConfig) -> tuple[int, int]:
        """Classes, and the side of the images in pixels."""
        dataset = self.dataset(config)
        return len(dataset.classes), int(dataset.train_images.shape[-1])

    def dataset(self, config: TrialConfig) -> data.Dataset:
        """The images of a trial."""
        return self.datasets[data_key(config.data)]

    def split(self, config: TrialConfig) -> data.Split:
        """Which images a trial trains, validates and tests on."""
        key = config.data.model_dump_json()
        if key not in self._splits:
            dataset = self.dataset(config)
            self._splits[key] = data.split(
                dataset.train_labels, dataset.test_labels, config.data, dataset.classes
            )
        return self._splits[key]

    def epoch_images(self, config: TrialConfig) -> EpochImages:
        """How many images an epoch of a trial trains on, and one evaluation passes over."""
        parts = self.split(config)
        trained = data.trained_images(len(parts.train), config.train)
        return EpochImages(trained, len(parts.val), len(parts.test))

    def images_of(self, item: TrialHistory) -> data.Dataset:
        """The images of a journalled trial, which may have come from another place then.

        Raises:
            KeyError: no arm of this plan has those images.
        """
        return {dataset.digest: dataset for dataset in self.datasets.values()}[
            item.entry["digests"]["data"]
        ]

    def keys_of(self, item: TrialHistory) -> tuple[str, str | None]:
        """Keys of the images and the weights of a journalled trial, by their digests: the journal's
        paths may be old.

        Raises:
            StopIteration: no arm of this plan has them.
        """
        digests, arch = item.entry["digests"], item.trial.config["model"]["arch"]
        images = next(
            key for key, dataset in self.datasets.items() if dataset.digest == digests["data"]
        )
        if digests["weights"] is None:
            return images, None
        found = (
            (key, weights) for key, weights in self.weights.items() if key.endswith(f"|{arch}")
        )
        return images, next(key for key, weights in found if weights.digest == digests["weights"])

    def arm_of(self, history: History, trial_id: str) -> Arm | None:
        """The arm of a journalled trial, or None where the file no longer has it."""
        entry = history.trials[trial_id].entry
        known = {arm.name: arm for arm in self.spec.arms_list}
        if entry["arm"] in known:
            return known[entry["arm"]]
        try:
            return self.spec.arm(entry.get("choices", {})) if self.spec.method == "optuna" else None
        except ProblemsError:
            return None

    def _digest(self, reference: str) -> str:
        if reference not in self._modules:
            self._modules[reference] = plugin.digest(reference)
        return self._modules[reference]


def prepare(spec: SweepSpec, fetch: Fetch | None = None, report: data.Report | None = None) -> Plan:
    """Load what the trials need and check every arm against it.

    Args:
        spec: a loaded sweep file.
        fetch: brings ``runs:/...`` and ``models:/...`` weights to a local file.
        report: called with (images decoded, images in all) while an image folder is decoded.

    Raises:
        UsageError, EnvironmentProblem: all that is wrong, each with its place.
    """
    plugin.add_search_path(spec.folder)
    plan = Plan(spec)
    problems: list[Problem] = []
    arms = spec.arms_list or _samples(spec)
    for images in _distinct(arm.config.data for arm in arms):
        problems += _placed(spec, "data.root", partial(_load_data, plan, images, report))
    for network in _distinct(arm.config.model for arm in arms):
        problems += _placed(spec, "model.weights", partial(_load_weights, plan, network, fetch))
    seen: set[str] = set()
    for arm in arms:
        for name, problem in _arm_problems(plan, arm, seen):
            problems.append(problem.at(_place(spec, problem, name)))
    raise_problems(dict.fromkeys(problems))
    return plan


def data_key(config: DataConfig) -> str:
    """Names the arrays of a data set: sizes and seeds of the split only choose among them.

    Tells no address.
    """
    return _short(f"{config.name}|{config.root or ''}|{config.image_size or ''}")


def weights_key(config: ModelConfig) -> str | None:
    """Names a set of weights; None for a random start.

    Ends in the architecture; tells no address.
    """
    if config.weights == "none":
        return None
    where = (
        f"imagenet|{config.imagenet_file or config.arch}"
        if config.weights == "imagenet"
        else config.weights
    )
    return f"{_short(where)}|{config.arch}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def references(config: TrialConfig) -> list[str]:
    """The ``module:name`` strings of a trial."""
    return [text for text in (config.data.name, config.model.arch) if plugin.is_reference(text)]


def _corners(spec: SweepSpec) -> list[Arm]:
    return [spec.ask(lambda parameter, u=u: parameter.at(u)) for u in (0.0, 1.0)]  # type: ignore[misc]


def _samples(spec: SweepSpec) -> list[Arm]:
    drawn = [
        spec.arm({name: choice.label for name, choice in point.items()})
        for point in spec.space.draws(SAMPLES)
    ]
    return [*spec.baseline_arms, *_corners(spec), *drawn]


def _load_data(plan: Plan, config: DataConfig, report: data.Report | None) -> None:
    if data_key(config) not in plan.datasets:
        plan.datasets[data_key(config)] = data.load(config, report=report)
    dataset = plan.datasets[data_key(config)]
    data.split(dataset.train_labels, dataset.test_labels, config, dataset.classes)


def _load_weights(plan: Plan, config: ModelConfig, fetch: Fetch | None) -> None:
    key = weights_key(config)
    if key is not None and key not in plan.weights:
        weights = fetch_weights(config, fetch)
        if weights is not None:
            plan.weights[key] = weights


def fetch_weights(config: ModelConfig, fetch: Fetch | None) -> models.Weights | None:
    """The weights that a network starts from, wherever they are; None for a random start."""
    if config.weights == "imagenet" and config.imagenet_file:
        config = config.model_copy(update={"weights": config.imagenet_file})
    elif config.weights.startswith(("runs:/", "models:/")) and fetch is not None:
        config = config.model_copy(update={"weights": str(fetch(config.weights))})
    return models.load_weights(config)


def _arm_problems(plan: Plan, arm: Arm, seen: set[str]) -> Iterable[tuple[str, Problem]]:
    """What is wrong with an arm's network and augmentations on its images; each combination is
    looked at once.
    """
    config = arm.config
    dataset = plan.datasets.get(data_key(config.data))
    classes = len(dataset.classes) if dataset else 10
    side = dataset.train_images.shape[-1] if dataset else None
    look = f"{config.model.model_dump_json()}|{classes}|{side}"
    if look not in seen:
        seen.add(look)
        key = weights_key(config.model)
        if (
            key is None or key in plan.weights
        ):  # otherwise the missing weights are already a problem
            weights = plan.weights[key] if key else None
            for problem in models.check(config.model, classes, weights, image_size=side):
                yield "model.arch", problem
    look = f"{config.augment}|{config.augmentations}|{side}"
    if look not in seen and side is not None:
        seen.add(look)
        try:
            augment.build(config.pipeline(), image_size=side, num_classes=classes)
        except ProblemsError as error:
            for problem in error.problems:
                yield "augment", problem


def _distinct(configs: Iterable[Config]) -> list[Config]:
    return list({config.model_dump_json(): config for config in configs}.values())


def _placed(spec: SweepSpec, key: str, work: Callable[[], None]) -> list[Problem]:
    try:
        work()
    except ProblemsError as error:
        return [problem.at(_place(spec, problem, key)) for problem in error.problems]
    return []


def _place(spec: SweepSpec, problem: Problem, key: str) -> str:
    """Where the setting stands that the problem's text names first, or ``key`` if it names none."""
    named = re.search(r"\b(?:data|model|train)\.[a-z_.]*[a-z_]|\baugment\b", problem.rule)
    return spec.where(named.group() if named else key)
