"""Every row of bad input through the command line: the exit code, the message, and that nothing was
written.

What the text of a sweep file alone can get wrong has its own page: ``test_bad_sweep_files.py``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import Folder
from PIL import Image

from suite.sweep.__main__ import main

# third parties' own warnings, as mlflow is imported on a thread
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg|ray).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch|ray).*"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]

# the suite's own cache of decoded images is not the user's folder
Command = Callable[..., Result]


@pytest.fixture
def command(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in the folder; insists on the exit code, on no traceback, and on nothing
    written.
    """
    monkeypatch.chdir(folder.path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*arguments: str, code: int, file: str = "sweep.yaml") -> Result:
        before = {
            path: path.stat().st_mtime_ns
            for path in folder.path.rglob("*")
            if "__pycache__" not in path.parts
        }
        done = CliRunner().invoke(main, [file, *arguments])
        for thread in (
            threading.enumerate()
        ):  # what it imports warns, and these tests' filters end with the test
            if thread.name == "warm-mlflow":
                thread.join()
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        after = {
            path: path.stat().st_mtime_ns
            for path in folder.path.rglob("*")
            if "__pycache__" not in path.parts
        }
        assert {path for path in after if path not in before} == set(), "something was written"
        return done

    return run


def says(done: Result, *parts: str) -> None:
    """The message has all these parts, white space aside."""
    text = " ".join(done.stderr.split())
    for part in parts:
        assert part in text, f"{part!r} is missing in: {text}"


def images(
    root: Path,
    classes: tuple[str, ...] = ("cat", "dog"),
    parts: tuple[str, ...] = ("train", "test"),
) -> Path:
    generator = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                    folder / f"{number}.png"
                )
    return root


def on_images(folder: Folder, root: Path | str, **changes: Any) -> None:
    trial = {
        "data": {"name": "folder", "root": str(root), "val_size": 0.2},
        "model": {"arch": "resnet18"},
    }
    folder.write(**({"trial": trial, "parameters": None, "seeds": [0]} | changes))


def test_an_unknown_layer_in_dropout_after(folder: Folder, command: Command) -> None:
    model = {"arch": "resnet18", "dropout": {"rate": 0.1, "after": ["layer9"]}}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=2), "sweep.yaml:", "model.dropout.after", "layer9", "layer4")


def test_a_freeze_depth_beyond_the_model(folder: Folder, command: Command) -> None:
    model = {"arch": "resnet18", "freeze_depth": 12}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=2), "sweep.yaml:", "model.freeze_depth", "got 12", "layer4=8")


def test_an_unknown_architecture(folder: Folder, command: Command) -> None:
    folder.write(trial={"data": {"name": "digits"}, "model": {"arch": "resnet81"}}, parameters=None)
    says(command(code=2), "sweep.yaml:", "resnet81", "resnet18")


def test_a_module_of_the_users_own_that_is_not_there(folder: Folder, command: Command) -> None:
    folder.write(
        trial={"data": {"name": "digits"}, "model": {"arch": "nowhere:build"}}, parameters=None
    )
    says(command(code=2), "no module named 'nowhere'", "beside the sweep file")
    folder.write(
        trial={"data": {"name": "digits"}, "model": {"arch": "tiny_net:bild"}}, parameters=None
    )
    says(command(code=2), "no function 'bild'", "build")


def test_a_missing_data_folder(folder: Folder, command: Command) -> None:
    on_images(folder, "nowhere")
    says(command(code=6), "sweep.yaml:", str(folder.path / "nowhere"), "train/<class>/*")


