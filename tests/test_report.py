"""The report: verdicts against independent computations, files whole and inert, everything that is missing said."""

from __future__ import annotations

import csv as csv_reader
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, needed
from scipy import stats

from suite import analysis
from suite.analysis import adjusted_p, baselines, compare, curves, sign_flips, verdict
from suite.errors import EnvironmentProblem, UsageError
from suite.journal import TrialHistory
from suite.records import EpochRecord, Objective, Status, Trial
from suite.report import figures, make
from suite.report.content import Content, content
from suite.report.making import folder_name, publish, write
from suite.report.stored import Rules, histories, rules
from suite.report.tables import csv, markdown
from suite.tracking import MlflowTracker, SweepRuns, TrialRun, default_artifacts

VAL = Objective("val/acc")
EVIL = "<script>alert(1)</script>"


# ---- made-up sweeps --------------------------------------------------------------------------------------------------


def history(
    arm: str, seed: int, test: float = 0.5, *, baseline: bool = False, status: str = "finished", numerics: str = "fp32",
    settings: Mapping[str, Any] | None = None,
) -> TrialHistory:  # fmt: skip
    """A trial of two epochs, of which validation prefers the first."""
    records = {
        1: EpochRecord(1, {"val/acc": 0.6, "test/acc": test, "train/acc": 0.7}),
        2: EpochRecord(2, {"val/acc": 0.55, "test/acc": 0.99, "train/acc": 0.9}),
    }
    trial = Trial(f"{arm}-{seed}", arm, seed, f"{arm} seed={seed}", settings or {})
    return TrialHistory(trial, {"baseline": baseline, "numerics": {"precision": numerics}}, records, Status(status))


def sweep_of(table: Mapping[str, Sequence[float]], baseline: str = "base") -> list[TrialHistory]:
    """Arm -> test figure by seed."""
    return [
        history(arm, seed, value, baseline=arm == baseline)
        for arm, values in table.items()
        for seed, value in enumerate(values)
    ]


def run(arm: str, seed: int, *, status: str = "finished", epochs: int = 4, **tags: str) -> TrialRun:
    """A trial's run as the store has it."""
    rng = np.random.default_rng([seed, len(arm), ord(arm[0])])
    curve = np.linspace(0.3, 0.6 + len(arm) / 100, epochs) + rng.normal(0, 0.01, epochs)
    metrics = {
        name: {epoch + 1: float(value + shift) for epoch, value in enumerate(curve)}
        for name, shift in (("val/acc", 0.0), ("test/acc", -0.01), ("train/acc", 0.1), ("time/epoch_s", 1.0))
    }
    known = {
        "suite.arm": arm, "suite.settings": json.dumps({"augment": arm}), "suite.in_plan": "true", "suite.reason": "",
        "suite.baseline": "true" if arm == "base" else "false", "suite.numerics": '{"precision": "fp32"}',
        "suite.objective": '{"name": "val/acc", "goal": "maximize", "strategy": "best"}',
    }  # fmt: skip
    tags = {f"suite.{name}": value for name, value in tags.items()}
    metrics = {name: history for name, history in metrics.items() if history}
    return TrialRun(f"r{arm}{seed}", f"{arm}{seed}", arm, seed, f"{arm} seed={seed}", status, known | tags, {}, metrics)


def runs(*trials: TrialRun, status: str = "finished", description: str = "What helps?", **tags: str) -> SweepRuns:
    """A sweep as the store has it."""
    known = {"mlflow.note.content": description, "suite.margin": "0.005", "mlflow.source.name": "suite.sweep x.yaml"}
    known |= {f"suite.{name}": value for name, value in tags.items()}
    return SweepRuns("fruit", TrialRun("p", "", "", -1, "fruit", status, known, {"metric": "val/acc"}), trials)


def grid(arms: Sequence[str], seeds: int, **more: Any) -> list[TrialRun]:
    return [run(arm, seed, **more) for arm in arms for seed in range(seeds)]


def report(*trials: TrialRun, **more: Any) -> Content:
    return content(runs(*trials, **more), Rules(VAL))


def said(found: Content) -> str:
    return "\n".join((*found.conclusions, *found.notices))


# ---- verdicts --------------------------------------------------------------------------------------------------------


def t_of(values: Sequence[float]) -> float:
    return float(abs(stats.ttest_1samp(values, 0).statistic))


