"""Images for the report that need the dataset: augmentation samples, discriminating test images.

They become files of the sweep's parent run at the end of a launch, made from the images and the
trials' stored predictions.
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
SHOWN, TIMES = 4, 3  # images in the grid, and samples of each augmentation per image
MAX_PER_PAIR = 24  # test images for each arm, baseline and direction of the difference
MAX_IMAGES = 2_000  # test images in total
THUMBNAIL = 96  # pixels per side; larger test images are scaled down

Pixels = npt.NDArray[np.uint8]
Steps = Sequence[Frozen]

_TILE, _GAP, _BETWEEN, _LABEL = 96, 4, 18, 250  # pixels
_PAPER, _INK = "#ffffff", "#1c1e21"


def illustrations(
    trials: Sequence[TrialHistory], images_of: Callable[[TrialHistory], Dataset], folder: Path
) -> dict[str, bytes]:
    """``pictures`` of a finished sweep, on the images of its baseline's trials.

    Args:
        trials: of its plan.
        images_of: the images of a trial.
        folder: the sweep's.
    """
    if not trials:
        return {}
    configs = [read_stored_config(history.trial.config) for history in trials]
    baseline = [history for history in trials if history.entry.get("baseline")]
    dataset = images_of((baseline or trials)[0])
    files: dict[str, list[Path]] = {}
    for history in sorted(trials, key=lambda history: history.trial.seed):
        if history.status is Status.FINISHED and images_of(history) is dataset:
            path = folder / "trials" / history.trial.id / "predictions.npz"
            files.setdefault(history.trial.arm, []).append(path)
    return pictures(
        dataset, configs, files, list(dict.fromkeys(history.trial.arm for history in baseline))
    )


def pictures(
    dataset: Dataset,
    configs: Iterable[TrialConfig],
    files: Mapping[str, Sequence[Path]],
    baselines: Sequence[str],
) -> dict[str, bytes]:
    """The image files of a sweep's parent run by name; without files that would be empty.

    Args:
        dataset: the images of the baseline's trials.
        configs: of all trials.
        files: arm -> ``predictions.npz`` of its finished trials on ``dataset``, in order of seeds.
        baselines: arms to compare the others with. If empty: the first arm.
    """
    content = {}
    if steps := augmentations(configs):
        content[AUGMENTATIONS] = augmentation_grid(dataset, steps)
    if len(index := discriminating_images(files, baselines)):
        content[IMAGES] = image_file(dataset, index)
    return content


# ---- augmentations ----


def augmentations(configs: Iterable[TrialConfig]) -> dict[str, Steps]:
    """The augmentations of all arms by name, each once; without ``none``.

    If a name has several settings, they follow it in parentheses.
    """
    by_name: dict[str, dict[str, Steps]] = {}
    for config in configs:
        if settings := config.pipeline():
            by_name.setdefault(config.augment, {}).setdefault(_settings(settings), settings)
    named: dict[str, Steps] = {}
    for name, variants in by_name.items():
        for text, steps in variants.items():
            named[name if len(variants) == 1 else f"{name} ({text})"] = steps
    return named


def _settings(steps: Steps) -> str:
    all_settings = (step.model_dump(exclude={"type"}, exclude_none=True).items() for step in steps)
    return "; ".join(
        ", ".join(f"{name}={value}" for name, value in items) or "defaults"
        for items in all_settings
    )


def augmentation_grid(
    dataset: Dataset,
    steps: Mapping[str, Steps],
    seed: int = 0,
    shown: int = SHOWN,
    times: int = TIMES,
) -> bytes:
    """The same few training images under each augmentation, as PNG.

    The first row shows the originals; each further row one augmentation, drawn ``times`` times on
    each image. Mixes combine an image with the original to its left, the first with the last. Masks
    have the mean colour of the training images.

    Args:
        dataset: the images come from different classes, chosen by ``seed``.
        steps: from ``augmentations``.
    """
    images = torch.from_numpy(np.array(dataset.train_images[_examples(dataset, seed, shown)]))
    fill = statistics(dataset.train_images, np.arange(min(len(dataset.train_images), 10_000)))[0]
    rows = []
    for name, settings in steps.items():
        pipeline = augment.build(
            settings, dataset.image_size, dataset.num_classes, tuple(float(v) for v in fill)
        )
        generator = torch.Generator().manual_seed(stream(seed, f"gallery:{name}"))
        labels = torch.zeros(len(images), dtype=torch.int64)
        drawn = [_as_pixels(pipeline(images, labels, generator)[0]) for _ in range(times)]
        rows.append((name, np.stack(drawn, 1)))  # (images, times, H, W, 3)
    return _sheet(_as_pixels(images), rows, times)


def _examples(dataset: Dataset, seed: int, count: int) -> npt.NDArray[np.int64]:
    """Rows of ``count`` training images from as many classes as possible."""
    order = np.random.default_rng(stream(seed, "gallery")).permutation(len(dataset.train_labels))
    repeat = np.zeros(len(order), np.int64)  # earlier images of the same class
    for label in range(dataset.num_classes):
        is_label = dataset.train_labels[order] == label
        repeat[is_label] = np.arange(is_label.sum())
    return np.sort(order[np.argsort(repeat, kind="stable")[:count]])


def _as_pixels(images: Tensor) -> Pixels:
    """uint8 or float (B, C, H, W) as uint8 (B, H, W, 3)."""
    if images.is_floating_point():
        images = images.mul(255).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).numpy()


def _sheet(originals: Pixels, rows: Sequence[tuple[str, Pixels]], times: int) -> bytes:
    """PNG of ``originals`` (images, H, W, 3) above named ``rows`` (images, times, H, W, 3)."""
    pixels = originals.shape[1]
    side = pixels * max(1, round(_TILE / pixels)) if pixels <= _TILE else _TILE
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
            _paste(
                sheet, tiles[number, repeat], (_LABEL + number * group + repeat * pitch, top), side
            )
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _paste(sheet: Image.Image, pixels: Pixels, at: tuple[int, int], side: int) -> None:
    resampling = Image.Resampling.NEAREST if len(pixels) <= side else Image.Resampling.LANCZOS
    sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), resampling), at)


def _write(pen: ImageDraw.ImageDraw, middle: int, text: str) -> None:
    """A label of at most three lines, broken between names."""
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
        pen.text(
            (_BETWEEN, middle + (number - (len(lines) - 1) / 2) * 20), line, _INK, font, anchor="lm"
        )


# ---- test images ----


def discriminating_images(
    files: Mapping[str, Sequence[Path]],
    baselines: Sequence[str],
    per_pair: int = MAX_PER_PAIR,
    limit: int = MAX_IMAGES,
) -> npt.NDArray[np.int64]:
    """Sorted rows of test images on which arms differ most from a baseline, at most ``limit``.

    Trials whose predictions cannot be read or compared are skipped.
    """
    loaded = {arm: read for arm, paths in files.items() if (read := _readable(paths))}
    bases = [arm for arm in baselines if arm in loaded] or list(loaded)[:1]
    ranked: dict[int, int] = {}  # row -> its best rank
    for base in bases:
        for arm in loaded:
            for place, row in (
                _discriminating(loaded[arm], loaded[base], per_pair) if arm != base else ()
            ):
                ranked[row] = min(place, ranked.get(row, place))
    chosen = sorted(ranked, key=lambda row: (ranked[row], row))[:limit]
    return np.array(sorted(chosen), dtype=np.int64)


def _readable(paths: Iterable[Path]) -> list[Predictions]:
    readable = []
    for path in paths:
        try:
            readable.append(Predictions.read(path))
        except ValueError:
            continue
    return readable


def _discriminating(
    ours: list[Predictions], theirs: list[Predictions], count: int
) -> Iterable[tuple[int, int]]:
    """(rank, row) of the images that best tell two arms apart, over all pairs of networks."""
    pairs = min(len(ours), len(theirs))
    try:
        common = predictions.shared([*ours[:pairs], *theirs[:pairs]])
    except ValueError:
        return
    for right, wrong in ((common[:pairs], common[pairs:]), (common[pairs:], common[:pairs])):
        for rank, image in enumerate(predictions.discriminating_images(right, wrong, count)):
            yield rank, image.index


def image_file(dataset: Dataset, index: npt.NDArray[np.int64], limit: int = MAX_IMAGES) -> bytes:
    """The first ``limit`` of some test images as a file for reports, without pickle.

    Args:
        index: rows of ``dataset.test_images``.

    Returns:
        ``.npz``: ``images`` uint8 (M, H, W, 3), at most 96 pixels per side; ``index`` int64 (M,);
        ``labels`` int64 (M,); ``classes``, the names of all classes.
    """
    index = index[:limit]
    images = torch.from_numpy(np.array(dataset.test_images[index]))
    if images.shape[-1] > THUMBNAIL:
        images = (
            F.interpolate(images.float(), (THUMBNAIL, THUMBNAIL), mode="area")
            .round()
            .to(torch.uint8)
        )
    file = io.BytesIO()
    np.savez_compressed(
        file,
        images=_as_pixels(images),
        index=index,
        labels=dataset.test_labels[index],
        classes=np.array(dataset.classes, dtype=np.str_),
    )
    return file.getvalue()
