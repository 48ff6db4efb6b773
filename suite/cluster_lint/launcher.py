"""What ``ray up`` reads: Ray's own validation, then what every provider's file needs for safety
and for a sweep.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from suite.cluster_lint import known, shapes, shell
from suite.cluster_lint.secrets import secrets
from suite.cluster_lint.source import Finding, Source
from suite.config.setting_fields import did_you_mean
from suite.config.yaml_lines import Path_

Findings = Iterator[Finding]
Rule = Callable[[Source], Findings]
PROVIDERS = ("aws", "gcp", "local")
EXCLUDED = (".git", ".venv", "mlruns", "mlartifacts", "data", "runs")
CODE = {each.name for each in Path(__file__).parent.parent.iterdir()}
TOKEN = "~/.ray/auth_token"
_MLFLOW = re.compile(r"\bmlflow\s(?:.*\s)?(server|ui)\b")
_MOUNT_CHECK = re.compile(r"mountpoint -q (?P<path>/\S+)")


def unknown_provider(source: Source) -> Findings:
    provider = source.get("provider", "type")
    if not source.has("provider") and any(
        source.has(key) for key in ("trial", "parameters", "arms")
    ):
        rule = "this is a sweep file, not a cluster file"
        yield source.finding(
            "provider", (), rule, "Look at it with `python -m suite.sweep FILE --dry-run`."
        )
        return
    remedy = (
        did_you_mean(str(provider), PROVIDERS)
        or "KubeRay's files have apiVersion and kind instead."
    )
    rule = f"provider.type must be one of {', '.join(PROVIDERS)}, got {provider!r}"
    yield source.finding("provider", ("provider", "type"), rule, remedy)


# ---- what Ray itself says ------------------------------------------------------------------------


def _ray_validation(source: Source) -> Findings:
    """Ray's schema and what it checks beyond; its own reader takes some words for other things
    than ours does.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    if any(shapes.of_ray(source)):
        return  # Ray would say the same of the first of them, or break at it

    said = io.StringIO()
    level = logging.getLogger("ray.autoscaler").level
    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(yaml.safe_load(source.text)))
    except (
        Exception
    ) as error:  # jsonschema's, click's, and whatever a file of a wrong form runs into
        path = tuple(getattr(error, "absolute_path", ()))
        text = getattr(error, "message", "") or str(error) or type(error).__name__
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        if type(error).__name__ == "SilentClickException" and lines:
            text = lines[-1]
        yield source.finding("ray", path, f"Ray refuses the file: {' '.join(text.split())[:300]}")
    finally:
        logging.getLogger("ray.autoscaler").setLevel(level)


# ---- every provider ------------------------------------------------------------------------------


def _provider_keys(source: Source) -> Findings:
    names = known.PROVIDER[source.get("provider", "type")]
    yield from unknown(source, ("provider",), dict.fromkeys(names, known.ANY), "provider-key")


def _open_network(source: Source) -> Findings:
    for path, text in source.texts():
        if "0.0.0.0/0" in text or "::/0" in text:
            rule = f"no port may be open to everybody, got {text}"
            yield source.finding(
                "open-network", path, rule, "Name your own address, e.g. 203.0.113.7/32."
            )


def _token_file(source: Source) -> Findings:
    mounted = source.mapping("file_mounts")
    if TOKEN not in mounted:
        rule = (
            f"file_mounts must bring {TOKEN} to every node: whoever has no token may not run "
            "code there"
        )
        remedy = f"Make one with `ray get-auth-token --generate`, and add `{TOKEN}: {TOKEN}`."
        yield source.finding("token-file", ("file_mounts",), rule, remedy)
    elif not any(
        re.search(rf"chmod (0?600|go=|go-rwx) {TOKEN}", text) for _, text in shell.commands(source)
    ):
        remedy = f"Add `chmod 600 {TOKEN}` to setup_commands."
        yield source.finding(
            "token-mode", ("file_mounts", TOKEN), "only its owner may read the token", remedy
        )


