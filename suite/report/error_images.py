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
from suite.analysis.predictions import DiscriminatingImage
from suite.core.errors import SuiteError
from suite.report.paired_predictions import PairedPredictions
from suite.report.runs import parsed
from suite.tracking import SweepRuns

IMAGES = "test_images.npz"
MAX_TILES = 16  # in each group

TileGroup = tuple[str, tuple["Tile", ...]]  # heading, images


@dataclass(frozen=True)
class Tile:
    """A test image in the page.

    Attributes:
        address: the image as a data URL.
        truth: the name of its class.
        mistaken: the class that the wrong arm gives it.
        score: how many networks of either arm are right, "" if each arm has one network.
    """

    address: str
    truth: str
    mistaken: str
    score: str


@dataclass(frozen=True, eq=False)
class Images:
    """Test images that the sweep stored.

    Attributes:
        pixels: uint8 (M, H, W, 3).
        row: number in the data set's test images -> row of ``pixels``.
    """

    pixels: npt.NDArray[np.uint8]
    row: dict[int, int]


def class_names_and_images(
    runs: SweepRuns, uri: str, classes: int
) -> tuple[list[str], Images | None]:
    """The names of the classes, and the stored images; numbers and None if the store lacks them."""
    names = parsed(runs.parent.tags.get("suite.classes"))
    images = None
    try:
        with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
            path = tracking.download(uri, runs.parent.run_id, IMAGES, Path(folder))
            with path.open("rb") as opened, np.load(opened) as file:
                row = {int(index): row for row, index in enumerate(file["index"])}
                images = Images(file["images"], row)
                names = names or [str(name) for name in file["classes"]]
    except (SuiteError, OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error):
        pass
    if not isinstance(names, list) or len(names) != classes:
        names = [f"class {number}" for number in range(classes)]
    return [str(name) for name in names], images


def tile_groups(
    pairs: PairedPredictions,
    baseline: str,
    winner: str,
    names: Sequence[str],
    images: Images | None,
) -> tuple[tuple[TileGroup, ...], tuple[str, ...]]:
    """The images on which the two arms differ most, either way; and sentences if there are none."""
    if images is None:
        return (), (
            "The test images on which they differ most cannot be shown: "
            "the sweep stored none (no test_images.npz).",
        )
    groups: list[TileGroup] = []
    for right, wrong, arm, other in (
        (pairs.ours, pairs.theirs, winner, baseline),
        (pairs.theirs, pairs.ours, baseline, winner),
    ):
        ranked = predictions.discriminating_images(right, wrong, pairs.images)
        shown = [image for image in ranked if image.index in images.row][:MAX_TILES]
        if shown:
            tiles = tuple(_tile(image, names, images, len(pairs.seeds)) for image in shown)
            groups.append((f"Right with {arm}, wrong with {other}", tiles))
    if not groups:
        return (), ("The sweep stored none of the images on which they differ most.",)
    return tuple(groups), ()


def _tile(image: DiscriminatingImage, names: Sequence[str], images: Images, seeds: int) -> Tile:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images.pixels[images.row[image.index]]).save(file, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    right = f"{round(image.ours * seeds)} of {seeds} against {round(image.theirs * seeds)}"
    return Tile(address, names[image.label], names[image.mistaken], right if seeds > 1 else "")
