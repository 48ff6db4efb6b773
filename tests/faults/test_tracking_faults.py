"""A store that fails at random, and a sender that dies at random: what is there in the end is what
was sent once.

Seeded; the store is the one in memory, which keeps the real one's rules. The real ones, a server
and PostgreSQL, fail in ``test_server.py``; a locked database and one with eight writers are here.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import FULL, Tally
from test_tracking import Story

from suite import tracking
from suite.storage.journal import Entry
from suite.tracking import (
    MemoryStore,
    MlflowStore,
    Projection,
    Sender,
    TrackingUnavailable,
    default_artifacts,
    default_uri,
)
from suite.tracking import sender as sending

VARYING = (
    "mlflow.parentRunId",
    "suite.champion_run",
    "suite.made",
)  # ids of runs, and when they were made
SEEDS = 200 if FULL else 40
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(mlflow|pydantic|torch|alembic|sqlalchemy|google|copyreg).*"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning:(mlflow|torch).*"),
]


def long_story(seed: int) -> list[Entry]:
    """A sweep of four trials with a relaunch, a forgotten trial and a failure, in an order of
    its own.
    """
    drawn = random.Random(seed)
    names = ["t1", "t2", "t3", "t4"]
    story = Story().launch(*names)
    for name in names:
        story.trial(name, name, 0).start(name)
    left = dict.fromkeys(names, 0)
    while left:
        name = drawn.choice(sorted(left))
        left[name] += 1
        story.epochs(name, left[name])
        if left[name] == 4:
            story.end(name, *(("failed", "NaN") if name == "t3" else ()))
            del left[name]
    story.close("interrupted").launch(*names)
    story.add("forget", id="t3")
    story.start("t3").epochs("t3", 1, 2).end("t3")
    story.add("champion", id="t2", value=0.4)
    return story.close().entries


class Flaky(MemoryStore):
    """Fails before or after it has done what it was asked for, as a server does whose answer
    gets lost.
    """

    def __init__(self, drawn: random.Random, rate: float, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.drawn, self.rate, self.failures = drawn, rate, 0

    def _perhaps(self, work: Callable[[], Any]) -> Any:
        if self.drawn.random() < self.rate:
            self.failures += 1
            raise TrackingUnavailable("503")
        result = work()
        if self.drawn.random() < self.rate:
            self.failures += 1
            raise TrackingUnavailable("the connection was closed before an answer")
        return result

    def load(self) -> Any:
        return self._perhaps(super().load)

    def create(self, *arguments: Any) -> Any:
        return self._perhaps(lambda: MemoryStore.create(self, *arguments))

    def write(self, *arguments: Any) -> None:
        self._perhaps(lambda: MemoryStore.write(self, *arguments))

    def set_status(self, *arguments: Any) -> None:
        self._perhaps(lambda: MemoryStore.set_status(self, *arguments))

    def delete(self, *arguments: Any) -> None:
        self._perhaps(lambda: MemoryStore.delete(self, *arguments))


def content(store: MemoryStore) -> Any:
    """All that counts of a store: living runs with their metric rows, params, tags and status."""
    return sorted(
        (
            item.name,
            sorted(item.metrics),
            sorted(item.run.params.items()),
            item.run.status,
            item.end_ms,
            sorted((key, value) for key, value in item.run.tags.items() if key not in VARYING),
        )
        for item in store.stored.values()
        if not item.deleted
    )


@pytest.mark.fault(28, 29, 30)
def test_outages_lost_answers_and_dying_senders_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """The sender's process dies up to three times a seed, and its cursor is old, torn or gone."""
    monkeypatch.setattr(sending, "_MIN_WAIT_S", 0.001)
    monkeypatch.setattr(sending, "_MAX_WAIT_S", 0.002)
    failures = 0
    for seed in range(SEEDS):
        drawn = random.Random(seed)
        entries, folder = long_story(seed), tmp_path / f"{seed}"
        folder.mkdir()
        calm = Projection(MemoryStore(), folder)
        run(calm, entries, folder / "calm")
        stored: dict[str, Any] = {}
        cursor = folder / "cursor"
        for _ in range(drawn.randrange(4)):  # processes that die on the way
            flaky = Flaky(drawn, 0.2, stored=stored)
            sender = Sender(Projection(flaky, folder), cursor)
            for entry in entries[: drawn.randrange(len(entries))]:
                sender.put(entry)
            time.sleep(drawn.random() * 0.01)
            sender.close()
            failures += flaky.failures
            if cursor.exists() and drawn.random() < 0.5:
                cursor.write_bytes(cursor.read_bytes()[: drawn.randrange(20)])
        flaky = Flaky(drawn, 0.2, stored=stored)
        run(Projection(flaky, folder), entries, cursor)
        failures += flaky.failures
        assert content(flaky) == content(calm.store), f"seed {seed}"
        tally.add()
    tally.figures["failures of the store"] = f"{failures:,}"


