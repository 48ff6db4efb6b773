"""What comes after a sweep: replay, predict, the champion, a notebook; and whether the
documented examples work.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import REPO, SWEEP, Folder
from PIL import Image

pytestmark = pytest.mark.slow
README = (REPO / "README.md").read_text()
HOW_TO = REPO / "docs" / "how-to"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A finished sweep; the checkpoints of all but the champion are gone by the budget."""
    folder = Folder(tmp_path_factory.mktemp("done"))
    folder.write(checkpoints={"keep": 1})
    folder.sweep()
    return folder


def run_id(folder: Folder, name: str) -> str:
    return str(folder.query("select run_uuid from runs where name = ?", name)[0][0])


def champion(folder: Folder) -> str:
    return str(next(entry["id"] for entry in folder.journal if entry["kind"] == "champion"))


@pytest.fixture(scope="module")
def loser(done: Folder) -> str:
    """The run of a trial that is not the champion."""
    names = {entry["id"]: entry["name"] for entry in done.journal if entry["kind"] == "trial"}
    return run_id(done, next(name for trial, name in names.items() if trial != champion(done)))


@pytest.fixture(scope="module")
def photos(done: Folder) -> Path:
    folder = done.path / "photos" / "below"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(3):
        pixels = random.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder.parent


# ---- replay --------------------------------------------------------------------------------------


def test_a_replayed_trial_has_the_recorded_figures_and_gives_the_checkpoint_back(
    done: Folder, loser: str, photos: Path
) -> None:
    gone = done.run(loser, str(photos), module="suite.predict")
    assert gone.returncode == 6
    assert f"python -m suite.replay {loser}" in gone.stderr
    again = done.run(loser, module="suite.replay")
    assert again.returncode == 0, again.stderr
    assert [line.rpartition(" ")[0].split()[-1] for line in again.stdout.splitlines()[:4]] == [
        "as"
    ] * 4
    checkpoint = f"replays/{loser}/best.pt"
    assert f"checkpoint: {checkpoint}" in again.stdout
    predicted = done.run(loser, str(photos), "--checkpoint", checkpoint, module="suite.predict")
    assert predicted.returncode == 0, predicted.stderr
    assert len(predicted.stdout.splitlines()) == 4
    stored = np.load(next(done.path.glob(f"mlartifacts/*/{loser}/artifacts/predictions.npz")))
    replayed = np.load(done.path / "replays" / loser / "predictions.npz")
    assert sorted(stored) == sorted(replayed)
    for name in stored:
        assert (stored[name] == replayed[name]).all(), name


def test_a_replay_that_differs_says_where_and_ends_with_three(done: Folder, loser: str) -> None:
    key = ("val/acc", loser, 2)
    true = done.query(
        "select value from metrics where key = ? and run_uuid = ? and step = ?", *key
    )[0][0]
    with sqlite3.connect(done.path / "mlflow.db") as connection:
        change = "update metrics set value = ? where key = ? and run_uuid = ? and step = ?"
        connection.execute(change, (0.5 * true, *key))
        connection.commit()
        try:
            again = done.run(loser, "--out", "elsewhere", module="suite.replay")
        finally:
            connection.execute(change, (true, *key))
    assert again.returncode == 3, again.stderr
    lines = again.stdout.splitlines()
    assert "differs: val/acc" in lines[1]
    assert [line.endswith("as recorded") for line in lines[:4]] == [True, False, True, True]


@pytest.mark.parametrize("module", ["suite.replay", "suite.predict"])
def test_a_run_that_is_not_there_or_no_trial_is_refused(
    done: Folder, module: str, photos: Path
) -> None:
    rest = [str(photos)] if module == "suite.predict" else []
    wrong = [
        (run_id(done, "tiny"), "is not a trial of a sweep"),
        ("models:/tiny@winner", "there is no run models:/tiny@winner"),
    ]
    for given, said in wrong[
        : 1 if module == "suite.predict" else None
    ]:  # both look it up in the same way
        refused = done.run(given, *rest, module=module)
        assert refused.returncode == 2, refused.stderr
        assert said in refused.stderr
        assert "Traceback" not in refused.stderr


# ---- predict -------------------------------------------------------------------------------------


