"""The report's files and its page, of made-up sweeps and of a real store."""

from __future__ import annotations

import csv as csv_reader
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import (
    CONFIG1,
    CONFIG2,
    EVIL,
    FINETUNE,
    SCRATCH,
    VAL,
    evil,
    grid,
    history,
    report,
    run,
    runs,
    said,
    sweep_of,
    taught,
)
from scipy import stats
from test_report import course

from suite import analysis
from suite.analysis import compare, compare_sweeps
from suite.core.errors import EnvironmentProblem, UsageError
from suite.core.records import Objective, Status
from suite.report import figures, files, make
from suite.report.compare_sweeps import comparison_content
from suite.report.content import Content, content
from suite.report.files import folder_name, publish, write
from suite.report.formatting import with_interval
from suite.report.runs import Rules, histories, rules
from suite.report.tables import csv, latex, markdown, plain
from suite.tracking import MlflowStore, Projection, SweepRuns, TrialRun, default_artifacts

# ---- two sweeps ----------------------------------------------------------------------------------


def other_sweep(*trials: TrialRun, **more: Any) -> SweepRuns:
    return replace(runs(*trials, **more), sweep="nuts")


def shifted(trial: TrialRun, by: float) -> TrialRun:
    """The trial with other test figures."""
    metrics = {
        **trial.metrics,
        "test/acc": {
            epoch: value + by * (1 + 0.1 * trial.seed)
            for epoch, value in trial.metrics["test/acc"].items()
        },
    }
    return replace(trial, metrics=metrics)


def test_two_sweeps_are_compared_arm_by_arm_where_they_share_one(tmp_path: Path) -> None:
    ours = runs(*grid(["base", "a", "only here"], 6))
    theirs = other_sweep(
        *[shifted(trial, 0.05) for trial in grid(["base", "a"], 6, data_digest="abc")]
    )
    found = comparison_content(ours, theirs, Rules(VAL), Rules(VAL))
    assert [row[0] for row in found.tables[0].rows] == ["base", "a"]
    assert {row[-1] for row in found.tables[0].rows} == {"worse"}
    row = compare_sweeps(histories(ours), histories(theirs), VAL, VAL).set_index("arm").loc["a"]
    assert row["difference"] == pytest.approx(-0.05 * 1.25) and row["pairs"] == 6
    assert found.conclusions[0] == "Worse in fruit than in nuts: base, a."
    assert "different data" in said(found)
    page = publish(found, tmp_path)
    assert page.parent.name == "fruit-and-nuts" and "fruit and nuts" in page.read_text()


def test_two_sweeps_without_a_common_arm_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="must share an arm"):
        comparison_content(
            runs(*grid(["a"], 2)), other_sweep(*grid(["b"], 2)), Rules(VAL), Rules(VAL)
        )
    with pytest.raises(UsageError, match="twice"):
        comparison_content(runs(*grid(["a"], 2)), runs(*grid(["a"], 2)), Rules(VAL), Rules(VAL))


LAST = replace(VAL, strategy="last")


def test_each_sweep_chooses_the_epochs_of_its_own_trials(tmp_path: Path) -> None:
    """The difference is that of the two means beside it, though one sweep is judged by its last
    epochs.
    """
    ours, theirs = runs(*grid(["base", "a"], 6)), other_sweep(*grid(["base", "a"], 6))
    early = {
        1: 0.5,
        2: 0.9,
        3: 0.4,
        4: 0.3,
    }  # validation is best at epoch 2, where the test figure is another one
    trials = [
        replace(
            one,
            metrics={
                "val/acc": early,
                "test/acc": {1: 0.1, 2: 0.2 + 0.01 * one.seed, 3: 0.3, 4: 0.4},
            },
        )
        for one in theirs.trials
    ]
    found = comparison_content(ours, replace(theirs, trials=tuple(trials)), Rules(LAST), Rules(VAL))
    row = found.arms.set_index("arm").loc["a"]
    assert row["nuts: test/acc"] == pytest.approx(0.225), "of the best epoch"
    assert (
        row["difference"] == pytest.approx(row["fruit: test/acc"] - row["nuts: test/acc"])
        and row["pairs"] == 6
    )
    swapped = comparison_content(
        replace(theirs, trials=tuple(trials)), ours, Rules(VAL), Rules(LAST)
    )
    assert swapped.arms.set_index("arm").loc["a", "difference"] == pytest.approx(-row["difference"])


