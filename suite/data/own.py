"""The user's own data: ``module:function``, called with ``data.root``.

The function returns a mapping ``{"train": (images, labels), "test": (images, labels), "classes":
[names]}``: images uint8 (N, H, W, 3) or (N, H, W), labels integers (N,) from 0. It is not cached,
as its sources are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from suite.config.plugin import resolve
from suite.core.errors import Problem, SuiteError, UsageError, raise_problems
from suite.data.dataset import Dataset, Images, Labels
from suite.data.pixels import square_all

_KEYS = ("train", "test", "classes")


def load(reference: str, root: str | None, image_size: int | None) -> Dataset:
    """Call the user's function and check what it returns.

    Raises:
        UsageError: it cannot be found, fails, or returns no valid dataset; lists all problems.
    """
    function = resolve(reference, "data.name")
    try:
        returned = function(root)
    except SuiteError:
        raise
    except Exception as error:
        message = f"data.name: {reference}({root!r}) failed: {type(error).__name__}: {error}"
        raise UsageError(message) from error
    if not isinstance(returned, Mapping) or set(returned) != set(_KEYS):
        got = (
            sorted(map(str, returned)) if isinstance(returned, Mapping) else type(returned).__name__
        )
        raise UsageError(
            f"data.name: {reference} must return a mapping with the keys {', '.join(_KEYS)}, "
            f"got {got}",
            remedy="train and test are pairs (images, labels), classes is a list of names.",
        )
    return _checked(reference, returned, image_size)


def _checked(reference: str, returned: Mapping[str, object], image_size: int | None) -> Dataset:
    wrong: list[Problem] = []
    classes = _classes(returned["classes"], wrong)
    parts = {part: _part(part, returned[part], len(classes), wrong) for part in ("train", "test")}
    shapes = {images.shape[1:3] for images, _ in parts.values() if images.ndim >= 3}
    if (
        not wrong
        and image_size is None
        and (len(shapes) > 1 or any(height != width for height, width in shapes))
    ):
        got = " and ".join(f"{height} x {width}" for height, width in sorted(shapes))
        wrong.append(
            Problem(
                f"all images must be squares of one size, got {got}",
                remedy="Or set data.image_size.",
            )
        )
    raise_problems(problem.at(f"data.name: {reference}") for problem in wrong)
    side = image_size or next(iter(shapes))[0]
    train, test = ((square_all(images, side), labels) for images, labels in parts.values())
    return Dataset.of(reference, classes, train, test)


def _classes(given: object, wrong: list[Problem]) -> tuple[str, ...]:
    if (
        isinstance(given, str)
        or not isinstance(given, Sequence)
        or not all(isinstance(name, str) for name in given)
    ):
        wrong.append(Problem(f"classes must be a list of names, got {given!r:.80}"))
        return ()
    if len(given) < 2 or len(set(given)) < len(given):
        wrong.append(
            Problem(f"classes must be at least two different names, got {list(given)!r:.80}")
        )
    return tuple(given)


def _part(
    part: str, given: object, num_classes: int, wrong: list[Problem]
) -> tuple[Images, Labels]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        wrong.append(Problem(f"{part} must be a pair (images, labels), got {type(given).__name__}"))
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    try:
        images, labels = np.asarray(given[0]), np.asarray(given[1])
    except ValueError as error:  # rows of different lengths
        wrong.append(Problem(f"{part} must hold arrays: {error}"))
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    wrong += _image_problems(part, images) + _label_problems(part, labels, num_classes)
    if images.ndim and labels.ndim and len(images) != len(labels):
        wrong.append(
            Problem(
                f"{part} must have as many labels as images, "
                f"got {len(labels):,} and {len(images):,}"
            )
        )
    return images, labels.astype(np.int64) if labels.dtype.kind in "iu" else np.empty(0, np.int64)


def _image_problems(part: str, images: npt.NDArray[Any]) -> list[Problem]:
    problems = []
    if images.dtype != np.uint8:
        rule = f"{part} images must be uint8 in 0..255, got {images.dtype}"
        problems.append(
            Problem(rule, remedy="Images in 0..1: (images * 255).round().astype(numpy.uint8).")
        )
    if (
        images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] != 3)
        or 0 in images.shape
    ):
        first = images.ndim == 4 and images.shape[1] == 3
        remedy = "Channels come last: images.transpose(0, 2, 3, 1)." if first else ""
        rule = f"{part} images must have the shape (N, H, W, 3) or (N, H, W), none of them 0"
        problems.append(Problem(f"{rule}, got {images.shape}", remedy=remedy))
    return problems


def _label_problems(part: str, labels: npt.NDArray[Any], num_classes: int) -> list[Problem]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        return [
            Problem(
                f"{part} labels must be integers of shape (N,), "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        ]
    if num_classes and labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        rule = f"{part} labels must be in 0..{num_classes - 1} for {num_classes} classes"
        return [Problem(f"{rule}, got {labels.min()}..{labels.max()}")]
    return []
