"""A sweep's storage in an object store, with working copies on the driver's and the workers'
machines.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from suite.storage import bucket_check, bucket_journal
from suite.storage.base import MANIFEST, QuestionArea, StorageUnavailable, TrialStorage
from suite.storage.bucket import Bucket, translate_errors
from suite.storage.bucket_lease import lease
from suite.storage.folder_storage import remove_path
from suite.storage.journal import FILE_NAME, LAUNCH_FILE, STOP_FILE, Lock

ASK_EVERY_S = 2.0  # between looks at the control objects
STOP_TRIES = 10  # of storing a stop request, a second between them
_RIGHTS = (
    "Give every node boto3, the right to read and write there, and the same "
    "AWS_ENDPOINT_URL_S3, if there is one."
)


class BucketStorage:
    """A sweep in ``bucket``. Implements ``SweepStorage``.

    Args:
        bucket: the sweep's place in the object store.
        folder: the driver's working copy.
        cache_folder: the folder for such copies on the machine where it is called.
    """

    is_remote = True

    def __init__(self, bucket: Bucket, folder: Path, cache_folder: Callable[[], Path]) -> None:
        self.bucket, self.folder, self._cache_folder = bucket, folder, cache_folder
        self.address = bucket.address
        self._held: set[str] = (
            set()
        )  # files and folders of trials that were there when the launch began

    def check(self) -> None:
        bucket_check.check(self.bucket)

    @contextmanager
    def claim(self) -> Iterator[None]:
        lock = Lock(self.folder)
        try:
            with translate_errors(self.address), lease(self.bucket, uuid.uuid4().hex):
                yield
        finally:
            lock.release()

    def download_journal(self) -> None:
        with translate_errors(self.address):
            bucket_journal.download_journal(self.bucket, self.folder / FILE_NAME)

    def append_journal(self, seq: int, lines: bytes) -> None:
        bucket_journal.append_journal(self.bucket, seq, lines)

    def begin_launch(self, token: str) -> None:
        self.bucket.put(LAUNCH_FILE, token.encode())
        self.bucket.remove(STOP_FILE)
        (self.folder / STOP_FILE).unlink(missing_ok=True)
        remove_path(
            self.folder / "trials"
        )  # of this working copy: another machine may have changed them
        self._held = {"/".join(name.split("/")[:3]) for name in self.bucket.names("trials/")}

    def request_stop(self, token: str) -> None:
        """A signal may call this in the middle of another call to the store, so a thread makes
        the request.
        """
        (self.folder / STOP_FILE).touch()
        bucket = self.bucket.with_short_timeouts()
        threading.Thread(target=_store_stop, args=(bucket, token), name="stop", daemon=True).start()

    def fetch(self, *names: str) -> None:
        for name in names:
            if not (self.folder / name).exists():
                self.bucket.fetch(name, self.folder / name)

    def may_hold(self, name: str) -> bool:
        return name in self._held

    def remove(self, name: str) -> None:
        remove_path(self.folder / name)
        self.bucket.remove_below(name, MANIFEST)
        self.bucket.remove(name)

    def trial(self, token: str, trial_id: str) -> TrialStorage:
        # Copies belong to one launch: what an older one left here may be older than the bucket's.
        return BucketTrialStorage(
            self.bucket, token, trial_id, self._worker_copies() / token / trial_id
        )

    def remove_stale_copies(self, token: str) -> None:
        with suppress(StorageUnavailable):
            if self.bucket.with_short_timeouts().get(LAUNCH_FILE) == token.encode():
                for copy in self._worker_copies().glob("*"):
                    if copy.name != token:
                        shutil.rmtree(copy, ignore_errors=True)

    def _worker_copies(self) -> Path:
        """Where workers on this machine keep their working copies, by launch."""
        return self.bucket.working_folder(self._cache_folder()) / ".workers"

    @contextmanager
    def question_area(self, token: str) -> Iterator[QuestionArea]:
        with translate_errors(self.address):
            try:
                yield BucketArea(self.bucket / f".nodes-{token}")
            finally:
                self.bucket.remove_below(f".nodes-{token}")


class BucketTrialStorage:
    """One trial of a sweep in an object store. Implements ``TrialStorage``.

    Args:
        bucket: the sweep's place.
        folder: the worker's working copy of the trial.
    """

    def __init__(self, bucket: Bucket, token: str, trial_id: str, folder: Path) -> None:
        self.folder, self.sweep_address = folder, bucket.address
        self._bucket, self._token, self._trial_id = bucket, token, trial_id
        self._home = f"trials/{trial_id}"
        self._control = _control_of(bucket, token)
        self._quick = self._control.bucket  # its connection serves all trials of the process

    def is_visible(self) -> bool:
        return self._quick.get(LAUNCH_FILE) is not None

    def owns_sweep(self) -> bool:
        return self._quick.get(LAUNCH_FILE) == self._token.encode()

    def stop_requested(self) -> bool:
        return self._control.stop

    def fetch_checkpoint(self, warn: Callable[[str], None]) -> None:
        from suite.storage import checkpoint  # torch

        copies = self.folder / "checkpoints"
        for name in self._checkpoints(self._bucket):
            if not (copies / name).exists():
                self._bucket.fetch_folder(f"{self._home}/checkpoints/{name}", copies / name)
            if checkpoint.newest(copies, self._trial_id, warn):
                return

    def store_checkpoint(self, checkpoint: Path) -> None:
        from suite.storage.checkpoint import KEPT  # torch

        if not self.owns_sweep():
            return
        place = f"{self._home}/checkpoints"
        self._quick.push_folder(checkpoint, f"{place}/{checkpoint.name}", MANIFEST)
        for name in self._checkpoints(self._quick)[KEPT:]:
            self._quick.remove_below(f"{place}/{name}", MANIFEST)

    def store(self, *names: str) -> None:
        for name in names:
            self._bucket.put(f"{self._home}/{name}", self.folder / name)

    def location(self, name: str) -> str:
        return f"{self.sweep_address}/{self._home}/{name}"

    def discard_copy(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _checkpoints(self, bucket: Bucket) -> list[str]:
        """Names of the trial's complete checkpoints in the bucket, newest first."""
        names = bucket.names(f"{self._home}/checkpoints/")
        return sorted(
            {name.split("/")[-2] for name in names if name.endswith(f"/{MANIFEST}")}, reverse=True
        )


