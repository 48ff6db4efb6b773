"""What ``ray up`` reads for AWS and Google Cloud: rules about money, and about what a cloud
would open to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from suite.cluster_lint import images, known, shell
from suite.cluster_lint.launcher import Findings, Rule, unknown
from suite.cluster_lint.source import Source, mapping, mappings
from suite.config.yaml_lines import Path_

MOST_WORKERS = 1000
LEAST_DISK_GB = 100  # the clouds' machine images with drivers and docker take over half of it
_GPU_TYPES = re.compile(
    r"(p\d|g\d|gr\d)\w*\.|(a2|a3|a4|g2|g4)-"
)  # EC2's P and G families; Compute Engine's A and G
_WHERE = "(central|north|south|(north|south)?(east|west))"
_REGIONS = {  # by their parts, so that a region which opens tomorrow is one
    "aws": "(af|ap|ca|cn|eu|eu-isoe|eusc-de|il|me|mx|sa|us|us-gov|us-iso[a-z]?)"
    rf"-{_WHERE}-\d{{1,2}}",
    "gcp": rf"(africa|asia|australia|europe|me|northamerica|southamerica|us)-{_WHERE}\d{{1,2}}",
}
_SPOT_HEAD = "the head must not be a spot instance: with it, the whole cluster goes"

# ---- clouds --------------------------------------------------------------------------------------


def _images(source: Source) -> Findings:
    wanted = [key for key in ("image", "head_image", "worker_image") if source.has("docker", key)]
    for key in wanted:
        yield from images.check(source, ("docker", key), str(source.get("docker", key)))
    for name in source.mapping("available_node_types"):
        path = ("available_node_types", name, "docker", "worker_image")
        if source.has(*path):
            yield from images.check(source, path, str(source.get(*path)))
    if not wanted:
        rule = "docker must name an image: nodes need the same Ray and Python as this machine"
        yield source.finding("image-missing", ("docker",), rule, "See docker in cluster.yaml.")


def _commands_of_images(source: Source) -> Findings:
    """Ray's images have wget and no curl; ``initialization_commands`` run on the machine itself."""
    images_named = [
        str(value) for key, value in source.mapping("docker").items() if key.endswith("image")
    ]
    lines = [
        (path, text)
        for path, text in shell.commands(source)
        if "initialization_commands" not in path
    ]
    if any(re.search(r"\binstall\b[^;&|]*\bcurl\b", text) for _, text in lines):
        return
    for path, text in lines:
        if re.search(r"(?<![\w/.-])curl\s", text) and any(
            name.startswith("rayproject/") for name in images_named
        ):
            rule = "Ray's images have no curl"
            yield source.finding(
                "no-curl",
                path,
                rule,
                "Take python's urllib.request, as cluster.yaml does, or wget.",
            )


def _idle_timeout(source: Source) -> Findings:
    minutes = source.get("idle_timeout_minutes")
    if not isinstance(minutes, (int, float)) or not 0 < minutes <= 60:
        rule = (
            "idle_timeout_minutes must be above 0 and at most 60: idle workers cost money, "
            f"got {minutes}"
        )
        yield source.finding(
            "idle-timeout", ("idle_timeout_minutes",), rule, "10 is enough between trials."
        )


def _limit(source: Source) -> Findings:
    if not source.has("max_workers"):
        rule = "max_workers must be given: it is what limits the bill"
        yield source.finding("max-workers", ("max_workers",), rule)


def _absurd_limit(source: Source) -> Findings:
    for path in (
        ("max_workers",),
        *(("available_node_types", name, "max_workers") for name, _ in _types(source)),
    ):
        yield from too_many(source, path)


def too_many(source: Source, path: Path_) -> Findings:
    """A limit that limits no bill."""
    limit = source.get(*path)
    if isinstance(limit, int) and limit > MOST_WORKERS:
        cost = f"at 50 cents an hour each that is {limit / 2:,.0f} dollars an hour"
        rule = f"at most {MOST_WORKERS} workers, got {limit}: {cost}"
        yield source.finding("max-workers", path, rule, "Write what you would pay for.")


def _autoscaling(source: Source) -> Findings:
    for path, text in shell.starts(source):
        if path[0] == "head_start_ray_commands" and "--autoscaling-config" not in text:
            rule = (
                "the head's `ray start` must have --autoscaling-config: without it, no worker "
                "ever starts"
            )
            remedy = "Write --autoscaling-config=~/ray_bootstrap_config.yaml."
            yield source.finding("autoscaling", path, rule, remedy)


