"""Spaces: sizes, grids, conditions, distributions and names, against written-out values."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.config.space import (
    Choice,
    Choices,
    Condition,
    Range,
    Space,
    ordered,
    same,
    short_names,
    show,
)


def listed(name: str, *values: object, when: dict[str, list[object]] | None = None) -> Choices:
    conditions = tuple(Condition(key, tuple(wanted)) for key, wanted in (when or {}).items())
    return Choices(name, tuple(Choice(value, {name: value}) for value in values), conditions)  # type: ignore[arg-type]


def labels(space: Space) -> list[dict[str, object]]:
    return [{name: choice.label for name, choice in point.items()} for point in space.grid()]


def test_a_grid_is_the_product_and_the_last_parameter_varies_fastest() -> None:
    space = Space((listed("a", 1, 2), listed("b", "x", "y", "z")))
    assert space.size() == 6
    assert labels(space) == [{"a": a, "b": b} for a, b in itertools.product([1, 2], "xyz")]


def test_no_parameters_are_one_point() -> None:
    assert Space(()).size() == 1 and labels(Space(())) == [{}]


def test_a_parameter_is_absent_where_its_condition_fails_and_duplicates_collapse() -> None:
    rate = listed("rate", 0, 0.1, 0.2)
    after = listed("after", "l1", "l2", when={"rate": [0.1, 0.2]})
    assert labels(Space((rate, after))) == [
        {"rate": 0},
        {"rate": 0.1, "after": "l1"},
        {"rate": 0.1, "after": "l2"},
        {"rate": 0.2, "after": "l1"},
        {"rate": 0.2, "after": "l2"},
    ]


def test_a_condition_may_stand_before_what_it_asks_about() -> None:
    after = listed("after", "l1", "l2", when={"rate": [1]})
    space = Space((after, listed("rate", 0, 1)))
    assert [list(point) for point in space.grid()] == [
        ["rate"],
        ["after", "rate"],
        ["after", "rate"],
    ]


def test_a_condition_sees_settings_of_labels_and_what_is_fixed() -> None:
    arms = Choices(
        "arm", (Choice("s", {"w": "none"}), Choice("t", {"w": "imagenet"}), Choice("u", {}))
    )
    depth = listed("depth", 0, 7, when={"w": ["imagenet"]})
    assert labels(Space((arms, depth), {"w": "none"})) == [
        {"arm": "s"}, {"arm": "t", "depth": 0}, {"arm": "t", "depth": 7}, {"arm": "u"},
    ]  # fmt: skip
    assert len(labels(Space((arms, depth), {"w": "imagenet"}))) == 5  # u takes what is fixed


def test_a_condition_on_an_absent_parameter_does_not_hold() -> None:
    first, second = listed("a", 0, 1), listed("b", 0, 1, when={"a": [1]})
    third = listed("c", 5, 6, when={"b": [0]})
    assert labels(Space((first, second, third), {"b": 0})) == [
        {"a": 0}, {"a": 1, "b": 0, "c": 5}, {"a": 1, "b": 0, "c": 6}, {"a": 1, "b": 1},
    ]  # fmt: skip


def test_conditions_in_a_circle_are_named() -> None:
    with pytest.raises(ValueError, match=r"goes round in a circle: a -> b -> a"):
        ordered([listed("a", 1, when={"b": [1]}), listed("b", 1, when={"a": [1]}), listed("c", 1)])
    with pytest.raises(ValueError, match=r"circle: a -> a"):
        ordered([listed("a", 1, when={"a": [1]})])


def test_a_billion_points_are_counted_without_being_made() -> None:
    space = Space(tuple(listed(f"p{i}", *range(1000)) for i in range(3)))
    assert space.size() == 10**9
    assert list(itertools.islice(space.grid(), 2)) == [
        next(space.grid()),
        list(itertools.islice(space.grid(), 2))[1],
    ]


@pytest.mark.parametrize(
    ("distribution", "low", "high", "middle"),
    [("uniform", 0.0, 0.5, 0.25), ("log_uniform", 1e-4, 1e-2, 1e-3), ("int_uniform", 0, 8, 4)],
)
def test_both_bounds_of_a_range_are_reached(
    distribution: str, low: float, high: float, middle: float
) -> None:
    range_ = Range("x", low, high, distribution)
    assert (
        range_.at(0.0) == low and range_.at(1.0) == high and range_.at(0.5) == pytest.approx(middle)
    )


def test_whole_numbers_are_equally_likely_bounds_included() -> None:
    range_ = Range("x", 2, 5, "int_uniform")
    drawn = [range_.at(i / 9999) for i in range(10_000)]
    assert {value: drawn.count(value) for value in set(drawn)} == pytest.approx(
        dict.fromkeys((2, 3, 4, 5), 2500), abs=2
    )
    assert all(type(value) is int for value in drawn)


def test_log_uniform_draws_are_uniform_in_the_logarithm() -> None:
    range_ = Range("x", 1e-4, 1.0, "log_uniform")
    drawn = [range_.at(random.Random(i).random()) for i in range(4000)]
    shares = [
        sum(10.0**-k <= value < 10.0 ** (1 - k) for value in drawn) / 4000 for k in (4, 3, 2, 1)
    ]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


@given(
    st.floats(0, 1),
    st.floats(1e-9, 1e6),
    st.floats(1e-9, 1e6),
    st.sampled_from(["uniform", "log_uniform"]),
)
def test_a_drawn_number_is_within_bounds_and_its_name_shows_it_exactly(
    u: float, a: float, b: float, kind: str
) -> None:
    low, high = sorted((a, b))
    value = Range("x", low, high, kind).at(u)
    assert low <= value <= high
    assert float(show(value)) == value


def test_a_value_outside_the_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr must lie in \[0.1, 0.2\], got 0.3"):
        Range("lr", 0.1, 0.2).choose(0.3)
    with pytest.raises(ValueError, match="got nan"):
        Range("lr", 0.1, 0.2).choose(math.nan)
    with pytest.raises(ValueError, match=r"must be a whole number, got 1\.5"):
        Range("n", 1, 2, "int_uniform").choose(1.5)
    with pytest.raises(ValueError, match=r"a must be one of 1, 2, got 3"):
        listed("a", 1, 2).choose(3)


def test_random_points_are_the_same_everywhere_and_more_of_them_only_add() -> None:
    space = Space((Range("lr", 1e-3, 0.1, "log_uniform"), listed("a", "x", "y")))
    ten, three = list(space.draws(10)), list(space.draws(3))
    assert ten[:3] == three and len(ten) == 10
    # Written out: a change here gives every random sweep other arms.
    assert [(point["lr"].label, point["a"].label) for point in three] == [
        (0.0413235, "x"), (0.0251939, "y"), (0.0267131, "x"),
    ]  # fmt: skip
    wider = Space((*space.parameters, listed("b", 1, 2)))
    assert [point["lr"] for point in wider.draws(3)] == [point["lr"] for point in three]


def test_a_small_space_is_drawn_whole_and_never_twice() -> None:
    space = Space((listed("a", 1, 2), listed("b", 1, 2)))
    assert len(list(space.draws(100))) == 4
    assert len({repr(point) for point in space.draws(3)}) == 3


def test_drawing_stops_where_a_range_has_no_more() -> None:
    started = time.process_time()
    assert sorted(
        point["n"].label for point in Space((Range("n", 1, 50, "int_uniform"),)).draws(100_000)
    ) == [*range(1, 51)]
    assert time.process_time() - started < 2.0


def test_a_label_is_found_by_what_is_the_same_as_it() -> None:
    mixed = listed("a", 1, "1", True, None)
    assert [mixed.choose(label).label for label in (1.0, "1", True, None)] == [1, "1", True, None]
    with pytest.raises(ValueError, match=r"a must be one of 1, 1, true, none, got \[1\]"):
        mixed.choose([1])


def test_walk_asks_conditions_first_and_keeps_the_order_of_the_file() -> None:
    asked = []
    space = Space((listed("after", "l1", when={"rate": [1]}), listed("rate", 0, 1)))

    def suggest(parameter: object) -> object:
        asked.append(parameter.name)  # type: ignore[attr-defined]
        return {"rate": 1, "after": "l1"}[parameter.name]  # type: ignore[attr-defined]

    assert list(space.walk(suggest)) == ["after", "rate"] and asked == ["rate", "after"]


def test_names_are_the_shortest_tails_that_stay_apart() -> None:
    assert short_names(["model.head.dropout", "train.lr", "head"]) == {
        "model.head.dropout": "dropout",
        "train.lr": "lr",
        "head": "head",
    }
    assert short_names(["a.x.rate", "b.y.rate"]) == {"a.x.rate": "x.rate", "b.y.rate": "y.rate"}
    assert short_names(["a.rate"], ["b.rate"]) == {"a.rate": "a.rate"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.001, "0.001"), (1e-5, "1e-05"), (1.0, "1"), (0.1 + 0.2, "0.30000000000000004"),
     (True, "true"), (None, "none"),
     ([256, 128], "[256,128]"), ("flip+crop", "flip+crop"), (7, "7")],
)  # fmt: skip
def test_values_are_shown_short_and_exactly(value: object, shown: str) -> None:
    assert show(value) == shown


def test_one_is_one_point_zero_but_not_true() -> None:
    assert same(1, 1.0) and not same(1, True) and same([1, 2], (1, 2)) and not same([1], [1, 2])
