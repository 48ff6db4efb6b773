"""Files that are damaged while nothing runs: checkpoints, the journal, the cursor."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from fault_table import FULL, Tally

from suite.core.errors import EnvironmentProblem
from suite.storage import checkpoint
from suite.storage.journal import Journal, read

TRIAL = "t0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial's checkpoint folder: epochs 3 and 4, as training leaves it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    generator = torch.Generator().manual_seed(0)
    for epoch in (3, 4):
        model = {
            f"layer{number}.weight": torch.randn(64, 64, generator=generator) for number in range(4)
        }
        files = {
            "last.pt": {"model": model, "step": 0},
            "best.pt": {"model": model, "epoch": epoch},
        }
        checkpoint.save(folder, files, trial=TRIAL, epoch=epoch, step=0)
    return folder


def damaged(saved: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of the folder, and its newest checkpoint."""
    shutil.copytree(saved, folder)
    return folder, folder / "e00004s000000"


def assert_passed_over(folder: Path, warnings: list[str]) -> None:
    """The one before it is used, the damaged one is set aside, and a line says so."""
    found = checkpoint.newest(folder, TRIAL, warnings.append)
    assert found is not None and found.epoch == 3, "damage was not noticed"
    assert found.read("last.pt")["step"] == 0
    assert (
        len(warnings) == 1
        and "is damaged" in warnings[0]
        and "going on from the one before it" in warnings[0]
    )
    assert len(list(folder.glob("*.corrupt"))) == 1


@pytest.mark.fault(22)
def test_each_of_fifty_flipped_bits_is_noticed(saved: Path, tmp_path: Path, tally: Tally) -> None:
    drawn = random.Random(22)
    for number in range(50):
        folder, newest = damaged(saved, tmp_path / f"{number}")
        file = newest / drawn.choice(["last.pt", "best.pt"])
        content = bytearray(file.read_bytes())
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        file.write_bytes(content)
        assert_passed_over(folder, [])
        tally.add()
    tally.figures["flips noticed"] = f"{tally.faults} of 50"


@pytest.mark.fault(22, control=True)
def test_torch_alone_reads_a_flipped_bit_without_a_word(saved: Path, tmp_path: Path) -> None:
    """The stock way: in the middle of a tensor's bytes nothing is noticed."""
    _, newest = damaged(saved, tmp_path / "it")
    file = newest / "last.pt"
    content = bytearray(file.read_bytes())
    whole = torch.load(file, weights_only=True)["model"]
    place = content.index(whole["layer0.weight"].numpy().tobytes()[:64])
    content[place + 2] ^= 1
    file.write_bytes(content)
    read_back = torch.load(file, weights_only=True)["model"]
    assert not torch.equal(read_back["layer0.weight"], whole["layer0.weight"])


@pytest.mark.fault(21)
def test_each_of_twenty_truncations_is_noticed(saved: Path, tmp_path: Path, tally: Tally) -> None:
    drawn = random.Random(21)
    for number in range(20):
        folder, newest = damaged(saved, tmp_path / f"{number}")
        file = newest / ("last.pt", "best.pt", checkpoint.MANIFEST)[number % 3]
        content = file.read_bytes()
        share = (0.0, 0.5, 0.999, drawn.random())[number % 4]
        file.write_bytes(content[: int(share * len(content))])
        assert_passed_over(folder, [])
        tally.add()
    tally.figures["cuts noticed"] = f"{tally.faults} of 20"


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    "how", ["no manifest", "empty folder", "no file", "another trial's", "another name"]
)
def test_what_is_missing_or_strange_is_noticed(
    saved: Path, tmp_path: Path, tally: Tally, how: str
) -> None:
    folder, newest = damaged(saved, tmp_path / "it")
    manifest = newest / checkpoint.MANIFEST
    if how == "no manifest":
        manifest.unlink()
    elif how == "empty folder":
        for file in newest.iterdir():
            file.unlink()
    elif how == "no file":
        (newest / "last.pt").unlink()
    elif how == "another trial's":
        manifest.write_text(manifest.read_text().replace(f'"{TRIAL}"', '"t1"'))
    else:
        newest.rename(folder / "e00009s000000")
    assert_passed_over(folder, [])
    tally.add()


