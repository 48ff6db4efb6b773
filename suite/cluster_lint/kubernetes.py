"""KubeRay's RayJob: the rules of cluster files for Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from suite.cluster_lint import clouds, images, known, launcher, shapes
from suite.cluster_lint.launcher import Findings, Rule
from suite.cluster_lint.secrets import secrets
from suite.cluster_lint.source import Source, mapping, mappings
from suite.config.yaml_lines import Path_

CLUSTER = ("spec", "rayClusterSpec")
HEAD = (*CLUSTER, "headGroupSpec")
WORKERS = (*CLUSTER, "workerGroupSpecs")
GPU = "nvidia.com/gpu"


def _kind(source: Source) -> Findings:
    if (source.get("apiVersion"), source.get("kind")) != ("ray.io/v1", "RayJob"):
        rule = (
            f"must be a RayJob of ray.io/v1, got {source.get('kind')} of {source.get('apiVersion')}"
        )
        yield source.finding("kind", ("kind",), rule)


def _keys(source: Source) -> Findings:
    yield from launcher.unknown(source, (), known.RAY_JOB, "ray-job-key")


def _entrypoint(source: Source) -> Findings:
    entrypoint = str(source.get("spec", "entrypoint", default=""))
    if _stores_in_a_bucket(source):
        return
    if "--storage-path /" not in entrypoint.replace("=", " "):
        rule = "the entrypoint must name the shared folder with --storage-path"
        remedy = "Write --storage-path and a folder of the volume, or s3://bucket/prefix."
        yield source.finding("storage-path", ("spec", "entrypoint"), rule, remedy)
    elif not any(
        f"--storage-path {path}/" in entrypoint.replace("=", " ") for path in _mounts(source, HEAD)
    ):
        rule = "--storage-path must lie in a volume that the head mounts"
        yield source.finding("storage-path", ("spec", "entrypoint"), rule)


def _stores_in_a_bucket(source: Source) -> bool:
    return "--storage-path s3://" in str(source.get("spec", "entrypoint", default="")).replace(
        "=", " "
    )


def _ends(source: Source) -> Findings:
    if source.get("spec", "shutdownAfterJobFinishes") is not True:
        rule = "shutdownAfterJobFinishes must be true: the cluster costs money after the sweep, too"
        yield source.finding("shutdown", ("spec", "shutdownAfterJobFinishes"), rule)


def _ray_version(source: Source) -> Findings:
    installed, wanted = metadata.version("ray"), source.get(*CLUSTER, "rayVersion")
    if wanted != installed:
        rule = (
            f"rayVersion must be {installed}, as installed here and in the images, got {wanted!r}"
        )
        yield source.finding(
            "ray-version", (*CLUSTER, "rayVersion"), rule, f'Write rayVersion: "{installed}".'
        )


def _images(source: Source) -> Findings:
    for group in _groups(source):
        for path, container in _containers(source, group):
            yield from images.check(source, (*path, "image"), str(container.get("image", "")))


def _token(source: Source) -> Findings:
    mode = source.get(*CLUSTER, "authOptions", "mode")
    if mode != "token":
        rule = (
            "authOptions.mode must be token: without it, every pod of the network runs code "
            f"there, got {mode}"
        )
        yield source.finding(
            "auth-mode", (*CLUSTER, "authOptions"), rule, "Write authOptions: {mode: token}."
        )


def _service(source: Source) -> Findings:
    for path in ((*HEAD, "serviceType"), (*HEAD, "headService", "spec", "type")):
        kind = source.get(*path, default="ClusterIP")
        if kind != "ClusterIP":
            rule = (
                "the head's service must be of type ClusterIP, which the cluster alone can "
                f"reach, got {kind}"
            )
            yield source.finding("service-type", path, rule, "Use `kubectl port-forward`.")
    if source.get(*HEAD, "enableIngress"):
        yield source.finding(
            "service-type", (*HEAD, "enableIngress"), "the head must have no ingress"
        )


def _confined(source: Source) -> Findings:
    """Nothing that makes a container master of its node, or opens its ports there."""
    for group in _groups(source):
        pod = (*group, "template", "spec")
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if source.get(*pod, key):
                rule = f"pods must keep to themselves, got {key}: true"
                remedy = (
                    "Leave it out: every port of Ray's would be open on the node."
                    if key == "hostNetwork"
                    else ""
                )
                yield source.finding("host-network", (*pod, key), rule, remedy)
        for kind in ("containers", "initContainers"):
            for path in source.places(*pod, kind, "*"):
                if source.get(*path, "securityContext", "privileged"):
                    rule = "no container may be master of its node, got privileged: true"
                    yield source.finding(
                        "privileged", (*path, "securityContext", "privileged"), rule
                    )
                for port in source.places(*path, "ports", "*", "hostPort"):
                    rule = (
                        "no port of Ray's may be open on the node, got hostPort: "
                        f"{source.get(*port)}"
                    )
                    yield source.finding("host-network", port, rule, "Use `kubectl port-forward`.")


def _store(source: Source) -> Findings:
    yield from launcher.store(source, _mounts(source, HEAD))


def _head_runs_no_trial(source: Source) -> Findings:
    if str(source.get(*HEAD, "rayStartParams", "num-cpus")) != "0":
        rule = (
            'the head must have num-cpus: "0": a trial that takes its memory would take the '
            "whole cluster down"
        )
        yield source.finding("head-cpu", (*HEAD, "rayStartParams"), rule)
    for path, container in _containers(source, HEAD):
        if GPU in _limits(container):
            rule = "the head needs no GPU: it runs no trial"
            yield source.finding("gpu-on-head", (*path, "resources", "limits", GPU), rule)


def _workers_come_when_asked(source: Source) -> Findings:
    if source.get(*CLUSTER, "enableInTreeAutoscaling") is not True:
        rule = (
            "enableInTreeAutoscaling must be true: workers come when the sweep asks, and go "
            "when idle"
        )
        yield source.finding("autoscaling", CLUSTER, rule)
    for group in _groups(source)[1:]:
        if source.get(*group, "minReplicas", default=0) != 0:
            rule = f"minReplicas must be 0, got {source.get(*group, 'minReplicas')}"
            yield source.finding("min-workers", (*group, "minReplicas"), rule)
        if not source.get(*group, "maxReplicas"):
            yield source.finding(
                "max-workers", group, "maxReplicas must be given: it is what limits the bill"
            )
        yield from clouds.too_many(source, (*group, "maxReplicas"))


def _resources(source: Source) -> Findings:
    """Limits for every container; GPUs, where there are any, under the name that Kubernetes
    gives them.
    """
    for group in _groups(source):
        for path, container in _containers(source, group):
            limits = _limits(container)
            for name in ("cpu", "memory"):
                if name not in limits:
                    rule = f"resources.limits must have {name}: Ray takes it for what the node has"
                    yield source.finding("limits", (*path, "resources"), rule)
            for name in limits:
                if name not in ("cpu", "memory", "ephemeral-storage") and "/" not in name:
                    rule = f"Kubernetes knows no resource {name!r}"
                    where = (*path, "resources", "limits", name)
                    yield source.finding("resource-name", where, rule, f"GPUs are {GPU}.")
            wants = mapping(container, "resources", "requests")
            if GPU in wants and wants[GPU] != limits.get(GPU):
                rule = (
                    f"GPUs are given by limits, got {wants[GPU]} requested and "
                    f"{limits.get(GPU, 'no')} limit"
                )
                yield source.finding("gpu-count", (*path, "resources"), rule)


def _shared_volume(source: Source) -> Findings:
    """One volume that all groups mount at one path, backed by something that many nodes may
    write.
    """
    if _stores_in_a_bucket(source):
        return
    mounted = {group: _mounts(source, group) for group in _groups(source)}
    shared = set.intersection(*(set(mounts) for mounts in mounted.values()))
    for group, mounts in mounted.items():
        if not shared:
            rule = (
                "all groups must mount one volume at one path, this one mounts "
                f"{', '.join(sorted(mounts)) or 'none'}"
            )
            yield source.finding("shared-storage", (*group, "template", "spec", "volumes"), rule)
    for path in sorted(shared):
        sources = {str(sorted(mounts[path].items())) for mounts in mounted.values()}
        kinds = {kind for mounts in mounted.values() for kind in mounts[path]}
        if len(sources) > 1 or kinds & {"emptyDir", "hostPath", "configMap", "ephemeral"}:
            rule = (
                f"{path} must be the same shared volume in all groups, got "
                f"{', '.join(sorted(sources))}"
            )
            yield source.finding("shared-storage", (*HEAD, "template", "spec", "volumes"), rule)


RULES: tuple[Rule, ...] = (
    shapes.of_kubernetes,
    _kind,
    _keys,
    _entrypoint,
    _ends,
    _ray_version,
    _images,
    _token,
    _service,
    _confined,
    _store,
    _head_runs_no_trial,
    _workers_come_when_asked,
    _resources,
    _shared_volume,
    secrets,
)


def _groups(source: Source) -> list[Path_]:
    """Where the head's group and each group of workers stand."""
    return [HEAD, *((*WORKERS, index) for index in range(len(source.items(*WORKERS))))]


def _containers(source: Source, group: Path_) -> Iterator[tuple[Path_, dict[str, Any]]]:
    path = (*group, "template", "spec", "containers")
    for index, container in enumerate(source.items(*path)):
        if isinstance(container, dict):
            yield (*path, index), container


def _limits(container: dict[str, Any]) -> dict[str, Any]:
    return mapping(container, "resources", "limits")


def _mounts(source: Source, group: Path_) -> dict[str, dict[str, Any]]:
    """Path in the first container -> what backs the volume there."""
    volumes = {
        str(each["name"]): {key: value for key, value in each.items() if key != "name"}
        for each in mappings(source.get(*group, "template", "spec", "volumes"))
        if "name" in each
    }
    for _, container in _containers(source, group):
        mounts = mappings(container.get("volumeMounts"))
        return {
            str(each.get("mountPath")): volumes[name]
            for each in mounts
            if (name := str(each.get("name"))) in volumes
        }
    return {}
