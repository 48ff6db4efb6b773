"""Where figures come from and where they are kept:
``benchmarks/results/<question>_<hardware>_<yyyy-mm>.md``.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from suite.system.environment import processor

RESULTS = Path(__file__).parent / "results"
FAILS = "FAILS"  # of a gate
PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "numpy",
    "pandas",
    "matplotlib",
    "albumentations",
    "kornia",
)


def hardware() -> str:
    """The processor in a word or two, with its number of logical cores and its widest
    arithmetic: a name hides that.
    """
    return f"{os.cpu_count()}x {processor()}"


def spread(values: Sequence[float], unit: str) -> str:
    """``median (lowest to highest) unit, n``."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.3g} ({low:.3g} to {high:.3g}) {unit}, n = {len(values)}"


def gate(*tests: str, full: bool = False) -> str:
    """``passes (61 passed, 2 skipped): TESTS``, or ``FAILS``, as pytest finds here and now.

    A figure counts only where they pass; those that were skipped are counted, and stand for
    nothing.

    Args:
        tests: what pytest is asked for, from the repository's root.
        full: with those that are too long for each commit.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--color=no",
        *tests,
    ]  # pyproject.toml has a -q: then no counts
    done = subprocess.run(
        command,
        cwd=RESULTS.parent.parent,
        env=os.environ | ({"SUITE_FAULTS": "full"} if full else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    counts = re.findall(
        r"\d+ (?:passed|failed|skipped|errors?)", (done.stdout.splitlines() or [""])[-1]
    )
    fine = done.returncode == 0 and any("passed" in count for count in counts)
    return (
        f"{'passes' if fine else FAILS} ({', '.join(counts) or 'nothing ran'}): {' '.join(tests)}"
    )


def keep(question: str, title: str, rows: Sequence[tuple[str, str]], text: str = "") -> Path:
    """Write a result file of names and figures; see ``keep_table``."""
    return keep_table(question, title, ("What", "Figure"), rows, text)


def keep_table(
    question: str, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], text: str = ""
) -> Path:
    """Write a result file whose figures are a table of several columns, followed by the facts, and
    print the table.

    Args:
        question: for the file's name, in lower case with hyphens.
        title: a sentence.
        header: names of the columns.
        rows: cells, as many as the header has.
        text: what was tried, what to bear in mind.

    Raises:
        SystemExit: with 1, once all is kept, where a gate fails.
    """
    file = RESULTS / f"{question}_{_short(hardware())}_{datetime.now(UTC):%Y-%m}.md"
    shown = markdown(header, rows)
    parts = [f"# {title}", shown, *([text] if text else []), markdown(("What", "Figure"), _facts())]
    RESULTS.mkdir(exist_ok=True)
    file.write_text("\n\n".join(parts) + "\n")
    print(shown)
    print(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
    if any(FAILS in part for part in parts):
        sys.exit("a gate fails: these figures do not count")
    return file


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(machine: str) -> str:
    """The machine as part of a file's name."""
    short = "".join(letter if letter.isalnum() else "-" for letter in machine.lower())
    return "-".join(part for part in short.split("-") if part)[:40].strip("-")


def _facts() -> list[tuple[str, str]]:
    """By what command, from which commit, on what and when."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in PACKAGES if _installed(name)
    )
    return [
        (
            "Command",
            f"`python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}`".replace(
                " `", "`"
            ),
        ),
        ("Commit", _commit()),
        ("Machine", hardware()),
        ("Versions", f"Python {platform.python_version()}, {versions}"),
        ("Date", f"{datetime.now(UTC):%Y-%m-%d}"),
    ]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    sources = ("--", ".", ":!benchmarks/results")  # a run of several questions writes there
    changed = (
        " with changes" if git("status", "--porcelain", "--untracked-files=no", *sources) else ""
    )
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
