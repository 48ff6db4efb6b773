"""Stored configs of earlier versions mean what they meant."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from suite.config import (
    DataConfig,
    TrialConfig,
    read_stored_config,
    read_stored_params,
    trained_with_remainder,
)
from suite.config.stored import NAMED_IMAGES
from suite.data import load
from suite.tracking.tags import flatten

NEW = {"last_batch", "evaluate_test", "nesterov", "decay"}


def old_config(**train: Any) -> dict[str, Any]:
    """As version 4 wrote it: complete for its time."""
    config = TrialConfig.model_validate({"data": {"val_size": 0.1}, "train": train}).model_dump(
        mode="json"
    )
    config["train"] = {name: value for name, value in config["train"].items() if name not in NEW}
    return config


def test_an_old_config_is_read_with_the_rules_of_its_time() -> None:
    stored = old_config(batch_size=32)
    before = copy.deepcopy(stored)
    train = read_stored_config(stored).train
    assert (train.last_batch, train.evaluate_test, train.nesterov, train.decay) == (
        "keep",
        "every",
        True,
        "weights",
    )
    assert train.batch_size == 32 and stored == before
    del stored["data"]["val_size"]
    assert read_stored_config(stored).data.val_size == 0.1


def test_an_old_config_without_momentum_had_no_nesterov_momentum() -> None:
    assert read_stored_config(old_config(momentum=0.0)).train.nesterov is False


def test_a_config_of_this_version_is_what_it_was() -> None:
    config = TrialConfig.model_validate({"data": {"train_size": 500}, "train": {"momentum": 0.5}})
    assert read_stored_config(config.model_dump(mode="json")) == config
    assert config.train.last_batch == "drop" and config.train.nesterov is False


@pytest.mark.parametrize(
    "wrong", [{"train": {"warp": 9}}, {"train": 3}, [1], {"train": {"momentum": "much"}}]
)
def test_what_is_no_config_is_a_validation_error(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        read_stored_config(wrong)


def test_params_say_the_same_as_the_config() -> None:
    """As MLflow has them: dotted, texts."""
    stored = old_config(momentum=0.0)
    assert read_stored_params(flatten(stored)) == flatten(
        read_stored_config(stored).model_dump(mode="json")
    )
    new = flatten(TrialConfig().model_dump(mode="json"))
    assert read_stored_params(new) == new
    assert read_stored_params({"epochs": "3"}) == {"epochs": "3"}, "a run of another program"


@pytest.mark.parametrize(
    ("params", "images", "expected"),
    [
        ({"data.train_size": "5000"}, None, True),  # 8 are left
        ({"data.train_size": "4992"}, None, False),
        ({"data.train_size": "4993"}, None, False),  # one image joined the batch before
        ({"data.train_size": "100"}, None, False),  # one batch
        ({"data.train_size": "5000", "train.last_batch": "drop"}, None, False),
        ({"data.train_size": "5000", "train.last_batch": "spread"}, None, False),
        ({"data.train_size": "5000", "train.last_batch": "keep"}, None, True),
        ({"data.name": "cifar10"}, None, True),  # 45,000 = 351 x 128 + 72
        ({"data.name": "cifar10", "train.batch_size": "100"}, None, False),
        ({"data.name": "folder"}, None, None),
        ({"data.name": "folder"}, 5000, True),  # 4,500 = 35 x 128 + 20
        ({"data.name": "folder", "data.train_size": "0.5"}, 5689, False),  # half of 5,120
        ({"data.name": "folder", "data.val_size": "0"}, 5120, False),
        ({"data.name": "folder", "train.last_batch": "drop"}, None, False),
    ],
)
def test_a_report_can_tell_which_results_had_a_remainder(
    params: dict[str, str], images: int | None, expected: bool | None
) -> None:
    stored = {"train.batch_size": "128", "data.val_size": "0.1", "data.train_size": "null"} | params
    assert trained_with_remainder(stored, images) is expected


def test_of_a_run_of_another_program_nobody_knows() -> None:
    assert trained_with_remainder({"batch_size": "128", "data.train_size": "5000"}) is None


def test_the_number_of_digits_is_the_one_that_is_loaded(tmp_path: Any) -> None:
    assert len(load(DataConfig(name="digits"), tmp_path).train_labels) == NAMED_IMAGES["digits"]
