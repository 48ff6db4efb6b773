"""The page as a reader has it: pictures that the runs kept, all of it in a browser, and the
command that makes it.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, needed
from conftest import Folder
from made_up import EVIL, VAL, Store, evil, grid, network, report, run, runs, transfer
from PIL import Image

from suite.analysis import Bounds
from suite.core.records import Objective
from suite.report import activation_section
from suite.report.content import Content, content
from suite.report.files import _illustrated, publish
from suite.report.image_error import ImageError
from suite.report.runs import Rules
from suite.report.slice_plots import levels
from suite.report.tables import markdown
from suite.tracking import SweepRuns

# ---- what the layers see -------------------------------------------------------------------------


def png(grey: int, width: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, 30), grey).save(file, format="png")
    return file.getvalue()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path)
    made.stand_in(monkeypatch)
    return made


def drawn(
    store: Store,
    arm: str,
    seed: int,
    dead: float = 0.0,
    names: tuple[str, ...] = ("input", "a/b", "a_b"),
) -> str:
    """A finished trial with sheets of its layers; the id of its run."""
    made = store.add(arm, seed, None)
    store.trials[-1] = replace(made, metrics={"dead/relu": {3: dead}, "dead/layer1.relu": {3: 0.0}})
    facts = {
        "image": "test image 3 (car)",
        "dead": {"relu": [1, 8], "layer1.relu": [0, 8]},
        "sheets": [
            {"step": step, "layer": name, "title": f"{name} of {arm}"}
            for step, name in enumerate(names)
        ],
    }
    store.write(made.run_id, activation_section.FACTS, json.dumps(facts).encode())
    store.images[made.run_id] = {step: png(10 * step + len(arm)) for step in range(len(names))}
    return made.run_id


def test_arms_stand_side_by_side_layer_by_layer(store: Store) -> None:
    for arm in ("best", EVIL, "base", "fourth"):
        drawn(store, arm, 0)
    found = activation_section.activations(
        store.runs, "x", ["best", EVIL, "base", "fourth"], "base"
    )
    assert [
        (strip.heading, [photo.caption for photo in strip.photos]) for strip in found.strips
    ] == [
        ("input", ["The same for all arms."]),
        ("a/b", ["base", "best", EVIL]),
        ("a_b", ["base", "best", EVIL]),
    ]
    assert [photo.content for photo in found.strips[1].photos] == [
        png(14),
        png(14),
        png(10 + len(EVIL)),
    ]
    names = [photo.name for strip in found.strips for photo in strip.photos]
    assert len(set(names)) == len(names) == 7 and not any(set("/<> ") & set(name) for name in names)
    assert "Test image 3 (car) in the layers of base, best, <script>" in found.sentences[0]


def test_a_layer_that_only_another_network_has_follows(store: Store) -> None:
    drawn(store, "base", 0)
    drawn(store, "other", 0, names=("input", "stem"))
    strips = activation_section.activations(store.runs, "x", ["base", "other"], "base").strips
    assert [strip.heading for strip in strips] == ["input", "a/b", "a_b", "stem"]
    assert [len(strip.photos) for strip in strips] == [1, 1, 1, 1]


def test_dead_channels_are_a_figure_or_a_sentence(store: Store) -> None:
    for seed in (0, 1):
        drawn(store, "base", seed)
    alive = activation_section.activations(store.runs, "x", ["base"], "base")
    assert not alive.pictures and "No ReLU of these arms has a dead channel" in alive.sentences[-1]
    for seed, dead in enumerate((0.125, 0.375)):
        drawn(store, "best", seed, dead)
    found = activation_section.activations(store.runs, "x", ["best", "base"], "base")
    assert len(found.sentences) == 1 and [picture.name for picture in found.pictures] == ["dead"]
    curves = {line.curve.arm: line.curve for line in found.pictures[0].plot.lines}  # type: ignore[attr-defined]
    assert curves["best"].mean == (0.25, 0.0) and curves["best"].low == (0.125, 0.0)
    assert curves["best"].high == (0.375, 0.0) and curves["base"].mean == (0.0, 0.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"sheets": {}}',
        b'{"sheets": [1]}',
        b'{"sheets": [{"step": "0", "layer": "x"}]}',
    ],
)
def test_damaged_sheets_are_passed_over(store: Store, content: bytes) -> None:
    store.write(drawn(store, "base", 0), activation_section.FACTS, content)
    assert not activation_section.activations(store.runs, "x", ["base"], "base")
    drawn(store, "base", 1)
    assert (
        "(seed 1)" in activation_section.activations(store.runs, "x", ["base"], "base").sentences[0]
    )


def test_trials_without_sheets_or_outside_the_plan_show_nothing(store: Store) -> None:
    store.images.clear()
    store.add("base", 0, None)
    store.images[drawn(store, "old", 0)] = {}
    drawn(store, "gone", 0)
    store.trials[-1] = replace(store.trials[-1], tags={"suite.in_plan": "false"})
    assert not activation_section.activations(store.runs, "x", ["base", "old", "gone"], "base")
    assert not activation_section.augmentations(store.runs, "x")


# ---- slices of a search --------------------------------------------------------------------------


RANGES = Rules(VAL, bounds={"train.lr": Bounds(1e-3, 1e-1, log=True)})


def search(trials: int) -> SweepRuns:
    rng = np.random.default_rng(5)
    made = []
    for number in range(trials):
        lr, kind = float(10 ** rng.uniform(-3, -1)), "ab"[number % 2]
        settings = {"train.lr": lr, "augment": kind, "train.batch_size": 64}
        status = "stopped" if number % 3 == 2 else "finished"
        made.append(run("arm" + number * "m", 0, status=status, settings=json.dumps(settings)))
    found = runs(*made)
    return replace(
        found, parent=replace(found.parent, params={"metric": "val/acc", "method": "random"})
    )


def test_a_search_shows_each_trial_against_each_parameter_that_varies() -> None:
    found = content(search(24), RANGES)
    picture = next(one for one in found.pictures if one.name == "slices")
    slices = {one.parameter: one for one in picture.plot.slices}  # type: ignore[attr-defined]
    assert set(slices) == {"train.lr", "augment"}, "the batch size was the same throughout"
    assert (
        slices["train.lr"].log
        and not slices["train.lr"].levels
        and slices["augment"].levels == ("a", "b")
    )
    for one in slices.values():
        assert len(one.points) == 24 and sum(point.best for point in one.points) == 1
        assert sum(not point.ended for point in one.points) == 8
    best = max(one for one in found.trials["val/acc"] if one == one)
    assert [point.value for point in slices["augment"].points if point.best] == [
        pytest.approx(100 * best)
    ]
    assert {point.place for point in slices["augment"].points} == {0, 1}
    few = content(search(4), RANGES)
    assert "too few trials (4;" in markdown(few) and any(
        one.name == "slices" for one in few.pictures
    )


def test_levels_are_in_the_order_of_their_size() -> None:
    assert levels(["none", "10", "9", "0.5", "all", "9"]) == ("0.5", "9", "10", "none", "all")


# ---- in a browser --------------------------------------------------------------------------------


def pictured(store: Store) -> Content:
    """A report with all that a page can hold, whose winner's name wants to be a script."""
    trials = [run(arm, seed) for arm in ("base", EVIL, "b") for seed in range(6)]
    made = content(runs(*trials), Rules(VAL))
    for seed, skill in ((0, 1.0), (1, 1.2)):
        run_id = drawn(store, "base", seed)
        arrays = network(seed, skill)
        store.put(
            run_id,
            "predictions.npz",
            {"index": arrays.index, "labels": arrays.labels, "logits": arrays.logits},
        )
    for seed in (0, 1):
        run_id = drawn(store, EVIL, seed, 0.25)
        arrays = network(seed + 50, 1.6)
        store.put(
            run_id,
            "predictions.npz",
            {"index": arrays.index, "labels": arrays.labels, "logits": arrays.logits},
        )
    index = np.arange(0, 600, 2)
    store.put(
        "p",
        "test_images.npz",
        {
            "images": np.zeros((300, 8, 8, 3), np.uint8),
            "index": index,
            "labels": np.zeros(300),
            "classes": np.array(["cat", EVIL, "dog"]),
        },
    )
    store.write("p", activation_section.AUGMENTATIONS, png(90, 2_000))
    whole = _illustrated(replace(made, winner=EVIL), store.runs, "x")
    assert whole.errors is not None and whole.errors.tiles
    assert [section.name for section in whole.pictured] == ["augmentations", "activations"]
    return whole


