"""Connect to a Ray cluster, or start a local one and shut it down cleanly.

A local Ray listens on 127.0.0.1 only, its token is readable by its owner only, and its processes
leave signals to the suite.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import node, ray_constants, services, worker
from ray.tune.execution import class_cache

from suite.core.errors import EnvironmentProblem
from suite.system.signals import deaf

# Tune gives each worker a copy of these, and Ray writes it to a log below /tmp/ray that everybody
# may read. The suite's workers need none of them, and have those of their machine.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean the same in workers
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # with verbose=0: silent
os.environ.setdefault(
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"
)  # no CSV, JSON and TensorBoard files of figures
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # ours checkpoints first
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault(
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1"
)  # trials without a GPU must not see one


@contextmanager
def running(address: str | None, verbose: bool) -> Iterator[dict[str, float]]:
    """A Ray to run on: the one at ``address`` or RAY_ADDRESS, one that is already there, or a fresh
    local one.

    Yields:
        its resources: CPU, GPU.

    Raises:
        EnvironmentProblem: if there is none at the address.
    """
    ours = not ray.is_initialized()
    here = starts_here(address)
    where = address or os.environ.get("RAY_ADDRESS")
    if ours and where:
        _meet(where)
    if ours:
        level = logging.INFO if verbose else logging.ERROR
        try:
            with _private() if here else nullcontext(), _spared() if here else nullcontext():
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=verbose,
                    logging_level=level,
                    _system_config=None,
                )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _no_cluster(where or "this machine", str(error)) from error
        except Exception as error:  # what Ray raises if its processes do not start in time
            if "timed out during startup" not in str(error):
                raise
            raise EnvironmentProblem(
                "Ray did not start on this machine within 30 s",
                remedy="The machine is probably overloaded: end other work, and launch the same "
                "command again.",
            ) from error
        if not verbose:
            _silence_raylet()
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        with _plain_workers() if here else nullcontext():
            yield ray.cluster_resources()
    finally:
        if ours:
            _shut_down(tidy=here and not verbose)


def starts_here(address: str | None) -> bool:
    """Whether ``running`` will start a Ray of its own on this machine."""
    return not ray.is_initialized() and _starts_here(address or os.environ.get("RAY_ADDRESS"))


def _starts_here(where: str | None) -> bool:
    """Whether Ray will start on this machine, and not meet one that is already there."""
    return where in (None, "local") and services.canonicalize_bootstrap_address(where) is None


@contextmanager
def _plain_workers() -> Iterator[None]:
    """Keep Tune from setting environment variables for local workers, which inherit them anyway.

    Ray can then use an idle worker that it started in advance: the first trial starts 1 s earlier.
    """
    kept = dict(class_cache.DEFAULT_ENV_VARS), set(class_cache.ENV_VARS_TO_PROPAGATE)
    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS.update(kept[0])
        class_cache.ENV_VARS_TO_PROPAGATE.update(kept[1])


@contextmanager
def _private() -> Iterator[None]:
    """Have a Ray that starts here listen on 127.0.0.1; by itself it listens on all addresses of the
    machine.

    Ray has this for macOS and Windows and looks in the environment when it is imported, which is
    before anybody knows whether there is a cluster to meet. Its argument ``_node_ip_address`` takes
    no 127.0.0.1: it puts an outer address in its place.
    """
    _guard_token()
    kept = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = kept


@contextmanager
def _spared() -> Iterator[None]:
    """Block SIGTERM in Ray's local processes and their children. Ray itself shields them from
    SIGINT.

    `timeout` signals the whole process group; Slurm and systemd signal each process of a job.
    Without this, Ray's head would end before the trials had saved, and the driver would search for
    it for a minute. A SIGTERM that arrives meanwhile is delivered later.
    """
    kept = signal.getsignal(signal.SIGTERM)
    with deaf():
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread() and kept is not None:
                signal.signal(signal.SIGTERM, kept)  # Ray took it for itself


def _guard_token() -> None:
    """Keep others on this machine from reading Ray's token, which is all that one needs to run code
    in a cluster.

    Ray writes the file with the rights that the umask leaves; so it is made here, before Ray looks
    for it.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or {
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
    } & set(os.environ):
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # a home that cannot be written is for Ray to complain about
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_token(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _make_token(path: Path) -> None:
    """A new token, whole or not at all: another sweep may be starting too, and the first one's
    counts.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    # unreadable to others from its first moment, which Path.open cannot ask for
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(secrets.token_hex(32))
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _shut_down(tidy: bool) -> None:
    """Stop Ray, with Python's garbage collection at rest; ``tidy``: and remove its folder of logs
    and sockets.

    Ray 2.60 ends the process ("The core worker has already been shutdown") if, while it goes down,
    another thread drops a reference to one of its objects. Ours hold none, but tracking's may be
    the one that collects Tune's garbage.
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    head = worker._global_node
    below = _below(head) if head is not None else []
    try:
        if (
            head is not None
        ):  # they are deaf to SIGTERM, so nothing is gained by the second that Ray gives each
            head.kill_all_processes = partial(_at_once, head.kill_all_processes)
        ray.shutdown()
    finally:
        if collects:
            gc.enable()
    for process in below:  # what a raylet that is killed leaves behind for a while
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(below, timeout=2)
    if tidy and head is not None:
        shutil.rmtree(head.get_session_dir_path(), ignore_errors=True)


def _below(head: node.Node) -> list[psutil.Process]:
    """Children of Ray's local processes: its workers and agents.

    Empty if this process did not start Ray.
    """
    found: list[psutil.Process] = []
    for started in (one for kind in head.all_processes.values() for one in kind):
        with suppress(psutil.NoSuchProcess):
            found += psutil.Process(started.process.pid).children(recursive=True)
    return found


def _at_once(kill_all: Callable[..., None], **how: Any) -> None:
    kill_all(**how | {"allow_graceful": False})


def _meet(address: str) -> None:
    """Fail fast if nothing listens at ``host:port``; Ray itself would retry for minutes.

    Raises:
        EnvironmentProblem: no connection within 5 s.
    """
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^:/]+):(?P<port>\d+)", address)
    if found is None:  # auto, local: Ray knows
        return
    try:
        socket.create_connection((found["host"], int(found["port"])), timeout=5).close()
    except OSError as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(where: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"no Ray cluster answers at {where}: {why}",
        remedy="Start one (`ray start --head`), or leave out --address and RAY_ADDRESS to use "
        "this machine.",
    )


def _silence_raylet() -> None:
    """Keep Ray's page about each lost worker or node off the terminal: the trial's reason says it
    in a line.

    ``log_to_driver=False`` does not cover it, and the environment variable that does is read when
    ray is imported.
    """
    with suppress(ImportError, AttributeError):  # a private place: where it is gone, Ray talks
        from ray._private import worker

        worker.stdout_deduplicator.skip_re = re.compile(
            "worker died or was killed|low on memory|killed|marked dead"
        )