@pytest.mark.fault(21, control=True)
def test_without_its_manifest_a_cut_checkpoint_is_taken(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken build: the newest is believed, and the trial ends there."""
    folder, newest = damaged(saved, tmp_path / "it")
    file = newest / "last.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setattr(checkpoint, "_damage", lambda candidate, trial: None)
    found = checkpoint.newest(folder, TRIAL)
    assert found is not None and found.epoch == 4
    with pytest.raises((RuntimeError, OSError)):
        found.read("last.pt")


@pytest.mark.fault(21)
def test_without_a_good_one_the_trial_starts_anew(
    saved: Path, tmp_path: Path, tally: Tally
) -> None:
    folder, _ = damaged(saved, tmp_path / "it")
    for file in folder.rglob("last.pt"):
        file.write_bytes(b"")
    warnings: list[str] = []
    assert checkpoint.newest(folder, TRIAL, warnings.append) is None
    assert len(warnings) == 2 and "starting anew" in warnings[1]
    tally.add(2)


@pytest.mark.fault(20, 23)
def test_a_journal_torn_anywhere_in_its_last_line_is_read(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(5):
        journal.append(
            "epoch",
            id="t",
            epoch=number,
            metrics={"val/acc": 0.1 * number, "test/läss": float("nan")},
        )
    journal.close()
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    cuts = (
        range(last, len(whole)) if FULL else random.Random(20).sample(range(last, len(whole)), 20)
    )
    for cut in cuts:
        path.write_bytes(whole[:cut])
        assert len(read(path)) == 4
        again = Journal(path)
        again.append("close", status="finished")
        again.close()
        entries = read(path)
        assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5] and entries[-1][
            "kind"
        ] == "close"
        tally.add()


@pytest.mark.fault(20)
def test_a_journal_damaged_before_its_end_is_refused_with_its_line(
    tmp_path: Path, tally: Tally
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(4):
        journal.append("epoch", id="t", epoch=number)
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(3):
        path.write_bytes(
            b"".join(
                b"#" + line[1:] if place == number else line for place, line in enumerate(lines)
            )
        )
        with pytest.raises(
            EnvironmentProblem, match=rf"journal\.jsonl:{number + 1}: the journal is damaged"
        ):
            read(path)
        tally.add()


@pytest.mark.fault(20)
def test_a_changed_journal_is_refused(tmp_path: Path, tally: Tally) -> None:
    """A line gone, doubled or swapped, another figure, JSON that is no entry; and each flipped
    bit of a line.
    """
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(5):
        journal.append("epoch", id="t", epoch=number, metrics={"val/acc": 0.5})
    journal.close()
    first, second, third, *rest = path.read_bytes().splitlines(keepends=True)
    drawn = random.Random(3)
    changed = [
        [first, third, *rest],
        [second, third, *rest],
        [first, second, second, third, *rest],
        [first, third, second, *rest],
        [first, second.replace(b"0.5", b"0.6"), third, *rest],
        *([first, other, third, *rest] for other in (b"5\n", b"null\n", b"{}\n", b'{"seq": 2}\n')),
    ]
    for _ in range(50):
        flipped = bytearray(second)
        flipped[drawn.randrange(len(second) - 1)] ^= 1 << drawn.randrange(8)
        changed.append([first, bytes(flipped), third, *rest])
    for lines in changed:
        path.write_bytes(b"".join(lines))
        with pytest.raises(
            EnvironmentProblem, match=r"journal\.jsonl:[1-4]: the journal is damaged"
        ):
            read(path)
        tally.add()


@pytest.mark.fault(20)
def test_a_journal_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"seq": 1, "ts_ms": 1, "kind": "stop"}\n')
    journal = Journal(path)
    journal.append("stop")
    journal.close()
    assert [entry["seq"] for entry in read(path)] == [1, 2]
    assert path.read_text().count('"crc"') == 1


@pytest.mark.fault(23, control=True)
def test_a_reader_of_lines_alone_trips_over_a_torn_one(tmp_path: Path) -> None:
    """What any reader of JSON lines does without more: a crash while writing would end every
    launch after it.
    """
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"seq": 1}\n{"seq": 2, "kin')
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        [json.loads(line) for line in path.read_text().splitlines()]
