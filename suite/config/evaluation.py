"""When a trial evaluates the test images, and what share of the trial evaluation takes.

The answer follows from the numbers of images alone. Nothing is measured, so that it is the same on
every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EvaluateTest = Literal["auto", "every", "best", "last"]
TestSchedule = Literal["every", "best", "last"]
FORWARD_COST = (
    1 / 3
)  # of a training step, per image: a backward pass costs about two forward passes
MAX_SHARE = 0.2  # of an epoch, up to which `auto` evaluates the test images every epoch


@dataclass(frozen=True)
class EpochImages:
    """Images that one epoch passes over.

    Attributes:
        train: training images that an epoch uses, without those that ``train.last_batch`` leaves
            out.
        val, test: images of one evaluation of each split.
    """

    train: int
    val: int
    test: int


def test_schedule(setting: EvaluateTest, images: EpochImages) -> TestSchedule:
    """``train.evaluate_test`` with ``auto`` resolved, for the trainer and the plan alike."""
    if setting != "auto":
        return setting
    return "every" if evaluation_share("every", images) <= MAX_SHARE else "last"


def evaluation_share(schedule: TestSchedule, images: EpochImages, epochs: int = 1) -> float:
    """Share of a trial's computation that validation and test take, from 0 to 1.

    For ``best`` it is the largest possible share: that of a trial that improves in every epoch.
    """
    test_passes = 1 if schedule == "last" else epochs
    evaluated = FORWARD_COST * (epochs * images.val + test_passes * images.test)
    return evaluated / (epochs * images.train + evaluated)
