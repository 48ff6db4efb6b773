"""The images that do not fill a batch: batches counted by hand, and all that must follow them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import (
    LAST_LOSS,
    differing,
    everything,
    finish,
    images,
    plain,
    replace,
    stopping_at,
    training,
    trial,
)  # fmt: skip

from suite import data
from suite.config import (
    DataConfig,
    TrainConfig,
    TrialConfig,
    load,
    read_stored_config,
    trained_with_remainder,
)
from suite.config.stored import NAMED_IMAGES
from suite.config.trial import DEFAULT_LAST_BATCH
from suite.core.records import Numerics, Trial
from suite.execution import packs
from suite.planning import estimate, plan
from suite.training import joint
from suite.training.frozen_prefix import Inputs
from suite.training.images import _most_frequent

MODES = ("drop", "spread", "keep")


def sizes(count: int, batch_size: int, mode: str) -> list[int]:
    config = TrainConfig.model_validate({"batch_size": batch_size, "last_batch": mode})
    slices = data.batch_slices(count, config)
    assert slices[0].start == 0
    assert all(a.stop == b.start for a, b in itertools.pairwise(slices)), "a gap"
    assert data.trained_images(count, config) == slices[-1].stop
    return [batch.stop - batch.start for batch in slices]


@pytest.mark.parametrize(
    ("mode", "count", "batch_size", "expected"),
    [
        ("drop", 5000, 128, [128] * 39),  # 8 left out
        ("spread", 5000, 128, [125] * 40),
        ("keep", 5000, 128, [128] * 39 + [8]),
        ("drop", 2600, 128, [128] * 20),  # 40 left out
        ("spread", 2600, 128, [124] * 17 + [123] * 4),
        ("keep", 2600, 128, [128] * 20 + [40]),
        ("drop", 61, 20, [20] * 3),
        ("spread", 61, 20, [16, 15, 15, 15]),
        ("keep", 61, 20, [20, 20, 21]),  # BatchNorm refuses a batch of one image
        ("keep", 21, 20, [21]),
        ("drop", 21, 20, [20]),
        ("spread", 21, 20, [11, 10]),
        ("spread", 3, 2, [3]),
        ("spread", 5, 2, [3, 2]),
        *((mode, 4992, 128, [128] * 39) for mode in MODES),
        *((mode, 13, 20, [13]) for mode in MODES),
        *((mode, 1, 20, [1]) for mode in MODES),
        *((mode, 3, 1, [1, 1, 1]) for mode in MODES),
    ],
)
def test_batches_are_those_counted_by_hand(
    mode: str, count: int, batch_size: int, expected: list[int]
) -> None:
    assert sizes(count, batch_size, mode) == expected


def test_the_default_is_one_of_the_modes_without_a_small_remainder() -> None:
    assert TrainConfig().last_batch == DEFAULT_LAST_BATCH != "keep"


def seen_images(made: Trial, folder: Path, epochs: int = 2) -> list[list[int]]:
    """Rows of the training images that each epoch is fed, from a training that runs."""
    running = training(made, folder, objective=LAST_LOSS)
    fed: list[list[int]] = []
    real = Inputs.train_batch

    def watched(inputs: Inputs, positions: torch.Tensor, epoch: int, step: int) -> Any:
        fed[-1] += positions.tolist()
        return real(inputs, positions, epoch, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inputs, "train_batch", watched)
        for _ in range(epochs):
            fed.append([])
            running.train_epoch()
    return fed


def test_drop_leaves_other_images_out_in_each_epoch(tmp_path: Path) -> None:
    made = trial(data__val_size=0, batch_size=10, last_batch="drop")  # 64 images
    epochs = seen_images(made, tmp_path)
    assert [len(set(rows)) for rows in epochs] == [60, 60]
    left_out = [set(range(64)) - set(rows) for rows in epochs]
    assert len(left_out[0]) == len(left_out[1]) == 4 and left_out[0] != left_out[1]
    whole = seen_images(trial(data__val_size=0, batch_size=10, last_batch="spread"), tmp_path / "b")
    assert [sorted(rows) for rows in whole] == [list(range(64))] * 2


@pytest.mark.parametrize(("mode", "count"), [("drop", 60), ("spread", 64), ("keep", 64)])
def test_figures_and_steps_count_trained_images_alone(
    mode: str, count: int, tmp_path: Path
) -> None:
    made = trial(data__val_size=0, batch_size=10, last_batch=mode, lr=1e-9, epochs=1)
    running = training(made, tmp_path, objective=LAST_LOSS)
    hits: list[int] = []
    real = running.end_step
    running.end_step = lambda logits, targets: (  # type: ignore[method-assign]
        hits.append(int((logits.argmax(1) == targets).sum())),
        real(logits, targets),
    )[-1]
    record = running.train_epoch()
    assert record is not None and record.metrics["train/acc"] == sum(hits) / count
    seconds = count / record.metrics["time/img_per_s"]
    assert seconds < record.metrics["time/epoch_s"] < seconds + 60
    assert running.steps_per_epoch == {"drop": 6, "spread": 7, "keep": 7}[mode]


@pytest.mark.parametrize("mode", MODES)
def test_the_rate_goes_down_over_the_steps_that_there_are(mode: str, tmp_path: Path) -> None:
    """Cosine over 2 epochs of 6 or 7 steps; the rate on record is that of the last step."""
    made = trial(data__val_size=0, batch_size=10, last_batch=mode, lr=0.1)
    running = finish(training(made, tmp_path, objective=LAST_LOSS))
    total = 2 * {"drop": 6, "spread": 7, "keep": 7}[mode]
    last = 0.05 * (1 + np.cos(np.pi * (total - 1) / total))
    assert running.records[-1].metrics["train/lr"] == pytest.approx(last)


@pytest.mark.parametrize("mode", ["drop", "spread"])
def test_a_stop_in_the_middle_of_an_epoch_changes_no_bit(mode: str, tmp_path: Path) -> None:
    settings = {"augment": "flip", "ema": 0.9, "data__val_size": 3, "batch_size": 9}  # 61 images
    made = trial(last_batch=mode, **settings)
    unbroken = finish(training(made, tmp_path / "unbroken"))
    cut = training(made, tmp_path / "cut", should_stop=stopping_at(unbroken.steps_per_epoch + 3))
    assert cut.train_epoch() is not None and cut.train_epoch() is None and cut.step == 3
    again = finish(training(made, tmp_path / "cut"))
    assert differing(everything(again), everything(unbroken)) == []
    other = {"drop": "spread", "spread": "keep"}[mode]
    control = finish(training(trial(last_batch=other, **settings), tmp_path / "control"))
    assert differing(everything(control), everything(unbroken))


@pytest.mark.parametrize("mode", ["drop", "spread"])
def test_a_fused_pack_gives_the_figures_of_each_trial_alone(mode: str, tmp_path: Path) -> None:
    """Up to the rounding of a joined kernel. Control: the other mode's figures are far away."""

    def arm(number: int, last_batch: str) -> Trial:
        rate = (0.05, 0.02)[number]
        return trial("plain20", number, batch_size=20, epochs=1, lr=rate, last_batch=last_batch)

    def alone(number: int, last_batch: str) -> float:
        made = arm(number, last_batch)
        running = training(made, tmp_path / f"{number}{last_batch}", objective=LAST_LOSS)
        return finish(running).records[0].metrics["train/loss"]

    together = [
        training(arm(number, mode), tmp_path / f"joined{number}", objective=LAST_LOSS)
        for number in (0, 1)
    ]
    assert joint.can_join(together)
    joint.train_epoch(together)
    joined = [running.records[0].metrics["train/loss"] for running in together]
    assert joined == pytest.approx([alone(0, mode), alone(1, mode)], rel=1e-4)
    assert abs(joined[0] - alone(0, {"drop": "spread", "spread": "drop"}[mode])) > 1e-3


