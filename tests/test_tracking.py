"""Tracking: one contract for both trackers, the sender's promises, and real MLflow stores and
servers.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Looks
from suite.storage.journal import Entry
from suite.tracking import (
    MemoryStore,
    MlflowStore,
    Projection,
    Sender,
    SweepRuns,
    TrialRun,
    default_artifacts,
    default_uri,
    download,
    find_run,
    looks_of,
    read,
    resolve_weights,
    search_seed_of,
)
from suite.tracking.tags import flatten
from suite.tracking.text import safe_key

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch).*"),
]

T0 = 1_700_000_000_000
METRICS = {"train/loss": 1.5, "val/acc": 0.5, "val/loss": 1.25, "time/epoch_s": 3.0}


class Story:
    """Writes journal entries as the sweep does."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, kind: str, **fields: Any) -> Entry:
        seq = len(self.entries) + 1
        entry = {"seq": seq, "ts_ms": T0 + 1000 * seq, "kind": kind, **fields}
        self.entries.append(entry)
        return entry

    def launch(self, *trials: str) -> Story:
        environment = {
            "suite": "0.1.0",
            "user": "ann",
            "git": {"commit": "abc123"},
            "python": "3.11",
        }
        self.add(
            "launch",
            token="t",
            pid=1,
            host="here",
            command="python -m suite.sweep x.yaml --tracking-uri http://u:p@s/",
            file="/some/where/x.yaml",
            text="name: x\n",
            overrides=["train.epochs=2"],
            environment=environment,
            numerics={"precision": "fp32"},
            data={"name": "digits", "digest": "d" * 64},
            description="What for?",
        )
        self.add("plan", ids=list(trials), dropped=[], baseline={"a": True, "b": False})
        return self

    def trial(self, trial: str, arm: str = "a", seed: int = 0) -> Story:
        config = {
            "data": {"name": "digits", "root": None},
            "train": {"lr": 0.05, "note": "x" * 900},
            "augment": "none",
        }
        self.add(
            "trial",
            id=trial,
            arm=arm,
            seed=seed,
            name=f"{arm} seed={seed}",
            settings={"train.lr": 0.05},
            config=config,
            digests={"data": "d" * 64},
            numerics={"precision": "fp32"},
        )
        return self

    def start(self, trial: str) -> Story:
        self.add("start", id=trial, epoch=0, host="here", pid=2)
        return self

    def epochs(self, trial: str, *numbers: int) -> Story:
        for number in numbers:
            self.add("epoch", id=trial, epoch=number, metrics={**METRICS, "val/acc": number / 10})
        return self

    def end(self, trial: str, status: str = "finished", reason: str = "") -> Story:
        self.add(
            "end", id=trial, status=status, reason=reason, epochs=2, best_epoch=2, best_value=0.2
        )
        return self

    def close(self, status: str = "finished") -> Story:
        self.add("close", status=status, counts={"finished": 1})
        return self


def whole() -> Story:
    """A sweep of two trials, to its end."""
    story = Story().launch("t1", "t2").trial("t1").trial("t2", "b", 1)
    story.start("t1").start("t2").epochs("t1", 1).epochs("t2", 1).epochs("t1", 2).end("t1").end(
        "t2", "failed", "NaN"
    )
    return story.close()


def project(tracker: Projection, entries: list[Entry], cursor: Path) -> None:
    """Through a sender, to the end; nothing may be refused."""
    told: list[str] = []
    sender = Sender(tracker, cursor, told.append)
    for entry in entries:
        sender.put(entry)
    assert sender.drain(60), sender.lost
    sender.close()
    assert not told


ODD = [
    "ünï 学习率 🚀",
    'a "quoted" one',
    "<script>alert(1)</script>",
    "two\nlines",
    "../up",
    "%s {0} $x `y`",
    "x" * 300,
]


def assert_takes_odd_texts(tracker: Projection, folder: Path) -> None:
    """Rows 34 and 35 of the faults: large and many settings, names of all kinds, and what no
    database takes.
    """
    story = Story().launch(*[f"t{number}" for number in range(len(ODD))])
    many = {f"k{number}": number for number in range(500)}
    config = {"note": "x" * 20_000, "many": many, "l" * 251: 1, "odd": "a\0b\udc80c"}
    for number, text in enumerate(ODD):
        story.add(
            "trial",
            id=f"t{number}",
            arm=text,
            seed=0,
            name=f"{text} seed=0",
            settings={text: text},
            config=config,
        )
        story.start(f"t{number}").epochs(f"t{number}", 1).end(
            f"t{number}", "failed", f"{text} a\0b\udc80c"
        )
    story.add(
        "launch",
        token="t",
        file="y.yaml",
        text="a\udc80",
        environment={"git": {"diff": "\udcff"}},
        overrides=[],
    )
    project(tracker, story.close().entries, folder / "cursor")
    runs = tracker.read(tracker.store.sweep)
    assert [run.arm for run in runs.trials] == ODD
    assert [run.name for run in runs.trials] == [
        *(f"{text} seed=0" for text in ODD[:-1]),
        "x" * 247 + "...",
    ]
    for run, text in zip(runs.trials, ODD, strict=True):
        assert (
            run.params["many.k499"] == "499"
            and len(run.params) == 503
            and run.params["l" * 250] == "1"
        )
        assert (run.tags["suite.reason"], run.params["odd"]) == (
            f"{text} a\ufffdb\\udc80c",
            "a\ufffdb\\udc80c",
        )
        assert run.metrics["val/acc"] == {1: 0.1}
    assert (
        "x" * 20_000
        in download(
            tracker.store.uri, runs.trials[0].run_id, "config.yaml", folder / "to"
        ).read_text()
    )


