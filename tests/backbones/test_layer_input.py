"""A forward pass that starts at a layer's input: the same logits and gradients, and nothing computed below."""

from pathlib import Path

import pytest
import torch
from support.tiny_backbones import PAD, TINY_CONFIGS
from support.toy_batches import packable_pairs
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.attention_sites import layer_index, layers_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.layer_input import LayerInput, joined_inputs
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.packing import collate_packed
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.gated_prefix import GatedPrefix
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning

DECODERS = [family for family, config in TINY_CONFIGS.items() if "d_model" not in config]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    """A tiny decoder-only backbone in float64, of each family."""
    backbone = load_backbone(str(tiny_folders[request.param]), name=request.param, dtype="float32")
    backbone.model.double()
    return backbone


def batches() -> dict[str, ModelInputs]:
    pairs = packable_pairs()
    return {
        "padded": collate_training(pairs, Padding(PAD)),
        "packed": collate_packed(pairs, pad_id=PAD, shares_sources=False),
        "shared": collate_packed(pairs, pad_id=PAD, shares_sources=True),
    }


def nats_and_gradients(backbone: Backbone, method: Method, batch: ModelInputs) -> tuple[Tensor, dict[str, Tensor]]:
    method.zero_grad()
    nats = target_loss(backbone, method, batch).nats
    nats.backward()  # type: ignore[no-untyped-call]
    gradients = {name: one.grad.clone() for name, one in method.trainable_parameters().items() if one.grad is not None}
    return nats.detach(), gradients


@pytest.mark.parametrize("law", ["shifted", "unshifted", "infix"])
def test_a_step_that_starts_at_the_first_changed_layer_has_the_same_loss_and_gradients_in_float64(
    decoder: Backbone, law: str
) -> None:
    method = PrefixTuning(prefix_length=3, reparam="none", layers=[1, 2], position_law=law).attach(decoder)
    method.double()
    layer = method.first_layer(decoder)
    wanted = batches() if law != "infix" else {"padded": batches()["padded"]}
    with torch.no_grad():
        given = {name: decoder.layer_input(layer, method.condition(batch)) for name, batch in wanted.items()}

    assert layer == 1
    for name, batch in wanted.items():
        whole = nats_and_gradients(decoder, method, batch)
        started = nats_and_gradients(decoder, method, batch.replace(layer_input=given[name]))

        # The loss itself is summed in float32.
        assert_close(started[0], whole[0], rtol=1e-6, atol=0)
        assert_close(started[1], whole[1], rtol=1e-7, atol=1e-9)
        assert all(gradient.abs().max() > 1e-4 for gradient in started[1].values())


@pytest.mark.parametrize("layer", [1, 2])
def test_the_logits_are_those_of_the_whole_pass_and_lower_layers_are_not_computed(
    decoder: Backbone, layer: int
) -> None:
    method = PrefixTuning(prefix_length=3, reparam="none", layers=[2]).attach(decoder)
    batch = method.condition(batches()["padded"])
    text = batch.attention_mask.bool()
    computed: list[int] = []
    for index, one in enumerate(layers_of(decoder.model, decoder.config)):
        attention = one.get_submodule("self_attn" if hasattr(one, "self_attn") else attention_name(one))
        attention.register_forward_hook(lambda *_, index=index: computed.append(index))

    with torch.no_grad():
        whole = decoder.logits(batch)
        given = decoder.layer_input(layer, batch)
        below = computed[3:]
        computed.clear()
        started = decoder.logits(batch.replace(layer_input=given))
        above = list(computed)
        again = decoder.logits(batch)

    assert below == list(range(layer))
    assert above == list(range(layer, 3))
    assert_close(started[text], whole[text], **EXACT)
    assert_close(again, whole, rtol=0, atol=0)


def attention_name(layer: torch.nn.Module) -> str:
    return "attn" if hasattr(layer, "attn") else "attention"


def test_no_graph_is_recorded_below_the_first_changed_layer(backbone: Backbone) -> None:
    method = GatedPrefix(prefix_length=2, init="random", layers=[1]).attach(backbone)
    recorded: list[bool] = []
    for layer in layers_of(backbone.model, backbone.config):
        layer.register_forward_hook(lambda _, __, output: recorded.append(output.requires_grad))

    target_loss(backbone, method, batches()["padded"])

    assert recorded == [False, True, True]


def test_a_checkpointed_layer_keeps_its_forward(tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders["llama"]), name="llama", dtype="float32", gradient_checkpointing=True)
    own = [vars(layer)["forward"] for layer in layers_of(backbone.model, backbone.config)]
    method = PrefixTuning(prefix_length=3, reparam="none", layers=[2]).attach(backbone)
    batch = batches()["packed"]
    whole = nats_and_gradients(backbone, method, batch)

    with torch.no_grad():
        given = backbone.layer_input(2, method.condition(batch))
    started = nats_and_gradients(backbone, method, batch.replace(layer_input=given))

    assert_close(started, whole)
    assert [vars(layer)["forward"] for layer in layers_of(backbone.model, backbone.config)] == own


def test_texts_of_a_row_stand_one_after_another() -> None:
    first, second = (LayerInput(2, torch.full((length, 2), float(length))) for length in (3, 1))

    joined = joined_inputs([[first, second], [second]], 5)

    assert joined is not None
    assert joined.layer == 2
    assert joined.states[..., 0].tolist() == [[3, 3, 3, 1, 0], [1, 0, 0, 0, 0]]
    assert joined_inputs([[], []], 5) is None


def test_a_module_s_layer_is_known_by_its_path(backbone: Backbone) -> None:
    for index, layer in enumerate(layers_of(backbone.model, backbone.config)):
        (path,) = [path for path, module in backbone.model.named_modules() if module is layer]
        assert layer_index(backbone.config, f"{path}.some.module") == index
    assert layer_index(backbone.config, "lm_head") == 0
