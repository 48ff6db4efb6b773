"""What a reader sees of verdicts: lost seeds, looks, power, test images, claims, published
seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_up import (
    CONFIG1,
    CONFIG2,
    FINETUNE,
    SCRATCH,
    VAL,
    Store,
    history,
    network,
    run,
    runs,
    said,
)
from scipy import stats

from suite import analysis
from suite.analysis.predictions import Predictions
from suite.core.records import EpochRecord, Looks, Objective, Status, Trial
from suite.report import effects, image_error
from suite.report.content import Content, content
from suite.report.formatting import figure, percent, percentage_points, rounded, with_interval
from suite.report.image_error import ImageError, image_errors
from suite.report.runs import Rules, rules
from suite.report.study.claims import claims
from suite.report.study.study_arms import StudyArms, find_study_arms
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns, TrialRun

LATER = Looks(
    made=(tuple(range(2, 8)), tuple(range(1, 8)), tuple(range(6)))
)  # the third look is at six seeds
PARAMS = {
    "scratch": SCRATCH,
    "finetune": FINETUNE,
}  # of two arms about which the study claims something
NOISE = (0.001, -0.002, 0.003, 0.0, -0.001, 0.002, -0.003, 0.004)


def sweep(
    table: Mapping[str, Sequence[float | None]], status: str = "failed", **tags: str
) -> SweepRuns:
    """Arm -> accuracy by seed, validation and test alike; None: the trial ended with ``status``."""
    trials: list[TrialRun] = []
    for arm, values in table.items():
        for seed, value in enumerate(values):
            made = run(arm, seed, status="finished" if value is not None else status, epochs=1)
            at = {1: value if value is not None else 0.1}
            metrics = dict.fromkeys(("val/acc", "test/acc"), at) if value is not None else {}
            trials.append(replace(made, metrics=metrics))
    return runs(*trials, **tags)


def around(mean: float, seeds: int = 8) -> list[float | None]:
    return [mean + noise for noise in NOISE[:seeds]]


def row_of(found: Content, arm: str, name: str = "arms") -> dict[str, str]:
    """The cells of an arm in a table, by heading."""
    (table,) = (table for table in found.tables if table.name == name)
    (cells,) = (cells for cells in table.rows if cells[0] == arm)
    return dict(zip(table.headings, cells, strict=True))


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [66.125, 0.125, 1.005, 12.345, -0.675, 99.995])
def test_numbers_that_differ_in_their_last_bits_print_alike(value: float) -> None:
    near = [value, np.nextafter(value, 1e9), np.nextafter(value, -1e9), value + 1e-13]
    assert len({rounded(number, 2) for number in near}) == 1
    assert len({percentage_points("acc", number / 100) for number in near}) == 1


def test_zero_has_no_sign_and_minus_is_a_minus_sign() -> None:
    assert (
        percentage_points("test/acc", -0.00001) == percentage_points("test/acc", 0.00001) == "0.00"
    )
    assert (
        percentage_points("test/acc", -0.012) == "−1.20"
        and percentage_points("test/acc", 0.012) == "+1.20"
    )
    assert figure("test/loss", -0.5) == "−0.5000"
    assert [percent(level) for level in (1 / 32, 0.05, 0.00634)] == ["3.1 %", "5 %", "0.63 %"]


def test_intervals_of_accuracies_stay_within_0_and_100_percent() -> None:
    found = content(sweep({"base": [0.99, 1.0], "b": [0.0, 0.02]}), Rules(VAL))
    arms = found.arms.set_index("arm")
    assert arms.loc["base", "test/acc high"] == 1.0 and arms.loc["b", "test/acc low"] == 0.0
    _, low, _ = analysis.interval([0.99, 1.0])
    assert (
        row_of(found, "base")["Test accuracy (error), %"]
        == f"99.50 [{100 * low:.2f}, 100.00] (0.50)"
    )
    assert with_interval("test/acc", 0.5, 0.4, 0.6) == "50.00 ± 10.00"
    assert analysis.figure_interval("test/loss", [0.01, 0.5])[1] < 0, "a loss is not cut off"


# ---- lost seeds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_an_arm_that_lost_seeds_gets_no_lead_and_no_plain_better(status: str) -> None:
    lucky = [None, None, *around(0.8)[2:]]
    made = sweep({"base": around(0.6), "whole": around(0.61), "lucky": lucky}, status)
    found = content(made, Rules(VAL))
    row = row_of(found, "lucky")
    assert row["Verdict"] == "better on the 6 of 8 seeds it finished"
    arms = found.arms.set_index("arm")
    worst = [percentage_points("acc", arms.loc["lucky", f"worst {end}"]) for end in ("low", "high")]
    least = min(value for value in around(0.6))  # of all values that the sweep has
    filled = np.array([lucky, around(0.61)]).T.astype(float)
    filled[:2, 0] = least
    expected = analysis.simultaneous(filled - np.array([around(0.6)]).T, 0.005, analysis.FIRST_LOOK)
    assert (arms.loc["lucky", "worst low"], arms.loc["lucky", "worst high"]) == (
        pytest.approx(expected.low[0]), pytest.approx(expected.high[0])
    )  # fmt: skip
    assert row["Worst case"] == f"[{worst[0]}, {worst[1]}]"
    assert row_of(found, "whole")["Worst case"] == "–"
    assert found.winner == "whole" and found.conclusions[-1].startswith(
        "Highest mean validation accuracy: whole,"
    )
    text = said(found)
    assert (
        "Better than the baseline: whole." in text and "Better than the baseline: lucky" not in text
    )
    assert (
        "lucky is better than the baseline only on 6 of 8 seeds" in text
        and f"{worst[0]}, {worst[1]}" in text
    )
    assert (
        "lucky does not lead, though its mean is" in text
        and "it lost 2 seeds that base finished" in text
    )


def test_equivalent_and_worse_are_qualified_by_the_side_that_lost_seeds() -> None:
    base = [None, *around(0.6)[1:]]
    found = content(sweep({"base": base, "same": around(0.6), "low": around(0.5)}), Rules(VAL))
    assert row_of(found, "same")["Verdict"] == "equivalent on the 7 of 8 seeds both finished"
    assert row_of(found, "low")["Verdict"] == "worse on the 7 of 8 seeds the baseline finished"
    assert found.winner == "same", "the baseline lost a seed that others finished"


def test_nobody_leads_if_each_arm_lost_seeds() -> None:
    found = content(
        sweep({"base": [None, *around(0.6)[1:]], "b": [*around(0.7)[:7], None]}), Rules(VAL)
    )
    assert found.winner == "" and found.conclusions[-1].startswith("No arm leads")


def test_unconfirmed_arms_of_a_search_lose_nothing() -> None:
    """The search itself stops arms early; that is no loss of a confirmed arm."""
    made = sweep({"base": around(0.6), "good": around(0.7), "cut": [None]}, "stopped")
    made.parent.params["method"] = "random"  # type: ignore[index]
    found = content(made, Rules(VAL, confirmed=("base", "good")))
    assert list(found.arms["lost"]) == [0, 0, 0] and found.winner == "good"


# ---- looks ---------------------------------------------------------------------------------------


def test_the_first_look_keeps_some_of_the_error_for_later_ones() -> None:
    made = sweep({"base": around(0.6), "b": around(0.62)})
    (text,) = (
        line for line in content(made, Rules(VAL)).method if "This counts as the first look" in line
    )
    assert "judged at 3.1 %" in text and "does not say how often" in text
    looked = Rules(VAL, looks=Looks(made=(tuple(range(8)),)))
    assert not any("does not say" in line for line in content(made, looked).method)
    assert any("96.9 % intervals" in line for line in content(made, Rules(VAL)).method)


def test_seeds_added_after_a_look_are_judged_more_strictly_and_said() -> None:
    shifted = [
        0.6 + 0.002 + noise for noise in (0.001, 0.004, -0.001, 0.003, 0.002, 0.0005, 0.001, 0.003)
    ]
    made = sweep({"base": [0.6] * 8, "b": shifted})
    looks = Looks(made=tuple(tuple(range(count)) for count in (6, 7, 8)))
    later, first = (content(made, Rules(VAL, looks=each)) for each in (looks, Looks()))
    assert "this is look 3, judged at" in "\n".join(later.method)
    level = analysis.look_level(looks, 1)
    assert percent(level) in "\n".join(later.method) and level < analysis.FIRST_LOOK
    widths = [
        float((found.arms["difference high"] - found.arms["difference low"]).max())
        for found in (later, first)
    ]
    assert widths[0] > widths[1]


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.2])
def test_seeds_that_cannot_reach_the_level_of_a_later_look_decide_nothing(shift: float) -> None:
    """Their interval has no ends: no verdict follows from it, however large the difference."""
    found = content(
        sweep({"base": [0.6] * 6, "b": around(0.6 + shift, 6)}), Rules(VAL, looks=LATER)
    )
    row = found.arms.set_index("arm").loc["b"]
    assert (
        row["pairs"] == 6 and np.isnan(row["difference low"]) and np.isnan(row["difference high"])
    )
    assert row["verdict"] == "inconclusive" and row_of(found, "b")["Verdict"] == "inconclusive"
    assert analysis.undecided(found.arms) == ["b"]
    shown = said(found)
    assert "Inconclusive, a difference was neither shown nor ruled out: b." in shown
    assert not any(
        word in shown for word in ("Better than", "Worse than", "Equivalent to", "Too few")
    )


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("ends", [(np.nan, np.nan), (0.1, np.nan), (np.nan, -0.1), (np.nan, 0.001)])
def test_an_interval_without_an_end_gives_no_verdict(
    ends: tuple[float, float], rising: bool
) -> None:
    assert analysis.verdict(*ends, 0.03, 0.005, rising) == "inconclusive"


def test_looks_with_too_few_seeds_for_a_verdict_do_not_count() -> None:
    made = sweep({"base": around(0.6), "b": around(0.62)})
    looks = Looks(made=((0, 1), (0, 1, 2), tuple(range(8))))
    assert any(
        "counts as the first look" in line for line in content(made, Rules(VAL, looks=looks)).method
    )


def test_an_unfinished_sweep_gets_no_verdict_and_shows_no_interval() -> None:
    made = sweep({"base": around(0.6), "b": [*around(0.7)[:7], None]}, "running")
    found = content(made, Rules(VAL))
    row = row_of(found, "b")
    assert (
        row["Verdict"] == "unfinished"
        and "[" not in row["Difference to the baseline, percentage points"]
    )
    assert "Adjusted p" not in row and "If normal (Dunnett)" not in row
    assert "No verdict yet, because planned trials have not ended: b." in said(found)
    missing = content(sweep({"base": around(0.6), "b": around(0.7)}, planned="17"), Rules(VAL))
    assert row_of(missing, "b")["Verdict"] == "unfinished", "a trial has no run before it begins"
    whole = content(sweep({"base": around(0.6), "b": around(0.7)}, planned="16"), Rules(VAL))
    assert row_of(whole, "b")["Verdict"] == "better"


def test_a_planned_sweep_says_what_it_saved_and_when_each_arm_was_decided() -> None:
    planned = tuple(tuple(range(count)) for count in (8, 12, 16))
    rng = np.random.default_rng(0)
    values = {
        arm: list(mean + rng.normal(0, 0.01, 16)) for arm, mean in (("base", 0.6), ("open", 0.606))
    }
    values["clear"] = list(0.7 + rng.normal(0, 0.01, 8))
    found = content(sweep(values), Rules(VAL, looks=Looks(planned, planned)))
    assert found.arms.set_index("arm").loc["clear", "decided at"] == 8
    (text,) = (line for line in found.conclusions if line.startswith("Seeds in rounds"))
    assert "40 of at most 48 trials have ended. Decided: clear at 8 seeds" in text
    assert ("not decided: open" in text) == (row_of(found, "open")["Verdict"] == "inconclusive")
    level = analysis.look_level(Looks(planned, planned), 2)
    assert f"Look 3 of 3 planned ones. Each is judged at {percent(level)}" in "\n".join(
        found.method
    )


def test_a_plan_that_was_changed_counts_as_open() -> None:
    planned = (tuple(range(8)), tuple(range(12)))
    looks = Looks(planned, (tuple(range(6)), tuple(range(8))))
    found = content(sweep({"base": around(0.6), "b": around(0.7)}), Rules(VAL, looks=looks))
    text = "\n".join(found.method)
    assert (
        "planned seeds were changed" in text
        and "this is look 2" in text
        and "planned ones" not in text
    )


def test_rules_read_looks_and_the_search_seed_from_the_parent() -> None:
    tags = {"looks": json.dumps({"planned": [], "made": ["0-5", "0-7"]}), "search_seed": "3"}
    judged = rules(sweep({"base": around(0.6)}, **tags), "sqlite:////nowhere/mlflow.db")
    assert judged.looks.made == (tuple(range(6)), tuple(range(8))) and judged.search_seed == 3
    old = rules(sweep({"base": around(0.6)}), "sqlite:////nowhere/mlflow.db")
    assert old.looks == Looks() and old.search_seed is None


def test_the_seed_that_a_search_chose_by_counts_in_no_figure() -> None:
    made = sweep({"base": [0.6] * 7, "good": [0.99] + [0.7] * 6})
    made.parent.params["method"] = "random"  # type: ignore[index]
    found = content(made, Rules(VAL, confirmed=("base", "good"), search_seed=0))
    arms = found.arms.set_index("arm")
    assert arms.loc["good", "test/acc"] == pytest.approx(0.7) and arms.loc["good", "pairs"] == 6
    assert row_of(found, "good")["Seeds"] == "6" and len(found.trials) == 14
    assert "Seed 0, by which they were chosen, counts in none of their figures." in said(found)


# ---- what stands beside the verdict --------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "p"), [(6, "0.031"), (8, "0.008")])
def test_the_smallest_p_of_so_many_seeds_is_said(seeds: int, p: str) -> None:
    found = content(sweep({"base": [0.6] * seeds, "b": around(0.9, seeds)}), Rules(VAL))
    assert f"The smallest p that {seeds} seeds can give is {p}." in found.method
    assert row_of(found, "b")["Adjusted p"] == p, "which a difference this large reaches"


def test_what_pairing_gained_or_lost_is_said() -> None:
    shared = np.array(NOISE) * 10
    own = np.array(NOISE[::-1])
    gained = content(sweep({"base": list(0.6 + shared), "b": list(0.6 + shared + own)}), Rules(VAL))
    ratio = (np.var(shared, ddof=1) + np.var(shared + own, ddof=1)) / np.var(own, ddof=1)
    assert f"a difference {ratio:.1f} times smaller than without pairing." in "\n".join(
        gained.method
    )
    lost = content(sweep({"base": list(0.6 + shared), "b": list(0.6 - shared)}), Rules(VAL))
    assert "a difference 2.0 times larger: here pairing lost." in "\n".join(lost.method)


def test_three_seeds_get_dunnetts_verdict_under_its_own_name() -> None:
    found = content(sweep({"base": around(0.6, 3), "b": around(0.7, 3)}), Rules(VAL))
    row = row_of(found, "b")
    assert row["Verdict"] == "too few seeds" and row["If normal (Dunnett)"].startswith("better [")
    assert any("“If normal (Dunnett)”" in line and "equal spread" in line for line in found.method)
    assert "If normal (Dunnett)" not in row_of(
        content(sweep({"base": [0.6, 0.61], "b": [0.7, 0.72]}), Rules(VAL)), "b"
    )


def test_wins_stand_beside_the_difference() -> None:
    values = [0.61, 0.62, 0.59, 0.63, 0.6, 0.64]
    found = content(sweep({"base": [0.6] * 6, "b": values}), Rules(VAL))
    share = (4 + 0.5) / 6
    assert row_of(found, "b")["P(better)"].startswith(f"{share:.2f} [")


def test_the_row_of_smallest_differences_is_at_the_measured_spread() -> None:
    found = content(sweep({"base": [0.6] * 8, "b": around(0.6)}), Rules(VAL))
    spread = float(np.std(NOISE, ddof=1))
    (text,) = (line for line in found.conclusions if line.startswith("Smallest difference"))
    assert f"at the measured spread over seeds ({100 * spread:.2f} points)" in text
    for seeds in (6, 8, 10, 16):
        size = 100 * spread * analysis.detectable(seeds, 1)
        assert f"{size:.2f} with {seeds}" in text or f"{size:.2f} points with {seeds}" in text, (
            seeds
        )


@pytest.mark.parametrize("counts", [(8,), (6, 7, 8)])
def test_the_smallest_difference_of_this_sweep_is_that_at_the_level_of_its_look(
    counts: tuple[int, ...],
) -> None:
    looks = Looks(made=tuple(tuple(range(count)) for count in counts))
    found = content(sweep({"base": [0.6] * 8, "b": around(0.6)}), Rules(VAL, looks=looks))
    level = analysis.look_level(looks, 1)
    (text,) = (line for line in found.conclusions if line.startswith("Smallest difference"))
    size = 100 * float(np.std(NOISE, ddof=1)) * analysis.detectable(8, 1, level=level)
    assert f"{size:.2f} points with this sweep's 8 seeds; in a new sweep" in text
    (text,) = (line for line in found.method if line.startswith("The smallest difference"))
    assert (
        f"this sweep's at its level of {percent(level)}, new ones at that of a first look" in text
    )


def test_at_a_first_look_this_sweeps_size_is_printed_as_that_of_a_new_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table is rounded: beside a simulation it read "3.01 points ...; in a new sweep 3.00
    points".
    """
    monkeypatch.setattr("suite.report.power.analysis.seed_power", lambda arms: {6: 2.0, 8: 1.5})
    found = content(sweep({"base": [0.6] * 6, "b": around(0.6, 6)}), Rules(VAL))
    (text,) = (line for line in found.conclusions if line.startswith("Smallest difference"))
    size = f"{100 * 2 * float(np.std(NOISE[:6], ddof=1)):.2f} points with"
    assert f"{size} this sweep's 6 seeds; in a new sweep {size} 6 seeds" in text


