"""Curves: all arms, all splits, and the pairs that the study "ResNet-18 on CIFAR-10" compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from suite import analysis
from suite.analysis import Curve
from suite.core.records import TEST_ACC, TEST_LOSS, TRAIN_ACC, TRAIN_LOSS, VAL_ACC, VAL_LOSS
from suite.report.elements import Picture
from suite.report.figures import LIGHT, Curves, Line, Style, lines, local_styles
from suite.report.formatting import label, names, some
from suite.report.small_multiples import Panel, Panels
from suite.report.study.study_arms import StudyArms
from suite.storage.journal import TrialHistory

Looks = dict[str, Style]
_BAND = (
    "Mean over an arm's seeds, for as many epochs as all of them have; the band goes from the "
    "lowest seed to the highest. A cross: cut, the arm's trials did not run to their end."
)
_SAME = "Lines, bands and crosses as in the first figure."
_GRID = (TRAIN_LOSS, VAL_LOSS, TEST_LOSS, TRAIN_ACC, VAL_ACC, TEST_ACC)


class Courses:
    """Curves of a sweep, looked up by metric and arm.

    Args:
        order: the arms as the main table has them.
    """

    def __init__(self, items: Sequence[TrialHistory], order: Sequence[str], looks: Looks) -> None:
        self.looks = looks
        place = {arm: number for number, arm in enumerate(order)}
        self._curves = {
            metric: sorted(_drawable(items, metric), key=lambda curve: place[curve.arm])
            for metric in (
                *_GRID,
                *{name for trial in items for record in trial.curve for name in record.metrics},
            )
        }

    def of(self, metric: str, arms: Sequence[str] | None = None) -> list[Curve]:
        """The curves of a metric, of all arms or of a few in the given order."""
        curves = self._curves.get(metric, [])
        if arms is None:
            return curves
        return [curve for arm in arms for curve in curves if curve.arm == arm]

    def pictures(self, metric: str, study_arms: StudyArms) -> tuple[Picture, ...]:
        """All figures of curves that the sweep has anything for.

        Args:
            metric: that of the main figure.
        """
        pictures = [
            self._main(metric),
            self._splits(),
            *self._weights(study_arms),
            *self._heads(study_arms),
        ]
        pictures += [
            *self._final(study_arms),
            *self._dropout(study_arms),
            *self._depths(study_arms),
        ]
        return tuple(picture for picture in pictures if picture is not None)

    def _main(self, metric: str) -> Picture | None:
        curves = self.of(metric)
        if not curves:
            return None
        alt = (
            f"{label(metric)} by epoch, one line for each of {len(curves)} arms; "
            "the figures are in the table above."
        )
        caption = f"{_BAND} Arms are coloured in the order of the table."
        return Picture("curves", alt, caption, Curves(tuple(lines(curves, self.looks)), metric))

    def _splits(self) -> Picture | None:
        panels = [Panel(metric, tuple(lines(self.of(metric), self.looks))) for metric in _GRID]
        if sum(bool(panel.lines) for panel in panels) < 2:
            return None
        alt = "Loss and accuracy by epoch on training, validation and test images, a line per arm."
        return Picture(
            "splits", alt, f"Loss and accuracy on each split. {_SAME}", Panels(tuple(panels), 3)
        )

    # ---- what the study compares -----------------------------------------------------------------

    def _few(
        self, name: str, arms: Sequence[str], caption: str, metrics: Sequence[str]
    ) -> Picture | None:
        looks = local_styles(arms, self.looks)
        panels = [Panel(metric, tuple(lines(self.of(metric, arms), looks))) for metric in metrics]
        panels = [panel for panel in panels if panel.lines]
        if not any(len(panel.lines) > 1 for panel in panels):
            return None
        alt = f"{', '.join(label(panel.metric) for panel in panels)} by epoch of {names(arms)}."
        return Picture(name, alt, f"{caption} {_SAME}", Panels(tuple(panels), 2))

    def _weights(self, study_arms: StudyArms) -> Iterable[Picture | None]:
        for number, (random, pretrained) in enumerate(study_arms.weights, start=1):
            caption = f"Pretrained ({pretrained}) against a random start ({random})."
            yield self._few(
                _numbered("pretrained", number), (pretrained, random), caption, _TRAINING
            )

    def _heads(self, study_arms: StudyArms) -> Iterable[Picture | None]:
        for number, (deep, short) in enumerate(study_arms.heads, start=1):
            caption = f"Config1 ({short}) against Config2 ({deep})."
            yield self._few(_numbered("heads", number), (short, deep), caption, _TRAINING)

    def _final(self, study_arms: StudyArms) -> Iterable[Picture | None]:
        """The random start, the pretrained net with all weights trainable, and with some frozen."""
        for number, (random, pretrained) in enumerate(study_arms.weights, start=1):
            frozen = [
                arm
                for free, arm in (*study_arms.freezing, *study_arms.freezing_and_head)
                if free == pretrained
            ]
            if frozen:
                caption = "The final comparison: random start, all weights learnable, some frozen."
                arms = (random, pretrained, *frozen[:3])
                yield self._few(
                    _numbered("final", number),
                    arms,
                    caption,
                    (VAL_LOSS, VAL_ACC, TEST_LOSS, TEST_ACC),
                )

    def _dropout(self, study_arms: StudyArms) -> Iterable[Picture | None]:
        """A column for each place, a line for each rate."""
        if not study_arms.dropout:
            return
        steps = sorted({rate for rates in study_arms.dropout.values() for rate in rates})
        colours = {
            rate: LIGHT.steps[round(place * (len(LIGHT.steps) - 1) / max(1, len(steps) - 1))]
            for place, rate in enumerate(steps)
        }
        panels = [
            Panel(metric, self._rates(metric, rates, colours), f"after {place}")
            for metric in (TEST_ACC, TEST_LOSS)
            for place, rates in study_arms.dropout.items()
        ]
        if not any(panel.lines for panel in panels):
            return
        first = some(len(study_arms.dropout), "panel")
        caption = (
            f"Dropout rates, after each place: the first {first} show test accuracy in percent, "
            "the others test loss. Colours stand for rates, from none to the highest, not for arms."
        )
        rates = ", ".join(f"{rate:g}" for rate in steps)
        alt = f"Test accuracy and loss by epoch for dropout rates {rates}."
        yield Picture(
            "dropout",
            alt,
            f"{caption} {_SAME}",
            Panels(tuple(panels), len(study_arms.dropout), shared=True),
        )

    def _rates(
        self, metric: str, rates: Mapping[float, str], colours: Mapping[float, str]
    ) -> tuple[Line, ...]:
        return tuple(
            replace(line, text=f"rate {rate:g}")
            for rate, arm in rates.items()
            for line in lines(self.of(metric, (arm,)), {arm: Style(colours[rate])})
        )

    def _depths(self, study_arms: StudyArms) -> Iterable[Picture | None]:
        """Plain nets beside residual nets of equal depths, as in He et al. 2015, figures 1, 6."""
        groups: list[tuple[str, tuple[str, ...]]] = []
        for shallow, deep in study_arms.depths:
            groups.append(("plain", (shallow, deep)))
            mates = tuple(
                study_arms.residual[arm] for arm in (shallow, deep) if arm in study_arms.residual
            )
            groups += [("residual", mates)] if mates else []
        arms = [arm for _, group in groups for arm in group]
        looks = local_styles(arms, self.looks)
        panels = [
            Panel(
                metric,
                tuple(lines(self.of(metric, group), looks)),
                f"{split} error, %: {kind}",
                error=True,
            )
            for metric, split in ((TRAIN_ACC, "Training"), (TEST_ACC, "Test"))
            for kind, group in groups
        ]
        if panels := _measured(panels):
            caption = (
                "Plain against residual nets: a deeper net that trains worse is degraded, "
                "not overfitted."
            )
            alt = f"Training and test error by epoch of {names(arms)}."
            plot = Panels(tuple(panels), len(groups), shared=True)
            yield Picture("depths", alt, f"{caption} {_SAME}", plot)


def _drawable(items: Sequence[TrialHistory], metric: str) -> list[Curve]:
    """The curves of a metric; of test figures that longer trials have at a single epoch, none."""
    longest = max((len(trial.records) for trial in items), default=0)
    single = metric.startswith("test/") and longest > 1
    return [
        curve for curve in analysis.curves(items, metric) if not single or len(curve.epochs) > 1
    ]


def _measured(panels: Sequence[Panel]) -> list[Panel]:
    """The panels of those metrics that any arm has a curve of."""
    metrics = {panel.metric for panel in panels if panel.lines}
    return [panel for panel in panels if panel.metric in metrics]


_TRAINING = (TRAIN_LOSS, TRAIN_ACC, VAL_LOSS, VAL_ACC)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}{number}"
