"""What became of each fault: tests marked ``fault(row)`` say so, and ``make faults`` writes the
table of all rows.

``make cluster`` writes a table of its own rows beside it. Where only some tests are asked for
(``--last-failed``, ``-k``, names of tests), the others keep what the table has of them, with the
commit at which they ran.

Rows are numbered as in the design's table of faults. A test reports how many faults it injected,
and figures, with the fixture ``tally``; a test marked ``control=True`` shows that a stock or broken
build fails the row.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("SUITE_FAULTS") == "full"
CLUSTER = bool(os.environ.get("SUITE_CLUSTER"))
ROWS = {
    1: "SIGINT to the driver",
    2: "SIGINT twice",
    3: "SIGTERM to the driver",
    4: "SIGKILL of the driver",
    5: "SIGKILL of the driver, workers live on",
    6: "SIGKILL of a worker",
    7: "SIGKILL of Ray's raylet or GCS",
    8: "no memory",
    9: "a hung trial",
    10: "an exception in the user's code",
    11: "NaN or infinite loss",
    12: "a node dies",
    13: "a node is powered off",
    14: "a network cut, healed",
    15: "a slow, lossy network",
    16: "the head dies",
    17: "preemption notice",
    18: "storage that a node cannot see",
    19: "disk full in a checkpoint",
    20: "disk full in journal or database",
    21: "truncated checkpoint",
    22: "flipped bit in a checkpoint",
    23: "crash between two syncs or renames",
    24: "folder not writable",
    25: "folder moved",
    26: "checkpoint of another network",
    27: "object store errors",
    28: "tracking server down 0, 20, 60 s",
    29: "tracking server gone for good",
    30: "errors, answers lost",
    31: "database locked",
    32: "many writers on one database",
    33: "database of another schema",
    34: "huge params, long names",
    35: "strange characters in names",
    36: "the same sweep twice at once",
    37: "two sweeps at once",
    38: "a finished sweep again",
    39: "the config changed",
    40: "the code changed",
    41: "the clock steps",
    42: "ports in use",
    43: "a GPU asked for, none there",
    44: "bad sweep files",
}


@dataclass
class Tally:
    """What a test did.

    Attributes:
        faults: injected.
        kills: of them, signals to real processes of a real sweep.
        figures: name -> value, for the table.
    """

    faults: int = 0
    kills: int = 0
    figures: dict[str, str] = field(default_factory=dict)

    def add(self, faults: int = 1, kills: int = 0) -> None:
        """Count faults that were survived."""
        self.faults += faults
        self.kills += kills


@pytest.fixture
def tally(record_property: Any) -> Any:
    """Counts what the test injects."""
    mine = Tally()
    yield mine
    record_property("tally", [mine.faults, mine.kills, mine.figures])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long ones run only in ``make faults``; the mark goes into the report that xdist sends to
    the writer.
    """
    for item in items:
        mark = item.get_closest_marker("fault")
        if item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="part of the full run: make test-full"))
        if mark is None:
            continue
        item.user_properties.append(("fault", [list(mark.args), bool(mark.kwargs.get("control"))]))
        if mark.kwargs.get("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="part of the full matrix: make faults"))

    if FULL:
        items.sort(key=lambda item: item.get_closest_marker("fault") is None)
        faults = sum(item.get_closest_marker("fault") is not None for item in items)
        items[:faults] = _spread(items[:faults])


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The longest first, as the last one to begin would end alone; crash points, which compute,
    among the others, which wait.
    """
    longest = [
        item
        for item in items
        if "stopped_and_killed" in item.nodeid or "sweeps_at_once" in item.nodeid
    ]
    items = [item for item in items if item not in longest]
    busy = [item for item in items if "test_crash_points" in item.nodeid]
    others = [item for item in items if "test_crash_points" not in item.nodeid]
    places = [(place + 0.5) / len(some) for some in (busy, others) for place in range(len(some))]
    return longest + [
        item
        for _, item in sorted(zip(places, [*busy, *others], strict=True), key=lambda pair: pair[0])
    ]


# rows, whether a control, test, outcome, [faults, kills, figures], seconds, commit
_results: list[tuple[list[int], bool, str, str, list[Any], float, str]] = []
_tallies: dict[
    str, list[Any]
] = {}  # test -> what it did: said when its fixture ends, after its outcome
_started = time.time()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what became of a marked test."""
    found = dict(report.user_properties)
    if "fault" not in found:
        return
    if "tally" in found:
        _tallies.setdefault(report.nodeid, [0, 0, {}])[:] = found["tally"]
    if not (report.when == "call" or report.skipped or report.failed):
        return
    rows, control = found["fault"]
    tally = _tallies.setdefault(report.nodeid, [0, 0, {}])
    _results.append(
        (rows, control, report.nodeid, report.outcome, tally, report.duration, _commit())
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table, in the one process that has all results."""
    if not _results or hasattr(session.config, "workerinput"):
        return
    folder = session.config.rootpath / "reports" / "faults"
    options = session.config.option
    if (
        options.keyword
        or getattr(options, "lf", False)
        or any("::" in argument for argument in session.config.args)
    ):
        _keep(folder / ("index.csv" if FULL else "cluster.csv"))
    if FULL:
        write(folder, "index", "Faults", list(ROWS))
    elif CLUSTER:
        rows = {row for one in _results if one[3] != "skipped" for row in one[0]}
        write(folder, "cluster", "Faults of a cluster", sorted(rows))


def _keep(table: Path) -> None:
    """Add what a table has of tests that were not asked for now."""
    now = {one[2] for one in _results}
    if table.exists():
        with table.open(newline="") as file:
            for line in csv.DictReader(file):
                if line["test"] not in now and "commit" in line:
                    rows, tally = (
                        list(map(int, line["rows"].split())),
                        [int(line["faults"]), int(line["kills"])],
                    )
                    did = [*tally, json.loads(line["figures"])]
                    control, seconds = line["control"] == "True", float(line["seconds"])
                    _results.append(
                        (rows, control, line["test"], line["outcome"], did, seconds, line["commit"])
                    )


def write(folder: Path, name: str, title: str, rows: Sequence[int]) -> None:
    """``NAME.md`` with a line for each row of the matrix, and ``NAME.csv`` with one for each
    test.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "rows",
                "control",
                "test",
                "outcome",
                "faults",
                "kills",
                "seconds",
                "commit",
                "figures",
            ]
        )
        for rows_of, control, test, outcome, (faults, kills, figures), seconds, commit in sorted(
            _results, key=lambda one: one[2]
        ):
            numbers = [faults, kills, f"{seconds:.1f}", commit, json.dumps(figures)]
            writer.writerow([" ".join(map(str, rows_of)), control, test, outcome, *numbers])
    lines = [
        f"# {title}",
        "",
        *_summary(),
        "",
        "| row | fault | tests | faults | outcome | control | figures |",
        "|--:|---|--:|--:|---|---|---|",
        *map(_line, rows),
        "",
        *_facts(name),
        "",
    ]
    (folder / f"{name}.md").write_text("\n".join(lines))


