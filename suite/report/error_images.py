"""The test images on which two arms differ most."""

from __future__ import annotations

import base64
import io
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from suite import tracking
from suite.analysis import predictions
from suite.analysis.predictions import Telling
from suite.core.errors import SuiteError
from suite.report.paired_predictions import Duel
from suite.report.runs import parsed
from suite.tracking import SweepRuns

IMAGES = "test_images.npz"
TILES = 16  # images of each kind that are shown


@dataclass(frozen=True)
class Tile:
    """A test image in the page.

    Attributes:
        address: the picture itself, as an address.
        truth: the name of its class; mistaken: what the arm that is wrong takes it for.
        score: how many networks of either arm are right, "" where each arm has one.
    """

    address: str
    truth: str
    mistaken: str
    score: str


@dataclass(frozen=True, eq=False)
class Images:
    """Test images that the sweep kept: uint8 (M, H, W, 3), and their rows in the data set's test images."""

    pixels: npt.NDArray[np.uint8]
    row: dict[int, int]


def class_names_and_images(
    runs: SweepRuns, uri: str, classes: int
) -> tuple[list[str], Images | None]:
    """The names of the classes, and the kept images; numbers and None where the store has none."""
    names = parsed(runs.parent.tags.get("suite.classes"))
    images = None
    try:
        with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
            path = tracking.download(uri, runs.parent.run_id, IMAGES, Path(folder))
            with path.open("rb") as opened, np.load(opened) as file:
                images = Images(
                    file["images"], {int(index): row for row, index in enumerate(file["index"])}
                )
                names = names or [str(name) for name in file["classes"]]
    except (SuiteError, OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error):
        pass
    if not isinstance(names, list) or len(names) != classes:
        names = [f"class {number}" for number in range(classes)]
    return [str(name) for name in names], images


def choose_tiles(
    found: Duel, baseline: str, winner: str, names: Sequence[str], images: Images | None
) -> tuple[tuple[tuple[str, tuple[Tile, ...]], ...], tuple[str, ...]]:
    """The images on which the two arms differ most, either way; and what is missing."""
    if images is None:
        return (), (
            "The test images on which they differ most cannot be shown: the sweep kept none (no test_images.npz).",
        )
    groups = []
    for right, wrong, arm, other in (
        (found.ours, found.theirs, winner, baseline),
        (found.theirs, found.ours, baseline, winner),
    ):
        best = predictions.telling(right, wrong, found.images)
        kept = [one for one in best if one.index in images.row][:TILES]
        if kept:
            heading = f"Right with {arm}, wrong with {other}"
            groups.append(
                (heading, tuple(_tile(one, names, images, len(found.seeds)) for one in kept))
            )
    if not groups:
        return (), (
            "None of the images on which they differ most is among those that the sweep kept.",
        )
    return tuple(groups), ()


def _tile(one: Telling, names: Sequence[str], images: Images, seeds: int) -> Tile:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images.pixels[images.row[one.index]]).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    score = (
        f"{round(one.ours * seeds)} of {seeds} against {round(one.theirs * seeds)}"
        if seeds > 1
        else ""
    )
    return Tile(address, names[one.label], names[one.mistaken], score)
