"""Results in an object store: a real server that speaks S3 (moto's), a bad network before it,
sweeps with real Ray.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from alone import alone
from conftest import Folder
from fault_table import Tally
from servers import ObjectStore, Proxy, Stored
from training import training, trial

from suite.core.errors import EnvironmentProblem, LockedError, UsageError
from suite.core.records import Numerics, Objective, Trial
from suite.execution.shared import SweepContext, TrialRequest
from suite.execution.worker import TrialRunner
from suite.storage import bucket as buckets
from suite.storage import bucket_check, bucket_journal, bucket_lease, checkpoint
from suite.storage.base import AnotherOwner, StorageUnavailable
from suite.storage.bucket import Bucket, is_bucket
from suite.storage.bucket_lease import lease
from suite.storage.bucket_storage import BucketStorage
from suite.storage.journal import LAUNCH_FILE, Journal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(boto|moto).*")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture
def there(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A place of this test's in the store."""
    for name, value in store.variables().items():
        monkeypatch.setenv(name, value)
    return Bucket(f"s3://{store.bucket}/{tmp_path.name}")


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["s3://b/runs", "s3://bucket/a b", "s3://bucket/../x", "s3://", "s3://Bucket/x"]
)
def test_an_address_that_names_no_bucket(address: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/prefix"):
        Bucket(address)


def test_an_address_is_told_from_a_folder() -> None:
    assert is_bucket("s3://bucket/runs") and is_bucket(Path("s3://bucket/runs"))
    assert not is_bucket("runs") and not is_bucket("/s3:/x")
    assert (
        Bucket("s3:/bucket/runs/").address
        == "s3://bucket/runs"
        == (Bucket("s3://bucket") / "runs").address
    )
    one, other = (
        Bucket(f"s3://bucket/{name}").working_folder(Path("cache")) for name in ("a", "b")
    )
    assert one != other


def test_without_a_store_the_sweep_is_refused(folder: Folder) -> None:
    folder.write(seeds=[0], checkpoints={"keep": 1})
    elsewhere = ObjectStore.variables(None, "http://127.0.0.1:9")  # type: ignore[arg-type]
    done = folder.sweep("--storage-path", "s3://bucket/runs", code=6, **elsewhere)
    assert (
        "s3://bucket/runs/tiny cannot be used: Could not connect" in done.stderr
        and "AWS_ENDPOINT_URL_S3" in done.stderr
    )
    assert not (folder.path / "s3:").exists() and not (folder.path / "runs").exists()


def test_the_doctor_says_what_to_do_instead(folder: Folder) -> None:
    done = folder.run("--storage-path", "s3://bucket/runs", module="suite.doctor")
    assert (
        done.returncode == 2
        and "Launch the sweep again" in done.stderr
        and not (folder.path / "s3:").exists()
    )


# ---- objects -------------------------------------------------------------------------------------


def test_what_is_put_is_there(there: Bucket, tmp_path: Path) -> None:
    bucket_check.check(there)
    assert there.names() == [] and there.get("a") is None and not there.fetch("a", tmp_path / "a")
    there.put("a", b"1")
    (tmp_path / "file").write_bytes(b"2" * 100_000)
    pickle.loads(pickle.dumps(there)).put("deep/er", tmp_path / "file")
    assert there.names() == ["a", "deep/er"] and there.names("deep/") == ["deep/er"]
    assert there.fetch("deep/er", tmp_path / "x" / "copy")
    assert (tmp_path / "x" / "copy").read_bytes() == b"2" * 100_000
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["copy"]
    assert not there.put_new("a", b"other") and there.get("a") == b"1"
    assert there.put_new("a", b"1"), "an answer that got lost: it is ours"
    there.remove("a", "not there")
    there.remove_below("deep")
    assert there.names() == []


def test_more_objects_than_a_page(there: Bucket) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"n{number:04d}" for number in range(1010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: there.put(name, b""), names))
    assert there.names() == names


