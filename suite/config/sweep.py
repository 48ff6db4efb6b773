"""A validated sweep: the models of a sweep file's top level, and the arms that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from suite.config import setting_fields, signature
from suite.config.space import Choice, Parameter, Point, Space, same, short_names, show
from suite.config.trial import Augmentation, Count, FiniteFloat, Frozen, TrialConfig
from suite.config.yaml_lines import SweepSource
from suite.core.errors import Problem, UsageError
from suite.core.records import Objective, Trial

ARMS = "arm"
"""The name of the parameter that stands for the file's ``arms``."""

Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]
SeedList = Annotated[tuple[Seed, ...], Field(min_length=1)]
MIN_PLANNED_SEEDS = 8
"""Fewest seeds of a first look: 6 seeds have a smallest two-sided sign-flip p of 2/64 = .031, more
than any of several looks may spend; 8 have 2/256 = .0078."""
MAX_LOOKS = 50
MetricName = Literal[
    "val/acc",
    "val/loss",
    "val/balanced_acc",
    "train/acc",
    "train/loss",
    "time/epoch_s",
    "time/img_per_s",
    "memory/peak_gib",
]
COMPILES_S = 300
"""The least seconds without a step that may count as a hang where steps are compiled."""
_READ_AS = ("learning.rate",)  # `rate` alone would be read as the learning rate

COSTS = ("time/epoch_s", "time/img_per_s", "memory/peak_gib")
"""Metrics that only a Pareto search may name: what an accuracy costs."""
_RISING = ("val/acc", "val/balanced_acc", "train/acc", "time/img_per_s")

ReferenceKey = Literal[
    "train/loss",
    "train/acc",
    "val/loss",
    "val/acc",
    "val/balanced_acc",
    "test/loss",
    "test/acc",
    "test/balanced_acc",
    "time_s",
    "note",
]


def _published_seeds(value: Any) -> Any:
    """A list is checked as a whole: as one type of several it would get a message for each."""
    numbers = isinstance(value, (list, tuple)) and all(type(seed) in (int, float) for seed in value)
    if isinstance(value, (list, tuple)) and not (value and numbers):
        rule = "must be a number, a list of one number or more, or text"
        raise ValueError(f"{rule}, got {setting_fields.quoted(value)}")
    return value


PublishedFigure = Annotated[
    FiniteFloat | Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] | str,
    BeforeValidator(_published_seeds),
]


class MetricConfig(Frozen):
    """What decides which arm, and which epoch of a trial, is best."""

    name: MetricName = "val/acc"
    """A validation or training figure, one per epoch. Accuracies are fractions. `test/*` is
    refused: test figures are recorded and select nothing. `time/epoch_s`, `time/img_per_s` and
    `memory/peak_gib` only in a list of metrics.
    """
    goal: Literal["maximize", "minimize"] = "maximize"
    """Direction.

    Default: by the metric, `minimize` for losses, seconds and memory. The opposite is refused.
    """
    strategy: Literal["best", "last"] = "best"
    """The epoch that speaks for a trial: its best one, at which figures of other splits are read
    too, or its last.
    """
    margin: Annotated[FiniteFloat, Field(ge=0)] = 0.005
    """Differences below it do not matter, in the unit of the metric: 0.005 = 0.5 percentage points
    of accuracy. An interval inside it is called "equivalent".
    """

    @model_validator(mode="before")
    @classmethod
    def _goal_by_name(cls, data: Any) -> Any:
        if (
            isinstance(data, dict)
            and "goal" not in data
            and isinstance(data.get("name", "val/acc"), str)
        ):
            return {
                **data,
                "goal": "maximize" if data.get("name", "val/acc") in _RISING else "minimize",
            }
        return data

    @model_validator(mode="after")
    def _makes_sense(self) -> MetricConfig:
        right = "maximize" if self.name in _RISING else "minimize"
        if self.goal != right:
            raise ValueError(f"{self.name} can only be {right}d, got goal: {self.goal}")
        if self.name.endswith("acc") and self.margin > 0.2:
            raise ValueError(
                f"margin is a fraction: write 0.005 for 0.5 percentage points, got {self.margin:g}"
            )
        return self

    @property
    def objective(self) -> Objective:
        """The same for the code that runs trials."""
        return Objective(self.name, self.goal, self.strategy)


