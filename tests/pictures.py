"""Image folders made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from suite import data
from suite.config.trial import DataConfig
from suite.core.errors import EnvironmentProblem

ROOT = Path(__file__).parent.parent


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_folder(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), train: int = 3, test: int = 2
) -> Path:
    """Square PNGs of 16 pixels, all different."""
    seed = 0
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            for number in range(count):
                save(noise(seed), root / part / name / f"{number}.png")
                seed += 1
    return root


def load_folder(root: Path, cache: Path, **options: Any) -> data.Dataset:
    report = options.pop("report", None)
    return data.load(DataConfig(name="folder", root=str(root), **options), cache, report)


def problems_of(root: Path, cache: Path) -> list[str]:
    with pytest.raises(EnvironmentProblem) as caught:
        load_folder(root, cache)
    assert caught.value.exit_code == 6
    return [str(problem) for problem in caught.value.problems]
