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

__all__ = [
    "AUGMENTATIONS",
    "DataConfig",
    "DropoutConfig",
    "HeadConfig",
    "ModelConfig",
    "TrainConfig",
    "TrialConfig",
]
