"""Settings given from Python are written as a command line has them."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.python_settings import as_overrides
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import defaults_of


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -2.5, 1e-9, "lora", "null", "True", "1", "", "a b=c, {d}", "it's", "models/mine", [1, "x y", None]],
)
def test_hydra_reads_the_value_that_was_given(value: Any) -> None:
    (override,) = as_overrides({"some.key": value})

    read = OverridesParser.create().parse_override(override)

    assert (read.key_or_group, read.value()) == ("some.key", value)
    assert type(read.value()) is type(value)


def test_a_mapping_sets_the_keys_of_its_group_and_a_path_is_a_text() -> None:
    assert as_overrides({"trainer": {"max_steps": 3, "plugins": {"a": 1}}, "resume": Path("x/y")}) == (
        "trainer.max_steps=3",
        "trainer.plugins.a=1",
        "resume=x/y",
    )


def test_an_object_chooses_its_config_and_sets_what_its_constructor_was_given() -> None:
    objects = {
        "method": PrefixTuning(prefix_length=3, reparam="none"),
        "backbone": BackboneSpec(path="models/mine", name="mine"),
        "data": DataSettings(batch_size=4),
    }

    assert as_overrides(objects) == (
        *("method=prefix_tuning", "method.prefix_length=3", "method.reparam=none"),
        *("backbone=tiny_gpt2", "backbone.path=models/mine", "backbone.name=mine"),
        *("data=batches", "data.batch_size=4"),
    )
    greedy = Decoding(**defaults_of("generation/greedy"))
    assert "generation.max_new_tokens=64" in as_overrides({"generation": greedy})


class Longer(PrefixTuning):
    """A class that no config names."""


def test_what_a_config_would_not_build_again_is_refused_at_once(backbone: Backbone) -> None:
    attached = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)
    detached = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)
    detached.detach()

    with pytest.raises(ConfigError) as refusal:
        as_overrides({"method": Longer(), "task": attached, "seed": object(), "backbone": backbone})
    assert len(refusal.value.mistakes) == 4
    assert "Longer is not one of ptl_prefix's" in refusal.value.mistakes[0]
    assert "is a PrefixTuning of `method`" in refusal.value.mistakes[1]
    for trained in (attached, detached):
        with pytest.raises(ConfigError, match="`method` must be a method that was never attached"):
            as_overrides({"method": trained})
