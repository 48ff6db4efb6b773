"""What is asked of the nodes of a cluster, as far as one machine can show it; several hosts are
in tests/cluster.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from conftest import Folder

from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Numerics, Objective, Trial
from suite.execution import callback, nodes, ray_session
from suite.execution.callback import JournalCallback
from suite.execution.shared import EndEvent, SweepContext, TrialRequest
from suite.execution.worker import TrialRunner
from suite.storage.folder_storage import FolderArea, FolderStorage
from suite.sweep.locate import storage_of

# Ray with a head that runs no trial, and nobody who would add a worker.
ALONE = """
import ray
from suite.execution import nodes
from suite.core.errors import EnvironmentProblem

nodes.WORKER_WITHIN_S = 1.0
ray.init(num_cpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
try:
    nodes.wait_for_workers(2, "auto", print)
except EnvironmentProblem as error:
    print(error)
"""


@pytest.mark.parametrize("address", ["gs://bucket", "hdfs://host/runs", "abfs:/bucket/runs"])
def test_addresses_of_other_stores_are_refused(address: str) -> None:
    with pytest.raises(
        UsageError, match=r"--storage-path must be a folder or s3://.*, got the address"
    ):
        storage_of(address)
    assert storage_of("runs/a:/b") == Path.cwd() / "runs/a:/b"


def test_the_command_refuses_another_store_and_makes_no_folder_of_that_name(folder: Folder) -> None:
    folder.write()
    done = folder.sweep("--storage-path", "gs://bucket/runs", "--dry-run", code=2)
    assert "--storage-path must be a folder" in done.stderr and "Mount a file system" in done.stderr
    assert not (folder.path / "gs:").exists()


def look(place: Path, token: str = "abc", node: str = "node") -> str:
    return str(nodes._look(FolderArea(place), token, node)["trouble"])


def test_a_node_answers_in_the_folder_or_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "SEEN_WITHIN_S", 0.0)
    place = tmp_path / "sweep" / ".nodes-1"
    assert "does not see" in look(place) and str(place.parent) in look(place)
    place.mkdir(parents=True)
    (place / nodes.QUESTION).write_text("abc")
    assert look(place) == "" and (place / "node").read_text() == "abc"
    assert "another" in look(place, token="xyz")
    (place / "taken").mkdir()
    assert "cannot use" in look(place, node="taken")


def test_all_that_was_made_to_ask_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "sweep"
    with pytest.raises(RuntimeError, match="whatever"), FolderStorage(folder).question_area("1"):
        raise RuntimeError("whatever")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    with FolderStorage(folder).question_area("1"):
        pass
    assert list(folder.iterdir()) == [] and folder.exists()


def test_a_trial_on_a_node_without_the_folder_says_so_and_is_not_lost(tmp_path: Path) -> None:
    shared = SweepContext(
        FolderStorage(tmp_path / "unseen"),
        "token",
        {},
        {},
        Objective("val/acc"),
        Numerics(),
        None,
        False,
        (),
        hang_after_s=60.0,
    )
    (event,) = TrialRunner(shared, TrialRequest(Trial("t", "a", 0, "a seed=0"), "", None)).advance()
    assert isinstance(event, EndEvent) and event.status == "interrupted"
    assert event.facts["halt"] == f"node {nodes.here()} does not see {tmp_path / 'unseen'}"
    assert not (tmp_path / "unseen").exists(), "nothing is written where the folder is not"


@pytest.mark.slow
def test_a_head_to_which_no_worker_comes_is_an_error_with_its_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, check=True
    )
    assert "no workers yet" in done.stdout
    assert (
        "no worker with 2 CPUs and 1 GPUs joined the cluster" in done.stdout
        and "ray status" in done.stdout
    )


GONE = """The actor died unexpectedly before finishing this task.
\tclass_name: PackTrainable
\tactor_id: 5f
\tip: 10.0.0.4
The actor died because its node has died. Node Id: 7c
\tthe actor's node was terminated unexpectedly: health check failed"""
CRASHED = """The actor died unexpectedly before finishing this task.
\tip: 10.0.0.4
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"""
UNREACHED = (
    "The actor 5f is unavailable: The actor is temporarily unavailable: RpcError: Socket "
    "closed rpc_code: 14."
)


def lost(folder: Path, error: str, failures: int = 1) -> Any:
    """What Tune has of a pack whose worker was lost so often, another one before it out of
    memory.
    """
    file = folder / "error.txt"
    file.write_text(
        f"Failure # 1 (occurred at noon)\nlow on memory\nFailure # 2 (occurred at one)\n{error}\n"
    )
    run = SimpleNamespace(num_failures=failures)
    last = {"node_ip": "10.0.0.4"}
    return SimpleNamespace(
        trial_id="1", config={"pack": []}, run_metadata=run, error_file=str(file), last_result=last
    )


@pytest.mark.parametrize(
    ("error", "nodes", "node_is"),
    [
        (GONE, 3, True),
        (UNREACHED, 3, True),
        (UNREACHED, 1, False),
        (CRASHED, 3, False),
        ("", 3, False),
    ],
)
def test_a_lost_node_is_told_from_a_crashed_worker_and_not_charged(
    error: str, nodes: int, node_is: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callback.ray, "nodes", lambda: [{}] * nodes)
    trial = lost(tmp_path, error)
    JournalCallback(Any, Any).on_trial_recover(0, [], trial)  # type: ignore[arg-type]
    assert trial.run_metadata.num_failures == (0 if node_is else 1)
    reason = callback.worker_reason(trial)
    assert ("its node 10.0.0.4 was lost" in reason) == node_is, reason


def test_lost_nodes_are_not_forgiven_for_ever(tmp_path: Path) -> None:
    takes_down = JournalCallback(Any, Any)  # type: ignore[arg-type]
    trial = lost(tmp_path, GONE, failures=0)
    for _ in range(callback.LOST_NODES + 2):
        trial.run_metadata.num_failures += 1
        takes_down.on_trial_recover(0, [], trial)
    assert trial.run_metadata.num_failures == 2


def test_a_ray_that_does_not_start_in_time_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine at load 30 it took longer than the 30 s that Ray waits."""

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_session, "starts_here", lambda address: False)
    with pytest.raises(EnvironmentProblem, match=r"did not start on this machine(.|\n)*overloaded"):
        with ray_session.running(None, False):
            raise AssertionError


def test_another_exception_of_ray_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("something else")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_session, "starts_here", lambda address: False)
    with pytest.raises(Exception, match="something else") as caught:
        with ray_session.running(None, False):
            raise AssertionError
    assert not isinstance(caught.value, EnvironmentProblem)
