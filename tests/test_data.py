"""Data sets, their cache, their split, their tensors: on real image files, made here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from suite import data
from suite.data.splits import stratified_order
from suite.errors import EnvironmentProblem, UsageError
from suite.records import stream
from suite.spec.config import DataConfig

ROOT = Path(__file__).parent.parent


# ---- making image folders --------------------------------------------------------------------------------------------


def noise(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), train: int = 3, test: int = 2) -> Path:
    """Square PNGs of 16 pixels, all different."""
    seed = 0
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            for number in range(count):
                save(noise(seed), root / part / name / f"{number}.png")
                seed += 1
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load_folder(root: Path, cache: Path, **options: Any) -> data.Dataset:
    report = options.pop("report", None)
    return data.load(DataConfig(name="folder", root=str(root), **options), cache, report)


def problems_of(root: Path, cache: Path) -> list[str]:
    with pytest.raises(EnvironmentProblem) as caught:
        load_folder(root, cache)
    assert caught.value.exit_code == 6
    return [str(problem) for problem in caught.value.problems]


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_labels_follow_the_sorted_class_names_and_pixels_are_those_of_the_files(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "images"
    for part in ("train", "test"):
        for value, name in enumerate(("zebra", "Ant", "bee")):
            for number in range(2):
                save(Image.new("RGB", (12, 12), (value, number, 77)), root / part / name / f"{number}.png")
    dataset = load_folder(root, cache)
    assert dataset.classes == ("Ant", "bee", "zebra")
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train_images.shape == (6, 3, 12, 12)
    assert dataset.train_images.dtype == np.uint8 and dataset.test_labels.dtype == np.int64
    assert dataset.train_images[:, :, 5, 5].tolist() == [[v, n, 77] for v in (1, 2, 0) for n in (0, 1)]
    assert dataset.image_size == 12 and dataset.num_classes == 3


def test_rows_and_columns_and_colours_are_not_swapped(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "images")
    pixels = np.asarray(Image.open(root / "test" / "dog" / "1.png"))
    assert (load_folder(root, cache).test_images[3].transpose(1, 2, 0) == pixels).all()


def test_hidden_files_and_files_that_are_no_images_are_ignored(folder: Path, cache: Path) -> None:
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    (folder / "train" / "cat" / "._0.png").write_bytes(b"not a PNG")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "list.csv").write_text("a,b")
    assert len(load_folder(folder, cache).train_labels) == 6


def test_endings_in_capitals_folders_in_class_folders_and_links_count(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    save(noise(100), folder / "train" / "cat" / "big.PNG")
    save(noise(101), folder / "train" / "cat" / "more" / "deep.bmp")
    elsewhere = save(noise(102), tmp_path / "elsewhere" / "linked.png")
    (folder / "train" / "cat" / "link.png").symlink_to(elsewhere)
    (folder / "train" / "dog" / "whole").symlink_to(elsewhere.parent)
    assert np.bincount(load_folder(folder, cache).train_labels).tolist() == [6, 4]


def test_a_link_to_a_folder_above_ends(folder: Path, cache: Path) -> None:
    (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat")
    assert np.bincount(load_folder(folder, cache).train_labels).tolist() == [3, 3]


@pytest.mark.parametrize("size", [(40, 24), (24, 40), (17, 53), (101, 67), (19, 16), (16, 23), (20, 20)])
@pytest.mark.parametrize("side", [16, 33])
def test_resizing_is_that_of_torchvision(tmp_path: Path, cache: Path, size: tuple[int, int], side: int) -> None:
    from suite.vision import torchvision

    root = make_folder(tmp_path / "images")
    image = noise(7, *size)
    save(image, root / "train" / "cat" / "0.png")
    transforms = torchvision.transforms
    expected = transforms.CenterCrop(side)(transforms.Resize(side)(image))
    found = load_folder(root, cache, image_size=side).train_images[0]
    assert (found == np.asarray(expected).transpose(2, 0, 1)).all()


def test_the_default_side_is_that_of_all_images_or_64(folder: Path, cache: Path) -> None:
    assert load_folder(folder, cache).image_size == 16
    save(noise(1, 16, 17), folder / "test" / "dog" / "1.png")  # the last one read
    assert load_folder(folder, cache).image_size == 64
    assert load_folder(folder, cache, image_size=8).image_size == 8


def only_pixel(root: Path, cache: Path) -> list[int]:
    return load_folder(root, cache, image_size=8).train_images[0, :, 4, 4].tolist()


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    if transparent:
        image.info["transparency"] = bytes([0, 128])
    return image


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("L", (8, 8), 90), "0.png", [90, 90, 90]),
        (Image.new("1", (8, 8), 1), "0.png", [255, 255, 255]),
        (Image.new("LA", (8, 8), (90, 5)), "0.png", [90, 90, 90]),
        (Image.new("RGBA", (8, 8), (1, 2, 3, 50)), "0.png", [1, 2, 3]),
        (palette(transparent=False), "0.png", [10, 20, 30]),
        (palette(transparent=True), "0.png", [10, 20, 30]),
        (palette(transparent=False), "0.gif", [10, 20, 30]),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "0.tif", [255, 0, 0]),
        (Image.fromarray(np.full((8, 8), 0x8040, np.uint16)), "0.png", [0x80] * 3),
        (Image.fromarray(np.full((8, 8), 0x0140, np.uint16)), "0.tif", [1] * 3),
        (Image.fromarray(np.full((8, 8), 0x8040, np.int32)), "0.tif", [0x80] * 3),
        (Image.fromarray(np.full((8, 8), 200, np.int32)), "0.tif", [200] * 3),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_pixels_of_every_mode_become_rgb(
    folder: Path, cache: Path, image: Image.Image, name: str, expected: list[int]
) -> None:
    (folder / "train" / "cat" / "0.png").unlink()
    save(image, folder / "train" / "cat" / name)
    assert only_pixel(folder, cache) == expected


def test_the_orientation_that_a_camera_wrote_is_applied(folder: Path, cache: Path) -> None:
    image = noise(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    save(image, folder / "train" / "cat" / "0.png", exif=exif)
    upright = np.rot90(np.asarray(image), k=-1)
    assert (load_folder(folder, cache).train_images[0] == upright.transpose(2, 0, 1)).all()


def test_many_large_files_decoded_by_threads_keep_their_order(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "images"
    for part, count in (("train", 80), ("test", 3)):
        for label, name in enumerate(("a", "b")):
            for number in range(count):
                image = np.asarray(noise(number, 300, 300)).copy()
                image[:] |= 1
                image[150, 150] = (number, label, 0)
                save(Image.fromarray(image), root / part / name / f"{number:03}.png", compress_level=0)
    dataset = load_folder(root, cache, image_size=300)
    assert dataset.train_images[:, :2, 150, 150].tolist() == [[n, label] for label in range(2) for n in range(80)]


def test_progress_counts_up_to_all_images(folder: Path, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_folder(folder, cache, report=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# ---- what is wrong with a folder -------------------------------------------------------------------------------------


def test_a_folder_needs_a_root(cache: Path) -> None:
    with pytest.raises(UsageError, match="needs data"):
        data.load(DataConfig(name="folder"), cache)


def test_a_missing_root_is_named_in_full(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems_of(Path("nowhere"), cache)
    assert str(tmp_path / "nowhere") in problem and "train/<class>/*" in problem and "no such folder" in problem
    (tmp_path / "file").write_text("")
    assert "that is a file" in problems_of(Path("file"), cache)[0]


def test_missing_parts_are_named_with_what_is_there_instead(folder: Path, cache: Path) -> None:
    (folder / "test").rename(folder / "validation")
    (problem,) = problems_of(folder, cache)
    assert "no folder test" in problem and "train, validation" in problem
    shutil.rmtree(folder / "train")
    assert [("no folder train" in p, "no folder test" in p) for p in problems_of(folder, cache)] == [(1, 0), (0, 1)]


def test_images_that_lie_beside_the_class_folders_are_not_a_class(tmp_path: Path, cache: Path) -> None:
    for part in ("train", "test"):
        save(noise(0), tmp_path / "flat" / part / "0.png")
    problems = problems_of(tmp_path / "flat", cache)
    assert len(problems) == 2
    assert all("one folder per class" in problem and "0.png" in problem for problem in problems)


def test_different_classes_and_empty_ones_are_all_named_at_once(folder: Path, cache: Path) -> None:
    (folder / "train" / "owl").mkdir()
    (folder / "train" / "owl" / "readme.md").write_text("")
    save(noise(9), folder / "test" / "fox" / "0.png")
    (folder / "test" / "ant").mkdir()
    different, *empty = problems_of(folder, cache)
    assert "only in train: owl" in different and "only in test: ant, fox" in different
    assert [Path(problem.split(" holds")[0]).name for problem in empty] == ["owl", "ant"]


def test_one_class_is_too_few(tmp_path: Path, cache: Path) -> None:
    (problem,) = problems_of(make_folder(tmp_path / "images", classes=("cat",)), cache)
    assert "at least two classes" in problem and "cat" in problem


def test_every_damaged_image_is_named_with_its_reason(folder: Path, cache: Path) -> None:
    text = folder / "train" / "cat" / "text.png"
    text.write_text("no image at all")
    photo = save(noise(1, 64, 64), folder / "test" / "dog" / "cut.jpg")
    photo.write_bytes(photo.read_bytes()[:-500])
    floats = save(Image.fromarray(np.ones((8, 8), np.float32)), folder / "train" / "dog" / "floats.tif")
    problems = problems_of(folder, cache)
    assert len(problems) == 3
    for path, reason in ((text, "not an image"), (floats, "floating-point"), (photo, "truncated")):
        assert [reason in problem for problem in problems if str(path) in problem] == [True]
    assert "remove" in problems[-1]


def test_a_link_to_nothing_is_named_before_anything_is_decoded(folder: Path, cache: Path) -> None:
    (folder / "train" / "cat" / "gone.png").symlink_to(folder / "nothing")
    (problem,) = problems_of(folder, cache)
    assert "gone.png" in problem and "No such file" in problem


def test_ten_damaged_images_are_listed_and_the_others_counted(folder: Path, cache: Path) -> None:
    for number in range(13):
        (folder / "train" / "cat" / f"bad{number:02}.png").write_bytes(b"")
    problems = problems_of(folder, cache)
    assert len(problems) == 11
    assert "bad09.png" in problems[9] and problems[10].startswith("and 3 more")


# ---- the cache -------------------------------------------------------------------------------------------------------


def refuse(done: int, total: int) -> None:
    raise AssertionError("decoded again")


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "data").iterdir())


def test_a_second_load_decodes_nothing_and_gives_the_same(folder: Path, cache: Path) -> None:
    first = load_folder(folder, cache)
    second = load_folder(folder, cache, report=refuse)
    assert (second.name, second.classes, second.digest) == (first.name, first.classes, first.digest)
    for name, array in first.arrays().items():
        assert (second.arrays()[name] == array).all()


def test_loaded_arrays_are_read_only_pages_of_the_cache(folder: Path, cache: Path) -> None:
    for _ in range(2):
        dataset = load_folder(folder, cache)
        for array in dataset.arrays().values():
            assert type(array) is np.ndarray and isinstance(array.base, np.memmap)
            assert not array.flags.writeable and array.flags.c_contiguous


def test_the_cache_holds_no_pickle(folder: Path, cache: Path) -> None:
    load_folder(folder, cache)
    (entry,) = entries(cache)
    names = {path.name for path in entry.iterdir()}
    assert names == {"meta.json"} | {f"{p}_{k}.npy" for p in ("train", "test") for k in ("images", "labels")}
    for path in entry.glob("*.npy"):
        np.load(path, allow_pickle=False)


@pytest.mark.parametrize("change", ["touch", "rewrite", "add", "remove", "rename"])
def test_a_changed_file_is_decoded_again(folder: Path, cache: Path, change: str) -> None:
    load_folder(folder, cache)
    path = folder / "train" / "cat" / "1.png"
    if change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "rewrite":
        save(noise(500), path)
    elif change == "add":
        save(noise(501), path.with_name("new.png"))
    elif change == "remove":
        path.unlink()
    else:
        path.rename(path.with_name("other.png"))
    with pytest.raises(AssertionError, match="decoded again"):
        load_folder(folder, cache, report=refuse)


def test_another_image_size_is_another_entry(folder: Path, cache: Path) -> None:
    assert load_folder(folder, cache).digest != load_folder(folder, cache, image_size=8).digest
    assert len(entries(cache)) == 2


def zero_pages(entry: Path) -> None:
    path = entry / "test_images.npy"
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


def cut(entry: Path) -> None:
    path = entry / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def other_labels(entry: Path) -> None:
    labels = np.load(entry / "train_labels.npy")
    np.save(entry / "train_labels.npy", labels[::-1].copy())


@pytest.mark.parametrize(
    "damage",
    [
        zero_pages,
        cut,
        other_labels,
        lambda entry: (entry / "meta.json").write_text('{"name": '),
        lambda entry: (entry / "meta.json").write_text("[]"),
        lambda entry: (entry / "train_labels.npy").unlink(),
    ],
    ids=["zeros", "cut", "labels", "half a meta", "another meta", "missing"],
)
def test_a_damaged_entry_is_built_again(folder: Path, cache: Path, damage: Any) -> None:
    whole = load_folder(folder, cache)
    digest, pixels = whole.digest, whole.test_images.copy()
    (entry,) = entries(cache)
    damage(entry)
    again = load_folder(folder, cache)
    assert again.digest == digest and (again.test_images == pixels).all()
    assert entries(cache) == [entry]
    load_folder(folder, cache, report=refuse)


def test_a_failed_decode_leaves_nothing_behind(folder: Path, cache: Path) -> None:
    (folder / "train" / "cat" / "bad.png").write_bytes(b"")
    problems_of(folder, cache)
    assert entries(cache) == []


def test_remains_of_a_crash_are_removed_after_a_day(folder: Path, cache: Path) -> None:
    old, new = cache / "data" / ".old", cache / "data" / ".new"
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "train_images.npy").write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    load_folder(folder, cache)
    assert not old.exists() and new.exists()


def test_a_cache_that_cannot_be_written_is_an_environment_problem(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="SUITE_CACHE"):
        load_folder(folder, tmp_path / "file")


LOADER = """
import sys
from pathlib import Path
from suite import data
from suite.spec.config import DataConfig
sys.stdin.read(1)
print(data.load(DataConfig(name="folder", root=sys.argv[1]), Path(sys.argv[2])).digest)
"""


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True) as started:
        yield started


def test_two_processes_at_once_leave_one_whole_entry(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "images", train=100)
    with process(LOADER, str(root), str(cache)) as one, process(LOADER, str(root), str(cache)) as other:
        for started in (one, other):
            assert started.stdin is not None
            started.stdin.write("x")
            started.stdin.flush()
        outputs = [started.communicate(timeout=60) for started in (one, other)]
    digest = load_folder(root, cache, report=refuse).digest
    assert outputs == [(digest + "\n", "")] * 2
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SUITE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"SUITE_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/suite"),
        ({"SUITE_CACHE": "~/x", "HOME": "/c"}, "/c/x"),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/suite"),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert data.cache_folder() == Path(expected)


# ---- the digest ------------------------------------------------------------------------------------------------------


def small(**changes: Any) -> data.Dataset:
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    labels = np.array([0, 1, 0, 1], np.int64)
    parts = {"name": "x", "classes": ("a", "b"), "train": (images, labels), "test": (images[:2], labels[:2])}
    return data.Dataset.of(**{**parts, **changes})


def test_the_digest_is_of_the_content_not_of_its_place(folder: Path, cache: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    for path in moved.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert load_folder(folder, cache).digest == load_folder(moved, tmp_path / "other cache").digest
    assert small().digest == small(name="y").digest


def test_the_digest_changes_with_pixels_labels_classes_and_shapes() -> None:
    images, labels = small().train_images, small().train_labels
    pixel = images.copy()
    pixel[3, 2, 1, 1] ^= 1
    wide = images.reshape(4, 3, 1, 4)
    changed = [
        small(train=(pixel, labels)),
        small(test=(pixel[2:], labels[:2])),
        small(train=(images, labels[::-1].copy())),
        small(classes=("a", "c")),
        small(train=(wide, labels)),
        small(train=(images[:2], labels[:2]), test=(images, labels)),
    ]
    digests = [small().digest, *(dataset.digest for dataset in changed)]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_what_its_definition_says() -> None:
    dataset = small()
    shapes = {
        f"{p}_{k}": list(getattr(dataset, f"{p}_{k}").shape) for p in ("train", "test") for k in ("images", "labels")
    }
    content = json.dumps([["a", "b"], shapes]).encode()
    content += b"".join(array.tobytes() for array in dataset.arrays().values())
    assert dataset.digest == hashlib.sha256(content).hexdigest()


def test_a_data_set_is_pickled_without_copying_its_arrays(folder: Path, cache: Path) -> None:
    dataset = load_folder(folder, cache)
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
    assert len(message) < 2000
    copy = pickle.loads(message, buffers=buffers)
    assert copy.digest == dataset.digest
    assert np.shares_memory(copy.train_images, dataset.train_images)


# ---- digits ----------------------------------------------------------------------------------------------------------


def test_digits_need_no_download_and_have_a_fixed_test_part(cache: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = data.load(DataConfig(name="digits"), cache)
    assert dataset.train_images.shape == (1438, 3, 32, 32) and dataset.test_images.shape == (359, 3, 32, 32)
    assert dataset.classes == tuple("0123456789")
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert np.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()
    assert abs(np.bincount(dataset.test_labels) - np.bincount(labels) * 359 / 1797).max() < 1
    assert (dataset.train_images[:, 0] == dataset.train_images[:, 2]).all()
    assert data.load(DataConfig(name="digits", root="/nowhere", image_size=8), cache).image_size == 8


def test_digits_are_the_right_way_up_and_use_the_whole_range(cache: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = data.load(DataConfig(name="digits", image_size=8), cache)
    known = {
        image.astype(np.uint8).tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    assert dataset.train_images.max() == 255
    back = np.rint(dataset.train_images[:, 0].reshape(-1, 64) * (16 / 255)).astype(np.uint8)
    assert [known[row.tobytes()] for row in back] == dataset.train_labels.tolist()


def test_digits_import_neither_torchvision_nor_ray_nor_mlflow(cache: Path) -> None:
    script = """
