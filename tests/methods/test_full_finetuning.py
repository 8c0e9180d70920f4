"""Full fine-tuning through stand-ins: the library's own training, float32 copies, and a backbone that never changes."""

from typing import Any

import pytest
import torch
from support.toy_batches import text_logits, train, training_batch, unpadded
from torch.testing import assert_close

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.backbones.weights import ParameterOverrides, select_parameters
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.full_finetuning import FullFinetuning


def _library_losses(backbone: Backbone, *, steps: int, lr: float) -> list[float]:
    """The usual way: the model's own parameters, its own loss, AdamW."""
    batch = training_batch(backbone)
    model: Any = backbone.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        logits = backbone.logits(batch)[:, :-1]
        assert batch.labels is not None
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_training_equals_that_of_transformers(any_backbone: Backbone, tiny_folders: Any) -> None:
    twin = load_backbone(str(tiny_folders[any_backbone.family]), dtype="float32")
    expected = _library_losses(twin, steps=5, lr=1e-3)

    losses = train(any_backbone, FullFinetuning().attach(any_backbone), steps=5, lr=1e-3)

    assert losses == pytest.approx(expected, rel=1e-4)


def test_trained_copies_equal_the_weights_that_transformers_trains(backbone: Backbone, tiny_folders: Any) -> None:
    twin = load_backbone(str(tiny_folders[backbone.family]), dtype="float32")
    _library_losses(twin, steps=2, lr=1e-3)
    method = FullFinetuning().attach(backbone)
    train(backbone, method, steps=2, lr=1e-3)

    _, tensors = method.export()

    own = dict(twin.model.named_parameters())
    assert tensors.keys() == own.keys()
    assert_close(tensors, {name: parameter.detach() for name, parameter in own.items()}, rtol=1e-3, atol=1e-4)


def test_tied_weights_are_trained_once_and_act_at_both_ends(backbone: Backbone) -> None:
    if not backbone.config.tie_word_embeddings:
        assert backbone.family == "llama"
        return
    words: Any = backbone.model.get_input_embeddings()
    head: Any = backbone.model.get_output_embeddings()
    method = FullFinetuning().attach(backbone)

    method.condition(unpadded())

    assert words.weight is head.weight
    assert method.num_trainable == backbone.num_parameters


def test_copies_are_float32_under_a_bfloat16_backbone_and_keep_small_updates(tiny_folders: Any) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), dtype="bfloat16")
    method = FullFinetuning().attach(backbone)
    before = {name: copy.detach().clone() for name, copy in method.trainable_parameters().items()}

    train(backbone, method, steps=1, lr=1e-6)

    assert {copy.dtype for copy in method.trainable_parameters().values()} == {torch.float32}
    moved = [float((copy.detach() - before[name]).abs().max()) for name, copy in method.trainable_parameters().items()]
    # A millionth of a weight is far below what bfloat16 can tell apart.
    assert min(moved) > 0
    assert max(moved) < 1e-5


@pytest.mark.parametrize("choice", ["biases", "top_layers"])
def test_only_what_was_chosen_is_trained(backbone: Backbone, choice: str) -> None:
    method = FullFinetuning(trained=choice, num_top_layers=1)
    if backbone.family == "llama" and choice == "biases":
        assert "is biases and it has none" in method.incompatibilities(backbone)[0]
        return

    names = set(method.attach(backbone).trainable_parameters())

    if choice == "biases":
        assert names == {name for name in dict(backbone.model.named_parameters()) if name.endswith("bias")}
    else:
        stack = "transformer.h" if backbone.family == "gpt2" else "model.layers"
        norm = "transformer.ln_f" if backbone.family == "gpt2" else "model.norm"
        assert {name.rpartition(".")[0] for name in names if not name.startswith(f"{stack}.2.")} == {norm}
        assert any(name.startswith(f"{stack}.2.") for name in names)


def test_the_top_of_an_encoder_decoder_is_its_decoder_s(encoder_decoder: Backbone) -> None:
    chosen = select_parameters(encoder_decoder, "top_layers", num_top_layers=1)

    assert chosen
    assert not any("encoder." in name.replace("encoder_attn", "") for name in chosen)


def test_more_layers_than_there_are_are_refused(backbone: Backbone) -> None:
    (misfit,) = FullFinetuning(trained="top_layers", num_top_layers=4).incompatibilities(backbone)

    assert "`method.num_top_layers` must be at most the 3" in misfit


def test_overrides_leave_the_parameters_registered(backbone: Backbone) -> None:
    bare = text_logits(backbone, unpadded())
    weights = select_parameters(backbone, "all", num_top_layers=1)
    stand_ins = ParameterOverrides(backbone.model, weights)

    stand_ins.set({name: torch.zeros_like(parameter) for name, parameter in weights.items()})
    zeroed = text_logits(backbone, unpadded())
    kept = dict(backbone.model.named_parameters())
    stand_ins.clear()

    assert not any(row.any() for row in zeroed)
    assert kept.keys() == weights.keys()
    assert all(parameter.any() for parameter in kept.values())
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, unpadded()), bare, strict=True))


def test_checkpointing_uses_the_same_overrides_in_backward(tiny_folders: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = load_backbone(str(tiny_folders["bart"]), dtype="float32", gradient_checkpointing=checkpointing)
        method = FullFinetuning().attach(backbone)
        target_loss(backbone, method, training_batch(backbone)).nats.backward()
        gradients.append({name: copy.grad for name, copy in method.trainable_parameters().items()})

    assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_merged_weights_compute_what_was_trained_and_the_frozen_ones_come_back(backbone: Backbone) -> None:
    bare = text_logits(backbone, unpadded())
    method = FullFinetuning().attach(backbone)
    train(backbone, method, steps=2)
    trained = text_logits(backbone, method.eval().condition(unpadded()))

    with method.merged():
        merged = text_logits(backbone, unpadded())

    assert_close(merged, trained, rtol=1e-4, atol=1e-4)
    method.detach()
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, unpadded()), bare, strict=True))