class ResourcesConfig(Frozen):
    """What one trial gets."""

    cpu: Count | Literal["auto"] = 1
    """CPU cores, and threads, of each trial, or `auto` = as many as bring this sweep to its end
    soonest, measured for its networks at the first launch: one where trials wait for cores, more
    where cores would wait.
    """
    gpu: Annotated[FiniteFloat, Field(ge=0)] | Literal["auto"] = 0.0
    """GPUs of each trial: 0, a fraction (0.25 = four trials share one GPU), a whole number, or
    `auto` = the smallest fraction that a measured memory probe allows. On a machine without a GPU
    the sweep runs on the CPU and says so.
    """
    pack: Count | Literal["auto"] = "auto"
    """Trials that one Ray Tune trial runs together: a number (of the same shapes; above 1 only
    without `early_terminate`), or `auto` = up to eight that see the same augmented images through
    the same frozen layers (`model.freeze_batchnorm: true`), so that one computes their features for
    all; every other trial alone.
    """
    memory_format: Literal["channels_last", "contiguous", "auto"] = "channels_last"
    """How images and kernels lie in memory: channels behind the pixels, before them, or `auto` =
    before them where that is measured to be faster by a seventh.
    """
    compile: Annotated[bool, Field(strict=True)] | Literal["auto"] = False
    """Whether training steps go through `torch.compile`, on a GPU with CUDA graphs: `true`,
    `false`, or `auto` = where that ends a trial sooner by a seventh, the time to compile included;
    it is measured where a trial trains for five minutes or more. Batches of another size,
    evaluation, and trials of a pack that are trained as one network are not compiled. It takes
    about a minute, in a trial's first epoch, and on a CPU needs g++ and Python's headers.
    """
    hang_after_s: Annotated[FiniteFloat, Field(ge=0)] = 1800.0
    """Seconds without a training step after which a trial counts as hung: its stacks are kept as
    `hung-*.txt` in its folder, its worker is ended, and it is tried once more. 0 = never.
    """

    @property
    def least_cpu(self) -> int:
        """CPU cores that a trial needs in any case."""
        return 1 if self.cpu == "auto" else self.cpu

    @model_validator(mode="after")
    def _fits_together(self) -> ResourcesConfig:
        if self.gpu != "auto" and self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"gpu above 1 must be a whole number, got {self.gpu:g}")
        if self.compile and 0 < self.hang_after_s < COMPILES_S:
            raise ValueError(
                f"hang_after_s must be 0 (never) or at least {COMPILES_S} with compile, as a "
                "first step takes long, "
                f"got {self.hang_after_s:g}"
            )
        return self


class AshaConfig(Frozen):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): the worst trials stop
    early.
    """

    type: Literal["asha"] = "asha"
    grace_epochs: Count = 1
    """Epochs that every trial gets before it may be stopped."""
    reduction_factor: Annotated[int, Field(ge=2, strict=True)] = 3
    """Of the trials that reach a rung, one in so many goes on; rungs lie at `grace_epochs` times
    its powers.
    """
    max_epochs: Count | None = None
    """Epochs of the last rung. Default: the trials' `train.epochs`."""


class MedianConfig(Frozen):
    """Stop a trial whose best metric is below the median of the others at the same epoch
    (Golovin et al. 2017).
    """

    type: Literal["median"] = "median"
    grace_epochs: Count = 1
    """Epochs that every trial gets before it may be stopped."""
    min_trials: Count = 3
    """Trials that must have reached an epoch before their median counts."""


EARLY_TERMINATE: dict[str, type[AshaConfig] | type[MedianConfig]] = {
    "asha": AshaConfig,
    "median": MedianConfig,
}


class ConfirmConfig(Frozen):
    """What follows a search on the first seed: the best arms at full length on all other seeds,
    which the search has not seen. Only these arms and seeds count for verdicts and for the
    champion.
    """

    top: Count = 3
    """How many of the best arms, besides the baseline."""


