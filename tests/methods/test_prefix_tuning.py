"""Prefix-tuning: where it starts, where it sits, what it refuses, and what it costs in bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_backbones import MAX_POSITIONS, tiny_tokenizer
from support.toy_batches import EQUAL, padded, random_ids, text_logits, texts, train, training_batch, unpadded
from torch.testing import assert_close
from transformers import GPT2Config

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.attention_sites import attention_modules
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import left_padded
from ptl_prefix.backbones.observation import observed_stds
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.settings import defaults_of

REPARAMS = ("none", "mlp", "linear")


def attached(backbone: Backbone, **settings: Any) -> PrefixTuning:
    """A prefix of four positions with a small MLP, but for what is changed."""
    torch.manual_seed(0)
    return PrefixTuning(**{"prefix_length": 4, "reparam_hidden_size": 16, **settings}).attach(backbone)


@pytest.mark.parametrize("reparam", REPARAMS)
def test_a_random_prefix_starts_as_large_as_the_backbone_s_own_keys_and_values(
    backbone: Backbone, reparam: str
) -> None:
    with torch.no_grad():
        for index, module in enumerate(attention_modules(backbone.model, backbone.config)["decoder_self"]):
            for parameter in module.parameters():
                parameter.mul_(1 + index)  # else one size for all layers would pass

    _, tensors = attached(backbone, prefix_length=60, reparam=reparam, reparam_hidden_size=64).export()

    own = observed_stds(backbone)["decoder_self"].flatten(1)
    for index, numbers in enumerate((tensors["decoder_self.keys"], tensors["decoder_self.values"])):
        assert_close(numbers.square().mean(dim=(1, 2, 3)).sqrt(), own[:, index], rtol=0.2, atol=0)


@pytest.mark.parametrize("reparam", REPARAMS)
def test_zero_values_are_zero_and_are_learned(backbone: Backbone, reparam: str) -> None:
    method = attached(backbone, reparam=reparam, init="zero_values")
    _, before = method.export()
    assert not before["decoder_self.values"].any()
    assert before["decoder_self.keys"].any()

    train(backbone, method, steps=3)

    _, after = method.export()
    assert after["decoder_self.values"].flatten(1).any(dim=1).all()


def test_zero_values_start_nearer_to_the_bare_backbone_than_random_ones(backbone: Backbone) -> None:
    inputs = unpadded()
    bare = torch.cat(text_logits(backbone, inputs.with_positions(4)))

    def distance(init: str) -> float:
        method = attached(backbone, reparam="none", init=init)
        logits = torch.cat(text_logits(backbone, method.condition(inputs)))
        method.detach()
        return float((logits - bare).square().mean())

    assert distance("zero_values") < distance("random")


def test_only_the_chosen_layers_receive_a_prefix(backbone: Backbone) -> None:
    method = attached(backbone, layers=[2, 0])

    states = method.states().sites["decoder_self"]

    assert [layer is None for layer in states] == [False, True, False]
    _, tensors = method.export()
    assert tensors["decoder_self.keys"].shape[0] == 2


def test_the_order_in_which_layers_are_named_does_not_matter(backbone: Backbone) -> None:
    inputs = unpadded()
    first = attached(backbone, layers=[0, 2])
    logits = text_logits(backbone, first.condition(inputs))
    first.detach()

    assert_close(text_logits(backbone, attached(backbone, layers=[2, 0]).condition(inputs)), logits, **EQUAL)


@pytest.mark.parametrize(("law", "start"), [("shifted", 4), ("unshifted", 0), (None, 4)])
def test_text_starts_where_the_position_law_has_it(backbone: Backbone, law: str | None, start: int) -> None:
    method = attached(backbone, position_law=law)

    positions = method.condition(padded(texts(), "left")).position_ids

    assert positions is not None
    assert positions[0].tolist() == list(range(start, start + 9))
    assert method.position_offset == start
    assert method.position_law == ("shifted" if start else "unshifted")


def test_a_prefix_takes_positions_from_the_text_only_where_it_shifts_it(backbone: Backbone) -> None:
    longest = left_padded([random_ids(MAX_POSITIONS - 4, seed=0)], backbone.pad_id)
    too_long = left_padded([random_ids(MAX_POSITIONS - 3, seed=0)], backbone.pad_id)
    shifted = attached(backbone, position_law="shifted")
    backbone.logits(shifted.condition(longest))
    if backbone.has_hard_position_limit:
        with pytest.raises(IndexError):
            backbone.logits(shifted.condition(too_long))
    shifted.detach()

    unshifted = attached(backbone, position_law="unshifted")

    assert backbone.logits(unshifted.condition(too_long)).isfinite().all()
    assert unshifted.reserved_positions(backbone) == 0


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"sites": ["decoder_cross"]}, r"`method\.sites` .* but 'decoder_cross' is not one of .* \('decoder_self'\)"),
    ({"layers": [1, 3]}, r"`method\.layers` must be from 0 to 2 in .*, but 3 is not"),
    ({"layers": [-1]}, r"`method\.layers` must be from 0 to 2 in .*, but -1 is not"),
    ({"layers": []}, r"`method\.layers` must name at least one layer"),
    ({"layers": [1, 1]}, r"`method\.layers` must name .* each once, but is \[1, 1\]"),
    ({"prefix_length": MAX_POSITIONS}, r"`method\.prefix_length` must be less than the 64 positions"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISFITS, ids=[str(settings) for settings, _ in MISFITS])
def test_problems_are_found_before_anything_is_built(
    backbone: Backbone, settings: dict[str, Any], sentence: str
) -> None:
    method = PrefixTuning(**settings)
    assert len(method.incompatibilities(backbone)) == 1

    with pytest.raises(ValueError, match=sentence):
        method.attach(backbone)

    assert not method.is_attached
    assert not any(hasattr(module, "prefix_slot") for module in backbone.model.modules())


def test_all_problems_are_reported_at_once(backbone: Backbone) -> None:
    method = PrefixTuning(sites=["nowhere"], layers=[7], prefix_length=1000)

    assert len(method.incompatibilities(backbone)) == 3


def test_a_prefix_that_takes_no_position_may_be_longer_than_the_text(backbone: Backbone) -> None:
    method = attached(backbone, prefix_length=2 * MAX_POSITIONS, position_law="unshifted")

    assert backbone.logits(method.condition(unpadded())).isfinite().all()


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"prefix_length": 0}, "`method.prefix_length` must be >= 1, but is 0."),
    ({"prefix_length": "5"}, "`method.prefix_length` must be int, but is '5'."),
    ({"reparam": "lstm"}, "`method.reparam` must be 'none', 'mlp', 'linear', 'embedding' or null, but is 'lstm'."),
    ({"prefix_dropout": 1.0}, "`method.prefix_dropout` must be < 1.0, but is 1.0."),
    ({"layers": "0"}, "`method.layers` must be a list of int or null, but is '0'."),
    ({"prefix_lenght": 5}, "`method.prefix_lenght` is not a setting of PrefixTuning; did you mean prefix_length?"),
]


@pytest.mark.parametrize(("settings", "sentence"), MISTAKES, ids=[str(settings) for settings, _ in MISTAKES])
def test_a_mistake_in_a_setting_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        PrefixTuning(**settings)

    assert str(caught.value) == sentence


def test_mistakes_in_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"`method\.prefix_length`.*`method\.init`.*`method\.position_law`"):
        PrefixTuning(prefix_length=-1, init="nothing", position_law="left")


def test_dropout_falls_on_keys_and_values_while_training_and_never_after(backbone: Backbone) -> None:
    method = attached(backbone, prefix_length=40, reparam="none", prefix_dropout=0.5)
    table = method.tables["decoder_self"]().detach()

    def keys() -> torch.Tensor:
        layer = method.states().sites["decoder_self"][0]
        assert layer is not None
        return layer.key[0].detach()

    first, second = keys(), keys()
    assert not torch.equal(first, second)
    assert 0.3 < float((first == 0).float().mean()) < 0.7
    kept = first != 0
    assert_close(first[kept], 2 * table[0, 0][kept], **EQUAL)
    method.eval()
    assert_close(keys(), table[0, 0], rtol=0, atol=0)


def test_training_a_method_turns_on_no_dropout_in_the_frozen_backbone(backbone: Backbone) -> None:
    method = attached(backbone)
    batch = training_batch()

    first, second = (target_loss(backbone, method.train(), batch).nats for _ in range(2))

    assert torch.equal(first, second)
    assert not backbone.model.training


BFLOAT16_BOUND = 0.1
"""Root mean square by which bfloat16 logits of the tiny backbones, whose own is 1.4, may miss those in float32."""


def test_a_bfloat16_backbone_trains_a_float32_master(backbone: Backbone, tiny_folders: dict[str, Path]) -> None:
    exact = attached(backbone)
    half = load_backbone(str(tiny_folders[backbone.family]), dtype="bfloat16")

    method = attached(half)

    method.load_state_dict(exact.state_dict())
    inputs = padded(texts(), "left")
    logits = torch.cat(text_logits(half, method.condition(inputs)))
    missed = logits.float() - torch.cat(text_logits(backbone, exact.condition(inputs)))
    assert logits.dtype == torch.bfloat16
    assert missed.square().mean().sqrt() < BFLOAT16_BOUND
    losses = train(half, method, steps=10)
    assert losses[-1] < losses[0] - 0.2
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    # Numbers between those that bfloat16 has: the master is not rounded with what is put into the slots.
    assert all((p != p.bfloat16().float()).any() for p in method.parameters())


def test_a_bfloat16_backbone_gives_float32_gradients(tiny_folders: dict[str, Path]) -> None:
    half = load_backbone(str(tiny_folders["gpt2"]), dtype="bfloat16")
    method = attached(half)

    target_loss(half, method, training_batch()).nats.backward()

    for parameter in method.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.any()


def test_stored_and_trained_numbers_of_gpt2_medium_are_those_of_the_literature(tmp_path: Path) -> None:
    GPT2Config(n_embd=1024, n_layer=24, n_head=16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    sketch = BackboneSpec(**{**defaults_of("backbone/tiny_gpt2"), "path": str(tmp_path)}).load_shape()

    method = PrefixTuning(prefix_length=5, reparam="mlp", reparam_hidden_size=512).attach(sketch)

    assert sketch.num_parameters == 354_823_168
    assert method.num_stored == 245_760  # 0.25M
    assert method.num_trainable == 25_744_896  # 25.7M
    assert {parameter.device.type for parameter in method.parameters()} == {"meta"}