@pytest.mark.parametrize(("seeds", "arms"), [(6, 1), (6, 16), (8, 4)])
def test_the_table_of_power_is_that_of_the_simulation(seeds: int, arms: int) -> None:
    assert analysis.seed_power(arms)[seeds] == pytest.approx(
        analysis.detectable(seeds, arms), abs=0.006
    )


def test_the_table_of_power_is_right_between_its_columns() -> None:
    assert analysis.seed_power(6)[6] == pytest.approx(analysis.detectable(6, 6), abs=0.06)
    assert analysis.seed_power(500) == analysis.seed_power(64)
    sizes = [list(analysis.seed_power(arms).values()) for arms in (1, 3, 5, 17, 64)]
    assert all(sorted(row, reverse=True) == row for row in sizes), "more seeds see less"
    assert sizes == sorted(sizes), "more arms need more"


# ---- test images ---------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path)
    made.stand_in(monkeypatch)
    return made


def add(store: Store, arm: str, seed: int, one: Predictions) -> None:
    accuracy = {1: float(one.correct.mean())}
    store.add(arm, seed, one, baseline="true" if arm == "base" else "false")
    store.trials[-1] = replace(
        store.trials[-1], metrics={"val/acc": accuracy, "test/acc": accuracy}
    )


def test_the_error_of_test_images_is_paired_image_by_image(store: Store) -> None:
    nets = {(arm, seed): network(10 * seed + place, 1.0 + place)
            for place, arm in enumerate(("base", "b")) for seed in (0, 1)}  # fmt: skip
    for (arm, seed), one in nets.items():
        add(store, arm, seed, one)
    found = image_errors(store.runs, "x", Rules(VAL))
    per_image = [
        np.mean(
            [
                float(nets["b", seed].correct[image]) - float(nets["base", seed].correct[image])
                for seed in (0, 1)
            ]
        )
        for image in range(300)
    ]
    assert set(found) == {"b"} and found["b"].exact
    assert found["b"].half == pytest.approx(1.96 * np.std(per_image, ddof=1) / np.sqrt(300))


