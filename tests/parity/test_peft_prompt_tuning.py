"""The same rows in PEFT's prompt tuning and in ours give the same logits, losses and rows after training.

PEFT 0.21 puts the rows before the embeddings of every text of a batch, in an encoder-decoder before those of the
source. It leaves positions to the model, which counts columns: texts padded on the left cannot be compared.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from peft import PromptTuningConfig, get_peft_model
from support.toy_batches import EQUAL, padded, text_logits, texts, training_batch, unpadded, written_mask
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prompt_tuning import PromptTuning

# PEFT 0.21 asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LENGTH = 5

Pair = tuple[Any, PromptTuning, Backbone]


@pytest.fixture(params=["gpt2", "llama", "bart", "t5"])
def pair(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Pair:
    """PEFT's prompt on a model of its own and ours, holding the same rows."""
    folder = tiny_folders[request.param]
    backbone = load_backbone(str(folder), name=request.param, dtype="float32")
    kind: Any = AutoModelForSeq2SeqLM if backbone.is_encoder_decoder else AutoModelForCausalLM
    task = "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM"
    config = PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH, num_transformer_submodules=1)
    torch.manual_seed(0)
    theirs: Any = get_peft_model(kind.from_pretrained(folder, dtype=torch.float32), config).eval()
    ours = PromptTuning(prompt_length=LENGTH).attach(backbone)
    assert ours.rows is not None
    with torch.no_grad():
        ours.rows.copy_(_their_rows(theirs))
    return theirs, ours, backbone


def _their_rows(theirs: Any) -> Tensor:
    rows: Tensor = theirs.prompt_encoder["default"].embedding.weight
    return rows


def _their_logits(theirs: Any, inputs: ModelInputs) -> Tensor:
    """At the written text, (batch, written, vocabulary)."""
    if inputs.decoder_input_ids is None:
        logits: Tensor = theirs(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
        return logits[:, LENGTH:]
    logits = theirs(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        decoder_input_ids=inputs.decoder_input_ids,
        decoder_attention_mask=inputs.decoder_attention_mask,
    ).logits
    return logits


@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "unpadded"])
def test_logits_are_peft_s(pair: Pair, is_padded: bool) -> None:
    theirs, ours, backbone = pair
    inputs = padded(texts(), "right", backbone) if is_padded else unpadded(backbone=backbone)
    with torch.no_grad():
        logits = _their_logits(theirs, inputs)
    expected = [row[mask.bool()] for row, mask in zip(logits, written_mask(inputs), strict=True)]

    adapted = text_logits(backbone, ours.condition(inputs))

    assert_close(adapted, expected, **EQUAL)
    # Else this would hold with the rows dropped on both sides.
    backbone.slots.clear()
    bare = backbone.logits(inputs.with_positions(LENGTH))[written_mask(inputs).bool()]
    assert (torch.cat(adapted) - bare).abs().max() > 0.05


def test_twenty_steps_of_training_are_peft_s(pair: Pair) -> None:
    theirs, ours, backbone = pair
    batch = training_batch(backbone)
    own, other = (
        torch.optim.AdamW(parameters, lr=3e-2, weight_decay=0.0)
        for parameters in (ours.trainable_parameters().values(), [_their_rows(theirs)])
    )

    losses, expected = [], []
    for _ in range(20):
        loss = target_loss(backbone, ours, batch)
        (loss.nats / loss.num_tokens).backward()
        losses.append(float(loss.nats.detach()) / loss.num_tokens)
        own.step()
        own.zero_grad()
        their_loss = F.cross_entropy(_their_logits(theirs, batch).flatten(0, 1), batch.next_labels.flatten())
        their_loss.backward()
        expected.append(float(their_loss.detach()))
        other.step()
        other.zero_grad()

    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 0.1


def test_the_number_of_trainable_parameters_equals_that_of_peft(pair: Pair) -> None:
    theirs, ours, _ = pair

    assert ours.num_trainable == theirs.get_nb_trainable_parameters()[0]
