"""What kind of value belongs where: mappings, lists, texts, numbers.

Other rules pass over what is of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from suite.cluster_lint import shell
from suite.cluster_lint.source import Finding, Source
from suite.config.yaml_lines import Path_

_KINDS: dict[str, Callable[[Any], bool]] = {
    "a mapping": lambda value: isinstance(value, dict),
    "a list": lambda value: isinstance(value, list),
    "a text": lambda value: isinstance(value, str),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a whole number, quoted or not": lambda value: (
        not isinstance(value, bool) and str(value).isdecimal()
    ),
    "a text or a number": lambda value: (
        isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ),
}
_MAPPING, _LIST, _TEXT, _NUMBER, _QUOTED, _SCALAR = _KINDS

_TYPE: Path_ = ("available_node_types", "*")
_CONFIG: Path_ = (*_TYPE, "node_config")
_OF_RAY: dict[Path_, str] = {
    **dict.fromkeys(
        [("provider",), ("auth",), ("docker",), ("file_mounts",), _TYPE[:1], _TYPE], _MAPPING
    ),
    **dict.fromkeys([(*_TYPE, key) for key in ("resources", "node_config", "docker")], _MAPPING),
    **dict.fromkeys([(key,) for key in ("rsync_exclude", "rsync_filter", *shell.COMMANDS)], _LIST),
    **dict.fromkeys([(key, "*") for key in ("rsync_exclude", *shell.COMMANDS)], _TEXT),
    **dict.fromkeys([(*_TYPE, key) for key in shell.OF_TYPES], _LIST),
    **dict.fromkeys([(*_TYPE, key, "*") for key in shell.OF_TYPES], _TEXT),
    **dict.fromkeys([("docker", f"{kind}run_options") for kind in ("", "head_", "worker_")], _LIST),
    ("max_workers",): _NUMBER,
    **dict.fromkeys([("docker", f"{kind}image") for kind in ("", "head_", "worker_")], _TEXT),
    **dict.fromkeys([("head_node_type",), ("provider", "head_ip")], _TEXT),
    ("provider", "worker_ips"): _LIST,
    ("provider", "worker_ips", "*"): _TEXT,
    (*_CONFIG, "InstanceType"): _TEXT,
    (*_CONFIG, "SecurityGroupIds"): _LIST,
    (*_CONFIG, "SecurityGroupIds", "*"): _TEXT,
    (*_CONFIG, "NetworkInterfaces"): _LIST,
    (*_CONFIG, "NetworkInterfaces", "*"): _MAPPING,
    (*_CONFIG, "NetworkInterfaces", "*", "Groups"): _LIST,
    (*_CONFIG, "IamInstanceProfile"): _MAPPING,
    (*_CONFIG, "MetadataOptions"): _MAPPING,
    (*_CONFIG, "InstanceMarketOptions"): _MAPPING,
    (*_CONFIG, "InstanceMarketOptions", "SpotOptions"): _MAPPING,
    (*_CONFIG, "BlockDeviceMappings"): _LIST,
    (*_CONFIG, "BlockDeviceMappings", "*"): _MAPPING,
    (*_CONFIG, "BlockDeviceMappings", "*", "Ebs"): _MAPPING,
    (*_CONFIG, "BlockDeviceMappings", "*", "Ebs", "VolumeSize"): _NUMBER,
    (*_CONFIG, "machineType"): _TEXT,
    (*_CONFIG, "serviceAccounts"): _LIST,
    (*_CONFIG, "serviceAccounts", "*"): _MAPPING,
    (*_CONFIG, "networkInterfaces"): _LIST,
    (*_CONFIG, "networkInterfaces", "*"): _MAPPING,
    (*_CONFIG, "scheduling"): _MAPPING,
    (*_CONFIG, "disks"): _LIST,
    (*_CONFIG, "disks", "*"): _MAPPING,
    (*_CONFIG, "disks", "*", "initializeParams"): _MAPPING,
    (*_CONFIG, "disks", "*", "initializeParams", "diskSizeGb"): _QUOTED,
}

_CLUSTER: Path_ = ("spec", "rayClusterSpec")


def _group(path: Path_) -> dict[Path_, str]:
    pod = (*path, "template", "spec")
    container = (*pod, "containers", "*")
    return {
        **dict.fromkeys(
            [path, (*path, "rayStartParams"), (*path, "template"), pod, container], _MAPPING
        ),
        **dict.fromkeys(
            [(*pod, "containers"), (*pod, "volumes"), (*container, "volumeMounts")], _LIST
        ),
        **dict.fromkeys([(*pod, "volumes", "*"), (*container, "volumeMounts", "*")], _MAPPING),
        **dict.fromkeys([(*container, "env"), (*container, "ports")], _LIST),
        **dict.fromkeys([(*container, "env", "*"), (*container, "ports", "*")], _MAPPING),
        **dict.fromkeys([(*container, key) for key in ("resources", "securityContext")], _MAPPING),
        **dict.fromkeys(
            [(*container, "resources", key) for key in ("limits", "requests")], _MAPPING
        ),
        (*container, "resources", "*", "*"): _SCALAR,
        (*container, "image"): _TEXT,
        (*pod, "volumes", "*", "name"): _TEXT,
        (*container, "volumeMounts", "*", "name"): _TEXT,
        (*container, "volumeMounts", "*", "mountPath"): _TEXT,
        **dict.fromkeys(
            [(*path, key) for key in ("replicas", "minReplicas", "maxReplicas")], _NUMBER
        ),
        (*path, "rayStartParams", "*"): _TEXT,
    }


_OF_KUBERNETES: dict[Path_, str] = {
    **dict.fromkeys(
        [("spec",), _CLUSTER, (*_CLUSTER, "authOptions"), (*_CLUSTER, "autoscalerOptions")],
        _MAPPING,
    ),
    **dict.fromkeys(
        [("spec", "entrypoint"), ("spec", "submissionMode"), (*_CLUSTER, "rayVersion")], _TEXT
    ),
    ("spec", "backoffLimit"): _NUMBER,
    ("spec", "ttlSecondsAfterFinished"): _NUMBER,
    (*_CLUSTER, "workerGroupSpecs"): _LIST,
    **_group((*_CLUSTER, "headGroupSpec")),
    **_group((*_CLUSTER, "workerGroupSpecs", "*")),
}


def of_ray(source: Source) -> Iterator[Finding]:
    """What is of a wrong kind in a file for ``ray up``."""
    yield from _wrong(source, _OF_RAY)


def of_kubernetes(source: Source) -> Iterator[Finding]:
    """What is of a wrong kind in a RayJob."""
    yield from _wrong(source, _OF_KUBERNETES)


def _wrong(source: Source, shapes: dict[Path_, str]) -> Iterator[Finding]:
    """Null counts as left out.

    A text is said in place of a number only: elsewhere it may be a secret.
    """
    wrong: set[Path_] = set()
    for pattern, kind in sorted(shapes.items(), key=lambda each: len(each[0])):
        for path in source.places(*pattern):
            value = source.get(*path)
            if any(path[:length] in wrong for length in range(len(path))):
                continue  # what is around it has been said
            if value is not None and not _KINDS[kind](value):
                wrong.add(path)
                key = next((part for part in reversed(path) if isinstance(part, str)), "")
                name = f"each of {key}" if isinstance(path[-1], int) else str(path[-1])
                yield source.finding(
                    "kind-of-value", path, f"{name} must be {kind}, got {_said(value, kind)}"
                )


def _said(value: Any, kind: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)) or (kind in (_NUMBER, _QUOTED) and isinstance(value, str)):
        return repr(value)[:40]
    return next(name for name in (_MAPPING, _LIST, _TEXT) if _KINDS[name](value))