def closed_test(table: np.ndarray) -> list[float]:
    """Adjusted p by closed testing: an arm's p is the largest of all max-T tests of sets of arms that it is in."""
    seeds, arms = table.shape
    flips = list(itertools.product((1, -1), repeat=seeds))
    t = [[t_of(table[:, arm] * np.array(signs)) for arm in range(arms)] for signs in flips]
    p = [0.0] * arms
    for size in range(1, arms + 1):
        for some in itertools.combinations(range(arms), size):
            largest = [max(row[arm] for arm in some) for row in t]
            share = sum(value >= largest[0] - 1e-9 for value in largest) / len(flips)
            for arm in some:
                p[arm] = max(p[arm], share)
    return p


@pytest.mark.parametrize("case", range(4))
def test_adjusted_p_is_that_of_the_closed_test(case: int) -> None:
    rng = np.random.default_rng(case)
    table = rng.normal([0.0, 0.5, 1.5, 0.1], 1.0, (6, 4)) - rng.normal(0, 1, (6, 1))
    assert adjusted_p(table) == pytest.approx(closed_test(table))


def test_one_arm_gets_scipys_permutation_p() -> None:
    values = np.random.default_rng(5).normal(0.4, 1, 8)
    found = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert adjusted_p(values[:, None]) == pytest.approx([found.pvalue])


def test_six_seeds_can_tell_however_many_arms_there_are_and_five_cannot() -> None:
    steady = np.linspace(0.9, 1.1, 6)[:, None] * np.ones((1, 40))
    assert adjusted_p(steady) == pytest.approx([2 / 64] * 40)
    assert adjusted_p(steady[:5]).min() == pytest.approx(2 / 32)


def test_equal_arms_have_p_one_and_constant_differences_the_smallest() -> None:
    p = adjusted_p(np.column_stack([np.zeros(6), np.full(6, 0.1)]))
    assert p == pytest.approx([1.0, 2 / 64])


def test_signs_are_all_there_are_up_to_twelve_seeds_and_many_beyond() -> None:
    assert len({tuple(row) for row in sign_flips(12)}) == 4096
    many = sign_flips(13)
    assert many.shape == (10_001, 13) and (many[0] == 1).all() and abs(many[1:].mean()) < 0.01
    assert (many == sign_flips(13)).all()


def test_random_signs_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(2).normal(0.45, 1, (12, 3))
    exact = adjusted_p(table)
    monkeypatch.setattr(analysis, "EXACT_SEEDS", 6)
    assert adjusted_p(table) == pytest.approx(exact, abs=0.02)


def test_an_arm_that_lacks_seeds_is_tested_on_those_it_has() -> None:
    full = np.random.default_rng(3).normal(1.0, 0.5, 6)
    assert adjusted_p(np.append(full, np.nan)[:, None]) == pytest.approx(adjusted_p(full[:, None]))


def simulated(sweeps: int, effects: Sequence[float], seeds: int = 6) -> list[Sequence[str]]:
    """Verdicts of sweeps whose arms share a baseline and the noise of each seed."""
    rng = np.random.default_rng(1)
    words = []
    for _ in range(sweeps):
        noise = rng.normal(0, 0.01, (seeds, len(effects) + 1)) + rng.normal(0, 0.01, (seeds, 1))
        differences = noise[:, 1:] + np.array(effects) - noise[:, :1]
        p = adjusted_p(differences)
        spans = [analysis.interval(list(column))[1:] for column in differences.T]
        words.append([verdict(low, high, p[arm], 0.005, True) for arm, (low, high) in enumerate(spans)])
    return words


def test_false_verdicts_are_rare_where_nothing_differs() -> None:
    wrong = sum(bool({"better", "worse"} & set(words)) for words in simulated(1000, [0.0] * 5))
    assert 5 <= wrong <= 64


def test_true_differences_do_not_make_false_verdicts_about_other_arms() -> None:
    words = simulated(1000, [0.1, -0.1, 0.0, 0.0])
    assert sum(bool({"better", "worse"} & set(row[2:])) for row in words) <= 64
    assert sum(row[:2] == ["better", "worse"] for row in words) > 900


def test_verdicts_are_those_of_the_rule() -> None:
    assert verdict(-0.001, 0.004, 0.01, 0.005, True) == "equivalent"
    assert verdict(0.001, 0.02, 0.03, 0.005, True) == "better"
    assert verdict(0.001, 0.02, 0.03, 0.005, False) == "worse"
    assert verdict(-0.02, -0.01, 0.03, 0.005, True) == "worse"
    assert verdict(-0.02, 0.02, 0.4, 0.005, True) == "inconclusive"
    assert verdict(0.001, 0.02, 0.05, 0.005, True) == "inconclusive"
    assert verdict(0.01, 0.02, None, 0.005, True) == "too few seeds"
    assert verdict(0.0, 0.0, 1.0, 0.0, True) == "equivalent"


