"""Try an object store out: reading, writing, listing, deleting and conditional creation."""

from __future__ import annotations

import os
import time

from suite.core.errors import EnvironmentProblem
from suite.storage.bucket import Bucket


def check(bucket: Bucket) -> None:
    """Write, read and remove an object.

    Raises:
        EnvironmentProblem: the store cannot be used; says why.
    """
    name = f".check-{os.getpid()}-{time.time_ns()}"
    remedy = (
        "Make the bucket, and let this machine read, write, list and delete below it: "
        "AWS_PROFILE, "
        "AWS_ACCESS_KEY_ID or an instance profile; AWS_ENDPOINT_URL_S3 for a store that is "
        "not Amazon's."
    )
    try:
        same = (
            bucket.put_new(name, b"it")
            and not bucket.put_new(name, b"another")
            and bucket.get(name) == b"it"
        )
        bucket.names(name)
        bucket.remove(name)
    except OSError as error:
        raise EnvironmentProblem(
            f"{bucket.address} cannot be used: {error.strerror}", remedy=remedy
        ) from error
    if not same:
        raise EnvironmentProblem(
            f"{bucket.address} cannot be used: it puts an object although there is one of that "
            "name",
            remedy="The store must know conditional writes (If-None-Match: *), as Amazon's, "
            "MinIO and R2 do.",
        )