def _region(source: Source) -> Findings:
    """One region throughout: elsewhere the zone is not found, and the file system is not
    reached.
    """
    region, zones = (
        str(source.get("provider", "region")),
        source.get("provider", "availability_zone", default=""),
    )
    for zone in str(zones).split(","):
        if zone.strip() and not re.fullmatch(rf"{re.escape(region)}-?[a-z].*", zone.strip()):
            rule = f"the zone must lie in the region, {region}, got {zone.strip()}"
            yield source.finding("region", ("provider", "availability_zone"), rule)
    for path, text in source.texts():
        for other in re.findall(
            r"\bfs-\w+\.efs\.([\w-]+)\.amazonaws|\bregions/([\w-]+)/subnetworks/", text
        ):
            if "".join(other) != region:
                rule = (
                    f"what the nodes use must lie in their region, {region}, got {''.join(other)}"
                )
                yield source.finding("region", path, rule)


def _spelling_of_region(source: Source) -> Findings:
    region, cloud = str(source.get("provider", "region")), str(source.get("provider", "type"))
    if (
        source.has("provider", "region")
        and cloud in _REGIONS
        and not re.fullmatch(_REGIONS[cloud], region)
    ):
        rule = f"provider.region must be a region of the cloud, got {region}"
        example = {"aws": "eu-central-1", "gcp": "europe-west4"}[cloud]
        yield source.finding(
            "region", ("provider", "region"), rule, f"They are written as {example}."
        )


def _stopped_nodes(source: Source) -> Findings:
    if source.get("provider", "cache_stopped_nodes") is not False:
        rule = "provider.cache_stopped_nodes must be false: stopped machines still cost their disks"
        yield source.finding("stopped-nodes", ("provider", "cache_stopped_nodes"), rule)


def _head_runs_no_trial(source: Source) -> Findings:
    path = ("available_node_types", _head(source), "resources")
    if source.has(*path) and source.get(*path, "CPU") != 0:
        rule = (
            "the head must have CPU: 0: a trial that takes its memory would take the whole "
            "cluster down"
        )
        yield source.finding("head-cpu", path, rule, "Write resources: {CPU: 0}.")


def _workers_come_when_asked(source: Source) -> Findings:
    for name, node in _workers(source):
        if node.get("min_workers", 0) != 0:
            rule = (
                "min_workers must be 0: others are paid for while nothing runs, got "
                f"{node['min_workers']}"
            )
            yield source.finding("min-workers", ("available_node_types", name, "min_workers"), rule)


def _resources(source: Source) -> Findings:
    for name, node in _types(source):
        path = ("available_node_types", name, "resources")
        resources = mapping(node, "resources")
        for key in resources:
            if key not in ("CPU", "GPU") and key.upper() in ("CPU", "GPU"):
                rule = (
                    f"Ray knows {key.upper()} in capitals only, got {key}: no trial would ever "
                    "wait for such a node"
                )
                yield source.finding("resource-name", (*path, key), rule)
        kind = _machine(node)
        if name == _head(source) or any(key.upper() == "GPU" and key != "GPU" for key in resources):
            continue
        if _has_gpu(node) and not resources.get("GPU"):
            rule = f"{kind or 'this type'} has GPUs, so resources must say how many"
            yield source.finding("gpu-count", path, rule, "Write e.g. resources: {CPU: 8, GPU: 1}.")
        if kind and not _has_gpu(node) and resources.get("GPU"):
            rule = f"{kind} has no GPU, got GPU: {resources['GPU']}: trials would fail there"
            yield source.finding("gpu-count", (*path, "GPU"), rule)
        if resources.get("GPU") and not _gpu_image(source, node):
            rule = "workers with GPUs need an image with CUDA"
            remedy = "Take the same tag with -gpu at its end as docker.worker_image."
            yield source.finding("gpu-image", ("docker", "worker_image"), rule, remedy)


def _node_config_keys(source: Source) -> Findings:
    names = known.node_config(source.get("provider", "type"))
    if names is not None:
        for name, _ in _types(source):
            yield from unknown(
                source, ("available_node_types", name, "node_config"), names, "node-config-key"
            )


