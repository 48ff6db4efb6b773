"""Which images a trial trains, validates and tests on, and their tensors."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import load_folder, make_folder

from suite import data
from suite.config.trial import DataConfig
from suite.core.errors import UsageError
from suite.core.records import stream
from suite.data.splits import stratified_order

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# ---- the split -----------------------------------------------------------------------------------

EVEN = np.repeat(np.arange(10), 5000)
EVEN_TEST = np.repeat(np.arange(10), 1000)


def split(
    train: np.ndarray = EVEN,
    test: np.ndarray = EVEN_TEST,
    classes: tuple[str, ...] = (),
    **options: Any,
) -> data.Split:
    return data.split(train, test, DataConfig(**options), classes)


def test_the_split_of_even_classes_is_even() -> None:
    parts = split(train_size=5000, test_size=0.1, val_size=0.1)
    assert np.bincount(EVEN[parts.val]).tolist() == [500] * 10
    assert np.bincount(EVEN[parts.train]).tolist() == [500] * 10
    assert np.bincount(EVEN_TEST[parts.test]).tolist() == [100] * 10
    assert not set(parts.train) & set(parts.val)
    assert {part.dtype for part in (parts.train, parts.val, parts.test)} == {np.dtype(np.int64)}


def test_by_default_all_images_are_used_once() -> None:
    parts = split()
    assert len(parts.train) == 45_000 and len(parts.val) == 5_000
    assert sorted([*parts.train, *parts.val]) == list(range(50_000))
    assert sorted(parts.test) == list(range(10_000))


@pytest.mark.parametrize(
    ("train_size", "train", "val"),
    [(5000, 5000, 556), (2600, 2600, 289), (45_000, 45_000, 5000), (0.1, 4500, 500), (20, 20, 10)],
)
def test_a_subset_has_a_ninth_as_many_validation_images(
    train_size: float, train: int, val: int
) -> None:
    """A tenth of both together.

    They are some of those that all images would have; training images do not change.
    """
    parts, whole, given = (
        split(train_size=train_size),
        split(),
        split(train_size=train_size, val_size=0.1),
    )
    assert (len(parts.train), len(parts.val)) == (train, val)
    assert parts.val.tolist() == whole.val[:val].tolist()
    assert parts.train.tolist() == given.train.tolist() and len(given.val) == 5000
    assert np.ptp(np.bincount(EVEN[parts.val])) <= 1 and np.bincount(EVEN[parts.val]).min() >= 1


def test_a_subset_validates_on_every_class_that_it_can() -> None:
    """1,000 images of two classes and 10 of a third, of which one falls into the tenth."""
    labels = np.repeat(np.arange(3), (500, 500, 10))
    parts = split(labels, labels, train_size=101)
    assert (
        11 < len(parts.val) <= 101 and np.bincount(labels[parts.val], minlength=3).tolist()[2] == 1
    )
    assert labels[parts.val[-1]] == 2, "no more than that takes"


def test_fractions_of_training_images_are_of_what_validation_leaves() -> None:
    assert len(split(val_size=10_000, train_size=0.5).train) == 20_000
    labels = np.array([0, 0, 1, 1])
    assert len(split(labels, labels, val_size=0.01).val) == 1  # at least one image


def test_without_validation_there_is_no_validation_image() -> None:
    parts = split(val_size=0)
    assert len(parts.val) == 0 and len(parts.train) == 50_000


def test_the_split_depends_on_its_seed_alone() -> None:
    one, again, other = split(), split(), split(split_seed=1)
    assert (one.train == again.train).all() and (one.test == again.test).all()
    assert set(one.val) != set(other.val)
    shares = len(set(one.val) & set(other.val)) / 5000
    assert 0.05 < shares < 0.15  # two random tenths have a tenth in common


def test_the_split_is_the_same_on_every_machine_and_version() -> None:
    labels = np.arange(12) % 3
    parts = split(labels, labels, val_size=3, train_size=6, split_seed=1)
    assert parts.val.tolist() == [5, 7, 0]
    assert parts.train.tolist() == [11, 1, 6, 4, 8, 3]


counts = st.lists(st.integers(1, 40), min_size=2, max_size=8)


def assert_proportional(chosen: np.ndarray, everything: np.ndarray) -> None:
    """Each class has its share of the chosen ones, to within one image."""
    whole = np.bincount(everything)
    found = np.bincount(chosen, minlength=len(whole))
    assert abs(found * len(everything) - whole * len(chosen)).max() < len(everything)


@given(counts=counts, seed=st.integers(0, 2**40))
@settings(max_examples=80, deadline=None)
def test_every_beginning_of_the_order_is_stratified(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    for size in range(1, len(labels) + 1):
        assert_proportional(labels[order[:size]], labels)


@given(counts=counts, seed=st.integers(0, 99), fractions=st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=80, deadline=None)
def test_sizes_are_exact_parts_disjoint_and_smaller_parts_nested(
    counts: list[int], seed: int, fractions: tuple[float, ...]
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    n = len(labels)
    held_out = min(int(fractions[0] * n), n - 2)
    sizes = sorted(1 + int(fraction * (n - held_out - 1)) for fraction in fractions[1:3])
    test_sizes = sorted(1 + int(fraction * (n - 1)) for fraction in fractions[2:])
    parts = []
    for train_size, test_size in zip(sizes, test_sizes, strict=True):
        config = {
            "val_size": held_out,
            "train_size": train_size,
            "test_size": test_size,
            "split_seed": seed,
        }
        try:
            parts.append(split(labels, labels, **config))
        except UsageError:  # a class without a training image: tested below
            return
        assert [len(parts[-1].train), len(parts[-1].val), len(parts[-1].test)] == [
            train_size,
            held_out,
            test_size,
        ]
        assert not set(parts[-1].train) & set(parts[-1].val)
    small, large = parts
    assert set(small.train) <= set(large.train) and set(small.test) <= set(large.test)
    assert (small.val == large.val).all()
    rest = np.delete(labels, small.val)
    assert_proportional(labels[small.train], rest)
    assert_proportional(labels[small.test], labels)
    if held_out:
        assert_proportional(labels[small.val], labels)


def test_sizes_beyond_what_is_there_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        split(train_size=46_000, test_size=10_001)
    train, test = map(str, caught.value.problems)
    assert (
        "at most 45,000 (50,000 training images, 5,000 of them for validation), got 46,000" in train
    )
    assert "at most the number of test images, 10,000, got 10,001" in test
    for size, shown in ((50_000, "got 50,000"), (60_000, "got 60,000")):
        with pytest.raises(UsageError, match=f"data.val_size must be below .* 50,000, {shown}"):
            split(val_size=size)
    with pytest.raises(UsageError, match=r"got 0\.9 = 2"):
        split(np.array([0, 1]), np.array([0, 1]), val_size=0.9)


@given(counts=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(max_examples=50, deadline=None)
def test_of_two_classes_the_rarer_is_rounded_to_the_nearest_image(counts: tuple[int, int]) -> None:
    labels = np.repeat([0, 1], counts)
    chosen = np.cumsum(labels[stratified_order(labels, 0)])
    exact = np.arange(1, len(labels) + 1) * counts[1] / len(labels)
    assert abs(chosen - exact).max() <= 0.5 + 1e-9


def test_classes_stay_closer_to_their_share_than_one_image_where_they_can() -> None:
    counts = np.array([500, 300, 130, 60, 10])
    chosen = np.eye(5)[
        np.repeat(np.arange(5), counts)[stratified_order(np.repeat(np.arange(5), counts), 0)]
    ]
    exact = np.arange(1, 1001)[:, None] * counts / 1000
    assert abs(chosen.cumsum(axis=0) - exact).max() <= 0.75 + 1e-9


def test_a_dominating_class_is_not_crowded_out_by_many_small_ones() -> None:
    labels = np.repeat(np.arange(101), [9000, *[10] * 100])
    found = np.bincount(labels[stratified_order(labels, 0)[:550]], minlength=101)
    assert found[0] == 495 and found.sum() == 550


def test_a_size_that_leaves_a_class_without_training_images_is_refused_with_one_that_works() -> (
    None
):
    labels = np.repeat(np.arange(3), [900, 90, 10])
    with pytest.raises(UsageError, match=r"these have none: owl \(10 before the split\)") as caught:
        split(labels, labels, ("cat", "dog", "owl"), train_size=8)
    remedy = caught.value.problems[0].remedy
    smallest = int(remedy.split("to ")[1].split(" or")[0])
    assert (
        np.bincount(labels[split(labels, labels, train_size=smallest).train], minlength=3).min()
        == 1
    )
    with pytest.raises(UsageError):
        split(labels, labels, train_size=smallest - 1)


def test_a_class_that_has_no_training_image_at_all_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"these have none: c \(0 before the split\)\n.*Add images"
    ):
        split(np.array([0, 1] * 5), np.array([0, 1, 2]), ("a", "b", "c"))


def test_one_image_of_a_rare_class_goes_to_training() -> None:
    labels = np.array([0] * 50 + [1])
    for seed in range(20):
        assert 50 in split(labels, labels, split_seed=seed, val_size=0.1).train


def test_the_description_counts_images_per_part_and_class(cache: Path) -> None:
    dataset = data.load(DataConfig(name="digits"), cache)
    parts = data.split(dataset.train_labels, dataset.test_labels, DataConfig(train_size=100))
    text = data.describe(dataset, parts)
    assert json.loads(json.dumps(text)) == text
    assert (text["train"], text["val"], text["test"], text["num_classes"]) == (100, 11, 359, 10)
    assert text["per_class"]["train"]["7"] == Counter(dataset.train_labels[parts.train].tolist())[7]
    assert text["digest"] == dataset.digest and text["image_size"] == 32


# ---- tensors -------------------------------------------------------------------------------------


@pytest.fixture
def warn_always() -> Iterator[None]:
    """torch says most warnings once per process: too rarely for a test."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