import sys
from pathlib import Path
from suite import data
from suite.spec.config import DataConfig
data.load(DataConfig(name="digits"), Path(sys.argv[1]))
print({"torchvision", "ray", "mlflow"} & set(sys.modules))
"""
    with process(script, str(cache)) as started:
        assert started.communicate(timeout=60) == ("set()\n", "")


# ---- torchvision's data sets -----------------------------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchvision's data sets, with addresses at which nobody answers."""
    from suite.vision import torchvision

    closed = "http://127.0.0.1:9/"
    for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100, torchvision.datasets.STL10):
        monkeypatch.setattr(kind, "url", closed + kind.filename)
    splits = {part: [closed + file, file, md5] for part, (_, file, md5) in torchvision.datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [closed])
    return torchvision.datasets


def load_named(name: str, root: Path, cache: Path, **options: Any) -> data.Dataset:
    return data.load(DataConfig(name=name, root=str(root), **options), cache)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "stl10", "fashion_mnist"])
def test_a_host_that_cannot_be_reached_leads_to_three_ways_out(
    name: str, datasets: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        data.load(DataConfig(name=name), cache)
    assert caught.value.exit_code == 6
    message = str(caught.value)
    assert f"data.name={name}" in message and str(cache / "downloads") in message and "refused" in message
    assert all(way in message for way in ("http://127.0.0.1:9/", "by hand", "data.name=folder", "data.name=digits"))


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_fashion(root: Path, train: int = 30) -> np.ndarray:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (train, 28, 28), dtype=np.uint8)
    for prefix, count in (("train", train), ("t10k", 20)):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images[:count]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return images