def test_the_champions_probabilities_of_a_folder_of_images(done: Folder, photos: Path) -> None:
    table = done.run("models:/tiny@champion", str(photos), module="suite.predict")
    assert table.returncode == 0, table.stderr
    header, *rows = csv.reader(io.StringIO(table.stdout))
    assert header == ["file", "class", *map(str, range(10))]
    assert [Path(row[0]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        shares = np.array(row[2:], dtype=float)
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert row[1] == header[2 + int(shares.argmax())]
    filed = done.run("models:/tiny@champion", str(photos), "--out", "p.csv", module="suite.predict")
    assert (filed.returncode, filed.stdout) == (0, "")
    assert (done.path / "p.csv").read_text().splitlines() == table.stdout.splitlines()


def test_bad_folders_and_checkpoints_of_predict(done: Folder, photos: Path) -> None:
    (done.path / "empty").mkdir()
    (done.path / "bad").mkdir()
    (done.path / "bad" / "a.png").write_bytes(b"no image")
    for arguments, code, said in (
        (["nowhere"], 2, "must be a folder of images, got nowhere"),
        (["empty"], 2, "must hold images, got none below empty"),
        (["bad"], 6, "a.png"),
        ([str(photos), "--checkpoint", "bad/a.png"], 6, "bad/a.png is not a best.pt of run"),
    ):
        refused = done.run("models:/tiny@champion", *arguments, module="suite.predict")
        assert (refused.returncode, "Traceback" in refused.stderr) == (code, False), refused.stderr
        assert said in refused.stderr


def test_the_champion_loads_with_mlflow_alone_and_gives_the_stored_predictions(
    done: Folder,
) -> None:
    """Without the suite on the path, in a process of its own; the labels are those of
    predictions.npz.
    """
    code = """
import json, sys
import mlflow, numpy as np, torch
network = mlflow.pytorch.load_model("models:/tiny@champion")
version = mlflow.MlflowClient().get_model_version_by_alias("tiny", "champion")
signature = mlflow.models.get_model_info("models:/tiny@champion").signature
images = torch.from_numpy(np.load("images.npy")).float() / 255
with torch.inference_mode():
    labels = torch.cat([network(part) for part in images.split(100)]).argmax(1)
assert "suite" not in sys.modules
print(json.dumps([version.run_id, str(signature.inputs), labels.tolist()]))
"""
    from suite import data
    from suite.config import TrialConfig

    images = data.load(
        TrialConfig.model_validate({"data": {"name": "digits", "image_size": 8}}).data
    ).test_images
    np.save(done.path / "images.npy", images)
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=done.path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            k: v
            for k, v in done.environment(MLFLOW_TRACKING_URI="sqlite:///mlflow.db").items()
            if k != "PYTHONPATH"
        },
    )
    assert loaded.returncode == 0, loaded.stderr
    run, inputs, labels = json.loads(loaded.stdout.splitlines()[-1])
    names = {entry["id"]: entry["name"] for entry in done.journal if entry["kind"] == "trial"}
    assert run == run_id(done, names[champion(done)])
    assert "(-1, 3, 8, 8)" in inputs
    stored = np.load(next(done.path.glob(f"mlartifacts/*/{run}/artifacts/predictions.npz")))
    assert np.array(labels)[stored["index"]].tolist() == stored["logits"].argmax(1).tolist()


# ---- before a run, and in a notebook -------------------------------------------------------------


def test_a_dry_run_lists_every_arm_and_leaves_nothing(folder: Folder) -> None:
    folder.write(baseline={"train.lr": 0.05})
    before = sorted(path.name for path in folder.path.iterdir())
    shown = folder.sweep("--dry-run", COLUMNS="160").stdout
    assert (
        sorted(path.name for path in folder.path.iterdir() if path.name != "__pycache__") == before
    )
    rows = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert "lr=0.05 (baseline)" in rows
    assert rows["lr=0.2"][1:5] == [
        "2",
        "4",
        "330",
        "330",
    ]  # seeds, epochs, trainable, all parameters
    assert "4 trials to run, 16 epochs, about" in shown
    assert (
        "2 trials to run, 8 epochs, about" in folder.sweep("--dry-run", "--only", "lr=0.2").stdout
    )
    assert (
        "--only must name arms of the sweep, got 'lr=9'"
        in folder.sweep("--dry-run", "--only", "lr=9", code=2).stderr
    )
    assert re.search(r"memory: about \d\.\d GiB a trial", shown)
    assert re.search(r"disk: about \d+ MiB of checkpoints at most", shown)


