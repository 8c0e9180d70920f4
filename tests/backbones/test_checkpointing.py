"""Gradient checkpointing around a frozen backbone in eval mode: twice the forwards, the same gradients, less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_backbones import TINY_CONFIGS, set_weights, tiny_config, tiny_tokenizer
from support.toy_batches import EQUAL, text_logits, training_batch, unpadded
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
)

from benchmarks.allocations import count_allocations
from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.attention_sites import attention_modules
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.evaluation.loss import target_loss


def _with_dropout(folder: Path, family: str, *, dropout: float) -> Path:
    """A family's tiny model, whose dropout would be seen if it were on."""
    names = ("dropout", "attention_dropout", "activation_dropout", "dropout_rate", "attn_pdrop", "resid_pdrop")
    config = tiny_config(family)
    for name in names:
        if hasattr(config, name):
            setattr(config, name, dropout)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    set_weights(model, 0)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _step(backbone: Backbone, **settings: Any) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of a loss, and how often an attention module ran for them."""
    torch.manual_seed(0)
    settings = {"prefix_length": 4, "reparam": "none", **settings}
    method = PrefixTuning(**settings).attach(backbone)
    forwards: list[nn.Module] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, *_: forwards.append(module))
        for modules in attention_modules(backbone.model, backbone.config).values()
        for module in modules
    ]
    target_loss(backbone, method, training_batch(backbone)).nats.backward()
    for hook in hooks:
        hook.remove()
    method.detach()
    return {name: p.grad for name, p in method.trainable_parameters().items() if p.grad is not None}, len(forwards)


@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_every_layer_runs_twice_without_dropout_and_gives_the_same_gradients(family: str, tmp_path: Path) -> None:
    folder = _with_dropout(tmp_path, family, dropout=0.5)
    plain = load_backbone(str(folder), dtype="float32", base_mode="eval")
    checkpointed = load_backbone(str(folder), dtype="float32", base_mode="eval", gradient_checkpointing=True)
    num_modules = sum(site.num_layers for site in plain.geometry.values())

    gradients, num_forwards = _step(plain)
    again, num_again = _step(checkpointed)

    assert (num_forwards, num_again) == (num_modules, 2 * num_modules)
    assert {module.training for module in checkpointed.model.modules()} == {False}
    assert gradients.keys() == again.keys()
    assert_close(again, gradients, **EQUAL)


def test_dropout_would_have_been_seen(tmp_path: Path) -> None:
    # The test above compares with 0.5 of it in the config: in training mode it changes every gradient.
    folder = _with_dropout(tmp_path, "bart", dropout=0.5)
    gradients, _ = _step(load_backbone(str(folder), dtype="float32", base_mode="eval"))
    dropped, _ = _step(load_backbone(str(folder), dtype="float32", base_mode="train"))

    assert max(float((dropped[name] - gradients[name]).abs().max()) for name in gradients) > 1e-2


def test_dropout_of_a_training_base_is_the_same_in_both_forwards(tmp_path: Path) -> None:
    folder = _with_dropout(tmp_path, "gpt2", dropout=0.5)

    def gradients(*, gradient_checkpointing: bool) -> dict[str, torch.Tensor]:
        backbone = load_backbone(
            str(folder), dtype="float32", base_mode="train", gradient_checkpointing=gradient_checkpointing
        )
        return _step(backbone)[0]

    assert_close(gradients(gradient_checkpointing=True), gradients(gradient_checkpointing=False), **EQUAL)


def test_embeddings_learn_the_same_with_checkpointing(tiny_folders: dict[str, Path]) -> None:
    # Their keys and values come from a forward of their own, whose attention is another one by the time of backward.
    plain, _ = _step(load_backbone(str(tiny_folders["gpt2"]), dtype="float32"), reparam="embedding")
    checkpointed = load_backbone(str(tiny_folders["gpt2"]), dtype="float32", gradient_checkpointing=True)

    assert_close(_step(checkpointed, reparam="embedding")[0], plain, **EQUAL)


def test_without_gradients_nothing_is_checkpointed(tiny_folders: dict[str, Path]) -> None:
    plain = load_backbone(str(tiny_folders["gpt2"]), dtype="float32")
    checkpointed = load_backbone(str(tiny_folders["gpt2"]), dtype="float32", gradient_checkpointing=True)

    assert_close(text_logits(checkpointed, unpadded()), text_logits(plain, unpadded()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_peak_memory_falls(kind: str, tmp_path: Path) -> None:
    ids = {"vocab_size": 288, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model: Any
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**ids, n_positions=128, n_embd=64, n_layer=8, n_head=4))
    else:
        sizes = {"d_model": 64, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_position_embeddings": 128}
        model = BartForConditionalGeneration(
            BartConfig(**ids, **sizes, encoder_layers=8, decoder_layers=8, decoder_start_token_id=1)
        )
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)

    def peak_bytes(*, gradient_checkpointing: bool) -> int:
        backbone = load_backbone(str(tmp_path), dtype="float32", gradient_checkpointing=gradient_checkpointing)
        method = PrefixTuning(prefix_length=4, reparam="none").attach(backbone)
        batch = training_batch(backbone)
        return count_allocations(lambda: lambda: target_loss(backbone, method, batch).nats.backward()).peak

    peak_bytes(gradient_checkpointing=False)  # what is allocated once is allocated now

    plain, checkpointed = (peak_bytes(gradient_checkpointing=on) for on in (False, True))

    assert checkpointed < plain / 2
