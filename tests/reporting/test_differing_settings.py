"""Which settings distinguish rows."""

import pytest
from support.made_up_runs import MadeUp

from ptl_prefix.reporting.differing_settings import differing_settings, format_setting


def test_only_differing_settings_are_returned() -> None:
    runs = [MadeUp(settings={"prefix_length": length, "reparam": "mlp"}) for length in (5, 10)]

    assert differing_settings([run.record() for run in runs]) == [
        {"method.prefix_length": 5},
        {"method.prefix_length": 10},
    ]


def test_a_methods_own_settings_are_compared_between_its_own_runs() -> None:
    runs = [MadeUp(), MadeUp(method="lora", settings={"rank": 4}), MadeUp(method="lora", settings={"rank": 8})]

    assert differing_settings([run.record() for run in runs]) == [{}, {"method.rank": 4}, {"method.rank": 8}]


def test_a_setting_that_two_methods_have_by_one_name_is_no_difference() -> None:
    runs = [MadeUp(settings={"dropout": 0.1}), MadeUp(method="lora", settings={"dropout": 0.2})]

    assert differing_settings([run.record() for run in runs]) == [{}, {}]


def test_the_backbones_mode_is_compared_between_runs_of_one_method() -> None:
    modes = [("prefix_tuning", "eval"), ("adapter", "train"), ("lora", "eval"), ("lora", "train")]
    runs = [MadeUp(method=method, settings={}, more={"backbone": {"base_mode": mode}}) for method, mode in modes]

    assert differing_settings([run.record() for run in runs]) == [
        {},
        {},
        {"backbone.base_mode": "eval"},
        {"backbone.base_mode": "train"},
    ]


def test_a_missing_key_is_a_difference() -> None:
    runs = [MadeUp(settings={}), MadeUp(settings={"new": None})]

    assert differing_settings([run.record() for run in runs]) == [{}, {"method.new": None}]


@pytest.mark.parametrize("more", [{"tracking": {"group": "mine"}}, {"resume": "x"}, {"data": {"cache_dir": "/here"}}])
def test_tracking_and_cache_settings_are_ignored(more: dict[str, object]) -> None:
    runs = [MadeUp(), MadeUp(seed=7, more=more)]

    assert differing_settings([run.record(str(n)) for n, run in enumerate(runs)]) == [{}, {}]


def test_one_true_and_one_are_three_settings() -> None:
    runs = [MadeUp(settings={"x": value}) for value in (1, 1.0, True)]

    assert [own["method.x"] for own in differing_settings([run.record() for run in runs])] == [1, 1.0, True]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (5e-5, "5e-05"), (0.5, "0.5"), (10, "10"), ([1, 2], "[1, 2]")]
)
def test_values_are_formatted_as_in_a_config(value: object, text: str) -> None:
    assert format_setting(value) == text
