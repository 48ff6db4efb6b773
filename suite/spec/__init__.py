"""YAML -> validated, frozen sweep; the configuration of a trial; its signature."""

from suite.spec.config import (
    AUGMENTATIONS,
    DataConfig,
    DropoutConfig,
    HeadConfig,
    ModelConfig,
    TrainConfig,
    TrialConfig,
)
from suite.spec.loader import SweepSource
from suite.spec.read import load
from suite.spec.stored import read_stored_config, read_stored_params, trained_with_remainder
from suite.spec.sweep import (
    Arm,
    AshaConfig,
    CheckpointsConfig,
    ConfirmConfig,
    MedianConfig,
    MetricConfig,
    ParameterConfig,
    ResourcesConfig,
    SweepSpec,
)

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
    "SweepSource",
    "SweepSpec",
    "TrainConfig",
    "TrialConfig",
    "load",
    "read_stored_config",
    "read_stored_params",
    "trained_with_remainder",
]
