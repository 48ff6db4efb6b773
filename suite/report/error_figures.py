"""Figures of errors: confusion, classes, calibration; in two colour schemes and two shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from suite.analysis.predictions import Calibration, ClassChange, Floats
from suite.report.figures import DARK, LIGHT, Scheme, address, canvas, printable, saved

WIDE, NARROW = 8.0, 3.9  # inches; the narrow one keeps its letters readable on a phone
# A confusion matrix of up to so many classes has numbers in its cells, and names at its rows.
NUMBERED, NAMED = 12, 30
_LISTED = 20  # classes in the figure of changes: those that changed most
_MIN_ANSWERS = 10  # in a bin; with fewer, its accuracy is noise

# Draws into an empty matplotlib Figure, in the colours of a scheme; True = in the narrow shape.
Paint = Callable[[Any, Scheme, bool], None]


@dataclass(frozen=True)
class Drawing:
    """One figure, drawn when it is asked for.

    Attributes:
        name: of its file.
        alt: what it is, for those who do not see it.
        caption: how to read it.
        paint: draws it.
        most: in a page at most so wide, in rem; 0 = as wide as the page.
    """

    name: str
    alt: str
    caption: str
    paint: Paint
    most: int = 0

    def draw(self, *kinds: str, scheme: Scheme = LIGHT, narrow: bool = False) -> tuple[bytes, ...]:
        """The figure as a file's content, one for each kind: ``png``, ``svg``."""
        with canvas((NARROW if narrow else WIDE, 4.0), scheme.paper) as picture:
            self.paint(picture, scheme, narrow)
            return saved(picture, kinds)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Kind -> the content of the report's file of it."""
        return dict(zip(("svg", "png"), self.draw("svg", "png"), strict=True))

    @cached_property
    def addresses(self) -> dict[str, str]:
        """Shape and scheme -> the figure as an address that holds it, for a page."""
        looks = {
            "wide": self.files["svg"],
            "wide_dark": self.draw("svg", scheme=DARK)[0],
            "narrow": self.draw("svg", narrow=True)[0],
            "narrow_dark": self.draw("svg", scheme=DARK, narrow=True)[0],
        }
        return {name: address(drawing) for name, drawing in looks.items()}


# ---- confusion -----------------------------------------------------------------------------------


def confusion(matrices: Sequence[tuple[str, Floats]], names: Sequence[str]) -> Paint:
    """One matrix for each arm: side by side, or one below the other."""

    def paint(picture: Any, scheme: Scheme, narrow: bool) -> None:
        count = len(matrices)
        side = 3.1 if narrow else 3.3  # inches
        picture.set_size_inches(
            NARROW if narrow else WIDE, (side + 1.25) * count if narrow else side + 1.2
        )
        grid = {"hspace": 0.42} if narrow else {"wspace": 0.45}
        axes = picture.subplots(
            *((count, 1) if narrow else (1, max(count, 2))), squeeze=False, gridspec_kw=grid
        ).ravel()
        for cell, (arm, matrix) in zip(axes, matrices, strict=False):
            _matrix(cell, arm, matrix, names, scheme)
        for cell in axes[count:]:
            cell.remove()

    return paint