class _Control:
    """What the driver says in a bucket, asked for on a thread: training waits for no network.

    Attributes:
        bucket: the place, with short timeouts.
        stop: whether this launch's workers should stop, or no longer own the sweep. A store that
            does not answer is no reason: it may be back when a checkpoint is due.
    """

    def __init__(self, bucket: Bucket, token: str) -> None:
        self.stop = False
        self.bucket, self._token = bucket.with_short_timeouts(), token.encode()
        threading.Thread(target=self._ask, name="control", daemon=True).start()

    def _ask(self) -> None:
        while not self.stop:
            with suppress(StorageUnavailable):
                owner = self.bucket.get(LAUNCH_FILE)
                self.stop = owner != self._token or self.bucket.get(STOP_FILE) == self._token
            time.sleep(ASK_EVERY_S)


_controls: dict[tuple[str, str], _Control] = {}


def _control_of(bucket: Bucket, token: str) -> _Control:
    """One per process and launch."""
    key = bucket.address, token
    return _controls.get(key) or _controls.setdefault(key, _Control(bucket, token))


@dataclass(frozen=True)
class BucketArea:
    """Questions and answers as objects. Implements ``QuestionArea``."""

    area: Bucket

    @property
    def remedy(self) -> str:
        return _RIGHTS

    @property
    def where(self) -> str:
        return self.area.address.rpartition("/")[0]

    def write(self, name: str, text: str) -> None:
        self.area.put(name, text.encode())
        self.area.names()  # a node must be allowed to list, too

    def read(self, name: str) -> str | None:
        content = self.area.get(name)
        return None if content is None else content.decode()


def _store_stop(bucket: Bucket, token: str) -> None:
    for _ in range(STOP_TRIES):
        try:
            bucket.put(
                STOP_FILE, token.encode()
            )  # for this launch's workers: others may own the sweep now
            return
        except StorageUnavailable:
            time.sleep(1.0)
