"""The nodes of a Ray cluster, before training: are there any that train, and does each see the sweep's folder?

The folder of checkpoints and journal is shared by all nodes. Where one has a folder of its own under that path, its
trials would be lost without a word, so each node is asked to read what the driver wrote there, and to answer there.
"""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite.errors import EnvironmentProblem, Problem

WORKER_WITHIN_S = 1200.0  # a machine of a cloud with a large image and its packages is there in 5 to 10 minutes
ANSWER_WITHIN_S = 60.0  # the first task on a node starts a Python process there
SEEN_WITHIN_S = 10.0  # NFS may show a new file late
COMPARED = ("torch", "torchvision", "numpy")  # other versions give other figures
QUESTION = "question"


def wait_for_workers(cpu: float, gpu: float | str, say: Callable[[str], None]) -> None:
    """Have the cluster's autoscaler start a worker where there is only a head, which runs no trial.

    Args:
        cpu, gpu: of one trial, as in the sweep file.
        say: takes a line for the user.

    Raises:
        EnvironmentProblem: no worker came.
    """
    if ray.cluster_resources().get("CPU", 0) > 0:
        return
    say(f"the cluster has no workers yet; one is asked for (at most {WORKER_WITHIN_S / 60:.0f} minutes)")
    wanted: dict[str, Any] = {"num_cpus": cpu, "num_gpus": 1 if gpu == "auto" else gpu}
    came = ray.remote(max_retries=-1, **wanted)(_nothing).remote()
    ready, _ = ray.wait([came], timeout=WORKER_WITHIN_S)
    if not ready:
        ray.cancel(came)
        raise EnvironmentProblem(
            f"no worker with {cpu:g} CPUs and {wanted['num_gpus']:g} GPUs joined the cluster "
            f"within {WORKER_WITHIN_S / 60:.0f} minutes",
            remedy="`ray status` on the head says what the autoscaler does; the cluster file says what it may start.",
        )


def check_storage(folder: Path) -> None:
    """Have every node read a file in the sweep's folder, and write one that is seen here; a node alone need not.

    Args:
        folder: the sweep's; need not exist yet. Nothing is left behind, whatever comes out.

    Raises:
        EnvironmentProblem: naming each node that cannot, or that has other packages than this machine.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return
    token = uuid.uuid4().hex
    with _place(folder, token) as place:
        (place / QUESTION).write_text(token)
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {
            _name(node): look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(place), token, node["NodeID"])
            for node in alive
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_WITHIN_S)
        problems = [
            problem
            for (name, answer), node in zip(asked.items(), alive, strict=True)
            if (problem := _problem(name, answer, place / node["NodeID"], folder))
        ]
    if problems:
        raise EnvironmentProblem(problems)


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"


@contextmanager
def _place(folder: Path, token: str) -> Iterator[Path]:
    """A folder in the sweep's folder for questions and answers; removed with all that was made for it."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    place = folder / f".nodes-{token}"
    try:
        place.mkdir(parents=True)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for each in made:
            with suppress(OSError):  # somebody else uses it by now
                each.rmdir()


def _problem(name: str, answer: Any, expected: Path, folder: Path) -> Problem | None:
    """What is wrong with a node, from its task's result and from the file that it should have written."""
    mount = "Mount one shared file system at the same path on every node, and name a folder in it with --storage-path."
    try:
        found = ray.get(answer, timeout=0)
    except GetTimeoutError:
        return Problem(f"node {name} gave no answer within {ANSWER_WITHIN_S:.0f} s", remedy="See `ray status`.")
    except RayError as error:
        line = " ".join(str(error).split())
        if "No module named 'suite'" in line:
            remedy = "Install it on every node, or hand it over with the job: ray job submit --working-dir . -- ..."
            return Problem(f"node {name} does not have this package", remedy=remedy)
        return Problem(f"node {name} could not be asked for {folder}: {line[-300:]}")
    if found["trouble"]:
        return Problem(f"node {name} {found['trouble']}", remedy=mount)
    if not _appears(expected):
        return Problem(f"what node {name} writes to {folder} is not seen here", remedy=mount)
    mine, theirs = versions(), found["versions"]
    if other := [f"{package} {theirs[package]}" for package in mine if theirs[package] != mine[package]]:
        here = ", ".join(f"{package} {version}" for package, version in mine.items())
        rule = f"nodes must have the same packages, or figures cannot be compared: node {name} has {', '.join(other)}"
        return Problem(rule, remedy=f"Install there what is here: {here}.")
    return None


def versions() -> dict[str, str]:
    """The versions, without the kind of build, of the packages that figures depend on."""
    return {package: metadata.version(package).partition("+")[0] for package in COMPARED}


def _nothing() -> None:
    """Runs where there is room: then there is a worker."""


def _look(place: str, token: str, node: str) -> dict[str, Any]:
    """On a node: read the question, write the answer.

    Returns:
        trouble: what went wrong there, else "". versions: package -> version.
    """
    question, known = Path(place, QUESTION), versions()
    if not _appears(question):
        return {"trouble": f"does not see {Path(place).parent}, the sweep's folder", "versions": known}
    try:
        if question.read_text() != token:
            return {"trouble": f"sees another {Path(place).parent} than the driver", "versions": known}
        Path(place, node).write_text(token)
    except OSError as error:
        return {"trouble": f"cannot use {Path(place).parent}: {error.strerror}", "versions": known}
    return {"trouble": "", "versions": known}


def _appears(file: Path) -> bool:
    """Whether a file is there, or comes within a while."""
    end = time.monotonic() + SEEN_WITHIN_S
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def here() -> str:
    """This node's name, for messages."""
    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"
