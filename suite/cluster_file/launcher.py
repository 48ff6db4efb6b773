"""What ``ray up`` reads: Ray's own validation, then what every provider's file needs for safety and for a sweep."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from suite.cluster_file import known
from suite.cluster_file.source import Finding, Source
from suite.spec.keys import did_you_mean
from suite.spec.loader import Path_

Findings = Iterator[Finding]
Rule = Callable[[Source], Findings]
PROVIDERS = ("aws", "gcp", "local")
EXCLUDED = (".git", ".venv", "mlruns", "mlartifacts", "data", "runs")
CODE = {each.name for each in Path(__file__).parent.parent.iterdir()}
TOKEN = "~/.ray/auth_token"
COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
_SECRETS = re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|aws_secret_access_key|BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=\S")
_MOUNT_CHECK = re.compile(r"mountpoint -q (?P<path>/\S+)")


def unknown_provider(source: Source) -> Findings:
    provider = source.get("provider", "type")
    remedy = did_you_mean(str(provider), PROVIDERS) or "KubeRay's files have apiVersion and kind instead."
    rule = f"provider.type must be one of {', '.join(PROVIDERS)}, got {provider!r}"
    yield source.finding("provider", ("provider", "type"), rule, remedy)


# ---- what Ray itself says --------------------------------------------------------------------------------------------


def _ray_validation(source: Source) -> Findings:
    """Ray's schema and what it checks beyond; its own reader takes some words for other things than ours does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    level = logging.getLogger("ray.autoscaler").level
    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(yaml.safe_load(source.text)))
    except Exception as error:  # jsonschema's, click's, and whatever a file of a wrong form runs into
        path = tuple(getattr(error, "absolute_path", ()))
        text = getattr(error, "message", "") or str(error) or type(error).__name__
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        if type(error).__name__ == "SilentClickException" and lines:
            text = lines[-1]
        yield source.finding("ray", path, f"Ray refuses the file: {' '.join(text.split())[:300]}")
    finally:
        logging.getLogger("ray.autoscaler").setLevel(level)


# ---- every provider --------------------------------------------------------------------------------------------------


def _provider_keys(source: Source) -> Findings:
    names = known.PROVIDER[source.get("provider", "type")]
    yield from unknown(source, ("provider",), dict.fromkeys(names, known.ANY), "provider-key")


def secrets(source: Source) -> Findings:
    for path, text in source.texts():
        if _SECRETS.search(text):
            yield source.finding(
                "secret", path, "a cluster file holds no secret", "Leave it to an instance profile, or mount a file."
            )


def _open_network(source: Source) -> Findings:
    for path, text in source.texts():
        if "0.0.0.0/0" in text or "::/0" in text:
            rule = f"no port may be open to everybody, got {text}"
            yield source.finding("open-network", path, rule, "Name your own address, e.g. 203.0.113.7/32.")


def _token_file(source: Source) -> Findings:
    mounted = source.mapping("file_mounts")
    if TOKEN not in mounted:
        rule = f"file_mounts must bring {TOKEN} to every node: whoever has no token may not run code there"
        remedy = f"Make one with `ray get-auth-token --generate`, and add `{TOKEN}: {TOKEN}`."
        yield source.finding("token-file", ("file_mounts",), rule, remedy)
    elif not any(re.search(rf"chmod (0?600|go=|go-rwx) {TOKEN}", text) for _, text in _commands(source)):
        remedy = f"Add `chmod 600 {TOKEN}` to setup_commands."
        yield source.finding("token-mode", ("file_mounts", TOKEN), "only its owner may read the token", remedy)


def _token_needed(source: Source) -> Findings:
    for path, text in _starts(source):
        if "RAY_AUTH_MODE=token" not in text:
            rule = "Ray must ask for the token: without it, who reaches a port runs code"
            yield source.finding("auth-mode", path, rule, "Write RAY_AUTH_MODE=token before `ray start`.")


def _start_commands(source: Source) -> Findings:
    """Ray's own commands, which stand in for missing ones, have no token and open the dashboard."""
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any(path[0] == name for path, _ in _starts(source)):
            remedy = "Take them from cluster.yaml."
            yield source.finding("start-commands", (name,), f"{name} must have a `ray start`", remedy)


def _dashboard(source: Source) -> Findings:
    for path, text in _starts(source):
        found = re.search(r"--dashboard-host[= ](\S+)", text)
        if path[0] == "head_start_ray_commands" and (found is None or found[1] not in ("127.0.0.1", "localhost")):
            host = found[1] if found else "Ray's default"
            rule = f"the dashboard takes jobs, so it must listen on the head itself only, got {host}"
            yield source.finding("dashboard", path, rule, "Write --dashboard-host=127.0.0.1; use `ray dashboard FILE`.")


def _servers(source: Source) -> Findings:
    for path, text in _commands(source):
        found = re.search(r"mlflow (?:server|ui)\b.*--host[= ](\S+)", text)
        if found and found[1] not in ("127.0.0.1", "localhost"):
            rule = f"MLflow must listen on the head itself only, got {found[1]}"
            yield source.finding("mlflow-host", path, rule, "Write --host 127.0.0.1, and reach it through a tunnel.")


