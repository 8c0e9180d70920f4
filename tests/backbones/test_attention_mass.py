"""The attention on a prefix equals the weights that the library's own eager attention gives it, query by query."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.tiny_backbones import set_weights
from support.toy_batches import EQUAL, Side, padded, text_logits, texts, unpadded
from support.toy_prefixes import logits_with, random_states
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSeq2SeqLM, DynamicCache

from ptl_prefix.backbones import attention_mass, observation
from ptl_prefix.backbones.attention_mass import LayerMass, prefix_mass
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_slots import PrefixSlots
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates


@contextmanager
def filled(backbone: Backbone, states: PrefixStates) -> Iterator[None]:
    backbone.slots.acquire()
    try:
        backbone.slots.fill(states)
        yield
    finally:
        backbone.slots.release()


def mass_with(backbone: Backbone, states: PrefixStates, inputs: ModelInputs) -> dict[str, tuple[LayerMass | None, ...]]:
    with filled(backbone, states):
        return prefix_mass(backbone, inputs.with_positions(states.position_offset))


def weights_with(backbone: Backbone, states: PrefixStates, inputs: ModelInputs) -> list[Tensor]:
    """Of every layer, (heads, prefix)."""
    return [layer.weights for layer in mass_with(backbone, states, inputs)["decoder_self"] if layer is not None]


@torch.no_grad()
def eager_weights(backbone: Backbone, states: PrefixStates, inputs: ModelInputs) -> list[Tensor]:
    """The same from the library, which gets the prefix as a cache and returns all of its attention weights."""
    cache = DynamicCache(
        [
            (layer.for_rows(inputs.num_rows).key.clone(), layer.for_rows(inputs.num_rows).value.clone())
            for layer in states.sites["decoder_self"]
            if layer is not None
        ]
    )
    length = cache.get_seq_length()
    backbone.model.set_attn_implementation("eager")
    attentions = backbone.model(
        input_ids=inputs.input_ids,
        attention_mask=torch.cat([torch.ones(inputs.num_rows, length).long(), inputs.attention_mask], dim=1),
        position_ids=inputs.with_positions(states.position_offset).position_ids,
        past_key_values=cache,
        output_attentions=True,
    ).attentions
    backbone.model.set_attn_implementation("sdpa")
    # (batch, heads, queries, prefix + keys)
    return [torch.einsum("bhqp,bq->hp", layer[..., :length], inputs.attention_mask.float()) for layer in attentions]


# Heads are 8 and 12 wide: the longest prefix takes three and two rounds.
@pytest.mark.parametrize("length", [1, 3, 8, 19])
@pytest.mark.parametrize("side", ["left", "right"])
def test_it_is_what_eager_attention_gives_a_prefix_in_a_cache(backbone: Backbone, side: Side, length: int) -> None:
    states, inputs = random_states(backbone, length), padded(texts(), side)

    found, expected = weights_with(backbone, states, inputs), eager_weights(backbone, states, inputs)

    assert len(found) == len(expected) == 3
    for layer, reference in zip(found, expected, strict=True):
        assert_close(layer, reference, **EQUAL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_texts_own_keys_and_values_are_measured_beside_the_prefix(backbone: Backbone, side: Side) -> None:
    states, inputs = random_states(backbone, 4), padded(texts(), side)

    layers = mass_with(backbone, states, inputs)["decoder_self"]

    cache = DynamicCache(
        [(rows.key.clone(), rows.value.clone()) for rows in (_rows(layer, 3) for layer in states.sites["decoder_self"])]
    )
    backbone.model(
        input_ids=inputs.input_ids,
        attention_mask=torch.cat([torch.ones(3, 4).long(), inputs.attention_mask], dim=1),
        position_ids=inputs.with_positions(states.position_offset).position_ids,
        past_key_values=cache,
    )
    is_text = inputs.attention_mask.bool()
    for layer, read in zip(layers, cache.layers, strict=True):
        assert layer is not None
        assert layer.num_keys == sum(map(len, texts()))
        for square, kept in zip(layer.text_squares, (read.keys, read.values), strict=True):
            own = kept[:, :, 4:].transpose(1, 2)[is_text]  # (positions, kv_heads, head_dim)
            assert_close(square, own.square().mean(dim=(1, 2)).sum(), rtol=1e-4, atol=1e-4)


def _rows(layer: LayerStates | None, rows: int) -> LayerStates:
    assert layer is not None
    return layer.for_rows(rows)


def test_two_batches_add_up(backbone: Backbone) -> None:
    states = random_states(backbone, 4)
    both = mass_with(backbone, states, unpadded(2))["decoder_self"]
    first, second = (
        mass_with(backbone, states, ModelInputs(row[None], torch.ones_like(row[None])))["decoder_self"]
        for row in unpadded(2).input_ids
    )

    for together, one, other in zip(both, first, second, strict=True):
        assert together is not None
        assert one is not None
        assert other is not None
        total = one + other
        assert_close(total.weights, together.weights, **EQUAL)
        assert_close(total.text_squares, together.text_squares, **EQUAL)
        assert total.even == pytest.approx(together.even)
        assert (total.num_queries, total.num_keys) == (together.num_queries, together.num_keys) == (12, 12)


def test_a_head_with_zero_queries_attends_to_every_position_equally(backbone: Backbone) -> None:
    prefix, rows, length = 4, 2, 6
    _silence_queries(backbone.model)

    for layer in mass_with(backbone, random_states(backbone, prefix), unpadded(rows, length))["decoder_self"]:
        assert layer is not None
        # The query at place i sees the prefix and i + 1 words.
        expected = rows * sum(1 / (prefix + seen) for seen in range(1, length + 1))
        assert_close(layer.weights, torch.full((4, prefix), expected), **EQUAL)
        assert layer.even == pytest.approx(prefix * expected, rel=1e-5)
        assert layer.num_queries == rows * length


def _silence_queries(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            if "c_attn" in name:
                parameter[..., : parameter.shape[-1] // 3] = 0
            elif "q_proj" in name:
                parameter.zero_()


def test_even_attention_does_not_depend_on_the_queries(backbone: Backbone) -> None:
    layers = mass_with(backbone, random_states(backbone, 4), padded(texts(), "left"))["decoder_self"]

    expected = sum(4 / (4 + seen) for row in texts() for seen in range(1, len(row) + 1))
    assert [layer.even for layer in layers if layer] == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_the_sum_of_its_rows_each_alone(backbone: Backbone, side: Side) -> None:
    states = random_states(backbone, 5)

    together = weights_with(backbone, states, padded(texts(), side))

    alone = [weights_with(backbone, states, padded([row], side)) for row in texts()]
    for layer, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert_close(layer, torch.stack(parts).sum(dim=0), **EQUAL)


def test_a_layer_without_a_prefix_has_no_mass(backbone: Backbone) -> None:
    layers = mass_with(backbone, random_states(backbone, 4, layers=[1]), unpadded())["decoder_self"]

    assert [layer is None for layer in layers] == [True, False, True]


def test_an_invisible_prefix_gets_no_attention(backbone: Backbone) -> None:
    for layer in mass_with(backbone, random_states(backbone, 4).invisible(), unpadded())["decoder_self"]:
        assert layer is not None
        assert_close(layer.weights, torch.zeros(4, 4), rtol=0, atol=0)
        assert (layer.even, layer.num_queries) == (0.0, 0)


def test_a_row_that_sees_no_prefix_does_not_count(backbone: Backbone) -> None:
    seen, unseen = random_states(backbone, 4), random_states(backbone, 4, seed=1).invisible()

    mixed = weights_with(backbone, PrefixStates.stack([seen, unseen]), unpadded(2))

    row = unpadded(2).input_ids[:1]
    alone = weights_with(backbone, seen, ModelInputs(row, torch.ones_like(row)))
    for layer, reference in zip(mixed, alone, strict=True):
        assert_close(layer, reference, **EQUAL)


def test_in_bfloat16_small_weights_are_not_lost(backbone: Backbone) -> None:
    states = random_states(backbone, 6)
    exact = weights_with(backbone, states, padded(texts(), "left"))

    backbone.model.to(torch.bfloat16)
    rough = weights_with(backbone, states.to(device=backbone.device, dtype=torch.bfloat16), padded(texts(), "left"))

    assert {weights.dtype for weights in rough} == {torch.float32}
    for layer, reference in zip(rough, exact, strict=True):
        assert_close(layer, reference, rtol=0.2, atol=0.1)


def test_measuring_leaves_the_backbone_unchanged(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    states, inputs = random_states(backbone, 4), padded(texts(), "left")
    usual, bare, adapted = backbone.config._attn_implementation, text_logits(backbone, inputs), None
    adapted = logits_with(backbone, states, inputs)
    meanwhile: list[Tensor] = []
    monkeypatch.setattr(
        Backbone, "target_logits", lambda self, given, _: meanwhile.append(self.logits(given)) or meanwhile[-1]
    )

    mass_with(backbone, states, inputs)

    (during,) = meanwhile
    for row, mask, expected in zip(during, inputs.attention_mask, adapted, strict=True):
        assert_close(row[mask.bool()], expected, **EQUAL)
    assert backbone.config._attn_implementation == usual
    assert not any({"observed_mass", "text_queries", "prefix_slot"} & set(vars(m)) for m in backbone.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, inputs), bare, strict=True))


def test_the_prefix_stays_in_its_slots_after_an_error_too(backbone: Backbone) -> None:
    def break_down(*_: Any) -> None:
        raise ArithmeticError("broken on purpose")

    states, inputs = random_states(backbone, 4), unpadded()
    with filled(backbone, states):
        expected = text_logits(backbone, inputs)
        hook = backbone.model.get_output_embeddings().register_forward_hook(break_down)
        with pytest.raises(ArithmeticError):
            prefix_mass(backbone, inputs)
        hook.remove()

        for found, reference in zip(text_logits(backbone, inputs), expected, strict=True):
            assert_close(found, reference, rtol=0, atol=0)


_SHAPES = {
    "bart": (
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64},
        {
            "encoder_self": "model.encoder.layers.{}.self_attn",
            "decoder_self": "model.decoder.layers.{}.self_attn",
            "decoder_cross": "model.decoder.layers.{}.encoder_attn",
        },
        {"encoder_self": (2, 2, 16), "decoder_self": (3, 4, 8), "decoder_cross": (3, 4, 8)},
    ),
    "t5": (
        {"d_model": 32, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4},
        {
            "encoder_self": "encoder.block.{}.layer.0.SelfAttention",
            "decoder_self": "decoder.block.{}.layer.0.SelfAttention",
            "decoder_cross": "decoder.block.{}.layer.1.EncDecAttention",
        },
        {"encoder_self": (2, 4, 12), "decoder_self": (3, 4, 12), "decoder_cross": (3, 4, 12)},
    ),
}


class _Reader(Backbone):
    """An encoder-decoder that reads the same batch whatever it is given."""

    def __init__(self, model: Any, batch: dict[str, Tensor]) -> None:
        self.model, self._batch, self._checkpointing = model, batch, None

    def target_logits(self, *_: Any) -> Any:
        return self.model(**self._batch, use_cache=False).logits


@pytest.mark.parametrize("family", sorted(_SHAPES))
def test_encoder_and_cross_attention_are_measured_alike(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Softmax written out over the queries and keys that each attention module was called with."""
    settings, paths, shapes = _SHAPES[family]
    ids = {"vocab_size": 60, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 0}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **ids, **settings)).eval()
    set_weights(model, 0)
    modules = {
        site: tuple(model.get_submodule(path.format(layer)) for layer in range(shapes[site][0]))
        for site, path in paths.items()
    }
    sources, targets = torch.randint(3, 60, (2, 9)), torch.randint(3, 60, (2, 5))
    source_mask, target_mask = torch.ones_like(sources), torch.ones_like(targets)
    source_mask[1, 6:], target_mask[0, 4:] = 0, 0
    batch = {"input_ids": sources, "attention_mask": source_mask}
    batch |= {"decoder_input_ids": targets, "decoder_attention_mask": target_mask}
    monkeypatch.setattr(observation, "attention_modules", lambda *_: modules)
    calls = _recorded_calls(monkeypatch)
    slots = PrefixSlots(model, modules)
    slots.acquire()
    slots.fill(_drawn(shapes, length=14))
    found = prefix_mass(_Reader(model, batch), unpadded())

    for site, layers in found.items():
        counted = source_mask if site == "encoder_self" else target_mask
        for module, layer in zip(modules[site], layers, strict=True):
            assert layer.num_queries == counted.sum()
            weights = _softmax_written_out(module, *calls[module])[..., :14]
            assert_close(layer.weights, torch.einsum("bhqp,bq->hp", weights, counted.float()), **EQUAL)
            visible = calls[module][3].expand(2, -1, -1, -1).sum(dim=-1)[:, 0]  # the mask's keys: (batch, queries)
            assert layer.even == pytest.approx(float((14 / (14 + visible) * counted).sum()), rel=1e-5)
            assert layer.num_keys == (target_mask if site == "decoder_self" else source_mask).sum()


