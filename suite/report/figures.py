"""The style of all figures, and the main figure: a line per arm, with a band over its seeds.

Drawn without pyplot, so without global state, in two shapes, of which a page chooses one. Colours
are those of a light page; ``darkened`` makes the drawing for a dark page.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from suite.analysis import Curve
from suite.core.records import Status
from suite.report.formatting import heading, scale

IN_COLOUR = 9  # arms besides the baseline that get a colour and a label; the others are grey


@dataclass(frozen=True)
class Scheme:
    """Colours of a background; ``arms`` suit colour-blind readers (after Okabe and Ito, 2008)."""

    paper: str
    ink: str
    faint: str
    grey: str
    arms: tuple[str, ...]
    steps: tuple[str, ...]  # of a number that rises


LIGHT = Scheme(
    "#ffffff",
    "#1c1e21",
    "#d9dce1",
    "#b4b8bf",
    (
        "#0072b2",
        "#d55e00",
        "#009e73",
        "#b0498a",
        "#c98a00",
        "#3d9fd6",
        "#7a1f4b",
        "#7f7f1e",
        "#33228a",
    ),
    ("#e3a72f", "#d97a35", "#b9485a", "#8c2f79", "#573083", "#1d2a6b"),
)
DARK = Scheme(
    "#16181c",
    "#e8eaed",
    "#33373e",
    "#5d636d",
    (
        "#5aa9e6",
        "#ff8a4c",
        "#3cc79a",
        "#e79ccb",
        "#f2c14e",
        "#9ad8f7",
        "#d0749b",
        "#c5c56a",
        "#9a90e8",
    ),
    ("#8a6a1c", "#b36a30", "#d4626f", "#dd7fc0", "#bb9cf0", "#b9d2ff"),
)
WIDE, NARROW = (8.0, 4.6), (3.9, 4.4)  # inches; the narrow shape is readable on a phone
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # lines differ in grey print too


@dataclass(frozen=True)
class Style:
    """How an arm is drawn, the same in every figure; arms without a label are grey."""

    colour: str
    dash: Any = "-"
    named: bool = True
    baseline: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a figure as it will be drawn."""

    curve: Curve
    colour: str
    dash: Any
    text: str  # "" = not labelled


def styles(
    arms: Sequence[str], baselines: Sequence[str], scheme: Scheme = LIGHT
) -> dict[str, Style]:
    """Arm -> its style: baselines in ink, the first arms in colours, all others grey."""
    by_arm: dict[str, Style] = {}
    place = 0
    for arm in arms:
        if arm in baselines and len(baselines) <= IN_COLOUR:
            by_arm[arm] = Style(scheme.ink, (0, (3, 1.2)), baseline=True)
        elif place < IN_COLOUR:
            by_arm[arm] = Style(
                scheme.arms[place % len(scheme.arms)], _DASHES[place // 3 % len(_DASHES)]
            )
            place += 1
        else:
            by_arm[arm] = Style(scheme.grey, "-", named=False)
    return by_arm


def local_styles(
    arms: Sequence[str], looks: dict[str, Style], scheme: Scheme = LIGHT
) -> dict[str, Style]:
    """The styles of a few arms; arms that are grey elsewhere get free colours."""
    used = {looks[arm].colour for arm in arms if arm in looks and looks[arm].named}
    free = iter([colour for colour in scheme.arms if colour not in used])
    return {
        arm: looks[arm] if arm in looks and looks[arm].named else Style(next(free, scheme.grey))
        for arm in arms
    }


def lines(curves: Sequence[Curve], looks: dict[str, Style]) -> list[Line]:
    """The lines of a figure in their looks."""
    drawn = []
    for curve in curves:
        look = looks[curve.arm]
        text = _text(curve) + (" (baseline)" if look.baseline else "") if look.named else ""
        drawn.append(Line(curve, look.colour, look.dash, text))
    return drawn


def _text(curve: Curve) -> str:
    word = {Status.FINISHED: "", Status.STOPPED: ", stopped early"}.get(
        curve.status, ", unfinished"
    )
    return curve.arm + word


@dataclass(frozen=True)
class Curves:
    """The main figure: one metric, every arm.

    Attributes:
        lines: best arm first.
        title: "" = the metric's.
        below: what the numbers along the bottom count.
        factor: what values are multiplied by; 0 = the metric's.
    """

    lines: tuple[Line, ...]
    metric: str
    title: str = ""
    below: str = "Epoch"
    factor: float = 0.0

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """See ``parts.Plot``."""
        size = NARROW if narrow else WIDE
        with canvas(size) as picture:
            axes = picture.add_axes(_frame(size))
            factor = self.factor or scale(self.metric)
            for line in reversed(self.lines):  # the best on top
                draw_line(axes, line, factor)
            style(axes, LIGHT, self.title or heading(self.metric), self.below)
            _label(axes, self.lines, factor, LIGHT, size)
            return saved(picture, kinds)


@contextmanager
def canvas(size: tuple[float, float], paper: str = LIGHT.paper) -> Iterator[Any]:
    """An empty figure, size in inches, with the settings for drawing and saving it."""
    import matplotlib  # half a second to import
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.hashsalt": "suite", "font.family": "DejaVu Sans", "font.size": 9.5}
    ):
        yield Figure(figsize=size, facecolor=paper)


def saved(picture: Any, kinds: Sequence[str]) -> tuple[bytes, ...]:
    """A figure as the content of a file of each kind (``png``, ``svg``), cropped; reproducible.

    matplotlib's ``bbox_inches="tight"`` draws it once more for each file to find out where to cut.
    """
    edges = picture.get_tightbbox().padded(0.08)  # inches
    files = []
    for kind in kinds:
        file = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        picture.savefig(file, format=kind, dpi=200, metadata=metadata, bbox_inches=edges)
        files.append(file.getvalue())
    return tuple(files)


