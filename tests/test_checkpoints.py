"""Training that stops and goes on, and checkpoints that are damaged."""

from __future__ import annotations

import errno
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_training import FULL
from training import differing, everything, finish, stopping_at, training, trial

from suite.core.errors import TrialError
from suite.core.records import Numerics
from suite.models.trained import rebuild
from suite.storage import checkpoint
from suite.training.hooks import TrainingHooks


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch."""
    monkeypatch.setattr("suite.training.state.SAVE_EVERY_S", 0.0)


# ---- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        FULL,
        {"last_batch": "spread"},
        {"last_batch": "keep", "nesterov": True},
    ],
    ids=["sgd", "all at once", "spread", "keep"],
)
def test_a_stop_at_any_step_changes_no_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    made = trial(augment="flip+crop+cutout+mixup", **settings)
    unbroken = finish(training(made, tmp_path / "unbroken"))
    whole, facts = everything(unbroken), unbroken.finish()
    steps = 2 * unbroken.steps_per_epoch
    for step in range(steps):
        folder = tmp_path / f"stopped{step}"
        stopped = training(made, folder, should_stop=stopping_at(step))
        while stopped.train_epoch() is not None:
            pass
        assert (stopped.epoch, stopped.step) == divmod(step, unbroken.steps_per_epoch)
        resumed = finish(training(made, folder))
        assert not differing(everything(resumed), whole), f"stopped before step {step}"
        assert resumed.finish() == facts
        for name in ("best.pt", "predictions.npz"):
            found, expected = (
                (base / name).read_bytes() for base in (folder, tmp_path / "unbroken")
            )
            assert found == expected, name


def test_a_stop_at_every_step_changes_no_bit(tmp_path: Path) -> None:
    """A machine that is taken away all the time still gets there."""
    made = trial(augment="flip+mixup", **FULL)
    whole = everything(finish(training(made, tmp_path / "unbroken")))
    for _ in range(200):
        broken = training(made, tmp_path / "broken", should_stop=stopping_at(1))
        if broken.complete:
            break
        while broken.train_epoch() is not None:
            pass
    assert not differing(everything(training(made, tmp_path / "broken")), whole)


@pytest.mark.usefixtures("often")
def test_a_lost_process_goes_on_from_the_last_epoch(tmp_path: Path) -> None:
    whole = everything(finish(training(trial(epochs=4), tmp_path / "unbroken")))
    lost = training(trial(epochs=4), tmp_path / "lost")
    lost.train_epoch()
    lost.train_epoch()
    # steps of the third epoch that nobody saved
    lost.hooks = TrainingHooks(should_stop=stopping_at(2), owns_sweep=lambda: False)
    assert lost.train_epoch() is None
    resumed = training(trial(epochs=4), tmp_path / "lost")
    assert (resumed.epoch, resumed.step) == (2, 0)
    assert not differing(everything(finish(resumed)), whole)


def test_the_best_epoch_is_the_one_kept_and_loads_back(tmp_path: Path) -> None:
    made = training(trial(epochs=5, lr=0.2), tmp_path)
    states, tests = [], []
    while not made.complete:
        made.train_epoch()
        states.append({name: value.clone() for name, value in made.model.state_dict().items()})
        tests.append(made.evaluate_test()[0])
    facts = made.finish()
    at = facts["best_epoch"] - 1
    assert at == int(np.argmax([record.metrics["val/acc"] for record in made.records]))
    assert not differing(torch.load(tmp_path / "best.pt", weights_only=True)["model"], states[at])
    with np.load(tmp_path / "predictions.npz") as kept:
        torch.testing.assert_close(torch.from_numpy(kept["logits"]), tests[at])
        assert (kept["labels"] == made.images.test.labels[made.images.test.index].numpy()).all()
    network = rebuild(made.trial, tmp_path / "best.pt")
    with torch.inference_mode():
        torch.testing.assert_close(
            network(made.images.test.images[made.images.test.index].float() / 255), tests[at]
        )


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("frozen_statistics", [False, True])
def test_frozen_layers_stay_and_are_not_stored(
    tmp_path: Path, frozen_statistics: bool, ema: float | None
) -> None:
    made = training(
        trial(model__freeze_depth=2, model__freeze_batchnorm=frozen_statistics, ema=ema, epochs=1),
        tmp_path,
    )
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    finish(made)
    moved = {
        name
        for name, value in made.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    statistics = (
        set()
        if frozen_statistics
        else {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}
    )
    frozen = {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"}
    first = {name for name in before if name.startswith(("conv1", "bn1"))}
    assert moved & first == statistics and moved - first == before.keys() - first
    found = checkpoint.newest(tmp_path / "checkpoints", made.trial.id)
    assert found is not None
    last = found.read("last.pt")
    stored = [last["model"], found.read("best.pt")["model"]]
    stored += [last["averaged"]["model"]] if ema else []
    for state in stored:
        assert not state.keys() & frozen and statistics <= state.keys() and "fc.weight" in state
        assert not frozen_statistics or not state.keys() & first
    assert len(last["optimizer"]["state"]) == len(before) - len(first) - 3, (
        "the optimizer remembers what it trains"
    )
    assert not differing(everything(training(made.trial, tmp_path)), everything(made))


# ---- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial's folder with the checkpoints of epochs 2 and 3 of 4."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suite.training.state.SAVE_EVERY_S", 0.0)
        made = training(trial(epochs=4, ema=0.5), folder)
        for _ in range(3):
            made.train_epoch()
    assert names(folder) == ["e00002s000000", "e00003s000000"]
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def flip(path: Path, offset: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit in the weights": (
        lambda newest: flip(newest / "last.pt", 2000),
        "last.pt does not match its sha",
    ),
    "a flipped bit in the best": (
        lambda newest: flip(newest / "best.pt", 1500),
        "best.pt does not match its sha256",
    ),
    "a cut file": (
        lambda newest: (newest / "last.pt").write_bytes((newest / "last.pt").read_bytes()[:-7]),
        "last.pt has .* bytes instead",
    ),
    "an empty file": (
        lambda newest: (newest / "last.pt").write_bytes(b""),
        "last.pt has 0 bytes instead of",
    ),
    "a missing file": (lambda newest: (newest / "last.pt").unlink(), "last.pt is missing"),
    "no manifest": (lambda newest: (newest / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
    "an empty manifest": (lambda newest: (newest / "MANIFEST.json").write_text(""), "unreadable"),
    "another shape of manifest": (
        lambda newest: (newest / "MANIFEST.json").write_text('["files"]'),
        "unreadable",
    ),
    "another trial's": (
        lambda newest: (newest / "MANIFEST.json").write_text(
            (newest / "MANIFEST.json").read_text().replace("0123456789abcdef", "fedcba9876543210")
        ),
        "it belongs to trial fedcba9876543210",
    ),
    "another epoch's": (
        lambda newest: (newest / "MANIFEST.json").write_text(
            (newest / "MANIFEST.json").read_text().replace('"epoch": 3', '"epoch": 2')
        ),
        "its manifest speaks of epoch 2",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    tmp_path: Path, two_checkpoints: Path, damage: str
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "trial")
    spoil, reason = DAMAGES[damage]
    spoil(tmp_path / "trial" / "checkpoints" / "e00003s000000")
    said: list[str] = []
    resumed = training(trial(epochs=4, ema=0.5), tmp_path / "trial", warn=said.append)
    assert resumed.epoch == 2
    assert len(said) == 1 and "damaged" in said[0] and "going on from the one before it" in said[0]
    pytest.importorskip("re")
    import re

    assert re.search(reason, said[0]), said[0]
    assert sum(name.endswith(".corrupt") for name in names(tmp_path / "trial")) == 1
    whole = everything(finish(training(trial(epochs=4, ema=0.5), tmp_path / "unbroken")))
    assert not differing(everything(finish(resumed)), whole)
    # the one set aside is neither looked at again nor in the way
    assert not differing(
        everything(training(trial(epochs=4, ema=0.5), tmp_path / "trial", warn=said.append)), whole
    )
    assert len(said) == 1


def test_no_flipped_bit_anywhere_in_a_checkpoint_goes_unnoticed(
    tmp_path: Path, two_checkpoints: Path
) -> None:
    generator = random.Random(0)
    sizes = {
        path.name: path.stat().st_size
        for path in (two_checkpoints / "checkpoints" / "e00003s000000").iterdir()
    }
    assert set(sizes) == {"last.pt", "best.pt", "MANIFEST.json"}
    whole = everything(training(trial(epochs=4, ema=0.5), two_checkpoints))
    for case in range(50):
        folder = tmp_path / str(case)
        shutil.copytree(two_checkpoints, folder)
        name = generator.choice(sorted(sizes))
        flip(
            folder / "checkpoints" / "e00003s000000" / name,
            generator.randrange(sizes[name]),
            generator.randrange(8),
        )
        found = checkpoint.newest(folder / "checkpoints", trial().id)
        assert found is not None
        if (
            found.epoch == 3
        ):  # only where the manifest says nothing that counts: torch's version, white space
            assert name == "MANIFEST.json"
            assert not differing(everything(training(trial(epochs=4, ema=0.5), folder)), whole)
        else:
            assert found.epoch == 2 and (found.folder / "last.pt").exists()
        shutil.rmtree(folder)


def test_with_every_checkpoint_damaged_a_trial_starts_anew(
    tmp_path: Path, two_checkpoints: Path
) -> None:
    shutil.copytree(two_checkpoints, tmp_path / "trial")
    for each in (tmp_path / "trial" / "checkpoints").iterdir():
        flip(each / "last.pt", 1000)
    said: list[str] = []
    made = training(trial(epochs=4, ema=0.5), tmp_path / "trial", warn=said.append)
    assert made.epoch == 0 and len(said) == 2 and "starting anew" in said[-1]
    whole = everything(finish(training(trial(epochs=4, ema=0.5), tmp_path / "unbroken")))
    assert not differing(everything(finish(made)), whole)


@pytest.mark.usefixtures("often")
def test_half_written_checkpoints_are_swept_and_two_whole_ones_kept(tmp_path: Path) -> None:
    draft = tmp_path / "checkpoints" / ".tmp-abc"
    draft.mkdir(parents=True)
    (draft / "last.pt").write_bytes(b"half")
    made = training(trial(epochs=5), tmp_path)
    assert names(tmp_path) == []
    for epoch in range(1, 6):
        made.train_epoch()
        assert names(tmp_path) == [f"e{n:05d}s000000" for n in range(max(1, epoch - 1), epoch + 1)]


def test_a_worker_whose_launch_is_over_writes_nothing(tmp_path: Path) -> None:
    made = finish(training(trial(), tmp_path, owns_sweep=lambda: False))
    assert names(tmp_path) == [] and made.finish()["files"] == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


@pytest.mark.usefixtures("often")
def test_a_full_disk_costs_a_checkpoint_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    made = training(trial(epochs=3), tmp_path, warn=said.append)
    made.train_epoch()
    kept = names(tmp_path)
    real = checkpoint._write

    def full(path: Path, content: Any) -> Any:
        real(path, content)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    made.train_epoch()
    assert names(tmp_path) == kept, "the one before stays, and nothing half written"
    (line,) = said
    assert line.startswith("no checkpoint of epoch 2 could be written: No space left on device (")
    assert line.endswith(f" free at {tmp_path})")
    monkeypatch.undo()
    made.train_epoch()
    assert made.complete


class Intruder:
    """What a pickle can do."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


def test_a_checkpoint_with_a_pickle_in_it_is_not_run(tmp_path: Path) -> None:
    """Also where the manifest is right: whoever can write the file can write the manifest."""
    made = finish(training(trial(), tmp_path))
    (folder,) = [
        path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("e00002")
    ]
    buffer = io.BytesIO()
    torch.save({"model": Intruder()}, buffer)
    (folder / "last.pt").write_bytes(buffer.getvalue())
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"]["last.pt"] = {
        "size": len(buffer.getvalue()),
        "sha256": checkpoint.digest(folder / "last.pt"),
    }
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(TrialError, match=r"last\.pt is refused: it holds more than tensors"):
        training(made.trial, tmp_path)


def test_the_threads_are_those_of_the_numerics(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            made = training(trial(), tmp_path / str(threads), numerics=Numerics(threads=threads))
            assert torch.get_num_threads() == threads, "features of frozen layers are made now"
            torch.set_num_threads(3 - threads)
            made.train_epoch()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