def test_many_trials_get_an_upper_bound_from_one_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arm in ("base", "b"):
        for seed in range(3):
            add(store, arm, seed, network(seed, 1.0 + (arm == "b")))
    exact = image_errors(store.runs, "x", Rules(VAL))["b"].half
    monkeypatch.setattr(image_error, "MAX_LOADED", 5)
    read: list[str] = []
    load = Predictions.read
    monkeypatch.setattr(Predictions, "read", lambda path: read.append(str(path)) or load(path))
    found = image_errors(store.runs, "x", Rules(VAL))["b"]
    a, b = (
        np.mean([network(seed, skill).correct.mean() for seed in range(3)]) for skill in (2.0, 1.0)
    )
    assert found.half == pytest.approx(1.96 * np.sqrt((a * (1 - a) + b * (1 - b)) / 300))
    assert not found.exact and len(read) == 1 and found.half > exact


def test_without_predictions_nothing_is_said_of_test_images(store: Store) -> None:
    store.add("base", 0, None, baseline="true")
    store.add("b", 0, None)
    assert image_errors(store.runs, "x", Rules(VAL)) == {}
    assert image_errors(store.runs, "x", Rules(Objective("val/loss", "minimize"))) == {}


def test_a_verdict_that_other_test_images_may_undo_says_so() -> None:
    made = sweep({"base": around(0.6), "small": around(0.61), "large": around(0.7)})
    images = {"small": ImageError(0.02, True), "large": ImageError(0.02, False)}
    found = content(made, Rules(VAL), images=images)
    assert (
        row_of(found, "small")["Test images"] == "± 2.00"
        and row_of(found, "large")["Test images"] == "≤ 2.00"
    )
    (text,) = (line for line in found.conclusions if line.startswith("Other test images"))
    assert "for small:" in text and "large" not in text
    headings = list(row_of(found, "small"))
    assert headings.index("Test images") == 1 + headings.index(
        "Difference to the baseline, percentage points"
    )