def address(drawing: bytes) -> str:
    """An SVG drawing as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def darkened(drawing: bytes) -> bytes:
    """An SVG drawing in the colours of a dark page."""
    pairs = zip(_colours(LIGHT), _colours(DARK), strict=True)
    mapping = {light.encode(): dark.encode() for light, dark in pairs}
    return re.sub(rb"#[0-9a-f]{6}", lambda colour: mapping.get(colour[0], colour[0]), drawing)


def _colours(scheme: Scheme) -> tuple[str, ...]:
    return (scheme.paper, scheme.ink, scheme.faint, scheme.grey, *scheme.arms, *scheme.steps)


def _frame(size: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, bottom, width, height of the axes as fractions; the rest is for labels."""
    if size[0] < 5:
        return 0.135, 0.42, 0.835, 0.5
    return 0.075, 0.115, 0.64, 0.8


def draw_line(axes: Any, line: Line, factor: float, width: float = 2.0) -> None:
    """A curve with its band; a cross where it was cut."""
    mean, low, high = (
        [value * factor for value in values]
        for values in (line.curve.mean, line.curve.low, line.curve.high)
    )
    epochs, named = line.curve.epochs, bool(line.text)
    marker = "o" if len(epochs) <= 12 and named else None
    axes.plot(
        epochs,
        mean,
        color=line.colour,
        linestyle=line.dash,
        linewidth=width if named else 0.8,
        marker=marker,
        ms=width * 2,
    )
    if named and line.curve.seeds > 1:
        axes.fill_between(epochs, low, high, color=line.colour, alpha=0.14, linewidth=0)
    if line.curve.status is not Status.FINISHED:
        axes.plot(epochs[-1:], mean[-1:], color=line.colour, marker="x", ms=8, mew=2)


def style(axes: Any, scheme: Scheme, title: str, below: str, whole: bool = True) -> None:
    """The look of a pair of axes.

    Args:
        whole: whether the numbers along the bottom are whole ones.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set_facecolor(scheme.paper)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(scheme.faint)
    axes.tick_params(colors=scheme.ink, length=0)
    axes.grid(axis="y", color=scheme.faint, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(below, color=scheme.ink)
    axes.set_title(title, loc="left", color=scheme.ink, fontsize=11, parse_math=False)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        if axes.lines:
            first, last = axes.dataLim.intervalx
            axes.set_xlim(first - (last - first or 1) * 0.03, last + (last - first or 1) * 0.02)


def _label(
    axes: Any, shown: Sequence[Line], factor: float, scheme: Scheme, size: tuple[float, float]
) -> None:
    """A label for each coloured line: right of its end, or below the axes of a narrow figure."""
    named = [line for line in shown if line.text]
    if size[0] < 5:
        _label_below(axes, named, scheme)
    else:
        _label_ends(axes, named, factor, scheme)
    if grey := len(shown) - len(named):
        height = _below(len(named)) if size[0] < 5 else -0.15
        axes.text(
            0.0,
            height,
            f"in grey: {grey} more",
            transform=axes.transAxes,
            va="center",
            color=scheme.ink,
            fontsize=8.5,
        )


def _label_ends(axes: Any, named: Sequence[Line], factor: float, scheme: Scheme) -> None:
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    ends = [(line.curve.mean[-1] * factor - low) / (high - low) for line in named]
    last = max((line.curve.epochs[-1] for line in named), default=1)
    for line, end, height in zip(named, ends, spread(ends, 0.052), strict=True):
        start = (line.curve.epochs[-1] - left) / (right - left)
        alpha = 1.0 if line.curve.epochs[-1] == last else 0.5
        axes.plot(
            (start, 1.012, 1.03),
            (end, height, height),
            color=line.colour,
            linewidth=0.8,
            alpha=alpha,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            1.037,
            height,
            printable(line.text, 32),
            transform=axes.transAxes,
            va="center",
            color=scheme.ink,
            parse_math=False,
        )


def _label_below(axes: Any, named: Sequence[Line], scheme: Scheme) -> None:
    for number, line in enumerate(named):
        height = _below(number)
        axes.plot(
            (0.0, 0.09),
            (height, height),
            color=line.colour,
            linestyle=line.dash,
            linewidth=2,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            0.12,
            height,
            printable(line.text, 40),
            transform=axes.transAxes,
            va="center",
            color=scheme.ink,
            fontsize=8.5,
            parse_math=False,
        )


def _below(number: int) -> float:
    return -0.27 - 0.072 * number


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1], moved as little as needed to be ``gap`` apart, in their order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        groups.append([index])
        while (
            len(groups) > 1
            and _bottom(groups[-1], heights, gap) < _top(groups[-2], heights, gap) + gap
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = list(heights)
    for group in groups:
        for number, index in enumerate(group):
            placed[index] = _bottom(group, heights, gap) + gap * number
    return placed


def _bottom(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """Where the lowest of labels that touch goes: around their middle, but inside the axes."""
    height = gap * (len(group) - 1)
    middle = sum(heights[index] for index in group) / len(group)
    return max(0.0, min(middle - height / 2, 1.0 - height))


def _top(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _bottom(group, heights, gap) + gap * (len(group) - 1)


def printable(text: str, length: int) -> str:
    """``text`` on one line, cut in the middle, with boxes for letters that the font lacks."""
    from matplotlib import font_manager

    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    text = "".join(letter if ord(letter) in known else "□" for letter in " ".join(text.split()))
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
