"""Image names: every node must have the Ray and the Python of the machine that starts the
cluster and of the driver.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib import metadata

from suite.cluster_lint.source import Finding, Source
from suite.config.yaml_lines import Path_

_MOVING = ("latest", "nightly", "master")


def check(source: Source, path: Path_, image: str) -> Iterator[Finding]:
    """What is wrong with the image at ``path``; the first thing only, the others follow from it."""
    tag = image.rpartition("/")[2].partition(":")[2].partition("@")[0]
    ray, python = metadata.version("ray"), f"py{sys.version_info[0]}{sys.version_info[1]}"
    wanted = f"Name one for Ray {ray} and this Python, e.g. rayproject/ray:{ray}-{python}."
    if not tag or any(word in tag for word in _MOVING):
        yield source.finding(
            "image-moves", path, f"an image must have a fixed version, got {image}", wanted
        )
        return
    version = re.search(r"\d+\.\d+\.\d+", tag)
    if version is None or version[0] != ray:
        rule = (
            f"the image must have the Ray that is installed here, {ray}, and say so in its "
            f"tag, got {image}"
        )
        yield source.finding("image-ray", path, rule, wanted)
        return
    named = re.search(r"py3\d+", tag)
    if named is None or named[0] != python:
        rule = (
            f"the image must have the Python that runs here, {python}, and say so in its tag, "
            f"got {image}"
        )
        yield source.finding("image-python", path, rule, wanted)
