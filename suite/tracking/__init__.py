"""The sweep's journal, projected into MLflow; and runs read back from there. The only importer of mlflow.

::

    journal entry -> Sender (a thread: order, retries, cursor) -> Projection.apply -> MlflowStore | MemoryStore
    reports, replay, weights <- read, find_run, download, resolve_weights

Everything in the store can be made again from the journal, so a server that is away costs nothing: the sender goes
on from where it was, and sending an entry twice changes nothing. See ``projection`` for what each entry becomes.
mlflow takes seconds to import; nothing here imports it before it is needed (``warm`` does so on a thread).
"""

from suite.tracking.cursor import read_cursor
from suite.tracking.images import log_images, read_images
from suite.tracking.looks import looks_of, search_seed_of
from suite.tracking.memory_store import MemoryStore
from suite.tracking.mlflow_store import MlflowStore
from suite.tracking.port import (
    EntryRejected,
    RunMissing,
    SweepRuns,
    Tracker,
    TrackingUnavailable,
    TrialRun,
)
from suite.tracking.projection import Projection
from suite.tracking.publishing import publish_report
from suite.tracking.reading import download, find_run, read, resolve_weights
from suite.tracking.registry import warm_export
from suite.tracking.sender import Sender
from suite.tracking.uri import default_artifacts, default_uri, exists, warm

__all__ = [
    "EntryRejected",
    "MemoryStore",
    "MlflowStore",
    "Projection",
    "RunMissing",
    "Sender",
    "SweepRuns",
    "Tracker",
    "TrackingUnavailable",
    "TrialRun",
    "default_artifacts",
    "default_uri",
    "download",
    "exists",
    "find_run",
    "log_images",
    "looks_of",
    "publish_report",
    "read",
    "read_cursor",
    "read_images",
    "resolve_weights",
    "search_seed_of",
    "warm",
    "warm_export",
]