def test_grey_images_of_fashion_mnist_are_repeated_to_three_channels(
    datasets: Any, tmp_path: Path, cache: Path
) -> None:
    images = write_fashion(tmp_path / "root")
    dataset = load_named("fashion_mnist", tmp_path / "root", cache)
    assert dataset.train_images.shape == (30, 3, 28, 28) and dataset.test_images.shape == (20, 3, 28, 28)
    assert all((dataset.train_images[:, channel] == images).all() for channel in range(3))
    assert dataset.train_labels.tolist() == [n % 10 for n in range(30)]
    assert dataset.classes[9] == "Ankle boot" and dataset.name == "fashion_mnist"
    assert load_named("fashion_mnist", tmp_path / "root", cache, image_size=32).image_size == 32


def test_named_data_is_read_again_when_its_files_change(datasets: Any, tmp_path: Path, cache: Path) -> None:
    write_fashion(tmp_path / "root")
    load_named("fashion_mnist", tmp_path / "root", cache)
    write_fashion(tmp_path / "root", train=40)
    assert len(load_named("fashion_mnist", tmp_path / "root", cache).train_labels) == 40


def test_a_damaged_file_of_fashion_mnist_is_an_environment_problem(datasets: Any, tmp_path: Path, cache: Path) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EnvironmentProblem, match="fashion_mnist"):
        load_named("fashion_mnist", tmp_path, cache)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_svhn_is_read_from_its_own_format(
    datasets: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    labels = (np.arange(20) % 10 + 1).astype(np.uint8)[:, None]  # the digit 0 is written as 10
    splits = {}
    for part, (url, name, _) in datasets.SVHN.split_list.items():
        scipy.io.savemat(tmp_path / name, {"X": images, "y": labels})
        splits[part] = [url, name, md5(tmp_path / name)]
    monkeypatch.setattr(datasets.SVHN, "split_list", splits)
    dataset = load_named("svhn", tmp_path, cache)
    assert (dataset.train_images == images.transpose(3, 2, 0, 1)).all()
    assert dataset.test_labels.tolist() == [(n % 10 + 1) % 10 for n in range(20)]
    assert dataset.classes == tuple("0123456789")


def test_a_file_of_svhn_with_another_checksum_is_named(datasets: Any, tmp_path: Path, cache: Path) -> None:
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": [[1]]})
    with pytest.raises(EnvironmentProblem, match=r"test_32x32\.mat in .* another checksum"):
        load_named("svhn", tmp_path, cache)


def test_stl10_is_read_from_its_own_format(
    datasets: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 96, 96), dtype=np.uint8)
    names = [f"class{n}" for n in range(10)]
    (folder / "class_names.txt").write_text("\n".join(names))
    lists = {}
    for attribute in ("train_list", "test_list"):
        lists[attribute] = []
        for name, _ in getattr(datasets.STL10, attribute):
            columns_first = images.transpose(0, 1, 3, 2).tobytes()
            (folder / name).write_bytes(bytes(range(1, 11)) if name.endswith("_y.bin") else columns_first)
            lists[attribute].append([name, md5(folder / name)])
        monkeypatch.setattr(datasets.STL10, attribute, lists[attribute])
    dataset = load_named("stl10", tmp_path, cache)
    assert (dataset.train_images == images).all() and dataset.image_size == 96
    assert dataset.train_labels.tolist() == list(range(10)) and dataset.classes == tuple(names)