def _token_needed(source: Source) -> Findings:
    for path, text in shell.starts(source):
        for mode in shell.in_force("RAY_AUTH_MODE", text, "ray start"):
            if mode != "token":
                got = f"RAY_AUTH_MODE={mode}" if mode else "no RAY_AUTH_MODE that is in force there"
                rule = (
                    "Ray must ask for the token: without it, who reaches a port runs code, "
                    f"got {got}"
                )
                yield source.finding(
                    "auth-mode", path, rule, "Write RAY_AUTH_MODE=token right before `ray start`."
                )


def _start_commands(source: Source) -> Findings:
    """Ray's own commands, which stand in for missing ones, have no token and open the dashboard."""
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any(path[0] == name for path, _ in shell.starts(source)):
            remedy = "Take them from cluster.yaml."
            yield source.finding(
                "start-commands", (name,), f"{name} must have a `ray start`", remedy
            )


def _dashboard(source: Source) -> Findings:
    for path, text in shell.starts(source):
        if path[0] != "head_start_ray_commands":
            continue
        hosts = re.findall(r"--dashboard-host[= ]+(\S+)", text) or ["Ray's default"]
        for host in [each for each in hosts if not _is_here(each)][:1]:
            rule = (
                f"the dashboard takes jobs, so it must listen on the head itself only, got {host}"
            )
            yield source.finding(
                "dashboard",
                path,
                rule,
                "Write --dashboard-host=127.0.0.1; use `ray dashboard FILE`.",
            )


def _mlflow(source: Source) -> Findings:
    remedy = "Write --host 127.0.0.1, and reach it through a tunnel."
    for path, text in shell.commands(source):
        for part in shell.parts(text):
            hosts = (
                re.findall(r"(?:--host|--bind|(?<![\w-])-[hb])[= ]+(\S+)", part)
                if _MLFLOW.search(part)
                else []
            )
            for host in [each for each in hosts if not _is_here(each)][:1]:
                rule = f"MLflow must listen on the head itself only, got {host}"
                yield source.finding("mlflow-host", path, rule, remedy)
    for path, text in source.texts():
        found = re.search(r"\bMLFLOW_HOST=(\S+)", text)
        if found and not _is_here(found[1]):
            rule = f"MLflow must listen on the head itself only, got MLFLOW_HOST={found[1]}"
            yield source.finding("mlflow-host", path, rule, remedy)


def _every_address(source: Source) -> Findings:
    """Servers other than Ray's dashboard and MLflow, which have rules of their own."""
    for path, text in shell.commands(source):
        for part in shell.parts(text):
            found = re.search(r"(?<![\d.])0\.0\.0\.0(?![\d./])|--bind_all\b|\[::\](?!/)", part)
            if (
                found
                and not _MLFLOW.search(part)
                and "--dashboard-host" not in part
                and "MLFLOW_HOST" not in part
            ):
                rule = f"no server may listen on every address of a node, got {found[0]}"
                yield source.finding(
                    "open-port", path, rule, "Name 127.0.0.1, and reach it through a tunnel."
                )
    for name in ("run_options", "head_run_options", "worker_run_options"):
        for index, option in enumerate(source.items("docker", name)):
            if re.search(r"--privileged(?!=false)", str(option)):
                rule = f"no container may be master of its machine, got {option}"
                yield source.finding(
                    "privileged",
                    ("docker", name, index),
                    rule,
                    "Take --gpus and --device for devices.",
                )


def _is_here(host: str) -> bool:
    """Whether only the machine itself reaches what listens there."""
    return bool(re.fullmatch(r"(127\.0\.0\.1|localhost|::1|\[::1\])(:\d+)?", host.strip("'\"")))


