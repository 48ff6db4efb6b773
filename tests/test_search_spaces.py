"""The shipped sweep files, and the generated schema and settings page that go with the models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from suite import config
from suite.config import schema, setting_fields, yaml_lines

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
ARMS = {
    "augmentation": 18,
    "degradation": 8,
    "dropout": 26,
    "freeze_depth": 6,
    "heads": 7,
    "joint": 0,
    "quickstart": 3,
    "scratch": 1,
    "transfer": 5,
}


def plain(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml_lines.parse(path.read_text(), str(path)).plain()
    return content


def test_every_experiment_has_its_file() -> None:
    assert [path.stem for path in FILES] == list(ARMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_loads_and_its_header_says_question_command_and_time(path: Path) -> None:
    sweep = config.load(path)
    assert sweep.name == path.stem and len(sweep.arms_list) == ARMS[path.stem]
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "# Question:" in header and "# Expected:" in header
    assert f"# Command:   python -m suite.sweep search_spaces/{path.name}" in header
    assert sweep.description and max(map(len, lines)) <= 125


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_counts_the_trials(path: Path) -> None:
    sweep = config.load(path)
    trials = len(sweep.arms_list) * len(sweep.seeds)
    epochs = sweep.settings["train.epochs"]
    if path.stem != "joint":
        assert f"Expected:  {trials} trials of {epochs} epochs" in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_runs_on_an_own_image_folder(path: Path) -> None:
    sweep = config.load(
        path, ["data.name=folder", "data.root=/images", "train.epochs=1", "seeds=[0,1]"]
    )
    assert all(arm.config.data.root == "/images" for arm in sweep.arms_list)


def test_the_transfer_arms_are_those_of_the_study() -> None:
    sweep = config.load(ROOT / "search_spaces" / "transfer.yaml", ["model.imagenet_file=/r.pth"])
    models = {arm.name: arm.config.model for arm in sweep.arms_list}
    assert [model.weights for model in models.values()] == ["none", *["imagenet"] * 4]
    assert [model.freeze_depth for model in models.values()] == [0, 0, 7, 7, 7]
    assert models["freeze7"] == models["config1"].model_copy(
        update={"head": models["finetune"].head}
    )
    assert models["config1"].head == config.HeadConfig(hidden=(128,), dropout=0.3)
    assert models["config2"].head and models["config2"].head.rates() == (0.2, 0.2, 0.2, 0.2, 0.0)
    assert {model.imagenet_file for model in models.values()} == {"/r.pth"}
    assert sweep.reference["finetune"] == {
        "train/acc": 0.995,
        "val/acc": 0.811,
        "test/acc": 0.804,
        "time_s": 397,
    }
    assert [arm.name for arm in sweep.baseline_arms] == ["scratch"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_that_compares_arms_has_seeds_enough_for_verdicts(path: Path) -> None:
    """The smallest two-sided p of n seeds is 2/2^n: six are the fewest that reach .05."""
    sweep = config.load(path)
    if sweep.baseline_arms:
        assert 2 / 2 ** len(sweep.confirm_seeds) < 0.05


def test_the_dropout_grid_has_one_arm_without_dropout() -> None:
    sweep = config.load(ROOT / "search_spaces" / "dropout.yaml")
    rates = [arm.config.model.dropout.rate for arm in sweep.arms_list]
    assert rates.count(0.0) == 1 and sorted(set(rates)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert sweep.arms_list[1].name == "dropout.rate=0.1 after=layer1"


def test_all_nine_augmentations_of_the_study_are_tried_alone() -> None:
    sweep = config.load(ROOT / "search_spaces" / "augmentation.yaml")
    nine = (
        "rotation flip color_jitter random_resized_crop resize center_crop cutout "
        "gaussian_blur salt_and_pepper"
    )
    assert set(nine.split()) < {arm.config.augment for arm in sweep.arms_list}
    assert {arm.config.data.train_size for arm in sweep.arms_list} == {5000}


# ---- what is generated


@pytest.mark.parametrize(
    "path", [schema.SCHEMA_FILE, schema.SETTINGS_FILE], ids=lambda path: path.name
)
def test_generated_files_are_in_step_with_the_models(path: Path) -> None:
    assert path.read_text() == schema.files()[path], "run `python -m suite.config.schema`"


def test_the_settings_page_explains_every_setting() -> None:
    page = schema.settings_page()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for key in {*setting_fields.LEAVES, *config.read.FIELDS} - {"augment"}:
        assert any(line.startswith(f"| `{key}` |") for line in rows), key
    assert all(row.rstrip("| ").split(" | ")[-1].endswith((".", ")")) for row in rows), (
        "a meaning is a sentence"
    )


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    content = json.loads(schema.SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_file_is_valid_in_an_editor(
    path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    assert [error.message for error in validator.iter_errors(plain(path))] == []


WRONG: list[tuple[str, Any]] = [
    ("unknown", 1),
    ("name", "a b"),
    ("seeds", []),
    ("seeds", [-1]),
    ("seeds", {"at_least": 6, "at_most": 8, "until": "decided"}),
    ("seeds", {"at_least": 8, "at_most": 16}),
    ("method", "gird"),
    ("metric", {"name": "test/acc"}),
    ("trial", {"train": {"epochs": 0}}),
    ("trial", {"train.epoch": 3}),
    ("trial", {"train": {"epoch": 3}}),
    ("arms", {"a": {"model.wights": "none"}}),
    ("parameters", {"train.lr": {"values": []}}),
    ("parameters", {"train.lr": {"values": [-1]}}),
    ("parameters", {"train.lr": {"value": 1, "values": [1]}}),
    ("parameters", {"train.lr": {"min": 1}}),
    ("parameters", {"free": {"values": [1]}}),
    ("parameters", {"train.lr": [1]}),
    ("parameters", {"z": {"zip": {"train.lrr": [1]}}}),
    ("early_terminate", {"type": "ahsa"}),
    ("early_terminate", {"grace_epochs": 2}),
    ("resources", {"gpu": "lots"}),
    ("augmentations", {"x": {"size": 3}}),
    ("augmentations", {"flip": {"size": 3}}),
    ("reference", {"a": {"accuracy": 1}}),
    ("checkpoints", {"keep": "some"}),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda value: str(value)[:40])
def test_an_editor_marks_what_the_suite_refuses(
    key: str, value: Any, validator: jsonschema.Draft202012Validator
) -> None:
    content = copy.deepcopy(plain(ROOT / "search_spaces" / "quickstart.yaml"))
    content[key] = value
    assert list(validator.iter_errors(content))


RIGHT: list[tuple[str, Any]] = [
    ("trial", {"train.lr": 1e-4, "model": {"head": None}}),
    ("arms", {"a": {"model": {"weights": "x.pth"}, "augment": "flip"}}),
    (
        "parameters",
        {
            "h": {
                "values": {"a": {}, "b": {"model.head.hidden": [3]}},
                "when": {"model.weights": ["imagenet"]},
            }
        },
    ),
    ("parameters", {"model.head": {"values": {"a": {"model.head": None}}}}),
    ("parameters", {"train.lr": {"min": 1e-3, "max": 1, "distribution": "log_uniform"}}),
    ("parameters", {"z": {"zip": {"train.lr": [0.1], "train.batch_size": [8]}}}),
    ("metric", [{"name": "val/acc"}, {"name": "time/epoch_s"}]),
    ("early_terminate", {"type": "median", "min_trials": 2}),
    ("augmentations", {"big": {"type": "cutout", "size": 9}, "flip": {"p": 1}}),
    ("resources", {"gpu": "auto"}),
    ("baseline", "none"),
    ("seeds", {"at_least": 8, "at_most": 16, "until": "decided", "step": 4}),
]


@pytest.mark.parametrize(("key", "value"), RIGHT, ids=lambda value: str(value)[:40])
def test_an_editor_accepts_what_the_suite_reads(
    key: str, value: Any, validator: jsonschema.Draft202012Validator
) -> None:
    content = copy.deepcopy(plain(ROOT / "search_spaces" / "quickstart.yaml"))
    content[key] = value
    assert [error.message for error in validator.iter_errors(content)] == []