def _matrix(axes: Any, arm: str, matrix: Floats, names: Sequence[str], scheme: Scheme) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    classes = len(matrix)
    shades = LinearSegmentedColormap.from_list("shares", _ramp(scheme), bad=scheme.faint)
    axes.imshow(
        matrix, cmap=shades, norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest", aspect="equal"
    )
    axes.set_title(
        printable(arm, 30), color=scheme.ink, fontsize=10.5, loc="left", parse_math=False
    )
    axes.set_xlabel("called", color=scheme.ink)
    axes.set_ylabel("is", color=scheme.ink)
    axes.tick_params(colors=scheme.ink, length=0, labelsize=5 if NUMBERED < classes <= NAMED else 8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if classes <= NAMED:
        texts = [printable(name, 12).replace("$", r"\$") for name in names]
        axes.set_xticks(range(classes), texts, rotation=90)
        axes.set_yticks(range(classes), texts)
    for row, column in np.ndindex(matrix.shape) if classes <= NUMBERED else ():
        _number(axes, row, column, float(matrix[row, column]), shades, scheme)


def _ramp(scheme: Scheme) -> tuple[str, str]:
    """From the paper to the blue of most contrast: one hue, so that it reads in grey print."""
    return (scheme.paper, "#08406e") if scheme is LIGHT else (scheme.paper, "#a9d8ff")


def _number(axes: Any, row: int, column: int, share: float, shades: Any, scheme: Scheme) -> None:
    if np.isnan(share) or (share < 0.005 and row != column):
        return
    light = luminance(shades(share**0.5)) > _MIDDLE
    colour = scheme.ink if light == (scheme is LIGHT) else scheme.paper
    weight = "bold" if row == column else "normal"
    axes.text(
        column,
        row,
        f"{100 * share:.0f}",
        ha="center",
        va="center",
        color=colour,
        fontsize=7.5,
        weight=weight,
    )


_MIDDLE = 0.18  # the luminance on which black and white have the same contrast


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour in [0, 1] (WCAG 2)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- classes -------------------------------------------------------------------------------------


def classes(changes: Sequence[ClassChange], names: Sequence[str]) -> Paint:
    """The change of each class with its interval, the largest gain on top."""
    chosen = sorted(changes, key=lambda change: -abs(change.change.value))[:_LISTED]
    chosen.sort(key=lambda change: change.change.value)

    def paint(picture: Any, scheme: Scheme, narrow: bool) -> None:
        picture.set_size_inches(NARROW if narrow else WIDE, 1.1 + 0.28 * len(chosen))
        axes = picture.add_axes((0.2, 0.12, 0.52, 0.8) if narrow else (0.15, 0.12, 0.64, 0.8))
        plain(axes, scheme, "x")
        axes.axvline(0, color=scheme.ink, linewidth=1)
        for height, change in enumerate(chosen):
            _change(axes, height, change, scheme)
        texts = [printable(names[change.label], 14).replace("$", r"\$") for change in chosen]
        axes.set_yticks(range(len(chosen)), texts)
        axes.set_ylim(-0.7, len(chosen) - 0.3)
        axes.set_xlabel("Change of accuracy, points", color=scheme.ink)
        more = f" ({len(chosen)} of {len(changes)} classes)" if len(chosen) < len(changes) else ""
        axes.set_title(f"Change by class{more}", loc="left", color=scheme.ink, fontsize=11)

    return paint


def _change(axes: Any, height: int, shown: ClassChange, scheme: Scheme) -> None:
    change = shown.change
    colour = (
        (scheme.arms[0] if change.value > 0 else scheme.arms[1]) if change.tells else scheme.ink
    )
    axes.plot((100 * change.low, 100 * change.high), (height, height), color=colour, linewidth=1.6)
    face = colour if change.tells else scheme.paper
    axes.plot(100 * change.value, height, "o", color=colour, markerfacecolor=face, ms=6.5, mew=1.6)
    text = f"{100 * shown.before:.1f} → {100 * shown.after:.1f} %"
    axes.text(
        1.02,
        height,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        color=scheme.ink,
        fontsize=8.5,
    )


# ---- calibration ---------------------------------------------------------------------------------


def calibration(curves: Sequence[tuple[str, Calibration]], baseline: str) -> Paint:
    """Reliability curves, and beneath them where the answers lie."""

    def paint(picture: Any, scheme: Scheme, narrow: bool) -> None:
        picture.set_size_inches(NARROW if narrow else 5.2, 5.0 if narrow else 5.2)
        upper, lower = picture.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": (3.2, 1), "hspace": 0.12}
        )
        for axes in (upper, lower):
            plain(axes, scheme, "both")
        upper.plot((0, 100), (0, 100), color=scheme.ink, linestyle=":", linewidth=1.2)
        for arm, curve in curves:
            first = arm == baseline
            colour, dash = (scheme.ink, (0, (3, 1.2))) if first else (scheme.arms[0], "-")
            _reliability(upper, lower, curve, colour, dash, "s" if first else "o")
        upper.set(xlim=(0, 101), ylim=(0, 101))
        upper.set_title("Right answers, %", loc="left", color=scheme.ink, fontsize=11)
        lower.set_ylim(bottom=0)
        lower.set_title("Answers, %", loc="left", color=scheme.ink, fontsize=9, pad=3)
        lower.set_xlabel("Probability that the network gave its answer, %", color=scheme.ink)
        _key(lower, [(arm, curve, arm == baseline) for arm, curve in curves], scheme)

    return paint


def _reliability(
    upper: Any, lower: Any, curve: Calibration, colour: str, dash: Any, marker: str
) -> None:
    seen = curve.count >= _MIN_ANSWERS
    upper.plot(
        100 * curve.confidence[seen],
        100 * curve.accuracy[seen],
        color=colour,
        linestyle=dash,
        linewidth=2,
        marker=marker,
        ms=4.5,
    )
    edges = np.linspace(0, 100, len(curve.count) + 1)
    lower.stairs(
        100 * curve.count / curve.count.sum(), edges, color=colour, linestyle=dash, linewidth=1.6
    )


def _key(axes: Any, arms: Sequence[tuple[str, Calibration, bool]], scheme: Scheme) -> None:
    """Names below the axes, where no curve goes."""
    for number, (arm, curve, first) in enumerate(arms):
        height = -0.62 - 0.24 * number
        colour, dash = (scheme.ink, (0, (3, 1.2))) if first else (scheme.arms[0], "-")
        axes.plot(
            (0.0, 0.08),
            (height, height),
            color=colour,
            linestyle=dash,
            linewidth=2,
            transform=axes.transAxes,
            clip_on=False,
        )
        text = f"{printable(arm, 36)}, error {100 * curve.error:.1f}"
        axes.text(
            0.1,
            height,
            text,
            transform=axes.transAxes,
            va="center",
            color=scheme.ink,
            fontsize=8.5,
            parse_math=False,
        )


def plain(axes: Any, scheme: Scheme, grid: str) -> None:
    """The look that all figures share."""
    axes.set_facecolor(scheme.paper)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(scheme.faint)
    axes.tick_params(colors=scheme.ink, length=0)
    axes.grid(axis=grid, color=scheme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
