"""Images stored in the runs: augmented training images, and activations of a network's layers."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite import tracking
from suite.analysis import Curve
from suite.core.errors import SuiteError
from suite.core.records import Status
from suite.report.elements import Photo, Picture, Section, Strip
from suite.report.figures import Curves, lines, local_styles, styles
from suite.report.formatting import names
from suite.report.runs import finite, in_plan
from suite.tracking import SweepRuns, TrialRun

AUGMENTATIONS, KEY, FACTS = "augmentations.png", "activations", "activations.json"
_BESIDE = 3  # arms whose layers stand side by side
_DEPTHS = 8  # arms in the figure of dead channels


def augmentations(runs: SweepRuns, uri: str) -> Section:
    """The sweep's image of its augmentations; an empty section if it stored none."""
    content = _artifact(uri, runs.parent.run_id, AUGMENTATIONS)
    if content is None:
        return Section("augmentations", "What the augmentations do")
    photo = Photo(
        "augmentations",
        "A grid of training images: the originals on top, each augmentation of the sweep below.",
        "The same few training images under each augmentation of the sweep, each drawn several "
        "times. A mixed image is mixed with the original to the left of its own, the first with "
        "the last.",
        content,
    )
    return Section("augmentations", "What the augmentations do", strips=(Strip("", (photo,)),))


@dataclass(frozen=True)
class Layers:
    """The activation maps of one trial.

    Attributes:
        facts: ``activations.json``.
        sheets: step -> PNG.
    """

    run: TrialRun
    facts: dict[str, Any]
    sheets: dict[int, bytes]


def activations(runs: SweepRuns, uri: str, order: Sequence[str], baseline: str) -> Section:
    """The layers of a few arms side by side, and the dead channels of each arm by depth.

    Args:
        order: the arms, the best first.
        baseline: always among them; "" = none.
    """
    chosen = [arm for arm in order if arm != baseline]
    chosen = [*([baseline] if baseline else []), *chosen]
    shown: dict[str, Layers] = {}
    for arm in chosen:
        if len(shown) < _BESIDE and (layers := _layers(runs, uri, arm)) is not None:
            shown[arm] = layers
    if not shown:
        return Section("activations", "What the layers see")
    first = next(iter(shown.values()))
    seeds = dict.fromkeys(str(layers.run.seed) for layers in shown.values())
    sentences = [
        f"{_image(first)} in the layers of {names(list(shown))} (seed "
        f"{', '.join(seeds)}): each tile is a channel, from black, its lowest value, to white, its "
        "highest. Channels that are 0 for every test image are crossed out. For more layers, "
        "images and sizes: python -m suite.activations RUN."
    ]
    dead = _dead_channels(runs, uri, chosen, baseline, order)
    if not dead and any(layers.facts.get("dead") for layers in shown.values()):
        sentences.append(
            "No ReLU of these arms has a dead channel, one that is 0 for every test image."
        )
    return Section("activations", "What the layers see", tuple(sentences), (), dead, _strips(shown))


def _image(shown: Layers) -> str:
    name = str(shown.facts.get("image") or "the same image")
    return name[:1].upper() + name[1:]


def _strips(by_arm: dict[str, Layers]) -> tuple[Strip, ...]:
    """One strip for each layer, in the first arm's order; layers of other networks follow."""
    shown: dict[str, list[Photo]] = {}
    for number, (arm, layers) in enumerate(by_arm.items()):
        for sheet in layers.facts.get("sheets", ()):
            if sheet["step"] not in layers.sheets:
                continue
            layer = str(sheet["layer"])
            name = (
                f"activations-{sheet['step']:02d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', layer)}-{number}"
            )
            alt = f"Channels of {sheet.get('title') or layer} of {arm}, as grey tiles."
            photos = shown.setdefault(layer, [])
            if layer != "input" or not photos:  # the input is the same for all
                caption = arm if layer != "input" else "The same for all arms."
                photos.append(Photo(name, alt, caption, layers.sheets[sheet["step"]]))
    return tuple(Strip(layer, tuple(photos)) for layer, photos in shown.items())