def _spot_workers_only(source: Source) -> Findings:
    head = _head(source)
    config = source.mapping("available_node_types", head, "node_config")
    path: Path_ = ("available_node_types", head, "node_config")
    if "InstanceMarketOptions" in config:
        yield source.finding(
            "spot-head", (*path, "InstanceMarketOptions"), _SPOT_HEAD, "Keep spot for the workers."
        )
    if re.search(r"SPOT|'preemptible': True", str(config.get("scheduling"))):
        yield source.finding(
            "spot-head", (*path, "scheduling"), _SPOT_HEAD, "Keep spot for the workers."
        )


# ---- AWS -----------------------------------------------------------------------------------------


def _security_group(source: Source) -> Findings:
    for name, config in _node_configs(source):
        path = ("available_node_types", name, "node_config")
        cards = mappings(config.get("NetworkInterfaces"))
        if not config.get("SecurityGroupIds") and not cards:
            rule = "SecurityGroupIds must name a group of your own: Ray's opens ssh to everybody"
            yield source.finding("security-group", path, rule)
        yield from _group_ids(source, (*path, "SecurityGroupIds"))
        for index, card in enumerate(cards):
            here = (*path, "NetworkInterfaces", index)
            if not card.get("Groups") and not card.get("NetworkInterfaceId"):
                rule = (
                    "a network interface must name a group of your own under Groups: the "
                    "network's own may be open"
                )
                yield source.finding("security-group", here, rule)
            yield from _group_ids(source, (*here, "Groups"))
    if source.has("provider", "security_group"):
        rule = (
            "provider.security_group only adds rules to Ray's own group, which opens ssh to "
            "everybody"
        )
        remedy = "Name a group of your own under SecurityGroupIds."
        yield source.finding("security-group", ("provider", "security_group"), rule, remedy)


def _group_ids(source: Source, path: Path_) -> Findings:
    for index, group in enumerate(source.items(*path)):
        if isinstance(group, str) and not re.match(r"sg-", group):
            rule = f"security groups are named by their ids, sg-..., got {group}"
            yield source.finding("security-group", (*path, index), rule)


def _market(source: Source) -> Findings:
    for name, config in _node_configs(source):
        path = ("available_node_types", name, "node_config", "InstanceMarketOptions")
        market = mapping(config, "InstanceMarketOptions")
        if market and market.get("MarketType") not in ("spot", "capacity-block"):
            rule = f"MarketType must be spot or capacity-block, got {market.get('MarketType')}"
            yield source.finding(
                "market",
                (*path, "MarketType"),
                rule,
                "Leave InstanceMarketOptions out for on demand.",
            )
        if mapping(market, "SpotOptions").get("SpotInstanceType") == "persistent":
            rule = (
                "a spot request must be one-time, got persistent: AWS starts such machines "
                "again after `ray down`"
            )
            yield source.finding("market", (*path, "SpotOptions", "SpotInstanceType"), rule)


def _instance_profile(source: Source) -> Findings:
    path = ("available_node_types", _head(source), "node_config")
    profile = source.mapping(*path, "IamInstanceProfile")
    if source.has(*path) and (not profile or "ray-autoscaler-v1" in str(profile)):
        rule = (
            "the head's IamInstanceProfile must be one of your own: Ray's may do anything in "
            "EC2 and S3"
        )
        yield source.finding(
            "instance-profile", path, rule, "docs/how-to/cluster.md has one that is enough."
        )


def _metadata_service(source: Source) -> Findings:
    for name, config in _node_configs(source):
        options = config.get("MetadataOptions")
        if not isinstance(options, dict) or options.get("HttpTokens") != "required":
            rule = "the instance's credentials must be asked for with a token (IMDSv2)"
            path = ("available_node_types", name, "node_config", "MetadataOptions")
            yield source.finding(
                "imds", path, rule, "Write MetadataOptions: {HttpTokens: required}."
            )


def _aws_disk(source: Source) -> Findings:
    for name, config in _node_configs(source):
        sizes = [
            mapping(each, "Ebs").get("VolumeSize")
            for each in mappings(config.get("BlockDeviceMappings"))
        ]
        yield from _disk(source, name, "BlockDeviceMappings", sizes, "Ebs: {VolumeSize: 150}")


# ---- Google Cloud --------------------------------------------------------------------------------


