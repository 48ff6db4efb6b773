"""Data sets by name, in the formats that their authors publish, and those of the user's own
function.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import pickle
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from suite import data
from suite.config.trial import DataConfig
from suite.core.errors import EnvironmentProblem, UsageError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# ---- torchvision's data sets ---------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchvision's data sets, with addresses at which nobody answers."""
    from suite.system.torchvision_import import torchvision

    closed = "http://127.0.0.1:9/"
    for kind in (
        torchvision.datasets.CIFAR10,
        torchvision.datasets.CIFAR100,
        torchvision.datasets.STL10,
    ):
        monkeypatch.setattr(kind, "url", closed + kind.filename)
    splits = {
        part: [closed + file, file, md5]
        for part, (_, file, md5) in torchvision.datasets.SVHN.split_list.items()
    }
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
    assert (
        f"data.name={name}" in message
        and str(cache / "downloads") in message
        and "refused" in message
    )
    assert all(
        way in message
        for way in ("http://127.0.0.1:9/", "by hand", "data.name=folder", "data.name=digits")
    )


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
    assert dataset.train_images.shape == (30, 3, 28, 28) and dataset.test_images.shape == (
        20,
        3,
        28,
        28,
    )
    assert all((dataset.train_images[:, channel] == images).all() for channel in range(3))
    assert dataset.train_labels.tolist() == [n % 10 for n in range(30)]
    assert dataset.classes[9] == "Ankle boot" and dataset.name == "fashion_mnist"
    assert load_named("fashion_mnist", tmp_path / "root", cache, image_size=32).image_size == 32


def test_named_data_is_read_again_when_its_files_change(
    datasets: Any, tmp_path: Path, cache: Path
) -> None:
    write_fashion(tmp_path / "root")
    load_named("fashion_mnist", tmp_path / "root", cache)
    write_fashion(tmp_path / "root", train=40)
    assert len(load_named("fashion_mnist", tmp_path / "root", cache).train_labels) == 40


def test_a_damaged_file_of_fashion_mnist_is_an_environment_problem(
    datasets: Any, tmp_path: Path, cache: Path
) -> None:
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


def test_a_file_of_svhn_with_another_checksum_is_named(
    datasets: Any, tmp_path: Path, cache: Path
) -> None:
    scipy.io.savemat(
        tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": [[1]]}
    )
    with pytest.raises(
        EnvironmentProblem, match=r"test_32x32\.mat in .* differs from the published checksum"
    ):
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
            (folder / name).write_bytes(
                bytes(range(1, 11)) if name.endswith("_y.bin") else columns_first
            )
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
    """Batches in CIFAR's format, 20 images each, with the checksums that torchvision is to
    expect.
    """
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


@pytest.mark.parametrize(
    ("name", "kind", "batches"), [("cifar10", "CIFAR10", 5), ("cifar100", "CIFAR100", 1)]
)
def test_cifar_is_read_from_its_own_format(
    name: str,
    kind: str,
    batches: int,
    datasets: Any,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = write_cifar(tmp_path, getattr(datasets, kind), monkeypatch)
    dataset = load_named(name, tmp_path, cache)
    assert dataset.train_images.shape == (20 * batches, 3, 32, 32)
    assert (dataset.test_images == images).all() and (dataset.train_images[-20:] == images).all()
    assert dataset.classes[3] == "class3" and dataset.test_labels.tolist() == [
        n % 10 for n in range(20)
    ]


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
    assert f"{file} in {tmp_path} differs from the published checksum" in str(caught.value)
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

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
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


# ---- the user's own function ---------------------------------------------------------------------


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
    return {
        "train": (images, labels),
        "test": (images[:2], labels[:2]),
        "classes": ["a", "b"],
        **changes,
    }


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
        (
            returned(train=(IMAGES / 255, LABELS)),
            ["train images must be uint8 in 0..255, got float64", "* 255"],
        ),
        (
            returned(train=(IMAGES.transpose(0, 3, 1, 2), LABELS)),
            ["got (6, 3, 8, 8)", "transpose(0, 2, 3, 1)"],
        ),
        (returned(train=(IMAGES[:0], LABELS[:0])), ["got (0, 8, 8, 3)"]),
        (returned(train=([IMAGES[0], IMAGES[1, :4]], LABELS)), ["train must hold arrays"]),
        (
            returned(train=(IMAGES, LABELS * 2)),
            ["train labels must be in 0..1 for 2 classes, got 0..2"],
        ),
        (returned(train=(IMAGES, LABELS - 1)), ["got -1..0"]),
        (
            returned(train=(IMAGES, LABELS / 2)),
            ["train labels must be integers of shape (N,), got float64"],
        ),
        (returned(train=(IMAGES, LABELS[:, None])), ["of shape (6, 1)"]),
        (returned(train=(IMAGES, LABELS[:5])), ["as many labels as images, got 5 and 6"]),
        (returned(classes="ab"), ["classes must be a list of names, got 'ab'"]),
        (returned(classes=["a", "a"]), ["at least two different names"]),
        (returned((6, 8, 9, 3)), ["squares of one size, got 8 x 9", "data.image_size"]),
        (returned(test=(IMAGES[:, :4, :4], LABELS)), ["got 4 x 4 and 8 x 8"]),
        (lambda: 1 / 0, ["own_images:load(None) failed: ZeroDivisionError"]),
        (
            returned(train=(IMAGES / 255, LABELS * 9), test=(IMAGES, LABELS[1:])),
            [
                "train images must be uint8",
                "train labels must be in 0..1",
                "test must have as many labels",
            ],
        ),
    ],
)
def test_what_a_function_of_the_user_returns_is_checked(
    own: Any, wrong: Any, messages: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        own(wrong)
    assert all(message in str(caught.value) for message in messages)
    assert "own_images:load" in str(caught.value) and caught.value.exit_code == 2
