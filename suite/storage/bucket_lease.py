"""Who owns a sweep in an object store: a lease that its owner renews while it runs."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from suite.core.errors import LockedError
from suite.storage.base import StorageUnavailable
from suite.storage.bucket import Bucket
from suite.system import signals

OWNER = "owner"
RENEW_EVERY_S, STALE_AFTER_S = (
    15.0,
    75.0,
)  # a driver that has not renewed its lease for longer may be replaced


@contextmanager
def lease(bucket: Bucket, token: str) -> Iterator[None]:
    """Hold the sweep, and let others see that it is held.

    Raises:
        LockedError: another process holds it.
    """
    mine = json.dumps(
        {"token": token, "pid": os.getpid(), "host": socket.gethostname(), "at": _place()}
    ).encode()
    if not bucket.put_new(OWNER, mine):
        _refuse_if_alive(bucket)
        bucket.put(OWNER, mine)
    done = threading.Event()
    renewing = threading.Thread(
        target=_heartbeat,
        args=(bucket.with_short_timeouts(), mine, done),
        name="owner",
        daemon=True,
    )
    signals.start(renewing)
    try:
        yield
    finally:
        done.set()
        renewing.join(timeout=60)
        quick = bucket.with_short_timeouts()
        with suppress(StorageUnavailable):
            if quick.get(OWNER) == mine:
                quick.remove(OWNER)


def _refuse_if_alive(bucket: Bucket) -> None:
    age_s = _age_s(bucket)
    if age_s is None:
        return
    owner = json.loads(bucket.get(OWNER) or b'{"host": "", "pid": 0, "at": ""}')
    if owner["at"] == _place() and not psutil.pid_exists(owner["pid"]):
        return
    if age_s < STALE_AFTER_S:
        raise LockedError(
            f"this sweep is already running: process {owner['pid']} on {owner['host']} holds "
            f"{bucket.address}\n"
            "    Wait for it or stop it; then launch again, which goes on where it stopped. If it "
            "died, that is "
            f"possible in {STALE_AFTER_S - age_s:.0f} s."
        )


def _heartbeat(bucket: Bucket, mine: bytes, done: threading.Event) -> None:
    while not done.wait(RENEW_EVERY_S):
        with suppress(
            StorageUnavailable
        ):  # another's word stays: its journal will say who owns the sweep
            if bucket.get(OWNER) in (mine, None):
                bucket.put(OWNER, mine)


def _place() -> str:
    """Where process numbers mean the same: this start of this machine, and of a container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _age_s(bucket: Bucket) -> float | None:
    """Seconds since the lease was renewed, by the store's own clock; None if there is none."""
    answer = bucket.head(OWNER)
    if answer is None:
        return None
    return float(_clock(answer).timestamp() - answer["LastModified"].timestamp())


def _clock(answer: Any) -> Any:
    """The store's own time when it gave the answer: clocks of machines differ."""
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
