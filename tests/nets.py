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