def _excludes(source: Source) -> Findings:
    """What rsync leaves out: enough, and none of our own folders, which a pattern without a
    leading / would meet.
    """
    patterns = [str(each).rstrip("/") for each in source.items("rsync_exclude")]
    names = {pattern.removeprefix("**/").removeprefix("/") for pattern in patterns}
    if missing := [name for name in EXCLUDED if name not in names]:
        rule = f"rsync_exclude must leave out what nodes do not need, it lacks {', '.join(missing)}"
        remedy = "Add " + ", ".join(f"/{name}" for name in missing) + "."
        yield source.finding("rsync-exclude", ("rsync_exclude",), rule, remedy)
    for index, pattern in enumerate(patterns):
        if not pattern.startswith("/") and pattern.removeprefix("**/") in CODE:
            rule = f"{pattern} leaves out suite/{pattern.removeprefix('**/')} too, which nodes need"
            remedy = (
                f"Write /{pattern.removeprefix('**/')}: only what lies in the copied folder itself."
            )
            yield source.finding("rsync-code", ("rsync_exclude", index), rule, remedy)


def shared_storage(source: Source) -> Findings:
    """Whether each node makes sure of the shared folder, and containers see it where the machine
    does.
    """
    checked = _shared_folders(source)
    if not checked:
        rule = (
            "every node must mount the same folder for checkpoints and the journal, and make "
            "sure of it"
        )
        remedy = (
            "See initialization_commands in cluster.yaml: `mountpoint -q /mnt/suite || sudo mount "
            "...`. With an object "
            "store instead: suite.doctor --storage-path s3://bucket/prefix FILE."
        )
        yield source.finding("shared-storage", ("initialization_commands",), rule, remedy)
        return
    if not _has_docker(source):
        return
    options = [str(each) for each in source.items("docker", "run_options")]
    for folder in sorted(checked):
        if not any(
            re.search(rf"(-v|--volume)[= ]{re.escape(folder)}:{re.escape(folder)}\b", each)
            for each in options
        ):
            rule = f"containers must see {folder} under the same path"
            yield source.finding(
                "shared-storage", ("docker", "run_options"), rule, f"Add `-v {folder}:{folder}`."
            )


def _store_on_shared_storage(source: Source) -> Findings:
    yield from store(source, _shared_folders(source))


def store(source: Source, folders: Iterable[str]) -> Findings:
    """An SQLite file in a folder that nodes share."""
    for path, text in source.texts():
        for file in re.findall(r"\bsqlite:///(/[^\s'\"]+)", text):
            if any(f"{file}/".startswith(f"{folder}/") for folder in folders):
                rule = (
                    "MLflow's SQLite file must not lie on shared storage, where its locks do "
                    f"not hold, got {file}"
                )
                yield source.finding(
                    "store",
                    path,
                    rule,
                    "Put it on the head's own disk, e.g. sqlite:////opt/mlflow/mlflow.db.",
                )


def _pinned_packages(source: Source) -> Findings:
    for path, text in shell.commands(source):
        for words in re.findall(r"pip3? install ([^|&;)]*)", text):
            loose = [word for word in words.split() if _is_loose(word, words)]
            if loose:
                rule = (
                    f"nodes that come later must get the same packages, got {', '.join(loose)} "
                    "without a version"
                )
                yield source.finding(
                    "pinned-packages", path, rule, "Write name==version, or -r requirements.txt."
                )
            other = re.search(r"(?<![\w-])ray(?:\[[\w,-]*\])?==(?P<version>[^\s'\"]+)", words)
            if other and other["version"] != metadata.version("ray"):
                rule = (
                    "nodes must have the Ray that is installed here, "
                    f"{metadata.version('ray')}, got {other[0]}"
                )
                yield source.finding("ray-version", path, rule, "Leave it out: the image has Ray.")