class Malice:
    """A pickle that touches a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def write_cifar(root: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Batches in CIFAR's format, 20 images each, with the checksums that torchvision is to expect."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    key = "labels" if kind.base_folder == "cifar-10-batches-py" else "fine_labels"
    for attribute in ("train_list", "test_list"):
        listed = []
        for name, _ in getattr(kind, attribute):
            batch = {"data": images.reshape(20, 3072), key: [n % 10 for n in range(20)]}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
            listed.append([name, md5(folder / name)])
        monkeypatch.setattr(kind, attribute, listed)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"class{n}" for n in range(10)]}, protocol=2))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    return images


@pytest.mark.parametrize(("name", "kind", "batches"), [("cifar10", "CIFAR10", 5), ("cifar100", "CIFAR100", 1)])
def test_cifar_is_read_from_its_own_format(
    name: str, kind: str, batches: int, datasets: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_cifar(tmp_path, getattr(datasets, kind), monkeypatch)
    dataset = load_named(name, tmp_path, cache)
    assert dataset.train_images.shape == (20 * batches, 3, 32, 32)
    assert (dataset.test_images == images).all() and (dataset.train_images[-20:] == images).all()
    assert dataset.classes[3] == "class3" and dataset.test_labels.tolist() == [n % 10 for n in range(20)]


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_tampered_batch_of_cifar_is_refused_before_it_is_unpickled(
    file: str, datasets: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, datasets.CIFAR10, monkeypatch)
    touched = tmp_path / "touched"
    evil = pickle.dumps(Malice(touched))
    (tmp_path / datasets.CIFAR10.base_folder / file).write_bytes(evil)
    with pytest.raises(EnvironmentProblem) as caught:
        load_named("cifar10", tmp_path, cache)
    assert f"{file} in {tmp_path} has another checksum" in str(caught.value)
    assert not touched.exists()
    pickle.loads(evil)
    assert touched.exists(), "the batch was harmless: this test proves nothing"


def test_cifar_is_downloaded_once_and_then_read_from_the_cache(
    datasets: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, site = tmp_path / "made", tmp_path / "site"
    images = write_cifar(made, datasets.CIFAR10, monkeypatch)
    site.mkdir()
    archive = site / datasets.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made / datasets.CIFAR10.base_folder, datasets.CIFAR10.base_folder)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    with serve(site) as (url, requested):
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}/{archive.name}")
        dataset = data.load(DataConfig(name="cifar10"), cache)
        assert (dataset.test_images == images).all()
        assert (cache / "downloads" / datasets.CIFAR10.base_folder / "data_batch_1").exists()
        before = len(requested)
        assert data.load(DataConfig(name="cifar10"), cache).digest == dataset.digest
        assert before > 0 and len(requested) == before


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and the paths that were asked for."""
    requested: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            requested.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requested
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(cache: Path) -> None:
    with pytest.raises(UsageError, match=r"cifar10, cifar100.*digits(?s:.*)Did you mean cifar10\?"):
        data.load(DataConfig(name="cifra10"), cache)


