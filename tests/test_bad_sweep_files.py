"""Everything that can be wrong with a sweep file: a message with rule, value, place and remedy,
never a traceback.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import yaml
from fault_table import FULL
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suite import config
from suite.core.errors import Problem, UsageError

SHIPPED = Path(__file__).parents[1] / "search_spaces"
MUTATED = 1000 if FULL else 400  # files of each kind

GOOD = """\
name: good
metric: {name: val/acc}
trial:
  data: {name: digits}
  train: {epochs: 3}
parameters:
  augment: {values: [none, flip]}
  train.lr: {values: [0.1, 1e-2]}
seeds: [0, 1]
baseline: {augment: none}
"""


def load(folder: Path, text: str | bytes, *overrides: str) -> config.SweepSpec:
    file = folder / "x.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(file, overrides)


def messages(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The problems of a wrong file, the folder's path cut off."""
    with pytest.raises(UsageError) as caught:
        load(folder, text, *overrides)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def load_or_problems(folder: Path, text: str) -> config.SweepSpec | tuple[Problem, ...]:
    try:
        return load(folder, text)
    except UsageError as error:
        return error.problems


def with_line(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert len(load(tmp_path, GOOD).arms_list) == 4


# name -> (text, all that its only message must hold)
BAD: dict[str, tuple[str | bytes, list[str]]] = {
    # ---- the text
    "empty": ("", ["x.yaml: the file is empty", "quickstart.yaml"]),
    "only comments": ("# nothing\n", ["x.yaml: the file is empty"]),
    "a list": ("- a\n- b\n", ["x.yaml:1: a sweep file is a mapping of keys, got ['a', 'b']"]),
    "a word": ("hello", ["x.yaml:1: a sweep file is a mapping of keys, got 'hello'"]),
    "tab": (
        "name: a\ntrial:\n\tdata: {}\n",
        ["x.yaml:3:1: not YAML: a tab", "Indent with spaces."],
    ),
    "bracket": (GOOD + "arms: [\n", ["x.yaml:12:1: not YAML", "brackets"]),
    "colon": (
        "name: a\ndescription: what: ever\n",
        ["x.yaml:2:18: not YAML", "mapping values are not allowed"],
    ),
    "quote": ("name: 'a\n", ["x.yaml:2:1: not YAML", "unexpected end of stream"]),
    "image": (
        b"\x89PNG\r\n\x1a\n\x00",
        ["x.yaml:1: not UTF-8 text: byte 0x89", "Save the file as UTF-8."],
    ),
    "utf-16": ("name: a".encode("utf-16"), ["x.yaml:1: not UTF-8 text: byte 0xFF"]),
    "control": ("name: a\nx: \x01\n", ["x.yaml:2: not YAML: character U+0001 is not allowed"]),
    "two documents": (GOOD + "---\nname: b\n", ["x.yaml:11:1: a sweep file is one document"]),
    "python tag": (
        GOOD + "x: !!python/object/apply:os.system [ls]\n",
        ["x.yaml:11:4: tag !!python/object/apply:os.system"],
    ),
    "own tag": ("name: !secret a\n", ["x.yaml:1:7: tag !secret is not allowed"]),
    "tag of another type": (
        "name: a\nseeds: [!!int x]\n",
        ["x.yaml:2:9: 'x' is not of the type that its tag !!int says"],
    ),
    "unknown alias": ("name: *a\n", ["x.yaml:1:7: alias *a has no anchor &a before it"]),
    "self alias": ("name: a\ntrial: &t {x: *t}\n", ["x.yaml:2:15: alias *t has no anchor"]),
    "deep": ("name: " + "[" * 100_000, ["x.yaml:1:47: nested deeper than 40 levels"]),
    "large": ("#" * 1_000_001, ["x.yaml: a sweep file has at most 1,000,000 bytes, got 1,000,001"]),
    "key is a list": ("name: a\n? [1, 2]\n: 3\n", ["x.yaml:2:3: a key must be plain text"]),
    "merge of a number": ("name: a\ntrial: {<<: 3}\n", ["x.yaml:2:9: `<<` merges a mapping"]),
    "duplicate key": (
        with_line("seeds: [0, 1]", "seeds: [0, 1]\nseeds: [2]"),
        ["x.yaml:10:1: duplicate key 'seeds', first given on line 9", "silently keep the last"],
    ),
    "duplicate nested key": (
        with_line("epochs: 3", "epochs: 3, epochs: 4"),
        ["x.yaml:5:22: duplicate key 'epochs'"],
    ),
    # ---- the top level
    "unknown key": (
        GOOD + "metrics: 3\n",
        ["x.yaml:11: metrics: unknown key 'metrics'", "Did you mean 'metric'?"],
    ),
    "unknown key unlike any": (
        GOOD + "zzz: 3\n",
        ["x.yaml:11: zzz: unknown key 'zzz'", "Known keys: schema_version, name"],
    ),
    "setting at the top": (
        GOOD + "train: {epochs: 2}\n",
        ["x.yaml:11: train: unknown key", "under `trial:`"],
    ),
    "no name": (with_line("name: good\n", ""), ["`name` is missing", "name: x"]),
    "bad name": (
        with_line("name: good", "name: a/b"),
        ["x.yaml:1: name: must start with a letter", "got 'a/b'"],
    ),
    "name is a number": (
        with_line("name: good", "name: 3"),
        ["x.yaml:1: name: must be text, got 3"],
    ),
    "schema": (GOOD + "schema_version: 2\n", ["x.yaml:11: schema_version: must be 1, got 2"]),
    "method": (
        GOOD + "method: gird\n",
        ["x.yaml:11: method: must be one of grid, random, optuna", "Did you mean 'grid'?"],
    ),
    "test metric": (
        with_line("val/acc", "test/acc"),
        ["x.yaml:2: metric.name: test/acc must not select anything", "Name val/acc"],
    ),
    "unknown metric": (
        with_line("val/acc", "val/accuracy"),
        ["x.yaml:2: metric.name: must be one of val/acc", "Did you mean 'val/acc'?"],
    ),
    "unknown metric key": (
        with_line("val/acc", "val/acc, gaol: x"),
        ["x.yaml:2: metric.gaol: unknown key", "'goal'"],
    ),
    "wrong goal": (
        with_line("val/acc", "val/loss, goal: maximize"),
        ["x.yaml:2: metric: val/loss can only be minimized, got goal: maximize"],
    ),
    "margin in points": (
        with_line("val/acc", "val/acc, margin: 0.5"),
        ["metric: margin is a fraction: write 0.005"],
    ),
    "margin nan": (
        with_line("val/acc", "val/acc, margin: .nan"),
        ["x.yaml:2: metric.margin: must be a finite number, got nan"],
    ),
    "metric is text": (
        with_line("{name: val/acc}", "val/acc"),
        ["x.yaml:2: metric: must be", "got 'val/acc'"],
    ),
    "cost alone": (
        with_line("val/acc", "time/epoch_s"),
        ["metric.name: time/epoch_s alone is no objective"],
    ),
    "metric list on a grid": (
        with_line("{name: val/acc}", "[{name: val/acc}, {name: time/epoch_s}]"),
        ["x.yaml:2: metric: a list of metrics needs method: optuna, got grid"],
    ),
    "no seeds": (
        with_line("[0, 1]", "[]"),
        ["x.yaml:9: seeds: must have at least 1 entries, got []"],
    ),
    "seeds twice": (
        with_line("[0, 1]", "[0, 1, 0]"),
        ["x.yaml:9: seeds: must be different, got 0 more than once"],
    ),
    "negative seed": (
        with_line("[0, 1]", "[0, -1]"),
        ["x.yaml:9: seeds.1: must be at least 0, got -1"],
    ),
    "seed is a fraction": (
        with_line("[0, 1]", "[0.5]"),
        ["x.yaml:9: seeds.0: must be a whole number, got 0.5"],
    ),
    "seeds is a number": (
        with_line("[0, 1]", "3"),
        [
            "x.yaml:9: seeds: must be a list, got 3",
            "or a plan: {at_least: 8, at_most: 16, until: decided}",
        ],
    ),
    "a plan of six seeds": (
        with_line("[0, 1]", "{at_least: 6, at_most: 16, until: decided}"),
        ["x.yaml:9: seeds: at_least must be at least 8", "fewer seeds can never decide", "got 6"],
    ),
    "a plan that shrinks": (
        with_line("[0, 1]", "{at_least: 9, at_most: 8, until: decided}"),
        ["x.yaml:9: seeds: at_most must be at least at_least (9), got 8"],
    ),
    "a plan without step": (
        with_line("[0, 1]", "{at_least: 8, at_most: 16, until: decided, step: 0}"),
        ["x.yaml:9: seeds.step: must be at least 1, got 0"],
    ),
    "a plan of too many looks": (
        with_line("[0, 1]", "{at_least: 8, at_most: 200, until: decided, step: 1}"),
        ["x.yaml:9: seeds: at most 50 looks, got 193: give a larger step"],
    ),
    "a plan until nothing": (
        with_line("[0, 1]", "{at_least: 8, at_most: 16}"),
        ["x.yaml:9: seeds.until: must be given", "Write `until: decided`"],
    ),
    "a plan until another word": (
        with_line("[0, 1]", "{at_least: 8, at_most: 16, until: significant}"),
        ["x.yaml:9: seeds.until: must be decided, got 'significant'", "Write `until: decided`"],
    ),
    "a plan with a typing error": (
        with_line("[0, 1]", "{at_least: 8, at_mots: 9, at_most: 16, until: decided}"),
        ["x.yaml:9: seeds.at_mots: unknown key 'at_mots'", "Did you mean 'at_most'?"],
    ),
    "a plan without a baseline": (
        with_line(
            "[0, 1]\nbaseline: {augment: none}", "{at_least: 8, at_most: 16, until: decided}"
        ),
        ["x.yaml:9: seeds: seeds until decided needs a baseline", "Add e.g. `baseline: ARM`"],
    ),
    "a plan for a search": (
        with_line(
            "[0, 1]", "{at_least: 8, at_most: 16, until: decided}\nmethod: random\nrun_cap: 2"
        ).replace("baseline: {augment: none}", "baseline: {augment: none, train.lr: 0.1}"),
        [
            "x.yaml:9: seeds: seeds until decided needs method: grid, got random",
            "seeds: [0, 1, 2, 3]",
        ],
    ),
    "a plan with early stopping": (
        with_line(
            "[0, 1]", "{at_least: 8, at_most: 16, until: decided}\nearly_terminate: {type: asha}"
        ),
        [
            "x.yaml:9: seeds: seeds until decided cannot be combined with early_terminate",
            "Remove early_terminate",
        ],
    ),
    "sexagesimal seed": (
        with_line("[0, 1]", "[12:30:45]"),
        ["seeds.0: must be a whole number, got '12:30:45'"],
    ),
    "resources": (
        GOOD + "resources: {gpu: lots}\n",
        ["x.yaml:11: resources.gpu: must be a number or auto, got 'lots'"],
    ),
    "gpu 1.5": (
        GOOD + "resources: {gpu: 1.5}\n",
        ["x.yaml:11: resources: gpu above 1 must be a whole number, got 1.5"],
    ),
    "cpu autp": (
        GOOD + "resources: {cpu: autp}\n",
        [
            "x.yaml:11: resources.cpu: must be a whole number or auto, got 'autp'",
            "Did you mean 'auto'?",
        ],
    ),
    "compile 3": (
        GOOD + "resources: {compile: 3}\n",
        ["x.yaml:11: resources.compile: must be true, false or auto, got 3", "Write true or false"],
    ),
    "compile ayto": (
        GOOD + "resources: {compile: ayto}\n",
        [
            "x.yaml:11: resources.compile: must be true, false or auto, got 'ayto'",
            "Did you mean 'auto'?",
        ],
    ),
    "compile and a short hang": (
        GOOD + "resources: {compile: true, hang_after_s: 60}\n",
        [
            "x.yaml:11: resources: hang_after_s must be 0 (never) or at least 300 with compile",
            "got 60",
        ],
    ),
    "cpu 0": (
        GOOD + "resources: {cpu: 0}\n",
        ["x.yaml:11: resources.cpu: must be at least 1, got 0"],
    ),
    "early_terminate": (
        GOOD + "early_terminate: {type: ahsa}\n",
        ["early_terminate: must be a mapping with type: asha or median", "'asha'"],
    ),
    "asha key": (
        GOOD + "early_terminate: {type: asha, grace: 3}\n",
        ["early_terminate.grace: unknown key 'grace'", "'grace_epochs'"],
    ),
    "pack with asha": (
        GOOD + "early_terminate: {type: asha}\nresources: {pack: 2}\n",
        ["x.yaml:12: resources.pack: must be 1 with early_terminate, got 2"],
    ),
    "confirm on a grid": (
        GOOD + "confirm: {top: 2}\n",
        ["x.yaml:11: confirm: confirm needs method: random or optuna"],
    ),
    "run_cap": (
        GOOD + "run_cap: 3\n",
        ["x.yaml:11: run_cap: the grid has 4 arms (2 x 2), run_cap is 3", "raise run_cap"],
    ),
    "run_cap too large": (
        GOOD + "run_cap: 1000000000\n",
        ["x.yaml:11: run_cap: must be at most 100000"],
    ),
    "keep": (
        GOOD + "checkpoints: {keep: some}\n",
        ["x.yaml:11: checkpoints.keep: must be a whole number or all"],
    ),
    # ---- settings
    "unknown setting": (
        with_line("epochs: 3", "epoch: 3"),
        [
            "x.yaml:5: trial.train.epoch: unknown setting 'train.epoch'",
            "Did you mean 'train.epochs'?",
        ],
    ),
    "synonym": (
        with_line("epochs: 3", "learning_rate: 3"),
        ["trial.train.learning_rate: unknown setting", "'train.lr'"],
    ),
    "negative epochs": (
        with_line("epochs: 3", "epochs: -3"),
        ["x.yaml:5: trial.train.epochs: must be at least 1, got -3"],
    ),
    "epochs is text": (
        with_line("epochs: 3", "epochs: ten"),
        ["trial.train.epochs: must be a whole number, got 'ten'"],
    ),
    "quoted number": (
        with_line("epochs: 3", "lr: '0.1'"),
        ["trial.train.lr: must be a number, got '0.1'", "without quotes"],
    ),
    "epochs is true": (
        with_line("epochs: 3", "epochs: true"),
        ["trial.train.epochs: must be a whole number, got true"],
    ),
    "nan": (
        with_line("epochs: 3", "weight_decay: .nan"),
        ["trial.train.weight_decay: must be a finite number, got nan"],
    ),
    "infinite": (
        with_line("epochs: 3", "lr: .inf"),
        ["trial.train.lr: must be a finite number, got inf"],
    ),
    "section is a number": (
        with_line("{epochs: 3}", "3"),
        ["x.yaml:5: trial.train: must be a mapping of settings, got 3"],
    ),
    "yes is text": (
        GOOD.replace("train: {epochs: 3}", "model: {freeze_batchnorm: yes}"),
        ["model.freeze_batchnorm: must be true or false, got 'yes'", "Write true or false"],
    ),
    "given twice": (
        with_line("  train: {epochs: 3}", "  train: {epochs: 3}\n  train.epochs: 4"),
        ["x.yaml:6: trial.train.epochs: train.epochs is given twice here"],
    ),
    "unknown data": (
        with_line("digits", "cifar"),
        ["x.yaml:4: trial.data.name: must be one of cifar10, cifar100", "Did you mean 'cifar10'?"],
    ),
    "folder without root": (
        with_line("digits", "folder"),
        ["x.yaml:4: trial.data.name: data.name: folder needs data.root"],
    ),
    "warm-up": (
        with_line("epochs: 3", "epochs: 3, warmup_epochs: 3"),
        [
            "x.yaml:5: trial.train.epochs: train.warmup_epochs must be below train.epochs, got 3 "
            "and 3"
        ],
    ),
    "nesterov without momentum": (
        with_line("epochs: 3", "momentum: 0, nesterov: true"),
        [
            "x.yaml:5: trial.train.momentum: train.nesterov: true needs train.momentum above 0, "
            "got 0"
        ],
    ),
    "unknown last batch": (
        with_line("epochs: 3", "last_batch: pad"),
        ["x.yaml:5: trial.train.last_batch", "drop", "spread", "keep", "'pad'"],
    ),
    "dropout nowhere": (
        with_line("train: {epochs: 3}", "model: {dropout: {rate: 0.1}}"),
        ["x.yaml:5", "dropout.after must name at least one layer"],
    ),
    "head": (
        GOOD + "arms:\n  a: {}\n  b: {model.head.hidden: [3], model.head.dropout: [0.1, 0.2]}\n",
        [
            "x.yaml:13: arms.b: head.dropout must be one rate or as many as head.hidden, got 2 "
            "rates for 1"
        ],
    ),
    "val_size 0": (
        with_line("digits", "digits, val_size: 0"),
        ["x.yaml:4: trial.data.val_size: data.val_size: 0 leaves no val/acc", "strategy: last"],
    ),
    "val_size 0, best": (
        with_line("digits", "digits, val_size: 0").replace("val/acc", "train/acc"),
        ["x.yaml:4: trial.data.val_size: data.val_size: 0 allows only strategy: last"],
    ),
    "unknown augmentation": (
        with_line("[none, flip]", "[none, flp+crop]"),
        [
            "x.yaml:7: parameters.augment.values.1: unknown augmentation 'flp'",
            "Did you mean 'flip'? Known: none, center_crop",
        ],
    ),
    "none in a combo": (
        with_line("[none, flip]", "[none, none+flip]"),
        ["`none` stands alone in augment, got 'none+flip'"],
    ),
    "spaces in a combo": (
        with_line("[none, flip]", "[none, flip + crop]"),
        ["without spaces", "flip+crop+cutout"],
    ),
    "twice in a combo": (
        with_line("[none, flip]", "[none, flip+flip]"),
        ["augment names 'flip' twice", "flip2: {type: flip}"],
    ),
    "variant of no type": (
        GOOD + "augmentations: {big: {size: 3}}\n",
        ["augmentations.big.type: must be one of rotation", "got null"],
    ),
    "variant of unknown type": (
        GOOD + "augmentations: {big: {type: cutuot}}\n",
        ["augmentations.big.type", "Did you mean 'cutout'?"],
    ),
    "variant shadows": (
        GOOD + "augmentations: {flip: {type: cutout}}\n",
        ["augmentations.flip: flip is a built-in name and cannot be a cutout"],
    ),
    "variant value": (
        GOOD + "augmentations: {big: {type: cutout, size: -1}}\n",
        ["augmentations.big.size: must be at least 1, got -1"],
    ),
    "variant key": (
        GOOD + "augmentations: {big: {type: cutout, sise: 1}}\n",
        ["augmentations.big.sise: unknown key 'sise'", "'size'"],
    ),
    "variant rule": (
        GOOD + "augmentations: {b: {type: gaussian_blur, kernel_size: 4}}\n",
        ["augmentations.b: gaussian_blur.kernel_size must be odd, got 4"],
    ),
    "variant name": (
        GOOD + "augmentations: {a+b: {type: cutout}}\n",
        ["'a+b' cannot name an augmentation"],
    ),
    "variant name with a dot": (
        GOOD + "augmentations: {cutout.big: {type: cutout}}\n",
        [
            "x.yaml:11: augmentations.cutout.big: 'cutout.big' cannot name an augmentation",
            "letters, digits, `_` and `-`",
        ],
    ),
    "variant name with a space": (
        GOOD + "augmentations: {a b: {type: cutout}}\n",
        ["'a b' cannot name an augm"],
    ),
    "home of nobody": (
        with_line("{name: digits}", "{name: digits, root: ~nobody-here/x}"),
        [
            "x.yaml:4: trial.data.root: must not start with an unknown home folder, got "
            "'~nobody-here/x'",
            "whole path",
        ],
    ),
    "path with a NUL": (
        with_line("{name: digits}", '{name: digits, root: "a\\0"}'),
        ["data.root: must be a path"],
    ),
    "huge version": (
        GOOD + f"schema_version: {'9' * 150}\n",
        ["schema_version: must be a smaller number, got 999"],
    ),
    # ---- parameters
    "too many parameters": (
        "name: a\nparameters:\n"
        + "".join(f"  p{i}: {{values: {{a: {{}}}}}}\n" for i in range(3000)),
        ["x.yaml:2: parameters: at most 100 parameters vary together, got 3000"],
    ),
    "parameter named like a key": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "seeds: {values: {a: {train.lr: 1}}}"),
        ["x.yaml:8: parameters.seeds: 'seeds' is a key of the file and cannot name a parameter"],
    ),
    "parameter name": (
        with_line("train.lr: {values: [0.1, 1e-2]}", '"a\\nb": {values: {a: {train.lr: 1}}}'),
        ["'a\\nb' cannot name a parameter"],
    ),
    "label name": (
        with_line("train.lr: {values: [0.1, 1e-2]}", 'h: {values: {" a": {train.lr: 1}}}'),
        ["x.yaml:8: parameters.h.values. a: ' a' cannot name a label"],
    ),
    "list values": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "model.head.hidden: {values: [[3], [true]]}"),
        ["every value of model.head.hidden must be a whole number, got [true]"],
    ),
    "zero twice": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "train.momentum: {values: [0.0, -0.0]}"),
        ["parameters.train.momentum.values.1: 0 is listed twice"],
    ),
    "unknown parameter": (
        with_line("train.lr:", "train.lrr:"),
        ["x.yaml:8: parameters.train.lrr: unknown setting 'train.lrr'", "Did you mean 'train.lr'?"],
    ),
    "short parameter": (
        with_line("train.lr:", "lr:"),
        ["x.yaml:8: parameters.lr: unknown setting 'lr'", "Did you mean 'train.lr'?"],
    ),
    "bare list": (
        with_line("{values: [0.1, 1e-2]}", "[0.1, 1e-2]"),
        [
            "x.yaml:8: parameters.train.lr: a parameter must be a mapping",
            "Write train.lr: {values: [...]}.",
        ],
    ),
    "bare value": (with_line("{values: [0.1, 1e-2]}", "0.1"), ["Write train.lr: {value: ...}."]),
    "unknown parameter key": (
        with_line("{values: [0.1, 1e-2]}", "{values: [0.1], wen: {}}"),
        ["parameters.train.lr.wen: unknown key 'wen' of a parameter", "'when'"],
    ),
    "no kind": (
        with_line("{values: [0.1, 1e-2]}", "{}"),
        [
            "parameters.train.lr: a parameter has one of value, values, min with max, zip; "
            "train.lr has none"
        ],
    ),
    "two kinds": (
        with_line("{values: [0.1, 1e-2]}", "{value: 1, values: [1]}"),
        ["train.lr has value and values"],
    ),
    "no values": (
        with_line("[0.1, 1e-2]", "[]"),
        ["x.yaml:8: parameters.train.lr.values: must not be empty: the space would be"],
    ),
    "values twice": (
        with_line("[0.1, 1e-2]", "[1, 1.0]"),
        ["x.yaml:8: parameters.train.lr.values.1: 1 is listed twice"],
    ),
    "wrong value": (
        with_line("[0.1, 1e-2]", "[0.1, -1]"),
        ["x.yaml:8: parameters.train.lr.values.1: train.lr must be above 0, got -1"],
    ),
    "range on a grid": (
        with_line("{values: [0.1, 1e-2]}", "{min: 0.1, max: 0.2}"),
        [
            "x.yaml:8: parameters.train.lr: min and max need a method that draws values",
            "method: optuna",
        ],
    ),
    "arm is reserved": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "arm: {values: {a: {}}}"),
        ["'arm' stands for `arms`"],
    ),
    "zip lengths": (
        with_line(
            "train.lr: {values: [0.1, 1e-2]}",
            "z: {zip: {train.lr: [0.1, 0.2], train.batch_size: [8]}}",
        ),
        [
            "x.yaml:8: parameters.z.zip: lists that vary together must be equally long",
            "train.lr has 2, train.batch_size has 1",
        ],
    ),
    "zip key": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "z: {zip: {train.lrr: [0.1]}}"),
        ["parameters.z.zip.train.lrr: unknown setting", "'train.lr'"],
    ),
    "zip without a name": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "zip: {train.lr: [0.1]}"),
        ["NAME: {zip: {...}}"],
    ),
    "label settings": (
        with_line("train.lr: {values: [0.1, 1e-2]}", "h: {values: {a: {model.head.hiden: [3]}}}"),
        [
            "x.yaml:8: parameters.h.values.a.model.head.hiden: unknown setting",
            "'model.head.hidden'",
        ],
    ),
    "varies twice": (
        GOOD + "arms: {a: {train.lr: 0.1}, b: {train.lr: 0.2}}\n",
        ["x.yaml:8: parameters.train.lr: train.lr varies twice, also in arms"],
    ),
    "when unknown": (
        with_line("[0.1, 1e-2]}", "[0.1], when: {augmnt: [flip]}}"),
        [
            "x.yaml:8: parameters.train.lr.when.augmnt: `when` asks about 'augmnt', which varies "
            "nowhere",
            "Did you mean 'augment'?",
        ],
    ),
    "when never": (
        with_line("[0.1, 1e-2]}", "[0.1], when: {augment: [crop]}}"),
        [
            "x.yaml:8: parameters.train.lr.when.augment: `when` never holds: augment is one of "
            "none, flip"
        ],
    ),
    "when never, of many": (
        "name: a\nparameters:\n  train.epochs: {values: ["
        + ",".join(map(str, range(1, 13)))
        + "]}\n"
        "  train.lr: {values: [1, 2], when: {train.epochs: [99]}}\n",
        ["`when` never holds: train.epochs is one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more"],
    ),
    "when too long": (
        with_line("[0.1, 1e-2]}", f"[0.1], when: {{train.epochs: [{','.join('1' * 101)}]}}}}"),
        ["when.train.epochs: `when` lists at most 100 values, got 101"],
    ),
    "when empty": (
        with_line("[0.1, 1e-2]}", "[0.1], when: {augment: []}}"),
        ["when.augment: must not be empty"],
    ),
    "when in a circle": (
        with_line("[0.1, 1e-2]}", "[0.1], when: {augment: [flip]}}").replace(
            "flip]}\n", "flip], when: {train.lr: [0.1]}}\n", 1
        ),
        ["`when` goes round in a circle: augment -> train.lr -> augment"],
    ),
    "billion arms": (
        "name: a\nparameters:\n"
        + "".join(
            f"  train.{key}: {{values: [{','.join(f'0.{i}' for i in range(100, 1000))}]}}\n"
            for key in ("lr", "momentum", "ema")
        ),
        ["x.yaml:2: parameters: the grid has 729,000,000 arms (900 x 900 x 900), run_cap is 1,000"],
    ),
    # ---- arms, baseline, reference
    "arm is a number": (GOOD + "arms: {a: 3}\n", ["x.yaml:11: arms.a: must be a mapping, got 3"]),
    "arms is a list": (GOOD + "arms: [a]\n", ["x.yaml:11: arms: must be a mapping, got ['a']"]),
    "arm setting": (
        GOOD + "arms:\n  a: {}\n  b: {model.wights: none}\n",
        ["x.yaml:13: arms.b.model.wights: unknown setting", "'model.weights'"],
    ),
    "arm name": (GOOD + 'arms: {"a\\nb": {}}\n', ["'a\\nb' cannot name an arm"]),
    "same arms": (
        "name: a\narms:\n  x: {}\n  y: {train.lr: 0.05}\n",
        ["x.yaml:4: arms.y: 'y' and 'x' are the same configuration"],
    ),
    "baseline name": (
        "name: a\narms:\n  one: {}\n  two: {train.lr: 1}\nbaseline: tow\n",
        ["x.yaml:5: baseline: baseline 'tow' is no arm", "Did you mean 'two'? Arms: one, two."],
    ),
    "baseline value": (
        with_line("{augment: none}", "{augment: crop}"),
        [
            "x.yaml:10: baseline: baseline {augment: 'crop'} fits no arm",
            "Arms: augment=none lr=0.1,",
        ],
    ),
    "baseline key": (
        with_line("{augment: none}", "{augmnt: none}"),
        ["x.yaml:10: baseline.augmnt: unknown setting 'augmnt'", "'augment'"],
    ),
    "baseline type": (
        with_line("{augment: none}", "{train.lr: fast}"),
        ["baseline {train.lr: 'fast'} fits no arm"],
    ),
    "reference": (
        GOOD + "reference: {flip: {test/acc: 0.5}}\n",
        ["x.yaml:11: reference.flip: reference 'flip' is no arm", "Arms: augment=none lr=0.1"],
    ),
    "reference in percent": (
        "name: a\narms:\n  one: {}\n  two: {train.lr: 1}\nbaseline: one\nreference: {one: "
        "{test/acc: [95.1, 0.9]}}\n",
        [
            "x.yaml:6: reference.one.test/acc: an accuracy is a fraction of at most 1, got 95.1",
            "Write 0.951",
        ],
    ),
    "reference seeds": (
        GOOD + "reference: {x: {test/acc: [0.5, a]}}\n",
        [
            "x.yaml:11: reference.x.test/acc: must be a number, a list of one number or more, or "
            "text, got [0.5, 'a']"
        ],
    ),
    "reference without seeds": (
        GOOD + "reference: {x: {test/acc: []}}\n",
        [
            "x.yaml:11: reference.x.test/acc: must be a number, a list of one number or more, or "
            "text, got []"
        ],
    ),
    "reference key": (
        GOOD + "reference: {x: {test/accuracy: 0.5}}\n",
        ["x.yaml:11: reference.x", "must be one of train/loss"],
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.fault(44)
def test_a_wrong_file_has_one_message_with_rule_place_and_remedy(case: str, tmp_path: Path) -> None:
    text, fragments = BAD[case]
    found = messages(tmp_path, text)
    assert len(found) == 1, found
    for fragment in fragments:
        assert fragment in found[0], found[0]


SEARCH = """\
name: search
method: random
run_cap: 5
parameters:
  augment: {values: [none, flip]}
  train.lr: {min: 1e-3, max: 0.1, distribution: log_uniform}
"""

BAD_SEARCH: dict[str, tuple[str, list[str]]] = {
    "no run_cap": (
        SEARCH.replace("run_cap: 5\n", ""),
        ["x.yaml:2: method: method: random needs run_cap", "Add run_cap: 50."],
    ),
    "no parameters": (
        "name: a\nmethod: optuna\nrun_cap: 3\n",
        ["x.yaml:2: method: method: optuna needs parameters", "grid"],
    ),
    "min above max": (
        SEARCH.replace("min: 1e-3", "min: 0.2"),
        ["x.yaml:6: parameters.train.lr: min < max must hold, got min=0.2, max=0.1"],
    ),
    "min is max": (
        SEARCH.replace("min: 1e-3", "min: 0.1"),
        ["min < max must hold, got min=0.1, max=0.1"],
    ),
    "log of zero": (
        SEARCH.replace("min: 1e-3", "min: 0"),
        ["x.yaml:6: parameters.train.lr.min: must be above 0 for log_uniform, got 0"],
    ),
    "huge bounds": (
        SEARCH.replace("min: 1e-3, max: 0.1, distribution: log_uniform", "min: 0.1, max: 1e308"),
        ["x.yaml:6: parameters.train.lr.max: must lie between -1e+15 and 1e+15, got 1e+308"],
    ),
    "nan bound": (
        SEARCH.replace("min: 1e-3", "min: .nan"),
        ["parameters.train.lr.min: must be a finite number, got nan"],
    ),
    "text bound": (
        SEARCH.replace("min: 1e-3", "min: low"),
        ["parameters.train.lr.min: must be a finite number, got 'low'"],
    ),
    "no max": (
        SEARCH.replace(", max: 0.1", ""),
        ["parameters.train.lr: max is missing: a range has min and max"],
    ),
    "bound outside the setting": (
        SEARCH.replace(
            "train.lr: {min: 1e-3, max: 0.1, distribution: log_uniform}",
            "train.momentum: {min: 0, max: 1}",
        ),
        ["parameters.train.momentum.max: train.momentum must be below 1, got 1"],
    ),
    "distribution": (
        SEARCH.replace("log_uniform", "loguniform"),
        ["parameters.train.lr.distribution: must be one of uniform", "'log_uniform'"],
    ),
    "fractions of an int": (
        SEARCH.replace(
            "train.lr: {min: 1e-3, max: 0.1, distribution: log_uniform}",
            "train.batch_size: {min: 8, max: 64, distribution: uniform}",
        ),
        ["train.batch_size takes no fractions, uniform draws them", "int_uniform"],
    ),
    "int_uniform bounds": (
        SEARCH.replace(
            "train.lr: {min: 1e-3, max: 0.1, distribution: log_uniform}",
            "train.batch_size: {min: 8.5, max: 64, distribution: int_uniform}",
        ),
        ["int_uniform needs whole bounds, got min=8.5"],
    ),
    "distribution of a list": (
        SEARCH.replace("[none, flip]}", "[none, flip], distribution: uniform}"),
        ["parameters.augment.distribution: distribution needs min and max, augment has values"],
    ),
    "list on random": (
        SEARCH + "metric: [{name: val/acc}, {name: val/loss}]\n",
        ["metric: a list of metrics needs method: optuna, got random"],
    ),
    "Pareto stopped": (
        SEARCH.replace("random", "optuna")
        + "metric: [{name: val/acc}, {name: val/loss}]\nearly_terminate: {type: median}\n",
        ["x.yaml:8: early_terminate: a search with several metrics cannot stop trials early"],
    ),
    "Pareto patience": (
        SEARCH.replace("random", "optuna")
        + "metric: [{name: val/acc}, {name: val/loss}]\ntrial: {train: {patience: 3}}\n",
        ["x.yaml:8: trial.train.patience: train.patience needs one metric"],
    ),
    "the same metric": (
        SEARCH.replace("random", "optuna") + "metric: [{name: val/acc}, {name: val/acc}]\n",
        ["metric: a list of metrics names at least two different ones"],
    ),
    "baseline misses a parameter": (
        SEARCH + "baseline: {augment: none}\n",
        ["x.yaml:7: baseline: baseline: train.lr is not given", "give every parameter a value"],
    ),
    "baseline out of the space": (
        SEARCH + "baseline: {augment: none, train.lr: 1}\n",
        ["baseline: train.lr must lie in [0.001, 0.1], got 1"],
    ),
    "contradiction in a corner": (
        SEARCH.replace("random", "optuna")
        + "  train.warmup_epochs: {min: 0, max: 40}\ntrial: {train: {epochs: 30}}\n",
        ["x.yaml:7", "train.warmup_epochs: must be below train.epochs, got 40 and 30"],
    ),
}


@pytest.mark.parametrize("case", BAD_SEARCH)
@pytest.mark.fault(44)
def test_a_wrong_search_has_one_message(case: str, tmp_path: Path) -> None:
    text, fragments = BAD_SEARCH[case]
    found = messages(tmp_path, text)
    assert len(found) == 1, found
    for fragment in fragments:
        assert fragment in found[0], found[0]


BAD_OVERRIDES: dict[str, tuple[str, list[str]]] = {
    "no value": (
        "train.epochs",
        ["command line: train.epochs: must be key=value, e.g. train.epochs=3"],
    ),
    "unknown": (
        "train.epoch=3",
        ["command line: train.epoch: unknown key 'train.epoch'", "Did you mean 'train.epochs'?"],
    ),
    "unknown in a section": (
        "resources.gpus=1",
        ["command line: resources.gpus: unknown key 'gpus'", "'gpu'"],
    ),
    "unlike any": (
        "zzz=1",
        ["command line: zzz: unknown key 'zzz'", "Top-level keys: schema_version"],
    ),
    "wrong value": ("train.epochs=-1", ["command line: train.epochs: must be at least 1, got -1"]),
    "prefix": ("trial.train.epochs=0", ["command line: train.epochs: must be at least 1, got 0"]),
    "not YAML": ("train.lr=[", ["command line: train.lr: not YAML", "in '['", "Quote the value."]),
    "fixed to nonsense": (
        "augment=flp",
        ["command line: augment: unknown augmentation 'flp'", "'flip'"],
    ),
    "seeds": ("seeds=[1,1]", ["command line: seeds: must be different, got 1 more than once"]),
    "a list in the file": (
        "seeds.at_most=9",
        ["seeds is a list in the file", "Give the whole list: seeds=[...]."],
    ),
    "section": ("train=3", ["command line: train: must be a mapping of settings, got 3"]),
    "parameter values": (
        "parameters.augment.values=[none, flp]",
        ["command line: parameters.augment.values", "'flp'"],
    ),
    "not UTF-8": ("data.root=\udcff", ["command line: data.root=\\udcff: is not UTF-8 text"]),
    "not UTF-8, no key": ("\udcff", ["command line: \\udcff: is not UTF-8 text"]),
    "deep key": ("early_terminate." + "x." * 3000 + "y=3", ["a key has at most 40 dots"]),
    "value in a list": (
        "parameters.augment.values.0=crop",
        ["values is a list in the file", "parameters.augment.values=[...]"],
    ),
    "variant name": (
        "augmentations.a+b.type=flip",
        ["command line: augmentations.a+b.type: 'a+b' cannot name"],
    ),
    "metric": (
        "metric.name=test/acc",
        ["command line: metric.name: test/acc must not select anything"],
    ),
}


@pytest.mark.parametrize("case", BAD_OVERRIDES)
@pytest.mark.fault(44)
def test_a_wrong_override_is_placed_on_the_command_line(case: str, tmp_path: Path) -> None:
    override, fragments = BAD_OVERRIDES[case]
    found = messages(tmp_path, GOOD, override)
    assert len(found) == 1, found
    for fragment in fragments:
        assert fragment in found[0], found[0]


def test_an_override_given_twice_is_an_error(tmp_path: Path) -> None:
    assert messages(tmp_path, GOOD, "train.lr=1", "trial.train.lr=2") == [
        "command line: train.lr: train.lr is given twice"
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("train={lr: 1}", "train.lr=2"), "command line: train.lr: train.lr is given twice"),
        (
            ("model.head=null", "model.head.hidden=[3]"),
            "command line: model.head.hidden: model.head.hidden and model.head contradict each "
            "other",
        ),
        (
            ("parameters.two={values: {b: {train.ema: 0.2}}}", "one=b", "two=b"),
            "command line: two: train.ema is also set by one=b",
        ),
        (
            ("z=1",),
            "command line: z: z has no labels to choose from\n    Give the settings that it "
            "varies, e.g. ",
        ),
    ],
)
def test_overrides_that_contradict_each_other_or_fix_nothing(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    text = (
        "name: a\nparameters:\n  z: {zip: {train.epochs: [1, 2]}}\n  one: {values: {a: {}, b: "
        "{train.ema: 0.1}}}\n"
    )
    (found,) = messages(tmp_path, text, *overrides)
    assert found.startswith(expected)


def test_a_wrong_label_is_reported_though_another_one_is_chosen(tmp_path: Path) -> None:
    text = "name: a\nparameters: {h: {values: {a: {}, b: {train.lrr: 1}}, wen: {}}}\n"
    for override in ("h=a", "h=b"):
        assert [each.split("\n")[0] for each in messages(tmp_path, text, override)] == [
            "x.yaml:2: parameters.h.wen: unknown key 'wen' of a parameter",
            "x.yaml:2: parameters.h.values.b.train.lrr: unknown setting 'train.lrr'",
        ]


def test_every_error_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: a b
method: gird
metric: {name: test/acc}
trial:
  train: {epochs: -1, lr: .nan, epoch: 3}
parameters:
  augment: {values: [flp]}
  model.freeze_depth: {values: []}
seeds: [0, 0]
baseline: {augmnt: none}
resources: {cpu: 0, gpux: 1}
extra: 1
"""
    found = messages(tmp_path, text, "train.momentum=2")
    places = [message.split(": ")[0] for message in found]
    lines = [1, 2, 3, 5, 5, 5, 7, 8, 9, 10, 11, 11, 12]
    assert places == [*(f"x.yaml:{line}" for line in lines), "command line"], "\n".join(found)


def test_errors_elsewhere_do_not_hide_a_contradiction_or_a_wrong_baseline(tmp_path: Path) -> None:
    text = "name: a\nseeds: [0, 0]\narms:\n  x: {}\n  y: {train.warmup_epochs: 99}\nbaseline: z\n"
    found = messages(tmp_path, text)
    assert [message.split(": ")[0] for message in found] == ["x.yaml:2", "x.yaml:5", "x.yaml:6"], (
        found
    )


def test_a_missing_file_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("")
    with pytest.raises(UsageError, match=r"nope\.yaml: no such file\n.*has: other\.yaml"):
        config.load(tmp_path / "nope.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        config.load(tmp_path)
    with pytest.raises(UsageError, match="does not exist either"):
        config.load(tmp_path / "a" / "b.yaml")


@pytest.mark.fault(44)
def test_bombs_are_refused_at_once(tmp_path: Path) -> None:
    names = "abcdefghijkl"
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in itertools.pairwise(names)
    )
    merges = "a: &a {x: 1}\n" + "".join(
        f"k{i}: &k{i} {{<<: [{','.join(['*a'] * 50)}]}}\n" for i in range(200)
    )
    started = time.process_time()
    assert "x.yaml:6:4: aliases expand to over 500,000 values" in messages(tmp_path, bomb)[0]
    assert "unknown key" in messages(tmp_path, merges)[0]
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("text", ["name: good\r\nseeds: [0]\r\n", "\ufeffname: good\nseeds: [0]\n"])
def test_windows_line_ends_and_byte_order_marks_are_no_error(text: str, tmp_path: Path) -> None:
    assert load(tmp_path, text).name == "good"


TEXTS = [(path.name, path.read_text()) for path in sorted(SHIPPED.glob("*.yaml"))]
SNIPPETS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    ",",
    "-",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "#",
    "'",
    '"',
    "&a ",
    "*a",
    "!!int ",
    "<<: ",
    "---\n",
    "null",
    "true",
    "-1",
    "1e999",
    ".nan",
    "0",
    "99999999999999999999",
    "values",
    "when",
    "zip",
    "min",
    "max",
    "arms",
    "seeds",
    "model.head",
    "augment",
    "none",
    "train.lr",
    "\x00",
    "\u2028",
    "ü",
    "=",
    "+",
    "value",
    "baseline",
    "parameters",
    "optuna",
]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A shipped file with a few pieces cut out, doubled, swapped or put in."""
    text = draw(st.sampled_from(TEXTS))[1]
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(body) - 1, 0)))
        end = min(start + draw(st.integers(0, 30)), len(body))
        middle = draw(
            st.one_of(st.just(""), st.sampled_from(SNIPPETS), st.just(body[start:end] * 2))
        )
        body = body[:start] + middle + body[end:]
    return body


