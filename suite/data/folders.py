"""Image folders: ``train/<class>/*`` and ``test/<class>/*``, of any common type and size.

The suffix of a name decides whether a file is an image; other and hidden files are ignored. Folders
inside a class folder are searched, too, and links are followed. Labels are the positions of the
class names in sorted order.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from suite.core.errors import EnvironmentProblem, Problem, UsageError, raise_problems
from suite.data import pixels
from suite.data.dataset import Dataset, Images, Labels, Report
from suite.data.problems import capped, enough

LAYOUT = "train/<class>/* and test/<class>/*"
PARTS = ("train", "test")
# Formats of every Pillow installation, by lower-case suffix.
_PHOTOS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
SUFFIXES = frozenset((*_PHOTOS, ".ppm", ".pgm", ".pbm", ".pnm"))
DEFAULT_SIDE = 64  # pixels, if the images are not all squares of one size
_SIDES = range(8, 1025)  # allowed values of data.image_size
_CHUNK_BYTES = 16 * 2**20  # decoded pixels per job
# Threads help only if decoding (which releases Python's lock) takes longer than opening. On two
# cores two threads took 1.6 times as long as one for 2 KB JPEGs, as long at 3.5 KB, and half as
# long at 20 KB.
_THREADED_BYTES = 6 * 2**10

_log = logging.getLogger(__name__)


class File(NamedTuple):
    """One image file: path relative to the root, label, size in bytes, modification time in ns."""

    path: str
    label: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """The content of an image folder, before anything is decoded."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[File, ...]
    test: tuple[File, ...]

    def key(self, image_size: int | None) -> str:
        """Text that changes when a file is added, removed, renamed or changed."""
        return json.dumps([str(self.root), image_size, self.classes, self.train, self.test])


# ---- listing ----


def scan(root: Path) -> Listing:
    """List an image folder.

    Raises:
        EnvironmentProblem: lists all problems of its structure.
    """
    if not root.is_dir():
        what = "it is a file" if root.exists() else "no such folder"
        raise_problems(
            capped(
                [f"data.root must be a folder of images, got {root}: {what}"],
                f"Expected in it: {LAYOUT}.",
            )
        )
    problems: list[Problem] = []
    files = {part: _scan_part(root, part, problems) for part in PARTS}
    classes = tuple(sorted(set().union(*files.values())))
    if all(files.values()):
        problems += _class_problems(root, files, classes)
    raise_problems(problems)
    train, test = (_labelled(files[part], classes) for part in PARTS)
    return Listing(root, classes, train, test)


def _scan_part(root: Path, part: str, problems: list[Problem]) -> dict[str, list[File]]:
    """Class name -> its files, with label 0."""
    folder = root / part
    if not folder.is_dir():
        rule = f"data.root must hold {LAYOUT}, but {root} has no folder {part}"
        problems += capped([rule], f"It holds: {enough(_visible(root)) or 'nothing'}.")
        return {}
    names = [name for name in _visible(folder) if (folder / name).is_dir()]
    if not names:
        rule = f"{folder} must hold one folder per class, found none"
        problems += capped([rule], f"It holds: {enough(_visible(folder)) or 'nothing'}.")
    ignored: Counter[str] = Counter()
    broken: list[str] = []
    classes = {name: _scan_class(root, folder / name, ignored, broken) for name in names}
    problems += capped(broken, "Repair or remove these files.")
    if ignored:
        _log.info(
            "%s: ignored %s files that are not images (%s)",
            folder,
            ignored.total(),
            enough(sorted(ignored)),
        )
    return classes