def _is_loose(word: str, words: str) -> bool:
    """Whether a word after ``pip install`` names a package without its version."""
    after = re.search(
        rf"(-r|-e|-c|--requirement|--editable|--constraint)[= ]+{re.escape(word)}(\s|$)", words
    )
    return (
        not word.startswith("-")
        and "==" not in word
        and "/" not in word
        and word != "."
        and not after
    )


# ---- own machines --------------------------------------------------------------------------------


def _addresses(source: Source) -> Findings:
    head, workers = source.get("provider", "head_ip"), source.items("provider", "worker_ips")
    named = [
        (("provider", "head_ip"), head),
        *((("provider", "worker_ips", n), each) for n, each in enumerate(workers)),
    ]
    for path, machine in named:
        if machine is not None and not _is_address(str(machine)):
            rule = f"a machine is an IP address or a host name, got {machine}"
            yield source.finding(
                "address",
                path,
                rule,
                "Ports and users have no place here; ssh_user names the user.",
            )
        elif workers and re.fullmatch(r"127\..*|localhost|::1", str(machine)):
            rule = (
                f"every machine must reach the others by its address, got {machine}, which is "
                "each one itself"
            )
            yield source.finding("address", path, rule)
    for index, worker in enumerate(workers):
        if worker != "REPLACE" and (worker == head or worker in workers[:index]):
            rule = f"each machine is named once, got {worker} again"
            yield source.finding("address-twice", ("provider", "worker_ips", index), rule)
    if source.get("provider", "worker_ips") == []:
        rule = (
            "worker_ips must name the machines that train, got none: the sweep would wait for ever"
        )
        yield source.finding("address", ("provider", "worker_ips"), rule)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return not re.fullmatch(r"[\d.]+", text) and bool(
            re.fullmatch(r"[A-Za-z0-9]([\w.-]*\w)?", text)
        )
    return True


def _ssh(source: Source) -> Findings:
    for key in ("ssh_user", "ssh_private_key"):
        if not source.has("auth", key):
            yield source.finding(
                "ssh", ("auth",), f"auth.{key} must be given: Ray reaches your machines by ssh"
            )


def _own_head_runs_no_trial(source: Source) -> Findings:
    for path, text in shell.starts(source):
        if path[0] == "head_start_ray_commands" and not re.search(r"--num-cpus[= ]\d+", text):
            rule = "the head's `ray start` must say how many processors trials may use there"
            yield source.finding("head-cpu", path, rule, "Write --num-cpus=0 for none.")


COMMON: tuple[Rule, ...] = (
    shapes.of_ray,
    _ray_validation,
    _provider_keys,
    secrets,
    _open_network,
    _token_file,
    _token_needed,
    _start_commands,
    _dashboard,
    _mlflow,
    _every_address,
    _excludes,
    shared_storage,
    _store_on_shared_storage,
    _pinned_packages,
)
LOCAL: tuple[Rule, ...] = (_addresses, _ssh, _own_head_runs_no_trial)


# ---- what the rules ask of a file ----------------------------------------------------------------


def _shared_folders(source: Source) -> set[str]:
    """The folders of which nodes make sure that they are mounted."""
    return {
        found["path"].rstrip(";)")
        for _, text in shell.commands(source)
        if (found := _MOUNT_CHECK.search(text))
    }


def _has_docker(source: Source) -> bool:
    return any(key.endswith("image") for key in source.mapping("docker"))


def unknown(source: Source, path: Path_, names: Mapping[str, Any], code: str) -> Findings:
    """Keys at and below ``path`` that are not among ``names``."""
    value = source.get(*path)
    if isinstance(value, list):
        for index in range(len(value)):
            yield from unknown(source, (*path, index), names, code)
    if not isinstance(value, dict):
        return
    for key in value:
        if key not in names:
            rule, remedy = (
                f"unknown key {key!r}",
                did_you_mean(key, names) or f"Known: {', '.join(sorted(names))}.",
            )
            yield source.finding(code, (*path, key), rule, remedy)
        elif names[key]:
            yield from unknown(source, (*path, key), names[key], code)
