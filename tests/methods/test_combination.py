"""Methods at work together: which may be, that each has its whole effect, and that nothing of one gets lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.method_nodes import method_node, new_method
from support.no_task import export_untasked
from support.toy_batches import EQUAL, text_logits, train, unpadded
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BackboneError, BundleError
from ptl_prefix.methods.combination import Combination
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.restore import load_bundle, restore
from ptl_prefix.training.optimization import Optimization

PARTS: dict[str, Callable[[], Method]] = {
    "prefix": lambda: PrefixTuning(prefix_length=3, reparam="none"),
    "infix": lambda: PrefixTuning(prefix_length=3, reparam="none", position_law="infix"),
    "prompt": lambda: new_method("prompt_tuning", prompt_length=3),
    "gated": lambda: new_method("gated_prefix", prefix_length=3),
    "plus": lambda: new_method("prefix_plus"),
    "lora": lambda: LoRA(rank=2, dropout=0.0),
    "ia3": lambda: new_method("ia3"),
    "adapter": lambda: new_method("adapter", bottleneck_size=4),
    "bitfit": lambda: new_method("bitfit"),
    "full": lambda: new_method("full_finetuning"),
}
TOGETHER = [
    ("prefix", "lora"),
    ("lora", "prefix"),
    ("infix", "lora"),
    ("prefix", "adapter"),
    ("prefix", "full"),
    ("prompt", "ia3"),
    ("prompt", "bitfit"),
    ("gated", "lora"),
    pytest.param(("adapter", "plus"), marks=pytest.mark.slow),
    ("lora", "adapter"),
    ("adapter", "full"),
    ("prompt", "lora", "adapter"),
]
COLLIDING = [
    ("prefix", "prompt", "attention slots"),
    ("gated", "plus", "attention slots"),
    ("lora", "ia3", "weights"),
    ("lora", "full", "weights"),
    ("bitfit", "full", "weights"),
]


def together(*names: str) -> Combination:
    """A combination of fresh parts."""
    torch.manual_seed(0)
    return Combination(name="both", parts={name: PARTS[name]() for name in names})


@pytest.fixture(params=["gpt2", pytest.param("bart", marks=pytest.mark.slow)])
def either(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    """A tiny decoder-only backbone, and an encoder-decoder."""
    return load_backbone(str(tiny_folders[request.param]), dtype="float32")


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_with_the_others_neutralized_a_part_computes_as_alone(
    names: tuple[str, ...], either: Backbone, tmp_path: Path
) -> None:
    if _does_not_fit(names, either):
        return
    method = together(*names).attach(either)
    train(either, method, steps=3)
    numbers = {name: tensor.detach().clone() for name, tensor in method.trainable_parameters().items()}
    inputs = unpadded(backbone=either)
    conditioned = method.eval().condition(inputs)
    positions, whole = conditioned.position_ids, text_logits(either, conditioned)
    export_untasked(method, either, tmp_path / "bundle")
    method.detach()

    for name in names:
        adaptation = load_bundle(tmp_path / "bundle", either)
        both: Any = adaptation.method
        for other in set(names) - {name}:
            both.parts[other].neutralize()
        silent = text_logits(either, both.condition(inputs))
        adaptation.detach()
        alone = PARTS[name]().attach(either)
        alone.load_trainable_parameters(
            {key.split("/")[1]: n for key, n in numbers.items() if key.startswith(f"{name}/")}
        )
        expected = text_logits(either, alone.eval().condition(inputs).replace(position_ids=positions))
        alone.detach()

        assert_close(silent, expected, **EQUAL)
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(whole, silent, strict=True))


def _does_not_fit(names: tuple[str, ...], backbone: Backbone) -> bool:
    if "infix" not in names or not backbone.is_encoder_decoder:
        return False
    (misfit,) = together(*names).incompatibilities(backbone)
    assert misfit.startswith("`method.parts.infix.position_law` must be unshifted in encoder-decoders")
    return True


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_a_bundle_computes_what_was_exported_and_the_backbone_comes_back(
    names: tuple[str, ...], either: Backbone, tmp_path: Path
) -> None:
    if _does_not_fit(names, either):
        return
    inputs = unpadded(backbone=either)
    bare = text_logits(either, inputs)
    method = together(*names).attach(either)
    first, last = train(either, method, steps=8)[::7]
    before = text_logits(either, method.eval().condition(inputs))
    export_untasked(method, either, tmp_path / "bundle")
    method.detach()
    assert last < first
    assert all(torch.equal(a, b) for a, b in zip(text_logits(either, inputs), bare, strict=True))

    restored = load_bundle(tmp_path / "bundle", either)

    assert_close(text_logits(either, restored.method.condition(inputs)), before, **EQUAL)
    restored.detach()
    assert all(torch.equal(a, b) for a, b in zip(text_logits(either, inputs), bare, strict=True))


def test_an_encoder_may_read_a_prompt_while_its_layers_have_a_prefix(tiny_folders: dict[str, Path]) -> None:
    t5 = load_backbone(str(tiny_folders["t5"]), dtype="float32")

    assert together("prompt", "prefix").incompatibilities(t5) == []


@pytest.mark.parametrize(("one", "other", "resource"), COLLIDING)
def test_parts_that_share_an_exclusive_resource_are_refused_by_name(
    backbone: Backbone, one: str, other: str, resource: str
) -> None:
    if "bitfit" in (one, other) and backbone.family == "llama":
        return  # without biases that is refused for another reason
    with pytest.raises(ValueError, match=rf"'{one}' \(\w+\) and '{other}' \(\w+\) both use the {resource} of"):
        together(one, other).attach(backbone)


def test_a_failed_attach_leaves_the_backbone_unchanged(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    method = together("prefix", "lora")
    with monkeypatch.context() as patch:
        patch.setattr(LoRA, "_attach", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            method.attach(backbone)

    assert not method.is_attached
    assert not any(part.is_attached for part in method.parts.values())  # type: ignore[union-attr]
    method.attach(backbone)


@pytest.mark.parametrize(
    ("parts", "fact"),
    [
        ({"lora": PARTS["lora"]()}, "there is 1"),
        ({"lora": PARTS["lora"](), "other": {"rank": 3}}, "'other' is none"),
        ({"lora": PARTS["lora"](), "both": together("prefix", "adapter")}, "'both' is none"),
    ],
)
def test_parts_are_two_methods_or_more(parts: dict[str, Any], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        Combination(parts=parts)


def test_every_part_has_its_own_learning_rate_unless_one_is_chosen(backbone: Backbone) -> None:
    method = together("prefix", "lora").attach(backbone)

    own = Optimization().optimizer(method.lr_groups()).param_groups
    chosen = Optimization(lr=0.5).optimizer(method.lr_groups()).param_groups

    parts = list(method.parts.values())
    assert [group["lr"] for group in own] == [part.default_lr for part in parts]
    assert own[0]["lr"] != own[1]["lr"]
    assert [group["lr"] for group in chosen] == [0.5, 0.5]
    moving = {id(parameter) for group in own for parameter in group["params"]}
    assert moving == {id(parameter) for parameter in method.trainable_parameters().values()}


@pytest.mark.parametrize(
    ("names", "mode"), [(("prefix", "lora"), "eval"), (("adapter", "full"), "train"), (("prefix", "full"), "eval")]
)
def test_the_base_has_dropout_where_every_part_would_have_it(names: tuple[str, ...], mode: str) -> None:
    assert together(*names).base_mode == mode


def test_a_combination_cannot_share_its_backbone(backbone: Backbone, tmp_path: Path) -> None:
    method = together("prefix", "adapter").attach(backbone)
    export_untasked(method.eval(), backbone, tmp_path / "bundle")
    method.detach()
    load_bundle(tmp_path / "bundle", backbone)

    with pytest.raises(BackboneError, match=r"Only one .* 'combination' bundle"):
        load_bundle(tmp_path / "bundle", backbone)


def test_a_bundle_whose_part_does_not_fit_leaves_nothing_behind(backbone: Backbone, tmp_path: Path) -> None:
    method = together("lora", "prefix").attach(backbone)
    export_untasked(method.eval(), backbone, tmp_path / "bundle")
    method.detach()
    bundle = read_bundle(tmp_path / "bundle")
    inputs = unpadded(backbone=backbone)
    bare = text_logits(backbone, inputs)
    del bundle.tensors["prefix/decoder_self.keys"]

    with pytest.raises(BundleError, match="does not"):
        restore(backbone, bundle)

    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, inputs), bare, strict=True))


def test_a_config_states_every_setting_of_every_part() -> None:
    node = method_node("prefix_lora", parts={"second": {"rank": 7}})

    assert node["parts"]["second"] == method_node("lora", rank=7)
    assert node["parts"]["first"] == method_node("prefix_tuning", prefix_length=30)
