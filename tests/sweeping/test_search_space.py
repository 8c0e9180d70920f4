"""Spaces as plain data: what Optuna is told, which points there are, and a point as overrides again."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ptl_prefix.sweeping.search_space import Choice, Dimension, Numbers, SearchSpace


def choice(*values: bool | int | float | str | None) -> Choice:
    return Choice(values=values, texts=[json.dumps(value).strip('"') for value in values])


@pytest.mark.parametrize(
    ("dimension", "distribution"),
    [
        (choice("none", "mlp"), CategoricalDistribution(("none", "mlp"))),
        (choice(None, 1, True), CategoricalDistribution((None, 1, True))),
        (Numbers(low=1e-5, high=1e-2, log=True), FloatDistribution(1e-5, 1e-2, log=True)),
        (Numbers(low=0, high=1, step=0.25), FloatDistribution(0.0, 1.0, step=0.25)),
        (Numbers(low=1, high=9, step=2, is_int=True), IntDistribution(1, 9, step=2)),
        (Numbers(low=1, high=9, is_int=True), IntDistribution(1, 9)),
        (Numbers(low=1, high=100, log=True, is_int=True), IntDistribution(1, 100, log=True)),
    ],
)
def test_a_dimension_becomes_an_optuna_distribution(dimension: Dimension, distribution: object) -> None:
    assert dimension.distribution() == distribution


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (choice("b", "a"), ["b", "a"]),
        (Numbers(low=1, high=7, step=3, is_int=True), [1, 4, 7]),
        (Numbers(low=1, high=8, step=3, is_int=True), [1, 4, 7]),
        (Numbers(low=3, high=5, is_int=True), [3, 4, 5]),
        (Numbers(low=0.1, high=0.3, step=0.1), [0.1, 0.2, pytest.approx(0.3)]),
        (Numbers(low=5, high=5, is_int=True), [5]),
        (Numbers(low=0.0, high=1.0), None),
    ],
)
def test_values_are_listed_in_order(dimension: Dimension, values: list[object] | None) -> None:
    assert dimension.listed() == values


def test_a_value_has_the_text_that_was_written_for_it() -> None:
    written = Choice(values=[1, True, 1e-3, None, "a b"], texts=["1", "true", "1e-3", "null", "'a b'"])

    assert [written.text(value) for value in written.values] == list(written.texts)
    assert written.text(1.0) == "1"


def test_sums_of_steps_do_not_show_in_a_point() -> None:
    steps = Numbers(low=0.1, high=0.9, step=0.1)

    assert [steps.text(value) for value in steps.listed() or []] == [f"0.{digit}" for digit in range(1, 10)]


def test_points_are_all_combinations_and_the_last_key_changes_fastest() -> None:
    space = SearchSpace({"a": choice(1, 2), "b": choice("x", "y", "z")})

    points = [space.overrides(point) for point in space.points()]

    assert space.size == 6
    assert points == [(f"a={a}", f"b={b}") for a in (1, 2) for b in "xyz"]


def test_a_space_with_an_interval_has_no_size_and_no_list_of_points() -> None:
    space = SearchSpace({"a": choice(1, 2), "lr": Numbers(low=1e-4, high=1e-2, log=True)})

    assert space.size is None
    assert list(space.points()) == []


def test_too_many_points_are_not_listed() -> None:
    seeds, lengths = Numbers(low=0, high=2**32 - 1, is_int=True), Numbers(low=1, high=200, is_int=True)

    assert seeds.listed() is None
    assert SearchSpace({"seed": seeds}).size is None
    assert SearchSpace({"a": lengths}).size == 200
    assert SearchSpace({"a": lengths, "b": lengths}).size is None
    assert list(SearchSpace({"a": lengths, "b": lengths}).points()) == []


def test_an_empty_space_has_one_point() -> None:
    assert SearchSpace({}).size == 1
    assert list(SearchSpace({}).points()) == [{}]


scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
choices = st.lists(scalar, min_size=1, max_size=4).map(
    lambda values: Choice(values=values, texts=[str(value) for value in values])
)
ends = st.tuples(st.integers(1, 50), st.integers(51, 99))
numbers = st.builds(
    lambda both, step, log, is_int: Numbers(
        low=both[0], high=both[1], step=None if log else step, log=log, is_int=is_int
    ),
    ends,
    st.none() | st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)


@given(dimensions=st.dictionaries(st.text(), choices | numbers, max_size=3))
def test_a_space_is_read_as_it_was_written(dimensions: dict[str, Dimension]) -> None:
    space = SearchSpace(dimensions)

    document = yaml.safe_load(yaml.safe_dump(space.as_document()))

    assert SearchSpace.from_document(document) == space


@given(dimension=numbers)
def test_every_listed_number_is_one_of_optunas(dimension: Numbers) -> None:
    # Optuna takes away what lies behind the last step, with a warning; the door never writes such an end.
    listed = dimension.listed()
    if listed is None:
        return
    exact = Numbers(**{**vars(dimension), "high": listed[-1]})
    distribution = exact.distribution()

    assert all(distribution._contains(distribution.to_internal_repr(value)) for value in listed)
    assert exact.ends() == list(dict.fromkeys([exact.text(listed[0]), exact.text(listed[-1])]))  # type: ignore[arg-type]
