"""The split into training, validation and test images: stratified, exact, nested.

It depends on ``split_seed`` alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from suite.config.trial import DEFAULT_VAL_SIZE, DataConfig, image_count
from suite.core.errors import Problem, raise_problems
from suite.core.records import stream
from suite.data.problems import enough

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the dataset's arrays, int64, in an order whose every prefix is stratified.

    Attributes:
        train, val: disjoint rows of ``train_images``.
        test: rows of ``test_images``.
    """

    train: Index
    val: Index
    test: Index


def split(
    train_labels: Index, test_labels: Index, config: DataConfig, classes: Sequence[str] = ()
) -> Split:
    """Choose validation images from the training images, training images from the rest; and test.

    Every part holds each class in proportion, to within one image, and has the requested size. A
    smaller part is a subset of a larger one with the same other settings. With ``val_size`` given,
    validation depends only on it and ``split_seed``. Without it, validation comes from a tenth that
    training never uses: all of it, or its first images, a ninth of ``train_size`` and at least one
    of each class in it.

    Args:
        train_labels, test_labels: int64 (N,), 0..K-1.
        config: its sizes and its ``split_seed``. A fraction is rounded to the nearest number of
            images, at least one; ``train_size`` is a fraction of the images without validation
            (without ``val_size``: of nine tenths).
        classes: names for messages. Default: the labels.

    Raises:
        UsageError: lists every size that exceeds the images; or a class has no training image.
    """
    reserved = config.reserved_images(len(train_labels))
    train_size = config.training_images(len(train_labels))
    test_size = image_count(config.test_size, len(test_labels))
    raise_problems(_size_problems(config, len(train_labels), len(test_labels)))

    keys = _random_keys(len(train_labels), stream(config.split_seed, "split:train"))
    val, rest = np.split(_interleave(train_labels, keys), [reserved])
    if config.val_size is None and config.train_size is not None:
        val = val[: _subset_val_size(train_labels[val], train_size)]
    # A new order, so that training images are in proportion to the rest, not to the whole.
    rest = np.sort(rest)
    order = rest[_interleave(train_labels[rest], keys[rest])]
    raise_problems(_class_problems(config, train_labels, order, train_size, classes))
    test = stratified_order(test_labels, stream(config.split_seed, "split:test"))[:test_size]
    return Split(order[:train_size], val, test)


def stratified_order(labels: Index, seed: int) -> Index:
    """A random order of 0..N-1, int64 (N,), whose every prefix is stratified.

    Among the first k positions a class has its exact share, k x its part of all images, to within
    less than one image (within half an image for two classes). So any total is exact, and a smaller
    choice is part of a larger one. Rounding by largest remainder cannot do both: a class may lose
    an image as the total grows (the Alabama paradox).
    """
    return _interleave(labels, _random_keys(len(labels), seed))


def _random_keys(n: int, seed: int) -> npt.NDArray[np.uint64]:
    # Raw bits: NumPy guarantees them across versions, but not the result of permutation().
    return np.random.PCG64(seed).random_raw(n)


