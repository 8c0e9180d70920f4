"""The same numbers in PEFT's prefix-tuning and in ours give the same logits, losses and gradients.

PEFT 0.21 puts a prefix into `past_key_values`, positions shifted by its length, and runs its projection once per row.
Its table is one row a position, (layers x 2 x kv_heads x head_dim) wide, keys before values in each layer.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from support.toy_batches import EQUAL, Side, padded, text_logits, texts, training_batch, unpadded
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.loss import target_loss

# PEFT 0.21 asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LENGTH, HIDDEN = 5, 16

BATCHES = {"unpadded": unpadded(), "left": padded(texts(), "left"), "right": padded(texts(), "right")}


@pytest.fixture(params=[False, True], ids=["table", "projection"])
def pair(request: pytest.FixtureRequest, backbone: Backbone, tiny_folders: dict[str, Path]) -> tuple[Any, PrefixTuning]:
    """PEFT's prefix on a model of its own and ours, holding the same numbers."""
    projection = request.param
    bare = AutoModelForCausalLM.from_pretrained(tiny_folders[backbone.family], dtype=torch.float32)
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, prefix_projection=projection, encoder_hidden_size=HIDDEN
    )
    torch.manual_seed(0)
    theirs: Any = get_peft_model(bare, config).eval()
    ours = PrefixTuning(
        prefix_length=LENGTH,
        reparam="mlp" if projection else "none",
        reparam_hidden_size=HIDDEN,
        # PEFT's rows are as wide as keys, ours as the backbone unless told otherwise.
        reparam_embedding_size=backbone.geometry["decoder_self"].kv_width,
    ).attach(backbone)
    with torch.no_grad():
        for own, other in _same_numbers(theirs, ours):
            own.copy_(other if projection else _as_table(backbone, other))
    return theirs, ours


def _same_numbers(theirs: PeftModel, ours: PrefixTuning) -> list[tuple[Tensor, Tensor]]:
    encoder: Any = theirs.prompt_encoder["default"]
    table: Any = ours.tables["decoder_self"]
    if ours.reparam == "none":
        return [(table.table, encoder.embedding.weight)]
    hidden, _, output = encoder.transform
    return [
        (table.rows, encoder.embedding.weight),
        (table.hidden.weight, hidden.weight),
        (table.hidden.bias, hidden.bias),
        (table.output.weight, output.weight),
        (table.output.bias, output.bias),
    ]


def _as_table(backbone: Backbone, rows: Tensor) -> Tensor:
    """(prefix, layers x 2 x kv_heads x head_dim) as (layers, 2, kv_heads, prefix, head_dim)."""
    site = backbone.geometry["decoder_self"]
    return rows.view(LENGTH, site.num_layers, 2, site.num_kv_heads, site.head_dim).permute(1, 2, 3, 0, 4)


def _their_logits(theirs: Any, inputs: ModelInputs) -> Tensor:
    # Positions of the text alone; PEFT adds the prefix length itself.
    logits: Tensor = theirs(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        position_ids=inputs.with_positions().position_ids,
    ).logits
    return logits


@pytest.mark.parametrize("inputs", BATCHES.values(), ids=BATCHES.keys())
def test_logits_are_peft_s(pair: tuple[Any, PrefixTuning], backbone: Backbone, inputs: ModelInputs) -> None:
    theirs, ours = pair
    with torch.no_grad():
        logits = _their_logits(theirs, inputs)
    expected = [row[mask.bool()] for row, mask in zip(logits, inputs.attention_mask, strict=True)]

    assert_close(text_logits(backbone, ours.condition(inputs)), expected, **EQUAL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prefix_matters_here(pair: tuple[Any, PrefixTuning], backbone: Backbone, side: Side) -> None:
    # Else every equality above would hold with the prefix dropped on both sides.
    theirs, _ = pair
    inputs = padded(texts(), side)
    with torch.no_grad():
        adapted, bare = _their_logits(theirs, inputs), backbone.logits(inputs.with_positions(LENGTH))

    assert (adapted - bare)[inputs.attention_mask.bool()].abs().max() > 0.05


def test_loss_and_gradients_are_peft_s(pair: tuple[Any, PrefixTuning], backbone: Backbone) -> None:
    theirs, ours = pair
    batch = training_batch()
    assert batch.labels is not None
    expected = F.cross_entropy(_their_logits(theirs, batch)[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    expected.backward()

    loss = target_loss(backbone, ours, batch)
    (loss.nats / loss.num_tokens).backward()

    assert_close(loss.nats / loss.num_tokens, expected, rtol=1e-5, atol=0)
    for own, other in _same_numbers(theirs, ours):
        assert own.grad is not None
        assert other.grad is not None
        gradient = other.grad if ours.reparam == "mlp" else _as_table(backbone, other.grad)
        assert_close(own.grad, gradient, **EQUAL)


def test_the_number_of_trainable_parameters_equals_that_of_peft(pair: tuple[Any, PrefixTuning]) -> None:
    theirs, ours = pair

    assert ours.num_trainable == theirs.get_nb_trainable_parameters()[0]
