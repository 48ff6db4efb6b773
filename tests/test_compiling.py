"""Training steps through torch.compile: the same training, resumed and repeated bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import differing, everything, finish, stopping_at, training, trial

from suite import train
from suite.records import Numerics

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # torch's compiler uses what torch deprecates
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"),
]

EAGER, COMPILED = Numerics(channels_last=True), Numerics(channels_last=True, compiled=True)


@pytest.fixture(autouse=True)
def compiler_s_own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests of a process: what one compiled, the next takes up, as the trials of a sweep do."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))


@pytest.fixture
def compiled_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each step that ran compiled code."""
    sizes: list[int] = []
    real = train.compiled

    def watched(network: torch.nn.Module, device: torch.device) -> Any:
        made = real(network, device)

        def run(inputs: torch.Tensor) -> torch.Tensor:
            sizes.append(len(inputs))
            found: torch.Tensor = made(inputs)
            return found

        return run

    monkeypatch.setattr(train, "compiled", watched)
    return sizes


def losses(running: Any) -> torch.Tensor:
    return torch.tensor([record.metrics["train/loss"] for record in running.records])


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("nets:tiny", {"augment": "flip"}),
        ("nets:tiny", {"model__head": {"hidden": [8], "dropout": 0.5}}),
        pytest.param("resnet20", {"augment": "flip"}, marks=pytest.mark.full),
        pytest.param("resnet20", {"model__freeze_depth": 2, "model__freeze_batchnorm": True}, marks=pytest.mark.full),
    ],
    ids=["augmented", "dropout", "resnet20", "frozen"],
)
def test_compiled_steps_are_the_steps(
    arch: str, settings: dict[str, Any], tmp_path: Path, compiled_sizes: list[int]
) -> None:
    """Up to rounding; the last batch of an epoch, of 8 images and not 10, is run as it is. Control: another seed."""
    made = trial(arch, epochs=2, **settings)
    eager = losses(finish(training(made, tmp_path / "eager", numerics=EAGER)))
    assert compiled_sizes == []
    ours = losses(finish(training(made, tmp_path / "compiled", numerics=COMPILED)))
    assert compiled_sizes == [10] * 8
    other = losses(finish(training(trial(arch, seed=1, epochs=2, **settings), tmp_path / "other", numerics=EAGER)))
    assert (ours - eager).abs().max() < 0.05 * (other - eager).abs().max()


def test_a_compiled_trial_that_was_interrupted_ends_with_the_same_numbers(tmp_path: Path) -> None:
    """In the middle of an epoch, and after another trial of the same worker: bit for bit."""
    made = trial(epochs=2, augment="flip", model__head={"hidden": [8], "dropout": 0.5})
    whole = finish(training(made, tmp_path / "whole", numerics=COMPILED))
    cut = training(made, tmp_path / "cut", numerics=COMPILED, should_stop=stopping_at(7))
    assert cut.advance() is not None and cut.advance() is None and cut.step == 2
    finish(training(trial(seed=1, epochs=1), tmp_path / "between", numerics=COMPILED))
    again = finish(training(made, tmp_path / "cut", numerics=COMPILED))
    assert differing(everything(again), everything(whole)) == []