Make = Callable[..., Projection]


class Contract:
    """What holds for every tracker.

    Subclasses give ``make(sweep, journal_id="j1")``; one store for a whole test.
    """

    def test_a_sweep_reads_back_as_it_was(self, make: Make, tmp_path: Path) -> None:
        tracker = make("whole")
        project(tracker, whole().entries, tmp_path / "cursor")
        runs = tracker.read("whole")
        first, second = runs.trials
        assert (runs.parent.run_id, first.run_id) == (tracker.run_id(None), tracker.run_id("t1"))
        assert (first.trial, first.arm, first.seed, first.name, first.status) == (
            "t1",
            "a",
            0,
            "a seed=0",
            "finished",
        )
        assert first.metrics["val/acc"] == {1: 0.1, 2: 0.2} and first.metrics["best/value"] == {
            2: 0.2
        }
        assert first.params["train.lr"] == "0.05" and first.params["data.root"] == "null"
        assert len(first.params["train.note"]) == 500 and first.params["train.note"].endswith(
            "see config.yaml)"
        )
        assert (second.status, second.tags["suite.reason"]) == ("failed", "NaN")
        assert first.tags["mlflow.parentRunId"] == runs.parent.run_id
        assert [run.tags["suite.baseline"] for run in runs.trials] == ["true", "false"]
        assert (
            first.tags["suite.data_digest"] == "d" * 64 and first.tags["suite.version"] == "0.1.0"
        )
        assert (
            runs.parent.status == "finished"
            and runs.parent.tags["mlflow.note.content"] == "What for?"
        )
        assert runs.parent.tags["mlflow.source.git.commit"] == "abc123"
        assert "u:p" not in str(runs)
        assert (first.start_ms, first.end_ms) == (T0 + 5000, T0 + 10_000)

    def test_looks_read_back_and_stay_when_a_trial_is_forgotten(
        self, make: Make, tmp_path: Path
    ) -> None:
        story = Story()
        planned = [list(range(8)), list(range(12))]
        story.add("launch", token="t", looks=planned, search_seed=None)
        story.add("plan", ids=["t1"], baseline=[])
        story.trial("t1").start("t1").epochs("t1", 1).end("t1").add("look", seeds=planned[0])
        project(make("looks"), story.entries, tmp_path / "cursor")
        eight, twelve = (tuple(seeds) for seeds in planned)
        assert looks_of(make("looks").read("looks").parent.tags) == Looks((eight, twelve), (eight,))
        story.close().add("launch", token="u", looks=[], search_seed=0)
        story.add("forget", id="t1")
        story.add("look", seeds=[0, 1, 5])
        project(make("looks"), story.entries, tmp_path / "cursor")
        tags = make("looks").read("looks").parent.tags
        assert (
            looks_of(tags) == Looks((), (eight, (0, 1, 5)), open=True) and search_seed_of(tags) == 0
        )
        again = make("looks")
        for entry in story.entries:
            again.apply(entry)
        assert make("looks").read("looks").parent.tags == tags

    def test_sending_everything_again_changes_nothing(self, make: Make, tmp_path: Path) -> None:
        story = whole()
        project(make("again"), story.entries, tmp_path / "cursor")
        before = make("again").read("again")
        project(make("again"), story.entries, tmp_path / "lost-cursor")
        again = make("again")
        for entry in story.entries + story.entries:
            again.apply(entry)
        assert make("again").read("again") == before

    def test_each_entry_twice_changes_nothing(self, make: Make, tmp_path: Path) -> None:
        tracker = make("twice")
        for entry in whole().entries:
            tracker.apply(entry)
            state = tracker.read("twice")
            tracker.apply(entry)
            assert tracker.read("twice") == state

    def test_what_ended_is_not_reopened_by_an_old_start(self, make: Make, tmp_path: Path) -> None:
        story = whole()
        tracker = make("reopened")
        project(tracker, story.entries, tmp_path / "cursor")
        for entry in story.entries:
            if entry["kind"] in ("start", "launch", "trial"):
                tracker.apply(entry)
        assert [run.status for run in tracker.read("reopened").trials] == ["finished", "failed"]
        assert tracker.read("reopened").parent.status == "finished"

    def test_a_relaunch_goes_on_in_the_same_runs(self, make: Make, tmp_path: Path) -> None:
        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        project(make("on"), story.entries, tmp_path / "cursor")
        first = make("on").read("on")
        story.launch("t1")
        project(make("on"), story.entries, tmp_path / "cursor")
        between = make("on").read("on")
        assert [run.status for run in between.trials] == ["interrupted"]  # its process is gone
        story.start("t1").epochs("t1", 2).end("t1").close()
        project(make("on"), story.entries, tmp_path / "cursor")
        last = make("on").read("on")
        assert [run.run_id for run in last.trials] == [run.run_id for run in first.trials]
        assert last.trials[0].metrics["val/acc"] == {1: 0.1, 2: 0.2}
        assert (last.trials[0].status, last.parent.run_id) == ("finished", first.parent.run_id)

    def test_a_new_plan_marks_what_was_dropped(self, make: Make, tmp_path: Path) -> None:
        story = whole()
        story.launch("t1", "t3").trial("t3", "c")
        tracker = make("plan")
        project(tracker, story.entries, tmp_path / "cursor")
        runs = tracker.read("plan")
        assert {run.trial: run.tags["suite.in_plan"] for run in runs.trials} == {
            "t1": "true",
            "t2": "false",
        }
        assert runs.parent.tags["suite.planned"] == "2"
        story.start("t3")
        project(tracker, story.entries, tmp_path / "cursor")
        run = {run.trial: run for run in tracker.read("plan").trials}["t3"]
        assert (run.status, run.tags["suite.in_plan"]) == ("running", "true")
        assert run.start_ms == story.entries[-1]["ts_ms"], (
            "a run begins when its trial does, not when it was planned"
        )

    def test_a_trial_that_ends_before_it_begins_has_a_run_all_the_same(
        self, make: Make, tmp_path: Path
    ) -> None:
        story = Story().launch("t1").trial("t1").end("t1", "failed", "no worker could be started")
        project(make("early"), story.entries, tmp_path / "cursor")
        run = make("early").read("early").trials[0]
        assert (run.status, run.tags["suite.reason"]) == ("failed", "no worker could be started")
        assert run.params["train.lr"] == "0.05"

    def test_a_forgotten_trial_starts_in_a_fresh_run(self, make: Make, tmp_path: Path) -> None:
        story = whole()
        tracker = make("forget")
        project(tracker, story.entries, tmp_path / "cursor")
        old = tracker.run_id("t1")
        story.add("forget", id="t1")
        project(make("forget"), story.entries, tmp_path / "cursor")
        assert [run.trial for run in make("forget").read("forget").trials] == ["t2"]
        story.start("t1").epochs("t1", 1).end("t1")
        project(make("forget"), story.entries, tmp_path / "cursor")
        project(make("forget"), story.entries, tmp_path / "lost-cursor")
        again = make("forget")
        for entry in story.entries:
            again.apply(entry)
        runs = make("forget").read("forget")
        assert runs.trials[0].run_id != old and len(runs.trials) == 2
        assert runs.trials[0].metrics["val/acc"] == {1: 0.1} and runs.trials[0].status == "finished"

    def test_another_journal_of_that_name_replaces_the_runs(
        self, make: Make, tmp_path: Path
    ) -> None:
        project(make("other"), whole().entries, tmp_path / "cursor")
        old = make("other").read("other")
        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        project(make("other", journal_id="j2"), story.entries, tmp_path / "cursor")
        runs = make("other", journal_id="j2").read("other")
        assert runs.parent.run_id != old.parent.run_id
        assert [(run.trial, run.metrics["val/acc"]) for run in runs.trials] == [("t1", {1: 0.1})]

    def test_values_that_are_no_numbers_are_left_out_and_noted(
        self, make: Make, tmp_path: Path
    ) -> None:
        story = Story().launch("t1").trial("t1").start("t1")
        story.add(
            "epoch", id="t1", epoch=1, metrics={"val/loss": None, "val/acc": 0.5, "odd[0]/(x)": 1.0}
        )
        story.add("epoch", id="t1", epoch=2, metrics={"val/acc": float("inf")})
        tracker = make("nan")
        for entry in story.entries:
            tracker.apply(entry)
        run = tracker.read("nan").trials[0]
        assert dict(run.metrics) == {"val/acc": {1: 0.5}, "odd_0_/_x_": {1: 1.0}}
        assert "val/acc at epoch 2" in run.tags["suite.nan"]

    def test_files_that_are_gone_are_passed_over(self, make: Make, tmp_path: Path) -> None:
        story = Story().launch("t1").trial("t1").start("t1")
        story.add("file", id="t1", path="checkpoints/best.pt", folder="checkpoints")
        story.add("file", id=None, path=str(tmp_path / "gone"), folder="")
        story.add("drop", id="t1")
        tracker = make("files")
        project(tracker, story.entries, tmp_path / "cursor")
        run = tracker.read("files").trials[0]
        assert f"suite.replay {run.run_id}" in run.tags["suite.checkpoint"]

    def test_pictures_are_shown_once_and_give_way_to_new_ones(
        self, make: Make, tmp_path: Path
    ) -> None:
        from PIL import Image

        def draw(*greys: int) -> list[str]:
            folder = tmp_path / "trials" / "t1" / "activations"
            folder.mkdir(parents=True, exist_ok=True)
            for number, grey in enumerate(greys):
                Image.new("L", (4, 4), grey).save(folder / f"{number}.png")
            return [f"{number}.png" for number in range(len(greys))]

        def images(files: list[str], share: float) -> None:
            story.add(
                "images",
                id="t1",
                key="activations",
                folder="trials/t1/activations",
                files=files,
                step=1,
                metrics={"dead/relu:2": share},
            )

        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        images(draw(10, 20, 30), 0.5)
        images(["0.png", "1.png", "2.png"], 0.5)  # drawn again after an interruption
        story.end("t1")
        tracker = make("pictures")
        project(tracker, story.entries, tmp_path / "cursor")
        first = tracker.read("pictures").trials[0]
        assert first.metrics["dead/relu:2"] == {1: 0.5} and first.tags["suite.images.activations"]
        project(make("pictures"), story.entries, tmp_path / "lost-cursor")
        assert make("pictures").read("pictures").trials[0] == first
        images(draw(40, 50), 0.25)
        images(["gone.png"], 0.0)
        tracker = make("pictures")
        project(tracker, story.entries, tmp_path / "cursor")
        last = tracker.read("pictures").trials[0]
        assert last.metrics["dead/relu:2"] == {1: 0.25} and last.status == "finished"
        assert last.tags["suite.images.activations"] != first.tags["suite.images.activations"]
        steps = sorted(
            name.split("+")[2] for name in self.files(tracker, last) if name.endswith(".png")
        )
        assert steps == ["0", "1"]

    def files(self, tracker: Projection, run: TrialRun) -> list[str]:
        """Names of the images of a run."""
        raise NotImplementedError

    def test_the_champion_is_marked_and_moves(self, make: Make, tmp_path: Path) -> None:
        story = whole()
        story.add("champion", id="t1", value=0.2)
        story.add("champion", id="t2", value=0.3)
        tracker = make("champion")
        project(tracker, story.entries, tmp_path / "cursor")
        runs = tracker.read("champion")
        assert runs.parent.tags["suite.champion"] == "t2"
        assert runs.parent.tags["suite.champion_run"] == tracker.run_id("t2")
        assert [run.tags["suite.champion"] for run in runs.trials] == ["false", "true"]

    def test_a_sweep_that_is_not_there_names_those_that_are(
        self, make: Make, tmp_path: Path
    ) -> None:
        tracker = make("known")
        project(tracker, whole().entries, tmp_path / "cursor")
        with pytest.raises(UsageError, match=r"no sweep unknown.*known"):
            tracker.read("unknown")


