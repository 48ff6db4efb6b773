"""Image folders, digits, the cache, the digest: on real image files, made here."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import load_folder, make_folder, noise, problems_of, save
from PIL import Image

from suite import data
from suite.config.trial import DataConfig
from suite.core.errors import EnvironmentProblem, UsageError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# ---- what is read --------------------------------------------------------------------------------


def test_labels_follow_the_sorted_class_names_and_pixels_are_those_of_the_files(
    tmp_path: Path, cache: Path
) -> None:
    root = tmp_path / "images"
    for part in ("train", "test"):
        for value, name in enumerate(("zebra", "Ant", "bee")):
            for number in range(2):
                save(
                    Image.new("RGB", (12, 12), (value, number, 77)),
                    root / part / name / f"{number}.png",
                )
    dataset = load_folder(root, cache)
    assert dataset.classes == ("Ant", "bee", "zebra")
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.train_images.shape == (6, 3, 12, 12)
    assert dataset.train_images.dtype == np.uint8 and dataset.test_labels.dtype == np.int64
    assert dataset.train_images[:, :, 5, 5].tolist() == [
        [v, n, 77] for v in (1, 2, 0) for n in (0, 1)
    ]
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


@pytest.mark.parametrize(
    "size", [(40, 24), (24, 40), (17, 53), (101, 67), (19, 16), (16, 23), (20, 20)]
)
@pytest.mark.parametrize("side", [16, 33])
def test_resizing_is_that_of_torchvision(
    tmp_path: Path, cache: Path, size: tuple[int, int], side: int
) -> None:
    from suite.system.torchvision_import import torchvision

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
                save(
                    Image.fromarray(image),
                    root / part / name / f"{number:03}.png",
                    compress_level=0,
                )
    dataset = load_folder(root, cache, image_size=300)
    assert dataset.train_images[:, :2, 150, 150].tolist() == [
        [n, label] for label in range(2) for n in range(80)
    ]


def test_progress_counts_up_to_all_images(folder: Path, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_folder(folder, cache, report=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# ---- what is wrong with a folder -----------------------------------------------------------------


def test_a_folder_needs_a_root(cache: Path) -> None:
    with pytest.raises(UsageError, match="needs data"):
        data.load(DataConfig(name="folder"), cache)


def test_a_missing_root_is_named_in_full(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems_of(Path("nowhere"), cache)
    assert (
        str(tmp_path / "nowhere") in problem
        and "train/<class>/*" in problem
        and "no such folder" in problem
    )
    (tmp_path / "file").write_text("")
    assert "it is a file" in problems_of(Path("file"), cache)[0]


def test_missing_parts_are_named_with_what_is_there_instead(folder: Path, cache: Path) -> None:
    (folder / "test").rename(folder / "validation")
    (problem,) = problems_of(folder, cache)
    assert "no folder test" in problem and "train, validation" in problem
    shutil.rmtree(folder / "train")
    assert [
        ("no folder train" in p, "no folder test" in p) for p in problems_of(folder, cache)
    ] == [(1, 0), (0, 1)]


def test_images_that_lie_beside_the_class_folders_are_not_a_class(
    tmp_path: Path, cache: Path
) -> None:
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
    floats = save(
        Image.fromarray(np.ones((8, 8), np.float32)), folder / "train" / "dog" / "floats.tif"
    )
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


# ---- the cache -----------------------------------------------------------------------------------


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
    assert names == {"meta.json"} | {
        f"{p}_{k}.npy" for p in ("train", "test") for k in ("images", "labels")
    }
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


def test_a_cache_that_cannot_be_written_is_an_environment_problem(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="SUITE_CACHE"):
        load_folder(folder, tmp_path / "file")


LOADER = """
import sys
from pathlib import Path
from suite import data
from suite.config.trial import DataConfig
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
    with (
        process(LOADER, str(root), str(cache)) as one,
        process(LOADER, str(root), str(cache)) as other,
    ):
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
def test_where_the_cache_is(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUITE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert data.cache_folder() == Path(expected)


# ---- the digest ----------------------------------------------------------------------------------


def small(**changes: Any) -> data.Dataset:
    images = np.arange(4 * 3 * 2 * 2, dtype=np.uint8).reshape(4, 3, 2, 2)
    labels = np.array([0, 1, 0, 1], np.int64)
    parts = {
        "name": "x",
        "classes": ("a", "b"),
        "train": (images, labels),
        "test": (images[:2], labels[:2]),
    }
    return data.Dataset.of(**{**parts, **changes})


def test_the_digest_is_of_the_content_not_of_its_place(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
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
        f"{p}_{k}": list(getattr(dataset, f"{p}_{k}").shape)
        for p in ("train", "test")
        for k in ("images", "labels")
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


# ---- digits --------------------------------------------------------------------------------------


def test_digits_need_no_download_and_have_a_fixed_test_part(cache: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = data.load(DataConfig(name="digits"), cache)
    assert dataset.train_images.shape == (1438, 3, 32, 32) and dataset.test_images.shape == (
        359,
        3,
        32,
        32,
    )
    assert dataset.classes == tuple("0123456789")
    labels = np.concatenate([dataset.train_labels, dataset.test_labels])
    assert np.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()
    assert abs(np.bincount(dataset.test_labels) - np.bincount(labels) * 359 / 1797).max() < 1
    assert (dataset.train_images[:, 0] == dataset.train_images[:, 2]).all()
    assert (
        data.load(DataConfig(name="digits", root="/nowhere", image_size=8), cache).image_size == 8
    )


def test_digits_are_the_right_way_up_and_use_the_whole_range(cache: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = data.load(DataConfig(name="digits", image_size=8), cache)
    known = {
        image.astype(np.uint8).tobytes(): label
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    assert dataset.train_images.max() == 255
    back = np.rint(dataset.train_images[:, 0].reshape(-1, 64) * (16 / 255)).astype(np.uint8)
    assert [known[row.tobytes()] for row in back] == dataset.train_labels.tolist()


def test_digits_import_neither_torchvision_nor_ray_nor_mlflow(cache: Path) -> None:
    script = """
import sys
from pathlib import Path
from suite import data
from suite.config.trial import DataConfig
data.load(DataConfig(name="digits"), Path(sys.argv[1]))
print({"torchvision", "ray", "mlflow"} & set(sys.modules))
"""
    with process(script, str(cache)) as started:
        assert started.communicate(timeout=60) == ("set()\n", "")


# ---- the real images -----------------------------------------------------------------------------


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.real_images
def test_sixty_thousand_real_images(tmp_path: Path) -> None:
    root = os.environ.get("SUITE_CIFAR10")
    if not root:
        pytest.skip("set SUITE_CIFAR10 to the unpacked CIFAR-10 image folder")
    config, seen = DataConfig(name="folder", root=root), []
    first = data.load(config, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60_000, 60_000)
    assert first.train_images.shape == (50_000, 3, 32, 32) and first.test_images.shape == (
        10_000,
        3,
        32,
        32,
    )
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