def full() -> Content:
    """Four arms with all columns that the main table can have, as the sweep on transfer has
    them, and four settings.
    """
    names = ("model.weights", "model.freeze_depth", "model.head.hidden", "model.head.dropout")
    trials = []
    for number, one in enumerate(transfer(6)):
        spent, weights = 10.0 - 2 * (number % 4), 8_456_000 + 900_000 * (number % 4)
        tags = {
            "suite.settings": json.dumps({name: one.params.get(name) for name in names}),
            "suite.parameters_trainable": str(weights), "suite.parameters_total": "11240000",
        }  # fmt: skip
        noise = 0.05 * np.random.default_rng(number).normal()
        metrics = {
            name: {epoch: value + noise for epoch, value in known.items()}
            for name, known in one.metrics.items()
        }
        metrics["time/epoch_s"] = dict.fromkeys(range(1, 13), spent)
        trials.append(replace(one, tags=one.tags | tags, metrics=metrics))
    lost = replace(
        trials[-1], status="failed", metrics={}, tags=trials[-1].tags | {"suite.reason": "NaN"}
    )
    images = {
        arm: ImageError(0.0123, arm == "config1") for arm in ("finetune", "config1", "config2")
    }
    made = content(runs(*trials[:-1], lost), Rules(VAL), None, images)
    assert len(made.tables[0].headings) == 12 and len(made.tables[1].headings) == 5
    assert len(made.tables[2].headings) == 4 and made.tables[2].name == "costs"
    return made