# ---- the user's own function -----------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Any]:
    """Loads what a function with this body returns."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_images.py").write_text("")
    import own_images  # type: ignore[import-not-found]

    def load(returned: Any, **options: Any) -> data.Dataset:
        def function(root: str | None) -> Any:
            own_images.root = root
            return returned() if callable(returned) else returned

        own_images.load = function
        return data.load(DataConfig(name="own_images:load", **options), cache)

    load.module = own_images  # type: ignore[attr-defined]
    yield load
    del sys.modules["own_images"]


def returned(shape: tuple[int, ...] = (6, 8, 8, 3), **changes: Any) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(shape[0]) % 2
    return {"train": (images, labels), "test": (images[:2], labels[:2]), "classes": ["a", "b"], **changes}


def test_a_function_of_the_user_is_called_with_the_root(own: Any, tmp_path: Path) -> None:
    given_back = returned()
    dataset = own(given_back, root=str(tmp_path))
    assert own.module.root == str(tmp_path)
    assert (dataset.train_images == given_back["train"][0].transpose(0, 3, 1, 2)).all()
    assert dataset.train_labels.tolist() == [0, 1] * 3 and dataset.train_labels.dtype == np.int64
    assert dataset.classes == ("a", "b") and len(dataset.digest) == 64
    own(returned())
    assert own.module.root is None


def test_grey_images_and_other_sizes_of_the_user_are_taken(own: Any) -> None:
    assert own(returned((6, 9, 9))).train_images.shape == (6, 3, 9, 9)
    assert own(returned((6, 12, 20, 3)), image_size=8).train_images.shape == (6, 3, 8, 8)


IMAGES, LABELS = returned()["train"]


@pytest.mark.parametrize(
    ("wrong", "messages"),
    [
        ([1], ["must return a mapping with the keys train, test, classes, got list"]),
        ({"train": (IMAGES, LABELS)}, ["got ['train']"]),
        (returned(val=1), ["got ['classes', 'test', 'train', 'val']"]),
        (returned(train=IMAGES), ["train must be a pair (images, labels), got ndarray"]),
        (returned(train=(IMAGES / 255, LABELS)), ["train images must be uint8 in 0..255, got float64", "* 255"]),
        (returned(train=(IMAGES.transpose(0, 3, 1, 2), LABELS)), ["got (6, 3, 8, 8)", "transpose(0, 2, 3, 1)"]),
        (returned(train=(IMAGES[:0], LABELS[:0])), ["got (0, 8, 8, 3)"]),
        (returned(train=([IMAGES[0], IMAGES[1, :4]], LABELS)), ["train must hold arrays"]),
        (returned(train=(IMAGES, LABELS * 2)), ["train labels must be in 0..1 for 2 classes, got 0..2"]),
        (returned(train=(IMAGES, LABELS - 1)), ["got -1..0"]),
        (returned(train=(IMAGES, LABELS / 2)), ["train labels must be integers of shape (N,), got float64"]),
        (returned(train=(IMAGES, LABELS[:, None])), ["of shape (6, 1)"]),
        (returned(train=(IMAGES, LABELS[:5])), ["as many labels as images, got 5 and 6"]),
        (returned(classes="ab"), ["classes must be a list of names, got 'ab'"]),
        (returned(classes=["a", "a"]), ["at least two different names"]),
        (returned((6, 8, 9, 3)), ["squares of one size, got 8 x 9", "data.image_size"]),
        (returned(test=(IMAGES[:, :4, :4], LABELS)), ["got 4 x 4 and 8 x 8"]),
        (lambda: 1 / 0, ["own_images:load(None) failed: ZeroDivisionError"]),
        (
            returned(train=(IMAGES / 255, LABELS * 9), test=(IMAGES, LABELS[1:])),
            ["train images must be uint8", "train labels must be in 0..1", "test must have as many labels"],
        ),
    ],
)
def test_what_a_function_of_the_user_returns_is_checked(own: Any, wrong: Any, messages: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        own(wrong)
    assert all(message in str(caught.value) for message in messages)
    assert "own_images:load" in str(caught.value) and caught.value.exit_code == 2


# ---- the split -------------------------------------------------------------------------------------------------------

EVEN = np.repeat(np.arange(10), 5000)
EVEN_TEST = np.repeat(np.arange(10), 1000)


def split(
    train: np.ndarray = EVEN, test: np.ndarray = EVEN_TEST, classes: tuple[str, ...] = (), **options: Any
) -> data.Split:
    return data.split(train, test, DataConfig(**options), classes)


def test_the_split_of_even_classes_is_even() -> None:
    parts = split(train_size=5000, test_size=0.1)
    assert np.bincount(EVEN[parts.val]).tolist() == [500] * 10
    assert np.bincount(EVEN[parts.train]).tolist() == [500] * 10
    assert np.bincount(EVEN_TEST[parts.test]).tolist() == [100] * 10
    assert not set(parts.train) & set(parts.val)
    assert {part.dtype for part in (parts.train, parts.val, parts.test)} == {np.dtype(np.int64)}


def test_by_default_all_images_are_used_once() -> None:
    parts = split()
    assert len(parts.train) == 45_000 and len(parts.val) == 5_000
    assert sorted([*parts.train, *parts.val]) == list(range(50_000))
    assert sorted(parts.test) == list(range(10_000))


def test_fractions_of_training_images_are_of_what_validation_leaves() -> None:
    assert len(split(val_size=10_000, train_size=0.5).train) == 20_000
    labels = np.array([0, 0, 1, 1])
    assert len(split(labels, labels, val_size=0.01).val) == 1  # at least one image


def test_without_validation_there_is_no_validation_image() -> None:
    parts = split(val_size=0)
    assert len(parts.val) == 0 and len(parts.train) == 50_000


def test_the_split_depends_on_its_seed_alone() -> None:
    one, again, other = split(), split(), split(split_seed=1)
    assert (one.train == again.train).all() and (one.test == again.test).all()
    assert set(one.val) != set(other.val)
    shares = len(set(one.val) & set(other.val)) / 5000
    assert 0.05 < shares < 0.15  # two random tenths have a tenth in common


def test_the_split_is_the_same_on_every_machine_and_version() -> None:
    labels = np.arange(12) % 3
    parts = split(labels, labels, val_size=3, train_size=6, split_seed=1)
    assert parts.val.tolist() == [5, 7, 0]
    assert parts.train.tolist() == [11, 1, 6, 4, 8, 3]


counts = st.lists(st.integers(1, 40), min_size=2, max_size=8)


def assert_proportional(chosen: np.ndarray, everything: np.ndarray) -> None:
    """Each class has its share of the chosen ones, to within one image."""
    whole = np.bincount(everything)
    found = np.bincount(chosen, minlength=len(whole))
    assert abs(found * len(everything) - whole * len(chosen)).max() < len(everything)


@given(counts=counts, seed=st.integers(0, 2**40))
@settings(max_examples=80, deadline=None)
def test_every_beginning_of_the_order_is_stratified(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    for size in range(1, len(labels) + 1):
        assert_proportional(labels[order[:size]], labels)


@given(counts=counts, seed=st.integers(0, 99), fractions=st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=80, deadline=None)
def test_sizes_are_exact_parts_disjoint_and_smaller_parts_nested(
    counts: list[int], seed: int, fractions: tuple[float, ...]
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    n = len(labels)
    held_out = min(int(fractions[0] * n), n - 2)
    sizes = sorted(1 + int(fraction * (n - held_out - 1)) for fraction in fractions[1:3])
    test_sizes = sorted(1 + int(fraction * (n - 1)) for fraction in fractions[2:])
    parts = []
    for train_size, test_size in zip(sizes, test_sizes, strict=True):
        config = {"val_size": held_out, "train_size": train_size, "test_size": test_size, "split_seed": seed}
        try:
            parts.append(split(labels, labels, **config))
        except UsageError:  # a class without a training image: tested below
            return
        assert [len(parts[-1].train), len(parts[-1].val), len(parts[-1].test)] == [train_size, held_out, test_size]
        assert not set(parts[-1].train) & set(parts[-1].val)
    small, large = parts
    assert set(small.train) <= set(large.train) and set(small.test) <= set(large.test)
    assert (small.val == large.val).all()
    rest = np.delete(labels, small.val)
    assert_proportional(labels[small.train], rest)
    assert_proportional(labels[small.test], labels)
    if held_out:
        assert_proportional(labels[small.val], labels)


def test_sizes_beyond_what_is_there_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        split(train_size=46_000, test_size=10_001)
    train, test = map(str, caught.value.problems)
    assert "at most 45,000 (50,000 training images, 5,000 of them for validation), got 46,000" in train
    assert "at most the number of test images, 10,000, got 10,001" in test
    for size, shown in ((50_000, "got 50,000"), (60_000, "got 60,000")):
        with pytest.raises(UsageError, match=f"data.val_size must be below .* 50,000, {shown}"):
            split(val_size=size)
    with pytest.raises(UsageError, match=r"got 0\.9 = 2"):
        split(np.array([0, 1]), np.array([0, 1]), val_size=0.9)


@given(counts=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(max_examples=50, deadline=None)
def test_of_two_classes_the_rarer_is_rounded_to_the_nearest_image(counts: tuple[int, int]) -> None:
    labels = np.repeat([0, 1], counts)
    chosen = np.cumsum(labels[stratified_order(labels, 0)])
    exact = np.arange(1, len(labels) + 1) * counts[1] / len(labels)
    assert abs(chosen - exact).max() <= 0.5 + 1e-9


def test_classes_stay_closer_to_their_share_than_one_image_where_they_can() -> None:
    counts = np.array([500, 300, 130, 60, 10])
    chosen = np.eye(5)[np.repeat(np.arange(5), counts)[stratified_order(np.repeat(np.arange(5), counts), 0)]]
    exact = np.arange(1, 1001)[:, None] * counts / 1000
    assert abs(chosen.cumsum(axis=0) - exact).max() <= 0.75 + 1e-9


def test_a_dominating_class_is_not_crowded_out_by_many_small_ones() -> None:
    labels = np.repeat(np.arange(101), [9000, *[10] * 100])
    found = np.bincount(labels[stratified_order(labels, 0)[:550]], minlength=101)
    assert found[0] == 495 and found.sum() == 550


def test_a_size_that_leaves_a_class_without_training_images_is_refused_with_one_that_works() -> None:
    labels = np.repeat(np.arange(3), [900, 90, 10])
    with pytest.raises(UsageError, match=r"none of owl \(10 before the split\)") as caught:
        split(labels, labels, ("cat", "dog", "owl"), train_size=8)
    remedy = caught.value.problems[0].remedy
    smallest = int(remedy.split("to ")[1].split(" or")[0])
    assert np.bincount(labels[split(labels, labels, train_size=smallest).train], minlength=3).min() == 1
    with pytest.raises(UsageError):
        split(labels, labels, train_size=smallest - 1)


def test_a_class_that_has_no_training_image_at_all_is_named() -> None:
    with pytest.raises(UsageError, match=r"none of c \(0 before the split\)\n.*Add images"):
        split(np.array([0, 1] * 5), np.array([0, 1, 2]), ("a", "b", "c"))


def test_one_image_of_a_rare_class_goes_to_training() -> None:
    labels = np.array([0] * 50 + [1])
    for seed in range(20):
        assert 50 in split(labels, labels, split_seed=seed, val_size=0.1).train


def test_the_description_counts_images_per_part_and_class(cache: Path) -> None:
    dataset = data.load(DataConfig(name="digits"), cache)
    parts = data.split(dataset.train_labels, dataset.test_labels, DataConfig(train_size=100))
    text = data.describe(dataset, parts)
    assert json.loads(json.dumps(text)) == text
    assert (text["train"], text["val"], text["test"], text["num_classes"]) == (100, 144, 359, 10)
    assert text["per_class"]["train"]["7"] == Counter(dataset.train_labels[parts.train].tolist())[7]
    assert text["digest"] == dataset.digest and text["image_size"] == 32


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def warn_always() -> Iterator[None]:
    """torch says most warnings once per process: too rarely for a test."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


