"""Statistics of stored predictions: confusion, calibration, paired tests. No drawing, no store.

N test images, K classes, S seeds (networks of one arm). The unit is the image: intervals and tests
are about these networks on other images like these, not about other seeds. An arm's figures are
means over its networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
BINS = 15  # as in Guo et al. (2017)
DRAWS = 10_000

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Predictions:
    """One network's outputs for the test images, at the epoch chosen for its trial.

    Attributes:
        index: int64 (N,), rows of the data set's test images; each once.
        labels: int64 (N,), the true classes.
        logits: float (N, K).
    """

    index: Integers
    labels: Integers
    logits: npt.NDArray[np.floating[Any]]

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """A trial's ``predictions.npz``.

        Raises:
            ValueError: it is damaged, or something else.
        """
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                index, labels, logits = file["index"], file["labels"], file["logits"]
        except (
            OSError,
            ValueError,
            KeyError,
            IndexError,
            EOFError,
            TypeError,
            BadZipFile,
            zlib.error,
        ) as error:
            raise ValueError(f"{path.name} cannot be read: {error}") from error
        shapes = index.shape, labels.shape, logits.shape
        if logits.ndim != 2 or shapes[0] != shapes[1] or shapes[0] != logits.shape[:1]:
            raise ValueError(
                f"{path.name} must hold index (N,), labels (N,), logits (N, K), got {shapes}"
            )
        return cls(index.astype(np.int64), labels.astype(np.int64), logits)

    @cached_property
    def answers(self) -> Integers:
        """int64 (N,): the class of the highest logit, the first of equals."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def correct(self) -> Bools:
        """bool (N,)."""
        return np.asarray(self.answers == self.labels)

    @cached_property
    def probabilities(self) -> Floats:
        """float64 (N, K): softmax, computed in float64."""
        logits = self.logits.astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def take(self, rows: Integers) -> Predictions:
        """The same of some images: positions 0..N-1."""
        return Predictions(self.index[rows], self.labels[rows], self.logits[rows])


def shared(many: Sequence[Predictions]) -> list[Predictions]:
    """Each of ``many`` on the images that all of them have, in one order.

    Raises:
        ValueError: they have no image in common, or an image has two labels (different data).
    """
    indices = many[0].index
    for network in many[1:]:
        indices = np.intersect1d(indices, network.index)
    if not len(indices):
        raise ValueError("they were tested on different images, none in common")
    indices = np.sort(indices)
    common = [
        network.take(np.argsort(network.index)[np.searchsorted(np.sort(network.index), indices)])
        for network in many
    ]
    if any((network.labels != common[0].labels).any() for network in common):
        raise ValueError("their test images have different labels, so they are different images")
    if len({network.logits.shape[1] for network in common}) > 1:
        raise ValueError("they have different numbers of classes")
    return common


# ---- one arm -------------------------------------------------------------------------------------


def confusion(many: Sequence[Predictions]) -> Integers:
    """Counts of answers by true class (row) and answer (column), int64 (K, K); all networks."""
    classes = many[0].logits.shape[1]
    total = np.zeros(classes * classes, np.int64)
    for network in many:
        total += np.bincount(
            network.labels * classes + network.answers, minlength=classes * classes
        )
    return total.reshape(classes, classes)


def shares(counts: Integers) -> Floats:
    """Rows of a confusion matrix as fractions; NaN where a class has no image."""
    rows = counts.sum(axis=1, keepdims=True)
    return np.where(rows > 0, counts / np.maximum(rows, 1), np.nan)