class SeedPlan(Frozen):
    """Seeds in rounds, each followed by a look at the verdicts: seeds 0 to `at_least` - 1 of every
    arm first, then `step` more, up to `at_most`. An arm whose verdict is decided gets no more
    seeds. The error over all looks stays 5 %. Needs a `baseline` and `method: grid`.
    """

    at_least: Annotated[
        int, Field(ge=1, strict=True, json_schema_extra={"minimum": MIN_PLANNED_SEEDS})
    ]
    """Seeds of every arm at the first look, 8 or more."""
    at_most: Annotated[int, Field(ge=1, le=10_000, strict=True)]
    """Seeds of an arm that is still undecided at the last look."""
    until: Literal["decided"]
    """When an arm gets no more seeds: as soon as its verdict is decided. Must be given."""
    step: Count | None = None
    """Seeds between two looks. Default: half of `at_most - at_least`, rounded up: three looks."""

    @model_validator(mode="after")
    def _can_decide(self) -> SeedPlan:
        if self.at_least < MIN_PLANNED_SEEDS:
            raise ValueError(
                f"at_least must be at least {MIN_PLANNED_SEEDS}: with several looks fewer seeds "
                "can never decide, "
                f"got {self.at_least}"
            )
        if self.at_most < self.at_least:
            raise ValueError(
                f"at_most must be at least at_least ({self.at_least}), got {self.at_most}"
            )
        if len(self.counts) > MAX_LOOKS:
            raise ValueError(
                f"at most {MAX_LOOKS} looks, got {len(self.counts)}: give a larger step"
            )
        return self

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of seeds at each look."""
        step = self.step or max(1, -(-(self.at_most - self.at_least) // 2))
        return (*range(self.at_least, self.at_most, step), self.at_most)


class CheckpointsConfig(Frozen):
    """What stays on disk and in MLflow. Live trials always keep their best and last checkpoint."""

    keep: Annotated[int, Field(ge=0, strict=True)] | Literal["all"] = 1
    """How many finished trials keep their best checkpoint, the best trials first; `all` = every
    one, 0 = none: then the champion is not registered as a model either.
    """


class ParameterConfig(Frozen):
    """How one setting, or several together, vary.

    Exactly one of `value`, `values`, `min` with `max`, and `zip`.
    """

    value: Any = None
    """One value: the same as under `trial`, but it may have a `when`."""
    values: list[Any] | dict[str, dict[str, Any]] | None = None
    """A list of values of the setting that the parameter is named after; or a mapping of label to
    dotted settings (the parameter's name is then free): `{linear: {}, wide: {model.head.hidden:
    [128]}}`.
    """
    min: FiniteFloat | None = None
    """Smallest value, inclusive. Only with `method: random` or `optuna`."""
    max: FiniteFloat | None = None
    """Largest value, inclusive."""
    distribution: Literal["uniform", "log_uniform", "int_uniform"] | None = None
    """How values between `min` and `max` are drawn. Default: `int_uniform` for settings that take
    whole numbers only, else `uniform`. Drawn numbers have six significant digits, so that an arm's
    name shows the exact value.
    """
    zip: dict[str, list[Any]] | None = None
    """Lists of equal length, one per dotted setting, varied together (the parameter's name is then
    free): `{train.batch_size: [128, 512], train.lr: [0.05, 0.2]}`.
    """
    when: dict[str, Any] | None = None
    """Vary this parameter only where another parameter or setting has one of the listed values:
    `{model.weights: [imagenet]}`. Elsewhere it is absent, and arms that become equal are one arm.
    """


class SweepSpec(Frozen):
    """One sweep file: a question about training an image classifier."""

    model_config = ConfigDict(populate_by_name=False)

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[
        str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    ]
    """Names the sweep's folder, its MLflow experiment and its parent run. Runs are looked up within
    a name: keep it, and what has finished is not run again. Letters, digits, `_`, `-` and `.`.
    """
    description: str = ""
    """The question that the sweep answers, in a sentence or two."""
    method: Literal["grid", "random", "optuna"] = "grid"
    """`grid` = every combination; `random` = `run_cap` combinations, drawn once and for all;
    `optuna` = `run_cap` combinations that Optuna's TPE sampler asks for (several metrics: a Pareto
    search).
    """
    metric: MetricConfig | tuple[MetricConfig, ...] = MetricConfig()
    """What decides.

    A list of metrics means a Pareto search: `method: optuna`, no `early_terminate`, no champion.
    """
    settings: dict[str, Any] = Field(default={}, alias="trial")
    """Settings of every trial, over the defaults; nested or dotted.

    `parameters` and `arms` go before it.
    """
    parameters: dict[str, ParameterConfig] = {}
    """What varies: dotted setting (or a free name, with labelled `values` or `zip`) -> how.
    Parameters multiply with each other and with `arms`.
    """
    arms: dict[str, dict[str, Any]] = {}
    """Named configurations to compare: name -> settings, nested or dotted, over those of
    `trial`.
    """
    seed_settings: SeedList | SeedPlan = Field(default=(0,), alias="seeds")
    """Repeats: every arm runs every seed, so comparisons are paired. Below six, differences rarely
    count as real. Or a plan, `{at_least: 8, at_most: 16, until: decided}`: seeds in rounds until
    each arm's verdict is decided.
    """
    baseline: str | dict[str, Any] | None = None
    """The arm that the others are compared with: its name, or a mapping of settings. A mapping that
    fits several arms means: compare within equal remaining settings. Default: none.
    """
    resources: ResourcesConfig = ResourcesConfig()
    """What one trial gets."""
    early_terminate: Annotated[AshaConfig | MedianConfig, Field(discriminator="type")] | None = None
    """Stop bad trials early: `{type: asha | median, ...}`. Default: never."""
    confirm: ConfirmConfig = ConfirmConfig()
    """After `method: random` or `optuna`: run the best arms at full length on the seeds that the
    search did not see.
    """
    run_cap: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 1000
    """Most arms of the sweep. A larger grid is refused. For `random` and `optuna`: the number of
    arms; must be given.
    """
    augmentations: dict[str, Augmentation] = {}
    """Named variants of augmentations, usable in `augment` like the built-in names: `{cutout8:
    {type: cutout, size: 8}}`. Under a built-in name: new settings for it. Names have letters,
    digits, `_` and `-`.
    """
    reference: dict[str, dict[ReferenceKey, PublishedFigure]] = {}
    """Published figures per arm, shown beside the measured ones: metric names (accuracies as
    fractions), `time_s` = training time in seconds, `note` = text. A figure may be a list with one
    number per published seed: then the difference to it is tested (Welch's t).
    """
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    """How many checkpoints are kept."""
    activations: Annotated[bool, Field(strict=True)] = True
    """Draw what the layers of each finished trial make of one test image (of a car, where there are
    any), the same for every trial, into its MLflow run, and count channels that never fire on the
    test set: `dead/<layer>`, a share. Takes one more pass over the test images. `python -m
    suite.activations` draws them larger, later, for any image.
    """

    _source: SweepSource = PrivateAttr(default=SweepSource(Path("sweep.yaml"), ""))
    _space: Space = PrivateAttr(default=Space(()))
    _builder: ArmBuilder = PrivateAttr()
    _arms: tuple[Arm, ...] = PrivateAttr(default=())
    _baseline: tuple[Arm, ...] = PrivateAttr(default=())

    # ---- where it came from

    @property
    def source(self) -> SweepSource:
        """The file, its text and the overrides."""
        return self._source

    @property
    def folder(self) -> Path:
        """The folder of the file, absolute: modules and relative paths are looked up there."""
        return self._source.path.parent.absolute()

    def where(self, key: str) -> str:
        """``file:line: key`` for a dotted key, with or without its section: ``train.lr``,
        ``parameters.train.lr``.

        The best known place: a setting is looked for on the command line, under ``parameters``,
        ``trial``, ``arms``.
        """
        return where(self._source, key)

    # ---- what decides

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All metrics; one, except in a Pareto search."""
        return tuple(metric.objective for metric in self.metrics)

    @property
    def objective(self) -> Objective:
        """The metric; the first one in a Pareto search."""
        return self.objectives[0]

    @property
    def metrics(self) -> tuple[MetricConfig, ...]:
        """The ``metric`` section as a tuple."""
        return self.metric if isinstance(self.metric, tuple) else (self.metric,)

    @property
    def pareto(self) -> bool:
        """Whether several metrics are searched at once."""
        return len(self.metrics) > 1

    @property
    def search(self) -> bool:
        """Whether arms are drawn or searched (first seed, then ``confirm``) instead of all being
        run.
        """
        return self.method != "grid"

    # ---- seeds

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds; with planned looks those of the last look."""
        plan = self.seed_settings
        return tuple(range(plan.at_most)) if isinstance(plan, SeedPlan) else plan

    @property
    def looks(self) -> tuple[tuple[int, ...], ...]:
        """The seeds of each planned look, each a superset of the one before; empty for a list."""
        plan = self.seed_settings
        return (
            tuple(tuple(range(count)) for count in plan.counts)
            if isinstance(plan, SeedPlan)
            else ()
        )

    @property
    def search_seed(self) -> int | None:
        """The seed that a search chooses its arms by and that therefore counts in no verdict.

        None for a grid, and for a search with one seed, which has no other to confirm on.
        """
        return self.seeds[0] if self.search and len(self.seeds) > 1 else None

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """The seeds of the verdicts: all, less the one that a search has seen."""
        return tuple(seed for seed in self.seeds if seed != self.search_seed)

    # ---- what runs

    @property
    def space(self) -> Space:
        """What varies, ``arms`` included (as the parameter ``arm``), overrides applied."""
        return self._space

    @property
    def arms_list(self) -> tuple[Arm, ...]:
        """The arms known before anything runs: all of a grid, the drawn ones of ``random``, none
        for ``optuna``.
        """
        return self._arms

    @property
    def first_trials(self) -> int:
        """How many trials it begins with: all of a grid, or those of its first look; one of each
        arm of a search.
        """
        first = self.looks[0] if self.looks else self.seeds
        return self.run_cap if self.search else len(self._arms) * len(first)

    def expand(self) -> tuple[Arm, ...]:
        """The same as ``arms_list``."""
        return self._arms

    def arm(self, values: Mapping[str, Any]) -> Arm:
        """The arm of one point: parameter name -> label or number (``Arm.choices`` of an earlier
        arm).

        Parameters that are absent there may be given and are ignored.

        Raises:
            UsageError: if an active parameter is missing or a value is not in the space.
        """
        return self.ask(lambda parameter: _given(values, parameter))

    def ask(self, suggest: Callable[[Parameter], Any]) -> Arm:
        """The arm of the point that ``suggest`` gives, asked for each active parameter in turn,
        conditions first.
        """
        try:
            return self._builder.arm(self._space.walk(suggest))
        except ValueError as error:
            raise UsageError(str(error), place=str(self._source.path)) from None

    @property
    def baseline_arms(self) -> tuple[Arm, ...]:
        """The arms that others are compared with.

        In a search: the one that is confirmed besides the best.
        """
        return self._baseline

    def is_baseline(self, arm: Arm) -> bool:
        """Whether others are compared with this arm."""
        return any(arm.name == each.name for each in self._baseline)

    def baseline_for(self, arm: Arm) -> Arm | None:
        """The arm to compare ``arm`` with: the only baseline, or the one whose remaining
        settings are equal.
        """
        if len(self._baseline) == 1:
            return self._baseline[0]
        ours = self._remaining(arm)
        fitting = [each for each in self._baseline if self._remaining(each).items() <= ours.items()]
        return fitting[0] if len(fitting) == 1 else None

    def _remaining(self, arm: Arm) -> dict[str, str]:
        asked = {ARMS} if isinstance(self.baseline, str) else set(self.baseline or {})
        names = [
            each.name
            for each in self._space.parameters
            if each.name not in asked and not each.keys & asked
        ]
        return {name: repr(arm.choices[name]) for name in names if name in arm.choices}

    def trial(
        self,
        arm: Arm,
        seed: int,
        *,
        data_digest: str,
        weights_digest: str | None = None,
        module_digests: Sequence[str] = (),
    ) -> Trial:
        """One arm with one seed, its id computed from what determines its result.

        Args:
            data_digest: of the images.
            weights_digest: of the pretrained weights; needed, and used, only where
                ``model.weights`` is not ``none``.
            module_digests: of the user's own modules that the arm uses
                (``suite.config.plugin.digest``).
        """
        identity = signature.signature(
            arm.config,
            seed,
            data_digest=data_digest,
            weights_digest=weights_digest,
            module_digests=module_digests,
            objective=self.objective,
        )
        return Trial(
            id=identity[:16],
            arm=arm.name,
            seed=seed,
            name=f"{arm.name} seed={seed}",
            settings=arm.settings,
            config=arm.config.model_dump(mode="json"),
        )


@dataclass(frozen=True)
class Arm:
    """One named configuration being compared.

    Attributes:
        name: unique in the sweep, e.g. ``freeze_depth=7 lr=0.01`` or ``config1``.
        settings: what varies -> its value here, for tables: dotted settings, and names of labelled
            parameters.
        config: all that its trials are made of.
        choices: parameter name -> label or number: what a searcher is told, what ``SweepSpec.arm``
            takes back.
    """

    name: str
    settings: Mapping[str, Any]
    config: TrialConfig
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ArmBuilder:
    """Makes arms of points; checks each distinct section once.

    Attributes:
        sweep: the sweep's name, which is also the name of its only arm where nothing varies.
        base: every setting of a trial where nothing varies, dotted.
        space: what varies.
        variants: the named augmentations.
        written: path as resolved -> as the user wrote it, for names and tables.
    """

    sweep: str
    base: Mapping[str, Any]
    space: Space
    variants: Mapping[str, Any]
    written: Mapping[str, str] = field(default_factory=dict)
    _sections: dict[tuple[str, str], Any] = field(default_factory=dict)
    _distinct: dict[str, Any] = field(default_factory=dict)

    def arm(self, point: Point) -> Arm:
        """The arm of a point.

        Raises:
            SectionError: if its settings contradict each other.
        """
        over = {key: value for choice in point.values() for key, value in choice.settings.items()}
        config = self.config(over)
        choices = {name: choice.label for name, choice in point.items()}
        return Arm(self._name(point), self._table(point, config), config, choices)

    def config(self, over: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these settings over the base."""
        names = {root: self._section(root, over) for root in ("data", "model", "train")}
        augment = over.get("augment", self.base["augment"])
        used = {name: self.variants[name] for name in augment.split("+") if name in self.variants}
        return TrialConfig.model_construct(**names, augment=augment, augmentations=used)

    def _section(self, root: str, over: Mapping[str, Any]) -> Any:
        ours = (
            sorted((key, value) for key, value in over.items() if key.startswith(root + "."))
            if over
            else []
        )
        cache = (root, repr(ours))
        if cache not in self._sections:
            self._sections[cache] = self._validated(root, dict(ours))
        if isinstance(self._sections[cache], SectionError):
            raise self._sections[cache]
        return self._sections[cache]

    def _validated(self, root: str, over: Mapping[str, Any]) -> Any:
        base = {key: value for key, value in self.base.items() if key.startswith(root + ".")}
        try:
            section = setting_fields.SECTIONS[root].model_validate(
                setting_fields.nested(setting_fields.merged(base, over))[root]
            )
            return self._distinct.setdefault(
                repr(section), section
            )  # equal sections are one object
        except ValidationError as error:
            return SectionError(
                root, [_rule(root, each) for each in error.errors(include_url=False)]
            )

    def _name(self, point: Point) -> str:
        parts = [
            part
            for name, choice in point.items()
            for part in self._parts(self._kinds[name], choice)
        ]
        return " ".join(parts) or self.sweep

    @cached_property
    def _kinds(self) -> dict[str, Parameter]:
        return {each.name: each for each in self.space.parameters}

    @cached_property
    def _names(self) -> dict[str, str]:
        names = [
            name
            for each in self.space.parameters
            for name in (each.keys if _zipped(each) else [each.name])
        ]
        return short_names(names, [*setting_fields.LEAVES, *setting_fields.SECTIONS, *_READ_AS])

    def _parts(self, parameter: Parameter, choice: Choice) -> list[str]:
        if parameter.name == ARMS:
            return [str(choice.label)]
        if _zipped(parameter):
            return [
                f"{self._names[key]}={self._show(value)}" for key, value in choice.settings.items()
            ]
        return [f"{self._names[parameter.name]}={show(choice.label)}"]

    def _table(self, point: Point, config: TrialConfig) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for parameter in self.space.parameters:
            if parameter.name not in point:
                continue
            choice = point[parameter.name]
            if parameter.name == ARMS:
                table.update(
                    {key: self._written(value_of(config, key)) for key in self._varied_by_arms}
                )
            elif _zipped(parameter):
                table.update({key: self._written(value) for key, value in choice.settings.items()})
            else:
                table[parameter.name] = choice.label
        return table

    @cached_property
    def _varied_by_arms(self) -> list[str]:
        """The settings in which the file's arms differ, in the order of the file."""
        choices = getattr(self._kinds.get(ARMS), "choices", ())
        found: dict[str, set[str]] = {key: set() for choice in choices for key in choice.settings}
        for choice in choices:
            for key, values in found.items():
                values.add(repr(choice.settings.get(key, self.base.get(key))))
        return [
            key
            for key, values in found.items()
            if len(values) > 1 and key not in setting_fields.OPTIONAL_SECTIONS
        ]

    def _written(self, value: Any) -> Any:
        value = self.written.get(value, value) if isinstance(value, str) else value
        return list(value) if isinstance(value, tuple) else value

    def _show(self, value: Any) -> str:
        return show(self._written(value))


class SectionError(ValueError):
    """Settings of one section contradict each other.

    Attributes:
        root: the section, e.g. ``model``.
        rules: (dotted key, rule) of each contradiction.
    """

    def __init__(self, root: str, rules: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(rule for _, rule in rules))
        self.root, self.rules = root, rules


def _rule(root: str, error: Any) -> tuple[str, str]:
    key = ".".join([root, *(str(part) for part in error["loc"])])
    return key, str(error["msg"]).removeprefix("Value error, ")


def _zipped(parameter: Parameter) -> bool:
    return getattr(parameter, "kind", "") == "zip"


def _given(values: Mapping[str, Any], parameter: Parameter) -> Any:
    if parameter.name not in values:
        raise ValueError(f"no value given for {parameter.name}")
    return values[parameter.name]


def value_of(config: TrialConfig, key: str) -> Any:
    """The value of a dotted setting; None below an absent section."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def matches(arm: Arm, wanted: Mapping[str, Any]) -> bool:
    """Whether an arm has all ``wanted`` values: of parameters by their label, of settings by
    what it resolves to.
    """
    return all(
        (key in arm.choices and same(arm.choices[key], value))
        or (key in setting_fields.LEAVES and same(value_of(arm.config, key), value))
        for key, value in wanted.items()
    )


def where(source: SweepSource, key: str) -> str:
    """See ``SweepSpec.where``."""
    if key not in setting_fields.LEAVES and key not in setting_fields.SECTIONS:
        return source.place((key,))
    for path in _candidates(source, key):
        return source.place(path)
    return f"{source.path}: {key}"


def _candidates(source: SweepSource, key: str) -> Iterable[tuple[str | int, ...]]:
    """Paths at which a setting is given, the strongest first."""
    yield from (path for path in (("trial", key), ("parameters", key)) if source.typed(path))
    if source.has(("parameters", key)):
        yield ("parameters", key)
    if source.has(("trial", key)):
        yield ("trial", key)
    for section in ("parameters", "arms"):
        for name in source.names(section):
            for inner in (
                (),
                ("zip",),
                *(("values", label) for label in source.names(section, name, "values")),
            ):
                if source.has((section, name, *inner, key)):
                    yield (section, name, *inner, key)


def problems_of(
    source: SweepSource, found: Iterable[tuple[Sequence[str | int], Problem]]
) -> list[Problem]:
    """Problems with their places filled in, in the order of the file, those of the command line
    last.
    """
    placed = [
        (source.order(path), _short(problem.at(source.place(path)))) for path, problem in found
    ]
    return list(dict.fromkeys(problem for _, problem in sorted(placed, key=lambda each: each[0])))


def _short(problem: Problem) -> Problem:
    """The problem without the key at the start of its rule, where the place ends in it."""
    word, _, rest = problem.rule.partition(" ")
    return (
        replace(problem, rule=rest)
        if rest.startswith("must ") and problem.place.endswith(word)
        else problem
    )
