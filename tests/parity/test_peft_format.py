"""An adapter that PEFT wrote computes the same here, and one that we wrote computes the same there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    CartridgeConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from support.toy_batches import EQUAL, train, unpadded
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.peft_folder import PeftAdapter, read_peft, write_peft
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.adapter import Adapter
from ptl_prefix.methods.gated_prefix import GatedPrefix
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.peft import PeftTuner
from ptl_prefix.methods.peft_format import from_peft, to_peft
from ptl_prefix.methods.prompt_tuning import PromptTuning

# PEFT 0.21 asks transformers by a name that is on its way out.
# It also warns of layers that it does not merge, and of projections that are made again from their seed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning"),
]


def tuner(kind: str, **settings: Any) -> PeftTuner:
    return PeftTuner(name=kind, peft_type=kind, settings=settings)


OURS: dict[str, Callable[[], Method]] = {
    "prefix": lambda: PrefixTuning(prefix_length=4, reparam="mlp", reparam_hidden_size=8),
    "cartridge": lambda: PrefixTuning(prefix_length=4, reparam="none", frozen_sink=True),
    "prompt": lambda: PromptTuning(prompt_length=4),
    "lora": lambda: LoRA(rank=2, alpha=6.0, dropout=0.1),
    "dora": lambda: LoRA(rank=2, use_dora=True),
    "rslora": lambda: LoRA(rank=2, use_rslora=True),
    "ia3": IA3,
    "ln_tuning": lambda: tuner("ln_tuning"),
    "vera": lambda: tuner("vera", r=4),
}
THEIRS: dict[str, Callable[[], Any]] = {
    "prefix": lambda: PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8
    ),
    "cartridge": lambda: CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, num_frozen_tokens=2),
    "prompt": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=6, lora_dropout=0.1, layers_to_transform=[1]),
    "dora": lambda: LoraConfig(task_type="CAUSAL_LM", r=2, use_dora=True),
    "rslora": lambda: LoraConfig(task_type="CAUSAL_LM", r=2, use_rslora=True, init_lora_weights="gaussian"),
    "ia3": lambda: IA3Config(task_type="CAUSAL_LM"),
    "ln_tuning": lambda: LNTuningConfig(task_type="CAUSAL_LM"),
    "vera": lambda: VeraConfig(task_type="CAUSAL_LM", r=4, d_initial=0.5),
}
VIRTUAL = {"prompt"}
"""Kinds whose rows PEFT returns logits for."""


@pytest.fixture
def folder(backbone: Backbone, tiny_folders: dict[str, Path]) -> Path:
    """The folder of the backbone, which PEFT's model is loaded from."""
    return tiny_folders[backbone.family]


