"""Secrets in a cluster file: it lies in a repository, and ``ray up`` copies it to the head."""

from __future__ import annotations

import re
from collections.abc import Iterator

from suite.cluster_lint.source import Finding, Source
from suite.config.yaml_lines import Path_
from suite.core.redaction import redacted

_REMEDY = (
    "Leave it to an instance profile, a Secret of Kubernetes, or a file that is mounted; "
    "$NAME is fine."
)
_CREDENTIALS = ("aws_credentials", "gcp_credentials")  # of the provider
_PATH = re.compile(r"(~|\.{0,2})/[\w./~-]*")

# What is filled in where the command runs is no secret: $NAME, ${NAME}, $(command). A default in it
# is one.
_DEFAULT = re.compile(r"\$\{\w+:?[-=+]([^}]*)\}")
_REFERENCE = re.compile(r"\$\{\w+[^}]*\}|\$\([^)]*\)|\$\w+|`[^`]*`|<[^<>\s]+>")
_FILLED_ADDRESS = re.compile(r"://[^\s/@]*(?:§|REPLACE)[^\s/@]*@")

_VALUE = r"""(?P<quote>["']?)(?P<value>[^\s"'`;,|&)}§]+)"""
_NAME = (
    "[A-Z0-9_]*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY|SECRET_KEY)"
    "(?:_ID)?"
)
_VARIABLE = re.compile(rf"""(?<![\w$])(?P<name>{_NAME})["']?(?:=|:\s+){_VALUE}""")
_OPTION = re.compile(
    r"(?<!\S)(?P<name>--(?:password|passwd|token|secret|api-key)|set aws_\w*(?:key|token))"
    rf"(?:=|\s+){_VALUE}"
)
_LOGIN = re.compile(rf"\b(?P<name>\w+ login)\b[^;|&\n]*?\s-p[ =]?{_VALUE}")
_USER = re.compile(
    rf"\b(?P<name>curl|wget)\b[^;|&\n]*?\s(?:-\w*u|--user)[ =]?[\"']?[^\s:\"']+:{_VALUE}"
)
_SSHPASS = re.compile(rf"\b(?P<name>sshpass)\s+-p\s?{_VALUE}")
_HARMLESS = re.compile(r"true|false|yes|no|on|off|none|null|[01]|\W*|.*REPLACE.*", re.IGNORECASE)


def secrets(source: Source) -> Iterator[Finding]:
    """Every text that holds a credential, by its form or by the name of what it is for."""
    for key in _CREDENTIALS:
        if source.get("provider", key):
            rule = f"a cluster file holds no secret, got provider.{key}"
            yield source.finding(
                "secret",
                ("provider", key),
                rule,
                "Leave it out: `ray up` takes those of your shell.",
            )
    for path, text in source.texts():
        found = _in_text(text) or _by_name(_name(source, path), text)
        if found and not (path[0] == "provider" and path[1:2] and path[1] in _CREDENTIALS):
            yield source.finding(
                "secret", path, f"a cluster file holds no secret, got {found}", _REMEDY
            )


def _in_text(text: str) -> str:
    """What kind of secret is in a text; "" = none."""
    text = _FILLED_ADDRESS.sub("://", _REFERENCE.sub("§", _DEFAULT.sub(r"\1", text)))
    for pattern, kind in (
        (_VARIABLE, "a value for {}"),
        (_OPTION, "a value for {}"),
        (_LOGIN, "the password of `{}`"),
        (_USER, "a password for {}"),
        (_SSHPASS, "a password for {}"),
    ):
        for found in pattern.finditer(text):
            if not _HARMLESS.fullmatch(found["value"]):
                return kind.format(found["name"])
    text = text.replace("§", "")
    return "a key, a token or a password" if redacted(text) != text else ""


def _by_name(name: str, text: str) -> str:
    """The same of a text under a name, as ``password: ...`` has one.

    A path says where a secret is, and is none.
    """
    bare = _REFERENCE.sub("", text)
    if not name or not bare or _HARMLESS.fullmatch(bare) or "REPLACE" in text:
        return ""
    if _PATH.fullmatch(text) and not name.lower().endswith("secret_access_key"):
        return ""
    quoted = bare.replace('"', "").replace("\\", "").ljust(4, "_")
    secret = re.fullmatch(_NAME, name) or redacted(f'{name}="{quoted}"') != f'{name}="{quoted}"'
    return f"a value for {name}" if secret else ""


def _name(source: Source, path: Path_) -> str:
    """What a text is called: its key, or what stands beside it as ``name`` or ``key``."""
    if path and path[-1] == "value":
        around = source.mapping(*path[:-1])
        return str(around.get("name") or around.get("key") or "")
    return str(path[-1]) if path and isinstance(path[-1], str) else ""
