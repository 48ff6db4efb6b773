"""The tags, params and data set of a run, from journal entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.core.records import Status
from suite.core.redaction import redacted
from suite.storage.journal import Entry
from suite.tracking.text import MAX_PARAM_LENGTH, as_json, as_text, cut, safe_key

KIND, JOURNAL, HOME = "suite.kind", "suite.journal", "suite.home"
SEQ, BORN, MADE = "suite.seq", "suite.born", "suite.made"
TRIAL, ARM, SEED, STATUS, REASON = (
    "suite.trial",
    "suite.arm",
    "suite.seed",
    "suite.status",
    "suite.reason",
)
IN_PLAN, BASELINE, CHAMPION, ORDER = (
    "suite.in_plan",
    "suite.baseline",
    "suite.champion",
    "suite.order",
)
PLANNED = "suite.planned"
IMAGES = "suite.images."  # and the key of the series: digest of what the run shows
PARENT = "mlflow.parentRunId"
BEST_VALUE = "best/value"
BEST_CHECKPOINT = "checkpoints/best.pt"
RUN_STATUS = {
    Status.RUNNING: "RUNNING",
    Status.FINISHED: "FINISHED",
    Status.STOPPED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.INTERRUPTED: "KILLED",
}


def launch_tags(entry: Entry) -> dict[str, str]:
    """The tags of a ``launch`` entry that the parent and each trial carry."""
    environment = entry.get("environment") or {}
    git = environment.get("git") or {}
    data = entry.get("data") or {}
    values = {
        "suite.version": environment.get("suite"),
        "suite.numerics": entry.get("numerics"),
        "suite.data_digest": data.get("digest") if isinstance(data, Mapping) else None,
        "suite.classes": data.get("classes") if isinstance(data, Mapping) else None,
        "mlflow.user": environment.get("user"),
        "mlflow.source.name": entry.get("file"),
        "suite.command": entry.get("command"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit") if isinstance(git, Mapping) else git,
    }
    return {name: redacted(as_text(value)) for name, value in values.items() if value}


def trial_tags(entry: Entry, launch: Mapping[str, str]) -> dict[str, str]:
    """The tags of a ``trial`` entry's run; ``launch``: the tags of its launch."""
    tags = {
        ARM: entry["arm"],
        SEED: as_text(entry["seed"]),
        "suite.signature": entry["id"],
        ORDER: str(entry["seq"]),
        "suite.settings": as_text(entry.get("settings") or {}),
        IN_PLAN: "true",
        **launch,
    }
    digests = entry.get("digests") or {}
    if digests.get("data"):
        tags["suite.data_digest"] = str(digests["data"])
    if digests.get("weights"):
        tags["suite.weights_digest"] = str(digests["weights"])
    if entry.get("numerics"):
        tags["suite.numerics"] = as_text(entry["numerics"])
    if entry.get("objective"):
        tags["suite.objective"] = as_text(entry["objective"])
    if entry.get("baseline") is not None:
        tags[BASELINE] = as_text(bool(entry["baseline"]))
    return tags


def describe_dataset(entry: Entry) -> dict[str, str] | None:
    """The data set of a ``trial`` entry in MLflow's terms, from its config and digest alone."""
    data = (entry.get("config") or {}).get("data") or {}
    digest = (entry.get("digests") or {}).get("data")
    if not data or not digest:
        return None
    source = {"uri": str(data.get("root") or data.get("name"))}
    source |= {
        name: data[name]
        for name in ("name", "image_size", "split_seed")
        if data.get(name) is not None
    }
    return {
        "name": cut(str(data.get("name", "data")), MAX_PARAM_LENGTH),
        "digest": str(digest)[
            :36
        ],  # MLflow takes no more; the whole one is in the tag suite.data_digest
        "source": as_json(source),
        "source_type": "local",
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as MLflow's params: dotted keys, short values."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{key}.")
        else:
            flat[safe_key(key)] = cut(
                as_text(value), MAX_PARAM_LENGTH, "... (cut; see config.yaml)"
            )
    return flat
