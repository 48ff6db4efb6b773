"""A sweep's storage in a folder that every node sees under the same path."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from suite.storage.base import QuestionArea, TrialStorage
from suite.storage.journal import LAUNCH_FILE, STOP_FILE, Lock
from suite.system import disk

LOOK_EVERY_S = 0.2  # between looks at the control files
_MOUNT = (
    "Mount one shared file system at the same path on every node, and name a folder in it "
    "with --storage-path."
)


@dataclass(frozen=True)
class FolderStorage:
    """A sweep in ``folder``. Implements ``SweepStorage``."""

    folder: Path

    @property
    def is_remote(self) -> bool:
        return False

    def check(self) -> None:
        """Nothing to do: folders are tried out where the sweep's folder would be."""

    @contextmanager
    def claim(self) -> Iterator[None]:
        lock = Lock(self.folder)
        try:
            yield
        finally:
            lock.release()

    def download_journal(self) -> None:
        """Nothing to do: the folder's journal is the record."""

    def append_journal(self, seq: int, lines: bytes) -> None:
        """Nothing to do: the lines are in the folder's journal."""

    def begin_launch(self, token: str) -> None:
        disk.atomic_write(self.folder / LAUNCH_FILE, token)
        (self.folder / STOP_FILE).unlink(missing_ok=True)

    def request_stop(self, token: str) -> None:
        (self.folder / STOP_FILE).touch()

    def fetch(self, *names: str) -> None:
        """Nothing to do: files are there."""

    def may_hold(self, name: str) -> bool:
        return True  # looking costs as much as removing

    def remove(self, name: str) -> None:
        remove_path(self.folder / name)

    def trial(self, token: str, trial_id: str) -> TrialStorage:
        return FolderTrialStorage(self.folder, token, trial_id)

    def remove_stale_copies(self, token: str) -> None:
        """Nothing to do: workers have no copies."""

    @contextmanager
    def question_area(self, token: str) -> Iterator[QuestionArea]:
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        area = self.folder / f".nodes-{token}"
        try:
            area.mkdir(parents=True)
            yield FolderArea(area)
        finally:
            shutil.rmtree(area, ignore_errors=True)
            for folder in missing:
                with suppress(OSError):  # another process uses it by now
                    folder.rmdir()


class FolderTrialStorage:
    """One trial of a sweep in a shared folder. Implements ``TrialStorage``."""

    def __init__(self, sweep: Path, token: str, trial_id: str) -> None:
        self.folder = sweep / "trials" / trial_id
        self.sweep_address = str(sweep)
        self._sweep, self._token = sweep, token
        self._looked_at, self._stop = 0.0, False

    def is_visible(self) -> bool:
        return self._read(LAUNCH_FILE) is not None

    def owns_sweep(self) -> bool:
        return self._read(LAUNCH_FILE) == self._token

    def stop_requested(self) -> bool:
        now = time.monotonic()
        if not self._stop and now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._stop = self._read(STOP_FILE) is not None or not self.owns_sweep()
        return self._stop

    def fetch_checkpoint(self, warn: Callable[[str], None]) -> None:
        """Nothing to do: the trial's folder has it."""

    def store_checkpoint(self, checkpoint: Path) -> None:
        """Nothing to do: the trial's folder has it."""

    def store(self, *names: str) -> None:
        """Nothing to do: the trial's folder has them."""

    def location(self, name: str) -> str:
        return str(self.folder / name)

    def discard_copy(self) -> None:
        """Nothing to do: the folder is the record."""

    def _read(self, name: str) -> str | None:
        try:
            return (self._sweep / name).read_text()
        except OSError:
            return None


@dataclass(frozen=True)
class FolderArea:
    """Questions and answers as files. Implements ``QuestionArea``."""

    area: Path

    @property
    def remedy(self) -> str:
        return _MOUNT

    @property
    def where(self) -> str:
        return str(self.area.parent)

    def write(self, name: str, text: str) -> None:
        (self.area / name).write_text(text)

    def read(self, name: str) -> str | None:
        file = self.area / name
        return file.read_text() if file.exists() else None


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
