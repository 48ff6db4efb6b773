"""The storage port: what a sweep asks of the place that keeps its journal, checkpoints and results.

``FolderStorage`` is a folder that all nodes share. ``BucketStorage`` is a place in an object store;
driver and workers then have working copies in folders of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

# Of a checkpoint: stored last and removed first, so that without it there is none
MANIFEST = "MANIFEST.json"


class StorageUnavailable(OSError):
    """The store does not answer, after all tries."""


class AnotherOwner(OSError):
    """Another process writes this sweep's journal now."""


class SweepStorage(Protocol):
    """Where one sweep is kept, as driver and workers use it. Can be pickled."""

    @property
    def folder(self) -> Path:
        """The sweep's folder; with an object store, this machine's working copy of it."""

    @property
    def is_remote(self) -> bool:
        """Whether ``folder`` is only a working copy."""

    def check(self) -> None:
        """Try the place out, and leave nothing there.

        Raises:
            EnvironmentProblem: it cannot be used.
        """

    def claim(self) -> AbstractContextManager[None]:
        """Own the sweep while the block runs.

        Raises:
            LockedError: another process owns it.
        """

    def download_journal(self) -> None:
        """Make the journal in ``folder`` that of the storage.

        Raises:
            EnvironmentProblem: the storage does not answer, or its journal is damaged.
        """

    def append_journal(self, seq: int, lines: bytes) -> None:
        """Store lines that ``folder``'s journal just got; the first has number ``seq``.

        Raises:
            AnotherOwner: another process writes the journal now.
        """

    def begin_launch(self, token: str) -> None:
        """Make ``token`` the launch that owns the sweep, with no stop requested."""

    def request_stop(self, token: str) -> None:
        """Ask this launch's workers to save and return.

        Does not wait for them, nor for a network.
        """

    def fetch(self, *names: str) -> None:
        """Have these files in ``folder`` if the storage has them."""

    def may_hold(self, name: str) -> bool:
        """Whether ``name`` may have been there when the launch began."""

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""

    def trial(self, token: str, trial_id: str) -> TrialStorage:
        """The storage of one trial, in a worker of the launch ``token``."""

    def remove_stale_copies(self, token: str) -> None:
        """In a worker of the launch ``token``: remove working copies of launches that are over."""

    def question_area(self, token: str) -> AbstractContextManager[QuestionArea]:
        """A place for questions to the nodes and their answers; removed afterwards."""


class TrialStorage(Protocol):
    """What a worker asks of the sweep's storage for one trial."""

    @property
    def folder(self) -> Path:
        """The trial's folder; with an object store, the worker's working copy of it."""

    @property
    def sweep_address(self) -> str:
        """The sweep's place, as the user would write it."""

    def is_visible(self) -> bool:
        """Whether this node sees the sweep at all."""

    def owns_sweep(self) -> bool:
        """Whether this launch still owns the sweep: a worker that outlived its driver must not
        write.
        """

    def stop_requested(self) -> bool:
        """Whether to save and return. Cheap enough to ask at each training step."""

    def fetch_checkpoint(self, warn: Callable[[str], None]) -> None:
        """Have the newest good checkpoint in ``folder``."""

    def store_checkpoint(self, checkpoint: Path) -> None:
        """Keep a checkpoint that was just written, and let older ones go."""

    def store(self, *names: str) -> None:
        """Keep files of ``folder`` where the driver finds them."""

    def location(self, name: str) -> str:
        """Where a stored file is, for a message."""

    def discard_copy(self) -> None:
        """Remove the working copy, if ``folder`` is one."""


class QuestionArea(Protocol):
    """Small texts that the driver and other nodes write and read. Can be pickled."""

    @property
    def where(self) -> str:
        """The sweep's place, for messages."""

    @property
    def remedy(self) -> str:
        """What to do if a node cannot use it."""

    def write(self, name: str, text: str) -> None:
        """Write a text, as a whole."""

    def read(self, name: str) -> str | None:
        """A text, or None if there is none."""