def test_sweeps_that_are_tested_by_different_figures_get_no_difference(tmp_path: Path) -> None:
    loss = Objective("val/loss", "minimize")
    theirs = [
        replace(one, metrics={"val/loss": {1: 0.5}, "test/loss": {1: 0.25}, "test/acc": {1: 0.9}})
        for one in grid(["base", "a"], 6)
    ]
    found = comparison_content(
        runs(*grid(["base", "a"], 6)), other_sweep(*theirs), Rules(VAL), Rules(loss)
    )
    assert "No difference is tested" in found.conclusions[0] and "test/loss" in found.conclusions[0]
    (table,) = found.tables
    assert table.headings[1:5] == (
        "fruit: seeds",
        "fruit: test accuracy, %",
        "nuts: seeds",
        "nuts: test loss",
    )
    assert table.headings[5:] == ("Verdict",)
    assert [row[3:] for row in table.rows] == [("6", "0.2500 ± 0.0000", "not tested")] * 2
    assert "difference" not in found.arms and "sign-flip" not in found.method[0]
    publish(found, tmp_path)
    with pytest.raises(ValueError, match="same figure"):
        compare_sweeps([], [], VAL, loss)


def test_shared_arms_that_never_finished_are_too_few(tmp_path: Path) -> None:
    failed = grid(["a"], 2, status="failed", epochs=0)
    found = comparison_content(runs(*failed), other_sweep(*grid(["a"], 1)), Rules(VAL), Rules(VAL))
    assert found.tables[0].rows[0][-1] == "too few seeds"
    publish(found, tmp_path)


def test_failed_trials_give_their_reasons() -> None:
    found = report(
        *grid(["base"], 2), run("b", 0, status="failed", reason="the loss became NaN at epoch 3")
    )
    assert [failure.reason for failure in found.failures] == ["the loss became NaN at epoch 3"]
    assert "the loss became NaN at epoch 3" in markdown(found)


# ---- files ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, texts and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "srcset", "href")
        ]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_all_that_is_shown_is_text_and_the_page_is_one_file(tmp_path: Path) -> None:
    page = Page((publish(evil(), tmp_path)).read_text())
    assert "script" not in page.tags and "link" not in page.tags
    assert sum(EVIL in text for text in page.texts) >= 4
    assert page.addresses and all(
        address.startswith("data:image/svg+xml;base64,") for address in page.addresses
    )


