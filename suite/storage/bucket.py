"""A sweep's place in an object store that speaks S3: ``--storage-path s3://bucket/prefix``.

An object store has no rename, no append and no lock. It has two guarantees, which replace them: an
object is visible whole or not at all, and a put can be made conditional on the name being unused.

::

    journal/0000000001   entries from seq 1 on, one object per write: the journal is their
                         concatenation. Created conditionally (If-None-Match), so a second driver
                         fails on its first write.
    owner                who runs the sweep, renewed while it does: a second driver is refused
    launch, stop         the token of the launch that owns the sweep; of a launch that should stop
    trials/<id>/...      checkpoints; the manifest is put last and removed first: without a
                         manifest it is no checkpoint

Driver and workers keep working copies in folders of their own, on any disk: the store is what
counts. Every call is tried again, with growing waits; then it is ``StorageUnavailable``. Addresses,
keys and other kinds of S3 (MinIO, R2, Ceph) come from the usual variables: AWS_ENDPOINT_URL_S3,
AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_REGION.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urllib3.exceptions import HTTPError  # boto3's own transport, which lets some of these through

from suite.core.errors import EnvironmentProblem, LockedError, UsageError
from suite.core.redaction import redacted
from suite.storage.base import AnotherOwner, StorageUnavailable
from suite.system import disk

AT_ONCE = 32  # objects that are read at once
TRIES, TIMEOUTS_S = (
    6,
    (5.0, 60.0),
)  # of a call; to connect, to wait for bytes. botocore waits up to 31 s between them
SHORT_TRIES, SHORT_TIMEOUTS_S = (
    2,
    (2.0, 15.0),
)  # if a person waits, or the caller tries again anyway
BODY_TRIES = 3  # of an answer whose content is cut, which botocore does not try again


def is_bucket(address: str | Path) -> bool:
    """Whether results are to go into an object store; pathlib makes one slash of two."""
    return re.match(r"s3:/", str(address)) is not None


class Bucket:
    """Objects below an address. Can be pickled: each process has a client of its own.

    Args:
        address: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        UsageError: the address names no bucket.
    """

    def __init__(self, address: str) -> None:
        found = re.fullmatch(
            r"s3:/{1,2}([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[\w.=+-]+)*)/*", address
        )
        if found is None or any(part in (".", "..") for part in found[2].split("/")):
            raise UsageError(
                "an address in an object store must be s3://bucket/prefix, got "
                f"{redacted(address)}",
                remedy="Bucket: 3 to 63 lower-case letters, digits, dots, hyphens. Prefix: "
                "letters, digits, _ . = + -.",
            )
        self.bucket, self.prefix = found[1], found[2].strip("/")
        self.patient = True
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def __truediv__(self, name: str) -> Bucket:
        return Bucket(f"{self.address}/{name}")

    def with_short_timeouts(self) -> Bucket:
        """The same place, given up sooner."""
        other = Bucket(self.address)
        other.patient = False
        return other

    @property
    def address(self) -> str:
        """As the user would write it."""
        return "/".join(part for part in (f"s3://{self.bucket}", self.prefix) if part)

    def working_folder(self, cache: Path) -> Path:
        """Where the driver, or a worker, of this address keeps its working copy on its machine."""
        return cache / "buckets" / hashlib.sha256(self.address.encode()).hexdigest()[:16]

    # ---- objects ---------------------------------------------------------------------------------

    def put(self, name: str, content: bytes | Path) -> None:
        """Put an object, in place of an older one.

        Raises:
            StorageUnavailable: as every method.
        """
        if isinstance(content, Path):
            with content.open("rb") as file:
                self._call("put_object", Key=self._key(name), Body=file)
        else:
            self._call("put_object", Key=self._key(name), Body=content)

    def put_new(self, name: str, content: bytes) -> bool:
        """Create an object if its name is unused.

        Returns:
            True if it was created or already has this content; False if it has another.
        """
        try:
            self._call("put_object", Key=self._key(name), Body=content, IfNoneMatch="*")
        except FileExistsError:  # perhaps by us: an answer that got lost is asked for again
            if (there := self.get(name)) is None:
                raise StorageUnavailable(
                    errno.EIO, f"{name} exists but could not be read"
                ) from None
            return there == content
        return True

    def get(self, name: str) -> bytes | None:
        """An object's content, None where there is none."""
        try:
            return bytes(self._call("get_object", read=True, Key=self._key(name)))
        except FileNotFoundError:
            return None

    def names(self, below: str = "") -> list[str]:
        """Names of the objects whose name begins so, in order."""
        found: list[str] = []
        token: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=self._key(below), **token)
            found += [one["Key"][len(self._key("")) :] for one in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return sorted(found)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def remove(self, *names: str) -> None:
        """Remove objects, in this order."""
        for name in names:
            self._call("delete_object", Key=self._key(name))

    def remove_below(self, name: str, first: str = "") -> None:
        """Remove a folder's objects; first those whose name ends so."""
        names = self.names(f"{name}/")
        self.remove(*sorted(names, key=lambda one: not (first and one.endswith(first))))

    def fetch(self, name: str, target: Path) -> bool:
        """Copy an object into a file, which is there whole or not at all; whether there is such
        an object.
        """
        content = self.get(name)
        if content is None:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.atomic_write(target, content, shared=True)
        return True

    def push_folder(self, folder: Path, name: str, last: str) -> None:
        """Put a folder's files, the one named ``last`` at the end: it makes the rest valid."""
        self.remove(f"{name}/{last}")  # of an earlier try: its files are about to change
        for file in sorted(folder.iterdir(), key=lambda one: (one.name == last, one.name)):
            self.put(f"{name}/{file.name}", file)

    def fetch_folder(self, name: str, target: Path) -> None:
        """Copy a folder's objects into a folder that is there whole or not at all."""
        draft = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            for one in self.names(f"{name}/"):
                self.fetch(one, draft / one.rpartition("/")[2])
            if draft.exists():  # else all of it was removed meanwhile
                draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def head(self, name: str) -> Any:
        """The store's answer about an object, None if there is none."""
        try:
            return self._call("head_object", Key=self._key(name))
        except FileNotFoundError:
            return None

    # ---- calls -----------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _call(self, what: str, read: bool = False, **arguments: Any) -> Any:
        """A call of boto3's client; with ``read`` the object's content, for which the connection
        must hold, too.

        Raises:
            FileNotFoundError: there is no such object.
            FileExistsError: there is one, and there should be none.
            StorageUnavailable: everything else.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        for number in range(BODY_TRIES):
            try:
                found = getattr(self._connected(), what)(Bucket=self.bucket, **arguments)
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in ("NoSuchKey", "404"):
                    raise FileNotFoundError(errno.ENOENT, arguments["Key"]) from error
                if code in ("PreconditionFailed", "412"):
                    raise FileExistsError(errno.EEXIST, arguments["Key"]) from error
                raise StorageUnavailable(errno.EIO, redacted(str(error))) from error
            except (
                BotoCoreError,
                OSError,
                ValueError,
            ) as error:  # ValueError: an address that is none
                raise StorageUnavailable(
                    errno.EIO, redacted(" ".join(str(error).split()))
                ) from error
            if not read:
                return found
            try:
                with found["Body"] as body:
                    return body.read()
            except (BotoCoreError, HTTPError, OSError) as error:
                if number == BODY_TRIES - 1:
                    raise StorageUnavailable(
                        errno.EIO, redacted(" ".join(str(error).split()))
                    ) from error
        raise AssertionError

    def _connected(self) -> Any:
        """The client, made at the first call: boto3 is needed only here, and takes half a second
        to import.
        """
        if self._client is None:
            import boto3  # type: ignore[import-untyped]
            from botocore.config import Config

            tries, (connect_s, read_s) = (
                (TRIES, TIMEOUTS_S) if self.patient else (SHORT_TRIES, SHORT_TIMEOUTS_S)
            )
            config = Config(
                retries={"mode": "standard", "total_max_attempts": tries},
                connect_timeout=connect_s,
                read_timeout=read_s,
                max_pool_connections=2 * AT_ONCE,
            )
            session = boto3.session.Session()
            region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            self._client = session.client("s3", region_name=region, config=config)
        return self._client


@contextmanager
def translate_errors(address: str) -> Iterator[None]:
    """Says what the store lacks in words.

    Raises:
        EnvironmentProblem: it did not answer in the block.
        LockedError: another process writes the journal there.
    """
    try:
        yield
    except AnotherOwner as error:
        raise LockedError(
            f"{error.strerror}\n    Wait for it or stop it; then launch again."
        ) from error
    except StorageUnavailable as error:
        raise EnvironmentProblem(
            f"{address} cannot be used: {error.strerror}",
            remedy="Launch the same command again once it answers.",
        ) from error