def test_trials_of_other_batches_are_not_joined_nor_packed(tmp_path: Path) -> None:
    made = [trial("plain20", batch_size=20, last_batch=mode) for mode in ("drop", "spread")]
    running = [training(each, tmp_path / str(place)) for place, each in enumerate(made)]
    assert not joint.can_join(running)
    alike = [replace(each, id=f"{place:016x}") for place, each in enumerate(made)]
    assert len(list(packs.packs(alike, 2, 1))) == 2
    same = [replace(made[0], id=f"{place:016x}") for place in (0, 1)]
    assert len(list(packs.packs(same, 2, 1))) == 1


FROZEN = {"model__freeze_depth": 2, "model__freeze_batchnorm": True, "data__val_size": 0}


@pytest.mark.parametrize("mode", ["drop", "spread"])
def test_kept_features_give_the_figures_of_the_whole_network(mode: str, tmp_path: Path) -> None:
    def records(cache: str) -> list[dict[str, float]]:
        made = trial("resnet20", batch_size=18, last_batch=mode, cache_prefix=cache, **FROZEN)
        running = training(made, tmp_path / cache, cache=tmp_path / "cache", objective=LAST_LOSS)
        assert bool(running.inputs.prefix.layers) == (cache == "auto"), (
            running.inputs.prefix.why_not
        )
        return plain(finish(running).records)

    assert records("auto") == records("off")


def test_shared_batches_are_told_apart_if_only_their_order_differs(tmp_path: Path) -> None:
    """25 images: 12 and 13 with keep at 12, 13 and 12 with spread at 13. The sizes are the same."""
    others: dict[str, Any] = {}
    small = images((7, 6, 6, 6))
    settings = FROZEN | {"augment": "flip", "epochs": 1}

    def run(folder: str, shared: Any, **batches: Any) -> list[dict[str, float]]:
        made = trial("resnet20", **settings, **batches)
        options = {"cache": tmp_path / "cache", "shared_features": shared, "objective": LAST_LOSS}
        running = training(made, tmp_path / folder, small, **options)
        assert (running.inputs.batch_cache is not None) == (shared is not None)
        return plain(finish(running).records)

    keep, spread = (
        {"batch_size": 12, "last_batch": "keep"},
        {"batch_size": 13, "last_batch": "spread"},
    )
    run("first", others, **keep)
    assert run("second", others, **spread) == run("alone", None, **spread)
    assert len(others) == 2


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([128] * 39 + [8], 128), ([125] * 40, 125), ([124] * 17 + [123] * 4, 124), ([16, 15, 15], 15),
     ([13, 12], 13), ([13], 13)],
)  # fmt: skip
def test_the_most_frequent_size_is_the_one_that_is_compiled(
    counts: Sequence[int], expected: int
) -> None:
    assert _most_frequent(counts) == expected


