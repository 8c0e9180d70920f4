"""Methods on a quantised backbone: what trains, what is served, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantized_backbones import PAIRS, QUANTIZATIONS, quantized
from support.toy_batches import EQUAL, text_logits, train, training_batch

from ptl_prefix.artifacts.bundle import BundleContents, write_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.adapter import Adapter
from ptl_prefix.methods.full_finetuning import FullFinetuning
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.peft import PeftTuner
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning
from ptl_prefix.methods.restore import load_bundle
from ptl_prefix.settings import defaults_of

TRAINED = {
    "prefix": lambda: PrefixTuning(prefix_length=3, reparam_hidden_size=8),
    "prompt": lambda: PromptTuning(prompt_length=3),
    "lora": lambda: LoRA(dropout=0.0),
    "ia3": lambda: IA3(),
    "adapter": lambda: Adapter(bottleneck_size=4),
}


def _attached(name: str, backbone: Backbone) -> Method:
    torch.manual_seed(0)
    return TRAINED[name]().attach(backbone)  # type: ignore[no-any-return]


def _bytes_of(backbone: Backbone) -> list[torch.Tensor]:
    held = [getattr(parameter, "qdata", parameter.data) for parameter in backbone.model.parameters()]
    return [tensor.clone() for tensor in held]


@pytest.mark.parametrize("name", sorted(TRAINED))
@pytest.mark.parametrize(("family", "quantization"), PAIRS)
def test_it_learns_and_the_backbone_stays(
    tiny_folders: dict[str, Path], family: str, quantization: str, name: str
) -> None:
    backbone = quantized(tiny_folders[family], quantization)
    before = _bytes_of(backbone)
    method = _attached(name, backbone)

    losses = train(backbone, method, steps=20)

    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.dtype == torch.float32 for parameter in method.trainable_parameters().values())
    method.detach()
    assert all(torch.equal(was, now) for was, now in zip(before, _bytes_of(backbone), strict=True))


@pytest.mark.parametrize(
    "method",
    [
        FullFinetuning(),
        FullFinetuning(trained="biases"),
        FullFinetuning(trained="top_layers", num_top_layers=1),
        LoRA(use_dora=True),
        PeftTuner(name="vera", peft_type="vera"),
    ],
    ids=["full", "bitfit", "top_layers", "dora", "vera"],
)
def test_methods_that_use_the_weights_are_refused_before_weights_load(
    tiny_folders: dict[str, Path], method: Method
) -> None:
    sketch = BackboneSpec(path=str(tiny_folders["bart"]), device="cpu", quantization="bitsandbytes_4bit").load_shape()

    (misfit,) = method.incompatibilities(sketch)

    assert "`backbone.quantization` must be null" in misfit
    assert "choose prefix-tuning, prompt tuning or LoRA" in misfit
    with pytest.raises(ValueError, match="must be null for a method"):
        method.attach(sketch)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("name", ["prefix", "lora"])
def test_a_bundle_serves_what_was_trained_and_knows_beside_which_weights(
    tiny_folders: dict[str, Path], tmp_path: Path, quantization: str, name: str
) -> None:
    backbone = quantized(tiny_folders["llama"], quantization)
    method = _attached(name, backbone)
    train(backbone, method, steps=3)
    inputs = training_batch(backbone).replace(labels=None)
    wanted = text_logits(backbone, method.eval().condition(inputs))
    _write(tmp_path / "bundle", backbone, method)

    fresh = quantized(tiny_folders["llama"], quantization)
    adaptation = load_bundle(tmp_path / "bundle", fresh)

    found = text_logits(fresh, adaptation.method.condition(inputs))
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, **EQUAL)
    assert adaptation.generate(["the cat"]) == adaptation.generate(["the cat"])
    whole = load_backbone(str(tiny_folders["llama"]), dtype="float32")
    with pytest.raises(BundleError, match=rf"quantization \({quantization} there, none here\) of .* differ"):
        load_bundle(tmp_path / "bundle", whole)


def _write(folder: Path, backbone: Backbone, method: Method) -> None:
    settings, tensors = method.export()
    contents = BundleContents(
        tensors=tensors,
        method=method.kind,
        settings=settings,
        task="toy",
        task_version="1",
        prompt=PromptFormat(),
        stop_ids=(1,),
        decoding=Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 4}),
        label_set=None,
        metrics={},
        geometry={site: dataclasses.asdict(geometry) for site, geometry in backbone.geometry.items()},
        position_law=method.position_law,
        dtype="float32",
        backbone=backbone.identity,
    )
    write_bundle(folder, contents)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_decoding_with_a_cache_uses_the_logits_of_the_whole_text(
    tiny_folders: dict[str, Path], quantization: str
) -> None:
    from ptl_prefix.backbones.generation import generate

    backbone = quantized(tiny_folders["llama"], quantization)
    method = _attached("prefix", backbone)
    train(backbone, method, steps=20)
    settings: dict[str, Any] = {**defaults_of("generation/greedy"), "max_new_tokens": 6, "min_new_tokens": 6}
    prompt = training_batch(backbone).replace(labels=None)
    prompt = prompt.replace(
        input_ids=prompt.input_ids[:2, :6], attention_mask=torch.ones_like(prompt.input_ids[:2, :6]), position_ids=None
    )

    written = torch.tensor(generate(backbone, method.condition(prompt), Decoding(**settings), ()))
    whole = torch.cat([prompt.input_ids, written], dim=1)
    again = prompt.replace(input_ids=whole, attention_mask=torch.ones_like(whole), position_ids=None)
    with torch.no_grad():
        logits = backbone.logits(method.condition(again))[:, 5:-1]

    chosen = logits.gather(2, written[:, :, None]).squeeze(2)
    assert (logits.amax(2) - chosen).max() < 0.2


def test_nothing_is_merged_into_quantised_weights(tiny_folders: dict[str, Path]) -> None:
    backbone = quantized(tiny_folders["llama"], "bitsandbytes_4bit")
    method = _attached("lora", backbone)

    with pytest.raises(ValueError, match=r"`backbone\.quantization` must be null to merge"), method.merged():
        pass