def _service_account(source: Source) -> Findings:
    path = ("available_node_types", _head(source), "node_config")
    accounts = mappings(source.get(*path, "serviceAccounts"))
    emails = [str(each.get("email")) for each in accounts]
    if any(
        email == "default" or email.endswith("compute@developer.gserviceaccount.com")
        for email in emails
    ):
        rule = (
            "the head's serviceAccounts must name one of your own: the default one may change "
            "almost anything"
        )
        yield source.finding("service-account", (*path, "serviceAccounts"), rule)
    elif source.has(*path) and not accounts:
        rule = (
            "the head's serviceAccounts must name one of your own: Ray makes one that may do "
            "almost anything"
        )
        yield source.finding("service-account", path, rule)


def _network(source: Source) -> Findings:
    for name, config in _node_configs(source):
        networks = [
            str(each["subnetwork"])
            for each in mappings(config.get("networkInterfaces"))
            if "subnetwork" in each
        ]
        if not networks or any(each.endswith("/default") for each in networks):
            path = ("available_node_types", name, "node_config", "networkInterfaces")
            rule = (
                "networkInterfaces must name a subnetwork of your own: the default network "
                "opens ssh to everybody"
            )
            yield source.finding("network", path, rule)


def _gcp_disk(source: Source) -> Findings:
    for name, config in _node_configs(source):
        sizes = [
            mapping(each, "initializeParams").get("diskSizeGb")
            for each in mappings(config.get("disks"))
        ]
        yield from _disk(source, name, "disks", sizes, "initializeParams: {diskSizeGb: 150}")


CLOUD: tuple[Rule, ...] = (
    _images,
    _commands_of_images,
    _idle_timeout,
    _limit,
    _absurd_limit,
    _autoscaling,
    _region,
    _spelling_of_region,
    _stopped_nodes,
    _head_runs_no_trial,
    _workers_come_when_asked,
    _resources,
    _node_config_keys,
    _spot_workers_only,
)
AWS: tuple[Rule, ...] = (_security_group, _market, _instance_profile, _metadata_service, _aws_disk)
GCP: tuple[Rule, ...] = (_service_account, _network, _gcp_disk)


# ---- what the rules ask of a file ----------------------------------------------------------------


def _types(source: Source) -> list[tuple[str, dict[str, Any]]]:
    found = source.mapping("available_node_types")
    return [(name, node) for name, node in found.items() if isinstance(node, dict)]


def _workers(source: Source) -> list[tuple[str, dict[str, Any]]]:
    return [(name, node) for name, node in _types(source) if name != _head(source)]


def _node_configs(source: Source) -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, node["node_config"])
        for name, node in _types(source)
        if isinstance(node.get("node_config"), dict)
    ]


def _head(source: Source) -> str:
    return str(source.get("head_node_type"))


def _machine(node: Mapping[str, Any]) -> str:
    config = mapping(node, "node_config")
    return str(config.get("InstanceType") or config.get("machineType") or "")


def _has_gpu(node: Mapping[str, Any]) -> bool:
    config = mapping(node, "node_config")
    return bool(_GPU_TYPES.match(_machine(node)) or config.get("guestAccelerators"))


def _gpu_image(source: Source, node: Mapping[str, Any]) -> bool:
    """Whether a worker's image has CUDA, as far as its name tells: images of one's own may have
    it under any name.
    """
    docker = source.mapping("docker")
    image = str(
        mapping(node, "docker").get("worker_image")
        or docker.get("worker_image")
        or docker.get("image")
    )
    return not image.startswith("rayproject/") or bool(re.search(r"-(gpu|cu\d+)", image))


def _disk(source: Source, name: str, key: str, sizes: list[Any], example: str) -> Findings:
    """Sizes that are no numbers are told by what they are."""
    path = ("available_node_types", name, "node_config", key)
    known_sizes = [int(size) for size in sizes if str(size).isdecimal()]
    if len(known_sizes) < len([size for size in sizes if size is not None]) or not isinstance(
        source.get(*path, default=[]), list
    ):
        return
    if (size := max(known_sizes, default=0)) < LEAST_DISK_GB:
        rule = (
            f"a node's disk must have {LEAST_DISK_GB} GB for its images and kept features, got "
            f"{size or 'no size'}"
        )
        yield source.finding("disk-size", path, rule, f"Write e.g. {example}.")