class TestMemory(Contract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        stored: dict[str, Any] = {}
        return lambda sweep, journal_id="j1": Projection(
            MemoryStore(sweep, journal_id, stored), tmp_path
        )

    def files(self, tracker: Projection, run: TrialRun) -> list[str]:
        return [
            name
            for name in tracker.store.stored[run.run_id].artifacts
            if name.startswith("images/")
        ]

    def test_check_says_when_it_is_down(self) -> None:
        tracker = Projection(MemoryStore())
        tracker.check()
        tracker.store.down = True
        with pytest.raises(EnvironmentProblem):
            tracker.check()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in it, made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = default_uri("sqlite:///mlflow.db", folder)
    Projection(MlflowStore("first", uri, default_artifacts(uri), "j1")).apply(
        Story().launch().entries[0]
    )
    return folder


@pytest.fixture
def uri(place: Path) -> str:
    return default_uri("sqlite:///mlflow.db", place)


def mlflow_tracker(uri: str, sweep: str, folder: Path, journal_id: str = "j1") -> Projection:
    return Projection(MlflowStore(sweep, uri, default_artifacts(uri), journal_id), folder)


class TestMlflow(Contract):
    @pytest.fixture
    def make(self, uri: str, tmp_path: Path) -> Make:
        return lambda sweep, journal_id="j1": mlflow_tracker(uri, sweep, tmp_path, journal_id)

    def files(self, tracker: Projection, run: TrialRun) -> list[str]:
        return [item.path for item in tracker.store._client().list_artifacts(run.run_id, "images")]

    def test_mlflow_has_what_the_conventions_say(
        self, uri: str, place: Path, tmp_path: Path
    ) -> None:
        from mlflow import MlflowClient

        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        best = tmp_path / "trials" / "t1" / "best.pt"
        best.parent.mkdir(parents=True)
        best.write_bytes(b"weights")
        story.add("file", id="t1", path="trials/t1/best.pt", folder="checkpoints")
        tracker = mlflow_tracker(uri, "conventions", tmp_path)
        client = MlflowClient(uri)
        statuses = []
        for entry in story.entries:
            tracker.apply(entry)
            if run_id := tracker.run_id("t1"):
                statuses.append(client.get_run(run_id).info.status)
        assert statuses == ["RUNNING", "RUNNING", "RUNNING"]
        run = client.get_run(tracker.run_id("t1"))
        assert [item.dataset.name for item in run.inputs.dataset_inputs] == ["digits"]
        assert run.info.artifact_uri.startswith((place / "mlartifacts").as_uri())
        assert download(uri, run.info.run_id, "checkpoints/best.pt").read_bytes() == b"weights"
        assert (
            resolve_weights(uri, f"runs:/{run.info.run_id}/checkpoints/best.pt").read_bytes()
            == b"weights"
        )
        assert (
            "x" * 900 in download(uri, run.info.run_id, "config.yaml", tmp_path / "to").read_text()
        )
        parent = client.get_run(tracker.run_id(None))
        assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {
            "x.yaml", "environment.json", "plan.json",
        }  # fmt: skip
        assert len(client.get_metric_history(run.info.run_id, "val/acc")) == 1
        assert (
            client.get_metric_history(run.info.run_id, "val/acc")[0].timestamp
            == story.entries[4]["ts_ms"]
        )
        assert find_run(uri, run.info.run_id) == tracker.read("conventions").trials[0]
        story.end("t1", "interrupted").add("drop", id="t1")
        story.close("interrupted")
        for entry in story.entries[-3:]:
            tracker.apply(entry)
        assert client.get_run(run.info.run_id).info.status == "KILLED"
        assert client.get_run(parent.info.run_id).info.status == "KILLED"
        with pytest.raises(
            EnvironmentProblem, match=r"no artifact checkpoints/best\.pt.*\n.*suite\.replay"
        ):
            download(uri, run.info.run_id, "checkpoints/best.pt")

    @pytest.mark.fault(34, 35)
    def test_large_many_and_odd_texts(self, uri: str, tmp_path: Path) -> None:
        assert_takes_odd_texts(mlflow_tracker(uri, "odd", tmp_path), tmp_path)

    @pytest.mark.fault(29)
    def test_runs_that_somebody_deleted_are_made_again(self, uri: str, tmp_path: Path) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        tracker = mlflow_tracker(uri, "deleted", tmp_path)
        told: list[str] = []
        sender = Sender(tracker, tmp_path / "cursor", told.append)
        sent = 0

        def send() -> SweepRuns:
            nonlocal sent
            for entry in story.entries[sent:]:
                sender.put(entry)
            sent = len(story.entries)
            assert sender.drain(30)
            return tracker.read("deleted")

        first = send()
        client.delete_run(first.trials[0].run_id)
        story.epochs("t1", 2)
        second = send()
        assert [run.metrics["val/acc"] for run in second.trials] == [{1: 0.1, 2: 0.2}]
        client.delete_run(second.parent.run_id)
        story.add("champion", id="t1", value=0.2)
        third = send()
        assert (
            third.parent.run_id != second.parent.run_id
            and third.parent.tags["suite.champion"] == "t1"
        )
        assert third.trials[0].run_id in third.parent.tags["suite.champion_run"]
        experiment = client.get_experiment_by_name("deleted")
        client.delete_experiment(experiment.experiment_id)
        story.epochs("t1", 3).end("t1")
        fourth = send()
        assert (
            fourth.trials[0].metrics["val/acc"] == {1: 0.1, 2: 0.2, 3: 0.3}
            and len(fourth.trials) == 1
        )
        sender.close()
        assert not told

    def test_a_refused_entry_is_noted_and_does_not_hold_up_the_rest(
        self, uri: str, tmp_path: Path
    ) -> None:
        story = Story().launch("t1").trial("t1").start("t1")
        story.add("epoch", id="t1", epoch="one", metrics={"val/acc": 0.5})
        story.epochs("t1", 2)
        tracker = mlflow_tracker(uri, "refused", tmp_path)
        told: list[str] = []
        sender = Sender(tracker, tmp_path / "cursor", told.append)
        for entry in story.entries:
            sender.put(entry)
            assert sender.drain(30)
        sender.close()
        run = tracker.read("refused").trials[0]
        assert run.metrics["val/acc"] == {2: 0.2}
        assert "epoch" in run.tags["suite.tracking_error"] and len(told) == 1

    @pytest.mark.fault(30)
    def test_a_run_whose_answer_got_lost_is_not_made_twice(
        self, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        make, lost = MlflowClient.create_run, []

        def create_run(self: Any, *args: Any, **keywords: Any) -> Any:
            run = make(self, *args, **keywords)
            if len(lost) < 3 and keywords["run_name"] not in lost:
                lost.append(keywords["run_name"])
                raise MlflowException("API request failed with exception: read timed out")
            return run

        monkeypatch.setattr(MlflowClient, "create_run", create_run)
        sender = Sender(mlflow_tracker(uri, "lost", tmp_path), tmp_path / "cursor")
        for entry in whole().entries:
            sender.put(entry)
        assert sender.drain(30)
        sender.close()
        assert len(lost) == 3
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("lost").experiment_id
        assert len(client.search_runs([experiment], run_view_type=3)) == 3  # deleted ones too

    @pytest.mark.fault(30)
    def test_twins_of_a_lost_answer_become_one(self, uri: str, tmp_path: Path) -> None:
        story = whole()
        tracker = mlflow_tracker(uri, "twins", tmp_path)
        project(tracker, story.entries, tmp_path / "cursor")
        parent = {"mlflow.parentRunId": tracker.run_id(None)}
        tags = {"suite.kind": "trial", "suite.trial": "t1", "suite.journal": "j1", **parent}
        tracker.store.create("t1", "twin", tags, T0)
        story.launch("t1", "t2")
        project(mlflow_tracker(uri, "twins", tmp_path), story.entries, tmp_path / "cursor")
        runs = tracker.read("twins")
        assert [run.status for run in runs.trials] == ["finished", "failed"]

    def test_points_that_others_logged_are_what_mlflow_has(self, uri: str) -> None:
        """Twice at a step, the later one first; no number; below the first step."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        client = MlflowClient(uri)
        run = client.create_run(client.create_experiment("points")).info.run_id
        logged = [
            (1, 0.1, 5),
            (2, 0.3, 9),
            (2, 0.2, 8),
            (3, math.nan, 6),
            (4, math.inf, 7),
            (-1, -2.5, 7),
        ]
        client.log_batch(
            run, [Metric("figure", value, T0 + ms, step) for step, value, ms in logged]
        )
        found = dict(find_run(uri, run).metrics["figure"])
        history = client.get_metric_history(run, "figure")
        latest = {
            point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)
        }
        assert math.isnan(found.pop(3)) and math.isnan(latest.pop(3))
        assert found == latest and found[2] == 0.3 and found[-1] == -2.5

    def test_reading_a_run_that_is_not_there(self, uri: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no run 0123"):
            find_run(uri, "0123456789abcdef0123456789abcdef")
        with pytest.raises(EnvironmentProblem, match=r"model\.weights models:/none@champion"):
            resolve_weights(uri, "models:/none@champion")
        with pytest.raises(UsageError, match="must be runs:/"):
            resolve_weights(uri, "some/file.pt")
        with pytest.raises(EnvironmentProblem, match="does not exist"):
            read(f"sqlite:///{tmp_path}/none.db", "x")
        assert not list(tmp_path.iterdir())

    def test_the_champion_loads_back_and_predicts_the_same(self, uri: str, tmp_path: Path) -> None:
        import mlflow
        import numpy as np
        import torch
        from torch import nn

        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ).to(memory_format=torch.channels_last)
        model(torch.randn(8, 3, 8, 8))  # moves the statistics
        story = whole()
        tracker = mlflow_tracker(uri, "winner", tmp_path)
        project(tracker, story.entries, tmp_path / "cursor")
        runs = tracker.read("winner").trials
        example = np.zeros((1, 3, 8, 8), dtype=np.float32)
        assert tracker.register_champion(runs[0].run_id, model, example) == 1
        assert tracker.register_champion(runs[0].run_id, model, example) == 1
        assert model.training
        model.eval()
        images = torch.randn(7, 3, 8, 8)
        previous = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        try:
            loaded = mlflow.pytorch.load_model("models:/winner@champion")
        finally:
            mlflow.set_tracking_uri(previous)
        with torch.no_grad():
            assert torch.allclose(loaded(images), model(images), atol=1e-6)
        weights = torch.load(resolve_weights(uri, "models:/winner@champion"), weights_only=True)
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        signature = mlflow.models.get_model_info(
            str(download(uri, runs[0].run_id, "model"))
        ).signature
        assert signature.inputs.inputs[0].shape == (-1, 3, 8, 8) and signature.outputs.inputs[
            0
        ].shape == (-1, 5)
        assert tracker.register_champion(runs[1].run_id, model, example) == 2
        assert (
            mlflow.MlflowClient(uri).get_model_version_by_alias("winner", "champion").run_id
            == runs[1].run_id
        )


class TestCheck:
    def test_a_folder_without_a_store_stays_as_it_was(self, tmp_path: Path) -> None:
        uri = default_uri(None, tmp_path / "new")
        mlflow_tracker(uri, "x", tmp_path).check()
        assert not list(tmp_path.iterdir())

    def test_a_store_stays_as_it_was(self, place: Path, tmp_path: Path) -> None:
        shutil.copy(place / "mlflow.db", tmp_path)
        before = (tmp_path / "mlflow.db").read_bytes()
        mlflow_tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", tmp_path).check()
        assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]
        assert (tmp_path / "mlflow.db").read_bytes() == before

    @pytest.mark.fault(33)
    def test_an_old_schema_names_the_command(self, place: Path, tmp_path: Path) -> None:
        shutil.copy(place / "mlflow.db", tmp_path)
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'old'")
        connection.close()
        with pytest.raises(
            EnvironmentProblem, match=r"found old.*\n.*mlflow db upgrade sqlite:///"
        ):
            mlflow_tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", tmp_path).check()

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("these are not the bytes you are looking for" * 100)
        with pytest.raises(EnvironmentProblem, match="cannot be read: file is not a database"):
            mlflow_tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", tmp_path).check()

    def test_a_database_of_something_else(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            connection.execute("CREATE TABLE mine (x)")
        connection.close()
        with pytest.raises(EnvironmentProblem, match="not one of MLflow"):
            mlflow_tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", tmp_path).check()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(EnvironmentProblem, match="is a file"):
            mlflow_tracker(f"sqlite:///{tmp_path}/file/mlflow.db", "x", tmp_path).check()

    def test_a_folder_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "suite.tracking.checking.os.access", lambda *_: False
        )  # root may write anywhere
        with pytest.raises(EnvironmentProblem, match=r"no permission for .*\n.*folder of your own"):
            mlflow_tracker(f"sqlite:///{tmp_path}/mlflow.db", "x", tmp_path).check()

    def test_a_name_that_another_folder_tracks_under(self, uri: str, tmp_path: Path) -> None:
        project(
            mlflow_tracker(uri, "taken", tmp_path / "one"),
            Story().launch().entries,
            tmp_path / "cursor",
        )
        mlflow_tracker(uri, "taken", tmp_path / "two").check()  # the same journal, moved
        mlflow_tracker(uri, "taken", tmp_path / "one", "j2").check()  # its runs folder was deleted
        with pytest.raises(EnvironmentProblem, match=r"name taken is taken.*one.*\n.*another name"):
            mlflow_tracker(uri, "taken", tmp_path / "two", "j2").check()

    def test_no_server(self, tmp_path: Path) -> None:
        uri = f"http://ann:secret@127.0.0.1:{free_port()}"
        began = time.monotonic()
        with pytest.raises(
            EnvironmentProblem,
            match=r"http://REDACTED@127\.0\.0\.1.*cannot be reached(.|\n)*Start it",
        ):
            Projection(MlflowStore("x", uri, None, "j1")).check()
        assert time.monotonic() - began < 10

    def test_a_server_that_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("suite.tracking.checking._DEADLINE_S", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            with pytest.raises(EnvironmentProblem, match="did not answer within 1 s"):
                Projection(
                    MlflowStore("x", f"http://127.0.0.1:{silent.getsockname()[1]}", None, "j1")
                ).check()


class TestSender:
    def test_an_outage_loses_nothing_and_keeps_the_order(self, tmp_path: Path) -> None:
        tracker = Projection(MemoryStore(), tmp_path)
        tracker.store.down = True
        told: list[str] = []
        sender = Sender(tracker, tmp_path / "cursor", told.append)
        story = whole()
        for entry in story.entries:
            sender.put(entry)
        assert not sender.drain(0.3)
        assert sender.behind == len(story.entries) and sender.lost is not None
        tracker.store.down = False
        assert sender.drain(10)
        assert sender.behind == 0 and sender.lost is None
        sender.close()
        assert tracker.read("sweep").trials[0].metrics["val/acc"] == {1: 0.1, 2: 0.2}
        assert [text.split(":")[0].split(";")[0] for text in told] == [
            "tracking is lost",
            "tracking is back",
        ]

    def test_a_relaunch_sends_only_what_is_missing(self, tmp_path: Path) -> None:
        story = Story().launch("t1").trial("t1").start("t1").epochs("t1", 1)
        first = Projection(MemoryStore(), tmp_path)
        project(first, story.entries, tmp_path / "cursor")
        story.epochs("t1", 2)
        seen: list[int] = []

        class Counting(Projection):
            def apply(self, entry: Entry) -> None:
                seen.append(entry["seq"])
                super().apply(entry)

            def epochs(self, entries: Any) -> None:
                seen.extend(entry["seq"] for entry in entries)
                super().epochs(entries)

        second = Counting(first.store, tmp_path)
        project(second, story.entries, tmp_path / "cursor")
        assert seen == [story.entries[-1]["seq"]]
        seen.clear()
        deleted = MemoryStore()  # meanwhile
        project(Counting(deleted, tmp_path), story.entries, tmp_path / "cursor")
        assert seen == [entry["seq"] for entry in story.entries]

    def test_what_was_forgotten_is_not_sent_to_a_new_store(self, tmp_path: Path) -> None:
        story = whole()
        story.add("forget", id="t1")
        story.start("t1").epochs("t1", 1)
        tracker = Projection(MemoryStore(), tmp_path)
        project(tracker, story.entries, tmp_path / "cursor")
        assert len(tracker.store.stored) == 3  # the parent and two trials, none deleted
        assert tracker.read("sweep").trials[0].metrics == {
            name: {1: value} for name, value in METRICS.items()
        } | {"val/acc": {1: 0.1}}

    def test_a_bug_in_one_entry_does_not_stop_the_rest(self, tmp_path: Path) -> None:
        story = Story().launch("t1").trial("t1")
        story.add("start", nonsense=True)
        story.start("t1")
        tracker = Projection(MemoryStore(), tmp_path)
        told: list[str] = []
        sender = Sender(tracker, tmp_path / "cursor", told.append)
        for entry in story.entries:
            sender.put(entry)
        assert sender.drain(10)
        sender.close()
        assert (
            tracker.read("sweep").trials[0].status == "running"
            and "passed over start entry" in told[0]
        )

    def test_entries_of_an_unknown_trial_are_passed_over(self, tmp_path: Path) -> None:
        story = Story().launch("t1")
        story.epochs("nobody", 1).trial("t1").start("t1")
        tracker = Projection(MemoryStore(), tmp_path)
        sender = Sender(tracker, tmp_path / "cursor")
        for entry in story.entries:
            sender.put(entry)
        assert sender.drain(10) and sender.lost is None
        sender.close()
        assert [run.trial for run in tracker.read("sweep").trials] == ["t1"]

    def test_close_does_not_wait_for_a_store_that_is_away(self, tmp_path: Path) -> None:
        tracker = Projection(MemoryStore(), tmp_path)
        tracker.store.down = True
        sender = Sender(tracker, tmp_path / "cursor")
        sender.put(Story().launch().entries[0])
        time.sleep(0.05)
        began = time.monotonic()
        sender.close()
        assert time.monotonic() - began < 1 and not (tmp_path / "cursor").exists()


class TestWords:
    def test_default_uri(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert default_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
        assert default_uri("sqlite:///a/../b.db", tmp_path) == f"sqlite:///{tmp_path}/b.db"
        assert default_uri("sqlite:////abs/b.db", tmp_path) == "sqlite:////abs/b.db"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
        assert default_uri(None, tmp_path) == "http://server:5000"
        assert default_uri("sqlite:///x.db", tmp_path).endswith("/x.db")
        assert (
            default_artifacts(default_uri("sqlite:///x.db", tmp_path)) == tmp_path / "mlartifacts"
        )
        assert default_artifacts("http://server") is None

    @pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mlruns", "/tmp/mlruns"])
    def test_folders_are_refused(self, uri: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no longer stores runs in folders(.|\n)*sqlite:///"):
            default_uri(uri, tmp_path)

    @pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
    def test_stores_that_forget_are_refused(self, uri: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="names no file"):
            default_uri(uri, tmp_path)

    @pytest.mark.fault(35)
    def test_names_that_mlflow_takes(self) -> None:
        names = ["val/acc", "a[0]", "../up", "/root", "a//b", "./x", "é(ü)@", 'q"']
        assert [safe_key(name) for name in names] == [
            "val/acc", "a_0_", "_up", "_root", "a__b", "_x", "é_ü__", "q_",
        ]  # fmt: skip

    def test_flatten(self) -> None:
        config = {"a": {"b": [1, 2], "c": None}, "d": "text", "e": True, "f": {}}
        assert flatten(config) == {"a.b": "[1, 2]", "a.c": "null", "d": "text", "e": "true"}

    def test_the_package_does_not_import_mlflow(self) -> None:
        code = (
            "import sys, suite.tracking; sys.exit(bool({'mlflow', 'ray', 'torch'} & "
            "set(sys.modules)))"
        )
        assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# ---- a real server -------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """A plain ``mlflow server`` in a folder, with MLflow's defaults, in a process group that can
    be killed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]

    def environment(self) -> dict[str, str]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
        }
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        return environment | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"
        }  # four more processes, of no use here

    def start(self) -> None:
        self.log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.folder,
            env=self.environment(),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while not self.answers():
            assert time.monotonic() < deadline and self.process.poll() is None, (
                self.folder / "server.log"
            ).read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.uri}/{path}", timeout=10) as answer:
            return bytes(answer.read())


