"""Adapters: they start as nothing, work only when it is their turn, and leave nothing behind."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import EQUAL, padded, text_logits, texts, train, training_batch, unpadded
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BackboneBusyError, BundleError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.adapter import Adapter
from ptl_prefix.methods.restore import load_bundle


def attached(backbone: Backbone, *, seed: int = 0, **settings: Any) -> Adapter:
    """An adapter of six numbers."""
    torch.manual_seed(seed)
    return Adapter(**{"bottleneck_size": 6, **settings}).attach(backbone)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_new_adapter_leaves_the_bare_backbone_unchanged(any_backbone: Backbone, placement: str) -> None:
    inputs = padded(texts(), "right", any_backbone)
    bare = text_logits(any_backbone, inputs)

    method = attached(any_backbone, placement=placement)

    assert_close(text_logits(any_backbone, method.condition(inputs)), bare, rtol=0, atol=0)


def test_there_are_two_a_layer_or_one_and_three_beside_cross_attention(
    backbone: Backbone, encoder_decoder: Backbone
) -> None:
    assert {kind: len(each) for kind, each in _bottlenecks(backbone, "houlsby").items()} == {
        "decoder_self": 3,
        "decoder_feed_forward": 3,
    }
    assert {kind: len(each) for kind, each in _bottlenecks(encoder_decoder, "houlsby").items()} == {
        "encoder_self": 2,
        "encoder_feed_forward": 2,
        "decoder_self": 3,
        "decoder_cross": 3,
        "decoder_feed_forward": 3,
    }
    assert {kind: len(each) for kind, each in _bottlenecks(encoder_decoder, "pfeiffer").items()} == {
        "encoder_feed_forward": 2,
        "decoder_feed_forward": 3,
    }


def _bottlenecks(backbone: Backbone, placement: str) -> dict[str, Any]:
    method = attached(backbone, placement=placement)
    method.detach()
    return dict(method.bottlenecks.items())


def test_two_bundles_on_one_backbone_do_not_affect_each_other(backbone: Backbone, tmp_path: Path) -> None:
    sources, alone = ["the cat", "in the city"], []
    methods = attached(backbone, seed=1), attached(backbone, seed=2), PrefixTuning(prefix_length=4, reparam="none")
    for method in methods:
        if not method.is_attached:
            method.attach(backbone)
        train(backbone, method, steps=20, lr=0.1)
        backbone.slots.clear()
    for index, method in enumerate(methods):
        export_untasked(method, backbone, tmp_path / str(index))
        method.detach()
    for index in range(3):
        adaptation = load_bundle(tmp_path / str(index), backbone)
        alone.append((adaptation.generate(sources), _logits(backbone, adaptation)))
        adaptation.detach()

    together = [load_bundle(tmp_path / str(index), backbone) for index in range(3)]

    for _ in range(2):
        for adaptation, (written, logits) in zip(together, alone, strict=True):
            assert adaptation.generate(sources) == written
            assert_close(_logits(backbone, adaptation), logits, **EQUAL)
    assert not any(torch.equal(alone[0][1][0], other[0]) for _, other in alone[1:])


def _logits(backbone: Backbone, adaptation: Any) -> list[torch.Tensor]:
    logits = text_logits(backbone, adaptation.method.condition(unpadded()))
    backbone.slots.clear()
    return logits


def test_after_a_request_and_a_detach_the_backbone_is_bare(backbone: Backbone, tmp_path: Path) -> None:
    before = {name: sorted(vars(module)) for name, module in backbone.model.named_modules()}
    bare = text_logits(backbone, unpadded())
    method = attached(backbone)
    train(backbone, method, steps=3)
    export_untasked(method, backbone, tmp_path / "bundle")
    method.detach()
    adaptation = load_bundle(tmp_path / "bundle", backbone)

    adaptation.generate(["the cat"])

    assert_close(text_logits(backbone, unpadded()), bare, rtol=0, atol=0)
    adaptation.detach()
    assert {name: sorted(vars(module)) for name, module in backbone.model.named_modules()} == before


def test_an_active_backbone_is_refused_to_other_threads(backbone: Backbone) -> None:
    method, errors = attached(backbone), []
    method.condition(unpadded())

    def intrude() -> None:
        try:
            backbone.slots.claim()
        except BackboneBusyError as error:
            errors.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()

    assert len(errors) == 1


def test_a_bundle_that_lacks_a_bottleneck_is_refused_and_leaves_no_hook(backbone: Backbone, tmp_path: Path) -> None:
    method = attached(backbone)
    del method.bottlenecks["decoder_self"][0]  # type: ignore[operator]
    export_untasked(method, backbone, tmp_path / "bundle")
    method.detach()

    with pytest.raises(BundleError, match="must have the settings and tensors of its method"):
        load_bundle(tmp_path / "bundle", backbone)

    assert not any(module._forward_hooks for module in backbone.model.modules())


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_checkpointed_and_kept_activations_give_the_same_gradients(tiny_folders: dict[str, Path], family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = load_backbone(str(tiny_folders[family]), dtype="float32", gradient_checkpointing=checkpointing)
        method = attached(backbone)
        train(backbone, method, steps=2)
        target_loss(backbone, method, training_batch(backbone)).nats.backward()
        gradients.append({name: parameter.grad for name, parameter in method.named_parameters()})

    assert all(gradient is not None and gradient.any() for gradient in gradients[1].values())
    assert_close(gradients[1], gradients[0], **EQUAL)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_bfloat16_backbone_trains_an_adapter_in_float32(tiny_folders: dict[str, Path], family: str) -> None:
    exact, rounded = (load_backbone(str(tiny_folders[family]), dtype=dtype) for dtype in ("float32", "bfloat16"))
    first, second = attached(exact), attached(rounded)

    losses = train(exact, first, steps=10), train(rounded, second, steps=10)

    assert {parameter.dtype for parameter in second.parameters()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert text_logits(rounded, second.condition(unpadded(backbone=rounded)))[0].dtype == torch.bfloat16