def test_tensors_on_the_cpu_are_the_data_sets_own_memory_without_a_warning(
    folder: Path, cache: Path, warn_always: None
) -> None:
    dataset = load_folder(folder, cache)
    assert not dataset.train_images.flags.writeable
    tensors = data.to_device(dataset, "cpu")  # a warning would be an error here
    for name, array in dataset.arrays().items():
        tensor = getattr(tensors, name)
        assert np.shares_memory(tensor.numpy(), array) and tuple(tensor.shape) == array.shape
    assert tensors.train_images.dtype == torch.uint8 and tensors.train_labels.dtype == torch.int64


def test_a_batch_may_be_written_into(folder: Path, cache: Path) -> None:
    dataset = load_folder(folder, cache)
    before = dataset.train_images.copy()
    batch = data.to_device(dataset, torch.device("cpu")).train_images[torch.tensor([2, 0])]
    assert (batch.numpy() == before[[2, 0]]).all()
    batch.zero_()
    assert (dataset.train_images == before).all()


def test_only_the_one_warning_is_silenced(folder: Path, cache: Path, warn_always: None) -> None:
    data.to_device(load_folder(folder, cache), "cpu")
    with pytest.raises(UserWarning, match="not writable"):
        torch.from_numpy(load_folder(folder, cache).train_images)
    with pytest.raises(UserWarning, match="something else"):
        warnings.warn("something else", UserWarning, stacklevel=1)


