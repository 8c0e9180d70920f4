"""Each family's table of names means the matrices that it says, in every layer."""

import pytest
import torch
from support.tiny_backbones import TINY_CONFIGS
from torch import nn

from ptl_prefix.backbones.attention_sites import FAMILIES, layers_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LINEAR_NAMES, linear_sites, replace_module, sites_named

FUSED = ("gpt2", "gpt_neox")


def test_every_family_has_its_names() -> None:
    assert sorted(LINEAR_NAMES) == sorted(FAMILIES) == sorted(TINY_CONFIGS)


@pytest.mark.parametrize("role", ["query", "key", "value"])
def test_names_of_attention_mean_one_matrix_in_every_attention_module(any_backbone: Backbone, role: str) -> None:
    sites = sites_named(any_backbone, [getattr(LINEAR_NAMES[any_backbone.family], role)])
    geometries = any_backbone.geometry.values()

    assert len(sites) == sum(geometry.num_layers for geometry in geometries)
    widths = {geometry.kv_width for geometry in geometries}
    if any_backbone.family in FUSED:
        assert {site.width_out for site in sites} == {3 * width for width in widths}
    elif role != "query":
        assert {site.width_out for site in sites} == widths


def test_every_layer_has_one_down_projection(any_backbone: Backbone) -> None:
    sites = sites_named(any_backbone, [LINEAR_NAMES[any_backbone.family].narrowing])

    assert len(sites) == len(layers_of(any_backbone.model, any_backbone.config))
    assert {(site.width_in > site.width_out, site.width_out) for site in sites} == {(True, any_backbone.hidden_size)}


def test_widths_are_the_input_and_output_features_of_a_module(any_backbone: Backbone) -> None:
    for site in linear_sites(any_backbone):
        weight = site.module.get_parameter("weight")

        assert weight.shape == (
            (site.width_in, site.width_out) if site.is_transposed else (site.width_out, site.width_in)
        )
        assert site.module(torch.zeros(2, site.width_in)).shape == (2, site.width_out)


def test_the_lm_head_is_not_a_linear_site(any_backbone: Backbone) -> None:
    head = any_backbone.model.get_output_embeddings()

    assert isinstance(head, nn.Linear)
    assert all(site.module is not head for site in linear_sites(any_backbone))


def test_a_name_matches_the_end_of_a_path_in_whole_components(backbone: Backbone) -> None:
    ends = {"gpt2": ("c_proj", "mlp.c_proj", "proj"), "llama": ("q_proj", "self_attn.q_proj", "proj")}
    short, long, part = ends[backbone.family]

    shorts, longs = sites_named(backbone, [short]), sites_named(backbone, [long])

    assert {site.path for site in longs} <= {site.path for site in shorts}
    assert len(longs) == 3
    assert sites_named(backbone, [part]) == []
    assert sites_named(backbone, [short, long]) == shorts


def test_a_replaced_module_keeps_its_place_in_the_order(backbone: Backbone) -> None:
    site = linear_sites(backbone)[0]
    names, other = [name for name, _ in backbone.model.named_modules()], nn.Identity()

    replace_module(backbone.model, site.path, other)

    assert backbone.model.get_submodule(site.path) is other
    assert [name for name, _ in backbone.model.named_modules()] == names