def bare_model(folder: Path) -> Any:
    """A model of its own for PEFT."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def their_logits(theirs: Any, kind: str) -> Tensor:
    inputs = unpadded()
    logits: Tensor = theirs(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
    return logits[:, 4:] if kind in VIRTUAL else logits


@torch.no_grad()
def our_logits(backbone: Backbone, method: Method) -> Tensor:
    return backbone.logits(method.condition(unpadded()))


def in_order(settings: dict[str, Any]) -> dict[str, Any]:
    """PEFT keeps the names of modules in no order."""
    return {key: sorted(value) if key == "target_modules" else value for key, value in settings.items()}


@pytest.mark.parametrize("kind", OURS)
def test_peft_opens_what_we_trained_and_what_it_holds_comes_back_the_same(
    kind: str, backbone: Backbone, folder: Path, tmp_path: Path
) -> None:
    bare = backbone.model(unpadded().input_ids).logits
    method = OURS[kind]().attach(backbone)
    train(backbone, method, steps=2)
    method.eval()
    expected, (settings, tensors) = our_logits(backbone, method), method.export()

    write_peft(tmp_path / "adapter", to_peft(method))
    theirs = PeftModel.from_pretrained(bare_model(folder), str(tmp_path / "adapter")).eval()

    assert_close(their_logits(theirs, kind), expected, **EQUAL)
    assert not torch.allclose(expected, bare, atol=1e-3)
    method.detach()
    again = from_peft(read_peft(tmp_path / "adapter"), backbone)
    assert_close(our_logits(backbone, again), expected, rtol=0, atol=0)
    same_settings, same = again.export()
    assert in_order(same_settings) == in_order(settings)
    assert same.keys() == tensors.keys() and all(torch.equal(same[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", THEIRS)
def test_what_peft_trained_computes_the_same_here(kind: str, backbone: Backbone, folder: Path, tmp_path: Path) -> None:
    config = THEIRS[kind]()
    config.fan_in_fan_out = backbone.family == "gpt2"
    torch.manual_seed(0)
    theirs: Any = get_peft_model(bare_model(folder), config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.eval().save_pretrained(tmp_path)

    method = from_peft(read_peft(tmp_path), backbone)

    assert_close(our_logits(backbone, method), their_logits(theirs, kind), **EQUAL)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: PrefixTuning(prefix_length=2, reparam="none", layers=[0]),
            "into all layers, but `method.layers` is [0]",
        ),
        (lambda: PrefixTuning(prefix_length=2, reparam="none", position_law="infix"), "is infix"),
        (lambda: PrefixTuning(prefix_length=2, reparam="none", position_law="unshifted"), "is unshifted"),
        (lambda: Adapter(bottleneck_size=2), "has none of 'adapter';"),
        (lambda: GatedPrefix(prefix_length=2), "has none of 'gated_prefix' (its ADAPTION_PROMPT has one gate"),
    ],
)
def test_what_peft_cannot_express_is_refused_with_the_reason(
    make: Callable[[], Method], reason: str, tiny_folders: dict[str, Path]
) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), dtype="float32")

    with pytest.raises(ValueError) as refusal:
        to_peft(make().attach(backbone))

    assert reason in str(refusal.value)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_that_fall_out_of_windows_there_are_refused(kind: str, tiny_folders: dict[str, Path]) -> None:
    whole = load_backbone(str(tiny_folders["llama"]), dtype="float32")
    adapter = to_peft(OURS[kind]().attach(whole))
    windowed = load_backbone(str(tiny_folders["mistral"]), dtype="float32")

    with pytest.raises(BundleError, match="fall out of the attention windows"):
        from_peft(adapter, windowed)
    with pytest.raises(ValueError, match="fall out of the attention windows"):
        to_peft(OURS[kind]().attach(windowed))


def test_a_prefix_of_three_sites_is_refused(encoder_decoder: Backbone) -> None:
    with pytest.raises(ValueError, match="into the decoder's own attention alone"):
        to_peft(PrefixTuning(prefix_length=2, reparam="none").attach(encoder_decoder))


@pytest.mark.parametrize(
    ("kind", "changes", "fact"),
    [
        ("lora", {"peft_type": "ADALORA"}, "`peft_type` in its adapter_config.json is 'ADALORA'"),
        ("lora", {"init_lora_weights": "pissa"}, "`init_lora_weights`"),
        ("lora", {"rank_pattern": {"c_attn": 4}}, "`rank_pattern`"),
        ("lora", {"bias": "all"}, "`bias`"),
        ("lora", {"a_setting_of_tomorrow": 3}, "`a_setting_of_tomorrow`"),
        ("lora", {"r": 5}, "names or shapes differ"),
        ("lora", {"r": "two"}, "`method.rank`"),
        ("lora", {"modules_to_save": ["lm_head"]}, "`modules_to_save`"),
        ("prefix", {"num_virtual_tokens": 5}, "of shape [5, "),
        ("prefix", {"num_virtual_tokens": None}, "of a PREFIX_TUNING for gpt2"),
        ("ia3", {"feedforward_modules": ["nowhere"]}, "`method.feedforward_modules`"),
    ],
)
def test_an_adapter_that_would_compute_otherwise_is_refused(
    kind: str, changes: dict[str, Any], fact: str, tiny_folders: dict[str, Path]
) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")
    method = OURS[kind]().attach(backbone)
    adapter = to_peft(method)
    method.detach()

    with pytest.raises(BundleError) as refusal:
        from_peft(PeftAdapter({**adapter.config, **changes, "a_new_one_that_is_off": False}, adapter.tensors), backbone)

    assert fact in str(refusal.value)
    OURS[kind]().attach(backbone)  # nothing is left on the backbone


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    for content in (None, "{", "[]"):
        if content is not None:
            (tmp_path / "adapter_config.json").write_text(content)
        with pytest.raises(BundleError, match="must be a folder with adapter_config"):
            read_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(BundleError, match="save it with PEFT's save_pretrained"):
        read_peft(tmp_path)


def test_a_tuner_that_peft_cannot_open_is_refused(backbone: Backbone) -> None:
    shira = tuner("shira", r=1).attach(backbone)
    with pytest.raises(ValueError, match="PEFT stores the indices of a shira"):
        to_peft(shira)
    shira.detach()

    miss = tuner("miss", r=4).attach(backbone)

    if backbone.family == "gpt2":
        with pytest.raises(ValueError, match="PEFT's miss takes torch's linear modules alone"):
            to_peft(miss)
    else:
        assert from_peft_of(miss, backbone).peft_type == "miss"


def from_peft_of(method: PeftTuner, backbone: Backbone) -> PeftTuner:
    adapter = to_peft(method)
    method.detach()
    again = from_peft(adapter, backbone)
    assert isinstance(again, PeftTuner)
    return again


def test_projections_of_another_seed_are_refused(backbone: Backbone) -> None:
    method = tuner("vera", r=4).attach(backbone)
    adapter = to_peft(method)
    method.detach()
    foreign = torch.randn(4, 32)

    with pytest.raises(BundleError, match="are not those of its seed"):
        from_peft(PeftAdapter(adapter.config, {**adapter.tensors, "base_model.vera_A": foreign}), backbone)

    assert not any("vera" in name for name in backbone.model.state_dict())