def _drawn(shapes: dict[str, tuple[int, int, int]], length: int) -> PrefixStates:
    mask = torch.ones(1, length, dtype=torch.bool)
    sites = {
        site: tuple(
            LayerStates(torch.randn(1, heads, length, width), torch.randn(1, heads, length, width), mask)
            for _ in range(layers)
        )
        for site, (layers, heads, width) in shapes.items()
    }
    return PrefixStates(sites, torch.tensor([0]))


def _recorded_calls(monkeypatch: pytest.MonkeyPatch) -> dict[nn.Module, Any]:
    """What the forward pass itself calls attention with: the last call of each module."""
    calls: dict[nn.Module, Any] = {}
    usual = attention_mass.prefix_attention

    def recorded(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any) -> Any:
        calls[module] = (module.prefix_slot, query, key, mask, kwargs)
        return usual(module, query, key, value, mask, **kwargs)

    monkeypatch.setattr(attention_mass, "prefix_attention", recorded)
    return calls


def _softmax_written_out(
    module: nn.Module, slot: LayerStates, query: Tensor, key: Tensor, mask: Tensor, kwargs: Any
) -> Tensor:
    bias = kwargs.get("position_bias")
    scaling = kwargs["scaling"]
    text = query @ key.transpose(-1, -2) * scaling + (0.0 if bias is None else bias)
    prefix = query @ slot.key.transpose(-1, -2) * scaling
    return torch.cat([prefix, text.masked_fill(~mask, float("-inf"))], dim=-1).softmax(dim=-1)
