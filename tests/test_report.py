"""The report: verdicts against independent computations, files whole and inert, everything that
is missing said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import (
    VAL,
    grid,
    history,
    report,
    run,
    runs,
    said,
    sweep_of,
    taught,
    transfer,
)

from suite import analysis
from suite.analysis import curves
from suite.core.records import EpochRecord, Status, Trial
from suite.report import figures
from suite.report.content import Content, content
from suite.report.files import write
from suite.report.runs import Rules, histories, rules
from suite.report.tables import markdown
from suite.storage.journal import TrialHistory
from suite.tracking import TrialRun

# ---- how fast, and what mattered -----------------------------------------------------------------


def course(
    arm: str, seed: int, figures: Sequence[float], *, baseline: bool = False
) -> TrialHistory:
    """A finished trial with these validation accuracies."""
    records = {
        epoch: EpochRecord(epoch, {"val/acc": value, "test/acc": value, "time/epoch_s": 2.0})
        for epoch, value in enumerate(figures, start=1)
    }
    return TrialHistory(
        Trial(f"{arm}{seed}", arm, seed, arm), {"baseline": baseline}, records, Status.FINISHED
    )


def test_epochs_until_the_baselines_best_are_counted_seed_by_seed() -> None:
    items = [
        course("base", 0, [0.1, 0.5, 0.4], baseline=True),
        course("base", 1, [0.2, 0.2, 0.6], baseline=True),
    ]
    items += [
        course("a", 0, [0.5, 0.9, 0.9]),
        course("a", 1, [0.5, 0.5, 0.5]),
        course("a", 2, [0.9, 0.9, 0.9]),
    ]
    found = analysis.epochs_to_baseline(items, VAL).set_index("arm")
    assert tuple(found.loc["base"]) == (2.5, 2, 2)
    assert tuple(found.loc["a"]) == (1.0, 1, 2)
    assert tuple(analysis.training_seconds(items).set_index("arm").loc["a"]) == (6.0, 6.0, 6.0)


def test_epochs_to_the_baselines_best_are_of_equal_numerics() -> None:
    items = [course("base", seed, [0.1, 0.5], baseline=True) for seed in (0, 1)]
    items += [course("a", seed, [0.5, 0.9]) for seed in (0, 1)]
    items[3].entry["numerics"] = {"precision": "bf16"}
    found = analysis.epochs_to_baseline(items, VAL).set_index("arm")
    assert tuple(found.loc["a"]) == (1.0, 1, 1)


def test_main_effects_are_over_seeds_of_equal_numerics() -> None:
    items = [
        history(str(rate), seed, 0.5 - rate, settings={"rate": rate})
        for rate in (0.1, 0.2)
        for seed in range(3)
    ]
    items[0] = history("0.1", 0, 0.9, numerics="bf16", settings={"rate": 0.1})
    found = {one.level: one.mean for one in analysis.main_effects(items, VAL, "test/acc")}
    assert found == {"0.1": pytest.approx(0.05), "0.2": pytest.approx(-0.05)}
    items[1].entry["numerics"] = items[2].entry["numerics"] = {"precision": "bf16"}
    assert analysis.main_effects(items, VAL, "test/acc") == []


def crossed(rates: Sequence[float], places: Sequence[str], seeds: int = 3) -> list[TrialHistory]:
    """A full grid whose figure is 0.5 less the rate plus a tenth for "late"."""
    rng = np.random.default_rng(0)
    return [
        history(
            f"{rate} {place}",
            seed,
            0.5 - rate + 0.1 * (place == "late") + rng.normal(0, 0.001),
            settings={"rate": rate, "place": place},
        )
        for rate in rates
        for place in places
        for seed in range(seeds)
    ]


def test_main_effects_are_those_that_the_figures_were_made_of() -> None:
    items = crossed([0.1, 0.2, 0.3], ["early", "late"])
    items += [
        history("none", seed, 0.9, settings={"rate": 0.0}) for seed in range(3)
    ]  # no place: it meets no equals
    found = {(one.setting, one.level): one for one in analysis.main_effects(items, VAL, "test/acc")}
    assert set(found) == {
        ("rate", "0.1"),
        ("rate", "0.2"),
        ("rate", "0.3"),
        ("place", "early"),
        ("place", "late"),
    }
    assert (
        found["rate", "0.1"].mean == pytest.approx(0.1, abs=0.003)
        and found["rate", "0.1"].arms == 2
    )
    assert found["place", "late"].mean == pytest.approx(0.05, abs=0.003)
    one = found["place", "early"]
    assert one.low is not None and one.high is not None and one.low < one.mean < one.high < 0


def test_recipes_that_meet_no_equals_have_no_main_effects() -> None:
    items = [history(str(n), 0, 0.5, settings={"a": n, "b": -n}) for n in range(4)]
    assert analysis.main_effects(items, VAL, "test/acc") == []


def searched(trials: int) -> list[tuple[dict[str, Any], float]]:
    rng = np.random.default_rng(0)
    lr, kind, other = (
        10 ** rng.uniform(-3, -1, trials),
        rng.choice(["u", "v"], trials),
        rng.uniform(0, 1, trials),
    )
    values = -((np.log10(lr) + 2) ** 2) + 0.2 * (kind == "v")
    return [({"lr": float(a), "kind": str(b), "other": float(c)}, float(v))
            for a, b, c, v in zip(lr, kind, other, values, strict=True)]  # fmt: skip


def test_importance_finds_what_the_figure_depends_on_and_needs_enough_trials() -> None:
    bounds = {"lr": analysis.Bounds(1e-3, 0.1, True), "other": analysis.Bounds(0, 1)}
    found = {one.name: one for one in analysis.importance(searched(80), "maximize", bounds)}
    assert next(iter(found)) == "lr" and found["kind"].share > 0
    assert found["lr"].low > found["other"].share
    assert all(one.low - 1e-9 <= one.share for one in found.values())
    assert sum(one.share for one in found.values()) == pytest.approx(1)
    assert analysis.importance(searched(analysis.MIN_TRIALS - 1), "maximize", bounds) == []
    assert (
        analysis.importance([(label, 0.5) for label, _ in searched(80)], "maximize", bounds) == []
    )


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(1, 0.5), (2, 0.4), (2, 0.7), (3, 0.7), (0.5, 0.1), (1, 0.5)]
    assert {points[i] for i in analysis.front(points)} == {(0.5, 0.1), (1, 0.5), (2, 0.7)}
    assert {points[i] for i in analysis.front(points, rising=False)} == {(0.5, 0.1)}


# ---- curves --------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_of_the_seeds_as_far_as_all_have_it() -> None:
    items = sweep_of({"a": [0.5, 0.7]})
    items[0].records.pop(2)
    (curve,) = curves(items, "test/acc")
    assert (curve.epochs, curve.mean, curve.low, curve.high) == ((1,), (0.6,), (0.5,), (0.7,))


def test_trials_that_did_not_finish_are_drawn_only_where_none_did() -> None:
    items = [
        history("a", 0, 0.5),
        history("a", 1, 0.9, status="stopped"),
        history("b", 0, status="stopped"),
    ]
    items.append(history("c", 0, status="failed"))
    found = {curve.arm: (curve.seeds, curve.status) for curve in curves(items, "val/acc")}
    assert found == {"a": (1, Status.FINISHED), "b": (1, Status.STOPPED)}


def test_labels_are_moved_apart_and_no_further() -> None:
    placed = figures.spread([0.5, 0.5, 0.9, 0.51], 0.05)
    assert placed[2] == 0.9
    assert sorted(placed[:2] + placed[3:]) == pytest.approx(
        [0.503333 - 0.05, 0.503333, 0.553333], abs=1e-5
    )
    assert figures.spread([0.99, 1.0, 0.01], 0.05) == pytest.approx([0.95, 1.0, 0.01])


def test_the_best_arms_have_colours_and_the_rest_are_grey() -> None:
    arms = [f"arm{n}" for n in range(30)]
    found = figures.lines(
        curves(histories(runs(*grid(arms, 1))), "val/acc"), figures.styles(arms, [])
    )
    assert len({line.colour for line in found if line.text}) == figures.IN_COLOUR
    assert {line.colour for line in found if not line.text} == {figures.LIGHT.grey}


# ---- what is read back ---------------------------------------------------------------------------


def test_runs_read_back_are_the_trials_that_the_journal_has() -> None:
    (item,) = histories(runs(run("base", 3, epochs=2)))
    assert (item.trial.arm, item.trial.seed, item.status) == ("base", 3, Status.FINISHED)
    assert item.trial.settings == {"augment": "base"} and item.entry["baseline"] is True
    assert [record.epoch for record in item.curve] == [1, 2]


def test_a_foreign_run_and_a_cut_tag_do_no_harm() -> None:
    run_ = TrialRun("x", "", "", -1, "mine", "killed", {"suite.settings": '{"a": 1, "b...'})
    (item,) = histories(runs(run_))
    assert (item.trial.arm, item.status, item.trial.settings) == ("mine", Status.INTERRUPTED, {})


def unfit(arm: str, seed: int, **figures: float) -> TrialRun:
    """A run whose store has these figures at its second epoch."""
    made = run(arm, seed)
    names = {name.replace("_", "/", 1): value for name, value in figures.items()}
    return replace(
        made,
        metrics={
            name: {**known, 2: names.get(name, known[2])} for name, known in made.metrics.items()
        },
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_figures_of_a_foreign_store_that_are_no_numbers_are_missing(value: float) -> None:
    bad = dict.fromkeys(("val_acc", "test_acc", "train_acc", "time_epoch_s"), value)
    found = report(unfit("base", 0, **bad), *grid(["b"], 1), run("base", 1))
    assert "Some figures were NaN or infinite and are missing from curves." in found.notices
    (item,) = histories(runs(unfit("base", 0, **bad)))
    assert [one.epoch for one in item.curve] == [1, 3, 4]
    assert not re.search(r"\b(nan|inf)\b", markdown(found))
    assert "NaN or infinite" not in said(report(*grid(["base", "b"], 2)))


def test_a_margin_that_is_no_number_is_the_default() -> None:
    found = runs(*grid(["base", "b"], 1))
    odd = replace(
        found, parent=replace(found.parent, tags={**found.parent.tags, "suite.margin": "NaN"})
    )
    judged = rules(odd, "sqlite:////nowhere/mlflow.db")
    assert (judged.margin, judged.margin_known) == (analysis.MARGIN, False)


# ---- what it says --------------------------------------------------------------------------------


def test_the_verdicts_come_first() -> None:
    found = report(*grid(["base", "very_good_arm"], 6))
    assert found.conclusions[0] == "Better than the baseline: very_good_arm."
    assert "A better mean alone is no evidence of a difference." in found.conclusions[-1]
    row = found.tables[0].rows[0]
    assert row[0] == "very_good_arm" and row[-1] == "better"


def test_too_few_seeds_are_said() -> None:
    found = report(*grid(["base", "other"], 2))
    assert "Too few seeds to tell (fewer than 6" in found.conclusions[0]


@pytest.mark.parametrize(
    ("trials", "more", "expected"),
    [
        ([], {}, "no trials yet"),
        (grid(["a"], 1, status="pending", epochs=0), {"status": "running"}, "still running: 0 of "
                                                                            "1 trials"),
        (grid(["a", "b"], 1, status="interrupted"), {"status": "interrupted"}, "not complete: 0 "
                                                                               "of 2"),
        (grid(["base", "b"], 1, status="failed", epochs=0), {}, "No trial has finished"),
        (grid(["base", "b"], 1), {}, "Each arm has one seed"),
        (grid(["a", "b"], 2), {}, "names no baseline"),
        (grid(["base"], 2), {}, "one arm"),
        (
            [*grid(["base"], 2), run("b", 0), run("b", 1, status="failed", reason="NaN")],
            {},
            "1 of 4 trials failed",
        ),
        ([*grid(["base"], 2), run("b", 0), run("b", 1, status="failed")], {}, "finished seeds (1 "
                                                                              "to 2)"),
        ([*grid(["base"], 2), *grid(["b"], 2, status="stopped")], {}, "2 trials stopped early"),
        ([*grid(["base"], 2), *grid(["b"], 2, numerics='{"precision": "bf16"}')], {}, "different "
                                                                                      "numerics"),
        ([*grid(["base"], 2), *grid(["b"], 2, in_plan="false")], {}, "2 runs of arms or seeds"),
        ([*grid(["base"], 2), *grid(["b"], 2, nan="val/loss at epoch 1")], {}, "NaN or infinite"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(
    trials: list[TrialRun], more: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    found = report(*trials, **more)
    assert expected in said(found)
    write(found, tmp_path / "x")  # and each gives a whole report
    assert expected in (tmp_path / "x" / "index.html").read_text()


def test_below_six_seeds_it_says_that_nothing_could_have_been_seen() -> None:
    assert "With fewer than 6 seeds no difference, however large, can be told" in said(
        report(*grid(["base", "b"], 5))
    )
    assert "in a new sweep" in report(*grid(["base", "b"], 5)).conclusions[1], "what six would see"
    found = report(*grid(["base", "b"], 6))
    assert (
        "Smallest difference to the baseline that is seen with 80 % power, at the measured"
        in said(found)
    )
    assert found.arms.set_index("arm").loc["b", "smallest difference"] > 0


def test_the_main_table_has_errors_epochs_time_and_parameters() -> None:
    sizes = {"parameters_trainable": "1000", "parameters_total": "11173962"}
    found = report(*grid(["base", "other"], 6, **sizes))
    main = found.tables[0]
    assert main.headings == (
        "Arm",
        "Seeds",
        "Training accuracy (error), %",
        "Validation accuracy (error), %",
        "Test accuracy (error), %",
        "Difference to the baseline, percentage points",
        "Adjusted p",
        "P(better)",
        "If normal (Dunnett)",
        "Verdict",
    )
    costs = found.tables[-1]
    assert costs.headings == ("Arm", "Epochs to the baseline’s best")
    assert (
        main.caption
        == "The same for all arms: Time to train 6 s; Trainable parameters 1000 of 11.17 M."
    )
    arms = found.arms.set_index("arm")
    assert arms.loc["other", "test/error"] == pytest.approx(1 - arms.loc["other", "test/acc"])
    assert arms.loc["other", "test/error low"] == pytest.approx(
        1 - arms.loc["other", "test/acc high"]
    )


def test_free_names_of_settings_do_not_meet_the_tables_own() -> None:
    trials = [run(arm, seed, settings=json.dumps({"p": arm, "seeds": 1, "verdict": f"{arm}!"}))
              for arm in ("base", "other") for seed in (0, 1)]  # fmt: skip
    found = report(*trials)
    assert list(found.arms["setting p"]) == list(found.arms["arm"])
    assert found.tables[1].headings == ("Arm", "p", "verdict")


def test_published_figures_stand_beside_the_measured_ones() -> None:
    reference = {
        "base": {"test/acc": 0.5, "time_s": 10.0, "note": "elsewhere"},
        "gone": {"test/acc": 0.9},
    }
    found = content(runs(*grid(["base", "b"], 2)), Rules(VAL, reference=reference))
    (table,) = (table for table in found.tables if table.name == "published")
    measured = found.arms.set_index("arm").loc["base", "test/acc"]
    assert table.rows[0][:3] == ("base", "Test accuracy, %", "50.00")
    assert (
        table.rows[0][4] == f"{100 * measured - 50:+.2f}".replace("-", "−")
        and table.rows[0][5] == "elsewhere"
    )
    assert table.rows[1][1:3] == ("Time to train", "10 s") and len(table.rows) == 2


def test_of_a_search_only_confirmed_arms_get_verdicts() -> None:
    trials = [*grid(["base", "very good"], 6), run("lucky and longer", 0)]
    search = runs(*trials)
    search.parent.params["method"] = "optuna"  # type: ignore[index]
    found = content(search, Rules(VAL, confirmed=("base", "very good")))
    assert [row[-1] for row in found.tables[0].rows] == ["better", "baseline", "not confirmed"]
    assert "good" in found.conclusions[-1], "a single lucky seed does not lead"
    assert "only these get verdicts" in said(found)
    assert "too few trials (3; at least 20 are needed" in markdown(found)


# ---- what the study claims -----------------------------------------------------------------------


def outcomes(found: Content) -> list[str]:
    return [row[-1] for table in found.tables if table.name == "claims" for row in table.rows]


def test_the_studys_claims_are_reproduced_where_they_hold() -> None:
    found = report(*transfer(6))
    assert outcomes(found)[:3] == ["reproduced"] * 3
    rows = {row[0]: row for table in found.tables if table.name == "claims" for row in table.rows}
    assert (
        "epoch 5, at the last epoch at least 1 % above that in 6 of 6 seeds."
        in rows[next(iter(rows))][1]
    )
    assert (
        rows[
            "Freezing together with another head (config1) costs nothing against learning all "
            "weights (finetune)"
        ][2]
        == "reproduced"
    )
    assert {"pretrained", "heads", "final"} <= {picture.name for picture in found.pictures}


def test_claims_that_fail_are_not_reproduced_and_few_seeds_cannot_tell() -> None:
    assert outcomes(report(*transfer(6, frozen=0.6)))[-1] == "not reproduced"
    told = outcomes(report(*transfer(2)))
    assert set(told) == {"cannot be told"}, "overfitting too: two seeds that do are no evidence"


def test_claims_are_of_trials_with_equal_numerics() -> None:
    trials = [
        replace(one, tags={**one.tags, "suite.numerics": '{"precision": "bf16"}'})
        if one.arm != "scratch"
        else one
        for one in [*transfer(6), *nets(plain20=0.3, plain56=0.4)]
        if one.arm != "finetune"
    ]
    trials += [one for one in transfer(6) if one.arm == "finetune"]
    told = {
        row[0]: row
        for table in report(*trials).tables
        if table.name == "claims"
        for row in table.rows
    }
    freezing = told[
        "Freezing together with another head (config1) costs nothing against learning all weights "
        "(finetune)"
    ]
    assert freezing[1:] == ("No seed that both finished with the same numerics.", "cannot be told")
    assert (
        told["Pretrained (finetune) learns faster than a random start (scratch)"][2] == "reproduced"
    )
    assert told["Config1 (config1) learns faster than Config2 (config2)"][2] == "reproduced"
    mixed = [
        replace(
            one, tags={**one.tags, "suite.numerics": f'{{"threads": {1 + (one.arm == "plain56")}}}'}
        )
        for one in nets(plain20=0.3, plain56=0.4)
    ]
    assert outcomes(report(*mixed)) == ["cannot be told"]
    faster = [
        replace(
            one, tags={**one.tags, "suite.numerics": f'{{"threads": {1 + (one.arm == "scratch")}}}'}
        )
        for one in transfer(6)
    ]
    (row,) = [
        row
        for table in report(*faster).tables
        if table.name == "claims"
        for row in table.rows
        if "than a random start" in row[0]
    ]
    assert row[2] == "cannot be told" and "same numerics" in row[1]


def test_a_sweep_without_such_arms_lists_no_claims() -> None:
    assert (
        outcomes(
            report(*grid(["base", "b"], 6, params={"model.arch": "resnet20", "augment": "flip"}))
        )
        == []
    )


def nets(**errors: float) -> list[TrialRun]:
    return [
        taught(name, seed, {"model.arch": name}, 1 - error, 0.5)
        for name, error in errors.items()
        for seed in range(6)
    ]


def test_deeper_plain_nets_are_compared_with_shallower_ones_of_their_kind() -> None:
    found = report(*nets(plain20=0.3, plain56=0.4, plain34_cifar=0.2, resnet20=0.3, resnet56=0.25))
    assert outcomes(found) == ["reproduced"]
    (depths,) = (picture for picture in found.pictures if picture.name == "depths")
    assert [len(panel.lines) for panel in depths.plot.panels] == [2, 2, 2, 2]  # type: ignore[attr-defined]
    assert outcomes(report(*nets(plain20=0.4, plain56=0.3))) == ["not reproduced"]


def test_test_figures_of_a_single_epoch_are_no_curve() -> None:
    """As ``train.evaluate_test: last`` gives them; in the table and the verdicts they are as
    before.
    """
    every = nets(plain20=0.3, plain56=0.4, resnet20=0.3, resnet56=0.25)
    found, dense = report(*map(_tested_once, every)), report(*every)
    (depths,) = (picture for picture in found.pictures if picture.name == "depths")
    assert {panel.metric for panel in depths.plot.panels} == {"train/acc"}  # type: ignore[attr-defined]
    (splits,) = (picture for picture in found.pictures if picture.name == "splits")
    drawn = {panel.metric: len(panel.lines) for panel in splits.plot.panels}  # type: ignore[attr-defined]
    assert drawn["test/acc"] == 0 and drawn["val/acc"] == 4
    assert outcomes(found) == outcomes(dense)
    trials = [
        run(
            f"rate={rate}",
            0,
            params={"model.dropout.rate": str(rate), "model.dropout.after": '["layer1"]'},
        )
        for rate in (0.1, 0.5)
    ]
    trials.append(
        run("rate=0", 0, params={"model.dropout.rate": "0.0", "model.dropout.after": "[]"})
    )
    once = [_tested_once(trial) for trial in trials]
    names = [{picture.name for picture in report(*some).pictures} for some in (trials, once)]
    assert "dropout" in names[0] and "dropout" not in names[1]


def _tested_once(trial: TrialRun) -> TrialRun:
    """The run with test figures of its best epoch alone."""
    best = max(trial.metrics["val/acc"], key=lambda epoch: trial.metrics["val/acc"][epoch])
    metrics = {
        name: {best: values[best]} if name.startswith("test/") else values
        for name, values in trial.metrics.items()
    }
    return replace(trial, metrics=metrics)


def test_dropout_rates_come_out_as_one_figure_with_a_panel_for_each_place() -> None:
    trials = [
        run(
            f"rate={rate} {place}",
            0,
            params={"model.dropout.rate": str(rate), "model.dropout.after": place},
        )
        for rate in (0.1, 0.5)
        for place in ('["layer1"]', '["layer4"]')
    ]
    trials.append(
        run("rate=0", 0, params={"model.dropout.rate": "0.0", "model.dropout.after": "[]"})
    )
    (picture,) = (picture for picture in report(*trials).pictures if picture.name == "dropout")
    texts = [[line.text for line in panel.lines] for panel in picture.plot.panels]  # type: ignore[attr-defined]
    assert texts[:2] == [["rate 0", "rate 0.1", "rate 0.5"]] * 2


def test_results_that_were_made_with_a_small_last_batch_are_named() -> None:
    old = {"train.batch_size": "128", "data.name": "cifar10", "data.train_size": "5000"}
    trials = [run(arm, 0, params=old) for arm in ("base", "a")]
    notices = " ".join(content(runs(*trials), Rules(VAL)).notices)
    assert "2 trials were trained with a small last batch" in notices
    for params in (old | {"data.train_size": "4992"}, old | {"train.last_batch": "drop"}):
        trials = [run(arm, 0, params=params) for arm in ("base", "a")]
        assert "last batch" not in " ".join(content(runs(*trials), Rules(VAL)).notices)
    unknown = {"train.batch_size": "128", "data.name": "folder"}
    trials = [run(arm, 0, params=unknown) for arm in ("base", "a")]
    notices = " ".join(content(runs(*trials), Rules(VAL)).notices)
    assert "2 trials may have been trained with a small last batch" in notices
