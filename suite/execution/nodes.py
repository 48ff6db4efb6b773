"""Check a Ray cluster before training: it has workers, and each node sees the sweep's folder.

All nodes share the folder of checkpoints and journal. If a node has a local folder under that path,
its trials are lost silently. So each node reads a file that the driver wrote there, and writes one
for the driver to read.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable
from importlib import metadata
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from suite.core.errors import EnvironmentProblem, Problem
from suite.storage.base import QuestionArea, SweepStorage

WORKER_WITHIN_S = (
    1200.0  # a machine of a cloud with a large image and its packages is there in 5 to 10 minutes
)
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
    say(
        f"the cluster has no workers yet; one is asked for (at most {WORKER_WITHIN_S / 60:.0f} "
        "minutes)"
    )
    wanted: dict[str, Any] = {"num_cpus": cpu, "num_gpus": 1 if gpu == "auto" else gpu}
    came = ray.remote(max_retries=-1, **wanted)(_nothing).remote()
    ready, _ = ray.wait([came], timeout=WORKER_WITHIN_S)
    if not ready:
        ray.cancel(came)
        raise EnvironmentProblem(
            f"no worker with {cpu:g} CPUs and {wanted['num_gpus']:g} GPUs joined the cluster "
            f"within {WORKER_WITHIN_S / 60:.0f} minutes",
            remedy="`ray status` on the head says what the autoscaler does; the cluster file says "
            "what it may start.",
        )


def check_storage(storage: SweepStorage) -> None:
    """Check that every node can read and write the sweep's storage. A single node is not checked.

    Args:
        storage: the sweep's; need not exist yet. All test files are removed, also after an error.

    Raises:
        EnvironmentProblem: naming each node that cannot, or that has other packages than this
            machine.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return
    token = uuid.uuid4().hex
    with storage.question_area(token) as area:
        area.write(QUESTION, token)
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = {
            _name(node): look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(area, token, node["NodeID"])
            for node in alive
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_WITHIN_S)
        still = {
            node["NodeID"] for node in ray.nodes() if node["Alive"]
        }  # Ray notices late that a node is gone
        problems = [
            problem
            for (name, answer), node in zip(asked.items(), alive, strict=True)
            if node["NodeID"] in still and (problem := _problem(name, answer, area, node["NodeID"]))
        ]
    if problems:
        raise EnvironmentProblem(problems)


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"


def _problem(name: str, answer: Any, area: QuestionArea, node: str) -> Problem | None:
    """What is wrong with a node, from its task's result and from what it should have written."""
    where, remedy_there = area.where, area.remedy
    try:
        found = ray.get(answer, timeout=0)
    except GetTimeoutError:
        return Problem(
            f"node {name} gave no answer within {ANSWER_WITHIN_S:.0f} s", remedy="See `ray status`."
        )
    except RayError as error:
        line = " ".join(str(error).split())
        if "No module named 'suite'" in line:
            remedy = (
                "Install it on every node, or hand it over with the job: ray job submit "
                "--working-dir . -- ..."
            )
            return Problem(f"node {name} does not have this package", remedy=remedy)
        return Problem(f"node {name} could not be asked for {where}: {line[-300:]}")
    if found["trouble"]:
        return Problem(f"node {name} {found['trouble']}", remedy=remedy_there)
    if _appears(area, node) is None:
        return Problem(f"what node {name} writes to {where} is not seen here", remedy=remedy_there)
    mine, theirs = versions(), found["versions"]
    if other := [
        f"{package} {theirs[package]}" for package in mine if theirs[package] != mine[package]
    ]:
        here = ", ".join(f"{package} {version}" for package, version in mine.items())
        rule = (
            f"nodes must have the same packages, or figures cannot be compared: node {name} "
            f"has {', '.join(other)}"
        )
        return Problem(rule, remedy=f"Install there what is here: {here}.")
    return None


def versions() -> dict[str, str]:
    """The versions, without the kind of build, of the packages that figures depend on."""
    return {package: metadata.version(package).partition("+")[0] for package in COMPARED}


def _nothing() -> None:
    """Runs where there is room: then there is a worker."""


def _look(area: QuestionArea, token: str, node: str) -> dict[str, Any]:
    """On a node: read the question, write the answer.

    Returns:
        trouble: what went wrong there, else "". versions: package -> version.
    """
    where, known = area.where, versions()
    try:
        found = _appears(area, QUESTION)
        if found is None:
            return {"trouble": f"does not see {where}, the sweep's folder", "versions": known}
        if found != token:
            return {"trouble": f"sees another {where} than the driver", "versions": known}
        area.write(node, token)
    except (OSError, ImportError) as error:
        said = getattr(error, "strerror", None) or str(error)
        return {"trouble": f"cannot use {where}: {said}", "versions": known}
    return {"trouble": "", "versions": known}


def _appears(area: QuestionArea, name: str) -> str | None:
    """The content of a file, waiting up to ``SEEN_WITHIN_S`` for it to appear; else None."""
    end = time.monotonic() + SEEN_WITHIN_S
    while (found := area.read(name)) is None and time.monotonic() < end:
        time.sleep(0.1)
    return found


def here() -> str:
    """This node's name, for messages."""
    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"