# ---- claims --------------------------------------------------------------------------------------


def learned(
    arm: str, seed: int, end: float, speed: float, rng: np.random.Generator
) -> TrialHistory:
    epochs = np.arange(1, 21)
    values = end * (1 - np.exp(-speed * epochs)) + rng.normal(0, 0.003, 20)
    records = {
        int(epoch): EpochRecord(int(epoch), {"val/acc": float(value), "test/acc": float(value)})
        for epoch, value in zip(epochs, values, strict=True)
    }
    return TrialHistory(Trial(f"{arm}{seed}", arm, seed, arm), {}, records, Status.FINISHED)


def faster(end: float, speed: float, rng: np.random.Generator) -> str:
    """The outcome of "short learns faster than deep", whose time constant is 5 epochs and end 80
    %.
    """
    trials = [learned("deep", seed, 0.8, 0.2, rng) for seed in range(6)]
    trials += [learned("short", seed, end, speed, rng) for seed in range(6)]
    found = claims(trials, StudyArms(heads=(("deep", "short"),)), Rules(VAL))
    return next(claim.outcome for claim in found if "learns faster" in claim.text)


def test_an_arm_that_ends_higher_with_the_same_time_constant_is_not_faster() -> None:
    rng = np.random.default_rng(0)
    outcomes = [faster(0.82, 0.2, rng) for _ in range(200)]
    assert outcomes.count("reproduced") <= 10 and outcomes.count("not reproduced") <= 10
    assert [faster(0.82, 0.6, rng) for _ in range(5)] == ["reproduced"] * 5, (
        "three times as fast is seen"
    )