def test_corrupt_images_are_all_named(
    folder: Folder, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = images(tmp_path_factory.mktemp("images"))
    (root / "train" / "cat" / "2.png").write_bytes(b"not an image")
    whole = (root / "test" / "dog" / "4.png").read_bytes()
    (root / "test" / "dog" / "4.png").write_bytes(whole[: len(whole) // 2])
    on_images(folder, root)
    says(command(code=6), "cat/2.png", "dog/4.png", "cannot be decoded")


def test_class_folders_that_differ(
    folder: Folder, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = images(tmp_path_factory.mktemp("images"), parts=("train",))
    images(root, classes=("cat", "cow"), parts=("test",))
    on_images(folder, root)
    says(command(code=6), "dog", "cow", "train", "test")


def test_missing_weights_say_how_to_give_a_file(folder: Folder, command: Command) -> None:
    model = {"arch": "resnet18", "weights": "nowhere.pth"}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=6), "sweep.yaml:", str(folder.path / "nowhere.pth"), "model.weights")


def test_imagenet_weights_that_cannot_be_downloaded_say_how_to_give_a_file(
    folder: Folder,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setenv(
        "https_proxy", "http://127.0.0.1:9"
    )  # a port where nobody listens: no network
    model = {"arch": "resnet18", "weights": "imagenet"}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=6), "could not be downloaded", "model.imagenet_file=")


@pytest.mark.fault(26)
def test_weights_of_another_architecture(
    folder: Folder, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from suite import models
    from suite.config import ModelConfig

    file = tmp_path_factory.mktemp("weights") / "other.pth"
    torch.save(models.build(ModelConfig(arch="resnet34_cifar"), 10).state_dict(), file)
    model = {"arch": "resnet18_cifar", "weights": str(file)}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=2), "other.pth", "resnet34_cifar")


@pytest.mark.fault(26)
def test_a_weight_file_with_code_in_it_is_refused_and_not_run(
    folder: Folder, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import pickle

    place = tmp_path_factory.mktemp("evil")

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (place / "ran",)

    (place / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    model = {"arch": "resnet18", "weights": str(place / "evil.pth")}
    folder.write(trial={"data": {"name": "digits"}, "model": model}, parameters=None)
    says(command(code=6), "evil.pth")
    assert not (place / "ran").exists()


@pytest.mark.fault(29)
def test_an_unreachable_mlflow_server(folder: Folder, command: Command) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    folder.write()
    says(command("--tracking-uri", address, code=6), address, "cannot be reached", "--tracking-uri")


@pytest.mark.fault(24)
def test_a_folder_that_cannot_be_written(folder: Folder, command: Command) -> None:
    folder.write()
    says(command("--storage-path", "/proc/runs", code=6), "/proc/runs", "--storage-path")


def test_no_ray_cluster_at_the_address(folder: Folder, command: Command) -> None:
    folder.write()
    says(command("--address", "127.0.0.1:9", code=6), "127.0.0.1:9", "ray start")


def test_more_cpus_than_there_are(
    folder: Folder, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "ray", raising=False)
    folder.write(resources={"cpu": 4000})
    says(command(code=6), "sweep.yaml:", "resources.cpu", "got 4000")


def test_an_augmentation_that_does_not_fit_the_images(folder: Folder, command: Command) -> None:
    folder.write(
        augmentations={"small": {"type": "center_crop", "size": 99}},
        parameters={"augment": {"values": ["small"]}},
    )
    says(command(code=2), "center_crop.size", "got 99")


def test_a_validation_part_larger_than_the_data(folder: Folder, command: Command) -> None:
    data = {"name": "digits", "val_size": 5000}
    folder.write(trial={"data": data, "model": {"arch": "tiny_net:build"}}, parameters=None)
    says(command(code=2), "val_size", "5,000")


def test_only_an_arm_that_is_there(folder: Folder, command: Command) -> None:
    folder.write()
    says(command("--only", "lr=7", code=2), "lr=7", "lr=0.05")


def test_a_budget_that_is_no_time(folder: Folder, command: Command) -> None:
    folder.write()
    says(command("--budget", "soon", code=2), "soon", "2h")


@pytest.mark.parametrize("text", ["", "- a list", "a: [unclosed", "\x00binary\x01"])
def test_a_file_that_is_no_sweep(folder: Folder, command: Command, text: str) -> None:
    (folder.path / "sweep.yaml").write_text(text)
    says(command(code=2), "sweep.yaml")


def test_a_file_that_is_not_there(command: Command) -> None:
    says(command(code=2, file="other.yaml"), "other.yaml")


def test_problems_of_data_and_model_are_listed_together(folder: Folder, command: Command) -> None:
    arms = {"deep": {"model.freeze_depth": 12}, "lost": {"model.weights": "nowhere.pth"}}
    folder.write(
        trial={"data": {"name": "digits"}, "model": {"arch": "resnet18"}},
        arms=arms,
        parameters=None,
    )
    says(command(code=2), "got 12", "nowhere.pth")
