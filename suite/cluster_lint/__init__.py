"""Cluster files examined on this machine alone: nothing is started and no cloud is asked.

``examine`` takes the files that ``ray up`` reads (``provider`` aws, gcp or local) and KubeRay's
``RayJob``. Ray's own validation comes first; then what it lets through and a sweep, a bill or a
stranger on the network would find out.

::

    source        the file's values with their lines, and how a finding is said
    shapes        where a mapping, a list, a text or a number belongs
    secrets       credentials, which belong elsewhere
    images        image names: the Ray and the Python in them must be those of this machine
    shell         the commands in a file, taken apart
    launcher      what `ray up` reads
    clouds        what it reads for AWS and Google Cloud
    kubernetes    a RayJob
    known         the keys that clouds and KubeRay know
"""

from __future__ import annotations

import re
from pathlib import Path

from suite.cluster_lint import clouds, kubernetes, launcher
from suite.cluster_lint.launcher import Findings, Rule
from suite.cluster_lint.source import Source, read
from suite.core.errors import Problem, UsageError

RULES: dict[str, tuple[Rule, ...]] = {
    "aws": (*launcher.COMMON, *clouds.CLOUD, *clouds.AWS),
    "gcp": (*launcher.COMMON, *clouds.CLOUD, *clouds.GCP),
    "local": (*launcher.COMMON, *launcher.LOCAL),
}


def examine(path: Path, in_a_bucket: bool = False) -> list[Problem]:
    """All that is wrong with a cluster file, in the order of its lines; none = it is fit to be
    used.

    Args:
        in_a_bucket: whether sweeps keep what they keep in an object store, so that nodes need no
            folder in common.

    The rule of each problem ends with its name in brackets, e.g. ``[image-version]``; its place is
    ``file:line: key``.
    """
    try:
        source = read(path)
    except UsageError as error:
        return list(error.problems)
    rules = [
        rule for rule in _rules(source) if not (in_a_bucket and rule is launcher.shared_storage)
    ]
    found = [finding for rule in (_left_to_fill_in, *rules) for finding in _found(rule, source)]
    return [finding.problem for finding in sorted(found, key=lambda finding: finding.line)]


def _rules(source: Source) -> tuple[Rule, ...]:
    if source.has("apiVersion") or source.has("kind"):
        return kubernetes.RULES
    return RULES.get(str(source.get("provider", "type")), (launcher.unknown_provider,))


def _found(rule: Rule, source: Source) -> Findings:
    """What a rule finds; that it breaks at something odd in the file is a finding, too."""
    try:
        yield from rule(source)
    except Exception as error:
        name = rule.__name__.strip("_").replace("_", " ")
        what = f"part of the file could not be looked at ({name}): {type(error).__name__}: {error}"
        yield source.finding(
            "not-looked-at",
            (),
            what,
            "Something there is not what it should be; compare cluster.yaml.",
        )


def _left_to_fill_in(source: Source) -> Findings:
    """Each REPLACE where it is written: an alias repeats a value, or a whole part with the lines
    of its anchor.
    """
    written: set[tuple[int, str]] = set()
    lines = source.text.splitlines()
    for path, text in source.texts():
        for word in re.findall(r"\S*REPLACE\S*", text):
            finding = source.finding(
                "replace", path, f"only you know what belongs in place of {word}", "Fill it in."
            )
            if (finding.line, word) not in written and "*" not in lines[finding.line - 1].partition(
                ": "
            )[2][:1]:
                written.add((finding.line, word))
                yield finding