def test_markdown_shows_names_as_they_are() -> None:
    text = markdown(evil())
    assert "<script" not in text and "&lt;script&gt;" in text
    assert r"\$x\_{\|\`\*\[a\](b)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    arms = [row for row in rows if "Verdict" in row or "no baseline" in row or "too few" in row]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in arms}) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("# Not a heading", r"\# Not a heading"), ("###", r"\##\#"), ("- a", r"\- a"),
        ("+ a", r"\+ a"),
        ("---", r"\---"), ("=== a", r"\=== a"), ("1. a", r"1\. a"), ("12) a", r"12\) a"),
        ("a # b #", r"a # b \#"), ("> a", "&gt; a"),
        ("1.5 a", "1.5 a"), ("+1.25 points", "+1.25 points"), ("−1 - 2", "−1 - 2"),
        ("a 1. b", "a 1. b"), ("", ""),
    ],
)  # fmt: skip
def test_the_start_of_a_line_is_no_markup(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_descriptions_and_trials_are_no_headings() -> None:
    trials = [
        *grid(["base"], 2),
        replace(run("b", 0, status="failed", epochs=0, reason="x"), name="# heading"),
    ]
    lines = markdown(report(*trials, description="# Not a heading")).splitlines()
    assert r"\# Not a heading" in lines and r"- \# heading: x" in lines


def test_pairs_are_spoken_of_only_where_there_is_a_baseline() -> None:
    unequal = [*grid(["a"], 2), run("b", 0)]
    assert "Arms have unequal numbers of finished seeds (1 to 2)." in report(*unequal).notices
    assert "pairs are made" in said(report(*grid(["base"], 2), run("b", 0)))


def test_latex_shows_names_as_they_are() -> None:
    text = latex(evil().tables[0], f"{EVIL} 100 %\n\\input{{x}}")
    assert r"\caption{\textless{}script\textgreater{}alert(1)" in text
    assert r"100 \% \textbackslash{}input\{x\}}" in text
    assert r"\$x\_\{\textbar{}`*{[}a{]}(b)" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1 and len(rows) == 6
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_csv_cells_are_no_formulas_and_numbers_stay_numbers() -> None:
    found = evil()
    rows = list(csv_reader.DictReader(csv(found.trials).splitlines()))
    assert any(row["arm"] == "'=1+1" for row in rows)
    cells = [
        cell
        for text in (csv(found.trials), csv(found.arms))
        for row in csv_reader.reader([*text.splitlines()])
        for cell in row
    ]
    assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert all(float(cell) < 0 for cell in cells if cell.startswith("-"))


def test_results_have_a_row_for_each_trial_with_its_run(tmp_path: Path) -> None:
    publish(report(*grid(["base", "b"], 3)), tmp_path)
    rows = list(
        csv_reader.DictReader((tmp_path / "fruit" / "results.csv").read_text().splitlines())
    )
    assert len(rows) == 6
    assert rows[0]["run_id"] == "rbase0" and float(rows[0]["val/acc"]) <= 1


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(report(*grid(["base", "b"], 2)), tmp_path / name)
    files = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert [str(file) for file in files] == [
        "arms.csv",
        "figures/curves.png",
        "figures/curves.svg",
        "figures/splits.png",
        "figures/splits.svg",
        "figures/time.png",
        "figures/time.svg",
        "index.html",
        "report.md",
        "results.csv",
        "table.tex",
    ]
    assert all(
        (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        for file in files
    )


def test_a_report_replaces_itself_whole(tmp_path: Path) -> None:
    publish(report(*grid(["base", "b"], 2)), tmp_path)
    publish(report(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}
    assert "no trials yet" in (tmp_path / "fruit" / "report.md").read_text()
    assert not list((tmp_path / "fruit" / "figures").iterdir())


def test_a_report_that_cannot_be_made_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(report(*grid(["base"], 2)), tmp_path)
    before = (tmp_path / "fruit" / "index.html").read_bytes()

    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures.Curves, "draw", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        publish(report(*grid(["base"], 3)), tmp_path)
    assert (tmp_path / "fruit" / "index.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}


def killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Content, rename: int) -> None:
    """``publish``, killed before one of the renames; nothing after the kill is run, no
    ``finally`` either.
    """
    renames: list[Path] = []
    replace_ = Path.replace

    def counted(self: Path, target: Path) -> Path:
        renames.append(self)
        if len(renames) > rename:
            raise KeyboardInterrupt
        return replace_(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        patch.setattr("suite.report.files.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            publish(found, tmp_path)


def test_a_kill_between_the_renames_is_mended_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(report(*grid(["base"], 2)), tmp_path)
    killed(monkeypatch, tmp_path, report(*grid(["base"], 3)), rename=1)
    assert not (tmp_path / "fruit").exists() and len(list(tmp_path.iterdir())) == 2, (
        "what the kill leaves"
    )

    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(figures.Curves, "draw", full)
        with pytest.raises(EnvironmentProblem):
            publish(report(*grid(["base"], 4)), tmp_path)
    assert len((tmp_path / "fruit" / "results.csv").read_text().splitlines()) == 1 + 3, (
        "the killed run's was whole"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}


def test_an_old_report_whose_successor_is_gone_comes_back(tmp_path: Path) -> None:
    publish(report(*grid(["base"], 2)), tmp_path)
    (tmp_path / "fruit").replace(tmp_path / f".fruit.{'a' * 32}.tmp.old")
    files._recover(tmp_path / "fruit")
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}
    assert len((tmp_path / "fruit" / "results.csv").read_text().splitlines()) == 1 + 2


def test_only_drafts_of_this_report_that_nobody_writes_are_removed(tmp_path: Path) -> None:
    names = [
        f".fruit.{'a' * 32}.tmp",
        f".fruit.{'b' * 32}.tmp",
        f".fruit.cake.{'c' * 32}.tmp",
        ".fruit.mine.tmp",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    for name in names[1:]:
        os.utime(tmp_path / name, (1, 1))
    files._recover(tmp_path / "fruit")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], *names[2:]])


def test_a_folder_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "journal.jsonl").write_text("precious")
    with pytest.raises(UsageError, match=r"holds other files: journal\.jsonl"):
        publish(report(*grid(["base"], 2)), tmp_path)
    assert (tmp_path / "fruit" / "journal.jsonl").read_text() == "precious"


def test_a_name_leads_nowhere_else() -> None:
    assert folder_name("../../etc/x") == "_.._etc_x"
    assert folder_name("..") == "sweep"


# ---- a real store --------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A sqlite store with a small finished sweep in it, projected as a sweep does it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Projection(MlflowStore("tiny", uri, default_artifacts(uri), "j1"), tmp_path)
    entries: list[dict[str, Any]] = []

    def add(kind: str, **fields: Any) -> None:
        entries.append(
            {
                "seq": len(entries) + 1,
                "ts_ms": 1_700_000_000_000 + len(entries),
                "kind": kind,
                **fields,
            }
        )

    text = (
        "name: tiny\nmetric: {name: val/acc, margin: 0.02}\ntrial: {data: {name: digits}, "
        "model: {arch: resnet20}}\n"
    )
    add(
        "launch",
        text=text,
        file="tiny.yaml",
        overrides=[],
        description="Which?",
        environment={"python": "3.11.0"},
        command="python -m suite.sweep tiny.yaml",
        params={"method": "grid", "metric": "val/acc"},
    )
    for arm in ("base", "other"):
        for seed in (0, 1):
            trial = f"{arm}{seed}"
            add(
                "trial",
                id=trial,
                arm=arm,
                seed=seed,
                name=trial,
                settings={"augment": arm},
                config={},
                baseline=arm == "base",
                objective={"name": "val/acc", "goal": "maximize"},
            )
            add("start", id=trial)
            add(
                "epoch",
                id=trial,
                epoch=1,
                metrics={"val/acc": 0.5 + seed / 10, "test/acc": 0.5, "train/acc": 0.6},
            )
            add("end", id=trial, status="finished", epochs=1, best_epoch=1, best_value=0.5)
    add("close", status="finished", counts={})
    for entry in entries:
        tracker.apply(entry)
    return uri


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_report_is_among_the_artifacts_of_the_sweeps_run_and_replaces_itself(
    store: str, tmp_path: Path
) -> None:
    from suite.tracking import publish_report, read

    page = make("tiny", store, tmp_path / "out")
    run_id = read(store, "tiny").parent.run_id
    kept = tmp_path / "mlartifacts" / "tiny" / run_id / "artifacts" / "report"
    assert (kept / "index.html").read_bytes() == page.read_bytes() and (
        kept / "figures" / "curves.png"
    ).exists()
    (page.parent / "figures" / "curves.png").unlink()
    publish_report(store, run_id, page.parent)
    assert not (kept / "figures" / "curves.png").exists() and (kept / "table.tex").exists()
    told: list[str] = []
    (kept / "figures").rename(kept / "was")
    (kept / "figures").write_text("in the way")
    assert make("tiny", store, tmp_path / "out", tell=told.append) == page, (
        "a store that refuses costs no report"
    )
    assert "could not be uploaded to" in told[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_report_is_made_from_a_store_alone(store: str, tmp_path: Path) -> None:
    from suite.tracking import read

    assert rules(read(store, "tiny"), store) == Rules(VAL, 0.02)
    page = make("tiny", store, tmp_path / "out")
    assert page == tmp_path / "out" / "tiny" / "index.html"
    text = (page.parent / "report.md").read_text()
    assert "Too few seeds to tell" in text and "3.11.0" in text and "2.00 points" in text
    check = (
        "import sys\nimport suite.analysis\nassert not {'torch', 'ray', 'mlflow'} & "
        "set(sys.modules)\n"
        "from pathlib import Path\nfrom suite.report import make\n"
        f"make('tiny', {store!r}, Path({str(tmp_path / 'again')!r}))\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'a report needs neither torch nor ray'\n"
    )
    subprocess.run(
        [sys.executable, "-c", check], check=True, cwd=Path(__file__).parent.parent, timeout=120
    )


def test_an_unknown_sweep_and_a_missing_store_are_said(folder: Any) -> None:
    done = folder.run("nosuch", module="suite.report")
    assert (
        done.returncode == 6
        and "mlflow.db does not exist" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_a_large_sweep_is_reported_soon_and_small(tmp_path: Path) -> None:
    """200 arms, one trial each: every one has its row, the page stays one that a browser opens."""
    page = publish(report(*grid([f"arm{n}" for n in range(200)], 1, epochs=50)), tmp_path)
    assert page.read_text().count('<th scope="row"') == 2 * 200 and page.stat().st_size < 20_000_000


def test_numerics_are_those_of_the_trials_and_the_command_is_whole() -> None:
    command = "python -m suite.sweep f.yaml seeds=[0,1]"
    told = runs(*grid(["base", "b"], 2), numerics='{"precision": "bf16"}', command=command)
    facts = dict(content(told, Rules(VAL)).facts)
    assert facts["Numerics"] == "precision fp32", (
        "the last launch asked for another precision and ran nothing"
    )
    assert facts["Command"] == command


def test_when_is_that_of_the_trials_not_of_the_last_launch() -> None:
    trials = [
        replace(one, start_ms=1_700_000_000_000, end_ms=1_700_000_600_000)
        for one in grid(["base", "b"], 1)
    ]
    trials[1] = replace(trials[1], start_ms=1_700_000_060_000, end_ms=1_700_003_600_000)
    made = runs(*trials)
    told = replace(
        made, parent=replace(made.parent, start_ms=1_600_000_000_000, end_ms=1_800_000_000_000)
    )
    facts = dict(content(told, Rules(VAL)).facts)
    assert (
        facts["First trial begun"] == "2023-11-14 22:13 UTC"
        and facts["Last trial ended"] == "2023-11-14 23:13 UTC"
    )


def test_changes_and_cost_are_said() -> None:
    told = runs(
        *grid(["base", "b"], 2, numerics='{"precision": "fp32", "threads": 3, "device": "cpu"}')
    )
    environment = {"git": {"commit": "abc", "diff": "a\nb\nc"}}
    facts = dict(content(told, Rules(VAL), environment).facts)
    assert facts["Uncommitted changes"] == "3 lines of diff, in environment.json"
    spent = sum(sum(one.metrics["time/epoch_s"].values()) for one in told.trials)
    assert facts["Cost"] == f"{3 * spent / 3600:.2f} core-hours"
    clean = dict(content(told, Rules(VAL), {"git": {"commit": "abc", "diff": ""}}).facts)
    assert clean["Uncommitted changes"] == "none"
    assert "Uncommitted changes" not in dict(content(told, Rules(VAL), {}).facts)
    shared = runs(*grid(["base"], 1, numerics='{"threads": 3, "device": "cuda"}'))
    assert "hours on shared or whole GPUs" in dict(content(shared, Rules(VAL)).facts)["Cost"]


# ---- what earlier tests did not notice -----------------------------------------------------------


def test_behind_plus_minus_stands_half_the_interval() -> None:
    assert with_interval("test/acc", 0.55, 0.5, 0.6) == "55.00 ± 5.00"
    assert with_interval("val/loss", 0.55, 0.5, 0.6) == "0.5500 ± 0.0500"
    assert with_interval("test/acc", 0.5, None, 0.6) == "50.00"
    assert with_interval("test/acc", 0.5, float("nan"), 0.6) == "50.00"


def test_trials_stopped_early_are_not_among_the_finished_ones() -> None:
    items = [course("base", seed, [0.5, 0.6], baseline=True) for seed in (0, 1)]
    items += [course("a", seed, [0.6, 0.6]) for seed in (0, 1)]
    items[3].status = Status.STOPPED
    found = analysis.finished_by_pair(items)
    assert {arm: [seed for seed, _ in trials] for arm, trials in found.items()} == {
        "base": [0, 1],
        "a": [0],
    }
    assert tuple(analysis.epochs_to_baseline(items, VAL).set_index("arm").loc["a"]) == (1.0, 1, 1)


def test_the_smallest_visible_difference_is_in_sample_standard_deviations() -> None:
    base, other = [0.5] * 6, [0.51, 0.53, 0.52, 0.55, 0.50, 0.54]
    row = compare(sweep_of({"base": base, "other": other}), VAL).set_index("arm").loc["other"]
    spread = stats.tstd(np.subtract(other, base))
    assert row["smallest difference"] == pytest.approx(analysis.detectable(6, 1) * spread, rel=1e-6)


def test_means_are_of_finished_trials_at_the_epoch_that_validation_chose() -> None:
    items = [history("a", 0, 0.5), history("a", 1, 0.7), history("a", 2, 0.1, status="stopped")]
    items.append(history("a", 3, 0.1, status="failed"))
    trials = analysis.trials_frame(items, VAL)
    assert list(trials["test/acc"]) == [0.5, 0.7, 0.1, 0.1], (
        "epoch 1 of two, whose validation is the better"
    )
    assert list(trials["best_epoch"]) == [1, 1, 1, 1] and list(trials["epochs"]) == [2, 2, 2, 2]
    (row,) = analysis.arms_frame(trials, VAL).to_dict("records")
    assert row["test/acc"] == pytest.approx(0.6) and (
        row["seeds"],
        row["stopped"],
        row["failed"],
    ) == (2, 1, 1)


def test_stopped_and_failed_seeds_are_told_apart() -> None:
    trials = grid(["base", "b"], 2)
    trials += [
        run("b", 2, status="failed", epochs=0),
        run("b", 3, status="stopped"),
        run("b", 4, status="stopped"),
    ]
    cells = {row[0]: row[1] for row in report(*trials).tables[0].rows}
    assert cells["b"] == "2 of 5, 1 failed, 2 stopped early"


def test_the_front_falls_where_a_loss_is_judged() -> None:
    trials = []
    for arm, loss, spent in (("base", 0.9, 1.0), ("best", 0.2, 2.0), ("dear", 0.5, 3.0)):
        for seed in range(2):
            made = run(
                arm, seed, objective='{"name": "val/loss", "goal": "minimize", "strategy": "last"}'
            )
            losses = dict.fromkeys(range(1, 5), loss + 0.01 * seed)
            metrics = {
                "val/loss": losses,
                "test/loss": losses,
                "time/epoch_s": dict.fromkeys(losses, spent),
            }
            trials.append(replace(made, metrics=metrics))
    found = content(runs(*trials), Rules(Objective("val/loss", "minimize", "last")))
    (picture,) = [one for one in found.pictures if one.name == "time"]
    assert {mark.text for mark in picture.plot.marks if mark.best} == {"base", "best"}  # type: ignore[attr-defined]


def test_importance_is_about_the_best_whichever_way_that_is() -> None:
    """Of figures that only ``a`` moves, and only where it is small, the lower tenth is all about
    it.
    """
    rng = np.random.default_rng(3)
    bounds = {name: analysis.Bounds(0.0, 1.0) for name in "ab"}
    points = [{"a": float(rng.uniform()), "b": float(rng.uniform())} for _ in range(60)]
    figures = [(one, one["a"] if one["a"] < 0.15 else 1 + one["b"]) for one in points]
    shares = {
        goal: {one.name: one.share for one in analysis.importance(figures, goal, bounds)}
        for goal in ("minimize", "maximize")
    }
    assert shares["minimize"]["a"] > 0.8 and shares["maximize"]["b"] > 0.8


def test_overfitting_from_the_tenth_epoch_on_is_not_before_it() -> None:
    for lowest, outcome in ((9, "reproduced"), (10, "not reproduced"), (11, "not reproduced")):
        trials = [taught("scratch", seed, SCRATCH, 0.7, 0.3, lowest=lowest) for seed in range(6)]
        trials += [taught("finetune", seed, FINETUNE, 0.8, 0.9) for seed in range(6)]
        found = report(*trials)
        (row,) = [
            row
            for table in found.tables
            if table.name == "claims"
            for row in table.rows
            if "overfits" in row[0]
        ]
        assert row[-1] == outcome, lowest
        assert "Training less validation accuracy at the last epoch: +10.00 points." in row[1]


def overfitting(seeds: int, ends: Sequence[float]) -> tuple[str, str, str]:
    """Figures, outcome and caption of the claim; a validation loss of 1 at epoch 3 that ends so
    high, by seed.
    """
    trials = [taught("finetune", seed, FINETUNE, 0.8, 0.9) for seed in range(seeds)]
    for seed, end in zip(range(seeds), ends, strict=True):
        made = taught("scratch", seed, SCRATCH, 0.7, 0.3)
        losses = dict.fromkeys(range(1, 12), 1.2) | {3: 1.0, 12: end}
        trials.append(replace(made, metrics={**made.metrics, "val/loss": losses}))
    (table,) = [table for table in report(*trials).tables if table.name == "claims"]
    (row,) = [row for row in table.rows if "overfits" in row[0]]
    return row[1], row[2], table.caption


def test_overfitting_is_a_rise_of_a_hundredth_in_every_one_of_six_seeds() -> None:
    figures, outcome, caption = overfitting(6, [1.01] * 6)
    assert outcome == "reproduced" and "6 of 6 seeds." in figures
    assert "in every seed, of at least 6, the validation loss is lowest before epoch 10" in caption
    assert "at least 1 % above that" in caption
    assert overfitting(6, [1.009] * 6)[1] == "not reproduced", "what rises less stays where it is"
    assert overfitting(6, [1.1] * 5 + [1.0000001])[1] == "cannot be told"
    figures, outcome, _ = overfitting(5, [1.5] * 5)
    assert (
        outcome == "cannot be told"
        and "5 of 5 seeds; too few seeds, 6 are needed to tell." in figures
    )


def test_freezing_that_helps_costs_nothing_and_heads_that_differ_do_not_end_alike() -> None:
    trials = []
    for seed in range(6):
        trials += [
            taught("scratch", seed, SCRATCH, 0.7, 0.3),
            taught("finetune", seed, FINETUNE, 0.75, 0.9),
        ]
        trials += [
            taught("config1", seed, CONFIG1, 0.85, 0.9),
            taught("config2", seed, CONFIG2, 0.8, 0.9),
        ]
    told = {
        row[0]: row[-1]
        for table in report(*trials).tables
        if table.name == "claims"
        for row in table.rows
    }
    assert (
        told[
            "Freezing together with another head (config1) costs nothing against learning all "
            "weights (finetune)"
        ]
        == "reproduced"
    )
    assert told["Config1 (config1) and Config2 (config2) end alike"] == "not reproduced"


def test_a_deeper_net_that_only_generalises_worse_is_not_degraded() -> None:
    """Degradation shows in training; a net that fits better and tests worse is overfitted."""
    trials = []
    for seed in range(6):
        for arm, arch, train, test in (
            ("plain20", "plain20", 0.7, 0.65),
            ("plain56", "plain56", 0.8, 0.55),
        ):
            made = taught(arm, seed, {"model.arch": arch}, test, 0.5)
            metrics = dict(made.metrics) | {"train/acc": dict.fromkeys(range(1, 13), train)}
            trials.append(replace(made, metrics=metrics))
    (row,) = [
        row for table in report(*trials).tables if table.name == "claims" for row in table.rows
    ]
    assert row[-1] == "not reproduced"


def test_more_tested_arms_raise_the_smallest_visible_difference_of_each() -> None:
    rng = np.random.default_rng(0)
    table = {"base": rng.normal(0.5, 0.01, 8), "a": rng.normal(0.5, 0.01, 8)}
    alone = compare(sweep_of(table), VAL, 0.005).set_index("arm")["smallest difference"]["a"]
    table |= {f"more{n}": rng.normal(0.5, 0.01, 8) for n in range(6)}
    among = compare(sweep_of(table), VAL, 0.005).set_index("arm")["smallest difference"]["a"]
    assert among > 1.05 * alone
