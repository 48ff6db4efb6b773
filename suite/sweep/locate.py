"""Where a sweep's files go: a folder, or a place in an object store."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.redaction import redacted
from suite.storage.base import SweepStorage
from suite.storage.bucket import Bucket, is_bucket
from suite.storage.bucket_storage import BucketStorage
from suite.storage.folder_storage import FolderStorage


def storage_of(storage_path: str | Path | Bucket) -> Path | Bucket:
    """Where the sweeps' folders are: a folder, absolute, or a place in an object store.

    Raises:
        UsageError: for an address of another kind.
    """
    if isinstance(storage_path, Bucket):
        return storage_path
    if is_bucket(storage_path):
        return Bucket(str(storage_path))
    if re.match(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/", str(storage_path)):
        raise UsageError(
            "--storage-path must be a folder or s3://bucket/prefix, got the address "
            f"{redacted(str(storage_path))}",
            remedy="Mount a file system that all nodes share (NFS, EFS, Filestore), and name a "
            "folder in it; or use "
            "the S3 interface of the store, with AWS_ENDPOINT_URL_S3.",
        )
    return Path(storage_path).absolute()


def locate_sweep(storage: Path | Bucket, name: str) -> SweepStorage:
    """The storage of one sweep."""
    if isinstance(storage, Path):
        return FolderStorage(storage / name)
    from suite import data

    bucket = storage / name
    return BucketStorage(
        bucket, bucket.working_folder(data.cache_folder()) / name, data.cache_folder
    )


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one around it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def check_writable(storage: Path) -> None:
    """Whether the sweep's folder can be made and written to, tried where it would be and undone."""
    try:
        with tempfile.NamedTemporaryFile(dir=nearest_existing(storage), prefix=".suite-"):
            pass
    except OSError as error:
        raise EnvironmentProblem(
            f"the folder for results must be writable, got {storage}: {error.strerror}",
            remedy="Name another one with --storage-path.",
        ) from error
