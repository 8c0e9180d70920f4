"""Backbones with matrices in fewer bits: what they compute, what they take, and what is refused."""

import importlib.util
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantized_backbones import LIBRARIES, PAIRS, QUANTIZATIONS, REFUSED, quantized, rounded, tensor_bytes
from support.tiny_backbones import TINY_CONFIGS
from support.toy_batches import EQUAL, text_logits, training_batch
from support.toy_prefixes import random_states
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BackboneError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning

# LLM.int8 also rounds what the matrices are multiplied with, and computes in float16.
NEAR = {"torchao_int8": EQUAL, "bitsandbytes_4bit": EQUAL, "bitsandbytes_8bit": {"rtol": 0.05, "atol": 0.5}}


@pytest.mark.parametrize(
    ("family", "quantization"), [pair for pair in product(sorted(TINY_CONFIGS), QUANTIZATIONS) if pair not in REFUSED]
)
def test_numbers_and_bytes_are_those_of_the_tensors_and_known_before_they_load(
    tiny_folders: dict[str, Path], family: str, quantization: Any
) -> None:
    folder = tiny_folders[family]
    backbone, whole = quantized(folder, quantization), load_backbone(str(folder), dtype="float32")

    sketch = BackboneSpec(path=str(folder), dtype="float32", device="cpu", quantization=quantization).load_shape()

    assert backbone.num_bytes == sketch.num_bytes == tensor_bytes(backbone)
    assert backbone.num_parameters == sketch.num_parameters == whole.num_parameters
    assert backbone.precision == f"float32 on {quantization}"


def test_the_layers_of_a_real_shape_take_a_half_and_a_quarter_of_bfloat16() -> None:
    def of(quantization: Any) -> Backbone:
        numbers = {"name": "llama_1b", "num_hidden_layers": 16, "dtype": "bfloat16", "quantization": quantization}
        return _llama_1b(numbers)

    whole, eight, int8, four = (
        of(q).num_bytes for q in (None, "bitsandbytes_8bit", "torchao_int8", "bitsandbytes_4bit")
    )

    outside = 2 * 128256 * 2048
    assert (eight - outside) / (whole - outside) == pytest.approx(0.5, abs=0.001)
    assert (int8 - outside) / (whole - outside) == pytest.approx(0.5, abs=0.001)
    assert (four - outside) / (whole - outside) == pytest.approx(0.25 + 0.03125, abs=0.001)  # 4 bits, and a scale in 64


def _llama_1b(changes: dict[str, Any]) -> Backbone:
    from ptl_prefix.backbones.shape import LlamaSpec
    from ptl_prefix.settings import defaults_of

    return LlamaSpec(**{**defaults_of("backbone/llama_1b"), **changes}).load_shape()


@pytest.mark.parametrize(("family", "quantization"), PAIRS)
def test_a_prefix_meets_the_numbers_that_the_matrices_stand_for(
    tiny_folders: dict[str, Path], family: str, quantization: str
) -> None:
    backbone = quantized(tiny_folders[family], quantization)
    reference = rounded(tiny_folders[family], backbone)

    found, wanted = _with_prefix(backbone), _with_prefix(reference)

    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, **NEAR[quantization])


def _with_prefix(backbone: Backbone) -> list[Tensor]:
    backbone.slots.acquire()
    backbone.slots.fill(random_states(backbone, 3))
    logits = text_logits(backbone, training_batch(backbone).replace(labels=None))
    backbone.slots.release()
    return logits


@pytest.mark.parametrize(("family", "quantization"), PAIRS)
def test_gradients_flow_through_the_matrices_also_after_a_forward_without_them(
    tiny_folders: dict[str, Path], family: str, quantization: str
) -> None:
    backbone = quantized(tiny_folders[family], quantization)
    reference = rounded(tiny_folders[family], backbone)
    with torch.no_grad():  # as when the bare backbone is measured before a training
        backbone.logits(training_batch(backbone))

    found, wanted = _prefix_gradient(backbone), _prefix_gradient(reference)

    assert torch.isfinite(found).all()
    if quantization == "bitsandbytes_8bit":
        assert torch.cosine_similarity(found, wanted, dim=0) > 0.98
        assert float(found.norm() / wanted.norm()) == pytest.approx(1, abs=0.05)
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def _prefix_gradient(backbone: Backbone) -> Tensor:
    torch.manual_seed(0)
    method = PrefixTuning(prefix_length=3, reparam="none", init="random").attach(backbone)
    torch.manual_seed(0)
    with torch.no_grad():  # where a prefix starts follows the backbone's keys, which are rounded here
        for parameter in method.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape))
    loss = target_loss(backbone, method, training_batch(backbone))
    loss.nats.backward()  # type: ignore[no-untyped-call]
    gradients = [
        parameter.grad.flatten() for parameter in method.trainable_parameters().values() if parameter.grad is not None
    ]
    method.detach()
    return torch.cat(gradients)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_no_matrix_is_kept_whole_for_the_backward(tiny_folders: dict[str, Path], quantization: str) -> None:
    folder = tiny_folders["llama"]

    kept = _kept_bytes(quantized(folder, quantization))

    assert kept <= _kept_bytes(load_backbone(str(folder), dtype="float32"))


def _kept_bytes(backbone: Backbone) -> int:
    method = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)
    own = {parameter.untyped_storage()._cdata for parameter in backbone.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = target_loss(backbone, method, training_batch(backbone))
    assert loss.nats.requires_grad
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


@pytest.mark.parametrize(("quantization", "nats"), [("bitsandbytes_8bit", 0.02), ("bitsandbytes_4bit", 0.1)])
def test_trained_weights_lose_little(quantization: str, nats: float) -> None:
    whole, backbone = load_backbone(dtype="float32"), quantized(Path("tiny_gpt2"), quantization)
    batch = whole.tokenizer(
        "In 1847 the old mill was built near the river, and it is a museum now.", return_tensors="pt"
    )

    def loss(of: Backbone) -> float:
        ids = batch.input_ids
        logits = of.model(input_ids=ids).logits[:, :-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))

    with torch.no_grad():
        assert loss(backbone) == pytest.approx(loss(whole), abs=nats)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_without_its_library_a_quantization_is_refused_with_the_command_that_installs_it(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, quantization: Any
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = BackboneSpec(path=str(tiny_folders["llama"]), device="cpu", quantization=quantization)

    assert f"pip install 'ptl-prefix[{LIBRARIES[quantization]}]'" in spec.weight_problems()[0]
    assert spec.load_shape().num_bytes > 0  # a dry run needs no library
    with pytest.raises(BackboneError, match=f"{quantization} needs {LIBRARIES[quantization]}"):
        spec.load()


def test_what_cannot_be_quantised_is_refused_by_name(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(tiny_folders["llama"], packed)
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (packed / "config.json").write_text(json.dumps(config))

    def problem(**settings: Any) -> str:
        (sentence,) = BackboneSpec(**{"device": "cpu", **settings}).problems()
        return sentence

    gpt2, llama = (str(tiny_folders[family]) for family in ("gpt2", "llama"))
    assert "`backbone.quantization`" in problem(path=gpt2, quantization="torchao_int8")
    assert "cpu, cuda where weights are quantised, but is mps" in problem(
        path=llama, quantization="bitsandbytes_4bit", device="mps"
    )
    assert "must hold weights that are not quantised yet" in problem(path=str(packed))
    with pytest.raises(BackboneError, match=r"torchao .* gpt2"):
        BackboneSpec(path=gpt2, device="cpu", quantization="torchao_int8").load_shape()
