"""Right sweep files: what they mean, how arms are named, what the command line changes, what
identifies a trial.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from suite import config
from suite.config import ModelConfig, TrialConfig, signature, yaml_lines
from suite.config.sweep import matches
from suite.core.errors import UsageError
from suite.core.records import Objective


def load(folder: Path, text: str, *overrides: str) -> config.SweepSpec:
    file = folder / "x.yaml"
    file.write_text(text)
    return config.load(file, overrides)


def names(sweep: config.SweepSpec) -> list[str]:
    return [arm.name for arm in sweep.arms_list]


# ---- the text


def test_scalars_are_read_as_yaml_1_2() -> None:
    text = (
        "a: [1e-4, 1E3, .5, 5., 0x10, 0o17, -3, +4, yes, on, no, 12:30:45, 1_000, true, null, "
        "~, '1']\non: off"
    )
    assert yaml_lines.parse(text, "f").plain() == {
        "a": [
            1e-4,
            1e3,
            0.5,
            5.0,
            16,
            15,
            -3,
            4,
            "yes",
            "on",
            "no",
            "12:30:45",
            "1_000",
            True,
            None,
            None,
            "1",
        ],
        "on": "off",
    }


def test_zero_has_no_sign() -> None:
    assert repr(yaml_lines.parse("[-0.0, -0, -0e5]", "f").plain()) == "[0.0, 0, 0.0]"


def test_anchors_aliases_and_merges_work() -> None:
    text = "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [{p: 5}, *x]}\nd: *x\n"
    assert yaml_lines.parse(text, "f").plain() == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 3},
        "c": {"p": 5, "q": 2},
        "d": {"p": 1, "q": 2},
    }


def test_the_python_parser_reads_what_the_c_parser_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    text = (
        Path(__file__).parents[1] / "search_spaces" / "joint.yaml"
    ).read_text() + "x: {<<: {a: 1e-3}, b: ''}\n"
    fast = yaml_lines.parse(text, "f")
    monkeypatch.setattr(yaml_lines, "_PARSER", yaml.SafeLoader)
    assert yaml_lines.parse(text, "f") == fast


# ---- arms


GRID = """\
name: grid
trial: {data: {name: digits}}
parameters:
  model.freeze_depth: {values: [0, 7]}
  train.lr: {values: [1e-1, 1e-2]}
seeds: [0, 1]
baseline: {model.freeze_depth: 0}
"""


def test_a_grid_multiplies_and_names_arms_by_what_varies(tmp_path: Path) -> None:
    sweep = load(tmp_path, GRID)
    assert names(sweep) == [
        "freeze_depth=0 lr=0.1",
        "freeze_depth=0 lr=0.01",
        "freeze_depth=7 lr=0.1",
        "freeze_depth=7 lr=0.01",
    ]
    assert sweep.arms_list[3].settings == {"model.freeze_depth": 7, "train.lr": 0.01}
    assert (
        sweep.arms_list[3].config.model.freeze_depth == 7
        and sweep.arms_list[3].config.train.lr == 0.01
    )
    assert sweep.expand() == sweep.arms_list
    assert sweep.arm({"model.freeze_depth": 7, "train.lr": 0.01}) == sweep.arms_list[3]


def test_a_baseline_that_fits_several_arms_compares_within_equal_remaining_settings(
    tmp_path: Path,
) -> None:
    sweep = load(tmp_path, GRID)
    assert [arm.name for arm in sweep.baseline_arms] == [
        "freeze_depth=0 lr=0.1",
        "freeze_depth=0 lr=0.01",
    ]
    pairs = {arm.name: sweep.baseline_for(arm) for arm in sweep.arms_list}
    assert {name: found.name for name, found in pairs.items() if found} == {
        "freeze_depth=0 lr=0.1": "freeze_depth=0 lr=0.1",
        "freeze_depth=0 lr=0.01": "freeze_depth=0 lr=0.01",
        "freeze_depth=7 lr=0.1": "freeze_depth=0 lr=0.1",
        "freeze_depth=7 lr=0.01": "freeze_depth=0 lr=0.01",
    }
    assert [sweep.is_baseline(arm) for arm in sweep.arms_list] == [True, True, False, False]


ARMS = """\
name: recipes
arms:
  scratch: {model.weights: none}
  tuned: {model: {weights: imagenet, head: {hidden: [128], dropout: 0.3}}}
parameters:
  augment: {values: [none, flip]}