def pages(store: Store, tmp_path: Path) -> list[Path]:
    made = {
        "full": full(),
        "evil": evil(),
        "transfer": report(*transfer(6)),
        "long": report(*grid(["base", "x" * 60, "b"], 6)),
        "pictured": pictured(store),
        "search": content(search(24), RANGES),
    }
    return [publish(found, tmp_path / "out" / name) for name, found in made.items()]


def test_kept_pictures_are_in_all_files(store: Store, tmp_path: Path) -> None:
    page = publish(pictured(store), tmp_path / "out")
    text, told = page.read_text(), (page.parent / "report.md").read_text()
    assert "<script" not in text and "<script" not in told
    assert (
        text.index('id="errors"')
        < text.index('id="augmentations"')
        < text.index('id="activations"')
    )
    kept = {path.name for path in (page.parent / "figures").iterdir()}
    for name in (
        "augmentations.png",
        "confusion.png",
        "confusion.svg",
        "dead.svg",
        "activations-01-a_b-0.png",
    ):
        assert name in kept
    assert all(f"figures/{name})" in told for name in kept if name.endswith(".png"))
    assert (page.parent / "figures" / "activations-01-a_b-0.png").read_bytes() == png(14)


@pytest.mark.browser
@needed
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        *(
            pytest.param(*pair, marks=pytest.mark.full)
            for pair in ((390, "light"), (1440, "dark"), (1440, "light"))
        ),
    ],
)
def test_the_page_is_drawn_whole_stays_text_and_passes_axe_cores_rules(
    width: int, scheme: str, store: Store, tmp_path: Path
) -> None:
    import axe_playwright_python

    rules_of_axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(
        encoding="utf-8"
    )
    with chromium() as browser:
        for file in pages(store, tmp_path):
            view = {"width": width, "height": 900}
            page = browser.new_context(viewport=view, offline=True, color_scheme=scheme).new_page()
            told: list[str] = []
            page.on("console", lambda message, told=told: told.append(message.text))
            page.on("dialog", lambda dialog, told=told: told.append("a script ran"))
            page.goto(file.as_uri())
            root = "document.documentElement"
            assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), (
                "the page is wider than the screen"
            )
            if (
                width == 1440 and file.parent.parent.name != "long"
            ):  # an arm's name of 60 letters takes what it needs
                fits = (
                    "[...document.querySelectorAll('.scroll')].map(table => table.scrollWidth "
                    "<= table.clientWidth)"
                )
                assert all(page.evaluate(fits)), f"{file.parent.parent.name}: a table is cut off"
            assert page.evaluate(
                "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
            )
            assert page.evaluate("document.images.length") > 0
            assert told == []
            page.evaluate(rules_of_axe)
            found = page.evaluate("axe.run()")
            broken = [
                (rule["id"], [node["html"][:120] for node in rule["nodes"][:3]])
                for rule in found["violations"]
            ]
            assert broken == [] and len(found["passes"]) > 10


@pytest.mark.browser
@needed
def test_the_verdict_is_in_sight_where_the_table_is_wider_than_the_screen(tmp_path: Path) -> None:
    file = publish(report(*grid(["base", "x" * 60, "b"], 6)), tmp_path / "out")
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 900, "height": 900}, offline=True).new_page()
        page.goto(file.as_uri())
        wider = "document.querySelector('table.arms').parentElement"
        assert page.evaluate(f"{wider}.scrollWidth > {wider}.clientWidth")
        cells = "[...document.querySelectorAll('table.arms .verdict')]"
        assert page.evaluate(f"{cells}.length") == 3
        assert page.evaluate(
            f"{cells}.every(cell => cell.getBoundingClientRect().right <= innerWidth)"
        )


# ---- the whole way -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("reported"))
    folder.report = True
    folder.write(
        parameters={"augment": {"values": ["none", "flip"]}}, baseline={"augment": "none"},
        resources={"cpu": 1, "pack": 2}, checkpoints={"keep": 1},
    )  # fmt: skip
    folder.sweep()
    return folder