@pytest.fixture
def server(place: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copytree(place, tmp_path / "server")
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.fault(28)
def test_a_server_that_is_killed_in_the_middle_has_everything_once(
    server: Server, place: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    story = Story().launch("t1", "t2").trial("t1").trial("t2", "b").start("t1").start("t2")
    for epoch in range(1, 61):
        story.epochs("t1", epoch).epochs("t2", epoch)
    story.end("t1").end("t2").close()
    story.add("file", id=None, path="notes.txt", folder="")
    (tmp_path / "notes.txt").write_text("hello")
    tracker = Projection(MlflowStore("served", server.uri, None, "j1"), tmp_path)
    tracker.check()
    told: list[str] = []
    sender = Sender(tracker, tmp_path / "cursor", told.append)
    for entry in story.entries[:30]:
        sender.put(entry)
    while sender.behind > 15:
        time.sleep(0.005)
    server.kill()
    for entry in story.entries[30:]:
        sender.put(entry)
    assert not sender.drain(1.5) and sender.lost is not None and sender.behind > 0
    server.start()
    assert sender.drain(60), sender.lost
    sender.close()

    runs = tracker.read("served")
    client = MlflowClient(server.uri)
    assert len(client.search_runs([client.get_experiment_by_name("served").experiment_id])) == 3
    for run in runs.trials:
        assert run.metrics["val/acc"] == {epoch: epoch / 10 for epoch in range(1, 61)}
        assert len(client.get_metric_history(run.run_id, "val/acc")) == 60
        assert run.status == "finished" and client.get_run(run.run_id).info.status == "FINISHED"
    # The page of the server shows the files of runs, those of a sweep tracked without it in this
    # folder too.
    assert server.get(f"get-artifact?path=notes.txt&run_uuid={runs.parent.run_id}") == b"hello"
    first = read(default_uri("sqlite:///mlflow.db", place), "first").parent.run_id
    assert server.get(f"get-artifact?path=x.yaml&run_uuid={first}") == b"name: x\n"
    # A registered network goes through the server too, and a checkpoint can be removed there.
    import numpy as np
    from torch import nn

    winner = runs.trials[0].run_id
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert tracker.register_champion(winner, model, np.zeros((2, 3, 2, 2), dtype=np.float32)) == 1
    assert resolve_weights(server.uri, "models:/served@champion").is_file()
    assert tracker.store.delete_artifact(tracker.store.load()["t1"], "model/weights.pt")
    with pytest.raises(EnvironmentProblem, match=r"models:/served@champion"):
        resolve_weights(server.uri, "models:/served@champion")
    assert [text.split(":")[0].split(";")[0] for text in told] == [
        "tracking is lost",
        "tracking is back",
    ]
