"""The journal in an object store: one object per write, and their concatenation is the journal."""

from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from suite.core.errors import EnvironmentProblem
from suite.storage.base import AnotherOwner
from suite.storage.bucket import AT_ONCE, Bucket
from suite.system import disk

JOURNAL = "journal/"


def append_journal(bucket: Bucket, seq: int, lines: bytes) -> None:
    """Put further lines of the journal, whose first entry has this number.

    Raises:
        AnotherOwner: somebody else put theirs there.
    """
    if not bucket.put_new(_segment(seq), lines):
        raise AnotherOwner(
            errno.EBUSY, f"another process writes the journal in {bucket.address} now"
        )


def read_journal(bucket: Bucket) -> bytes:
    """All lines of the journal.

    Raises:
        EnvironmentProblem: a piece of it is gone, or is none of a journal.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        pieces = list(pool.map(bucket.get, bucket.names(JOURNAL)))
    lines = [line for piece in pieces for line in (piece or b"").splitlines(keepends=True)]
    try:
        whole = [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole or None in pieces:
        raise EnvironmentProblem(
            f"the journal in {bucket.address}/{JOURNAL} has a hole, or something else in it",
            remedy="Restore its objects, where the bucket keeps versions, or start anew at "
            "another --storage-path.",
        )
    return b"".join(lines)


def download_journal(bucket: Bucket, file: Path) -> None:
    """Replace the local journal by the store's.

    Lines that only the local copy has are dropped: they never became durable, so no listener got
    them.
    """
    lines = read_journal(bucket)
    if lines or file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.atomic_write(file, lines)


def _segment(seq: int) -> str:
    return f"{JOURNAL}{seq:010d}"
