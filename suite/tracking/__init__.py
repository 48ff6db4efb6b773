"""The journal becomes runs in MLflow, and runs are read back. The only package that imports mlflow.

::

    journal entry -> Sender (order, retries, cursor) -> Projection -> MlflowStore | MemoryStore
    reports, replay, weights <- read, find_run, download, resolve_weights

The store can be rebuilt from the journal, and applying an entry twice changes nothing. So nothing
is lost while a server is down: the sender resumes where it stopped. ``projection`` lists what each
entry becomes. mlflow takes seconds to import, so it is imported on first use (or by ``warm``).
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
