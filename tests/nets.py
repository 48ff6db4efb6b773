"""Small networks of a user's own, for tests that train in this process."""

from __future__ import annotations

from torch import Tensor, nn


class Tiny(nn.Module):
    """All that makes resuming hard: BatchNorm, dropout, and a layer in front that can be frozen."""

    def __init__(self, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        logits: Tensor = self.fc(self.drop(hidden.mean((2, 3))))
        return logits


class Plain(nn.Module):
    """Neither BatchNorm nor dropout: a step can be written out by hand."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.fc = nn.Linear(5, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv1(images).relu().mean((2, 3)))
        return logits


def tiny(num_classes: int) -> nn.Module:
    return Tiny(num_classes)


def plain(num_classes: int) -> nn.Module:
    return Plain(num_classes)


def wide(num_classes: int) -> nn.Module:
    """Few layers of many channels on small maps: of 8 x 8 pixels the last two go by strips in
    bf16 with AMX.
    """
    sizes = ((3, 64, 1), (64, 256, 2), (256, 256, 1))
    layers = [
        layer
        for before, after, stride in sizes
        for layer in (
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, num_classes)
    )