def test_differences_are_paired_by_seed_at_the_epoch_that_validation_chose() -> None:
    base, other = [0.50, 0.55, 0.60, 0.52, 0.58, 0.61], [0.53, 0.57, 0.65, 0.56, 0.60, 0.66]
    row = compare(sweep_of({"base": base, "other": other}), VAL).set_index("arm").loc["other"]
    expected = stats.ttest_rel(other, base)
    span = expected.confidence_interval(0.95)
    assert row["difference"] == pytest.approx(np.mean(other) - np.mean(base))
    assert (row["difference low"], row["difference high"]) == pytest.approx((span.low, span.high))
    assert (row["pairs"], row["p"], row["verdict"], row["against"]) == (6, pytest.approx(2 / 64), "better", "base")


def test_stopped_failed_and_differently_computed_trials_are_in_no_pair() -> None:
    items = sweep_of({"base": [0.5] * 6, "other": [0.9] * 6})
    items[6].status = Status.STOPPED
    items[7].status = Status.FAILED
    items[8].entry["numerics"] = {"precision": "bf16"}
    row = compare(items, VAL).set_index("arm").loc["other"]
    assert (row["pairs"], row["verdict"]) == (3, "too few seeds")
    assert np.isnan(row["p"])


def test_a_loss_is_better_when_it_falls() -> None:
    items = sweep_of({"base": [0.5] * 6, "other": [0.4, 0.41, 0.42, 0.4, 0.41, 0.43]})
    for item in items:
        item.records = {1: EpochRecord(1, {"val/loss": 1.0, "test/loss": item.records[1].metrics["test/acc"]})}
    assert list(compare(items, Objective("val/loss", "minimize"))["verdict"]) == ["baseline", "better"]


def test_an_arm_is_compared_with_the_baseline_of_equal_remaining_settings() -> None:
    items = [
        history(f"{depth} {lr}", 0, baseline=depth == 0, settings={"depth": depth, "lr": lr})
        for depth in (0, 1, 2)
        for lr in (0.1, 0.2)
    ]
    assert baselines(items) == {"1 0.1": "0 0.1", "1 0.2": "0 0.2", "2 0.1": "0 0.1", "2 0.2": "0 0.2"}


def test_without_a_baseline_nothing_is_compared() -> None:
    frame = compare(sweep_of({"a": [0.5] * 6, "b": [0.6] * 6}), VAL)
    assert list(frame["verdict"]) == ["no baseline", "no baseline"]


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_of_the_seeds_as_far_as_all_have_it() -> None:
    items = sweep_of({"a": [0.5, 0.7]})
    items[0].records.pop(2)
    (curve,) = curves(items, "test/acc")
    assert (curve.epochs, curve.mean, curve.low, curve.high) == ((1,), (0.6,), (0.5,), (0.7,))


def test_trials_that_did_not_finish_are_drawn_only_where_none_did() -> None:
    items = [history("a", 0, 0.5), history("a", 1, 0.9, status="stopped"), history("b", 0, status="stopped")]
    items.append(history("c", 0, status="failed"))
    found = {curve.arm: (curve.seeds, curve.status) for curve in curves(items, "val/acc")}
    assert found == {"a": (1, Status.FINISHED), "b": (1, Status.STOPPED)}


def test_labels_are_moved_apart_and_no_further() -> None:
    placed = figures.spread([0.5, 0.5, 0.9, 0.51], 0.05)
    assert placed[2] == 0.9
    assert sorted(placed[:2] + placed[3:]) == pytest.approx([0.503333 - 0.05, 0.503333, 0.553333], abs=1e-5)
    assert figures.spread([0.99, 1.0, 0.01], 0.05) == pytest.approx([0.95, 1.0, 0.01])


def test_the_best_arms_have_colours_and_the_rest_are_grey() -> None:
    found = figures.lines(
        curves(histories(runs(*grid([f"arm{n}" for n in range(30)], 1))), "val/acc"), [], figures.LIGHT
    )
    assert len({line.colour for line in found if line.text}) == figures.IN_COLOUR
    assert {line.colour for line in found if not line.text} == {figures.LIGHT.grey}


# ---- what is read back -----------------------------------------------------------------------------------------------


def test_runs_read_back_are_the_trials_that_the_journal_has() -> None:
    (item,) = histories(runs(run("base", 3, epochs=2)))
    assert (item.trial.arm, item.trial.seed, item.status) == ("base", 3, Status.FINISHED)
    assert item.trial.settings == {"augment": "base"} and item.entry["baseline"] is True
    assert [record.epoch for record in item.curve] == [1, 2]