def _interleave(labels: Index, keys: npt.NDArray[np.uint64]) -> Index:
    """Order classes by ``keys``, and between classes with the smallest of a few feasible bounds.

    A bound on the deviation gives each image of a class a first and a last position. Earliest
    deadline first finds an order if one exists (Steiner and Yeomans 1993, "Level schedules for
    mixed-model, just-in-time processes"). For the bound 1 - 1 / (2 K - 2) one exists for any K
    classes (Tijdeman 1980, "The chairman assignment problem").
    """
    total, counts = len(labels), np.bincount(labels)
    present = int(np.count_nonzero(counts))
    grouped = np.lexsort((keys, labels))  # by class, in random order within a class
    own = counts[labels[grouped]]
    rank = np.arange(total) - (np.cumsum(counts) - counts)[labels[grouped]]
    always = Fraction(1) if present < 2 else 1 - Fraction(1, 2 * present - 2)
    for bound in sorted({min(Fraction(eighths, 8), always) for eighths in (4, 5, 6, 7, 8)}):
        up, down = bound.numerator, bound.denominator
        # rank + 1 <= (position + 1) share + bound, and rank >= position share - bound
        first = -(-((rank + 1) * down - up) * total // (down * own)) - 1
        last = (rank * down + up) * total // (down * own)
        order = _earliest_deadline_first(np.maximum(first, 0), last, keys[grouped])
        if order is not None:
            break
    assert order is not None  # Tijdeman's theorem
    return grouped[order]


def _earliest_deadline_first(
    first: Index, last: Index, keys: npt.NDArray[np.uint64]
) -> Index | None:
    """The image at each position, int64 (N,), between its ``first`` and ``last``, if possible."""
    coming = np.argsort(first, kind="stable")
    jobs = list(zip(last[coming].tolist(), keys[coming].tolist(), coming.tolist(), strict=True))
    there = np.searchsorted(first[coming], np.arange(len(first)), side="right").tolist()
    waiting: list[tuple[int, int, int]] = []
    order = np.empty(len(first), np.int64)
    released = 0
    for place, upto in enumerate(there):
        for job in jobs[released:upto]:
            heapq.heappush(waiting, job)
        released = upto
        if not waiting or waiting[0][0] < place:
            return None
        order[place] = heapq.heappop(waiting)[2]
    return order


def _subset_val_size(labels: Index, train_size: int) -> int:
    """Number of validation images for ``train_size``, from those with ``labels`` in order."""
    every_class = int(np.unique(labels, return_index=True)[1].max()) + 1
    return min(len(labels), max(int(train_size / 9 + 0.5), every_class))


def _size_problems(config: DataConfig, train: int, test: int) -> list[Problem]:
    problems = []
    held_out = config.reserved_images(train)
    if held_out >= train:
        got = _shown(DEFAULT_VAL_SIZE if config.val_size is None else config.val_size, held_out)
        rule = f"data.val_size must be below the number of training images, {train:,}, got {got}"
        problems.append(Problem(rule, remedy="Lower it; 0 means no validation."))
    elif config.training_images(train) > train - held_out:
        rule = (
            f"data.train_size must be at most {train - held_out:,} ({train:,} training images, "
            f"{held_out:,} of them for validation), got {config.train_size:,}"
        )
        problems.append(
            Problem(
                rule,
                remedy="Lower it or data.val_size, or leave it out: all that validation leaves.",
            )
        )
    if image_count(config.test_size, test) > test:
        rule = f"data.test_size must be at most the number of test images, {test:,}"
        problems.append(
            Problem(
                f"{rule}, got {config.test_size:,}",
                remedy="Lower it, or leave it out: all test images.",
            )
        )
    return problems


def _shown(size: float, count: int) -> str:
    return f"{size:,}" if isinstance(size, int) else f"{size:g} = {count:,}"


def _class_problems(
    config: DataConfig, labels: Index, order: Index, size: int, classes: Sequence[str]
) -> list[Problem]:
    """A problem if a class has no training image: it would show only as a low accuracy."""
    classes_needed = max(len(classes), int(labels.max()) + 1)
    counts = np.bincount(labels[order[:size]], minlength=classes_needed)
    missing = [
        _class_name(label, classes, labels) for label in np.flatnonzero(counts == 0).tolist()
    ]
    if not missing:
        return []
    rule = f"every class needs a training image, but with {size:,} training images these have none:"
    return [
        Problem(
            f"{rule} {enough(missing)}", remedy=_class_remedy(config, labels, order, classes_needed)
        )
    ]


def _class_name(label: int, classes: Sequence[str], labels: Index) -> str:
    name = classes[label] if classes else str(label)
    return f"{name} ({np.count_nonzero(labels == label):,} before the split)"


def _class_remedy(config: DataConfig, labels: Index, order: Index, needed: int) -> str:
    seen, first = np.unique(labels[order], return_index=True)
    if len(seen) == needed:
        return f"Set data.train_size to {first.max() + 1:,} or more."
    if config.val_size == 0:
        return "Add images of these classes."
    return "Add images of these classes, or lower data.val_size."
