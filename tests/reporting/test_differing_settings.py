"""What tells rows apart, and what does not."""

import pytest
from support.made_up_runs import MadeUp

from ptl_prefix.reporting.differing_settings import differing_settings, spoken


def test_only_what_differs_is_named() -> None:
    runs = [MadeUp(settings={"prefix_length": length, "reparam": "mlp"}) for length in (5, 10)]

    assert differing_settings([run.record() for run in runs]) == [
        {"method.prefix_length": 5},
        {"method.prefix_length": 10},
    ]


def test_a_methods_own_settings_are_compared_among_its_namesakes() -> None:
    runs = [MadeUp(), MadeUp(method="lora", settings={"rank": 4}), MadeUp(method="lora", settings={"rank": 8})]

    assert differing_settings([run.record() for run in runs]) == [{}, {"method.rank": 4}, {"method.rank": 8}]


def test_a_setting_that_two_methods_have_by_one_name_is_no_difference() -> None:
    runs = [MadeUp(settings={"dropout": 0.1}), MadeUp(method="lora", settings={"dropout": 0.2})]

    assert differing_settings([run.record() for run in runs]) == [{}, {}]


def test_the_backbones_mode_which_follows_the_method_is_compared_among_namesakes() -> None:
    modes = [("prefix_tuning", "eval"), ("adapter", "train"), ("lora", "eval"), ("lora", "train")]
    runs = [MadeUp(method=method, settings={}, more={"backbone": {"base_mode": mode}}) for method, mode in modes]

    assert differing_settings([run.record() for run in runs]) == [
        {},
        {},
        {"backbone.base_mode": "eval"},
        {"backbone.base_mode": "train"},
    ]


def test_a_key_that_a_namesake_lacks_is_a_difference() -> None:
    runs = [MadeUp(settings={}), MadeUp(settings={"new": None})]

    assert differing_settings([run.record() for run in runs]) == [{}, {"method.new": None}]


@pytest.mark.parametrize("more", [{"tracking": {"group": "mine"}}, {"resume": "x"}, {"data": {"cache_dir": "/here"}}])
def test_who_looks_on_and_where_things_lie_is_no_difference(more: dict[str, object]) -> None:
    runs = [MadeUp(), MadeUp(seed=7, more=more)]

    assert differing_settings([run.record(str(n)) for n, run in enumerate(runs)]) == [{}, {}]


def test_one_true_and_one_are_three_settings() -> None:
    runs = [MadeUp(settings={"x": value}) for value in (1, 1.0, True)]

    assert [own["method.x"] for own in differing_settings([run.record() for run in runs])] == [1, 1.0, True]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (5e-5, "5e-05"), (0.5, "0.5"), (10, "10"), ([1, 2], "[1, 2]")]
)
def test_values_are_spoken_as_a_config_writes_them(value: object, text: str) -> None:
    assert spoken(value) == text
