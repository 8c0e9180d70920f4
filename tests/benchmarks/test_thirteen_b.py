"""The benchmark of a 13B backbone: its weights are what they stand for, and every phase is measured."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.quantized_backbones import tensor_bytes
from support.toy_batches import EQUAL
from torch import Tensor
from transformers import LlamaForCausalLM

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.shape import LlamaSpec
from ptl_prefix.settings import defaults_of

SMALL = {
    "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192,
}  # fmt: skip


def small_backbone(seed: int) -> tuple[LlamaSpec, Backbone]:
    pytest.importorskip("bitsandbytes")
    from benchmarks.random_nf4 import random_nf4_backbone

    held = {"dtype": "float32", "device": "cpu", "quantization": "bitsandbytes_4bit"}
    spec = LlamaSpec(**defaults_of("backbone/llama_13b") | SMALL | held)
    return spec, random_nf4_backbone(spec, seed=seed)


def dequantised(backbone: Backbone) -> Any:
    """The same model without quantisation, whose matrices have the numbers that the codes stand for."""
    from bitsandbytes.functional import dequantize_4bit

    def whole(parameter: Any) -> Tensor:
        state = getattr(parameter, "quant_state", None)
        return parameter.data if state is None else dequantize_4bit(parameter.data, state)

    model = LlamaForCausalLM(backbone.config)
    model.load_state_dict({name: whole(parameter) for name, parameter in backbone.model.named_parameters()})
    return model.eval()


@pytest.mark.slow
def test_random_codes_stand_for_weights_of_llama_s_initial_size() -> None:
    spec, backbone = small_backbone(seed=0)
    ids = torch.arange(20, 32)[None]

    model = dequantised(backbone)

    assert backbone.num_bytes == spec.load_shape().num_bytes == tensor_bytes(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone.logits(ModelInputs(ids, torch.ones_like(ids))), model(ids).logits, **EQUAL)
    for weight in (model.model.layers[1].mlp.up_proj.weight, model.lm_head.weight):
        matrix = weight.detach()
        assert float(matrix.std()) == pytest.approx(backbone.config.initializer_range, rel=0.05)
        assert abs(float(matrix.mean())) < 0.002


@pytest.mark.slow
def test_a_seed_is_an_identity() -> None:
    one, same, other = (small_backbone(seed)[1].identity for seed in (0, 0, 1))

    assert one == same
    assert one.weights_fingerprint != other.weights_fingerprint


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_three_prefixes_are_trained_and_served_in_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    from benchmarks import thirteen_b

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["--layers", "2", "--width", "128", "--prefix-lengths", "2", "3", "5", "--dtype", "float32"]

    thirteen_b.main([*words, "--json", str(tmp_path / "report.json")])

    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["num_in_batch"] == 3
    names = [phase["name"] for phase in report["phases"]]
    assert names == ["build", "hash", *(f"train, prefix of {n}" for n in (2, 3, 5)), "serve 3 in one batch"]
    for phase in report["phases"]:
        assert 0 < phase["estimated_bytes"] < 2**25
        # A process that ran other tests may hold enough memory already, and may give some of it back meanwhile.
        assert phase["measured_bytes"] < phase["process_bytes"]
        assert len(phase["step_s"]) == (2 if "train" in phase["name"] else 0)
    for bundle in report["bundles"]:
        assert bundle["num_stored"] == 2 * 2 * 128 * bundle["prefix_length"]
        assert bundle["file_bytes"] > 4 * bundle["num_stored"]
        assert bundle["losses"][1] < bundle["losses"][0]
