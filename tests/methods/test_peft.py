"""Tuners of PEFT: which are offered, which settings they have, and what a bundle holds of them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import EQUAL, text_logits, train, unpadded
from torch.testing import assert_close

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import norm_sites
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.peft import PeftTuner
from ptl_prefix.methods.peft_tuners import TUNERS, tuner_problems
from ptl_prefix.methods.restore import load_bundle, restore

SMALL: dict[str, dict[str, Any]] = {
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 4},
    "fourierft": {"n_frequency": 40},
    "gralora": {"r": 4},
    "hira": {"r": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8},
    "peanut": {"r": 4},
    "randlora": {"r": 4},
    "road": {"group_size": 4},
    "shira": {"r": 2},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 40},
}
"""Settings that fit the tiny backbones, where PEFT's defaults do not."""


def tuner(peft_type: str, **settings: Any) -> PeftTuner:
    return PeftTuner(name=peft_type, peft_type=peft_type, settings=settings or SMALL.get(peft_type, {}))


@pytest.mark.parametrize(
    ("peft_type", "sentence"),
    [
        ("p_tuning", "but is 'p_tuning'; use method=prompt_tuning."),
        ("PREFIX_TUNING", "but is 'PREFIX_TUNING'; use method=prefix_tuning."),
        ("lora", "but is 'lora'; use method=lora."),
        ("adalora", "but is 'adalora', which needs more than a bundle of its trained parameters; choose another."),
        ("VERA", "but is 'VERA'; write it in lower case."),
        ("veda", "but is 'veda'."),
    ],
)
def test_a_tuner_that_is_not_offered_is_refused_with_the_way_out(peft_type: str, sentence: str) -> None:
    (problem,) = tuner_problems(peft_type, {"r": 3})

    assert problem == f"`method.peft_type` must be one of {', '.join(TUNERS)}, {sentence}"


def test_every_mistake_in_the_settings_is_told_at_once() -> None:
    settings = {"rr": 4, "r": "four", "bias": "all", "vera_dropout": 0.1, "target_modules": ["q"]}

    problems = tuner_problems("vera", settings)

    assert problems == [
        "`method.settings.bias` is not a setting, as a method trains no parameter of the backbone; method=bitfit "
        "trains the biases; remove it.",
        "`method.settings.target_modules` is not a setting, as it is `method.target_modules`; remove it.",
        "`method.settings.rr` is not a setting of VeraConfig; did you mean r?",
        "`method.settings.r` must be int, but is 'four'.",
    ]


@pytest.mark.parametrize(
    ("peft_type", "settings", "fact"),
    [
        ("vera", {"r": 0}, "`method.settings.r` must be >= 1 and <= 65536, but is 0."),
        ("shira", {"r": 2**40}, f"`method.settings.r` must be >= 1 and <= 65536, but is {2**40}."),
        ("vera", {"vera_dropout": 1.0}, "`method.settings.vera_dropout` must be >= 0 and < 1, but is 1.0."),
        ("lokr", {"decompose_factor": -2}, "`method.settings.decompose_factor` must be >= -1 and <= 65536, but is -2."),
        ("oft", {"r": 4}, "PEFT's OFTConfig, but: "),
    ],
)
def test_a_value_out_of_range_is_refused(peft_type: str, settings: dict[str, Any], fact: str) -> None:
    (problem,) = tuner_problems(peft_type, settings)

    assert fact in problem


def test_what_does_not_fit_the_modules_is_told_of_the_shape_alone(tiny_folders: dict[str, Path]) -> None:
    shape = BackboneSpec(name="gpt2", path=str(tiny_folders["gpt2"])).load_shape()
    state = torch.random.get_rng_state()

    (problem,) = tuner("miss", r=33).incompatibilities(shape)

    assert problem.startswith("`method.settings` must fit the modules of gpt2, but PEFT's miss refuses them: `r` (33)")
    assert tuner("miss", r=32).incompatibilities(shape) == []
    assert torch.equal(torch.random.get_rng_state(), state)


def test_layer_norm_names_its_own_modules(backbone: Backbone) -> None:
    method = PeftTuner(name="ln", peft_type="ln_tuning", target_modules=["c_attn"])

    assert (
        "must name normalisation layers of the backbone, but 'c_attn' is not" in method.incompatibilities(backbone)[0]
    )

    tuner("ln_tuning").attach(backbone)

    assert norm_sites(backbone) != []


def test_what_is_drawn_from_a_seed_is_the_same_for_every_dtype(tiny_folders: dict[str, Path]) -> None:
    drawn = []
    for dtype in ("float32", "bfloat16"):
        method = tuner("vera").attach(load_backbone(str(tiny_folders["llama"]), dtype=dtype))
        drawn.append(method.drawn_tensors())

    assert drawn[0] and drawn[0].keys() == drawn[1].keys()
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


@pytest.mark.parametrize("peft_type", ["shira", "vera"])
def test_a_bundle_makes_again_what_was_drawn_or_is_refused(peft_type: str, backbone: Backbone, tmp_path: Path) -> None:
    method = tuner(peft_type).attach(backbone)
    drawn = method.drawn_tensors()
    export_untasked(method, backbone, tmp_path / "bundle")
    method.detach()
    bundle = read_bundle(tmp_path / "bundle")

    restored = restore(backbone, bundle)

    again = restored.method
    assert isinstance(again, PeftTuner)
    assert drawn and all(torch.equal(again.drawn_tensors()[name], tensor) for name, tensor in drawn.items())
    restored.detach()
    settings = {
        **bundle.manifest.settings,
        "drawn": {name: 1.00001 * total for name, total in bundle.manifest.settings["drawn"].items()},
    }
    with pytest.raises(BundleError, match="is not what the bundle was trained with"):
        restore(backbone, dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, settings=settings)))
    assert not any("base_layer" in name for name, _ in backbone.model.named_modules())


def test_a_transposed_matrix_is_not_copied(tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders["gpt2"]), dtype="float32")
    path = "transformer.h.0.attn.c_attn"
    own: Any = backbone.model.get_submodule(path)
    inputs = unpadded(backbone=backbone)
    bare = text_logits(backbone, inputs)

    method = tuner("vera").attach(backbone)

    layer: Any = backbone.model.get_submodule(path)
    assert layer.base_layer.weight.data_ptr() == own.weight.data_ptr()
    assert_close(text_logits(backbone, method.condition(inputs)), bare, **EQUAL)
    method.detach()
    assert backbone.model.get_submodule(path) is own


def test_a_tuner_cannot_be_merged(backbone: Backbone) -> None:
    method = tuner("vera").attach(backbone)

    with pytest.raises(ValueError, match="must be LoRA, IA3 or fine-tuning to be merged"), method.merged():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("peft_type", TUNERS)
def test_every_tuner_trains_and_its_bundle_computes_the_same(
    peft_type: str, backbone: Backbone, tmp_path: Path
) -> None:
    method = tuner(peft_type).attach(backbone)
    losses = train(backbone, method, steps=20, lr=3e-2)
    method.eval()
    inputs = unpadded(backbone=backbone)
    expected = text_logits(backbone, method.condition(inputs))
    export_untasked(method, backbone, tmp_path / "bundle")
    method.detach()
    bare = text_logits(backbone, inputs)

    restored = load_bundle(tmp_path / "bundle", backbone)

    assert losses[-1] < losses[0] - 0.1
    assert_close(text_logits(backbone, restored.method.condition(inputs)), expected, **EQUAL)
    assert any((row - other).abs().max() > 1e-2 for row, other in zip(expected, bare, strict=True))
