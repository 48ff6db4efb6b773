"""Errors of two arms: figures against written-out values, SciPy, scikit-learn and simulation;
gaps are said.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from made_up import EVIL, Store, network
from PIL import Image
from scipy import stats

from suite.analysis import predictions
from suite.analysis.predictions import Predictions
from suite.core.errors import UsageError
from suite.report import error_analysis, error_figures
from suite.report.error_analysis import Errors, compare, section
from suite.report.figures import DARK, LIGHT


def told(labels: list[int], answers: list[int], classes: int = 3, sure: float = 2.0) -> Predictions:
    """A network that gives ``answers``, with a logit of ``sure``."""
    logits = np.zeros((len(labels), classes), np.float32)
    logits[np.arange(len(labels)), answers] = sure
    return Predictions(np.arange(len(labels)), np.array(labels), logits)


def of(correct: Any) -> Predictions:
    """A network that is right where ``correct`` says."""
    correct = np.asarray(correct, dtype=bool)
    return told([0] * len(correct), (~correct).astype(int).tolist(), 2)


# ---- one arm -------------------------------------------------------------------------------------


def test_softmax_is_in_float64_and_bears_large_logits() -> None:
    one = Predictions(
        np.arange(2), np.array([0, 1]), np.array([[1000.0, 0.0], [0.0, np.log(3)]], np.float32)
    )
    assert one.probabilities.dtype == np.float64
    assert one.probabilities == pytest.approx(np.array([[1, 0], [0.25, 0.75]]), abs=1e-7)


def test_a_confusion_matrix_is_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    one = Predictions(np.arange(500), rng.integers(0, 4, 500), rng.normal(size=(500, 5)))
    expected = confusion_matrix(one.labels, one.answers, labels=range(5))
    assert (predictions.confusion([one]) == expected).all()
    assert (predictions.confusion([one, one]) == 2 * expected).all()
    rows = predictions.shares(expected)
    assert np.isnan(rows[4]).all() and rows[:4].sum(axis=1) == pytest.approx(1)


def test_calibration_of_written_out_values() -> None:
    sure = float(np.log(4 * 2))  # of three classes: 8 / (8 + 1 + 1) = 0.8
    one = told([0] * 10, [0] * 6 + [1] * 4, 3, sure)
    found = predictions.calibration([one], 10)
    assert found.error == pytest.approx(0.2)
    (filled,) = np.flatnonzero(found.count)
    assert filled in (7, 8) and found.count[filled] == 10  # 0.8 lies on the border of two bins
    assert (found.confidence[filled], found.accuracy[filled]) == (
        pytest.approx(0.8),
        pytest.approx(0.6),
    )
    assert np.isnan(np.delete(found.accuracy, filled)).all()


def test_calibration_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    one = Predictions(np.arange(400), rng.integers(0, 3, 400), rng.normal(size=(400, 3)) * 2)
    found, error = predictions.calibration([one]), 0.0
    for bin_ in range(15):
        inside = [
            (max(row), row.argmax() == label)
            for row, label in zip(one.probabilities, one.labels, strict=True)
            if bin_ / 15 < max(row) <= (bin_ + 1) / 15
        ]
        assert found.count[bin_] == len(inside)
        error += abs(sum(p for p, _ in inside) - sum(right for _, right in inside)) / 400
    assert found.error == pytest.approx(error)
    other = Predictions(one.index, one.labels, one.logits * 5)
    both = predictions.calibration([one, other])
    assert both.error == pytest.approx((found.error + predictions.calibration([other]).error) / 2)
    assert both.count.sum() == 800


# ---- two arms ------------------------------------------------------------------------------------


def test_mcnemar_of_written_out_values() -> None:
    """Ten discordant pairs, nine of one kind: p = 2 (1 + 10) / 2^10."""
    a, b = of([1] * 9 + [0] + [1] * 5 + [0] * 3), of([0] * 9 + [1] + [1] * 5 + [0] * 3)
    found = predictions.mcnemar(a, b)
    assert (found.ours, found.theirs, found.p) == (9, 1, pytest.approx(22 / 1024))
    assert predictions.mcnemar(b, a).p == found.p and predictions.mcnemar(a, a).p == 1.0
    assert predictions.pooled_p(predictions.differences([a], [b])) == pytest.approx(22 / 1024)


def test_pooled_p_tries_all_signs() -> None:
    values = np.array([2, 2, -1, 3, 1, 0, -2, 1, 1])
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=len(values))]
    assert predictions.pooled_p(values) == pytest.approx(
        np.mean(np.array(sums) >= abs(values.sum()))
    )
    assert predictions.pooled_p(np.zeros(5, np.int64)) == 1.0


def test_pooling_does_not_count_images_twice() -> None:
    """The same two networks three times over are no more evidence than once."""
    rng = np.random.default_rng(3)
    a, b = of(rng.random(300) < 0.7), of(rng.random(300) < 0.65)
    once = predictions.pooled_p(predictions.differences([a], [b]))
    assert predictions.pooled_p(predictions.differences([a] * 3, [b] * 3)) == pytest.approx(once)


def test_where_nothing_differs_p_is_seldom_small() -> None:
    rng = np.random.default_rng(4)
    easy = rng.beta(2, 1, (1000, 200))
    single, pooled = [], []
    for chance in easy:
        networks = [of(rng.random(200) < chance) for _ in range(4)]
        single.append(predictions.mcnemar(*networks[:2]).p)
        pooled.append(predictions.pooled_p(predictions.differences(networks[:2], networks[2:])))
    for found in (np.array(single), np.array(pooled)):
        for level in (0.01, 0.05, 0.2, 0.5):
            most = level + 3 * np.sqrt(level * (1 - level) / 1000)
            assert np.mean(found <= level) <= most
        assert np.mean(found <= 0.2) > 0.1, "it should still tell something"


def test_the_bootstrap_is_scipys() -> None:
    values = np.random.default_rng(5).choice([-1, 0, 1], 400, p=[0.1, 0.7, 0.2])
    found = predictions.bootstrap(values)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert found.value == values.mean()
    assert (found.low, found.high) == (
        pytest.approx(theirs.low, abs=0.004),
        pytest.approx(theirs.high, abs=0.004),
    )
    assert predictions.bootstrap(values) == found
    assert predictions.bootstrap(values, seed=1) != found


def test_intervals_cover_what_they_say() -> None:
    """1,000 pairs of arms, of three networks each, whose true difference is 0.06."""
    rng = np.random.default_rng(6)
    covered = {"all images": 0, "a class": 0}
    for _ in range(1000):
        chance = rng.beta(2, 1, 300) * 0.9
        gap = (rng.binomial(3, chance + 0.06 * chance / 0.6) - rng.binomial(3, chance)) / 3
        whole, few = predictions.bootstrap(gap, draws=1000), predictions.paired_interval(gap[:20])
        covered["all images"] += whole.low <= 0.06 <= whole.high
        covered["a class"] += few.low <= 0.06 <= few.high
    assert 925 <= covered["all images"] <= 970
    assert 930 <= covered["a class"] <= 995


def test_the_interval_of_a_class_is_agresti_and_mins() -> None:
    """b = 6, c = 2 of n = 20: (b - c) / (n + 2) and its Wald interval with half an image in each
    cell.
    """
    found = predictions.paired_interval([1] * 6 + [-1] * 2 + [0] * 12)
    b, c, n = 6.5, 2.5, 22
    half = 1.959964 * np.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert found.value == 0.2
    assert (found.low, found.high) == (
        pytest.approx(4 / 22 - half, abs=1e-6),
        pytest.approx(4 / 22 + half, abs=1e-6),
    )
    assert predictions.paired_interval([0] * 10).high > 0, "ten unchanged images are not certainty"


def test_classes_and_confusions_that_changed() -> None:
    before = told([0, 0, 0, 0, 1, 1], [0, 1, 1, 2, 1, 1])
    after = told([0, 0, 0, 0, 1, 1], [0, 0, 0, 2, 1, 0])
    first, second = predictions.class_changes([after], [before])
    assert (first.label, first.count, first.before, first.after, first.change.value) == (
        0,
        4,
        0.25,
        0.75,
        0.5,
    )
    assert (second.before, second.after) == (1.0, 0.5)
    found = [
        (swap.truth, swap.answer, swap.before, swap.after)
        for swap in predictions.swaps([after], [before], 5)
    ]
    assert found == [(0, 1, 0.5, 0.0), (1, 0, 0.0, 0.5)]


def test_the_most_discriminating_images_come_first() -> None:
    right = [told([0, 0, 0, 1], [0, 0, 0, 1]), told([0, 0, 0, 1], [0, 0, 0, 2], sure=3.0)]
    wrong = [told([0, 0, 0, 1], [1, 0, 2, 1]), told([0, 0, 0, 1], [1, 1, 2, 1], sure=1.0)]
    found = predictions.discriminating_images(right, wrong, 10)
    assert [(one.index, one.ours, one.theirs, one.mistaken) for one in found] == [
        (0, 1.0, 0.0, 1), (2, 1.0, 0.0, 2), (1, 1.0, 0.5, 1),
    ]  # fmt: skip
    assert [one.index for one in predictions.discriminating_images(wrong, right, 10)] == [3]


def test_of_equally_discriminating_images_the_surer_ones_come_first() -> None:
    answers = {"right": ([0, 0, 0], (1.0, 3.0, 2.0)), "wrong": ([1, 1, 1], (1.0, 1.0, 1.0))}
    sides = []
    for given, sure in answers.values():
        logits = np.zeros((3, 3), np.float32)
        logits[np.arange(3), given] = sure
        sides.append([Predictions(np.arange(3), np.zeros(3, np.int64), logits)])
    assert [one.index for one in predictions.discriminating_images(*sides, 10)] == [1, 2, 0]
    assert [one.index for one in predictions.discriminating_images(*sides, 1)] == [1]


def test_networks_meet_on_the_images_that_they_share() -> None:
    one, two = told([0, 1, 2, 1], [0, 1, 2, 0]), told([0, 1, 2, 1], [1, 1, 1, 1])
    shuffled = two.take(np.array([3, 1, 2]))
    a, b = predictions.shared([one, shuffled])
    assert a.index.tolist() == b.index.tolist() == [1, 2, 3]
    assert a.answers.tolist() == [1, 2, 0] and b.answers.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="different labels"):
        predictions.shared([one, replace(one, labels=one.labels[::-1])])
    with pytest.raises(ValueError, match="none in common"):
        predictions.shared([one, replace(one, index=one.index + 10)])
    with pytest.raises(ValueError, match="numbers of classes"):
        predictions.shared([one, told([0, 1, 2, 1], [0] * 4, classes=4)])


# ---- a section of the report ---------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path)
    made.stand_in(monkeypatch)
    return made


def both(store: Store, seeds: int = 2) -> Store:
    for seed in range(seeds):
        store.add("base", seed, network(seed, 1.0))
        store.add("best", seed, network(seed + 50, 1.6))
    return store


def whole(found: Errors | None) -> str:
    assert found is not None
    return "\n".join((*found.sentences, *found.notes))


def html(found: Errors | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(error_analysis.__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("errors.html").render(errors=found)


def test_a_section_says_and_draws_what_differs(store: Store) -> None:
    both(store)
    shape = (3, 8, 8, 3)
    arrays = {
        "images": np.zeros(shape, np.uint8),
        "index": np.arange(0, 600, 2)[:3],
        "labels": np.zeros(3),
    }
    right, wrong = [network(50, 1.6), network(51, 1.6)], [network(0, 1.0), network(1, 1.0)]
    images = predictions.discriminating_images(right, wrong, 3)
    arrays |= {
        "index": np.array([one.index for one in images]),
        "classes": np.array(["cat", EVIL, "dog"]),
    }
    store.put("p", "test_images.npz", arrays)
    found = section(store.runs, "x", "base", "best")
    text = whole(found)
    assert (
        "300 test images, mean over 2 seeds" in text and "2 seeds are too few for a verdict" in text
    )
    assert "paired bootstrap" in text and "McNemar" in text and "calibration error" in text
    assert found is not None and [drawing.name for drawing in found.drawings] == [
        "confusion",
        "classes",
        "calibration",
    ]
    heading, tiles = found.tiles[0]
    assert heading == "Right with best, wrong with base" and len(tiles) == 3
    assert tiles[0].score == "2 of 2 against 0"
    page = html(found)
    assert (
        "<script" not in page
        and page.count("data:image/svg+xml") == 12
        and page.count("data:image/png") == 3
    )


def test_one_seed_speaks_of_mcnemars_two_counts(store: Store) -> None:
    text = whole(section(both(store, 1).runs, "x", "base", "best"))
    test = predictions.mcnemar(network(50, 1.6), network(0, 1.0))
    assert f"{test.ours} images are right with best alone and {test.theirs} with base alone" in text
    assert "One seed says nothing about other seeds" in text
    assert "class 0" in text or "class 1" in text, "classes without names have numbers"
    assert "stored none" in text


def test_pairs_that_disagree_are_said_to(store: Store) -> None:
    for seed, (base, best) in enumerate(((0.5, 3.0), (3.0, 0.5))):
        store.add("base", seed, network(seed, base))
        store.add("best", seed, network(seed + 9, best))
    assert "the pairs disagree about the better arm" in whole(
        section(store.runs, "x", "base", "best")
    )


def test_the_baseline_alone_is_shown_alone(store: Store) -> None:
    for seed in (0, 1):
        store.add("base", seed, network(seed, 1.0))
    store.add("best", 0, None, "failed")
    found = section(store.runs, "x", "base", "base")
    assert "No other arm has finished a trial" in whole(found)
    assert found is not None and [drawing.name for drawing in found.drawings] == [
        "confusion",
        "calibration",
    ]
    assert html(found).count("<img") == 2


def test_without_a_baseline_the_arm_stands_alone_for_another_reason(store: Store) -> None:
    text = whole(section(both(store).runs, "x", "best", "best"))
    assert "No other arm has finished" not in text
    assert "no single baseline, so no comparison arm was chosen" in text
    assert "python -m suite.report s --compare A B" in text


def test_nothing_finished_is_no_section(store: Store) -> None:
    store.add("base", 0, None, "failed")
    assert section(store.runs, "x", "base", "best") is None
    assert html(None).strip() == ""


def test_what_is_missing_is_said(store: Store) -> None:
    store.add("base", 0, network(0, 1.0))
    assert "no trial of best has finished" in whole(section(store.runs, "x", "base", "best"))
    store.add("best", 1, network(1, 1.0))
    assert "no finished seed of the same numerics in common" in whole(
        section(store.runs, "x", "base", "best")
    )
    store.add("best", 0, network(1, 1.0), numerics='{"precision": "bf16"}')
    assert "no finished seed of the same numerics in common" in whole(
        section(store.runs, "x", "base", "best")
    )
    store.add("bare", 0, None)
    assert "has no artifact predictions.npz" in whole(section(store.runs, "x", "base", "bare"))


def test_a_damaged_file_leaves_its_seed_out(store: Store) -> None:
    both(store, 3)
    (store.folder / store.trials[0].run_id / "predictions.npz").write_bytes(b"PK\x03\x04 torn")
    store.put(store.trials[3].run_id, "predictions.npz", {"index": np.arange(3)})
    text = whole(section(store.runs, "x", "base", "best"))
    assert "Seed 0 is left out" in text and "Seed 1 is left out" in text and "seed 2," in text
    store.trials[:] = store.trials[:4]
    missing = "Errors cannot be shown: there are no predictions of a seed that both have"
    assert missing in whole(section(store.runs, "x", "base", "best"))


def test_other_test_images_are_not_compared(store: Store) -> None:
    store.add("base", 0, network(0, 1.0))
    store.add("best", 0, replace(network(1, 1.0), index=np.arange(300) * 2 + 1))
    assert "tested on different images" in whole(section(store.runs, "x", "base", "best"))
    store.trials.pop()
    half = network(1, 1.0).take(np.arange(150))
    store.add("best", 0, half)
    text = whole(section(store.runs, "x", "base", "best"))
    assert "about the 150 of up to 300 that all of them share" in text
    tags = {**store.trials[-1].tags, "suite.data_digest": "e"}
    store.trials[-1] = replace(store.trials[-1], params={"data.name": "svhn"}, tags=tags)
    assert "different data" in whole(section(store.runs, "x", "base", "best"))


def test_compare_has_a_line_for_each_seed(store: Store) -> None:
    lines = compare(both(store, 3).runs, "x", "best", "base")
    assert lines[0] == "best less base, on 300 test images"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["seed 0", "seed 1", "seed 2"]
    assert "mean over 3 seeds" in "\n".join(lines)
    with pytest.raises(UsageError, match="got 'nobody'"):
        compare(store.runs, "x", "best", "nobody")
    with pytest.raises(UsageError, match="got 'best' twice"):
        compare(store.runs, "x", "best", "best")
    store.add("late", 0, None, "running")
    assert "cannot be compared: no trial of late" in compare(store.runs, "x", "best", "late")[0]


def test_two_trials_are_compared_whatever_their_seeds(store: Store) -> None:
    both(store, 2)
    store.trials = [replace(run, name=f"{run.arm} seed={run.seed}") for run in store.trials]
    lines = compare(store.runs, "x", "best seed=0", "base seed=1")
    assert lines[0] == "best seed=0 less base seed=1, on 300 test images"
    test = predictions.mcnemar(network(50, 1.6), network(1, 1.0))
    assert f"{test.ours} images are right with best seed=0 alone and {test.theirs}" in "\n".join(
        lines
    )
    assert not any(line.strip().startswith("seed ") for line in lines)
    by_id = compare(store.runs, "x", store.trials[1].run_id, store.trials[2].run_id)
    assert by_id[0].startswith("r1 less r2")
    with pytest.raises(
        UsageError, match="two arms or two trials of the sweep, got 'best', 'base seed=1'"
    ):
        compare(store.runs, "x", "best", "base seed=1")
    (store.folder / "r0" / "predictions.npz").unlink()
    assert "cannot be compared: run r0 has no artifact" in compare(store.runs, "x", "r1", "r0")[0]


# ---- drawings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 25, 100])
@pytest.mark.parametrize("narrow", [False, True])
def test_figures_are_drawn_for_any_number_of_classes(classes: int, narrow: bool) -> None:
    ours, theirs = [network(1, 2.0, 400, classes)], [network(2, 1.0, 400, classes)]
    names = [f"${number}_{{ <b>名" for number in range(classes)]
    matrix = predictions.shares(predictions.confusion(ours))
    curve = predictions.calibration(ours)
    for paint in (
        error_figures.confusion([("a$b", matrix), (EVIL, matrix)], names),
        error_figures.confusion([("a", matrix)], names),
        error_figures.classes(predictions.class_changes(ours, theirs), names),
        error_figures.calibration([("a", curve), ("$x_{", predictions.calibration(theirs))], "a"),
    ):
        drawing = error_figures.Drawing("x", "", "", paint)
        image = Image.open(
            io.BytesIO(drawing.draw("png", scheme=DARK if narrow else LIGHT, narrow=narrow)[0])
        )
        assert np.asarray(image).std() > 5


def test_one_matrix_stands_alone() -> None:
    from matplotlib.figure import Figure

    paint = error_figures.confusion(
        [("a", predictions.shares(predictions.confusion([network(1, 2.0)])))], ["x", "y", "z"]
    )
    for narrow in (False, True):
        picture = Figure()
        paint(picture, LIGHT, narrow)
        assert len(picture.axes) == 1


def test_the_same_figure_is_the_same_file() -> None:
    paint = error_figures.calibration([("a", predictions.calibration([network(1, 2.0)]))], "a")
    assert (
        len({error_figures.Drawing("x", "", "", paint).draw("svg", "png") for _ in range(2)}) == 1
    )


# ---- files that a launch leaves ------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from suite import data
    from suite.config import DataConfig

    return data.load(DataConfig(name="digits", image_size=8), tmp_path_factory.mktemp("cache"))


def test_a_grid_has_the_originals_above_each_augmentation(digits: Any) -> None:
    from suite.config import TrialConfig
    from suite.visuals import gallery

    configs = [TrialConfig(augment=name) for name in ("none", "flip", "crop+flip+mixup", "flip")]
    configs.append(
        TrialConfig.model_validate(
            {"augment": "half", "augmentations": {"half": {"type": "cutout"}}}
        )
    )
    configs.append(
        TrialConfig.model_validate(
            {"augment": "half", "augmentations": {"half": {"type": "cutout", "size": 2}}}
        )
    )
    steps = gallery.augmentations(configs)
    assert list(steps) == ["flip", "crop+flip+mixup", "half (defaults)", "half (size=2)"]
    png = gallery.augmentation_grid(digits, steps, seed=3)
    assert (
        png
        == gallery.augmentation_grid(digits, steps, seed=3)
        != gallery.augmentation_grid(digits, steps, seed=4)
    )
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    rows = gallery._examples(digits, 3, gallery.SHOWN)
    assert len(set(digits.train_labels[rows])) == gallery.SHOWN
    first = sheet[gallery._BETWEEN :, gallery._LABEL :][:96, :96].reshape(8, 12, 8, 12, 3)
    assert (first[:, 0, :, 0] == digits.train_images[rows[0]].transpose(1, 2, 0)).all()
    assert (first == first[:, :1, :, :1]).all(), "pixels are squares"


def test_kept_images_are_those_that_tell_arms_apart(digits: Any, tmp_path: Path) -> None:
    from suite.config import TrialConfig
    from suite.visuals import gallery

    files: dict[str, list[Path]] = {}
    for arm, skill in (("base", 1.0), ("a", 1.2), ("b", 1.4)):
        for seed in (0, 1):
            one = network(seed + int(skill * 100), skill, 100)
            path = tmp_path / f"{arm}{seed}.npz"
            np.savez(path, index=one.index, labels=one.labels, logits=one.logits)
            files.setdefault(arm, []).append(path)
    files["b"].append(tmp_path / "missing.npz")
    kept = gallery.discriminating_images(files, ["base"], per_pair=5)
    ours, theirs = ([Predictions.read(path) for path in files[arm][:2]] for arm in ("a", "base"))
    assert {one.index for one in predictions.discriminating_images(ours, theirs, 5)} <= set(
        kept.tolist()
    )
    assert (
        10 <= len(kept) <= 20
        and len(gallery.discriminating_images(files, ["base"], 5, limit=7)) == 7
    )
    made = gallery.pictures(digits, [TrialConfig()], files, ["base"])
    assert set(made) == {"test_images.npz"}, "there are no augmentations to show"
    with np.load(io.BytesIO(made["test_images.npz"])) as file:
        row = file["index"][0]
        assert (file["images"][0] == digits.test_images[row].transpose(1, 2, 0)).all()
        assert file["classes"].tolist() == list(digits.classes)
        assert (file["labels"] == digits.test_labels[file["index"]]).all()
    assert gallery.pictures(digits, [TrialConfig()], {"base": []}, []) == {}


def test_large_test_images_are_kept_small(digits: Any) -> None:
    from suite.visuals import gallery

    large = replace(digits, test_images=np.repeat(np.repeat(digits.test_images[:3], 32, 2), 32, 3))
    with np.load(io.BytesIO(gallery.image_file(large, np.arange(3), 2))) as file:
        assert file["images"].shape == (2, 96, 96, 3)


def test_predictions_need_neither_torch_nor_mlflow() -> None:
    import subprocess
    import sys

    check = (
        "import sys\nimport suite.analysis.predictions, suite.report.error_analysis, "
        "suite.report.error_figures\n"
        "assert not {'torch', 'ray', 'mlflow', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run(
        [sys.executable, "-c", check], check=True, cwd=Path(__file__).parent.parent, timeout=60
    )


# ---- what earlier tests did not notice -----------------------------------------------------------


def test_figures_and_text_name_each_arm_with_its_own_errors(store: Store) -> None:
    both(store)
    found = section(store.runs, "x", "base", "best")
    assert found is not None
    ours, theirs = (
        [network(seed + add, skill) for seed in (0, 1)] for add, skill in ((50, 1.6), (0, 1.0))
    )
    text = whole(found)
    errors_of = {
        arm: 100 * predictions.calibration(many).error
        for arm, many in (("best", ours), ("base", theirs))
    }
    assert f"base {errors_of['base']:.2f} points, best {errors_of['best']:.2f} points" in text
    drawn = {drawing.name: drawing for drawing in found.drawings}
    names = ["class 0", "class 1", "class 2"]
    expected = error_figures.confusion(
        [("base", predictions.shares(predictions.confusion(theirs))),
         ("best", predictions.shares(predictions.confusion(ours)))], names,
    )  # fmt: skip
    same = error_figures.Drawing("confusion", "", "", expected).draw("png")[0]
    assert drawn["confusion"].files["png"] == same, "the baseline's matrix is the left one"


def test_what_chance_would_do_is_told_from_what_it_would_not(store: Store) -> None:
    both(store)
    assert ": more than chance between images explains" in whole(
        section(store.runs, "x", "base", "best")
    )
    store.add("twin", 0, network(0, 1.0))
    store.add("twin", 1, network(2, 1.0))
    assert "no more than chance between images explains" in whole(
        section(store.runs, "x", "base", "twin")
    )


def test_the_tiles_show_the_images_that_they_tell_of(store: Store) -> None:
    import base64

    both(store)
    right, wrong = [network(50, 1.6), network(51, 1.6)], [network(0, 1.0), network(1, 1.0)]
    images = predictions.discriminating_images(right, wrong, 3)
    rows = sorted((one.index for one in images), reverse=True)  # kept in another order than told
    shades = {index: 40 * number + 10 for number, index in enumerate(rows)}
    pixels = np.stack([np.full((8, 8, 3), shades[index], np.uint8) for index in rows])
    store.put(
        "p", "test_images.npz", {"images": pixels, "index": np.array(rows), "labels": np.zeros(3)}
    )
    found = section(store.runs, "x", "base", "best")
    assert found is not None
    seen = []
    for tile in found.tiles[0][1]:
        content = base64.b64decode(tile.address.partition(",")[2])
        seen.append(int(np.asarray(Image.open(io.BytesIO(content)))[0, 0, 0]))
    assert seen == [shades[one.index] for one in images]


def test_a_probability_on_the_border_of_two_bins_belongs_to_the_lower() -> None:
    """Bins are closed above, as in the paper: three classes of one probability lie on the border
    at 1/3 of 3 bins.
    """
    one = Predictions(np.arange(4), np.zeros(4, np.int64), np.zeros((4, 4), np.float32))
    assert list(predictions.calibration([one], 4).count) == [4, 0, 0, 0], (
        "0.25 of four classes, exactly"
    )