def test_spread_batches_run_compiled_though_none_has_batch_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """61 images at 20: 16, 15, 15, 15. A stand-in for the compiler notes what it is given."""
    compiled: list[int] = []

    class Noted(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, inputs: torch.Tensor) -> Any:
            compiled.append(len(inputs))
            return self.network(inputs)

    monkeypatch.setattr(
        "suite.training.compile.compile_network", lambda network, device: Noted(network)
    )
    made = trial(
        data__val_size=0, data__train_size=61, batch_size=20, last_batch="spread", epochs=1
    )
    numerics = Numerics(channels_last=True, compiled=True)
    finish(training(made, tmp_path, objective=LAST_LOSS, numerics=numerics))
    assert compiled == [15, 15, 15]


# ---- stored configs ------------------------------------------------------------------------------


def old_config() -> dict[str, Any]:
    """As version 4 wrote it: complete, without what was added since."""
    config = TrialConfig.model_validate({"train": {"epochs": 2}}).model_dump(mode="json")
    del config["train"]["last_batch"]
    return config


def test_a_stored_config_from_before_the_setting_was_trained_with_its_remainder() -> None:
    assert read_stored_config(old_config()).train.last_batch == "keep"
    new = TrialConfig.model_validate({"train": {"last_batch": "spread"}})
    assert read_stored_config(new.model_dump(mode="json")) == new


def test_an_old_trial_trained_again_has_its_remainder(tmp_path: Path) -> None:
    config = trial(data__val_size=0, data__train_size=62, batch_size=20, epochs=1).config
    config["train"].pop("last_batch")  # type: ignore[attr-defined]
    old = replace(trial(), config=config)
    assert [b.stop - b.start for b in training(old, tmp_path).images.batches] == [20, 20, 20, 2]


@pytest.mark.parametrize(
    ("mode", "count", "expected"),
    [(None, 5000, True), ("keep", 5000, True), ("drop", 5000, False), ("spread", 5000, False),
     (None, 4992, False), (None, 100, False), (None, 129, False), (None, 130, True)],
)  # fmt: skip
def test_results_with_a_remainder_are_known_from_a_run_s_params(
    mode: str | None, count: int, expected: bool
) -> None:
    params = {"train.batch_size": "128"} | ({"train.last_batch": mode} if mode else {})
    assert trained_with_remainder(params | {"data.train_size": str(count)}) is expected
    folder = params | {"data.name": "folder", "data.train_size": "null", "data.val_size": "0"}
    assert trained_with_remainder(folder, count) is expected
    assert trained_with_remainder(folder) in (None, False)


def test_the_images_of_named_data_sets_are_those_that_they_have() -> None:
    assert len(data.load(DataConfig(name="digits")).train_labels) == NAMED_IMAGES["digits"]


# ---- the plan ------------------------------------------------------------------------------------


def lines_of(tmp_path: Path, parameters: str) -> list[str]:
    (tmp_path / "x.yaml").write_text(
        "name: x\ntrial: {data: {name: own:load, val_size: 0}}\n"
        f"metric: {{name: train/acc, strategy: last}}\nparameters: {{{parameters}}}\n"
    )
    spec = load(tmp_path / "x.yaml")
    prepared = plan.Plan(spec, {plan.data_key(spec.arms_list[0].config.data): images()})
    return estimate._left_out(prepared, spec.arms_list)


def test_a_plan_says_once_how_many_images_each_number_of_arms_leaves_out(tmp_path: Path) -> None:
    """64 images."""
    assert lines_of(tmp_path, "train.batch_size: {values: [10, 20, 30, 32]}") == [
        f"{arms} of 4 arms: each epoch leaves out 4 of 64 training images, other ones each time "
        "(train.last_batch: drop)"
        for arms in (3,)
    ]
    both = "train.batch_size: {values: [10, 25]}"
    assert [line.split(",")[0] for line in lines_of(tmp_path, both)] == [
        "1 of 2 arms: each epoch leaves out 4 of 64 training images",
        "1 of 2 arms: each epoch leaves out 14 of 64 training images",
    ]
    assert lines_of(tmp_path, "train.last_batch: {values: [spread, keep]}") == []


def test_the_stored_form_has_the_setting() -> None:
    assert asdict(trial())["config"]["train"]["last_batch"] == DEFAULT_LAST_BATCH
