"""Credentials struck out of text that leaves for the disk, the store of runs or the terminal.

One function, one word: ``redacted`` puts ``REDACTED`` in place of

- the user and password of an address: ``https://ann:pw@host`` (a bare user only over http, where it
may be a token);
- values of keys named like secrets: ``password=...``, ``"api_key": "..."``, ``DB_PASSWORD: ...``;
- tokens and keys of a known shape: AWS, GitHub, GitLab, Hugging Face, Slack, OpenAI, Google, PyPI,
JWT, PEM;
- values of this process's environment variables that are named like secrets (``*_TOKEN``,
``*_KEY``, ``*_SECRET``,
  ``*_PASSWORD``), and passwords in addresses that any variable holds, wherever they turn up.

What merely looks like a word, a number, a path or code stays as it is: a text that is wrong about
an experiment is worse than none. Identities (trial ids, arms) are computed from what the user
wrote, before.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

WORD = "REDACTED"
_SHORTEST = 6  # characters of a value that is looked for wherever it turns up
_LEAST_RANDOM = 12  # of a *_KEY, whose value may be a name

# Two slashes, or one: pathlib joins them.
_ADDRESS = re.compile(
    r"(?P<scheme>\b[a-zA-Z][\w+.-]*):(?P<slashes>//?)(?P<user>[^\s/?#'\"<>@]+(?:@[^\s/?#'\"<>@]+)*)@"
)
_SHAPES = re.compile(
    r"""
    \b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,} | \bglpat-[\w-]{16,}
    | \bhf_[A-Za-z0-9]{20,} | \bxox[abeprs]-[A-Za-z0-9-]{10,} | \bsk-[A-Za-z0-9_-]{20,}
    | \bAIza[\w-]{35}
    | \bpypi-[\w-]{20,} | \bnpm_[A-Za-z0-9]{30,} | \bdapi[0-9a-f]{32}\b
    | \beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}
    | (?<=\bBearer\s)[\w.~+/-]{12,}=* | (?<=\bBasic\s)[A-Za-z0-9+/]{12,}=*
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)
_NAME = r"""
    (?: [\w.-]*? (?: password | passwd | passphrase | secret
                   | api[_-]?key | access[_-]?key | private[_-]?key | secret[_-]?key
                   | (?:auth|access|api|bearer|refresh|session|secret|tracking)[_-]?token )
      | \b [\w.-]*?_token | (?-i: \b[A-Z0-9_]+_(?:TOKEN|KEY|PWD|PASS) )
      | (?<=[?&])(?:token|key|sig|signature) )
"""
# A bare value must have a digit or a sign that words lack, and must not go on as code does. After a
# colon, where a sentence may go on ("the secret: resnet18"), it must have a digit, and its name
# must be more than "secret".
_LETTERS = r"[^\s'\"`,;&(){}\[\]<>]"
_BARE = rf"(?={_LETTERS}*[\d!$%^*+~@/-]) {_LETTERS}{{4,}}+ (?![(\[])"
_TOLD = rf"(?={_LETTERS}*\d) {_LETTERS}{{4,}}+ (?![(\[])"
_QUOTED = r"""(?P<quote>["'])(?P<text>(?:(?!(?P=quote))[^\\\n]|\\.){4,}+)(?P=quote)"""
_NAMED = re.compile(
    rf"""
    (?P<key> (?<![\w.-]) {_NAME} (?: _id )? )
    (?: (?P<between> ["']?\s*[=:]\s* ) {_QUOTED} | (?P<equals> ["']?\s*=\s* ) (?P<bare> {_BARE} )
      | (?P<colon> (?<! \bsecret ) \s*:\s+ ) (?P<told> {_TOLD} ) )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_OPTION = re.compile(
    rf"(?P<option>(?<![\w-])--[\w-]*(?:password|passwd|passphrase|secret|token|key)\s+){_BARE}",
    re.I | re.X,
)
_VARIABLE = re.compile(
    r"(?:.*_)?(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PWD_SECRET|APIKEY)|.*_(?:API_?KEY|ACCESS_KEY|SECRET_KEY)(?:_ID)?",
    re.IGNORECASE,
)
_KEY_VARIABLE = re.compile(r".*_KEY(?:_ID)?", re.IGNORECASE)


def redacted(text: str) -> str:
    """``text`` with the credentials in it struck out; twice changes no more than once."""
    if len(text) < _SHORTEST:
        return text
    for value in _values(tuple(os.environ.items())):
        if value in text:
            text = text.replace(value, WORD)
    text = _ADDRESS.sub(_address, text) if "@" in text else text
    text = _SHAPES.sub(WORD, text)
    text = _OPTION.sub(rf"\g<option>{WORD}", text) if "--" in text else text
    return _NAMED.sub(_named, text) if "=" in text or ":" in text else text


def _address(found: re.Match[str]) -> str:
    user = found["user"]
    if ":" not in user and not found["scheme"].lower().endswith(("http", "https")):
        return found[0]  # ssh://git@host: a name
    return f"{found['scheme']}:{found['slashes']}{WORD}@"


def _named(found: re.Match[str]) -> str:
    quote, between = found["quote"] or "", found["between"] or found["equals"] or found["colon"]
    if WORD in (found["text"] or found["bare"] or found["told"]):
        return found[0]
    return f"{found['key']}{between}{quote}{WORD}{quote}"


@lru_cache(maxsize=1)
def _values(variables: tuple[tuple[str, str], ...]) -> list[str]:
    """The secrets that the environment holds, the longest first, so that none is cut by a part
    of it.
    """
    found: set[str] = set()
    for name, value in variables:
        if _is_secret(name, value):
            found.add(value)
        for address in _ADDRESS.finditer(value) if "@" in value else ():
            password = address["user"].partition(":")[2]
            found |= {password, unquote(password)}
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable's value is one: by its name, and for names that end in KEY by what it
    looks like.
    """
    if value.startswith(("/", "~/", "./")) and Path(value).expanduser().exists():
        return False  # where a secret is
    if _VARIABLE.fullmatch(name):
        return True
    random = (
        len(value) >= _LEAST_RANDOM
        and any(map(str.isdigit, value))
        and any(map(str.isalpha, value))
    )
    return bool(_KEY_VARIABLE.fullmatch(name)) and random
