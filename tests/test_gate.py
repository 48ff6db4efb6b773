"""The gate of a benchmark: its figures count only where the tests that it names pass, and some
ran.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import gate


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("assert True", "passes (1 passed)"),
        ("assert False", "FAILS (1 failed)"),
        ("import pytest; pytest.skip('no such machine')", "FAILS (1 skipped)"),
    ],
)
def test_a_gate_says_what_ran(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "test_one.py"
    file.write_text(f"def test_one():\n    {body}\n")
    assert gate(str(file)) == f"{said}: {file}"