def test_a_dry_run_says_which_images_an_epoch_leaves_out_and_when_it_tests(folder: Folder) -> None:
    """Digits: 1,438 training images, 359 test images.

    By hand, at a third of a step for a forward pass.
    """
    settings = {**SWEEP["trial"], "data": {"name": "digits", "image_size": 8, "train_size": 500}}
    arms = {"dropped": {"train.last_batch": "drop"}, "spread": {"train.last_batch": "spread"},
            "often": {"train.evaluate_test": "every", "train.lr": 0.2}}  # fmt: skip
    settings["train"] = {**settings["train"], "batch_size": 48, "epochs": 4}
    folder.write(trial=settings, arms=arms, parameters=None, seeds=[0])
    lines = folder.sweep("--dry-run", COLUMNS="160").stdout.splitlines()
    left_out = (
        "each epoch leaves out 20 of 500 training images, other ones each time "
        "(train.last_batch: drop)"
    )
    assert f"2 of 3 arms: {left_out}" in lines
    # 56 validation images (500 / 9); last: (4 x 56 + 359) / 3 = 194 of 2,114 for 480 images, of
    # 2,194 for 500
    once = (
        "test images are evaluated once, at the end (train.evaluate_test: auto); validation "
        "and test take about 9 %"
    )
    assert f"2 of 3 arms: {once} of a trial" in lines
    # every: 4 x 415 / 3 = 553 of 2,473
    often = (
        "test images are evaluated at every epoch (train.evaluate_test: every); validation "
        "and test take about 22 %"
    )
    assert f"1 of 3 arms: {often} of a trial" in lines
    assert not any(
        "leaves out" in line
        for line in folder.sweep("--dry-run", "train.batch_size=50").stdout.splitlines()
    )


def test_a_smoke_run_is_tracked_nowhere(folder: Folder) -> None:
    folder.write(seeds=[3, 4])
    shown = folder.sweep("--smoke", "train.epochs=3", "seeds=[3,4]").stdout
    assert "complete (2/2 trials" in shown
    assert {path.name for path in folder.path.iterdir()} <= {
        "sweep.yaml",
        "tiny_net.py",
        "__pycache__",
    }


def test_a_sweep_in_a_notebook_gives_frames_run_ids_and_a_report(folder: Folder) -> None:
    """The lines of docs/how-to/notebook.md, on a small file."""
    folder.write(parameters={"train.lr": {"values": [0.05, 0.2]}}, seeds=[0, 1])
    text = (HOW_TO / "notebook.md").read_text()
    lines = re.search(r"```python\n(from suite import sweep.*?)```", text, re.DOTALL)
    assert lines
    code = lines[1].replace("search_spaces/quickstart.yaml", "sweep.yaml")
    code += """
import json
again = sweep.run("sweep.yaml", ["seeds=[0,1,2,3,4,5,6]"])
assert again.trials.equals(result.trials), "the second call runs nothing and gives the same"
same_runs = sorted(result.trials["run_id"]) == sorted(result.run_ids.values())
print(json.dumps([
    len(result.trials), result.arms["arm"].tolist(), same_runs,
    int(result.trials["epochs"].max()), result.report.is_file(), result.exit_code,
]))
"""
    (folder.path / "notebook.py").write_text(code)
    ran = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=folder.path,
        env=folder.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials, arms, same_ids, last, page, code_ = json.loads(ran.stdout.splitlines()[-1])
    assert (trials, sorted(arms), same_ids, page, code_) == (
        14,
        ["lr=0.05", "lr=0.2"],
        True,
        True,
        0,
    )
    assert last == 4


def test_the_documented_network_and_images_run(tmp_path: Path) -> None:
    page = (HOW_TO / "own-images-and-network.md").read_text()
    folder = Folder(tmp_path)
    for name, language in (("mine.py", "python"), ("mine.yaml", "yaml")):
        block = re.search(rf"```{language}\n(# {re.escape(name)}\n.*?)```", page, re.DOTALL)
        assert block, name
        (tmp_path / name).write_text(block[1])
    done = folder.run("mine.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine: complete (4/4 trials" in done.stdout
    assert len(folder.runs()) == 4


def test_the_readmes_sweep_file_is_right(tmp_path: Path) -> None:
    from suite import config

    block = re.search(r"```yaml\n(# yaml-language-server.*?)```", README, re.DOTALL)
    assert block
    (tmp_path / "s.yaml").write_text(block[1])
    loaded = config.load(tmp_path / "s.yaml")
    assert len(list(loaded.arms_list)) == 6
    assert yaml.safe_load(block[1])["name"] == loaded.name
