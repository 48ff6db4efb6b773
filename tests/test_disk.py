"""``suite.system.disk``: a file is replaced as a whole, whatever goes wrong while it is written."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from suite.system import disk


@pytest.mark.parametrize("content", ["text", b"text", lambda file: file.write(b"text")])
def test_a_file_gets_its_new_content_and_no_draft_stays(tmp_path: Path, content: object) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    disk.atomic_write(file, content)  # type: ignore[arg-type]
    assert file.read_text() == "text" and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def fail(draft: IO[bytes]) -> None:
        draft.write(b"half of")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        disk.atomic_write(file, fail)
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_content_is_durable_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (calls.append("replace"), replace(self, to))[1]
    )
    disk.atomic_write(tmp_path / "a", b"x", sync=True)
    assert calls == ["fsync", "replace"]


def test_threads_that_write_one_file_never_mix(tmp_path: Path) -> None:
    file, contents = tmp_path / "a", [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: disk.atomic_write(file, content, shared=True), contents * 4))
    assert file.read_bytes() in contents and len(list(tmp_path.iterdir())) == 1