def test_a_foreign_run_and_a_cut_tag_do_no_harm() -> None:
    run_ = TrialRun("x", "", "", -1, "mine", "killed", {"suite.settings": '{"a": 1, "b...'})
    (item,) = histories(runs(run_))
    assert (item.trial.arm, item.status, item.trial.settings) == ("mine", Status.INTERRUPTED, {})


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_verdicts_come_first() -> None:
    found = report(*grid(["base", "very_good_arm"], 6))
    assert found.conclusions[0] == "Better than the baseline: very_good_arm."
    assert "Being first in a list is no verdict" in found.conclusions[-1]
    assert found.rows[0][0] == "very_good_arm" and found.rows[0][-1] == "better"


def test_too_few_seeds_are_said() -> None:
    found = report(*grid(["base", "other"], 2))
    assert "Too few seeds to tell (fewer than 6" in found.conclusions[0]


@pytest.mark.parametrize(
    ("trials", "more", "expected"),
    [
        ([], {}, "no trials yet"),
        (grid(["a"], 1, status="pending", epochs=0), {"status": "running"}, "still running: 0 of 1 trials"),
        (grid(["a", "b"], 1, status="interrupted"), {"status": "interrupted"}, "not complete: 0 of 2"),
        (grid(["base", "b"], 1, status="failed", epochs=0), {}, "No trial has finished"),
        (grid(["base", "b"], 1), {}, "Each arm has one seed"),
        (grid(["a", "b"], 2), {}, "names no baseline"),
        (grid(["base"], 2), {}, "one arm"),
        ([*grid(["base"], 2), run("b", 0), run("b", 1, status="failed", reason="NaN")], {}, "1 of 4 trials failed"),
        ([*grid(["base"], 2), run("b", 0), run("b", 1, status="failed")], {}, "finished seeds (1 to 2)"),
        ([*grid(["base"], 2), *grid(["b"], 2, status="stopped")], {}, "2 trials stopped early"),
        ([*grid(["base"], 2), *grid(["b"], 2, numerics='{"precision": "bf16"}')], {}, "different numerics"),
        ([*grid(["base"], 2), *grid(["b"], 2, in_plan="false")], {}, "2 runs of arms or seeds"),
        ([*grid(["base"], 2), *grid(["b"], 2, nan="val/loss at epoch 1")], {}, "not numbers"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(trials: list[TrialRun], more: dict[str, Any], expected: str, tmp_path: Path) -> None:
    found = report(*trials, **more)
    assert expected in said(found)
    write(found, tmp_path / "x")  # and each gives a whole report
    assert expected in (tmp_path / "x" / "index.html").read_text()


def test_failed_trials_give_their_reasons() -> None:
    found = report(*grid(["base"], 2), run("b", 0, status="failed", reason="the loss became NaN at epoch 3"))
    assert [failure.reason for failure in found.failures] == ["the loss became NaN at epoch 3"]
    assert "the loss became NaN at epoch 3" in markdown(found)


# ---- files -----------------------------------------------------------------------------------------------------------


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
        self.addresses += [value or "" for name, value in attrs if name in ("src", "srcset", "href")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def evil() -> Content:
    """A sweep whose every text wants to be something else."""
    trials = [run("base", 0), run(EVIL, 0), run("=1+1", 0), run("$x_{|`*[a](b)", 0), run("名\x07\n前", 0)]
    trials.append(run(EVIL, 1, status="failed", epochs=0, reason=f"{EVIL} | `x`"))
    return report(*trials, description=EVIL, status="running")


def test_all_that_is_shown_is_text_and_the_page_is_one_file(tmp_path: Path) -> None:
    page = Page((publish(evil(), tmp_path)).read_text())
    assert "script" not in page.tags and "link" not in page.tags
    assert sum(EVIL in text for text in page.texts) >= 4
    assert page.addresses and all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)


def test_markdown_shows_names_as_they_are() -> None:
    text = markdown(evil())
    assert "<script" not in text and "&lt;script&gt;" in text
    assert r"\$x\_{\|\`\*\[a\](b)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    arms = [row for row in rows if "Verdict" in row or "no baseline" in row or "too few" in row]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in arms}) == 1


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
    rows = list(csv_reader.DictReader((tmp_path / "fruit" / "results.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert rows[0]["run_id"] == "rbase0" and float(rows[0]["val/acc"]) <= 1


def test_the_same_runs_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(report(*grid(["base", "b"], 2)), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "arms.csv", "figures/curves.png", "figures/curves.svg", "index.html", "report.md", "results.csv",
    ]  # fmt: skip
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_a_report_replaces_itself_whole(tmp_path: Path) -> None:
    publish(report(*grid(["base", "b"], 2)), tmp_path)
    publish(report(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}
    assert "no trials yet" in (tmp_path / "fruit" / "report.md").read_text()
    assert not list((tmp_path / "fruit" / "figures").iterdir())


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(report(*grid(["base"], 2)), tmp_path)
    before = (tmp_path / "fruit" / "index.html").read_bytes()

    def full(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "draw", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        publish(report(*grid(["base"], 3)), tmp_path)
    assert (tmp_path / "fruit" / "index.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"fruit"}


def test_a_folder_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "fruit").mkdir()
    (tmp_path / "fruit" / "journal.jsonl").write_text("precious")
    with pytest.raises(UsageError, match=r"holds something else: journal\.jsonl"):
        publish(report(*grid(["base"], 2)), tmp_path)
    assert (tmp_path / "fruit" / "journal.jsonl").read_text() == "precious"


def test_a_name_leads_nowhere_else() -> None:
    assert folder_name("../../etc/x") == "_.._etc_x"
    assert folder_name("..") == "sweep"


# ---- a real store ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A sqlite store with a small finished sweep in it, projected as a sweep does it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MlflowTracker("tiny", uri, default_artifacts(uri), "j1", tmp_path)
    entries: list[dict[str, Any]] = []

    def add(kind: str, **fields: Any) -> None:
        entries.append({"seq": len(entries) + 1, "ts_ms": 1_700_000_000_000 + len(entries), "kind": kind, **fields})

    text = "name: tiny\nmetric: {name: val/acc, margin: 0.02}\ntrial: {data: {name: digits}, model: {arch: resnet20}}\n"
    add("launch", text=text, file="tiny.yaml", overrides=[], description="Which?", environment={"python": "3.11.0"},
        command="python -m suite.sweep tiny.yaml", params={"method": "grid", "metric": "val/acc"})  # fmt: skip
    for arm in ("base", "other"):
        for seed in (0, 1):
            trial = f"{arm}{seed}"
            add("trial", id=trial, arm=arm, seed=seed, name=trial, settings={"augment": arm}, config={},
                baseline=arm == "base", objective={"name": "val/acc", "goal": "maximize"})  # fmt: skip
            add("start", id=trial)
            add("epoch", id=trial, epoch=1, metrics={"val/acc": 0.5 + seed / 10, "test/acc": 0.5, "train/acc": 0.6})
            add("end", id=trial, status="finished", epochs=1, best_epoch=1, best_value=0.5)
    add("close", status="finished", counts={})
    for entry in entries:
        tracker.apply(entry)
    return uri


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_report_is_made_from_a_store_alone(store: str, tmp_path: Path) -> None:
    from suite.tracking import read

    assert rules(read(store, "tiny"), store) == Rules(VAL, 0.02)
    page = make("tiny", store, tmp_path / "out")
    assert page == tmp_path / "out" / "tiny" / "index.html"
    text = (page.parent / "report.md").read_text()
    assert "Too few seeds to tell" in text and "3.11.0" in text and "2.00 points" in text
    check = (
        "import sys\nimport suite.analysis\nassert not {'torch', 'ray', 'mlflow'} & set(sys.modules)\n"
        "from pathlib import Path\nfrom suite.report import make\n"
        f"make('tiny', {store!r}, Path({str(tmp_path / 'again')!r}))\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'a report needs neither torch nor ray'\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parent.parent, timeout=120)


def test_an_unknown_sweep_and_a_missing_store_are_said(folder: Any) -> None:
    done = folder.run("nosuch", module="suite.report")
    assert done.returncode == 6 and "mlflow.db does not exist" in done.stderr and "Traceback" not in done.stderr


def test_numerics_are_those_of_the_trials_and_the_command_is_whole() -> None:
    command = "python -m suite.sweep f.yaml seeds=[0,1]"
    told = runs(*grid(["base", "b"], 2), numerics='{"precision": "bf16"}', command=command)
    facts = dict(content(told, Rules(VAL)).facts)
    assert facts["Numerics"] == "precision fp32", "the last launch asked for another precision and ran nothing"
    assert facts["Command"] == command


# ---- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
@needed
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_is_drawn_whole_at_any_width_and_stays_text(width: int, tmp_path: Path) -> None:
    pages = [publish(evil(), tmp_path / "evil"), publish(report(*grid(["base", "x" * 60, "b"], 6)), tmp_path / "good")]
    with chromium() as browser:
        for file in pages:
            page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
            told: list[str] = []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("dialog", lambda dialog, told=told: told.append("a script ran"))
            page.goto(file.as_uri())
            root = "document.documentElement"
            assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), "the page is wider than the screen"
            assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert told == []