baseline: scratch
"""


def test_arms_multiply_with_parameters_and_keep_their_names(tmp_path: Path) -> None:
    sweep = load(tmp_path, ARMS)
    assert names(sweep) == [
        "scratch augment=none",
        "scratch augment=flip",
        "tuned augment=none",
        "tuned augment=flip",
    ]
    assert [arm.name for arm in sweep.baseline_arms] == [
        "scratch augment=none",
        "scratch augment=flip",
    ]
    assert sweep.baseline_for(sweep.arms_list[3]) == sweep.arms_list[1]
    assert sweep.arms_list[3].settings == {
        "model.weights": "imagenet",
        "model.head.hidden": [128],
        "model.head.dropout": 0.3,
        "augment": "flip",
    }
    assert sweep.arms_list[0].settings["model.head.hidden"] is None


def test_a_sweep_in_which_nothing_varies_is_one_arm_named_after_it(tmp_path: Path) -> None:
    sweep = load(tmp_path, "name: alone\n")
    assert names(sweep) == ["alone"] and sweep.arms_list[0].settings == {}
    assert sweep.trial(sweep.arms_list[0], 3, data_digest="d").name == "alone seed=3"


def test_labels_stand_for_settings(tmp_path: Path) -> None:
    text = """\
name: heads
trial: {model.head.dropout: 0.1}
parameters:
  head:
    values:
      linear: {}
      deep: {model.head: {hidden: [8, 4], dropout: [0.1, 0]}}
      plain: {model.head: null}
baseline: {head: linear}
"""
    sweep = load(tmp_path, text)
    assert names(sweep) == ["head=linear", "head=deep", "head=plain"]
    heads = [arm.config.model.head for arm in sweep.arms_list]
    assert (
        heads[0]
        and heads[0].hidden == ()
        and heads[1]
        and heads[1].rates() == (0.1, 0.0)
        and heads[2] is None
    )
    assert sweep.arms_list[1].settings == {"head": "deep"} and sweep.is_baseline(sweep.arms_list[0])


def test_zipped_lists_vary_together(tmp_path: Path) -> None:
    text = (
        "name: z\nparameters: {scaling: {zip: {train.batch_size: [128, 512], train.lr: [0.05, "
        "0.2]}}}\n"
    )
    sweep = load(tmp_path, text)
    assert names(sweep) == ["batch_size=128 lr=0.05", "batch_size=512 lr=0.2"]
    assert sweep.arms_list[1].settings == {"train.batch_size": 512, "train.lr": 0.2}


def test_a_condition_collapses_arms(tmp_path: Path) -> None:
    text = """\
name: w
arms: {scratch: {}, pre: {model.weights: imagenet}}
parameters:
  model.freeze_depth: {values: [0, 7], when: {model.weights: imagenet}}
"""
    assert names(load(tmp_path, text)) == ["scratch", "pre freeze_depth=0", "pre freeze_depth=7"]


def test_a_grid_above_the_cap_only_before_its_conditions_is_fine(tmp_path: Path) -> None:
    text = "name: c\nrun_cap: 4\nparameters:\n  model.dropout.rate: {values: [0, 0.5]}\n  after:\n"
    text += "    when: {model.dropout.rate: [0.5]}\n"
    text += (
        "    values: {a: {model.dropout.after: [a]}, b: {model.dropout.after: [b]}, c: "
        "{model.dropout.after: [c]}}\n"
    )
    assert len(load(tmp_path, text).arms_list) == 4
    with pytest.raises(
        UsageError, match=r"the grid has more than 3, at most 6 arms \(2 x 3\), run_cap is 3"
    ):
        load(tmp_path, text, "run_cap=3")


def test_a_value_parameter_is_a_setting_of_every_trial(tmp_path: Path) -> None:
    sweep = load(
        tmp_path, "name: v\nparameters: {train.epochs: {value: 3}, train.lr: {values: [1, 2]}}\n"
    )
    assert names(sweep) == ["lr=1", "lr=2"] and sweep.arms_list[0].config.train.epochs == 3


def test_named_variants_of_augmentations_reach_the_trial(tmp_path: Path) -> None:
    text = """\