def ended(values: Mapping[str, Sequence[float]]) -> list[TrialHistory]:
    return [
        TrialHistory(Trial(f"{arm}{seed}", arm, seed, arm), {},
                     {1: EpochRecord(1, {"val/acc": value, "test/acc": value})}, Status.FINISHED)
        for arm, numbers in values.items() for seed, value in enumerate(numbers)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shift", "alike", "costless"),
    [
        (0.0, "reproduced", "reproduced"),
        (0.004, "cannot be told", "reproduced"),  # above zero, within the margin but for its end
        (-0.004, "cannot be told", "cannot be told"),  # below zero, yet inside the margin
        (-0.006, "cannot be told", "cannot be told"),
        (-0.02, "not reproduced", "not reproduced"),
        (0.02, "not reproduced", "reproduced"),
    ],
)
def test_sameness_is_refuted_only_if_the_whole_interval_lies_outside(
    shift: float, alike: str, costless: str
) -> None:
    values = {"base": [0.6] * 8, "b": [0.6 + shift + noise for noise in NOISE]}
    found = claims(
        ended(values), StudyArms(heads=(("base", "b"),), freezing=(("base", "b"),)), Rules(VAL)
    )
    told = {
        ("alike" if "end alike" in claim.text else claim.text.split()[0]): claim.outcome
        for claim in found
    }
    assert told["alike"] == alike
    assert told["Freezing"] == costless


