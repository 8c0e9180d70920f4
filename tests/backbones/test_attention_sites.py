"""Geometry is read from a config, and is that of the modules which the model has."""

import pytest
import torch
from support.tiny_backbones import TINY_CONFIGS, tiny_config
from transformers import BertConfig, LlamaConfig

from ptl_prefix.backbones.attention_sites import SiteGeometry, SiteLayout, attention_modules, family_of, geometry_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BackboneError


def test_the_geometry_is_that_of_the_keys_which_the_model_computes(backbone: Backbone) -> None:
    cache = backbone.model(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values

    geometry = backbone.geometry["decoder_self"]

    assert len(cache.layers) == geometry.num_layers
    assert {layer.keys.shape for layer in cache.layers} == {(1, geometry.num_kv_heads, 3, geometry.head_dim)}


def test_every_site_has_as_many_modules_as_its_geometry_says(any_backbone: Backbone) -> None:
    modules = attention_modules(any_backbone.model, any_backbone.config)

    assert {site: len(found) for site, found in modules.items()} == {
        site: geometry.num_layers for site, geometry in any_backbone.geometry.items()
    }
    assert all(hasattr(module, "layer_idx") for found in modules.values() for module in found)
    assert [module.layer_idx for module in modules["decoder_self"]] == [0, 1, 2]


def test_the_width_of_a_head_is_what_the_model_states() -> None:
    config = tiny_config("llama")

    (geometry,) = geometry_of(config).values()

    assert (geometry.num_kv_heads, geometry.head_dim, geometry.kv_width) == (2, 12, 24)
    assert geometry.head_dim != config.hidden_size // config.num_attention_heads


def test_heads_of_keys_are_as_many_as_of_queries_where_nothing_else_is_said() -> None:
    assert geometry_of(tiny_config("gpt2")) == {"decoder_self": SiteGeometry(num_layers=3, num_kv_heads=4, head_dim=8)}


def test_encoder_and_decoder_have_their_own_depth_and_heads() -> None:
    bart, t5 = geometry_of(tiny_config("bart")), geometry_of(tiny_config("t5"))

    assert bart == {
        "encoder_self": SiteGeometry(num_layers=2, num_kv_heads=4, head_dim=8),
        "decoder_self": SiteGeometry(num_layers=3, num_kv_heads=2, head_dim=16),
        "decoder_cross": SiteGeometry(num_layers=3, num_kv_heads=2, head_dim=16),
    }
    # d_kv * heads is 48, the model's width 32.
    assert {(site.num_layers, site.num_kv_heads, site.head_dim) for site in t5.values()} == {(2, 4, 12), (3, 4, 12)}


@pytest.mark.parametrize(("family", "hard"), [("gpt2", True), ("opt", True), ("bart", True), ("llama", False)])
def test_only_learned_positions_end(family: str, hard: bool) -> None:
    assert family_of(tiny_config(family)).has_learned_positions == hard


def test_a_family_without_an_entry_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(BackboneError, match=r"'bert' is not one; those are: bart, gemma, .*, qwen3, t5\."):
        family_of(BertConfig())


def test_the_families_here_are_the_families_tested() -> None:
    assert {tiny_config(family).model_type for family in TINY_CONFIGS} == set(TINY_CONFIGS)
    assert family_of(LlamaConfig()).sites == {"decoder_self": SiteLayout("model.layers.*.self_attn")}
