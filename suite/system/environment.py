"""Where a run comes from: versions, hardware, commit and uncommitted changes."""

from __future__ import annotations

import getpass
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from suite.core.errors import Problem, raise_problems

PACKAGES = (
    "ray",
    "mlflow",
    "optuna",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scipy",
    "pydantic",
)
LONGEST_DIFF = 200_000  # characters
# of /proc/cpuinfo, widest first
ARITHMETIC = {
    "amx_bf16": "AMX bf16",
    "avx512_bf16": "AVX-512 bf16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
# Older ones have known holes on the suite's own ways: torch.load(weights_only=True) could be made
# to run code (CVE-2025-32434, CVE-2026-24747); MLflow's server let files be read and overwritten
# and accounts be passed by (CVE-2026-2614, -2651, -2652, -4137); Ray took jobs from any web page
# (CVE-2025-62593), and has a token by itself only since 2.60.
FLOORS = {"torch": (2, 10), "mlflow": (3, 11), "ray": (2, 60)}


def describe(folder: Path) -> dict[str, Any]:
    """Versions, hardware and the git state of ``folder``, as plain values; no environment
    variables, so no secrets.
    """
    return {
        "suite": suite_version(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "host": platform.node(),
        "user": _user(),
        "command": command(),
        "git": _git(folder),
    }


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_floors() -> None:
    """Refuse packages that are too old to be safe.

    Raises:
        EnvironmentProblem: naming each of them.
    """
    installed = {name: _version(name) for name in FLOORS}
    raise_problems(
        Problem(
            f"{name} must be {'.'.join(map(str, floor))} or later, got {installed[name]}: older "
            "ones have known holes",
            remedy="pip install -r requirements.txt",
            environment=True,
        )
        for name, floor in FLOORS.items()
        if installed[name] and _numbers(installed[name]) < floor
    )


def _numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` -> (2, 13)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def suite_version() -> str:
    """This suite's own version, as its runs are tagged."""
    return _version("suite") or "0.1.0"


def command() -> str:
    """The command that runs here, as a shell takes it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return shlex.join([*start, *sys.argv[1:]])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    """The processor's model, and the widest arithmetic that it has: some machines give all of
    them one name.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
        flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
    return next((f"{name} {said}" for flag, said in ARITHMETIC.items() if flag in flags), name)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _git(folder: Path) -> dict[str, str]:
    commit = _run(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {"commit": commit, "diff": _run(folder, "diff", "HEAD")[:LONGEST_DIFF]}


def _run(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