def _visible(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def _scan_class(root: Path, folder: Path, ignored: Counter[str], broken: list[str]) -> list[File]:
    files, start = [], len(os.path.join(root, ""))  # noqa: PTH118
    for path in _walk(str(folder), frozenset(), broken):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122  (faster than Path)
        if suffix not in SUFFIXES:
            ignored[suffix or "without ending"] += 1
            continue
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            broken.append(f"{path} cannot be read: {error.strerror}")
            continue
        files.append(File(path[start:], 0, status.st_size, status.st_mtime_ns))
    return sorted(files)


def _walk(folder: str, above: frozenset[str], broken: list[str]) -> Iterator[str]:
    """All visible files below ``folder``, except through links to a folder above."""
    above |= {os.path.realpath(folder)}
    try:
        with os.scandir(folder) as entries:
            listed = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        broken.append(f"{folder} cannot be read: {error.strerror}")
        return
    for entry in listed:
        if not entry.is_dir():
            yield entry.path
        elif os.path.realpath(entry.path) not in above:
            yield from _walk(entry.path, above, broken)


def _class_problems(
    root: Path, parts: dict[str, dict[str, list[File]]], classes: tuple[str, ...]
) -> list[Problem]:
    """Problems of class folders, if both train and test have them."""
    problems: list[Problem] = []
    only = {
        part: [name for name in classes if name not in parts[other]]
        for part, other in zip(PARTS, PARTS[::-1], strict=True)
    }
    if any(only.values()):
        sides = "; ".join(
            f"only in {part}: {enough(names)}" for part, names in only.items() if names
        )
        remedy = "Give both parts the same class folders, spelled alike."
        problems += capped(
            [f"train and test must hold the same classes in {root}, but {sides}"], remedy
        )
    elif len(classes) < 2:
        problems += capped(
            [f"at least two classes are needed, {root} has one: {classes[0]}"],
            "Add a class folder.",
        )
    empty = [
        f"{root / part / name} holds no image"
        for part in PARTS
        for name, files in parts[part].items()
        if not files
    ]
    problems += capped(
        empty, f"An image is a file that ends in one of {' '.join(sorted(SUFFIXES))}."
    )
    return problems


def _labelled(by_class: dict[str, list[File]], classes: tuple[str, ...]) -> tuple[File, ...]:
    return tuple(
        file._replace(label=label) for label, name in enumerate(classes) for file in by_class[name]
    )


# ---- decoding ----


def decode(
    listing: Listing, image_size: int | None, folder: Path, report: Report | None = None
) -> Dataset:
    """Decode all images into ``folder``, as ``train_images.npy`` and ``test_images.npy``.

    Images are written as they are decoded, so a dataset may be larger than the memory.

    Args:
        listing: from ``scan``.
        image_size: side in pixels; None = that of the images if all are squares of one size, else
            64.
        folder: for the arrays.
        report: called with (images decoded, all images).

    Raises:
        EnvironmentProblem: lists every image that cannot be decoded.
        OSError: ``folder`` cannot be written.
    """
    if image_size is not None:
        return _decode(listing, image_size, False, folder, report)
    side = _first_side(listing)
    try:
        return _decode(listing, side, True, folder, report)
    except pixels.OtherSizeError:  # usually early, so cheaper than reading all headers first
        return _decode(listing, DEFAULT_SIDE, False, folder, report)


def _decode(
    listing: Listing, side: int, exact: bool, folder: Path, report: Report | None
) -> Dataset:
    total, done = len(listing.train) + len(listing.test), 0
    bad: list[str] = []
    decoded: dict[str, tuple[Images, Labels]] = {}
    for part, files in (("train", listing.train), ("test", listing.test)):
        path = folder / f"{part}_images.npy"
        with path.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), 3, side, side)}
            np.lib.format.write_array_header_1_0(out, header)
            for images, failures in _chunks(listing.root, files, side, exact):
                out.write(images.data)
                bad += failures
                done += len(images)
                if report is not None:
                    report(done, total)
        labels = np.array([file.label for file in files], np.int64)
        decoded[part] = (np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)), labels)
    raise_problems(capped(bad, "Replace or remove these files."))
    return Dataset.of("folder", listing.classes, decoded["train"], decoded["test"])


def _chunks(
    root: Path, files: tuple[File, ...], side: int, exact: bool
) -> Iterator[tuple[Images, list[str]]]:
    """Images (B, 3, side, side) in the order of ``files``; failures are black, with a message."""
    step = max(1, min(512, _CHUNK_BYTES // (3 * side * side)))
    paths = [str(root / file.path) for file in files]
    threaded = sum(file.size for file in files) >= _THREADED_BYTES * len(files)
    pool = ThreadPoolExecutor((os.cpu_count() or 1) if threaded else 1)
    try:
        yield from pool.map(
            partial(_decode_chunk, side, exact),
            [paths[i : i + step] for i in range(0, len(paths), step)],
        )
    finally:
        pool.shutdown(cancel_futures=True)  # stops at once on Ctrl-C


def _decode_chunk(side: int, exact: bool, paths: list[str]) -> tuple[Images, list[str]]:
    images = np.zeros((len(paths), 3, side, side), np.uint8)
    bad = []
    for row, path in zip(images, paths, strict=True):
        try:
            row[:] = pixels.decode(path, side, exact)
        except (MemoryError, pixels.OtherSizeError):
            raise
        except Exception as error:  # Pillow's decoders raise any error for damaged files
            bad.append(f"{path} cannot be decoded: {_reason(error)}")
    return images, bad


def read_images(folder: Path, side: int) -> tuple[list[str], Images]:
    """All images below a folder, whatever its structure, for prediction.

    Returns:
        paths: sorted.
        images: uint8 (N, 3, side, side), resized as for training.

    Raises:
        EnvironmentProblem: lists every image that cannot be decoded.
    """
    problems: list[str] = []
    files = sorted(_walk(str(folder), frozenset(), problems))
    paths = [path for path in files if Path(path).suffix.lower() in SUFFIXES]
    images, bad = _decode_chunk(side, False, paths)
    raise_problems(capped([*problems, *bad], "Repair or remove them."))
    return paths, images


def read_image(path: Path, side: int) -> Images:
    """One image file as uint8 (3, side, side), resized as for training.

    Raises:
        UsageError: there is no such file.
        EnvironmentProblem: it cannot be decoded.
    """
    if not path.is_file():
        raise UsageError(f"the image must be a file, got {path}")
    try:
        return pixels.decode(str(path), side)
    except Exception as error:  # Pillow raises any error for a damaged file
        raise EnvironmentProblem(
            f"{path} cannot be shown: {_reason(error)}", remedy="Give an image file."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or an unsupported format"
    return str(error) or type(error).__name__


def _first_side(listing: Listing) -> int:
    """The side of the first readable image, if it is a square of an allowed size; else 64."""
    for file in (*listing.train, *listing.test):
        try:
            with Image.open(listing.root / file.path) as image:
                width, height = image.size
        except Exception:  # decoding will report it
            continue
        return width if width == height and width in _SIDES else DEFAULT_SIDE
    return DEFAULT_SIDE