def test_tensors_on_the_cpu_are_the_data_sets_own_memory_without_a_warning(
    folder: Path, cache: Path, warn_always: None
) -> None:
    dataset = load_folder(folder, cache)
    assert not dataset.train_images.flags.writeable
    tensors = data.to_device(dataset, "cpu")  # a warning would be an error here
    for name, array in dataset.arrays().items():
        tensor = getattr(tensors, name)
        assert np.shares_memory(tensor.numpy(), array) and tuple(tensor.shape) == array.shape
    assert tensors.train_images.dtype == torch.uint8 and tensors.train_labels.dtype == torch.int64


def test_a_batch_may_be_written_into(folder: Path, cache: Path) -> None:
    dataset = load_folder(folder, cache)
    before = dataset.train_images.copy()
    batch = data.to_device(dataset, torch.device("cpu")).train_images[torch.tensor([2, 0])]
    assert (batch.numpy() == before[[2, 0]]).all()
    batch.zero_()
    assert (dataset.train_images == before).all()


def test_only_the_one_warning_is_silenced(folder: Path, cache: Path, warn_always: None) -> None:
    data.to_device(load_folder(folder, cache), "cpu")
    with pytest.raises(UserWarning, match="not writable"):
        torch.from_numpy(load_folder(folder, cache).train_images)
    with pytest.raises(UserWarning, match="something else"):
        warnings.warn("something else", UserWarning, stacklevel=1)