def run(tracker: Projection, entries: list[Entry], cursor: Path) -> None:
    sender = Sender(tracker, cursor)
    for entry in entries:
        sender.put(entry)
    assert sender.drain(60), sender.lost
    sender.close()


@pytest.mark.fault(28, 30, control=True)
def test_a_sender_that_passes_over_what_fails_loses_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken build: one try for each entry."""
    entries = long_story(0)
    calm, flaky = Projection(MemoryStore(), tmp_path), Flaky(random.Random(0), 0.2)
    run(calm, entries, tmp_path / "calm")
    monkeypatch.setattr(
        Sender, "_failed", lambda self, error: self._advance([self._entries[self._next]])
    )
    monkeypatch.setattr(Sender, "_sleep", lambda self, seconds: None)
    run(Projection(flaky, tmp_path), entries, tmp_path / "cursor")
    assert content(flaky) != content(calm.store)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A real sqlite store."""
    uri = default_uri("sqlite:///mlflow.db", tmp_path)
    Projection(MlflowStore("first", uri, default_artifacts(uri), "j1")).apply(
        Story().launch().entries[0]
    )
    return uri


def rows(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path / "mlflow.db") as connection:
        return connection.execute(
            "select r.name, m.key, m.step, m.value, count(*) from metrics m join runs r on "
            "r.run_uuid = m.run_uuid "
            "where r.lifecycle_stage = 'active' group by 1, 2, 3, 4 order by 1, 2, 3"
        ).fetchall()


@pytest.mark.slow
@pytest.mark.fault(31)
def test_a_locked_database_is_waited_for(store: str, tmp_path: Path, tally: Tally) -> None:
    """Another process holds it, longer than MLflow itself waits in the full matrix (25 s; it
    gives up after 20).
    """
    seconds = 25 if FULL else 3
    entries = long_story(1)
    sender = Sender(
        Projection(MlflowStore("sweep", store, default_artifacts(store), "j1"), tmp_path),
        tmp_path / "cursor",
    )
    for entry in entries[:12]:
        sender.put(entry)
    assert sender.drain(60)
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import sqlite3, sys, time\n"
         "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
         "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
         "c.execute('ROLLBACK')",
         str(tmp_path / "mlflow.db"), str(seconds)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    began = time.monotonic()
    for entry in entries[12:]:
        sender.put(entry)
    put_s = time.monotonic() - began
    assert sender.drain(120), sender.lost
    sender.close()
    holder.communicate()
    assert put_s < 0.5, "whoever trains must not wait for the database"
    calm = Projection(MemoryStore(), tmp_path)
    run(calm, entries, tmp_path / "calm")
    expected = sum(len(item.metrics) for item in calm.store.stored.values() if not item.deleted)
    found = rows(tmp_path)
    assert len(found) == expected and all(count == 1 for *_, count in found)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        names = [
            name
            for (name,) in connection.execute(
                "select name from runs where lifecycle_stage = 'active'"
            )
        ]
    assert len(names) == len(set(names)), "a stray run"
    tally.add()
    tally.figures["locked for"] = f"{seconds} s"


@pytest.mark.slow
@pytest.mark.fault(32)
def test_eight_writers_on_one_database(store: str, tmp_path: Path, tally: Tally) -> None:
    entries = long_story(2)
    errors: list[str] = []

    def project(number: int) -> None:
        folder = tmp_path / f"w{number}"
        folder.mkdir()
        tracker = Projection(
            MlflowStore(f"sweep{number}", store, default_artifacts(store), f"j{number}"), folder
        )
        sender = Sender(tracker, folder / "cursor")
        for entry in entries:
            sender.put(entry)
        if not sender.drain(180):
            errors.append(f"{number}: {sender.lost}")
        sender.close()

    tracking.warm().join()
    threads = [threading.Thread(target=project, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    calm = Projection(MemoryStore(), tmp_path)
    run(calm, entries, tmp_path / "calm")
    expected = sum(len(item.metrics) for item in calm.store.stored.values() if not item.deleted)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        found = connection.execute(
            "select e.name, count(*), count(distinct m.run_uuid || m.key || m.step) from metrics m "
            "join runs r on r.run_uuid = m.run_uuid join experiments e on e.experiment_id = "
            "r.experiment_id "
            "where r.lifecycle_stage = 'active' and e.name like 'sweep%' group by 1"
        ).fetchall()
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    assert sorted(found) == [(f"sweep{number}", expected, expected) for number in range(8)]
    tally.add(8)
