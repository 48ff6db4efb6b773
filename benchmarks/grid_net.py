"""The network of ``grid.yaml``: three strided convolutions, 1.5 million multiplications for an
image of 32 pixels.

Two cores train it at full length for each arm of the grid in minutes; a ResNet-20 would take most
of an hour.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def build(num_classes: int) -> nn.Module:
    """Float images (B, 3, H, W) to logits (B, num_classes)."""
    widths = (3, 24, 48, 96)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)
    )