def _dead_channels(
    runs: SweepRuns, uri: str, chosen: Sequence[str], baseline: str, order: Sequence[str]
) -> tuple[Picture, ...]:
    """The share of dead channels of each ReLU, by depth, one line for each arm."""
    curves = []
    for arm in chosen[:_DEPTHS]:
        trials = [(run, dead) for run in _finished(runs, arm) if (dead := _dead(run))]
        facts = _facts(uri, trials[0][0]) if trials else None
        counts = (facts or {}).get("dead")
        if not isinstance(counts, dict) or not counts:
            continue
        histories = [[dead[layer] for _, dead in trials if layer in dead] for layer in counts]
        if not all(histories):  # the metrics are of other layers than the maps
            continue
        values = [
            [share[max(share)] for share in shares] for shares in histories
        ]  # of each ReLU, in forward order
        means = tuple(sum(some) / len(some) for some in values)
        lows, highs = tuple(map(min, values)), tuple(map(max, values))
        places = tuple(range(1, len(values) + 1))
        curves.append(Curve(arm, places, means, lows, highs, len(trials), Status.FINISHED))
    if not any(value for curve in curves for value in curve.high):
        return ()
    looks = local_styles(
        [curve.arm for curve in curves], styles(order, [baseline] if baseline else [])
    )
    caption = (
        "Dead channels, 0 for every test image, as a share of each ReLU's channels, from the first "
        "ReLU to the last: mean over an arm's seeds, with a band from the lowest to the highest "
        "seed." + (f" The first {_DEPTHS} arms of the table." if len(chosen) > _DEPTHS else "")
    )
    drawn = Curves(
        tuple(lines(curves, looks)), "dead", "Dead channels, %", "ReLU, from input to output", 100.0
    )
    alt = f"Share of dead channels by depth, one line for each of {len(curves)} arms."
    return (Picture("dead", alt, caption, drawn),)


def _dead(run: TrialRun) -> dict[str, dict[int, float]]:
    """ReLU -> step -> the share of its channels that are dead."""
    by_layer = {
        name.removeprefix("dead/"): finite(run.metrics[name])
        for name in run.metrics
        if name.startswith("dead/")
    }
    return {layer: history for layer, history in by_layer.items() if history}


def _finished(runs: SweepRuns, arm: str) -> list[TrialRun]:
    finished = [
        run
        for run in runs.trials
        if in_plan(run) and run.arm == arm and run.status == Status.FINISHED
    ]
    return sorted(finished, key=lambda run: run.seed)


def _layers(runs: SweepRuns, uri: str, arm: str) -> Layers | None:
    """The activation maps of an arm's first finished trial that has any."""
    for run in _finished(runs, arm):
        facts = _facts(uri, run)
        if facts is None:
            continue
        try:
            sheets = tracking.read_images(uri, run.run_id, KEY)
        except (SuiteError, OSError):
            continue
        if sheets:
            return Layers(run, facts, sheets)
    return None


def _facts(uri: str, run: TrialRun) -> dict[str, Any] | None:
    content = _artifact(uri, run.run_id, FACTS)
    try:
        facts = json.loads(content) if content is not None else None
    except ValueError:
        return None
    if not isinstance(facts, dict) or not isinstance(sheets := facts.get("sheets"), list):
        return None
    known = all(
        isinstance(sheet, dict) and isinstance(sheet.get("step"), int) and "layer" in sheet
        for sheet in sheets
    )
    return facts if known else None


def _artifact(uri: str, run_id: str, name: str) -> bytes | None:
    """A file of a run; None if the run has none."""
    try:
        with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
            return tracking.download(uri, run_id, name, Path(folder)).read_bytes()
    except (SuiteError, OSError):
        return None
