"""What a report cannot make without the data: augmentations on a few images, test images that tell arms apart.

Files for the sweep's parent run, made at the end of a launch, from the images and the trials' stored predictions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from suite import augment
from suite.analysis import predictions
from suite.analysis.predictions import Predictions
from suite.config import TrialConfig, read_stored_config
from suite.config.trial import Frozen
from suite.core.records import Status, stream
from suite.data import Dataset
from suite.data.batches import statistics
from suite.storage.journal import TrialHistory

AUGMENTATIONS, IMAGES = "augmentations.png", "test_images.npz"
SHOWN, TIMES = 4, 3  # images in the grid, and how often each augmentation is drawn on each
TELLING = 24  # test images kept for each arm and each way in which it differs from a baseline
MOST = 2_000  # test images kept in all
THUMBNAIL = 96  # pixels of a side; larger test images are kept in this size

Pixels = npt.NDArray[np.uint8]
Steps = Sequence[Frozen]

_TILE, _GAP, _BETWEEN, _LABEL = 96, 4, 18, 250  # pixels
_PAPER, _INK = "#ffffff", "#1c1e21"


def illustrations(
    items: Sequence[TrialHistory], images_of: Callable[[TrialHistory], Dataset], folder: Path
) -> dict[str, bytes]:
    """``pictures`` of a sweep that has ended, on the images of its baseline's trials.

    Args:
        items: the trials of its plan.
        images_of: the images of a trial.
        folder: of the sweep.
    """
    if not items:
        return {}
    configs = [read_stored_config(item.trial.config) for item in items]
    based = [item for item in items if item.entry.get("baseline")]
    dataset = images_of((based or items)[0])
    files: dict[str, list[Path]] = {}
    for item in sorted(items, key=lambda item: item.trial.seed):
        if item.status is Status.FINISHED and images_of(item) is dataset:
            files.setdefault(item.trial.arm, []).append(folder / "trials" / item.trial.id / "predictions.npz")
    return pictures(dataset, configs, files, list(dict.fromkeys(item.trial.arm for item in based)))


def pictures(
    dataset: Dataset, configs: Iterable[TrialConfig], files: Mapping[str, Sequence[Path]], baselines: Sequence[str]
) -> dict[str, bytes]:
    """The files that a sweep's parent run should hold; a file that there is nothing for is left out.

    Args:
        dataset: the images of the baseline's trials.
        configs: of all trials.
        files: arm -> ``predictions.npz`` of its finished trials on ``dataset``, in the order of their seeds.
        baselines: arms that others are compared with; where there is none, all are compared with the first.
    """
    found = {}
    if steps := augmentations(configs):
        found[AUGMENTATIONS] = augmentation_grid(dataset, steps)
    if len(index := worth_keeping(files, baselines)):
        found[IMAGES] = kept_images(dataset, index)
    return found


# ---- augmentations ---------------------------------------------------------------------------------------------------


def augmentations(configs: Iterable[TrialConfig]) -> dict[str, Steps]:
    """What arms do to training images: a name -> settings, each once; without ``none``.

    Where one name stands for several settings, these follow it.
    """
    found: dict[str, dict[str, Steps]] = {}
    for config in configs:
        if settings := config.pipeline():
            found.setdefault(config.augment, {}).setdefault(_settings(settings), settings)
    named: dict[str, Steps] = {}
    for name, variants in found.items():
        for text, steps in variants.items():
            named[name if len(variants) == 1 else f"{name} ({text})"] = steps
    return named


def _settings(steps: Steps) -> str:
    each = (step.model_dump(exclude={"type"}, exclude_none=True).items() for step in steps)
    return "; ".join(", ".join(f"{name}={value}" for name, value in items) or "defaults" for items in each)


def augmentation_grid(
    dataset: Dataset, steps: Mapping[str, Steps], seed: int = 0, shown: int = SHOWN, times: int = TIMES
) -> bytes:
    """The same few training images under each augmentation, as PNG: one column of tiles for each drawing.

    The first row has the originals; each further row one augmentation, drawn ``times`` times on each image. An image
    that is mixed is mixed with the original to the left of its own, the first with the last. Masks are painted with the
    mean of the training images.

    Args:
        dataset: images are taken from different classes, drawn by ``seed``.
        steps: name -> settings, as ``augmentations`` gives them.
    """
    images = torch.from_numpy(np.array(dataset.train_images[_examples(dataset, seed, shown)]))
    fill = statistics(dataset.train_images, np.arange(min(len(dataset.train_images), 10_000)))[0]
    rows = []
    for name, settings in steps.items():
        pipeline = augment.build(settings, dataset.image_size, dataset.num_classes, tuple(float(v) for v in fill))
        generator = torch.Generator().manual_seed(stream(seed, f"gallery:{name}"))
        labels = torch.zeros(len(images), dtype=torch.int64)
        drawn = [_as_pixels(pipeline(images, labels, generator)[0]) for _ in range(times)]
        rows.append((name, np.stack(drawn, 1)))  # (images, times, H, W, 3)
    return _sheet(_as_pixels(images), rows, times)


def _examples(dataset: Dataset, seed: int, count: int) -> npt.NDArray[np.int64]:
    """Rows of ``count`` training images, of as many classes as there are."""
    order = np.random.default_rng(stream(seed, "gallery")).permutation(len(dataset.train_labels))
    repeat = np.zeros(len(order), np.int64)  # how many of its class come before it
    for label in range(dataset.num_classes):
        own = dataset.train_labels[order] == label
        repeat[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(repeat, kind="stable")[:count]])


def _as_pixels(images: Tensor) -> Pixels:
    """uint8 or float (B, C, H, W) as uint8 (B, H, W, 3)."""
    if images.is_floating_point():
        images = images.mul(255).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).numpy()


def _sheet(originals: Pixels, rows: Sequence[tuple[str, Pixels]], times: int) -> bytes:
    """``originals`` (images, H, W, 3) above ``rows`` of (images, times, H, W, 3), each with its name."""
    side = originals.shape[1] * max(1, round(_TILE / originals.shape[1])) if originals.shape[1] <= _TILE else _TILE
    pitch = side + _GAP
    group = times * pitch + _BETWEEN
    size = _LABEL + len(originals) * group, (len(rows) + 1) * pitch + 3 * _BETWEEN
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, _BETWEEN + side // 2, "originals")
    for number, image in enumerate(originals):
        _paste(sheet, image, (_LABEL + number * group, _BETWEEN), side)
    for place, (name, tiles) in enumerate(rows, 1):
        top = 2 * _BETWEEN + place * pitch
        _write(pen, top + side // 2, name)
        for number, repeat in np.ndindex(tiles.shape[:2]):
            _paste(sheet, tiles[number, repeat], (_LABEL + number * group + repeat * pitch, top), side)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paste(sheet: Image.Image, pixels: Pixels, at: tuple[int, int], side: int) -> None:
    how = Image.Resampling.NEAREST if len(pixels) <= side else Image.Resampling.LANCZOS
    sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), how), at)


def _write(pen: ImageDraw.ImageDraw, middle: int, text: str) -> None:
    """A label of at most three lines, broken where names are joined."""
    font = ImageFont.load_default(16)
    lines = [""]
    for part in text.replace("+", " +\0").replace(" (", "\0(").replace(", ", ",\0").split("\0"):
        joined = f"{lines[-1]} {part}".strip()
        if pen.textlength(joined, font) > _LABEL - 34 and lines[-1]:
            lines.append(part)
        else:
            lines[-1] = joined
    lines = [*lines[:2], f"{lines[2]} …"] if len(lines) > 3 else lines
    for number, line in enumerate(lines):
        pen.text((_BETWEEN, middle + (number - (len(lines) - 1) / 2) * 20), line, _INK, font, anchor="lm")


# ---- test images -----------------------------------------------------------------------------------------------------


def worth_keeping(
    files: Mapping[str, Sequence[Path]], baselines: Sequence[str], each: int = TELLING, most: int = MOST
) -> npt.NDArray[np.int64]:
    """Test images on which arms differ most from a baseline, either way: sorted rows, ``most`` at most.

    Trials whose predictions cannot be read or be compared are passed over.
    """
    loaded = {arm: read for arm, paths in files.items() if (read := _readable(paths))}
    bases = [arm for arm in baselines if arm in loaded] or list(loaded)[:1]
    ranked: dict[int, int] = {}  # row -> its best place in any ranking
    for base in bases:
        for arm in loaded:
            for place, row in _differing(loaded[arm], loaded[base], each) if arm != base else ():
                ranked[row] = min(place, ranked.get(row, place))
    chosen = sorted(ranked, key=lambda row: (ranked[row], row))[:most]
    return np.array(sorted(chosen), dtype=np.int64)


def _readable(paths: Iterable[Path]) -> list[Predictions]:
    found = []
    for path in paths:
        try:
            found.append(Predictions.read(path))
        except ValueError:
            continue
    return found


def _differing(ours: list[Predictions], theirs: list[Predictions], each: int) -> Iterable[tuple[int, int]]:
    """(place, row) of the most telling images, either way, of all pairs of networks together."""
    pairs = min(len(ours), len(theirs))
    try:
        common = predictions.shared([*ours[:pairs], *theirs[:pairs]])
    except ValueError:
        return
    for right, wrong in ((common[:pairs], common[pairs:]), (common[pairs:], common[:pairs])):
        for place, one in enumerate(predictions.discriminating_images(right, wrong, each)):
            yield place, one.index


def kept_images(dataset: Dataset, index: npt.NDArray[np.int64], limit: int = MOST) -> bytes:
    """Some test images as a file for reports, without pickle.

    Args:
        index: rows of ``dataset.test_images``; the first ``limit`` are kept.

    Returns:
        ``.npz``: ``images`` uint8 (M, H, W, 3), at most 96 pixels a side; ``index`` int64 (M,), rows; ``labels`` int64
        (M,); ``classes``, the names of all classes.
    """
    index = index[:limit]
    images = torch.from_numpy(np.array(dataset.test_images[index]))
    if images.shape[-1] > THUMBNAIL:
        images = F.interpolate(images.float(), (THUMBNAIL, THUMBNAIL), mode="area").round().to(torch.uint8)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        images=_as_pixels(images),
        index=index,
        labels=dataset.test_labels[index],
        classes=np.array(dataset.classes, dtype=np.str_),
    )
    return file.getvalue()
