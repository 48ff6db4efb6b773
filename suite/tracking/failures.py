"""MLflow's errors as the port's: try later, never, or create the run again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from suite.core.errors import brief
from suite.tracking.port import EntryRejected, Run, RunMissing, TrackingUnavailable

_NEVER = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "MALFORMED_REQUEST")
_NEVER_ERRNO = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def translated(run: Run | None = None) -> Iterator[None]:
    """Raise MLflow's errors about ``run`` (None = not about one run) as the port's."""
    try:
        yield
    except (TrackingUnavailable, RunMissing, EntryRejected, FileNotFoundError):
        raise
    except Exception as error:
        raise _translate(error, run) from error


def _translate(error: Exception, run: Run | None) -> Exception:
    text = brief(error)
    code = getattr(error, "error_code", None)
    if "must be in the 'active' state" in str(error) or code == "RESOURCE_DOES_NOT_EXIST":
        # Deleted by somebody. Without a run it is the experiment, which the next try restores.
        return RunMissing(run.trial) if run else TrackingUnavailable(text)
    if code is not None:  # an MlflowException; RestException too
        return EntryRejected(text) if code in _NEVER else TrackingUnavailable(text)
    if isinstance(error, OSError):  # of files, or of requests: then without an errno
        return EntryRejected(text) if error.errno in _NEVER_ERRNO else TrackingUnavailable(text)
    # While the store is being opened, MLflow lets the database's errors through.
    if type(error).__module__.startswith(("sqlalchemy", "sqlite3")):
        return TrackingUnavailable(text)
    return EntryRejected(f"{type(error).__name__}: {text}")