name: a
augmentations: {big: {type: cutout, size: 20}, flip: {p: 1}, unused: {type: crop}}
parameters: {augment: {values: [none, mixup+big+flip+crop]}}
"""
    config = load(tmp_path, text).arms_list[1].config
    assert set(config.augmentations) == {"big", "flip"}
    assert [
        (step.type, getattr(step, "size", None), getattr(step, "p", None))
        for step in config.pipeline()
    ] == [
        ("cutout", 20, None),
        ("flip", None, 1.0),
        ("crop", None, None),
        ("mixup", None, None),
    ]


def test_dropout_rate_and_head_dropout_keep_names_apart(tmp_path: Path) -> None:
    text = "name: a\ntrial: {model.dropout.after: [x], model.head.hidden: [3]}\n"
    text += (
        "parameters: {model.dropout.rate: {values: [0.1]}, model.head.dropout: {values: [0.2, "
        "0.3]}}\n"
    )
    assert names(load(tmp_path, text))[0] == "dropout.rate=0.1 head.dropout=0.2"


# ---- searches


SEARCH = """\
name: s
method: optuna
run_cap: 9
parameters:
  model.weights: {values: [none, imagenet]}
  model.freeze_depth: {min: 0, max: 8, when: {model.weights: [imagenet]}}
  train.lr: {min: 1e-3, max: 0.1, distribution: log_uniform}
  train.momentum: {min: 0, max: 0.9}