@pytest.mark.slow
def test_a_finished_sweep_shows_errors_augmentations_and_layers(done: Folder) -> None:
    page = done.path / "reports" / "tiny" / "index.html"
    text = page.read_text()
    for title in ("Errors of", "What the augmentations do", "What the layers see"):
        assert title in text
    assert "python -m suite.sweep sweep.yaml" in text, "the command that makes it again"
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"augmentations.png", "confusion.png", "calibration.svg"} <= figures
    assert sum(name.startswith("activations-") for name in figures) == 1 + 4 * 2, (
        "the input once, four layers twice"
    )
    parent = done.query("select run_uuid from tags where key = 'suite.kind' and value = 'sweep'")[
        0
    ][0]
    kept = done.path / "mlartifacts" / "tiny" / parent / "artifacts"
    assert (kept / "augmentations.png").read_bytes() == (
        page.parent / "figures" / "augmentations.png"
    ).read_bytes()
    assert (kept / "test_images.npz").exists() and (
        kept / "report" / "index.html"
    ).read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_a_report_made_again_is_the_same(done: Folder) -> None:
    page = done.path / "reports" / "tiny" / "index.html"
    before = page.read_bytes()
    again = done.run("tiny", module="suite.report")
    assert again.returncode == 0, again.stderr
    assert page.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("tiny", "--compare", "augment=flip", "augment=none"),
            0,
            "augment=flip less augment=none",
        ),
        (("tiny", "--compare", "augment=flip", "nope"), 2, "nope"),
        (("tiny", "--compare", "augment=flip", "augment=flip"), 2, "'augment=flip' twice"),
        (("tiny", "--compare", "augment=flip seed=0", "augment=flip seed=1"), 0, "McNemar"),
    ],
)
def test_two_arms_are_compared_image_by_image(
    done: Folder, arguments: Any, code: int, said: str
) -> None:
    told = done.run(*arguments, module="suite.report")
    assert told.returncode == code and said in told.stdout + told.stderr, told.stdout + told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.slow
@pytest.mark.full
def test_a_data_folder_that_moved_is_the_same_data(tmp_path: Path) -> None:
    """Trials that ran from another place keep their champion and pictures: the images tell, not
    their address.
    """
    folder = Folder(tmp_path)
    folder.report = True
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / "first" / split / name
            place.mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    trial = {
        "data": {"name": "folder", "root": "first", "val_size": 6},
        "model": {"arch": "tiny_net:build"},
        "train": {"epochs": 1, "batch_size": 6, "lr": 0.05, "precision": "fp32"},
    }
    folder.write(
        trial=trial,
        parameters={"augment": {"values": ["none", "flip"]}},
        seeds=[0],
        checkpoints={"keep": 1},
    )
    folder.sweep()
    (tmp_path / "first").rename(tmp_path / "second")
    (tmp_path / "runs" / "tiny" / "test_images.npz").unlink()
    again = folder.sweep("data.root=second")
    assert "already complete" in again.stdout
    assert "could not be" not in again.stdout + again.stderr
    assert (tmp_path / "runs" / "tiny" / "test_images.npz").exists()


def test_the_best_of_a_falling_figure_is_the_lowest() -> None:
    made = []
    for number in range(6):
        one = run(
            "arm" + number * "m",
            0,
            settings=json.dumps({"train.lr": 0.01 * (number + 1)}),
            objective='{"name": "val/loss", "goal": "minimize", "strategy": "last"}',
        )
        made.append(replace(one, metrics={"val/loss": {1: 1.0 + abs(number - 2)}}))
    found = runs(*made)
    found = replace(
        found, parent=replace(found.parent, params={"metric": "val/loss", "method": "random"})
    )
    rules = Rules(
        Objective("val/loss", "minimize", "last"), bounds={"train.lr": Bounds(1e-3, 1e-1)}
    )
    (picture,) = [one for one in content(found, rules).pictures if one.name == "slices"]
    (slice_,) = picture.plot.slices  # type: ignore[attr-defined]
    assert [(point.place, point.value) for point in slice_.points if point.best] == [(0.03, 1.0)]


def test_dead_channels_that_are_no_numbers_are_missing(store: Store) -> None:
    for seed, share in ((0, float("nan")), (1, 0.5)):
        drawn(store, "base", seed, share)
    (picture,) = activation_section.activations(store.runs, "x", ["base"], "base").pictures
    assert picture.plot.lines[0].curve.mean == (0.5, 0.0)  # type: ignore[attr-defined]


def test_dead_channels_are_those_of_the_last_count(store: Store) -> None:
    """``suite.activations`` may count again, at another epoch."""
    drawn(store, "base", 0, 0.25)
    metrics = {"dead/relu": {3: 0.25, 5: 0.75}, "dead/layer1.relu": {5: 0.0}}
    store.trials[-1] = replace(store.trials[-1], metrics=metrics)
    (picture,) = activation_section.activations(store.runs, "x", ["base"], "base").pictures
    assert picture.plot.lines[0].curve.mean == (0.75, 0.0)  # type: ignore[attr-defined]
