"""Where sublayers end: what comes out there is what is added to the residual stream."""

import itertools
from typing import Any

import pytest
import torch
from support.toy_batches import EQUAL, padded, text_logits, texts
from torch import Tensor, nn
from torch.testing import assert_close

from ptl_prefix.backbones.attention_sites import FAMILIES, geometry_of, layers_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.sublayers import FEED_FORWARD, SUBLAYERS, sublayer_ends


def test_every_family_has_its_sublayers() -> None:
    assert sorted(SUBLAYERS) == sorted(FAMILIES)
    for name, family in FAMILIES.items():
        attention = {kind for kind in SUBLAYERS[name] if not kind.endswith(FEED_FORWARD)}
        stacks = {site.split("_")[0] for site in family.sites}
        assert attention == set(family.sites)
        assert set(SUBLAYERS[name]) - attention == {f"{stack}_{FEED_FORWARD}" for stack in stacks}


def test_every_layer_has_its_own_ends(any_backbone: Backbone) -> None:
    ends = sublayer_ends(any_backbone.model, any_backbone.config)
    modules = [module for kind in ends.values() for module in kind]
    geometry = geometry_of(any_backbone.config)

    assert len({id(module) for module in modules}) == len(modules)
    for kind, found in ends.items():
        site = kind if kind in geometry else kind.replace(FEED_FORWARD, "self")
        assert len(found) == geometry[site].num_layers


@torch.no_grad()
def test_a_layer_adds_what_its_sublayers_end_with_and_nothing_else(any_backbone: Backbone) -> None:
    torch.manual_seed(0)
    given, calls = torch.randn(any_backbone.hidden_size), []

    def end(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        calls.append(module)
        return given.expand_as(output)

    def check(layer: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        expected = arguments[0] if arguments else named["hidden_states"]
        # BART's norms come after each addition.
        norms = [child for name, child in layer.named_children() if name.endswith("layer_norm")]
        for index in range(len(calls)):
            expected = expected + given
            expected = norms[index](expected) if any_backbone.family == "bart" else expected
        assert_close(output if isinstance(output, Tensor) else output[0], expected, **EQUAL)
        numbers.append(len(calls))
        calls.clear()

    numbers: list[int] = []
    for module in itertools.chain(*sublayer_ends(any_backbone.model, any_backbone.config).values()):
        module.register_forward_hook(end)
    for layer in layers_of(any_backbone.model, any_backbone.config):
        layer.register_forward_hook(check, with_kwargs=True)

    text_logits(any_backbone, padded(texts(), "right", any_backbone))

    assert numbers == ([2, 2, 3, 3, 3] if any_backbone.is_encoder_decoder else [2, 2, 2])


@pytest.mark.parametrize("kind", [FEED_FORWARD, "self", "cross"])
def test_what_ends_there_reaches_the_logits(encoder_decoder: Backbone, kind: str) -> None:
    inputs = padded(texts(), "right", encoder_decoder)
    bare = text_logits(encoder_decoder, inputs)
    ends = sublayer_ends(encoder_decoder.model, encoder_decoder.config)
    for name, modules in ends.items():
        if name.endswith(kind):
            modules[0].register_forward_hook(lambda module, arguments, output: 2 * output)

    changed = text_logits(encoder_decoder, inputs)

    assert all((row - bare_row).abs().max() > 1e-3 for row, bare_row in zip(changed, bare, strict=True))