def _line(row: int) -> str:
    mine = [one for one in _results if row in one[0] and not one[1]]
    controls = [one for one in _results if row in one[0] and one[1]]
    ran = [one for one in mine if one[3] != "skipped"]
    faults = sum(one[4][0] or 1 for one in ran if one[3] == "passed")
    figures = "; ".join(f"{name} {value}" for one in ran for name, value in one[4][2].items())
    outcome, control = (
        _outcome(mine, "survived", "**not tested**"),
        _outcome(controls, "failed as it should", "none"),
    )
    return f"| {row} | {ROWS[row]} | {len(ran)} | {faults} | {outcome} | {control} | {figures} |"


def _outcome(found: list[Any], well: str, none: str) -> str:
    outcomes = {one[3] for one in found}
    if "failed" in outcomes:
        return "**FAILED**"
    if not found:
        return none
    if outcomes == {"skipped"}:
        elsewhere = all(one[2].startswith("tests/cluster") for one in found)
        return "by [`make cluster`](cluster.md)" if elsewhere else "skipped here"
    return well


def _summary() -> list[str]:
    counted: dict[str, tuple[int, int]] = {one[2]: (one[4][0] or 1, one[4][1]) for one in _results
                                           if one[3] == "passed" and not one[1]}  # fmt: skip
    outcomes: dict[str, int] = defaultdict(int)
    for one in _results:
        outcomes[one[3]] += 1
    faults, kills = (sum(pair[place] for pair in counted.values()) for place in (0, 1))
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    return [
        f"{faults:,} faults injected and survived, {kills} of them kills of processes of a "
        "real sweep. "
        f"Tests: {said}, the last run in {(time.time() - _started) / 60:.1f} min."
    ]


@cache
def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _facts(name: str) -> list[str]:
    commits: dict[str, int] = defaultdict(int)
    for one in _results:
        commits[one[6]] += 1
    at = ", ".join(
        f"{count} tests at {commit}"
        for commit, count in sorted(commits.items(), key=lambda pair: -pair[1])
    )
    versions = ", ".join(
        f"{package} {metadata.version(package)}" for package in ("ray", "mlflow", "torch")
    )
    command = "make cluster" if name == "cluster" else "make faults"
    return [
        f"`{command}`, {at}, {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}. Seeds are "
        "fixed in the tests; "
        f"each test with its outcome and time is in {name}.csv."
    ]
