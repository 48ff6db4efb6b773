"""Training steps through torch.compile: the same training, resumed and repeated bit for bit."""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training import differing, everything, finish, stopping_at, training, trial

from suite.core.records import Numerics
from suite.models import strip_conv
from suite.training.compile import compile_network

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:torch"
    ),  # torch's compiler uses what torch deprecates
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not shutil.which("g++") or not Path(sysconfig.get_path("include"), "Python.h").exists(),
        reason="torch.compile needs g++ and Python's headers",
    ),
]

EAGER, COMPILED = Numerics(channels_last=True), Numerics(channels_last=True, compiled=True)


@pytest.fixture(autouse=True)
def compiler_s_own_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for all tests of a process: what one compiled, the next takes up, as the trials of a
    sweep do.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))


@pytest.fixture
def compiled_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each step that ran compiled code."""
    sizes: list[int] = []
    real = compile_network

    def watched(network: torch.nn.Module, device: torch.device) -> Any:
        made = real(network, device)

        def run(inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            found: torch.Tensor = made(inputs)
            return found

        return run

    monkeypatch.setattr("suite.training.compile.compile_network", watched)
    return sizes


def losses(running: Any) -> torch.Tensor:
    return torch.tensor([record.metrics["train/loss"] for record in running.records])


@pytest.fixture
def counters() -> Any:
    """torch's own count of what was compiled, from nothing on."""
    torch._dynamo.reset()
    found = torch._dynamo.utils.counters
    found.clear()
    return found


AS_TRAINED = Numerics("bf16", channels_last=True, sliced=True, tiled=True, compiled=True)


@pytest.mark.parametrize(
    ("arch", "settings", "numerics"),
    [
        (
            "nets:tiny",
            {"augment": "flip", "ema": 0.9, "model__head": {"hidden": [8], "dropout": 0.5}},
            COMPILED,
        ),
        ("nets:wide", {"lr": 0.001}, AS_TRAINED),
        pytest.param("resnet20", {"lr": 0.01}, AS_TRAINED, marks=pytest.mark.full),
        pytest.param(
            "resnet20",
            {"model__freeze_depth": 2, "model__freeze_batchnorm": True},
            COMPILED,
            marks=pytest.mark.full,
        ),
    ],
    ids=["averaged, dropout", "strips", "slices", "frozen"],
)  # fmt: skip
def test_compiled_steps_are_the_steps(
    arch: str,
    settings: dict[str, Any],
    numerics: Numerics,
    tmp_path: Path,
    compiled_sizes: list[int],
    counters: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to rounding; the last batch of an epoch, of 8 images and not 10, is run as it is.

    Control: another seed.
    """
    monkeypatch.setattr(strip_conv, "has_amx", lambda: True)  # strips give the same everywhere
    made, plain = (
        trial(arch, epochs=2, last_batch="keep", **settings),
        replace(numerics, compiled=False),
    )
    eager = finish(training(made, tmp_path / "eager", numerics=plain))
    assert compiled_sizes == [] and not counters["stats"]
    ours = finish(training(made, tmp_path / "compiled", numerics=numerics))
    assert compiled_sizes == [10] * 8
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"], (
        "parts were run as they are"
    )
    other_trial = trial(arch, seed=1, epochs=2, last_batch="keep", **settings)
    other = finish(training(other_trial, tmp_path / "other", numerics=plain))
    off, control = (float((losses(each) - losses(eager)).abs().max()) for each in (ours, other))
    assert off < (0.05 if numerics.precision == "fp32" else 0.5) * control
    assert ours.model.state_dict().keys() == eager.model.state_dict().keys()


@pytest.mark.parametrize(
    ("last_batch", "expected"), [("drop", [20] * 2), ("spread", [15] * 2), ("keep", [20] * 2)]
)
def test_the_most_frequent_size_is_compiled(
    last_batch: str, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """44 images at 20: with ``spread`` no batch has 20."""
    sizes: list[int] = []

    def noted(network: torch.nn.Module, device: torch.device) -> Any:
        return lambda inputs: sizes.append(len(inputs)) or network(inputs)

    monkeypatch.setattr("suite.training.compile.compile_network", noted)
    settings: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 20,
        "data__val_size": 20,
        "last_batch": last_batch,
    }
    finish(training(trial(**settings), tmp_path, numerics=COMPILED))
    assert sizes == expected


def test_a_compiled_trial_that_was_interrupted_ends_with_the_same_numbers(
    tmp_path: Path, counters: Any
) -> None:
    """In the middle of an epoch, and beside other trials of the same worker, whose code it has:
    bit for bit.
    """
    made = trial(epochs=2, augment="flip", model__head={"hidden": [8], "dropout": 0.5})
    whole = finish(training(made, tmp_path / "whole", numerics=COMPILED))
    cut = training(made, tmp_path / "cut", numerics=COMPILED, should_stop=stopping_at(6))
    assert cut.train_epoch() is not None and cut.train_epoch() is None and cut.step == 2
    for seed in range(10):  # by itself the compiler would give up after eight
        between = trial(
            seed=seed, epochs=1, model__head={"hidden": [8], "dropout": 0.05 * (seed + 1)}
        )
        finish(training(between, tmp_path / f"between{seed}", numerics=COMPILED))
    again = finish(training(made, tmp_path / "cut", numerics=COMPILED))
    assert differing(everything(again), everything(whole)) == []
    assert counters["stats"]["unique_graphs"] == 11 - 1, (
        "one for each rate of dropout"
    )  # 0.5 is the whole one's, too
