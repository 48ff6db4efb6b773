"""How much the choice of test images may move a difference to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from suite import analysis
from suite.analysis import predictions
from suite.core.records import TEST_ACC
from suite.report.paired_predictions import PairedPredictions, count_test_images, pair_arms
from suite.report.runs import Rules, histories
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns

MAX_LOADED = 60  # files of predictions: about 2 s (36 ms each, local store, 2 busy cores)
_Z = 1.96


@dataclass(frozen=True)
class ImageError:
    """Half the 95 % interval of a difference over other test images like these.

    Attributes:
        half: as a fraction.
        exact: from predictions, image by image; else an upper bound from the accuracies.
    """

    half: float
    exact: bool


def image_errors(runs: SweepRuns, uri: str, rules: Rules) -> dict[str, ImageError]:
    """Arm -> the uncertainty of its difference; empty unless test accuracy is what is tested.

    Predictions are read if the sweep has few trials. Otherwise one file tells the number of images.
    """
    if rules.tested != TEST_ACC:
        return {}
    trials = analysis.without_search_seed(histories(runs), rules.confirmed, rules.search_seed)
    finished = analysis.finished_by_pair(trials)
    against = {
        arm: base
        for arm, base in analysis.baselines(trials).items()
        if (rules.confirmed is None or arm in rules.confirmed) and arm in finished
    }
    accuracies = _mean_accuracies(trials, rules)
    files = 2 * sum(len(finished[arm]) for arm in against)
    exact = _exact(runs, uri, against) if files <= MAX_LOADED else {}
    rest = [arm for arm in against if arm not in exact and arm in accuracies]
    images = count_test_images(runs, uri, [*against.values(), *against]) if rest else None
    if images is None:
        return exact
    return exact | {
        arm: ImageError(bound(accuracies[arm], accuracies[against[arm]], images), exact=False)
        for arm in rest
        if against[arm] in accuracies
    }


def bound(ours: float, theirs: float, images: int) -> float:
    """An upper bound of the half width, from two accuracies as fractions.

    Paired by image the variance of a difference is at most the sum of both, unless two networks are
    right on the same image less often than by chance.
    """
    return _Z * float(np.sqrt((ours * (1 - ours) + theirs * (1 - theirs)) / images))


def paired_half_width(pairs: PairedPredictions) -> float:
    """The half width from predictions; the arms' networks are averaged image by image."""
    by_image = predictions.differences(pairs.ours, pairs.theirs) / len(pairs.seeds)
    return _Z * float(by_image.std(ddof=1) / np.sqrt(len(by_image)))


def _exact(runs: SweepRuns, uri: str, against: Mapping[str, str]) -> dict[str, ImageError]:
    known: dict[str, ImageError] = {}
    for arm, base in against.items():
        pairs = pair_arms(runs, uri, arm, base)
        if isinstance(pairs, PairedPredictions) and pairs.images > 1:
            known[arm] = ImageError(paired_half_width(pairs), exact=True)
    return known


def _mean_accuracies(trials: Iterable[TrialHistory], rules: Rules) -> dict[str, float]:
    by_arm = {
        arm: list(analysis.at_chosen(pairs, rules.objective, TEST_ACC).values())
        for arm, pairs in analysis.finished_by_pair(trials).items()
    }
    return {arm: sum(values) / len(values) for arm, values in by_arm.items() if values}