def rates(many: Sequence[Predictions]) -> Floats:
    """Of each image, float64 (N,), the fraction of networks that are right."""
    return np.asarray(np.mean([network.correct for network in many], axis=0), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether a network that says "80 %" is right in 80 of 100 cases.

    Attributes:
        confidence, accuracy: float64 (bins,), means of each bin; NaN where it is empty.
        count: int64 (bins,), answers in each bin, of all networks.
        error: expected calibration error, the mean over networks.
    """

    confidence: Floats
    accuracy: Floats
    count: Integers
    error: float


def calibration(many: Sequence[Predictions], bins: int = BINS) -> Calibration:
    """Reliability curve and expected calibration error (Guo et al. 2017, arXiv 1706.04599).

    Answers are binned by their probability, in ``bins`` bins of equal width, closed above. The
    error is the mean over answers of their bin's |accuracy - confidence|, averaged over networks;
    the curve is of all networks together.
    """
    total = np.zeros((3, bins))
    errors = []
    for network in many:
        confidence = network.probabilities.max(axis=1)
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        weights = (np.ones(len(place)), confidence, network.correct.astype(np.float64))
        sums = np.array([np.bincount(place, weight, bins) for weight in weights])
        errors.append(np.abs(sums[1] - sums[2]).sum() / len(place))
        total += sums
    count = np.maximum(total[0], 1)
    empty = np.where(total[0] > 0, 1.0, np.nan)
    return Calibration(
        total[1] / count * empty,
        total[2] / count * empty,
        total[0].astype(np.int64),
        float(np.mean(errors)),
    )


# ---- two arms ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def tells(self) -> bool:
        """Whether it excludes zero."""
        return self.low > 0 or self.high < 0


def differences(ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> Integers:
    """Per image, int64 (N,): how many more of our networks are right than of theirs."""
    if len(ours) != len(theirs):
        raise ValueError(f"pairs of networks are needed, got {len(ours)} and {len(theirs)}")
    return np.asarray(
        sum(a.correct.astype(np.int64) - b.correct for a, b in zip(ours, theirs, strict=True)),
        np.int64,
    )


@dataclass(frozen=True)
class McNemar:
    """Two networks on the same images.

    Attributes:
        ours, theirs: images that only our network got right, and only theirs.
        p: two-sided.
    """

    ours: int
    theirs: int
    p: float


def mcnemar(ours: Predictions, theirs: Predictions) -> McNemar:
    """McNemar's exact test (1947): of the images that one of two networks gets right, half each.

    Exact, not mid-p, so that it never rejects too often. It is about these two networks, on other
    images (Dietterich 1998, Neural Computation 10:1895).
    """
    from scipy.stats import binomtest

    a, b = ours.correct, theirs.correct
    only = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(*only, float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0)


def pooled_p(differences: Integers) -> float:
    """McNemar's exact test for several pairs of networks on the same images: two-sided p.

    Answers of several networks to one image are not independent, so their counts cannot be added up
    as if they were of several images. Instead the sign of each image's whole difference is flipped
    (a sign test weighted by size, exact over all 2^N flips). The hypothesis: an image favours
    neither side. With one pair this is McNemar's test.

    Args:
        differences: as ``differences`` gives them.
    """
    from scipy import signal, stats

    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    most = int((sizes * counts).sum())
    if most == 0:
        return 1.0
    chance = np.ones(1)  # of the sum of the positive ones, 0..most
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        step = np.zeros(size * count + 1)
        step[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chance = signal.fftconvolve(chance, step)
    sums = 2 * np.arange(most + 1) - most
    return float(np.clip(chance[np.abs(sums) >= abs(int(differences.sum()))].sum(), 0.0, 1.0))


def bootstrap(values: npt.ArrayLike, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Mean difference over images, with a percentile bootstrap interval (Efron 1979).

    The N images have few different values, so the counts of each value are drawn instead of the
    images. They are multinomial: the same distribution, for all draws at once.

    Args:
        values: (N,), paired differences.
    """
    values = np.asarray(values, dtype=np.float64)
    levels, counts = np.unique(values, return_counts=True)
    drawn = (
        np.random.default_rng(seed).multinomial(len(values), counts / len(values), draws)
        @ levels
        / len(values)
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Interval(float(values.mean()), float(low), float(high))


def paired_interval(values: npt.ArrayLike) -> Interval:
    """Mean of paired differences in [-1, 1], with Agresti and Min's interval.

    Source: Agresti and Min 2005, Stat. Med. 24:729.

    Half an image is added to each cell of the 2 x 2 table before Wald's formula. That keeps the
    coverage with the few images of one class; a bootstrap would be too narrow (zero if no image
    changed).
    """
    from scipy.stats import norm

    values = np.asarray(values, dtype=np.float64)
    count = len(values) + 2
    mean = values.sum() / count
    half = (
        norm.ppf((1 + CONFIDENCE) / 2)
        * np.sqrt(((values**2).sum() + 1) / count - mean**2)
        / np.sqrt(count)
    )
    return Interval(float(values.mean()), float(max(mean - half, -1)), float(min(mean + half, 1)))


@dataclass(frozen=True)
class ClassChange:
    """The accuracy on the images of one class, of them and of us.

    Attributes:
        label: its number.
        count: test images.
        before, after: accuracy of theirs and of ours, means over networks.
        change: after less before, with its paired interval.
    """

    label: int
    count: int
    before: float
    after: float
    change: Interval


def class_changes(ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> list[ClassChange]:
    """One for each class with test images; the intervals are not adjusted for their number."""
    labels, after, before = ours[0].labels, rates(ours), rates(theirs)
    common = []
    for label in np.unique(labels).tolist():
        own = labels == label
        change = paired_interval((after - before)[own])
        common.append(
            ClassChange(
                label, int(own.sum()), float(before[own].mean()), float(after[own].mean()), change
            )
        )
    return common


@dataclass(frozen=True)
class Swap:
    """The fraction of a class's images that is taken for another class, before and after."""

    truth: int
    answer: int
    before: float
    after: float


def swaps(ours: Sequence[Predictions], theirs: Sequence[Predictions], limit: int) -> list[Swap]:
    """The confusions that changed most, whichever way."""
    before, after = shares(confusion(theirs)), shares(confusion(ours))
    change = np.nan_to_num(np.abs(after - before))
    np.fill_diagonal(change, 0.0)
    order = np.argsort(-change, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(place), len(change)) for place in order]
    return [
        Swap(*pair, float(before[pair]), float(after[pair])) for pair in pairs if change[pair] > 0
    ]


@dataclass(frozen=True)
class DiscriminatingImage:
    """An image on which two arms differ.

    Attributes:
        row: its position among the shared images.
        index: its row in the data set's test images.
        label: its class.
        ours, theirs: fractions of networks that are right.
        mistaken: what the arm that is more often wrong takes it for, most often.
    """

    row: int
    index: int
    label: int
    ours: float
    theirs: float
    mistaken: int


def discriminating_images(
    ours: Sequence[Predictions], theirs: Sequence[Predictions], limit: int
) -> list[DiscriminatingImage]:
    """The images on which we are right more often than they are, largest difference first.

    Ordered by the difference of the fractions of right networks, then by that of the true class's
    probability.
    """
    labels, index = ours[0].labels, ours[0].index
    mine, other = rates(ours), rates(theirs)
    gap = mine - other
    surer = _truth(ours) - _truth(theirs)
    order = [
        row
        for row in np.lexsort((index, -surer, -np.round(gap, 9)))[:limit].tolist()
        if gap[row] > 0
    ]
    return [
        DiscriminatingImage(
            row,
            int(index[row]),
            int(labels[row]),
            float(mine[row]),
            float(other[row]),
            _mistaken(theirs, row),
        )
        for row in order
    ]


def _truth(many: Sequence[Predictions]) -> Floats:
    """Mean probability of the true class, (N,)."""
    rows = np.arange(len(many[0].labels))
    return np.asarray(
        np.mean([network.probabilities[rows, network.labels] for network in many], axis=0)
    )


def _mistaken(many: Sequence[Predictions], row: int) -> int:
    wrong = [int(network.answers[row]) for network in many if not network.correct[row]]
    return max(wrong, key=wrong.count)
