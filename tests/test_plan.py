"""What a journalled trial goes on with: its images and weights, by their digests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import training as made

from suite.config import load
from suite.models import Weights
from suite.planning.plan import Plan
from suite.storage.journal import TrialHistory


def test_images_and_weights_that_moved_are_found_again(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\n")
    images, other = made.images(), made.images(seed=1)
    weights = Weights({}, "w", None, None, "file")
    plan = Plan(
        load(tmp_path / "x.yaml"),
        {"folder|/other|": other, "folder|/second|": images},
        {
            "/new.pt|resnet50": weights,
            "/old.pt|resnet18": replace(weights, digest="v"),
            "/new.pt|resnet18": weights,
        },
    )
    trial = made.trial(
        "resnet18", data__name="folder", data__root="/first", model__weights="/first.pt"
    )
    item = TrialHistory(trial, {"digests": {"data": images.digest, "weights": "w"}})
    assert plan.keys_of(item) == ("folder|/second|", "/new.pt|resnet18")
    item.entry["digests"]["weights"] = None
    assert plan.keys_of(item) == ("folder|/second|", None)
