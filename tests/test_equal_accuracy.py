"""The fast path learns what the usual loop learns: an equivalence test on real images
(scikit-learn's digits).

Ours: batched augmentation, channels behind pixels, small maps as matrix products. The usual loop:
    NCHW, a
DataLoader over single images with torchvision v2's transforms. Both train the same network with the
same settings.

Margin and number of seeds were fixed beforehand. Each case names the deviation that pilots on eight
other seeds had (``python -m tests.test_equal_accuracy``); two one-sided t-tests (Schuirmann 1987)
at 5 % with 80 % power at no difference need 2 (SD / MARGIN)^2 (1.645 + 1.282)^2 seeds of each.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.utils.data import DataLoader

from suite import data, models
from suite.config import TrialConfig, plugin
from suite.core.records import Numerics, Objective, Trial
from suite.models import strip_conv
from suite.planning import measure
from suite.system import torchvision_import
from suite.training.setup import prepare_trainer
from suite.training.trainer import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS, BATCH, PADDING = 6, 64, 1
MARGIN, PILOT, SEEDS = 2.0, range(100, 108), range(200, 206)


@dataclass(frozen=True)
class Case:
    """What is trained, and the deviation of its test accuracy over seeds in the pilots, in
    points.
    """

    arch: str
    side: int
    lr: float
    precision: str
    sd: float


NARROW, NARROW_BF16 = (
    Case("resnet20", 8, 0.05, "fp32", 1.08),
    Case("resnet20", 8, 0.05, "bf16", 1.08),
)
WIDE_BF16 = Case("nets:wide", 8, 0.05, "bf16", 1.02)  # of 256 channels
CASES = [NARROW, *(pytest.param(case, marks=pytest.mark.full) for case in (NARROW_BF16, WIDE_BF16))]


def settings(case: Case) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "data": {"name": "digits", "image_size": case.side, "val_size": 0, "train_size": 1000},
            "model": {"arch": case.arch},
            "augment": "crop",
            "augmentations": {"crop": {"type": "crop", "padding": PADDING}},
            "train": {
                "epochs": EPOCHS,
                "batch_size": BATCH,
                "lr": case.lr,
                "schedule": "cosine",
                "precision": "fp32",
                # as in the pilots
                "nesterov": True,
                "decay": "weights",
                "last_batch": "keep",
                "evaluate_test": "every",
            },
        }
    )


def ours(case: Case, seed: int, folder: Path) -> float:
    """Test accuracy after the last epoch, in percent."""
    config = settings(case)
    digits = data.load(config.data)
    trial = Trial(f"{seed:016d}", "arm", seed, "arm", config=config.model_dump(mode="json"))
    numerics = Numerics(case.precision, channels_last=True, sliced=True, tiled=True, threads=1)
    training = prepare_trainer(
        trial,
        digits,
        objective=Objective("test/acc", strategy="last"),
        numerics=numerics,
        folder=folder,
    )
    return 100 * list(fit(training))[-1].metrics["test/acc"]


def usual(case: Case, seed: int) -> float:
    """The same of the loop that tutorials have, in fp32."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = settings(case)
    digits = data.load(config.data)
    split = data.split(digits.train_labels, digits.test_labels, config.data, digits.classes)
    images = torch.from_numpy(np.array(digits.train_images))[torch.from_numpy(split.train)]
    labels = torch.from_numpy(np.array(digits.train_labels))[torch.from_numpy(split.train)]
    mean = (images.float() / 255).mean((0, 2, 3))
    std = (images.float() / 255).std((0, 2, 3)).clamp_min(1e-3)
    assert torchvision_import.torchvision  # imported in the one way that works everywhere
    from torchvision.transforms import v2

    augmented = v2.Compose(
        [
            v2.RandomCrop(case.side, padding=PADDING),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, place: int) -> Any:
            return augmented(images[place]), labels[place]

    model = models.build(config.model, len(digits.classes), seed=seed).train()
    optimizer = torch.optim.SGD(
        model.parameters(), case.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    loader = DataLoader(Images(), BATCH, shuffle=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for batch, truth in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), truth).backward()
            optimizer.step()
            rate.step()
    tests = (
        torch.from_numpy(np.array(digits.test_images)).float() / 255 - mean[:, None, None]
    ) / std[:, None, None]
    with torch.inference_mode():
        found = model.eval()(tests).argmax(1)
    return 100 * float((found == torch.from_numpy(np.array(digits.test_labels))).float().mean())


def p_of_equivalence(a: list[float], b: list[float], margin: float) -> float:
    """The larger p of the two one-sided Welch tests of a difference of at least ``margin``."""
    upper = stats.ttest_ind(np.array(a) - margin, b, equal_var=False, alternative="less").pvalue
    lower = stats.ttest_ind(np.array(a) + margin, b, equal_var=False, alternative="greater").pvalue
    return float(max(upper, lower))


@pytest.mark.parametrize("case", [NARROW, NARROW_BF16, WIDE_BF16], ids=str)
def test_the_number_of_seeds_has_the_power(case: Case) -> None:
    needed = 2 * (case.sd / MARGIN) ** 2 * (stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) ** 2
    assert needed <= len(SEEDS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.arch} {case.precision}")
def test_the_fast_path_learns_what_the_usual_loop_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    if case.precision == "bf16" and not measure.has_bf16():
        pytest.skip("this processor has no bf16: emulated, it is not what a user gets")
    taken: list[int] = []
    real = strip_conv.StripConv.apply
    monkeypatch.setattr(
        strip_conv.StripConv, "apply", lambda *given: taken.append(1) or real(*given)
    )
    theirs = [usual(case, seed) for seed in SEEDS]
    found = [ours(case, seed, tmp_path / f"{seed}") for seed in SEEDS]
    assert bool(taken) == (case.precision == "bf16" and strip_conv.has_amx())
    difference = np.mean(found) - np.mean(theirs)
    assert p_of_equivalence(found, theirs, MARGIN) < 0.05, (
        f"ours {np.mean(found):.2f} (SD {np.std(found, ddof=1):.2f}), theirs {np.mean(theirs):.2f} "
        f"(SD {np.std(theirs, ddof=1):.2f}), difference {difference:+.2f} points"
    )
    # the controls: what is the margin away is not called equivalent, nor what learns less well
    assert p_of_equivalence([each - MARGIN for each in theirs], theirs, MARGIN) == pytest.approx(
        0.5
    )
    slow = replace(case, lr=case.lr / 20)
    worse = [ours(slow, seed, tmp_path / f"worse{seed}") for seed in SEEDS[:3]]
    assert p_of_equivalence(worse, theirs, MARGIN) > 0.05


def pilot() -> None:
    """Print the deviation of each case on the pilot's seeds."""
    plugin.add_search_path(Path(__file__).parent)
    for case in (NARROW, NARROW_BF16, WIDE_BF16):
        with tempfile.TemporaryDirectory() as name:
            ways = {
                "ours": [ours(case, seed, Path(name) / f"{seed}") for seed in PILOT],
                "usual": [usual(case, seed) for seed in PILOT],
            }
        for way, found in ways.items():
            print(
                f"{case}, {way}: mean {np.mean(found):.2f}, SD {np.std(found, ddof=1):.2f}: {found}"
            )


if __name__ == "__main__":
    pilot()
