"""Room on disks, looked at before a sweep starts and before each trial of it, and said where a file did not fit; and
names that outlast a power cut."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
AT_ONCE = 3  # checkpoints of a trial while it writes one: two that are kept, and the new one
MARGIN = 4 * 2**20  # bytes beside them: the journal, predictions


def free(path: Path) -> int:
    """Bytes that are free where ``path`` is, or would be."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def lacking(path: Path, need: int, what: str) -> str:
    """A sentence if fewer than ``need`` bytes are free at ``path``, else ""."""
    there = free(path)
    return f"disk full: {what} need {size(need)}, {size(there)} free at {path}" if there < need else ""


def said(error: OSError, path: Path) -> str:
    """What went wrong with a file, and of a full disk how full it is."""
    text = error.strerror or str(error)
    return f"{text} ({size(free(path))} free at {path})" if error.errno in FULL else text


def size(count: int) -> str:
    """Bytes as people read them: ``45 MiB``."""
    if count < 2**20:
        return f"{count / 2**10:.0f} KiB"
    return f"{count / 2**20:.0f} MiB" if count < 10 * 2**30 else f"{count / 2**30:.0f} GiB"


def sync(folder: Path, above: int = 0) -> None:
    """Make names in a folder durable: new files and folders, renamed ones, removals.

    Args:
        above: how many folders above it may be new, too: each is a name in the one above it.
    """
    _sync(folder)
    for place in folder.absolute().parents[:above]:
        with suppress(PermissionError):  # a folder that others made, and may not be listed
            _sync(place)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