def _excludes(source: Source) -> Findings:
    """What rsync leaves out: enough, and none of our own folders, which a pattern without a leading / would meet."""
    patterns = [str(each).rstrip("/") for each in source.items("rsync_exclude")]
    names = {pattern.removeprefix("**/").removeprefix("/") for pattern in patterns}
    if missing := [name for name in EXCLUDED if name not in names]:
        rule = f"rsync_exclude must leave out what nodes do not need, it lacks {', '.join(missing)}"
        remedy = "Add " + ", ".join(f"/{name}" for name in missing) + "."
        yield source.finding("rsync-exclude", ("rsync_exclude",), rule, remedy)
    for index, pattern in enumerate(patterns):
        if not pattern.startswith("/") and pattern.removeprefix("**/") in CODE:
            rule = f"{pattern} leaves out suite/{pattern.removeprefix('**/')} too, which nodes need"
            remedy = f"Write /{pattern.removeprefix('**/')}: only what lies in the copied folder itself."
            yield source.finding("rsync-code", ("rsync_exclude", index), rule, remedy)


def _shared_storage(source: Source) -> Findings:
    """Whether each node makes sure of the shared folder, and containers see it where the machine does."""
    checked = {found["path"].rstrip(";)") for _, text in _commands(source) if (found := _MOUNT_CHECK.search(text))}
    if not checked:
        rule = "every node must mount the same folder for checkpoints and the journal, and make sure of it"
        remedy = "See initialization_commands in cluster.yaml: `mountpoint -q /mnt/suite || sudo mount ...`."
        yield source.finding("shared-storage", ("initialization_commands",), rule, remedy)
        return
    if not _has_docker(source):
        return
    options = [str(each) for each in source.items("docker", "run_options")]
    for folder in sorted(checked):
        if not any(re.search(rf"(-v|--volume)[= ]{re.escape(folder)}:{re.escape(folder)}\b", each) for each in options):
            rule = f"containers must see {folder} under the same path"
            yield source.finding("shared-storage", ("docker", "run_options"), rule, f"Add `-v {folder}:{folder}`.")


def _pinned_packages(source: Source) -> Findings:
    for path, text in _commands(source):
        for words in re.findall(r"pip3? install ([^|&;)]*)", text):
            loose = [word for word in words.split() if _is_loose(word, words)]
            if loose:
                rule = f"nodes that come later must get the same packages, got {', '.join(loose)} without a version"
                yield source.finding("pinned-packages", path, rule, "Write name==version, or -r requirements.txt.")


def _is_loose(word: str, words: str) -> bool:
    """Whether a word after ``pip install`` names a package without its version."""
    after = re.search(rf"(-r|-e|-c|--requirement|--editable|--constraint)[= ]+{re.escape(word)}(\s|$)", words)
    return not word.startswith("-") and "==" not in word and "/" not in word and word != "." and not after


# ---- own machines ----------------------------------------------------------------------------------------------------


def _addresses(source: Source) -> Findings:
    head, workers = source.get("provider", "head_ip"), source.items("provider", "worker_ips")
    for index, worker in enumerate(workers):
        if worker != "REPLACE" and (worker == head or worker in workers[:index]):
            rule = f"each machine is named once, got {worker} again"
            yield source.finding("address-twice", ("provider", "worker_ips", index), rule)


def _ssh(source: Source) -> Findings:
    for key in ("ssh_user", "ssh_private_key"):
        if not source.has("auth", key):
            yield source.finding("ssh", ("auth",), f"auth.{key} must be given: Ray reaches your machines by ssh")


def _own_head_runs_no_trial(source: Source) -> Findings:
    for path, text in _starts(source):
        if path[0] == "head_start_ray_commands" and not re.search(r"--num-cpus[= ]\d+", text):
            rule = "the head's `ray start` must say how many processors trials may use there"
            yield source.finding("head-cpu", path, rule, "Write --num-cpus=0 for none.")


COMMON: tuple[Rule, ...] = (
    _ray_validation, _provider_keys, secrets, _open_network, _token_file, _token_needed, _start_commands, _dashboard,
    _servers, _excludes, _shared_storage, _pinned_packages,
)  # fmt: skip
LOCAL: tuple[Rule, ...] = (_addresses, _ssh, _own_head_runs_no_trial)


# ---- what the rules ask of a file ------------------------------------------------------------------------------------


def _commands(source: Source) -> Iterator[tuple[Path_, str]]:
    """Every shell command of the file that nodes run."""
    for name in COMMANDS:
        for index, text in enumerate(source.items(name)):
            yield (name, index), str(text)


def _starts(source: Source) -> list[tuple[Path_, str]]:
    """The commands that start Ray."""
    return [(path, text) for path, text in _commands(source) if re.search(r"\bray start\b", text)]


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
            rule, remedy = f"unknown key {key!r}", did_you_mean(key, names) or f"Known: {', '.join(sorted(names))}."
            yield source.finding(code, (*path, key), rule, remedy)
        elif names[key]:
            yield from unknown(source, (*path, key), names[key], code)
