"""Every family, every site: a prefix is where it should be, compared with attention written out by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.tiny_backbones import PAD, TINY_CONFIGS, tiny_config
from support.toy_batches import EQUAL, padded, random_ids, text_logits, texts, unpadded
from support.toy_prefixes import logits_through_a_cache, logits_with, random_additions, random_states
from torch import Tensor
from torch.testing import assert_close
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.attention_additions import GatedStates, QueryMap
from ptl_prefix.backbones.attention_sites import FAMILIES, attention_modules
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import defaults_of

SITES = ("encoder_self", "decoder_self", "decoder_cross")
SLIDING = ("gemma2", "gemma3_text", "mistral", "qwen2")
WINDOW = 4


def _written_out(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **given: Any) -> Any:
    """softmax(Q [P_K; K]^T * scale + bias + mask) [P_V; V], one batch row and one head at a time."""
    layer: LayerStates | None = module.reference_prefix
    batch, heads, queries, _ = query.shape
    groups = heads // key.shape[1]
    outputs = torch.empty(batch, heads, queries, value.shape[-1])
    for row in range(batch):
        for head in range(heads):
            keys, values = key[row, head // groups], value[row, head // groups]
            # (queries, keys); a bias may be one for all rows
            bias = torch.zeros(queries, len(keys)) + mask[min(row, len(mask) - 1), 0]
            if given.get("position_bias") is not None:
                bias = bias + given["position_bias"][0, head]
            if layer is not None:
                keys = torch.cat([layer.key[0, head // groups], keys])
                values = torch.cat([layer.value[0, head // groups], values])
                bias = torch.cat([torch.zeros(queries, layer.length), bias], dim=1)
            scores = query[row, head] @ keys.T * given["scaling"]
            if given.get("softcap") is not None:
                scores = given["softcap"] * torch.tanh(scores / given["softcap"])
            outputs[row, head] = (scores + bias).softmax(dim=-1) @ values
            outputs[row, head] += _added(module.reference_addition, query[row, head], head, groups, given)
    return outputs.transpose(1, 2), None


def _added(addition: Any, query: Tensor, head: int, groups: int, given: Any) -> Tensor | float:
    """gate * softmax(Q P_K^T * scale) P_V, or elu(Q) M, of one head."""
    if isinstance(addition, GatedStates):
        scores = query @ addition.key[head // groups].T * given["scaling"]
        if given.get("softcap") is not None:
            scores = given["softcap"] * torch.tanh(scores / given["softcap"])
        return addition.gate[head] * (scores.softmax(dim=-1) @ addition.value[head // groups])
    if isinstance(addition, QueryMap):
        return torch.where(query > 0, query, query.exp() - 1) @ addition.matrix[head // groups]
    return 0.0


AttentionInterface.register("written_out", _written_out)
AttentionMaskInterface.register(
    "written_out", lambda *args, **kwargs: eager_mask(*args, **{**kwargs, "allow_is_bidirectional_skip": False})
)


@contextmanager
def _reference(backbone: Backbone, states: PrefixStates) -> Iterator[None]:
    usual = backbone.config._attn_implementation
    for site, modules in attention_modules(backbone.model, backbone.config).items():
        additions = states.additions.get(site, (None,) * len(modules))
        for module, layer, addition in zip(modules, states.sites[site], additions, strict=True):
            module.reference_prefix = layer  # type: ignore[assignment]
            module.reference_addition = addition  # type: ignore[assignment]
    backbone.model.set_attn_implementation("written_out")
    try:
        yield
    finally:
        backbone.model.set_attn_implementation(usual)


def _cases() -> list[Any]:
    """Every family with each of its sites alone, and all of them together."""
    cases = []
    for family, entry in sorted(FAMILIES.items()):
        choices = [(site,) for site in entry.sites]
        cases += [(family, choice) for choice in (choices if len(choices) == 1 else [*choices, tuple(entry.sites)])]
    return [pytest.param(family, sites, id=f"{family}-{'+'.join(sites)}") for family, sites in cases]


@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize(("any_backbone", "sites"), _cases(), indirect=["any_backbone"])
def test_a_prefix_at_a_site_is_attention_written_out(
    any_backbone: Backbone, sites: tuple[str, ...], is_padded: bool
) -> None:
    states = random_states(any_backbone, 5, sites=sites, shifted=not any_backbone.is_encoder_decoder)
    inputs = padded(texts(), "right", any_backbone) if is_padded else unpadded(backbone=any_backbone)

    logits = logits_with(any_backbone, states, inputs)

    with _reference(any_backbone, states):
        expected = text_logits(any_backbone, inputs.with_positions(states.position_offset))
    assert_close(logits, expected, **EQUAL)
    bare = text_logits(any_backbone, inputs.with_positions(states.position_offset))
    assert all((row - bare_row).abs().max() > 1e-2 for row, bare_row in zip(logits, bare, strict=True))


@pytest.mark.parametrize("kind", ["gated", "map"])
@pytest.mark.parametrize(
    "any_backbone",
    ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(FAMILIES) if name != "gemma2")],
    indirect=True,
)
def test_an_addition_is_attention_written_out(any_backbone: Backbone, kind: str) -> None:
    states = random_additions(any_backbone, kind)
    inputs = padded(texts(), "right", any_backbone).with_positions()

    logits = logits_with(any_backbone, states, inputs)

    with _reference(any_backbone, states):
        expected = text_logits(any_backbone, inputs)
    assert_close(logits, expected, **EQUAL)
    bare = text_logits(any_backbone, inputs)
    assert all((row - bare_row).abs().max() > 1e-2 for row, bare_row in zip(logits, bare, strict=True))


@pytest.mark.parametrize("any_backbone", ["gemma", "gpt_neox", "opt", "qwen3"], indirect=True)
def test_where_a_cache_can_carry_a_prefix_it_computes_the_same(any_backbone: Backbone) -> None:
    states = random_states(any_backbone, 5)

    logits = logits_with(any_backbone, states, padded(texts(), "left"))

    assert_close(logits, logits_through_a_cache(any_backbone, states, padded(texts(), "left")), **EQUAL)


@pytest.mark.parametrize("any_backbone", SLIDING, indirect=True)
def test_a_prefix_stays_visible_past_the_window(any_backbone: Backbone) -> None:
    assert any_backbone.config.sliding_window == WINDOW
    # Only in a layer with a window: what the last token sees of the prefix does not come by way of another layer, nor
    # from a token near the text's start, which lies more windows away than the layers above can reach back.
    kinds = getattr(any_backbone.config, "layer_types", None) or ["sliding_attention"] * 3
    sliding = max(index for index, kind in enumerate(kinds) if kind == "sliding_attention")
    inputs = unpadded(2, length=6 * WINDOW)
    states = random_states(any_backbone, 3, layers=[sliding])

    logits = logits_with(any_backbone, states, inputs)

    bare = text_logits(any_backbone, inputs.with_positions(states.position_offset))
    assert all((row[-1] - bare_row[-1]).abs().max() > 1e-2 for row, bare_row in zip(logits, bare, strict=True))
    with _reference(any_backbone, states):
        assert_close(logits, text_logits(any_backbone, inputs.with_positions(states.position_offset)), **EQUAL)


@pytest.mark.parametrize("any_backbone", SLIDING, indirect=True)
def test_tokens_do_fall_out_of_the_window(any_backbone: Backbone) -> None:
    # Else the test above would prove nothing: with windows in all layers, a text's start is out of its end's reach.
    for module in any_backbone.model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = WINDOW
    any_backbone.config.layer_types = ["sliding_attention"] * 3
    for layer in any_backbone.model.get_submodule("model.layers"):  # type: ignore[attr-defined]
        layer.attention_type = "sliding_attention"
        layer.self_attn.layer_type = "sliding_attention"
    inputs = unpadded(1, length=6 * WINDOW)
    changed = inputs.input_ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 200 + PAD + 1

    first = logits_with(any_backbone, random_states(any_backbone, 3), inputs)
    second = logits_with(any_backbone, random_states(any_backbone, 3), inputs.replace(input_ids=changed))

    assert_close(first[0][-1], second[0][-1], **EQUAL)
    assert (first[0][0] - second[0][0]).abs().max() > 1e-2


@pytest.mark.parametrize("any_backbone", ["gemma2"], indirect=True)
def test_capped_scores_are_those_of_the_library(any_backbone: Backbone) -> None:
    assert any_backbone.config._attn_implementation == "eager"
    inputs = unpadded()
    bare = text_logits(any_backbone, inputs)

    hidden = logits_with(any_backbone, random_states(any_backbone, 4, shifted=False).invisible(), inputs)

    assert_close(hidden, bare, **EQUAL)
    any_backbone.config.attn_logit_softcapping = 1e4
    for module in any_backbone.model.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = 1e4
    uncapped = text_logits(any_backbone, inputs)
    assert max(float((a - b).abs().max()) for a, b in zip(uncapped, bare, strict=True)) > 1e-2


def _start(backbone: Backbone) -> list[int] | None:
    return backbone.prompter(PromptFormat()).decoder_start_ids


def _decoding(**changes: Any) -> Decoding:
    return Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 6, **changes})


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("site", SITES)
def test_each_row_of_a_batch_decodes_with_its_own_prefix_at_each_site(
    encoder_decoder: Backbone, site: str, num_beams: int
) -> None:
    prefixes = [random_states(encoder_decoder, length, seed=length, sites=[site], shifted=False) for length in (3, 7)]
    prompts = [random_ids(5, seed=1), random_ids(3, seed=2)]

    together = _scores(encoder_decoder, PrefixStates.stack(prefixes), prompts, num_beams)

    alone = [
        _scores(encoder_decoder, states, [prompt], num_beams) for states, prompt in zip(prefixes, prompts, strict=True)
    ]
    bare = _scores(encoder_decoder, random_states(encoder_decoder, 1, sites=[], shifted=False), prompts, num_beams)
    assert_close(together, torch.cat(alone), **EQUAL)
    assert (together - bare).abs().amax(dim=(1, 2)).min() > 1e-2


@torch.no_grad()
def _scores(backbone: Backbone, states: PrefixStates, prompts: list[list[int]], num_beams: int) -> Tensor:
    """For each prompt the log-probabilities of what greedy or beam search wrote, a forward over it telling them."""
    inputs = prompt_batch(prompts, Padding(PAD, _start(backbone)))
    backbone.slots.acquire()
    try:
        backbone.slots.fill(states)
        written = generate(backbone, inputs, _decoding(num_beams=num_beams), stop_ids=[])
        assert inputs.decoder_input_ids is not None
        decoder_ids = torch.cat([inputs.decoder_input_ids, torch.tensor(written)], dim=1)
        whole = inputs.replace(decoder_input_ids=decoder_ids, decoder_attention_mask=torch.ones_like(decoder_ids))
        return backbone.logits(whole).log_softmax(dim=-1)
    finally:
        backbone.slots.release()


def test_settings_that_come_with_a_model_do_not_decide_how_text_is_written(any_backbone: Backbone) -> None:
    inputs = prompt_batch([random_ids(5, seed=1)], Padding(PAD, _start(any_backbone)))
    written = generate(any_backbone, inputs, _decoding(), stop_ids=[])
    own = any_backbone.model.generation_config
    own.update(forced_eos_token_id=7, min_length=30, no_repeat_ngram_size=1, repetition_penalty=9.0, num_beams=4)

    assert generate(any_backbone, inputs, _decoding(), stop_ids=[]) == written

    assert any_backbone.model.generation_config is own


def test_an_encoder_decoder_without_a_start_is_refused_by_that_reason(encoder_decoder: Backbone) -> None:
    encoder_decoder.config.decoder_start_token_id = None
    encoder_decoder.model.generation_config.decoder_start_token_id = None

    with pytest.raises(BackboneError, match="must have a `decoder_start_token_id`"):
        _ = encoder_decoder.decoder_start_id


def test_the_tiny_backbones_have_what_makes_families_hard() -> None:
    assert tiny_config("t5").d_kv * tiny_config("t5").num_heads != tiny_config("t5").d_model
    assert all(tiny_config(family).sliding_window == WINDOW for family in SLIDING)
    assert tiny_config("gemma2").attn_logit_softcapping == 2.0
    assert tiny_config("bart").encoder_layers != tiny_config("bart").decoder_layers
    assert set(TINY_CONFIGS) == set(FAMILIES)


def test_a_prompt_of_an_encoder_decoder_must_fit_its_learned_positions(tiny_folders: Any) -> None:
    bart = load_backbone(str(tiny_folders["bart"]), dtype="float32")
    start = _start(bart)

    def write(num_read: int, num_written: int) -> list[list[int]]:
        inputs: ModelInputs = prompt_batch([random_ids(num_read, seed=0)], Padding(PAD, start))
        return generate(bart, inputs, _decoding(max_new_tokens=num_written), stop_ids=[])

    assert len(write(64, 63)[0]) == 63
    with pytest.raises(ValueError, match=r"prompt must fit the 64 positions .* but need 65"):
        write(65, 5)
    with pytest.raises(ValueError, match=r"`generation.max_new_tokens` must fit the 64 positions .* but need 65"):
        write(5, 64)