@pytest.mark.gpu
def test_tensors_on_a_gpu_hold_the_same_values(cache: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    dataset = data.load(DataConfig(name="digits"), cache)
    tensors = data.to_device(dataset, torch.device("cuda"))
    assert tensors.train_images.is_cuda and tensors.test_labels.is_cuda
    assert (tensors.train_images.cpu().numpy() == dataset.train_images).all()


def test_the_order_of_an_epoch_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    order = data.epoch_order(1000, seed=3, epoch=2)
    assert order.dtype == torch.int64 and order.sort().values.tolist() == list(range(1000))
    torch.manual_seed(5)
    assert torch.equal(order, data.epoch_order(1000, seed=3, epoch=2))
    expected = torch.randperm(1000, generator=torch.Generator().manual_seed(stream(3, "order", 2)))
    assert torch.equal(order, expected)
    others = [data.epoch_order(1000, seed=3, epoch=3), data.epoch_order(1000, seed=4, epoch=2)]
    assert not any(torch.equal(order, other) for other in others)


def test_the_order_of_an_epoch_draws_nothing_from_the_global_stream() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    data.epoch_order(10, 0, 0)
    assert torch.equal(torch.rand(1), expected)


def test_statistics_are_those_of_the_chosen_images() -> None:
    images = np.random.default_rng(0).integers(
        0, 256, (300, 3, 130, 140), dtype=np.uint8
    )  # more than one chunk
    images[:, 1] //= 3
    index = np.random.default_rng(1).permutation(300)[:250]
    mean, std = data.statistics(images, index)
    chosen = images[index] / 255
    np.testing.assert_allclose(mean, chosen.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(axis=(0, 2, 3)), rtol=1e-12)
    again = data.statistics(images, index[::-1])
    assert (mean == again[0]).all() and (std == again[1]).all()


def test_a_channel_without_contrast_can_be_divided_by_its_deviation() -> None:
    mean, std = data.statistics(np.full((4, 3, 2, 2), 51, np.uint8), np.arange(4))
    assert mean.tolist() == [0.2] * 3 and std.tolist() == [1 / 255] * 3


def test_class_weights_are_scikit_learns_and_have_mean_one_over_the_images() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(3), [60, 30, 10])
    weights = data.class_weights(labels, 3)
    np.testing.assert_allclose(
        weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6
    )
    assert weights.dtype == np.float32 and weights[labels].mean() == pytest.approx(1)
    absent = data.class_weights(labels, 4)
    assert absent[3] == 0 and absent[labels].mean() == pytest.approx(1)
