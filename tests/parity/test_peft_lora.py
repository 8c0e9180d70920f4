"""LoRA, DoRA, rsLoRA and IA3 train as a plain PEFT model does: same seed, same batches, same losses.

PEFT chooses the modules by its own table, marks the model and trains what it says is trainable; ours chooses by
`backbones/linear_sites.py` and uses PEFT's layers alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from support.toy_batches import EQUAL, padded, text_logits, texts, train, training_batch, written_mask
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method

# PEFT 0.21 asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

STEPS, LR = 20, 1e-2
RANK, ALPHA = 3, 12.0


def _lora_config(**settings: Any) -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, **settings)  # type: ignore[arg-type]


def _lora(**settings: Any) -> LoRA:
    return LoRA(rank=RANK, alpha=ALPHA, dropout=0.0, **settings)


WAYS: dict[str, tuple[Callable[[], Method], Callable[[], Any]]] = {
    "lora": (_lora, _lora_config),
    "dora": (lambda: _lora(use_dora=True), lambda: _lora_config(use_dora=True)),
    "rslora": (lambda: _lora(use_rslora=True), lambda: _lora_config(use_rslora=True)),
    "ia3": (IA3, IA3Config),
}


@pytest.fixture(params=["gpt2", "llama", "bart", "t5"])
def folder(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Path:
    """The folder of a tiny backbone."""
    return tiny_folders[request.param]


@pytest.fixture(params=sorted(WAYS))
def pair(request: pytest.FixtureRequest, folder: Path) -> tuple[Any, Method]:
    """PEFT's model and our method, each on a backbone of its own, from the same seed."""
    make_ours, make_config = WAYS[request.param]
    config = make_config()
    bare = load_backbone(str(folder), dtype="float32").model
    config.fan_in_fan_out = bare.config.model_type == "gpt2"
    torch.manual_seed(0)
    theirs: Any = get_peft_model(bare, config).eval()
    torch.manual_seed(0)
    return theirs, make_ours().attach(load_backbone(str(folder), dtype="float32"))


def _their_logits(theirs: Any, inputs: ModelInputs) -> Tensor:
    own: dict[str, Any] = (
        {"position_ids": inputs.with_positions().position_ids}
        if inputs.decoder_input_ids is None
        else {"decoder_input_ids": inputs.decoder_input_ids, "decoder_attention_mask": inputs.decoder_attention_mask}
    )
    logits: Tensor = theirs(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **own).logits
    return logits


def _train_theirs(theirs: Any, batch: ModelInputs) -> list[float]:
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        logits = _their_logits(theirs, batch)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.next_labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_twenty_steps_have_peft_s_losses(pair: tuple[Any, Method]) -> None:
    theirs, ours = pair
    backbone: Backbone = ours.backbone
    expected = _train_theirs(theirs, training_batch(backbone))

    losses = train(backbone, ours, steps=STEPS, lr=LR)

    assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-4, atol=0)
    assert losses[-1] < losses[0] - 0.1  # else a method that does nothing would be equal too
    inputs = padded(texts(), "left", backbone)
    with torch.no_grad():
        logits = _their_logits(theirs, inputs)
    rows = [row[mask.bool()] for row, mask in zip(logits, written_mask(inputs), strict=True)]
    assert_close(text_logits(backbone, ours.condition(inputs)), rows, rtol=1e-3, atol=1e-3)


def test_the_start_is_peft_s(pair: tuple[Any, Method]) -> None:
    theirs, ours = pair
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]

    assert ours.num_trainable == theirs.get_nb_trainable_parameters()[0]
    starts = sorted(float(parameter.detach().double().abs().sum()) for parameter in trained)
    own = sorted(float(parameter.detach().double().abs().sum()) for parameter in ours.trainable_parameters().values())
    assert_close(own, starts, **EQUAL)