def test_a_bucket_that_is_not_there(there: Bucket) -> None:
    with pytest.raises(EnvironmentProblem, match=r"cannot be used.*(.|\n)*Make the bucket"):
        bucket_check.check(Bucket("s3://nobodys-bucket/x"))


def test_a_store_without_conditions_is_refused(
    there: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers could write one journal there."""
    monkeypatch.setattr(
        Bucket, "put_new", lambda self, name, content: self.put(name, content) or True
    )
    with pytest.raises(EnvironmentProblem, match="If-None-Match"):
        bucket_check.check(there)


@pytest.mark.fault(27)
def test_busy_answers_and_lost_ones_are_tried_again(
    store: ObjectStore, there: Bucket, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    drawn = random.Random(3)
    proxy = Proxy(
        store, lambda method, path, number: drawn.choice([0, 0, 0, 0, 0, 503, 500, -1, -2])
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.uri)
    monkeypatch.setattr(
        "botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01
    )
    mine = Bucket(there.address)
    monkeypatch.setattr(buckets, "TRIES", 12)
    for number in range(60):
        assert mine.put_new(f"n{number}", str(number).encode())
    assert [mine.get(f"n{number}") for number in range(60)] == [
        str(number).encode() for number in range(60)
    ]
    tally.add(sum(count for fault, count in proxy.faults.items() if fault))
    assert tally.faults > 20
    proxy.close()


def test_a_store_that_stays_away_says_so(there: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr(buckets, "TRIES", 2)
    with pytest.raises(StorageUnavailable):
        Bucket(there.address).put("a", b"")


# ---- checkpoints ---------------------------------------------------------------------------------


def member(
    there: Bucket, place: Path, given: Trial, token: str = "mine", **settings: Any
) -> TrialRunner:
    """A worker's view of a trial, on a machine whose disk is ``place``."""
    objective = Objective("val/acc", "maximize", "best")
    storage = BucketStorage(there, place, lambda: place)
    shared = SweepContext(storage, token, {}, {}, objective, Numerics(), None, False, ())
    made = TrialRunner(shared, TrialRequest(given, "data", None))
    kept = made.storage
    made.training = training(
        given,
        made.folder,
        should_stop=made._should_stop,
        owns_sweep=kept.owns_sweep,
        on_checkpoint=kept.store_checkpoint,
    )
    return made


@pytest.mark.fault(27)
def test_the_manifest_is_put_last_and_removed_first(
    there: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Cut after each call in turn: what is called a checkpoint then is whole."""
    there.put(LAUNCH_FILE, b"mine")
    given = trial(epochs=1)
    mine = member(there, tmp_path / "a", given)
    mine.training.save()
    (kept,) = (mine.folder / "checkpoints").iterdir()
    whole = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert checkpoint.MANIFEST in whole and len(whole) >= 2
    place = f"trials/{given.id}/checkpoints/{kept.name}"

    class Cut(Exception):
        pass

    call = Bucket._call
    for build in ("push", "remove"):
        for cut in range(1, 20):
            left = [cut]

            def limited(
                self: Bucket, what: str, read: bool = False, left: list[int] = left, **more: Any
            ) -> Any:
                if what in ("put_object", "delete_object"):
                    left[0] -= 1
                    if left[0] < 0:
                        raise Cut
                return call(self, what, read, **more)

            monkeypatch.setattr(Bucket, "_call", limited)
            try:
                if build == "push":
                    there.push_folder(kept, place, checkpoint.MANIFEST)
                else:
                    there.remove_below(place, checkpoint.MANIFEST)
                ended = True
            except Cut:
                ended = False
            monkeypatch.setattr(Bucket, "_call", call)
            if mine.storage._checkpoints(there):
                found = {
                    name.rpartition("/")[2]: there.get(name) for name in there.names(f"{place}/")
                }
                assert found == whole, f"{build}, cut after {cut} calls"
            tally.add()
            if build == "remove" and not ended:
                there.push_folder(kept, place, checkpoint.MANIFEST)
            if ended:
                break
        assert ended
        there.push_folder(kept, place, checkpoint.MANIFEST)


def test_another_machine_goes_on_from_the_newest_whole_checkpoint(
    there: Bucket, tmp_path: Path
) -> None:
    there.put(LAUNCH_FILE, b"mine")
    given = trial(epochs=4)
    mine = member(there, tmp_path / "a", given)
    for _ in range(3):
        mine.training.train_epoch()
        mine.training.save()
    names = mine.storage._checkpoints(there)
    assert len(names) == checkpoint.KEPT and names[0].startswith("e00003")
    there.remove(f"trials/{given.id}/checkpoints/{names[0]}/{checkpoint.MANIFEST}")
    there.put(f"trials/{given.id}/checkpoints/{names[0]}/last.pt", b"half of it")
    other = member(there, tmp_path / "b", given)
    other.storage.fetch_checkpoint(other.warnings.append)
    assert [path.name for path in (other.folder / "checkpoints").iterdir()] == [names[1]]
    assert training(given, other.folder).epoch == 2


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_fetched(
    there: Bucket, tmp_path: Path
) -> None:
    there.put(LAUNCH_FILE, b"mine")
    given = trial(epochs=4)
    mine = member(there, tmp_path / "a", given)
    for _ in range(2):
        mine.training.train_epoch()
        mine.training.save()
    there.put(
        f"trials/{given.id}/checkpoints/{mine.storage._checkpoints(there)[0]}/last.pt", b"flipped"
    )
    other = member(there, tmp_path / "b", given)
    other.storage.fetch_checkpoint(other.warnings.append)
    assert training(given, other.folder).epoch == 1
    assert any("is damaged" in text for text in other.warnings)


def test_a_worker_of_a_launch_that_is_over_puts_nothing(there: Bucket, tmp_path: Path) -> None:
    there.put(LAUNCH_FILE, b"another's")
    mine = member(there, tmp_path / "a", trial(epochs=2))
    mine.training.save()
    assert there.names("trials/") == [] and not list((mine.folder / "checkpoints").glob("e*"))


# ---- the journal and its owner -------------------------------------------------------------------


def test_the_journal_is_what_the_store_has(there: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "a" / "journal.jsonl"
    journal = Journal(path, elsewhere=partial(bucket_journal.append_journal, there))
    for epoch in range(1, 30):
        journal.append("epoch", id="t", epoch=epoch, metrics={})
        assert epoch % 5 or journal.flush(10)
    journal.close()
    assert (
        bucket_journal.read_journal(there) == path.read_bytes() and len(there.names("journal/")) > 3
    )
    with path.open("ab") as file:
        file.write(
            b'{"seq": 30, "kind": "epoch", "of": "a process that died before it had put that"}\n'
        )
    bucket_journal.download_journal(there, path)
    assert path.read_bytes() == bucket_journal.read_journal(there)
    other = tmp_path / "b" / "journal.jsonl"
    bucket_journal.download_journal(there, other)
    assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("how", ["gone", "torn", "strange"])
def test_a_journal_with_a_hole_is_refused(there: Bucket, tmp_path: Path, how: str) -> None:
    for seq in range(1, 9):
        bucket_journal.append_journal(there, seq, json.dumps({"seq": seq}).encode() + b"\n")
    if how == "gone":
        there.remove("journal/0000000003")
    else:
        there.put("journal/0000000003", {"torn": b'{"seq": 3', "strange": b"[]\n"}[how])
    with pytest.raises(EnvironmentProblem, match="has a hole, or something else in it"):
        bucket_journal.download_journal(there, tmp_path / "journal.jsonl")


def test_what_cannot_be_put_when_it_is_closed_leaves_no_hole(there: Bucket, tmp_path: Path) -> None:
    """The store comes back between two of the last writes: what follows a lost entry must not be
    there either.
    """
    away = [True]

    def append(seq: int, lines: bytes) -> None:
        if away[0]:
            journal._closing = True  # as ``close`` would set it now
            away[0] = False
            raise StorageUnavailable(5, "away")
        bucket_journal.append_journal(there, seq, lines)

    journal = Journal(tmp_path / "journal.jsonl", elsewhere=append)
    journal.append("journal", id="a")
    journal.flush(10)
    journal.append("plan", ids=[])
    journal.flush(10)
    journal.close()
    assert bucket_journal.read_journal(there) == b"" == (tmp_path / "journal.jsonl").read_bytes()


@pytest.mark.fault(14, 27)
def test_of_two_drivers_the_second_one_writes_nothing(
    there: Bucket, tmp_path: Path, tally: Tally
) -> None:
    told: list[str] = []
    first = Journal(tmp_path / "a" / "j", elsewhere=partial(bucket_journal.append_journal, there))
    second = Journal(
        tmp_path / "b" / "j", told.append, elsewhere=partial(bucket_journal.append_journal, there)
    )
    first.append("journal", id="first")
    assert first.flush(10)
    second.append("journal", id="second")
    assert (
        not second.flush(2)
        and isinstance(second.failure, AnotherOwner)
        and "another process writes" in told[0]
    )
    first.append("plan", ids=[])
    assert first.flush(10)
    second.close()
    first.close()
    assert [
        json.loads(line).get("id") for line in bucket_journal.read_journal(there).splitlines()
    ] == ["first", None]
    tally.add()


@pytest.mark.fault(27, control=True)
def test_without_the_condition_two_drivers_overwrite_each_other(
    there: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken build."""
    monkeypatch.setattr(
        Bucket, "put_new", lambda self, name, content: self.put(name, content) or True
    )
    journals = [
        Journal(tmp_path / name / "j", elsewhere=partial(bucket_journal.append_journal, there))
        for name in ("a", "b")
    ]
    for number, journal in enumerate(journals):
        journal.append("journal", id=f"{number}")
        assert journal.flush(10)
        journal.close()
    assert [json.loads(line)["id"] for line in bucket_journal.read_journal(there).splitlines()] == [
        "1"
    ], "the first one's is lost"


@pytest.mark.fault(27, control=True)
def test_with_its_manifest_first_half_a_checkpoint_counts(
    there: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken build, cut after its first file."""
    there.put(LAUNCH_FILE, b"mine")
    mine = member(there, tmp_path / "a", trial(epochs=1))
    put, left = Bucket.put, [1]

    def limited(self: Bucket, name: str, content: bytes | Path) -> None:
        left[0] -= 1
        if left[0] >= 0:
            put(self, name, content)

    monkeypatch.setattr(Bucket, "put", limited)
    push = Bucket.push_folder
    monkeypatch.setattr(
        Bucket, "push_folder", lambda self, folder, name, last: push(self, folder, name, "last.pt")
    )
    mine.training.save()
    assert mine.storage._checkpoints(there) and len(there.names("trials/")) == 1


def test_a_sweep_that_is_held_is_refused_until_its_owner_is_silent(
    there: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(there, "one"):
        with (
            pytest.raises(LockedError, match=f"process {os.getpid()} on .* holds {there.address}"),
            lease(there, "two"),
        ):
            pass
        monkeypatch.setattr(bucket_lease, "STALE_AFTER_S", 0.0)
        with lease(there, "three"):
            assert json.loads(there.get("owner") or b"")["token"] == "three"
    assert there.get("owner") is None, "the last one that held it let it go"
    monkeypatch.setattr(bucket_lease, "STALE_AFTER_S", 75.0)
    there.put(
        "owner",
        json.dumps(
            {"token": "x", "pid": 2**30, "host": "here", "at": bucket_lease._place()}
        ).encode(),
    )
    with lease(there, "of a machine whose process died"):
        pass
    there.put(
        "owner",
        json.dumps({"token": "x", "pid": 1, "host": "another-machine", "at": "there"}).encode(),
    )
    with (
        pytest.raises(LockedError, match=r"another-machine(.|\n)*possible in 7\d s"),
        lease(there, "five"),
    ):
        pass


def test_an_owner_renews_its_word(there: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_lease, "RENEW_EVERY_S", 0.1)
    with lease(there, "one"):
        there.remove("owner")
        end = time.monotonic() + 10
        while there.get("owner") is None:
            assert time.monotonic() < end
            time.sleep(0.05)


# ---- whole sweeps --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.fault(14, 27)
def test_a_driver_that_was_replaced_stops_and_does_not_stop_the_other(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A machine that slept: its owner's word is stale, another one took over, then it wakes up."""
    first = Stored(tmp_path, store)
    for name, value in first.variables.items():
        monkeypatch.setenv(name, value)
    first.write(seeds=[0], checkpoints={"keep": 1})
    asleep = first.start(SLOW="0.1")
    first.wait_for(asleep, epochs_done(2))
    group = [psutil.Process(asleep.pid), *psutil.Process(asleep.pid).children(recursive=True)]
    for one in group:
        one.suspend()
    (first.there / "tiny").remove("owner")  # 75 s later
    other = subprocess.Popen(
        first.command("sweep.yaml", "--no-report"),
        cwd=first.path,
        text=True,
        start_new_session=True,
        env=first.environment(SLOW="0.1") | {"SUITE_CACHE": str(tmp_path / "another")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    count = len(first.journal)
    first.wait_for(
        other, lambda journal: sum(entry["kind"] == "epoch" for entry in journal[count:]) >= 1
    )
    for one in group:
        one.resume()
    said = asleep.communicate(timeout=120)[0]
    assert asleep.returncode == 6 and "another" in said and "Traceback" not in said, said
    output = other.communicate(timeout=120)[0]
    assert other.returncode == 0, output
    assert {entry["status"] for entry in first.journal if entry["kind"] == "end"} == {
        "interrupted",
        "finished",
    }
    assert set(first.runs().values()) == {"FINISHED"} and len(first.runs()) == 2
    first.assert_tracked()
    tally.add()


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.fault(27)
def test_a_store_that_is_away_holds_nothing_up(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """For ten seconds in the middle; training goes on, and everything is there afterwards."""
    away = [False]
    proxy = Proxy(store, lambda method, path, number: 503 if away[0] else 0)
    folder = Stored(tmp_path, store, proxy.uri)
    for name, value in store.variables().items():
        monkeypatch.setenv(name, value)
    (folder.path / "tiny_net.py").write_text((folder.path / "tiny_net.py").read_text().replace(
        "time.sleep(", "open('steps', 'a').write('.') and time.sleep("))  # fmt: skip
    folder.write(seeds=[0], parameters=None, checkpoints={"keep": 1})
    process = folder.start(SLOW="0.5")
    folder.wait_for(process, epochs_done(1))
    steps = tmp_path / "steps"
    before, away[0] = steps.stat().st_size, True
    time.sleep(10)  # 20 steps of half a second
    trained, away[0] = steps.stat().st_size - before, False
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "Traceback" not in output, output
    assert trained >= 14, f"{trained} steps in ten seconds without a store"
    assert set(folder.runs().values()) == {"FINISHED"}
    folder.assert_tracked()
    assert proxy.faults[503] > 0
    tally.add()
    proxy.close()


OFTEN = "import suite.training.state\n\nsuite.training.state.SAVE_EVERY_S = 0.0\n"


def epochs_done(count: int) -> Any:
    return lambda journal: sum(entry["kind"] == "epoch" for entry in journal) >= count


@pytest.mark.slow
@pytest.mark.fault(4, 16, 27)
@pytest.mark.full
def test_a_sweep_whose_machine_is_lost_goes_on_on_another(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """SIGKILL, and the disk is gone: MLflow and the bucket are all that is left.

    The curves are those of no fault.
    """
    folder = Stored(tmp_path, store)
    for name, value in folder.variables.items():
        monkeypatch.setenv(name, value)
    (folder.path / "tiny_net.py").write_text(OFTEN + (folder.path / "tiny_net.py").read_text())
    folder.write(seeds=[0], checkpoints={"keep": 1})
    process = folder.start(SLOW="0.1")
    # of both: where one worker comes late, the other's trial may be over
    folder.wait_for(
        process,
        lambda journal: len({entry["id"] for entry in journal if entry["kind"] == "epoch"}) == 2,
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = folder.journal
    shutil.rmtree(folder.path / "cache")
    assert not (folder.path / "runs").exists()
    done = folder.sweep()
    assert "trials go on from their checkpoints" in done.stdout
    again = [entry["epoch"] for entry in folder.journal[len(before) :] if entry["kind"] == "start"]
    assert max(again) >= 1, "no trial went on from what it had"
    assert folder.journal[: len(before)] == before
    assert folder.runs() == dict.fromkeys(folder.curves(), "FINISHED") and len(folder.curves()) == 2
    assert folder.parents() == ["FINISHED"]
    folder.assert_tracked()
    local = tmp_path / "runs" / "tiny"
    local.mkdir(parents=True)
    (local / "journal.jsonl").write_bytes(bucket_journal.read_journal(folder.there / "tiny"))
    assert folder.curves() == alone(folder.path, tmp_path / "alone", monkeypatch)
    artifacts = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"predictions.npz", "best.pt"} <= artifacts and any(
        name.endswith(".png") for name in artifacts
    )
    kept = (folder.there / "tiny").names("trials/")
    assert not any("/checkpoints/" in name for name in kept), (
        "checkpoints of finished trials were left"
    )
    assert not list((tmp_path / "cache").rglob(".workers/*/*")), "a worker left its working copy"
    shutil.rmtree(folder.path / "cache")  # and from yet another machine there is nothing left to do
    assert "already complete (2/2" in folder.sweep("--resume").stdout
    tally.add(kills=1)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.fault(1, 27)
def test_a_signal_reaches_workers_through_a_bad_network(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    drawn = random.Random(5)
    proxy = Proxy(store, lambda method, path, number: drawn.choice([0] * 18 + [503, -1]))
    folder = Stored(tmp_path, store, proxy.uri)
    for name, value in store.variables().items():  # here without the bad network
        monkeypatch.setenv(name, value)
    folder.write(seeds=[0], parameters=None, checkpoints={"keep": 1})
    process = folder.start(SLOW="0.6")
    folder.wait_for(process, epochs_done(1))
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in output, output
    end = [entry for entry in folder.journal if entry["kind"] == "end"][-1]
    asked = ("id", "status", "seq", "ts_ms", "kind", "crc")
    assert not set(end) - {*asked, "checkpoint"} and end["status"] == "interrupted", (
        "the worker did not see it"
    )
    assert set(folder.runs().values()) == {"KILLED"}
    assert any("/checkpoints/" in name for name in (folder.there / "tiny").names("trials/"))
    folder.sweep()
    assert set(folder.runs().values()) == {"FINISHED"}
    folder.assert_tracked()
    assert proxy.faults[503] + proxy.faults[-1] > 0
    tally.add(proxy.faults[503] + proxy.faults[-1], kills=1)
    proxy.close()


@pytest.mark.slow
@pytest.mark.full
def test_a_second_driver_is_refused_while_the_first_one_runs(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Stored(tmp_path, store)
    for name, value in folder.variables.items():
        monkeypatch.setenv(name, value)
    folder.write(seeds=[0], parameters=None, checkpoints={"keep": 1})
    process = folder.start(SLOW="1")
    folder.wait_for(process, epochs_done(1))
    other = tmp_path / "another machine"
    done = subprocess.run(
        folder.command("sweep.yaml"),
        cwd=folder.path,
        env=folder.environment() | {"SUITE_CACHE": str(other)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 5 and "already running" in done.stderr, done.stdout + done.stderr
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
