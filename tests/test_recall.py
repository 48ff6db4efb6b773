"""Runs read back from the store to be used again, also those that another version of the suite
wrote.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from suite import tracking
from suite.config import TrialConfig
from suite.core.errors import EnvironmentProblem
from suite.core.records import Numerics, Objective
from suite.tracking import TrialRun

KNOWN: dict[str, Any] = {"data": {"name": "digits"}, "model": {"arch": "resnet20"}}
TAGS = {"suite.version": "9.8.7", "suite.objective": json.dumps(asdict(Objective("val/acc"))),
        "suite.numerics": json.dumps(asdict(Numerics(threads=3)))}  # fmt: skip


def stored(monkeypatch: pytest.MonkeyPatch, folder: Path, config: Any, **tags: str) -> None:
    """A store whose only run has this ``config.yaml`` and these tags."""
    run = TrialRun(
        "r1",
        "t1",
        "base",
        0,
        "base seed=0",
        "finished",
        TAGS | {f"suite.{k}": v for k, v in tags.items()},
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(tracking, "find_run", lambda uri, reference: run)
    monkeypatch.setattr(tracking, "download", lambda uri, run_id, name: folder / name)


def test_a_run_of_this_version_is_what_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from suite.restore import restore

    stored(monkeypatch, tmp_path, TrialConfig.model_validate(KNOWN).model_dump(mode="json"))
    known = restore("x", "r1")
    assert known.config == TrialConfig.model_validate(KNOWN)
    assert (known.numerics, known.objective) == (Numerics(threads=3), Objective("val/acc"))


@pytest.mark.parametrize(
    ("config", "tags", "said"),
    [
        (
            KNOWN | {"train": {"warp": 9}},
            {},
            "train.warp (Extra inputs are not permitted), in config.yaml",
        ),
        ([1], {}, "in config.yaml"),
        (
            KNOWN,
            {"numerics": '{"threads": 1, "quantised": true}'},
            "quantised, in the tag suite.numerics",
        ),
        (
            KNOWN,
            {"objective": '{"name": "val/acc", "smoothed": 3}'},
            "smoothed, in the tag suite.objective",
        ),
        (KNOWN, {"objective": ""}, "nothing, in the tag suite.objective"),
        (KNOWN, {"numerics": "[1"}, "[1, in the tag suite.numerics"),
    ],
)
def test_what_another_version_wrote_is_named_with_that_version(
    config: Any, tags: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from suite.restore import restore

    stored(monkeypatch, tmp_path, config, **tags)
    with pytest.raises(EnvironmentProblem) as caught:
        restore("x", "r1")
    assert said in str(caught.value)
    assert str(caught.value).startswith("run r1 was written by a suite of version 9.8.7")
    assert "or run its sweep again with this one." in str(caught.value)


@pytest.mark.parametrize("module", ["activations", "replay", "predict"])
def test_commands_refuse_it_without_a_traceback(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored(monkeypatch, tmp_path, KNOWN | {"train": {"warp": 9}})
    rest = [str(tmp_path)] if module == "predict" else []
    main = importlib.import_module(f"suite.{module}").main
    told: Result = CliRunner().invoke(
        main, ["r1", *rest, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    )
    assert told.exit_code == 6, told.output
    assert "train.warp" in told.output and "Traceback" not in told.output