def test_the_freezing_claim_compares_equal_heads_if_the_sweep_has_them() -> None:
    freeze7 = FINETUNE | {"model.freeze_depth": "7"}
    free = {name: value for name, value in FINETUNE.items() if name != "model.head"}
    arms = {"scratch": SCRATCH, "finetune": free, "config1": CONFIG1, "config2": CONFIG2}
    mixed = find_study_arms(arms)
    assert mixed.freezing == () and mixed.freezing_and_head == (("finetune", "config1"),)
    arms |= {"finetune": FINETUNE, "freeze7": freeze7}
    parted = find_study_arms(arms)
    assert parted.freezing == (("finetune", "freeze7"),)
    values = {"finetune": [0.8] * 6, "freeze7": [0.8] * 6, "config1": [0.78] * 6}
    texts = {claim.text: claim for claim in claims(ended(values), parted, Rules(VAL))}
    assert any(text.startswith("Freezing (freeze7) costs nothing") for text in texts)
    assert not any("another head" in text for text in texts)
    (claim,) = (
        one for one in claims(ended(values), mixed, Rules(VAL)) if "another head" in one.text
    )
    assert (
        claim.outcome == "not reproduced" and "the difference is not that of freezing" in claim.rule
    )


def stepped(arm: str, seed: int, reached: int, end: float = 0.5) -> TrialHistory:
    """A trial of nine epochs whose accuracies rise to ``end`` at an epoch, all at once."""
    names = ("val/acc", "test/acc", "train/acc")
    accuracies = [0.1] * (reached - 1) + [end] * (10 - reached)
    records = {
        epoch: EpochRecord(epoch, dict.fromkeys(names, value))
        for epoch, value in enumerate(accuracies, start=1)
    }
    return TrialHistory(Trial(f"{arm}{seed}", arm, seed, arm), {}, records, Status.FINISHED)


def paired_steps(name: str, reached: Sequence[int], ends: Sequence[float]) -> list[TrialHistory]:
    """An arm, and beside it ``base``, which reaches 50 % at epoch 5."""
    arm = [stepped(name, seed, *both) for seed, both in enumerate(zip(reached, ends, strict=True))]
    return arm + [stepped("base", seed, 5) for seed in range(len(arm))]