@pytest.mark.gpu
def test_tensors_on_a_gpu_hold_the_same_values(cache: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    dataset = data.load(DataConfig(name="digits"), cache)
    tensors = data.to_device(dataset, torch.device("cuda"))
    assert tensors.train_images.is_cuda and tensors.test_labels.is_cuda
    assert (tensors.train_images.cpu().numpy() == dataset.train_images).all()


def test_the_order_of_an_epoch_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    order = data.epoch_order(1000, seed=3, epoch=2)
    assert order.dtype == torch.int64 and order.sort().values.tolist() == list(range(1000))
    torch.manual_seed(5)
    assert torch.equal(order, data.epoch_order(1000, seed=3, epoch=2))
    expected = torch.randperm(1000, generator=torch.Generator().manual_seed(stream(3, "order", 2)))
    assert torch.equal(order, expected)
    others = [data.epoch_order(1000, seed=3, epoch=3), data.epoch_order(1000, seed=4, epoch=2)]
    assert not any(torch.equal(order, other) for other in others)


def test_the_order_of_an_epoch_draws_nothing_from_the_global_stream() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    data.epoch_order(10, 0, 0)
    assert torch.equal(torch.rand(1), expected)


def test_statistics_are_those_of_the_chosen_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 130, 140), dtype=np.uint8)  # more than one chunk
    images[:, 1] //= 3
    index = np.random.default_rng(1).permutation(300)[:250]
    mean, std = data.statistics(images, index)
    chosen = images[index] / 255
    np.testing.assert_allclose(mean, chosen.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(axis=(0, 2, 3)), rtol=1e-12)
    again = data.statistics(images, index[::-1])
    assert (mean == again[0]).all() and (std == again[1]).all()


