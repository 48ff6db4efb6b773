"""Networks: scratch ResNets and plain nets, torchvision's classifiers, and your own.

``build`` makes every network, ``load_weights`` reads every file of weights, and ``check`` reports
all problems of a ``ModelConfig`` before anything starts. The stages of ``build``:

    zoo (name -> network) -> head (last layer) -> init (random weights by name) -> weights
        -> freezing -> dropout
"""

from __future__ import annotations

from suite.models.build import build, freezable_layers, parameter_groups
from suite.models.checks import check
from suite.models.freezing import count_parameters, frozen_prefix, layers
from suite.models.fused import agrees, fuse
from suite.models.head import head_name
from suite.models.prefix import Prefix, after_prefix, examine, run_prefix
from suite.models.small_conv import use_small_conv
from suite.models.weights import Weights, load_weights
from suite.models.zoo import names as architectures

__all__ = [
    "Prefix",
    "Weights",
    "after_prefix",
    "agrees",
    "architectures",
    "build",
    "check",
    "count_parameters",
    "examine",
    "freezable_layers",
    "frozen_prefix",
    "fuse",
    "head_name",
    "layers",
    "load_weights",
    "parameter_groups",
    "run_prefix",
    "use_small_conv",
]