def outcome(trials: list[TrialHistory], kind: str, looks: Looks) -> str:
    pair = (("base", "b"),)
    judged = claims(trials, StudyArms(heads=pair, depths=pair), Rules(VAL, looks=looks))
    text = {"faster": "learns faster", "alike": "end alike", "deeper": "deeper plain net"}[kind]
    return next(claim.outcome for claim in judged if text in claim.text)


@pytest.mark.parametrize(
    ("kind", "clear", "one_seed_against"),
    [
        (
            "faster",
            paired_steps("b", [2] * 6, [0.5] * 6),
            paired_steps("b", [2] * 5 + [6], [0.5] * 6),
        ),
        (
            "alike",
            paired_steps("b", [5] * 6, [0.501] * 6),
            paired_steps("b", [5] * 6, [0.5] * 5 + [0.506]),
        ),
        (
            "deeper",
            paired_steps("b", [5] * 6, [0.4] * 6),
            paired_steps("b", [5] * 6, [0.4] * 5 + [0.51]),
        ),
    ],
)
def test_claims_are_judged_at_the_level_of_the_look(
    kind: str, clear: list[TrialHistory], one_seed_against: list[TrialHistory]
) -> None:
    """The interval of six seeds is their range at 1/32, and has no ends at a third look's level."""
    assert outcome(clear, kind, Looks()) == "reproduced"
    assert outcome(one_seed_against, kind, Looks()) == "cannot be told"
    assert analysis.look_level(LATER, 1) < 1 / 32
    assert outcome(clear, kind, LATER) == "cannot be told"


def test_the_table_of_claims_names_the_level_of_the_look() -> None:
    trials = [run(arm, seed, params=PARAMS[arm]) for arm in PARAMS for seed in range(6)]
    for looks in (Looks(), LATER):
        found = content(runs(*trials), Rules(VAL, looks=looks))
        (table,) = (table for table in found.tables if table.name == "claims")
        assert (
            f"at a level of {percent(analysis.look_level(looks, 1))}, excludes zero"
            in table.caption
        )


# ---- published seeds -----------------------------------------------------------------------------


def published(reference: Mapping[str, Any]) -> dict[str, str]:
    made = sweep({"base": [0.61, 0.63, 0.62, 0.6], "b": [0.5] * 4})
    return row_of(content(made, Rules(VAL, reference={"base": reference})), "base", "published")


def test_published_seeds_are_tested_by_welchs_t() -> None:
    theirs = [0.58, 0.6, 0.55]
    row = published({"test/acc": theirs})
    result = stats.ttest_ind([0.61, 0.63, 0.62, 0.6], theirs, equal_var=False)
    span = result.confidence_interval(0.95)
    assert row["Welch’s p"] == f"{result.pvalue:.3f}"
    shown = [
        f"{100 * value:+.2f}".replace("-", "−")
        for value in (0.615 - np.mean(theirs), span.low, span.high)
    ]
    assert row["Difference"] == f"{shown[0]} [{shown[1]}, {shown[2]}]"
    assert row["Published"].endswith("(3 seeds)")


@pytest.mark.parametrize("value", [0.58, [0.58]])
def test_a_single_published_number_is_not_tested(value: Any) -> None:
    row = published({"test/acc": value})
    assert "Welch’s p" not in row and "[" not in row["Difference"] and row["Published"] == "58.00"


