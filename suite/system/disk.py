"""Free-space checks, disk-full messages, atomic writes and directory fsync."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

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
    return (
        f"disk full: {what} need {size(need)}, {size(there)} free at {path}" if there < need else ""
    )


def said(error: OSError, path: Path) -> str:
    """What went wrong with a file, and of a full disk how full it is."""
    text = error.strerror or str(error)
    return f"{text} ({size(free(path))} free at {path})" if error.errno in FULL else text


def size(count: int) -> str:
    """Bytes as people read them: ``45 MiB``."""
    if count < 2**20:
        return f"{count / 2**10:.0f} KiB"
    return f"{count / 2**20:.0f} MiB" if count < 10 * 2**30 else f"{count / 2**30:.0f} GiB"


def atomic_write(
    path: Path,
    content: str | bytes | Callable[[IO[bytes]], object],
    *,
    sync: bool = False,
    shared: bool = False,
) -> None:
    """Replace a file: it has its old content or the new one, never a part of it.

    Args:
        content: what to write, or a function that writes it to an open file.
        sync: make the content durable before the file gets its name.
        shared: other threads or processes may write the same file at the same time. Otherwise the
            draft has a fixed name, so that a crash leaves one draft at most.
    """
    suffix = f".{os.getpid()}-{threading.get_ident()}.tmp" if shared else ".tmp"
    draft = path.with_name(f".{path.name}{suffix}")
    try:
        with draft.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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