def test_a_channel_without_contrast_can_be_divided_by_its_deviation() -> None:
    mean, std = data.statistics(np.full((4, 3, 2, 2), 51, np.uint8), np.arange(4))
    assert mean.tolist() == [0.2] * 3 and std.tolist() == [1 / 255] * 3


def test_class_weights_are_scikit_learns_and_have_mean_one_over_the_images() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(3), [60, 30, 10])
    weights = data.class_weights(labels, 3)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert weights.dtype == np.float32 and weights[labels].mean() == pytest.approx(1)
    absent = data.class_weights(labels, 4)
    assert absent[3] == 0 and absent[labels].mean() == pytest.approx(1)


# ---- the real images -------------------------------------------------------------------------------------------------


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.real_images
def test_sixty_thousand_real_images(tmp_path: Path) -> None:
    root = os.environ.get("SUITE_CIFAR10")
    if not root:
        pytest.skip("set SUITE_CIFAR10 to the unpacked CIFAR-10 image folder")
    config, seen = DataConfig(name="folder", root=root), []
    first = data.load(config, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60_000, 60_000)
    assert first.train_images.shape == (50_000, 3, 32, 32) and first.test_images.shape == (10_000, 3, 32, 32)
    assert first.classes == CIFAR10
    assert np.bincount(first.train_labels).tolist() == [5000] * 10
    file = Path(root) / "train" / "bird" / "0007.jpg"
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        assert (first.train_images[10_000 + 7].transpose(1, 2, 0) == np.asarray(image)).all()
    started = time.perf_counter()
    again = data.load(config, tmp_path, refuse)
    assert time.perf_counter() - started < 5  # about one second: listing 60,000 files
    assert again.digest == first.digest
    assert np.shares_memory(data.to_device(again, "cpu").train_images.numpy(), again.train_images)