def test_equal_constant_sides_differ_by_nothing() -> None:
    assert analysis.welch([0.5, 0.5], [0.5, 0.5]) == (0.0, 0.0, 1.0)
    assert analysis.welch([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.0)


# ---- importance ----------------------------------------------------------------------------------


def test_nothing_stands_out_where_figures_are_noise() -> None:
    rng = np.random.default_rng(1)
    bounds = {name: analysis.Bounds(0.0, 1.0) for name in "abc"}
    points_ = [
        ({name: float(rng.uniform()) for name in "abc"}, float(rng.normal())) for _ in range(60)
    ]
    shares = analysis.importance(points_, "maximize", bounds)
    assert analysis.standing_out(shares) == []
    assert effects._importance(shares) == (
        "No parameter stands out: no interval lies above the equal share of 33 %.",
    )
    moved = [(settings, settings["a"]) for settings, _ in points_]
    shares = analysis.importance(moved, "maximize", bounds)
    assert [share.name for share in analysis.standing_out(shares)] == ["a"]
    assert "with its whole interval: a." in effects._importance(shares)[0]


# ---- collapsed seeds -----------------------------------------------------------------------------


def collapse_note(found: Content) -> str:
    return next(
        (line for line in found.conclusions if line.startswith("Single seeds are far worse")), ""
    )


@pytest.mark.parametrize("metric", ["val/acc", "val/loss"])
def test_an_arm_of_which_a_seed_collapsed_is_named(metric: str) -> None:
    table = {"base": around(0.6), "b": [*around(0.6, 7), 0.4], "c": around(0.6)}
    made = sweep(table)
    if metric == "val/loss":
        losses = [{1: 1 - trial.metrics["val/acc"][1]} for trial in made.trials]
        trials = (
            replace(trial, metrics={"val/loss": loss, "test/loss": loss})
            for trial, loss in zip(made.trials, losses, strict=True)
        )
        made = replace(made, trials=tuple(trials))
    objective = Objective(metric, "maximize" if metric == "val/acc" else "minimize")
    found = content(made, Rules(objective))
    assert "other seeds of their arm: b (seed 7). Intervals" in collapse_note(found)
    assert found.conclusions.index(collapse_note(found)) > 0, "after the verdicts"


@pytest.mark.parametrize(
    "values",
    [
        [0.6, 0.6005, 0.5995, 0.6, 0.6005, 0.5995, 0.6, 0.58],  # 2 points, less than five margins
        [
            0.6,
            0.62,
            0.56,
            0.64,
            0.58,
            0.66,
            0.61,
            0.45,
        ],  # far, but the other seeds scatter widely too
        [*around(0.6, 7), 0.8],  # far better is no collapse
        [*around(0.6, 4), 0.4],  # five seeds get no verdict
    ],
)
def test_an_arm_without_a_collapse_is_not_named(values: list[float | None]) -> None:
    assert collapse_note(content(sweep({"base": around(0.6), "b": values}), Rules(VAL))) == ""


def test_the_baseline_is_named_too_and_nothing_is_if_nothing_is_compared() -> None:
    table = {"base": [*around(0.6, 7), 0.4], "b": around(0.6)}
    assert "base (seed 7)" in collapse_note(content(sweep(table), Rules(VAL)))
    alone = {"other": table["base"], "b": table["b"]}
    assert collapse_note(content(sweep(alone), Rules(VAL))) == ""


# ---- what lost seeds do to the rest of the page --------------------------------------------------


def test_dunnetts_verdict_of_an_arm_that_lost_seeds_is_qualified_too() -> None:
    found = content(sweep({"base": around(0.6), "b": [*around(0.8, 6), None, None]}), Rules(VAL))
    assert row_of(found, "b")["If normal (Dunnett)"].startswith("better (of finished seeds)")


def test_failed_seeds_that_were_taken_out_of_the_file_still_count_as_lost() -> None:
    made = sweep({"base": around(0.6), "b": [*around(0.8, 6), None, None]})
    trials = [
        replace(trial, tags={**trial.tags, "suite.in_plan": "true" if trial.seed < 6 else "false"})
        for trial in made.trials
    ]
    found = content(replace(made, trials=tuple(trials)), Rules(VAL))
    arms = found.arms.set_index("arm")
    assert found.winner == "base"
    assert (arms.loc["b", "lost"], arms.loc["b", "verdict"]) == (2, analysis.BETTER_OF_FINISHED)


@pytest.mark.parametrize("status", [Status.FAILED, Status.RUNNING])
def test_claims_about_arms_that_are_not_whole_are_not_judged(status: Status) -> None:
    trials = ended({"base": around(0.6), "b": around(0.6)})
    roles = StudyArms(heads=(("base", "b"),))
    assert "reproduced" in {claim.outcome for claim in claims(trials, roles, Rules(VAL))}
    trials[-1].status = status
    found = claims(trials, roles, Rules(VAL))
    assert {claim.outcome for claim in found} == {"cannot be told"}
    assert any("Not judged: b lost seeds" in claim.figures for claim in found)


def with_loss(arm: str, losses: Sequence[float]) -> dict[Any, TrialHistory]:
    """Trials of one epoch whose test loss is given, as claims take them."""
    pairs = {}
    for seed, loss in enumerate(losses):
        trial = history(arm, seed)
        trial.records = {1: EpochRecord(1, {"val/loss": loss, "test/loss": loss})}
        pairs[(seed, "")] = trial
    return pairs


@pytest.mark.parametrize(("shift", "outcome"), [(-0.4, "reproduced"), (0.4, "not reproduced")])
def test_no_worse_is_judged_with_losses_that_fall(shift: float, outcome: str) -> None:
    """A lower loss than the other arm's is no worse, however much lower."""
    from suite.report.study.claims import _same

    noise = [0.0, 0.01, -0.01, 0.005, -0.005, 0.002]
    ours = with_loss("a", [1.0 + shift + each for each in noise])
    rules = Rules(Objective("val/loss", "minimize"))
    assert _same("x", ours, with_loss("b", [1.0] * 6), rules, no_worse=True).outcome == outcome
