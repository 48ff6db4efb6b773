"""The watchdog in a process of its own: what hangs ends and says where, what moves goes on.

A sweep: ``faults/``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from suite.system.watchdog import STACK_FILE, Watchdog

SCRIPT = """
import sys, time
from pathlib import Path
from suite.system.watchdog import Watchdog

folder, what = Path(sys.argv[1]), sys.argv[2]


def deep_asleep():
    time.sleep(60)


def keeps_the_lock():
    sum(range(10**12))


watchdog = Watchdog(0.5)
with watchdog.over(folder):
    for _ in range(30):
        time.sleep(0.05)
        watchdog.alive()
    if what != "moves":
        {"sleeps": deep_asleep, "computes": keeps_the_lock}[what]()
time.sleep(0.8)
print("done")
"""


def run(folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, str(script), str(folder / "trial"), what],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    ("what", "where"), [("sleeps", "deep_asleep"), ("computes", "keeps_the_lock")]
)
def test_what_hangs_ends_and_says_where(tmp_path: Path, what: str, where: str) -> None:
    """One of them never lets go of Python's lock."""
    began = time.monotonic()
    done = run(tmp_path, what)
    assert done.returncode == 1 and "done" not in done.stdout and time.monotonic() - began < 30
    assert where in (tmp_path / "trial" / STACK_FILE).read_text()


def test_what_moves_goes_on_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "moves")
    assert done.returncode == 0 and "done" in done.stdout, done.stderr
    assert list((tmp_path / "trial").iterdir()) == []


def test_zero_is_never(tmp_path: Path) -> None:
    with Watchdog(0).over(tmp_path / "trial"):
        pass
    assert not (tmp_path / "trial").exists()