baseline: {model.weights: none, train.lr: 0.01, train.momentum: 0.9}
"""


def test_a_searched_arm_is_named_like_a_listed_one_and_told_back(tmp_path: Path) -> None:
    sweep = load(tmp_path, SEARCH)
    assert sweep.arms_list == () and sweep.search and not sweep.pareto
    assert [type(each).__name__ for each in sweep.space.parameters] == [
        "Choices",
        "Range",
        "Range",
        "Range",
    ]
    depth, momentum = sweep.space.parameters[1], sweep.space.parameters[3]
    assert depth.whole and not momentum.whole and momentum.low == 0  # type: ignore[union-attr]
    arm = sweep.arm(
        {
            "model.weights": "imagenet",
            "model.freeze_depth": 7,
            "train.lr": 0.0123456789,
            "train.momentum": 0.5,
        }
    )
    assert arm.name == "weights=imagenet freeze_depth=7 lr=0.0123457 momentum=0.5"
    assert arm.config.train.lr == 0.0123457 and sweep.arm(arm.choices) == arm
    short = sweep.arm(
        {"model.weights": "none", "model.freeze_depth": 7, "train.lr": 0.1, "train.momentum": 0}
    )
    assert short.name == "weights=none lr=0.1 momentum=0" and short.config.model.freeze_depth == 0
    with pytest.raises(UsageError, match=r"train.lr must lie in \[0.001, 0.1\], got 1"):
        sweep.arm({"model.weights": "none", "train.lr": 1, "train.momentum": 0})
    with pytest.raises(UsageError, match=r"no value given for train.lr"):
        sweep.arm({"model.weights": "none"})


def test_a_search_has_one_baseline_arm(tmp_path: Path) -> None:
    sweep = load(tmp_path, SEARCH)
    assert [arm.name for arm in sweep.baseline_arms] == ["weights=none lr=0.01 momentum=0.9"]
    arm = sweep.arm({"model.weights": "none", "train.lr": 0.05, "train.momentum": 0})
    assert sweep.baseline_for(arm) == sweep.baseline_arms[0]


@pytest.mark.parametrize("method", ["grid", "random", "optuna"])
def test_a_label_may_name_a_folder_of_images_and_its_root(method: str, tmp_path: Path) -> None:
    text = f"name: s\nmethod: {method}\nrun_cap: 9\nparameters:\n  train.lr: {{values: [1, 2]}}\n"
    text += (
        "  images: {values: {digits: {data.name: digits}, own: {data.name: folder, data.root: "
        "/x}}}\n"
    )
    sweep = load(tmp_path, text)
    assert sweep.arm({"images": "own", "train.lr": 1}).config.data.root == "/x"
    with pytest.raises(UsageError, match=r"data\.name: folder needs data\.root"):
        load(tmp_path, text.replace(", data.root: /x", ""))


@pytest.mark.parametrize("method", ["grid", "random", "optuna"])
def test_a_baseline_may_be_a_list(method: str, tmp_path: Path) -> None:
    text = (
        f"name: s\nmethod: {method}\nrun_cap: 9\nparameters: {{model.head.hidden: {{values: "
        f"[[3], [4, 2]]}}}}\n"
    )
    assert (
        load(tmp_path, text + "baseline: {model.head.hidden: [4, 2]}\n").baseline_arms[0].name
        == "hidden=[4,2]"
    )


def test_random_arms_are_drawn_once_and_for_all(tmp_path: Path) -> None:
    few = load(tmp_path, SEARCH, "method=random", "run_cap=4")
    many = load(tmp_path, SEARCH, "method=random", "run_cap=12")
    assert len(few.arms_list) == 4 and names(many)[:4] == names(few) and len(set(names(many))) == 12


def test_several_metrics_are_a_pareto_search(tmp_path: Path) -> None:
    sweep = load(tmp_path, SEARCH + "metric: [{name: val/acc}, {name: time/epoch_s}]\n")
    assert sweep.pareto
    assert sweep.objectives == (
        Objective("val/acc", "maximize"),
        Objective("time/epoch_s", "minimize"),
    )


def test_the_goal_follows_from_the_metric(tmp_path: Path) -> None:
    assert load(tmp_path, "name: a\nmetric: {name: val/loss}\n").objective == Objective(
        "val/loss", "minimize", "best"
    )
    assert load(tmp_path, "name: a\n").objective == Objective("val/acc", "maximize", "best")


# ---- the command line


def test_an_override_of_a_varied_setting_fixes_it_everywhere(tmp_path: Path) -> None:
    sweep = load(tmp_path, GRID, "model.freeze_depth=5")
    assert names(sweep) == ["lr=0.1", "lr=0.01"] and sweep.baseline is None
    assert all(arm.config.model.freeze_depth == 5 for arm in sweep.arms_list)
    sweep = load(tmp_path, ARMS, "model.weights=none", "augment=flip")
    assert names(sweep) == ["scratch", "tuned"]
    assert [arm.config.model.weights for arm in sweep.arms_list] == ["none", "none"]
    assert [arm.config.augment for arm in sweep.arms_list] == ["flip", "flip"]


def test_arms_that_an_override_makes_equal_are_one(tmp_path: Path) -> None:
    text = (
        "name: a\narms: {x: {train.lr: 1}, y: {train.lr: 2}, z: {train.epochs: 2}}\nbaseline: x\n"
    )
    sweep = load(tmp_path, text, "train.lr=3")
    assert names(sweep) == ["x", "z"] and sweep.is_baseline(sweep.arms_list[0])


def test_a_label_and_a_zip_can_be_fixed(tmp_path: Path) -> None:
    text = "name: a\nparameters:\n  head: {values: {a: {}, b: {model.head.hidden: [3]}}}\n"
    text += "  z: {zip: {train.lr: [1, 2], train.batch_size: [8, 16]}}\n"
    text += "  train.ema: {values: [0.9], when: {head: [b]}}\n"
    sweep = load(tmp_path, text, "head=b", "train.lr=5")
    assert names(sweep) == ["batch_size=8 ema=0.9", "batch_size=16 ema=0.9"]
    assert sweep.arms_list[0].config.train.lr == 5 and sweep.arms_list[
        0
    ].config.model.head.hidden == (3,)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="command line: head: must be one of a, b, got 'c'"):
        load(tmp_path, text, "head=c")


LABELS = (
    "name: a\nparameters: {head: {values: {a: {train.lr: 0.1}, b: {train.lr: 0.2, "
    "train.epochs: 4}}}}\n"
)


@pytest.mark.parametrize("overrides", [("train.lr=0.3", "head=b"), ("head=b", "train.lr=0.3")])
def test_a_setting_given_by_itself_goes_before_a_label_in_either_order(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    (arm,) = load(tmp_path, LABELS, *overrides).arms_list
    assert (arm.config.train.lr, arm.config.train.epochs) == (0.3, 4)


@pytest.mark.parametrize(
    "overrides", [("early_terminate={type: asha}", "early_terminate.grace_epochs=2")]
)
def test_a_part_goes_before_what_is_around_it_in_either_order(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    for typed in (overrides, overrides[::-1]):
        assert load(tmp_path, GRID, *typed).early_terminate == config.AshaConfig(grace_epochs=2)


@pytest.mark.parametrize(
    "arm", ["{train: {lr: 0.1, ema: 0.5}}", "{train.lr: 0.1, train: {ema: 0.5}}"]
)
@pytest.mark.parametrize("override", ["train.lr=0.2", "train={lr: 0.2}"])
@pytest.mark.parametrize("place", ["arms.v1.0", "parameters.head.values.v1.0"])
def test_an_override_reaches_into_arms_and_labels_however_they_are_written(
    arm: str, override: str, place: str, tmp_path: Path
) -> None:
    text = (
        "parameters: {head: {values: RECIPES}}"
        if place.startswith("parameters")
        else "arms: RECIPES"
    )
    recipes = f"{{v1.0: {arm}, other: {{model: {{head: null}}}}}}"
    sweep = load(tmp_path, f"name: a\n{text.replace('RECIPES', recipes)}\n", f"{place}.{override}")
    train = sweep.arms_list[0].config.train
    assert (train.lr, train.ema) == (0.2, 0.5) and len(sweep.arms_list) == 2
    removed = load(
        tmp_path, "name: a\narms: {x: {model: {head: {hidden: [3]}}}}\n", "arms.x.model.head=null"
    )
    assert removed.arms_list[0].config.model.head is None
    added = load(
        tmp_path, "name: a\narms: {x: {model: {head: null}}}\n", "arms.x.model.head.hidden=[3]"
    )
    assert added.arms_list[0].config.model.head == config.HeadConfig(hidden=(3,))


@pytest.mark.parametrize("override", ["head=b", "train.lr=2"])
@pytest.mark.parametrize("method", ["random", "optuna"])
def test_a_search_of_which_the_command_line_fixes_everything_tries_the_one_point(
    override: str, method: str, tmp_path: Path
) -> None:
    parameter = (
        "head: {values: {a: {}, b: {train.lr: 2}}}"
        if override == "head=b"
        else "train.lr: {values: [1, 3]}"
    )
    sweep = load(
        tmp_path, f"name: s\nmethod: {method}\nrun_cap: 9\nparameters: {{{parameter}}}\n", override
    )
    assert sweep.space.parameters == () and names(sweep) == (["s"] if method == "random" else [])
    assert sweep.arm({}).config.train.lr == 2


def test_a_condition_on_what_the_command_line_fixes_holds_everywhere_or_nowhere(
    tmp_path: Path,
) -> None:
    text = "name: a\nparameters:\n  head: {values: {a: {}, b: {model.head.hidden: [3]}}}\n"
    text += "  train.lr: {values: [1, 2], when: {model.head.hidden: [[3]]}}\n"
    assert names(load(tmp_path, text)) == ["head=a", "head=b lr=1", "head=b lr=2"]
    assert names(load(tmp_path, text, "model.head=null")) == ["head=a"]
    assert names(load(tmp_path, text, "model.head={hidden: [3]}")) == ["head=a lr=1", "head=a lr=2"]


def test_a_parameter_may_be_named_like_a_section_and_fixed(tmp_path: Path) -> None:
    text = (
        "name: a\nparameters: {model.head: {values: {no: null, wide: {model.head.hidden: [3]}}}}\n"
    )
    (arm,) = load(tmp_path, text, "model.head=wide").arms_list
    assert arm.config.model.head == config.HeadConfig(hidden=(3,))


def test_overrides_reach_every_part_of_the_file(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        GRID,
        "seeds=[4,5]",
        "resources.gpu=0.5",
        "metric.margin=0.01",
        "early_terminate={type: asha}",
        "early_terminate.grace_epochs=2",
        "trial.train.epochs=7",
        "data.train_size=0.5",
        "parameters.train.lr.values=[3]",
        "baseline.model.freeze_depth=7",
        "reference.x.test/acc=0.5",
        "checkpoints.keep=all",
        "name=other",
        "description=",
        "augmentations.cutout.size=4",
        "model={arch: resnet20}",
    )
    assert sweep.seeds == (4, 5) and sweep.resources.gpu == 0.5 and sweep.metric.margin == 0.01  # type: ignore[union-attr]
    assert sweep.early_terminate == config.AshaConfig(grace_epochs=2) and sweep.name == "other"
    assert names(sweep) == ["freeze_depth=0 lr=3", "freeze_depth=7 lr=3"] and sweep.is_baseline(
        sweep.arms_list[1]
    )
    trial = sweep.arms_list[0].config
    assert (trial.train.epochs, trial.data.train_size, trial.model.arch) == (7, 0.5, "resnet20")
    assert sweep.source.overrides[0] == "seeds=[4,5]"


def test_planned_seeds_are_looked_at_in_rounds(tmp_path: Path) -> None:
    text = GRID.replace("[0, 1]\n", "{at_least: 8, at_most: 15, until: decided}\n", 1)
    assert "until" in text
    sweep = load(tmp_path, text)
    assert sweep.seeds == tuple(range(15)), "all seeds that may run"
    assert sweep.looks == (tuple(range(8)), tuple(range(12)), tuple(range(15)))
    assert sweep.first_trials == 4 * 8, "what is measured beforehand is the first round"
    shorter = load(tmp_path, text, "seeds.at_most=11", "seeds.step=2")
    assert [len(look) for look in shorter.looks] == [8, 10, 11]
    assert [len(look) for look in load(tmp_path, text, "seeds.at_most=8").looks] == [8]
    listed = load(tmp_path, text, "seeds=[3,1]")
    assert listed.seeds == (3, 1) and listed.looks == ()
    assert load(tmp_path, GRID).looks == ()


def test_a_smoke_run_takes_one_seed_of_a_plan(tmp_path: Path) -> None:
    from suite.sweep.api import _smoke_overrides

    text = GRID.replace("[0, 1]\n", "{at_least: 8, at_most: 15, until: decided}\n", 1)
    sweep = load(tmp_path, text, "seeds.at_most=12")
    smoke = load(tmp_path, text, *_smoke_overrides(sweep, ["seeds.at_most=12", "train.lr=0.5"]))
    assert (
        smoke.seeds == (0,)
        and smoke.looks == ()
        and {arm.config.train.lr for arm in smoke.arms_list} == {0.5}
    )


def test_a_search_confirms_on_seeds_that_it_has_not_seen(tmp_path: Path) -> None:
    text = "name: a\nmethod: random\nrun_cap: 2\nparameters: {train.lr: {values: [0.1, 0.2]}}\n"
    sweep = load(tmp_path, text, "seeds=[3,5,8]")
    assert (sweep.search_seed, sweep.confirm_seeds) == (3, (5, 8))
    alone = load(tmp_path, text, "seeds=[3]")
    assert (alone.search_seed, alone.confirm_seeds) == (None, (3,))
    grid = load(tmp_path, GRID)
    assert (grid.search_seed, grid.confirm_seeds) == (None, (0, 1))


def test_paths_are_seen_from_the_file_or_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, here = tmp_path / "folder", tmp_path / "here"
    folder.mkdir(), here.mkdir()
    monkeypatch.chdir(here)
    text = "name: p\ntrial: {data: {root: ../images}}\n"
    text += "arms: {a: {}, b: {model.weights: w.pth}, c: {model.weights: 'runs:/1/x'}}\n"
    configs = [arm.config for arm in load(folder, text).arms_list]
    assert configs[0].data.root == str(tmp_path / "images")
    assert [config.model.weights for config in configs] == [
        "none",
        str(folder / "w.pth"),
        "runs:/1/x",
    ]
    config = (
        load(folder, text, "data.root=pictures", "model.imagenet_file=../r.pth").arms_list[0].config
    )
    assert config.data.root == str(here / "pictures") and config.model.imagenet_file == str(
        tmp_path / "r.pth"
    )
    sweep = load(folder, text, "arms.d.model.weights=v.pth")
    assert sweep.arms_list[3].config.model.weights == str(here / "v.pth")
    assert [arm.settings["model.weights"] for arm in sweep.arms_list] == [
        "none",
        "w.pth",
        "runs:/1/x",
        "v.pth",
    ]
    home = load(folder, text, "data.root=~/x").arms_list[0].config
    assert home.data.root == str(Path.home() / "x")


def test_a_relative_file_name_and_an_absolute_one_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "name: p\ntrial: {data: {root: images}}\n"
    absolute = load(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    relative = config.load("x.yaml")
    assert (
        relative.arms_list == absolute.arms_list and relative.folder == absolute.folder == tmp_path
    )


def test_where_names_the_line_of_a_setting(tmp_path: Path) -> None:
    sweep = load(tmp_path, GRID, "train.epochs=3")
    where = {
        key: sweep.where(key).replace(f"{tmp_path}/", "")
        for key in (
            "train.lr",
            "parameters.train.lr",
            "data.name",
            "seeds",
            "train.epochs",
            "baseline",
            "train.momentum",
            "zzz",
        )
    }
    assert where == {
        "train.lr": "x.yaml:5: parameters.train.lr",
        "parameters.train.lr": "x.yaml:5: parameters.train.lr",
        "data.name": "x.yaml:2: trial.data.name",
        "seeds": "x.yaml:6: seeds",
        "train.epochs": "command line: train.epochs",
        "baseline": "x.yaml:7: baseline",
        "train.momentum": "x.yaml: train.momentum",
        "zzz": "x.yaml:1: zzz",
    }
    arms = load(tmp_path, ARMS)
    assert arms.where("model.weights").endswith("x.yaml:3: arms.scratch.model.weights")


def test_a_sweep_is_frozen_and_travels_between_processes(tmp_path: Path) -> None:
    sweep = load(tmp_path, SEARCH)
    with pytest.raises(ValueError, match="frozen"):
        sweep.name = "b"  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(sweep))
    assert again.baseline_arms == sweep.baseline_arms and again.space == sweep.space


# ---- identity


def identity(config: dict[str, Any], seed: int = 0, **options: Any) -> str:
    return signature.signature(
        TrialConfig.model_validate(config), seed, **{"data_digest": "d", **options}
    )[:16]


# Written out: a change here means that no finished trial is found again. Then RESULT_VERSION or
# ADDED must change.
HEAD = {"hidden": [128], "dropout": 0.3}
GOLDEN: list[tuple[dict[str, Any], int, dict[str, Any], str]] = [
    ({}, 0, {}, "0776e52c8d61ddba"),
    ({"train": {"lr": 0.1, "epochs": 5}, "augment": "flip+crop"}, 3, {}, "2389af0162311668"),
    (
        {"model": {"arch": "resnet18", "weights": "imagenet", "head": HEAD}},
        0,
        {"weights_digest": "w"},
        "aadee3b89780aa79",
    ),
    (
        {"model": {"weights": "/x/y.pth"}, "train": {"patience": 3}},
        0,
        {"weights_digest": "w", "objective": Objective("val/acc"), "module_digests": ["m"]},
        "3d1abccd8caf0e3e",
    ),
]


@pytest.mark.parametrize(("config", "seed", "options", "expected"), GOLDEN)
def test_ids_never_change(
    config: dict[str, Any], seed: int, options: dict[str, Any], expected: str
) -> None:
    assert identity(config, seed, **options) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"train": {"precision": "bf16"}}, {"train": {"precision": "fp32"}}),
        ({"train": {"cache_prefix": "off"}}, {}),
        ({"train": {"evaluate_test": "every"}}, {"train": {"evaluate_test": "last"}}),
        ({"data": {"val_size": 0.1}}, {}),
        ({"data": {"root": "/a"}}, {"data": {"root": "/b"}}),
        ({"train": {"lr": 0.1, "epochs": 3}}, {"train": {"epochs": 3, "lr": 0.1}}),
        ({"train": {"lr": 1}}, {"train": {"lr": 1.0}}),
        ({"train": {"lr": 0.05}}, {}),
        ({"augment": "c", "augmentations": {"c": {"type": "cutout", "size": 8}}},
         {"augment": "cutout", "augmentations": {"cutout": {"type": "cutout", "size": 8}}}),
        ({"augment": "mixup+flip"}, {"augment": "flip+mixup"}),
    ],
)  # fmt: skip
def test_what_cannot_change_the_result_does_not_change_the_id(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert identity(one) == identity(other)


def test_weights_count_by_their_digest_not_by_their_place() -> None:
    ids = [
        identity({"model": {"weights": path}}, weights_digest="w")
        for path in ("/a.pth", "/b.pth", "runs:/1/m")
    ]
    assert len(set(ids)) == 1
    assert identity({"model": {"weights": "/a.pth"}}, weights_digest="v") != ids[0]
    local = {"model": {"weights": "imagenet", "imagenet_file": "/r.pth"}}
    assert identity(local, weights_digest="w") == identity(
        {"model": {"weights": "imagenet"}}, weights_digest="w"
    )
    assert identity({}, weights_digest="w") == identity({})
    with pytest.raises(ValueError, match="need a digest"):
        identity(local)


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"last_batch": "spread"}}, {"train": {"nesterov": True}},
        {"train": {"decay": "weights"}},
        {"train": {"lr": 0.051}}, {"train": {"epochs": 31}}, {"data": {"split_seed": 1}},
        {"augment": "flip"},
        {"model": {"arch": "resnet20"}}, {"model": {"head": {}}}, {"train": {"patience": 1}},
        {"augment": "crop+flip"},
        {"augment": "flip", "augmentations": {"flip": {"type": "flip", "p": 0.4}}},
    ],
)  # fmt: skip
@pytest.mark.fault(39)
def test_what_can_change_the_result_changes_the_id(change: dict[str, Any]) -> None:
    assert identity(change) != identity({})


def test_validation_images_of_a_subset_change_the_id() -> None:
    assert identity({"data": {"train_size": 500}}) != identity(
        {"data": {"train_size": 500, "val_size": 0.1}}
    )


@pytest.mark.fault(40)
def test_seed_data_modules_and_the_watched_metric_change_the_id() -> None:
    ids = {
        identity({}),
        identity({}, 1),
        identity({}, data_digest="e"),
        identity({}, module_digests=["m"]),
    }
    assert len(ids) == 4
    assert identity({}, module_digests=["a", "b"]) == identity({}, module_digests=["b", "a"])
    patient = {"train": {"patience": 2}}
    loss, acc = Objective("val/loss", "minimize"), Objective("val/acc")
    assert identity(patient, objective=loss) != identity(patient, objective=acc)
    assert identity({}, objective=loss) == identity({}, objective=acc)


def test_a_field_added_later_leaves_old_ids_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    class WiderModel(ModelConfig):
        squeeze: bool = False

    class Wider(TrialConfig):
        model: WiderModel = WiderModel()

    old = identity({})
    assert (
        signature.signature(Wider(), 0, data_digest="d")[:16] != old
    )  # forgotten in ADDED: every id changes
    monkeypatch.setitem(signature.ADDED, "model.squeeze", False)
    assert signature.signature(Wider(), 0, data_digest="d")[:16] == old
    used = Wider(model=WiderModel(squeeze=True))
    assert signature.signature(used, 0, data_digest="d")[:16] != old


def test_a_setting_of_an_augmentation_added_later_leaves_old_ids_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = identity({"augment": "flip"})
    monkeypatch.setitem(signature.ADDED, "augment.flip.p", 0.5)
    assert identity({"augment": "flip"}) != new
    config = TrialConfig.model_validate({"augment": "flip"})
    assert signature.resolved(config)["augment"] == [{"type": "flip"}]


def test_a_trial_carries_its_id_name_and_settings(tmp_path: Path) -> None:
    sweep = load(tmp_path, GRID)
    trial = sweep.trial(sweep.arms_list[2], 1, data_digest="d")
    assert (trial.arm, trial.seed, trial.name) == (
        "freeze_depth=7 lr=0.1",
        1,
        "freeze_depth=7 lr=0.1 seed=1",
    )
    assert trial.id == signature.signature(sweep.arms_list[2].config, 1, data_digest="d")[:16]
    assert TrialConfig.model_validate(trial.config) == sweep.arms_list[2].config
    assert matches(sweep.arms_list[2], {"train.lr": 0.1}) and not matches(
        sweep.arms_list[2], {"train.lr": 0.2}
    )


# ---- speed


def test_a_thousand_arms_load_within_seconds(tmp_path: Path) -> None:
    lines = [
        f"  a{i}: {{train.lr: {i + 1}e-4, model.head.hidden: [{i + 1}], model.head.dropout: [0.1]}}"
        for i in range(1000)
    ]
    started = time.process_time()
    assert (
        len(load(tmp_path, "name: a\narms:\n" + "\n".join(lines) + "\nbaseline: a0\n").arms_list)
        == 1000
    )
    assert time.process_time() - started < 3.0  # 0.2 where nothing runs beside


def test_long_lists_load_within_seconds(tmp_path: Path) -> None:
    listed = ",".join(map(str, range(1, 30_000)))
    started = time.process_time()
    assert len(load(tmp_path, f"name: a\nseeds: [{listed}]\n").seeds) == 29_999
    text = (
        f"name: a\nmethod: random\nrun_cap: 1000\nparameters: {{train.lr: {{values: "
        f"[{listed}]}}}}\n"
    )
    assert len(load(tmp_path, text).arms_list) == 1000
    assert time.process_time() - started < 4.0


def test_a_large_grid_checks_each_value_once(tmp_path: Path) -> None:
    text = "name: a\nrun_cap: 100000\nparameters:\n"
    for key in ("train.lr", "train.momentum", "model.dropout.rate"):
        text += f"  {key}: {{values: [{','.join(f'0.{i}' for i in range(100, 122))}]}}\n"
    started = time.process_time()
    assert len(load(tmp_path, text, "model.dropout.after=[a]").arms_list) == 22**3
    assert time.process_time() - started < 4.0


def test_reading_a_sweep_imports_neither_torch_nor_ray() -> None:
    code = """
import sys, time
started = time.process_time()
from suite import config
config.load("search_spaces/joint.yaml")
heavy = {"torch", "torchvision", "ray", "mlflow", "numpy", "optuna", "pandas", "scipy"}
heavy &= set(sys.modules)
print(sorted(heavy), time.process_time() - started < 1.5)
"""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[] True\n", done.stdout + done.stderr
