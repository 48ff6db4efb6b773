"""The shipped cluster files are fit to be used once filled in, and each thing that may go wrong
with one is found.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from suite import cluster_lint
from suite.cluster_lint import known

REPO = Path(__file__).parent.parent
FILES = ("cluster.yaml", "cluster-gcp.yaml", "cluster-local.yaml", "kuberay.yaml")


def filled(name: str) -> str:
    """A shipped file with something sensible in place of each REPLACE."""
    text = (REPO / name).read_text()
    text = text.replace("sg-REPLACE", "sg-0123456789abcdef0").replace(
        "fs-REPLACE", "fs-0123456789abcdef0"
    )
    text = text.replace("head_ip: REPLACE", "head_ip: 10.9.0.2").replace(
        "[REPLACE]", "[10.9.0.3, 10.9.0.4]"
    )
    return text.replace("REPLACE", "example")


def examine(folder: Path, text: str, name: str = "cluster.yaml") -> list[str]:
    file = folder / name
    file.write_text(text)
    return [str(problem).replace(f"{folder}/", "") for problem in cluster_lint.examine(file)]


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_clean_once_it_is_filled_in(name: str, tmp_path: Path) -> None:
    assert examine(tmp_path, filled(name)) == []


@pytest.mark.parametrize("name", FILES)
def test_each_replace_is_found_where_it_is_written(name: str) -> None:
    lines = (REPO / name).read_text().splitlines()
    expected = [
        number
        for number, line in enumerate(lines, start=1)
        for _ in re.findall(
            r"\S*REPLACE\S*", line.partition(" #")[0] if not line.startswith("#") else ""
        )
    ]
    found = [str(problem) for problem in cluster_lint.examine(REPO / name)]
    assert [int(text.split(":")[1]) for text in found] == expected
    assert all("[replace]" in text for text in found)


def without(pattern: str) -> Callable[[str], str]:
    """Drop the lines that match."""
    return lambda text: "".join(
        line for line in text.splitlines(True) if not re.search(pattern, line)
    )


def swap(old: str, new: str, nth: int = 1) -> Callable[[str], str]:
    """Put ``new`` in place of the nth ``old``, which must be there."""

    def change(text: str) -> str:
        parts = text.split(old)
        assert len(parts) > nth, f"{old!r} is not there {nth} times"
        return old.join(parts[:nth]) + new + old.join(parts[nth:])

    return change


def everywhere(old: str, new: str) -> Callable[[str], str]:
    """Put ``new`` in place of every ``old``."""
    return lambda text: text.replace(old, new)


def before(line: str, new: str) -> Callable[[str], str]:
    """Add a line in front of the first one that begins so, as far in."""
    return lambda text: re.sub(
        rf"(?m)^( *){re.escape(line)}", lambda found: f"{found[1]}{new}\n{found[0]}", text, count=1
    )


def command(text: str) -> Callable[[str], str]:
    """Add a command to those that set nodes up."""
    return before("- chmod 600", f"- {text}")


def added(line: str) -> Callable[[str], str]:
    """Add a line at the end."""
    return lambda text: text + line + "\n"


AWS, GCP, LOCAL, K8S = FILES
HEAD_START, WORKER_START = (
    "RAY_AUTH_MODE=token ray start --head",
    "RAY_AUTH_MODE=token ray start --address",
)
OPEN_GROUP = "security_group: {IpPermissions: [{CidrIp: 0.0.0.0/0}]}\n  cache_stopped"
OWN_RULES = "security_group: {GroupName: mine}\n  cache_stopped"
SPOT = "InstanceMarketOptions: {MarketType: spot}\n      MetadataOptions"
GCP_SPOT = "n2-standard-4\n      scheduling: {provisioningModel: SPOT}"
ACCESS_KEY = "AKIA" + "ABCDEFGHIJKLMNOP"  # in two parts, so that no scanner takes it for one
GITHUB = "ghp" + "_abcdefghijklmnopqrstuvwxyz0123456789"
CLAIM = "persistentVolumeClaim: {claimName: example}"
MAPPINGS = "BlockDeviceMappings:\n        - DeviceName: /dev/sda1\n          Ebs:"
NO_GROUPS = "NetworkInterfaces: [{DeviceIndex: 0}]\n      MetadataOptions"
WORKER_GROUP = "SecurityGroupIds: [sg-0123456789abcdef0]\n      Meta"
HEAD_LIMITS, WORKER_LIMITS = (
    'limits: {cpu: "4", memory: 16Gi}',
    'limits: {cpu: "8", memory: 32Gi, nvidia.com/gpu: "1"}',
)

# name of the rule, file, what is changed, text on the line that is named, part of the message
MUTATIONS: list[tuple[str, str, Callable[[str], str], str, str]] = [
    ("ray", AWS, swap("max_workers: 4 ", "max_worker: 4 "), "", "max_worker"),
    ("ray", AWS, swap("    min_workers: 0", "    min_worker: 0"), "  gpu:", "min_worker"),
    ("ray", AWS, swap("head_run_options", "head_run_option"), "docker:", "head_run_option"),
    ("ray", AWS, without("container_name"), "", "container & image name"),
    (
        "ray",
        AWS,
        swap("upscaling_speed: 1.0", "upscaling_speed: fast"),
        "upscaling_speed",
        "'fast'",
    ),
    ("ray", AWS, swap("head_node_type: head", "head_node_type: haed"), "", "head_node_type"),
    ("ray", AWS, swap("    min_workers: 0", "    min_workers: 9"), "", "`max_workers` is smaller"),
    ("ray", AWS, added("head_node: {InstanceType: m5.large}"), "", "head_node"),
    ("ray", LOCAL, without("worker_ips"), "", "worker_ips"),
    ("provider", AWS, swap("type: aws", "type: amazon"), "type: amazon", "aws, gcp, local"),
    ("provider-key", AWS, swap("region:", "regionn:"), "regionn", "Did you mean 'region'?"),
    (
        "node-config-key",
        AWS,
        swap("InstanceType: g5", "InstanceTyp: g5"),
        "InstanceTyp:",
        "'InstanceType'?",
    ),
    ("node-config-key", AWS, swap("VolumeType", "VolumType", 2), "VolumType", "'VolumeType'?"),
    ("node-config-key", AWS, swap("MarketType", "MarketTyp"), "MarketTyp", "'MarketType'?"),
    (
        "node-config-key",
        GCP,
        swap("machineType: g2", "machinetype: g2"),
        "machinetype",
        "'machineType'?",
    ),
    ("resource-name", AWS, swap("GPU: 1", "gpu: 1"), "gpu: 1", "GPU in capitals"),
    (
        "gpu-count",
        AWS,
        swap("CPU: 8, GPU: 1", "CPU: 8"),
        "resources: {CPU: 8}",
        "g5.2xlarge has GPUs",
    ),
    ("gpu-count", AWS, swap("g5.2xlarge", "m6i.2xlarge"), "GPU: 1", "m6i.2xlarge has no GPU"),
    (
        "gpu-count",
        GCP,
        swap("CPU: 8, GPU: 1", "CPU: 8"),
        "resources: {CPU: 8}",
        "g2-standard-8 has GPUs",
    ),
    ("gpu-image", AWS, swap("py311-gpu", "py311"), "worker_image", "CUDA"),
    (
        "image-moves",
        AWS,
        swap("ray:2.60.0-py311 ", "ray:latest "),
        "head_image",
        "rayproject/ray:latest",
    ),
    ("image-moves", AWS, swap("ray:2.60.0-py311-gpu", "ray"), "worker_image", "fixed version"),
    ("image-ray", AWS, swap("2.60.0-py311-gpu", "2.59.1-py311-gpu"), "worker_image", "2.59.1"),
    ("image-python", AWS, swap("2.60.0-py311-gpu", "2.60.0-py310-gpu"), "worker_image", "py310"),
    (
        "image-missing",
        AWS,
        without("_image:|container_name|docker:|run_options|- --|- -v"),
        "",
        "must name an image",
    ),
    ("idle-timeout", AWS, without("^idle_timeout"), "", "got None"),
    ("idle-timeout", AWS, swap("minutes: 10", "minutes: 100000"), "idle_timeout", "100000"),
    ("max-workers", AWS, without("^max_workers"), "", "limits the bill"),
    (
        "spot-head",
        AWS,
        swap("MetadataOptions", SPOT),
        "InstanceMarketOptions",
        "whole cluster goes",
    ),
    ("spot-head", GCP, swap("n2-standard-4", GCP_SPOT), "scheduling", "whole cluster goes"),
    ("min-workers", AWS, swap("    min_workers: 0", "    min_workers: 2"), "min_workers", "got 2"),
    ("head-cpu", AWS, swap("{CPU: 0}", "{}"), "resources", "whole cluster down"),
    ("stopped-nodes", AWS, without("cache_stopped"), "provider:", "cost their disks"),
    ("open-network", AWS, swap("cache_stopped", OPEN_GROUP), "0.0.0.0/0", "open to everybody"),
    (
        "security-group",
        AWS,
        without(r"^      SecurityGroupIds.*your own"),
        "node_config",
        "opens ssh",
    ),
    ("security-group", AWS, swap("cache_stopped", OWN_RULES), "security_group", "only adds"),
    ("instance-profile", AWS, without("IamInstanceProfile"), "node_config", "EC2 and S3"),
    (
        "instance-profile",
        AWS,
        swap("{Name: example}", "{Name: ray-autoscaler-v1}"),
        "node_config",
        "EC2 and S3",
    ),
    (
        "imds",
        AWS,
        swap("HttpTokens: required", "HttpTokens: optional", 2),
        "MetadataOptions",
        "IMDSv2",
    ),
    ("disk-size", AWS, swap("VolumeSize: 150", "VolumeSize: 8", 2), "BlockDeviceMappings", "got 8"),
    ("disk-size", GCP, without("diskSizeGb"), "disks:", "no size"),
    (
        "network",
        GCP,
        swap("subnetwork: projects", "network: projects"),
        "networkInterfaces",
        "of your own",
    ),
    (
        "service-account",
        GCP,
        without("serviceAccounts|email:|scopes:"),
        "node_config",
        "of your own",
    ),
    ("token-file", AWS, without("auth_token: ~"), "file_mounts", "get-auth-token"),
    ("token-mode", AWS, without("chmod 600 ~"), "auth_token", "chmod 600"),
    (
        "auth-mode",
        AWS,
        swap(HEAD_START, "ray start --head"),
        "ray start --head",
        "RAY_AUTH_MODE=token",
    ),
    (
        "auth-mode",
        AWS,
        swap(WORKER_START, "ray start --address"),
        "ray start --address",
        "RAY_AUTH_MODE=token",
    ),
    (
        "start-commands",
        AWS,
        without(HEAD_START),
        "head_start_ray_commands",
        "must have a `ray start`",
    ),
    (
        "dashboard",
        AWS,
        swap("dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0"),
        "ray start --head",
        "0.0.0.0",
    ),
    (
        "dashboard",
        AWS,
        swap("--dashboard-host=127.0.0.1 ", ""),
        "ray start --head",
        "Ray's default",
    ),
    ("mlflow-host", AWS, swap("--host 127.0.0.1", "--host 0.0.0.0"), "mlflow server", "0.0.0.0"),
    ("rsync-exclude", AWS, swap("/.git, ", ""), "rsync_exclude", "lacks .git"),
    ("rsync-code", AWS, swap(" /data,", ' "**/data",'), "rsync_exclude", "suite/data"),
    (
        "shared-storage",
        AWS,
        without("mountpoint"),
        "initialization_commands",
        "mount the same folder",
    ),
    (
        "shared-storage",
        AWS,
        without("-v /mnt/suite"),
        "run_options",
        "Add `-v /mnt/suite:/mnt/suite`",
    ),
    (
        "shared-storage",
        AWS,
        swap("-v /mnt/suite:/mnt/suite", "-v /mnt/suite:/data"),
        "run_options",
        "same path",
    ),
    ("shared-storage", LOCAL, without("mountpoint"), "", "mount the same folder"),
    (
        "pinned-packages",
        AWS,
        swap("boto3==1.44.8", "boto3"),
        "install --quiet boto3",
        "boto3 without",
    ),
    ("secret", AWS, swap("ssh_user: ubuntu", f"ssh_user: {ACCESS_KEY}"), "ssh_user", "no secret"),
    (
        "secret",
        AWS,
        command("export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIbPxRfiCYz"),
        "export",
        "AWS_SECRET_ACCESS_KEY",
    ),
    ("secret", AWS, command("HF_TOKEN=abcdef python x.py"), "HF_TOKEN", "HF_TOKEN"),
    (
        "secret",
        AWS,
        command("export MLFLOW_TRACKING_PASSWORD='hunter'"),
        "export",
        "a value for MLFLOW",
    ),
    ("secret", AWS, command("export A_TOKEN=${A_TOKEN:-hunter2}"), "export", "a value for A_TOKEN"),
    (
        "secret",
        AWS,
        before("cache_stopped", "aws_credentials: {aws_access_key_id: a}"),
        "aws_cred",
        "provider.aws_cred",
    ),
    (
        "secret",
        AWS,
        swap("sqlite:////opt/mlflow/mlflow.db", "postgresql://ml:pw@db/ml"),
        "mlflow server",
        "password",
    ),
    ("secret", AWS, command(f"git clone https://{GITHUB}@github.com/me/x"), "git clone", "a token"),
    (
        "secret",
        AWS,
        command("docker login -u me -p hunter registry.example.org"),
        "login",
        "`docker login`",
    ),
    (
        "secret",
        AWS,
        command("aws configure set aws_secret_access_key abcdef"),
        "configure",
        "set aws_secret_access_key",
    ),
    ("secret", AWS, command("curl -fu ann:hunter https://example.org"), "curl", "for curl"),
    (
        "secret",
        AWS,
        before("- --shm", "- -e MLFLOW_TRACKING_PASSWORD=hunter"),
        "- -e",
        "MLFLOW_TRACKING_PASSWORD",
    ),
    ("secret", AWS, before("ssh_user", "password: hunter"), "password:", "a value for password"),
    (
        "secret",
        GCP,
        swap("[{key: install", "[{key: DB_PASSWORD, value: hunter}, {key: install"),
        "DB_",
        "DB_PASSWORD",
    ),
    (
        "secret",
        K8S,
        before("- {name: RAY_JOB", "- {name: DB_PASSWORD, value: hunter}"),
        "hunter",
        "DB_PASSWORD",
    ),
    (
        "secret",
        K8S,
        swap("http://example:5000", "http://ann:hunter@mlflow:5000"),
        "entrypoint",
        "a password",
    ),
    ("secret", K8S, swap("--storage", "--password hunter --storage"), "entrypoint", "--password"),
    ("mlflow-host", AWS, swap("--host 127.0.0.1", "-h 0.0.0.0"), "mlflow server", "0.0.0.0"),
    (
        "mlflow-host",
        AWS,
        swap("--host 127.0.0.1", "--host 127.0.0.1 --host '::'"),
        "mlflow server",
        "::",
    ),
    (
        "mlflow-host",
        AWS,
        swap("mlflow server --host", "MLFLOW_HOST=0.0.0.0 mlflow server --host"),
        "mlflow",
        "MLFLOW_HOST",
    ),
    (
        "mlflow-host",
        AWS,
        command("|\n    mlflow \\\n      ui \\\n      --host 10.0.0.1 &"),
        "- |",
        "10.0.0.1",
    ),
    (
        "mlflow-host",
        AWS,
        before("min_workers", "worker_setup_commands: [mlflow server --host 0.0.0.0 &]"),
        "worker_setup",
        "0.0.0.0",
    ),
    ("open-port", AWS, command("jupyter lab --ip=0.0.0.0 &"), "jupyter", "every address"),
    ("open-port", AWS, command("tensorboard --logdir x --bind_all"), "tensorboard", "--bind_all"),
    ("privileged", AWS, before("- --shm", "- --privileged"), "--privileged", "master"),
    (
        "dashboard",
        AWS,
        swap("--dashboard-host=", "--dashboard-host=127.0.0.1 --dashboard-host=0.0.0.0 --x="),
        "--x",
        "got 0.0",
    ),
    (
        "auth-mode",
        AWS,
        swap(HEAD_START, "RAY_AUTH_MODE=tokens ray start --head"),
        "--head",
        "RAY_AUTH_MODE=tokens",
    ),
    (
        "auth-mode",
        AWS,
        swap(HEAD_START, "echo RAY_AUTH_MODE=token; ray start --head"),
        "--head",
        "in force",
    ),
    (
        "auth-mode",
        AWS,
        swap(HEAD_START, "RAY_AUTH_MODE=token; ray start --head"),
        "--head",
        "in force",
    ),
    (
        "auth-mode",
        AWS,
        swap(HEAD_START, "echo RAY_AUTH_MODE=token ray start && ray start --head"),
        "--head",
        "in force",
    ),
    (
        "security-group",
        AWS,
        swap(WORKER_GROUP, NO_GROUPS + "X: 1\n      Meta"),
        "NetworkInterfaces",
        "under Groups",
    ),
    (
        "security-group",
        AWS,
        swap(WORKER_GROUP, WORKER_GROUP.replace("sg-", "")),
        "SecurityGroupIds",
        "got 0123",
    ),
    (
        "network",
        GCP,
        swap("subnetworks/example", "subnetworks/default"),
        "networkInterfaces",
        "of your own",
    ),
    (
        "service-account",
        GCP,
        swap("example@example.iam.g", "7-compute@developer.g"),
        "serviceAccounts",
        "default",
    ),
    (
        "host-network",
        K8S,
        before("containers:", "hostNetwork: true"),
        "hostNetwork",
        "hostNetwork: true",
    ),
    (
        "host-network",
        K8S,
        before("image: &image", "ports: [{containerPort: 8265, hostPort: 8265}]"),
        "ports",
        "8265",
    ),
    (
        "privileged",
        K8S,
        before("image: &image", "securityContext: {privileged: true}"),
        "securityC",
        "master of its",
    ),
    (
        "service-type",
        K8S,
        before("rayStartP", "headService: {spec: {type: LoadBalancer}}"),
        "headService",
        "LoadBalancer",
    ),
    (
        "max-workers",
        AWS,
        swap("max_workers: 4 ", "max_workers: 4000 "),
        "max_workers: 4000",
        "2,000 dollars",
    ),
    (
        "ray-job-key",
        K8S,
        swap("tolerations:", "toleration:"),
        "toleration:",
        "Did you mean 'tolerations'?",
    ),
    ("ray-job-key", K8S, swap("lifecycle:", "lifecyle:"), "lifecyle", "Did you mean 'lifecycle'?"),
    ("ray-job-key", K8S, swap("requests:", "request:"), "request:", "Did you mean 'requests'?"),
    (
        "max-workers",
        K8S,
        swap("maxReplicas: 4", "maxReplicas: 4000"),
        "maxReplicas",
        "2,000 dollars",
    ),
    ("market", AWS, swap("MarketType: spot", "MarketType: spott"), "spott", "got spott"),
    (
        "market",
        AWS,
        swap(
            "{MarketType: spot}", "{MarketType: spot, SpotOptions: {SpotInstanceType: persistent}}"
        ),
        "persistent",
        "again",
    ),
    (
        "autoscaling",
        AWS,
        swap(" --autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        "--head",
        "no worker ever",
    ),
    (
        "region",
        GCP,
        swap("zone: us-west1-a", "zone: europe-west4-b"),
        "europe-west4-b",
        "in the region, us-west1",
    ),
    ("region", GCP, swap("regions/us-west1", "regions/us-west2"), "us-west2", "got us-west2"),
    (
        "region",
        AWS,
        swap("region: us-west-2", "region: eu-west-1"),
        "efs.us-west-2",
        "got us-west-2",
    ),
    ("region", AWS, everywhere("us-west-2", "us-wset-2"), "region: us-wset-2", "got us-wset-2"),
    ("region", GCP, everywhere("us-west1", "us-west-1"), "region: us-west-1", "got us-west-1"),
    ("ray-version", AWS, command("pip install ray==2.44.0"), "ray==", "2.44.0"),
    ("ray-version", AWS, command("pip install 'ray[tune]==2.44.0'"), "ray[tune]==", "2.44.0"),
    (
        "no-curl",
        AWS,
        command("pip install a==1 && curl -sf https://example.org/x | sh"),
        "curl -sf",
        "have no curl",
    ),
    (
        "store",
        LOCAL,
        swap("sqlite:///mlflow.db", "sqlite:////mnt/suite/mlflow.db"),
        "mlflow server",
        "locks",
    ),
    (
        "store",
        K8S,
        swap("http://example:5000", "sqlite:////mnt/suite/mlflow.db"),
        "entrypoint",
        "locks",
    ),
    ("address", LOCAL, swap("[10.9.0.3, 10.9.0.4]", "[]"), "worker_ips", "got none"),
    ("address", LOCAL, swap("10.9.0.2", "10.9.0.999"), "head_ip", "10.9.0.999"),
    ("address", LOCAL, swap("10.9.0.4", "ann@10.9.0.4"), "worker_ips", "ann@10.9.0.4"),
    ("address", LOCAL, swap("10.9.0.2", "127.0.0.1"), "head_ip", "each one itself"),
    ("kind-of-value", AWS, swap("VolumeSize: 150", 'VolumeSize: "150"'), "VolumeSize", "got '150'"),
    ("kind-of-value", AWS, swap("VolumeSize: 150", "VolumeSize: big"), "VolumeSize", "got 'big'"),
    (
        "kind-of-value",
        AWS,
        swap(MAPPINGS, MAPPINGS.replace("- ", "  ")),
        "BlockDevice",
        "must be a list, got a mapping",
    ),
    (
        "kind-of-value",
        AWS,
        swap(MAPPINGS, "BlockDeviceMappings: [abc]\n      UserData:"),
        "BlockDevice",
        "each of BlockDevice",
    ),
    (
        "kind-of-value",
        AWS,
        swap("{CPU: 8, GPU: 1}", "[CPU, GPU]"),
        "resources",
        "must be a mapping, got a list",
    ),
    (
        "kind-of-value",
        AWS,
        swap(WORKER_GROUP, WORKER_GROUP.translate({91: None, 93: None})),
        "Security",
        "got a text",
    ),
    ("kind-of-value", GCP, swap("diskSizeGb: 150", "diskSizeGb: big"), "diskSizeGb", "got 'big'"),
    (
        "kind-of-value",
        K8S,
        swap("backoffLimit: 3 ", "backoffLimit: three "),
        "backoffLimit",
        "got 'three'",
    ),
    ("", AWS, added("---\na: 1"), "---", "a cluster file is one document"),
    ("address-twice", LOCAL, swap("10.9.0.4", "10.9.0.2"), "worker_ips", "10.9.0.2"),
    ("ssh", LOCAL, without("ssh_private_key"), "auth:", "ssh_private_key"),
    ("head-cpu", LOCAL, swap("--num-cpus=0 ", ""), "ray start --head", "--num-cpus=0"),
    ("", AWS, added("max_workers: 3"), "max_workers: 3", "duplicate key"),
    ("", AWS, swap("provider:", "provider: ["), "", "not YAML"),
    ("", AWS, lambda text: "- a\n", "", "a cluster file is a mapping"),
    ("kind", K8S, swap("kind: RayJob", "kind: RayCluster"), "kind:", "RayCluster"),
    (
        "ray-job-key",
        K8S,
        swap("ttlSecondsAfterFinished", "ttlSecondAfterFinished"),
        "ttlSecondA",
        "Did you mean",
    ),
    ("ray-job-key", K8S, swap("groupName", "groupname"), "groupname", "'groupName'?"),
    ("auth-mode", K8S, swap("mode: token", "mode: disabled"), "authOptions", "got disabled"),
    (
        "shutdown",
        K8S,
        swap("Finishes: true", "Finishes: false"),
        "shutdownAfterJobFinishes",
        "costs money",
    ),
    ("image-moves", K8S, swap("suite:2.60.0-py311 ", "suite:latest "), "image:", "suite:latest"),
    (
        "ray-version",
        K8S,
        swap('rayVersion: "2.60.0"', 'rayVersion: "2.59.0"'),
        "rayVersion",
        "2.59.0",
    ),
    (
        "gpu-on-head",
        K8S,
        swap(HEAD_LIMITS, HEAD_LIMITS[:-1] + ', nvidia.com/gpu: "1"}'),
        "limits",
        "no GPU",
    ),
    (
        "resource-name",
        K8S,
        swap(WORKER_LIMITS, WORKER_LIMITS.replace("nvidia.com/", "")),
        "limits",
        "nvidia.com/gpu",
    ),
    ("gpu-count", K8S, swap(WORKER_LIMITS, HEAD_LIMITS), "resources", "given by limits"),
    ("limits", K8S, swap(HEAD_LIMITS, 'limits: {cpu: "4"}'), "resources", "memory"),
    ("shared-storage", K8S, swap(CLAIM, "emptyDir: {}"), "volumes", "emptyDir"),
    ("shared-storage", K8S, without(r"volumeMounts: \*mounts"), "volumes", "this one mounts none"),
    ("storage-path", K8S, swap("-path /mnt/suite/runs", "-path /tmp/runs"), "entrypoint", "volume"),
    (
        "storage-path",
        K8S,
        swap("--storage-path /mnt/suite/runs ", ""),
        "entrypoint",
        "--storage-path",
    ),
    (
        "service-type",
        K8S,
        swap("rayStartParams:", "serviceType: NodePort\n      rayStartParams:"),
        "NodePort",
        "ClusterIP",
    ),
    ("head-cpu", K8S, swap('{num-cpus: "0"}', "{}"), "rayStartParams", "num-cpus"),
    ("min-workers", K8S, swap("minReplicas: 0", "minReplicas: 2"), "minReplicas", "got 2"),
    ("max-workers", K8S, without("maxReplicas"), "groupName", "limits the bill"),
    ("autoscaling", K8S, without("enableInTreeAutoscaling"), "rayClusterSpec", "go when idle"),
]


def test_what_nodes_need_not_have_in_common_with_an_object_store_is_not_asked_for(
    tmp_path: Path,
) -> None:
    job = filled(K8S).replace("--storage-path /mnt/suite/", "--storage-path s3://bucket/")
    left_out = (
        "volumeMounts:",
        "- {name: suite, mountPath",
        "volumes:",
        "- name: suite",
        "persistentVolumeClaim:",
    )
    bare = "\n".join(line for line in job.splitlines() if not line.strip().startswith(left_out))
    assert "s3://" in bare and "mountPath" not in bare and examine(tmp_path, bare, K8S) == []
    file = tmp_path / AWS
    file.write_text(filled(AWS).replace("mountpoint -q /mnt/suite", "true"))
    assert [problem for problem in cluster_lint.examine(file) if "[shared-storage]" in str(problem)]
    assert not [
        problem
        for problem in cluster_lint.examine(file, in_a_bucket=True)
        if "shared" in str(problem)
    ]


def test_a_sweep_file_is_told_for_what_it_is(tmp_path: Path) -> None:
    (found,) = examine(tmp_path, (REPO / "search_spaces" / "quickstart.yaml").read_text())
    assert "this is a sweep file" in found and "--dry-run" in found


def test_rays_own_key_for_several_subnets_is_known(tmp_path: Path) -> None:
    ids = "      SecurityGroupIds:"
    text = filled(AWS).replace(ids, f"      SubnetIds: [subnet-1, subnet-2]\n{ids}")
    assert "SubnetIds" in text and examine(tmp_path, text) == []


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_what_is_wrong_is_found_at_its_line(number: int, tmp_path: Path) -> None:
    rule, name, change, place, message = MUTATIONS[number]
    text = change(filled(name))
    assert text != filled(name), "nothing was changed"
    found = examine(tmp_path, text, name)
    mine = [each for each in found if message in each and (not rule or f"[{rule}]" in each)]
    assert mine, found
    line = text.splitlines()[int(mine[0].split(":")[1]) - 1]
    assert place in line, f"{mine[0]}\nnames: {line}"
    assert len(found) <= 2, found  # a mistake may break two rules, but must not hide among others


SECRETS_ELSEWHERE = [
    "export MLFLOW_TRACKING_PASSWORD=$MLFLOW_TRACKING_PASSWORD",
    'export MLFLOW_TRACKING_PASSWORD="$(cat /run/secrets/mlflow)"',
    "HF_TOKEN=${HF_TOKEN} python x.py",
    "export HF_HUB_DISABLE_IMPLICIT_TOKEN=1 DB_PASSWORD_FILE=/run/secrets/db",
    "git clone https://x:$GIT_TOKEN@github.com/me/x",
    "docker login -u me -p $REGISTRY_PASSWORD registry.example.org",
    "docker login -u AWS --password-stdin registry.example.org < /run/secrets/registry",
    "pip install git+https://github.com/me/x@main#egg=x==1",
]


@pytest.mark.parametrize("line", SECRETS_ELSEWHERE)
def test_a_secret_that_is_only_named_is_none(line: str, tmp_path: Path) -> None:
    assert examine(tmp_path, command(line)(filled(AWS))) == []


def test_a_secret_is_not_said(tmp_path: Path) -> None:
    text = command("export DB_PASSWORD=hunter")(filled(AWS)).replace(
        "VolumeSize: 150", f"VolumeSize: {ACCESS_KEY}"
    )
    found = " ".join(examine(tmp_path, text))
    assert "hunter" not in found and ACCESS_KEY not in found


@pytest.mark.parametrize(
    "start",
    [
        "export RAY_AUTH_MODE=token; ray start --head",
        "env RAY_AUTH_MODE=token ray start --head",
        "sudo -E RAY_AUTH_MODE='token' ray start --head",
        "export A=1 RAY_AUTH_MODE=token && B=2 ray start --head",
    ],
)
def test_a_token_that_is_in_force_is_enough(start: str, tmp_path: Path) -> None:
    assert examine(tmp_path, swap(HEAD_START, start)(filled(AWS))) == []


def test_workers_on_kubernetes_need_no_gpu(tmp_path: Path) -> None:
    assert examine(tmp_path, filled(K8S).replace(', nvidia.com/gpu: "1"', ""), K8S) == []


WRONG = [
    None,
    True,
    7,
    -1.5,
    "x",
    "",
    [],
    ["x", 3],
    [[]],
    [{}],
    {},
    {"x": "y"},
    {"name": {"a": []}},
    [None],
]


@pytest.mark.parametrize("name", FILES)
def test_no_wrong_value_anywhere_is_too_much_for_a_rule(name: str, tmp_path: Path) -> None:
    """Random parts of a file are replaced by values of other kinds, some files twice."""
    random = Random(name)
    root = yaml.safe_load(filled(name))
    for number in range(75):
        changed = copy.deepcopy(root)
        for _ in range(1 + number % 2):
            holder, key = random.choice(list(_parts(changed)))
            holder[key] = copy.deepcopy(random.choice(WRONG))
        text = yaml.dump(changed, sort_keys=False)
        assert not [each for each in examine(tmp_path, text, name) if "[not-looked-at]" in each], (
            text
        )


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a value: what holds it, and its key there."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _parts(value[key])


def test_a_rule_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _of_disks(source: Any) -> Any:
        raise TypeError("'<' not supported")
        yield

    monkeypatch.setitem(cluster_lint.RULES, "aws", (_of_disks, *cluster_lint.RULES["aws"]))
    (found,) = examine(tmp_path, filled(AWS))
    assert found.startswith(
        "cluster.yaml:3: part of the file could not be looked at (of disks): TypeError: '<' not"
    )


def test_all_is_said_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = (
        filled(AWS)
        .replace("GPU: 1", "gpu: 1")
        .replace("HttpTokens: required", "HttpTokens: optional")
    )
    found = examine(tmp_path, text)
    lines = [int(each.split(":")[1]) for each in found]
    assert len(found) == 3 and lines == sorted(lines)


def test_a_missing_file_is_a_finding_not_a_traceback(tmp_path: Path) -> None:
    (found,) = cluster_lint.examine(tmp_path / "none.yaml")
    assert "no such file" in str(found)


def test_every_rule_has_a_file_that_breaks_it() -> None:
    sources = [path.read_text() for path in Path(cluster_lint.__file__).parent.glob("*.py")]
    calls = r"(?:source\.finding\(\s*|unknown\(.*, )\"([a-z-]+)\""
    names = {name for text in sources for name in re.findall(calls, text)}
    assert len(names) > 30
    assert names - {rule for rule, *_ in MUTATIONS} == {"replace", "not-looked-at"}


def test_ray_is_not_imported_for_kubernetes_files() -> None:
    code = (
        "import sys; from pathlib import Path; from suite.cluster_lint import examine; "
        f"examine(Path({str(REPO / 'kuberay.yaml')!r})); sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


def test_the_kept_list_of_ec2_keys_is_botocores() -> None:
    pytest.importorskip("botocore")
    live = known._from_botocore()
    assert live is not None
    assert set(known._EC2) <= set(live) and set(known._EC2["MetadataOptions"]) <= set(
        live["MetadataOptions"]
    )
