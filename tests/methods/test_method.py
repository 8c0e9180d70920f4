"""A budget of numbers becomes a size, in every method that has one."""

from typing import Any

import pytest
import torch
from support.method_nodes import new_method

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.combination import Combination
from ptl_prefix.methods.method import Method

SIZED = {
    "prefix_tuning": "prefix_length",
    "prompt_tuning": "prompt_length",
    "lora": "rank",
    "dora": "rank",
    "rslora": "rank",
    "adapter": "bottleneck_size",
    "top_layers": "num_top_layers",
}


def stored(name: str, size: int, backbone: Backbone, **settings: Any) -> int:
    """What a method of that size stores, by attaching it."""
    method = new_method(name, **{SIZED[name]: size, **settings}).attach(backbone)
    number = method.num_stored
    method.detach()
    return number


@pytest.mark.parametrize("name", SIZED)
def test_the_size_is_chosen_whose_bundle_comes_closest(name: str, backbone: Backbone) -> None:
    two, three = stored(name, 2, backbone), stored(name, 3, backbone)

    for budget, expected in (
        (two, 2),
        (three, 3),
        (two + (three - two) // 3, 2),
        (three - (three - two) // 3, 3),
        (1, 1),
    ):
        method = new_method(name, match_parameters=budget).attach(backbone)

        number = method.num_stored
        method.detach()
        assert getattr(method, SIZED[name]) == expected, budget
        assert number == stored(name, expected, backbone)
        assert method.notes[0].startswith(f"has {SIZED[name]} {expected}: its {number:,} stored parameters")


def test_a_frozen_sink_leaves_at_least_one_position_to_train(backbone: Backbone) -> None:
    method = new_method("prefix_tuning", match_parameters=1, frozen_sink=True).attach(backbone)

    assert (method.prefix_length, method.num_trainable > 0) == (2, True)


@pytest.mark.parametrize("name", ["prefix_tuning", "lora", "adapter"])
def test_a_chosen_size_starts_as_a_configured_one_does(name: str, backbone: Backbone) -> None:
    budget = stored(name, 3, backbone)

    def start(method: Method) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        method.attach(backbone)
        numbers = {key: parameter.detach().clone() for key, parameter in method.trainable_parameters().items()}
        method.detach()
        return numbers

    chosen, configured = start(new_method(name, match_parameters=budget)), start(new_method(name, **{SIZED[name]: 3}))

    assert chosen.keys() == configured.keys()
    assert all(torch.equal(chosen[key], configured[key]) for key in chosen)


@pytest.mark.parametrize("name", ["full_finetuning", "bitfit"])
def test_without_a_size_there_is_nothing_to_choose(name: str, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=f"is 5000 and '{name}' has none"):
        new_method(name, match_parameters=5000).attach(backbone)


def test_a_budget_beyond_what_fits_is_refused_with_the_size_it_asks_for(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"`method.prefix_length` must be less than .* but is \d{4}"):
        new_method("prefix_tuning", match_parameters=10**6).attach(backbone)


def test_each_part_of_a_combination_has_a_budget_of_its_own(backbone: Backbone) -> None:
    budget = stored("lora", 3, backbone)
    method = new_method("prefix_lora", parts={"second": {"match_parameters": budget}})
    assert isinstance(method, Combination)
    assert method.has_open_settings

    chosen = method.choose_settings(backbone)

    assert chosen["parts"]["second"] == {"rank": 3}
    assert not method.has_open_settings
    assert not chosen["parts"]["first"]
