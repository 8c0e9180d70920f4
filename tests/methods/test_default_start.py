"""What is chosen of a prefix's start where nothing is given, from the backbone's shape and the task."""

from typing import Any

import pytest
from support.toy_batches import toy_start_inputs

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.start_inputs import StartInputs

OPEN: dict[str, Any] = {"init": None, "reparam": None, "default_lr": None}
WITH_ROWS = StartInputs(gives_rows=True)


def chosen(backbone: Backbone, inputs: StartInputs = WITH_ROWS, **settings: Any) -> dict[str, Any]:
    method = PrefixTuning(**{**OPEN, **settings})
    assert method.has_open_settings
    method.provide_start_inputs(inputs)
    found = method.choose_settings(backbone)
    assert not method.has_open_settings
    assert method.choose_settings(backbone) == {}
    return found


def test_a_task_with_rows_starts_a_plain_table_by_attention_matching(backbone: Backbone) -> None:
    assert chosen(backbone) == {"init": "attention_matching", "reparam": "none", "default_lr": 0.03}


def test_where_attention_cannot_be_matched_the_start_is_random_behind_an_mlp(
    backbone: Backbone, encoder_decoder: Backbone
) -> None:
    random = {"init": "random", "reparam": "mlp", "default_lr": 0.001}

    assert chosen(encoder_decoder) == random
    assert chosen(backbone, StartInputs()) == random


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"init": "text"}, {"reparam": "none", "default_lr": 0.03}),
        ({"init": "zero_values"}, {"reparam": "mlp", "default_lr": 0.001}),
        ({"reparam": "mlp"}, {"init": "attention_matching", "default_lr": 0.001}),
        ({"reparam": "embedding"}, {"init": "random", "default_lr": 0.001}),
        ({"init": "random", "reparam": "none"}, {"default_lr": 0.03}),
        ({"default_lr": 0.5}, {"init": "attention_matching", "reparam": "none"}),
    ],
    ids=str,
)
def test_what_is_given_is_kept(backbone: Backbone, given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chosen(backbone, **given) == expected


def test_a_whole_start_leaves_nothing_open(backbone: Backbone) -> None:
    method = PrefixTuning(init="random", reparam="linear", default_lr=0.01)

    assert not method.has_open_settings
    assert method.choose_settings(backbone) == {}


def test_attaching_chooses_what_is_open(backbone: Backbone) -> None:
    method = PrefixTuning(prefix_length=4, **OPEN)
    method.provide_start_inputs(toy_start_inputs())

    method.attach(backbone)

    assert (method.reparam, method.default_lr) == ("none", 0.03)
    assert method.notes[0].startswith("starts from 32 tokens of the first training pairs")