@settings(
    max_examples=MUTATED,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(text=mutated())
@example(
    text="name: a\nparameters: {train.lr: {values: {a: {train.lr: 1}}, when: {train.lr: [1]}}}"
)
@example(text="name: a\ntrial: {model: {head: null, head.hidden: [3]}}")
@example(
    text="name: a\nparameters: {model.head: {values: {a: null, b: {model.head.hidden: [2]}}}}\n"
)
@example(text="name: a\nmetric: []")
@example(
    text="name: a\nparameters: {train.lr: {min: 1, max: 9999999999999999999999999999, "
    "distribution: int_uniform}}"
)
@pytest.mark.fault(44)
def test_a_mutated_file_gives_a_sweep_or_a_usage_error(text: str, tmp_path: Path) -> None:
    result = load_or_problems(tmp_path, text)
    if isinstance(result, config.SweepSpec):
        assert len(result.arms_list) <= result.run_cap
    else:
        assert result
        assert all(problem.place and problem.rule for problem in result)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([*SNIPPETS, "flip", "imagenet", "asha"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "values",
                    "min",
                    "max",
                    "zip",
                    "when",
                    "type",
                    "name",
                    "model.head",
                    "train.lr",
                    "train",
                    "lr",
                    "a",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(
    max_examples=MUTATED,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.dictionaries(st.sampled_from(sorted(config.read.FIELDS)), VALUES, max_size=5))
@pytest.mark.fault(44)
def test_any_values_give_a_sweep_or_a_usage_error(data: dict[str, object], tmp_path: Path) -> None:
    result = load_or_problems(tmp_path, yaml.safe_dump({"name": "a", **data}, allow_unicode=True))
    assert isinstance(result, config.SweepSpec) or all(
        problem.place and problem.rule for problem in result
    )
