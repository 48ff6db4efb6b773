"""YAML -> validated, frozen sweep; the configuration of a trial; its signature."""

from suite.config.read import load
from suite.config.stored import read_stored_config, read_stored_params, trained_with_remainder
from suite.config.sweep import (
    Arm,
    AshaConfig,
    CheckpointsConfig,
    ConfirmConfig,
    MedianConfig,
    MetricConfig,
    ParameterConfig,
    ResourcesConfig,
    SeedPlan,
    SweepSpec,
)
from suite.config.trial import (
    AUGMENTATIONS,
    DataConfig,
    DropoutConfig,
    HeadConfig,
    ModelConfig,
    TrainConfig,
    TrialConfig,
)
from suite.config.yaml_lines import SweepSource

__all__ = [
    "AUGMENTATIONS",
    "Arm",
    "AshaConfig",
    "CheckpointsConfig",
    "ConfirmConfig",
    "DataConfig",
    "DropoutConfig",
    "HeadConfig",
    "MedianConfig",
    "MetricConfig",
    "ModelConfig",
    "ParameterConfig",
    "ResourcesConfig",
    "SeedPlan",
    "SweepSource",
    "SweepSpec",
    "TrainConfig",
    "TrialConfig",
    "load",
    "read_stored_config",
    "read_stored_params",
    "trained_with_remainder",
]
