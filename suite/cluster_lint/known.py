"""The keys that clouds and KubeRay know.

Ray looks at none of them: a wrong one is ignored, or fails at the launch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

ANY: dict[str, Any] = {}  # what is inside is not looked at

PROVIDER = {
    "aws": {
        "type",
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "use_internal_ips",
        "security_group",
        "key_pair",
        "aws_credentials",
        "cloudwatch",
        "disable_node_updaters",
    },
    "gcp": {
        "type",
        "region",
        "availability_zone",
        "project_id",
        "cache_stopped_nodes",
        "use_internal_ips",
        "gcp_credentials",
        "disable_node_updaters",
    },
    "local": {"type", "head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}

_RAYS_OWN: dict[str, Any] = {
    "SubnetIds": ANY
}  # Ray takes them in turn and gives EC2 one as SubnetId

# EC2's RunInstances as of botocore 1.44.8, used where botocore is not installed; lists are written
# as their elements.
_EC2: dict[str, Any] = {
    **dict.fromkeys(
        (
            "AdditionalInfo",
            "CapacityReservationSpecification",
            "ClientToken",
            "CpuOptions",
            "CreditSpecification",
            "DisableApiStop",
            "DisableApiTermination",
            "DryRun",
            "EbsOptimized",
            "ElasticGpuSpecification",
            "ElasticInferenceAccelerators",
            "EnablePrimaryIpv6",
            "EnclaveOptions",
            "HibernationOptions",
            "ImageId",
            "InstanceInitiatedShutdownBehavior",
            "InstanceType",
            "Ipv6AddressCount",
            "Ipv6Addresses",
            "KernelId",
            "KeyName",
            "LaunchTemplate",
            "LicenseSpecifications",
            "MaintenanceOptions",
            "MaxCount",
            "MinCount",
            "Monitoring",
            "NetworkInterfaces",
            "NetworkPerformanceOptions",
            "Operator",
            "Placement",
            "PrivateDnsNameOptions",
            "PrivateIpAddress",
            "RamdiskId",
            "SecondaryInterfaces",
            "SecurityGroupIds",
            "SecurityGroups",
            "SubnetId",
            "TagSpecifications",
            "UserData",
        ),
        ANY,
    ),
    **_RAYS_OWN,
    "IamInstanceProfile": {"Arn": ANY, "Name": ANY},
    "MetadataOptions": dict.fromkeys(
        (
            "HttpEndpoint",
            "HttpProtocolIpv6",
            "HttpPutResponseHopLimit",
            "HttpTokens",
            "InstanceMetadataTags",
        ),
        ANY,
    ),
    "InstanceMarketOptions": {
        "MarketType": ANY,
        "SpotOptions": dict.fromkeys(
            (
                "BlockDurationMinutes",
                "InstanceInterruptionBehavior",
                "MaxPrice",
                "SpotInstanceType",
                "ValidUntil",
            ),
            ANY,
        ),
    },
    "BlockDeviceMappings": {
        "DeviceName": ANY,
        "NoDevice": ANY,
        "VirtualName": ANY,
        "Ebs": dict.fromkeys(
            (
                "AvailabilityZone",
                "AvailabilityZoneId",
                "DeleteOnTermination",
                "EbsCardIndex",
                "Encrypted",
                "Iops",
                "KmsKeyId",
                "OutpostArn",
                "SnapshotId",
                "Throughput",
                "VolumeInitializationRate",
                "VolumeSize",
                "VolumeType",
            ),
            ANY,
        ),
    },
}

# Compute Engine's Instance resource, as far as a launch may give it.
_GCE = dict.fromkeys(
    (
        "machineType",
        "minCpuPlatform",
        "disks",
        "networkInterfaces",
        "serviceAccounts",
        "metadata",
        "labels",
        "tags",
        "scheduling",
        "guestAccelerators",
        "shieldedInstanceConfig",
        "confidentialInstanceConfig",
        "canIpForward",
        "deletionProtection",
        "description",
        "reservationAffinity",
        "resourcePolicies",
        "sourceMachineImage",
        "advancedMachineFeatures",
        "displayDevice",
        "networkPerformanceConfig",
        "params",
        "hostname",
        "zone",
    ),
    ANY,
)

# KubeRay's RayJob, ray.io/v1, as of August 2026.
_CONTAINER: dict[str, Any] = {
    **dict.fromkeys(
        (
            "args",
            "command",
            "env",
            "envFrom",
            "image",
            "imagePullPolicy",
            "lifecycle",
            "livenessProbe",
            "name",
            "ports",
            "readinessProbe",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "securityContext",
            "startupProbe",
            "stdin",
            "stdinOnce",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "tty",
            "volumeDevices",
            "volumeMounts",
            "workingDir",
        ),
        ANY,
    ),
    "resources": {"claims": ANY, "limits": ANY, "requests": ANY},
}
_POD: dict[str, Any] = {  # as of Kubernetes 1.34
    "metadata": ANY,
    "spec": {
        **dict.fromkeys(
            (
                "activeDeadlineSeconds",
                "affinity",
                "automountServiceAccountToken",
                "dnsConfig",
                "dnsPolicy",
                "enableServiceLinks",
                "ephemeralContainers",
                "hostAliases",
                "hostIPC",
                "hostNetwork",
                "hostPID",
                "hostUsers",
                "hostname",
                "hostnameOverride",
                "imagePullSecrets",
                "nodeName",
                "nodeSelector",
                "os",
                "overhead",
                "preemptionPolicy",
                "priority",
                "priorityClassName",
                "readinessGates",
                "resourceClaims",
                "resources",
                "restartPolicy",
                "runtimeClassName",
                "schedulerName",
                "schedulingGates",
                "securityContext",
                "serviceAccount",
                "serviceAccountName",
                "setHostnameAsFQDN",
                "shareProcessNamespace",
                "subdomain",
                "terminationGracePeriodSeconds",
                "tolerations",
                "topologySpreadConstraints",
                "volumes",
            ),
            ANY,
        ),
        "containers": _CONTAINER,
        "initContainers": _CONTAINER,
    },
}
RAY_JOB: dict[str, Any] = {
    "apiVersion": ANY,
    "kind": ANY,
    "metadata": ANY,
    "spec": {
        **dict.fromkeys(
            (
                "activeDeadlineSeconds",
                "backoffLimit",
                "clusterSelector",
                "deletionStrategy",
                "entrypoint",
                "entrypointNumCpus",
                "entrypointNumGpus",
                "entrypointResources",
                "jobId",
                "managedBy",
                "metadata",
                "preRunningDeadlineSeconds",
                "runtimeEnvYAML",
                "shutdownAfterJobFinishes",
                "submissionMode",
                "submitterConfig",
                "submitterPodTemplate",
                "suspend",
                "ttlSecondsAfterFinished",
            ),
            ANY,
        ),
        "rayClusterSpec": {
            **dict.fromkeys(
                (
                    "enableInTreeAutoscaling",
                    "gcsFaultToleranceOptions",
                    "headServiceAnnotations",
                    "historyServerOptions",
                    "managedBy",
                    "networkPolicy",
                    "rayVersion",
                    "suspend",
                    "tlsOptions",
                    "upgradeStrategy",
                ),
                ANY,
            ),
            "authOptions": dict.fromkeys(("enableK8sTokenAuth", "mode", "secretName"), ANY),
            "autoscalerOptions": dict.fromkeys(
                (
                    "args",
                    "command",
                    "env",
                    "envFrom",
                    "idleTimeoutSeconds",
                    "image",
                    "imagePullPolicy",
                    "resources",
                    "securityContext",
                    "upscalingMode",
                    "version",
                    "volumeMounts",
                ),
                ANY,
            ),
            "headGroupSpec": {
                **dict.fromkeys(
                    (
                        "enableIngress",
                        "headService",
                        "ingressOptions",
                        "labels",
                        "rayStartParams",
                        "resources",
                        "serviceType",
                    ),
                    ANY,
                ),
                "template": _POD,
            },
            "workerGroupSpecs": {
                **dict.fromkeys(
                    (
                        "groupName",
                        "idleTimeoutSeconds",
                        "labels",
                        "maxReplicas",
                        "minReplicas",
                        "numOfHosts",
                        "priority",
                        "rayStartParams",
                        "replicas",
                        "resources",
                        "scaleStrategy",
                        "suspend",
                    ),
                    ANY,
                ),
                "template": _POD,
            },
        },
    },
}


def node_config(provider: str) -> dict[str, Any] | None:
    """The keys of a node type's ``node_config``; None where nothing is known of the provider."""
    if provider == "aws":
        return _from_botocore() or _EC2
    return _GCE if provider == "gcp" else None


@cache
def _from_botocore() -> dict[str, Any] | None:
    """EC2's keys as botocore's own service model has them, where it is installed."""
    try:
        from botocore.session import get_session
    except ImportError:
        return None
    model = get_session().get_service_model("ec2")
    return _members(model.operation_model("RunInstances").input_shape, deep=3) | _RAYS_OWN


def _members(shape: Any, deep: int) -> dict[str, Any]:
    if shape.type_name == "list":
        return _members(shape.member, deep)
    if shape.type_name != "structure" or not deep:
        return ANY
    return {name: _members(inner, deep - 1) for name, inner in shape.members.items()}
