"""LoRA, its relatives and IA3: what holds of them beyond the contracts of every method."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import EQUAL, text_logits, train, training_batch, unpadded
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.attention_sites import attention_modules
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import linear_sites
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BackboneError, BundleError, RunError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.injected_layers import InjectedLayers
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.restore import restore
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.export import export_merged

WAYS: dict[str, Callable[[], InjectedLayers]] = {
    "lora": lambda: LoRA(rank=2, dropout=0.0),
    "dora": lambda: LoRA(rank=2, dropout=0.0, use_dora=True),
    "rslora": lambda: LoRA(rank=2, dropout=0.0, use_rslora=True),
    "ia3": IA3,
}


@pytest.fixture(params=sorted(WAYS))
def make(request: pytest.FixtureRequest) -> Callable[[], InjectedLayers]:
    """Makes one of the methods, without dropout."""
    return WAYS[request.param]


@pytest.fixture(params=["gpt2", "llama", "bart", "t5"])
def any_kind(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    """A tiny backbone of either kind of positions and of either kind of encoder-decoder."""
    return load_backbone(str(tiny_folders[request.param]), dtype="float32")


def numbers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestMerged:
    def test_the_backbones_own_weights_compute_the_same_and_are_then_as_before(
        self, make: Callable[[], InjectedLayers], any_kind: Backbone
    ) -> None:
        bare, method = numbers_of(any_kind.model), make().attach(any_kind)
        train(any_kind, method, steps=5)
        inputs = method.eval().condition(unpadded(backbone=any_kind))
        before = text_logits(any_kind, inputs)

        with method.merged():
            merged = text_logits(any_kind, inputs)
            assert numbers_of(any_kind.model).keys() == bare.keys()
            assert not any("peft" in type(module).__module__ for module in any_kind.model.modules())

        assert_close(merged, before, rtol=1e-4, atol=1e-4)
        assert_close(text_logits(any_kind, inputs), before, rtol=0, atol=0)
        method.detach()
        assert_close(numbers_of(any_kind.model), bare, rtol=0, atol=0)
        assert max(float((a - b).abs().max()) for a, b in zip(before, text_logits(any_kind, inputs), strict=True)) > 0.1

    def test_from_pretrained_opens_what_was_exported(
        self, make: Callable[[], InjectedLayers], any_kind: Backbone, tmp_path: Path
    ) -> None:
        method = make().attach(any_kind)
        train(any_kind, method, steps=3)
        inputs = method.eval().condition(unpadded(backbone=any_kind))
        before = text_logits(any_kind, inputs)

        export_merged(tmp_path / "model", backbone=any_kind, method=method)

        kind: Any = AutoModelForSeq2SeqLM if any_kind.is_encoder_decoder else AutoModelForCausalLM
        plain = kind.from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert (
            numbers_of(plain).keys() == numbers_of(load_backbone(str(tmp_path / "model"), dtype="float32").model).keys()
        )
        assert_close(
            text_logits(load_backbone(str(tmp_path / "model"), dtype="float32"), inputs), before, rtol=1e-4, atol=1e-4
        )

    def test_what_fails_inside_leaves_everything_as_it_was(self, backbone: Backbone) -> None:
        method = WAYS["lora"]().attach(backbone)
        train(backbone, method, steps=2)
        method.trainable_parameters()[next(iter(method.trainable_parameters()))].data.fill_(float("nan"))
        before = numbers_of(backbone.model)

        with pytest.raises(ValueError, match="NaN"), method.merged():
            pass

        assert_close(numbers_of(backbone.model), before, rtol=0, atol=0, equal_nan=True)

    def test_a_method_that_is_no_change_of_weights_is_refused_by_name(self, backbone: Backbone) -> None:
        method = PrefixTuning(prefix_length=2, reparam="none").attach(backbone)

        assert not method.can_be_merged
        with pytest.raises(ValueError, match="'prefix_tuning' does not"):
            method.merged()

    def test_a_folder_in_which_something_is_is_refused(self, backbone: Backbone, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years")

        with pytest.raises(RunError, match="new folder"):
            export_merged(tmp_path, backbone=backbone, method=WAYS["lora"]().attach(backbone))

        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class TestPrecision:
    @pytest.fixture
    def halved(self, tiny_folders: dict[str, Path]) -> Backbone:
        return load_backbone(str(tiny_folders["llama"]), dtype="bfloat16")

    def test_a_bfloat16_backbone_is_adapted_by_float32_numbers(
        self, make: Callable[[], InjectedLayers], halved: Backbone
    ) -> None:
        own = [site.module.get_parameter("weight") for site in linear_sites(halved)]
        method = make().attach(halved)

        losses = train(halved, method, steps=10)

        assert {parameter.dtype for parameter in method.trainable_parameters().values()} == {torch.float32}
        assert {weight.dtype for weight in own} == {torch.bfloat16}
        assert losses[-1] < losses[0] - 0.1
        assert halved.logits(method.condition(unpadded())).dtype == torch.bfloat16

    def test_the_lengths_of_rows_are_measured_in_float32(self, halved: Backbone) -> None:
        weights = {site.path: site.module.get_parameter("weight").float() for site in linear_sites(halved)}

        method = WAYS["dora"]().attach(halved)

        lengths = {
            name.removesuffix(".magnitude"): parameter.detach()
            for name, parameter in method.trainable_parameters().items()
            if name.endswith(".magnitude")
        }
        assert len(lengths) == 6
        assert_close(lengths, {path: weights[path].norm(dim=1) for path in lengths}, rtol=1e-6, atol=0)


def test_with_gradient_checkpointing_layers_run_twice_and_gradients_are_the_same(
    make: Callable[[], InjectedLayers], tiny_folders: dict[str, Path]
) -> None:
    def step(*, gradient_checkpointing: bool) -> tuple[dict[str, Any], int]:
        backbone = load_backbone(
            str(tiny_folders["gpt2"]), dtype="float32", gradient_checkpointing=gradient_checkpointing
        )
        torch.manual_seed(0)
        method, forwards = make().attach(backbone), list[nn.Module]()
        for module in attention_modules(backbone.model, backbone.config)["decoder_self"]:
            module.register_forward_pre_hook(lambda module, *_: forwards.append(module))
        target_loss(backbone, method, training_batch()).nats.backward()
        return {name: p.grad for name, p in method.trainable_parameters().items()}, len(forwards)

    (plain, num_plain), (again, num_again) = (step(gradient_checkpointing=on) for on in (False, True))

    assert (num_plain, num_again) == (3, 6)
    assert_close(again, plain, **EQUAL)


class TestMisfits:
    @pytest.fixture
    def shape(self, tiny_folders: dict[str, Path]) -> Backbone:
        path = str(tiny_folders["gpt2"])
        return BackboneSpec(**{**defaults_of("backbone/tiny_gpt2"), "name": "gpt2", "path": path}).load_shape()

    @pytest.mark.parametrize(
        ("method", "fact"),
        [
            (LoRA(target_modules=["q_proj"]), "'q_proj' is not one of gpt2's (c_attn, c_fc, c_proj)"),
            (LoRA(target_modules=["proj"]), "'proj' is not one of gpt2's"),
            (LoRA(target_modules=[]), "must name at least one linear module"),
            (LoRA(rank=33), "`method.rank` must be at most the width of every matrix, but is 33, and 'transformer.h.0"),
            (IA3(target_modules=["nowhere"]), "'nowhere' is not one of gpt2's"),
            (IA3(target_modules=["c_attn"], feedforward_modules=["mlp.c_proj"]), "(c_attn), but 'mlp.c_proj' is not"),
        ],
    )
    def test_problems_are_found_before_any_weights_load(self, shape: Backbone, method: Method, fact: str) -> None:
        (misfit,) = method.incompatibilities(shape)

        assert fact in misfit
        with pytest.raises(ValueError, match="must"):
            method.attach(shape)

    def test_the_widest_rank_fits(self, shape: Backbone) -> None:
        assert LoRA(rank=32).incompatibilities(shape) == []


class TestTargets:
    def adapted(self, method: InjectedLayers, backbone: Backbone) -> Iterator[str]:
        method.attach(backbone)
        return (name.rpartition(".")[0] for name in method.trainable_parameters())

    def test_a_longer_name_means_fewer_modules(self, tiny_folders: dict[str, Path]) -> None:
        backbone = load_backbone(str(tiny_folders["gpt2"]), dtype="float32")

        paths = set(self.adapted(LoRA(target_modules=["attn.c_proj", "c_fc"]), backbone))

        assert paths == {f"transformer.h.{layer}.{end}" for layer in range(3) for end in ("attn.c_proj", "mlp.c_fc")}

    def test_inputs_of_chosen_modules_are_multiplied(self, tiny_folders: dict[str, Path]) -> None:
        backbone = load_backbone(str(tiny_folders["llama"]), dtype="float32")

        method = IA3(target_modules=["q_proj", "o_proj"], feedforward_modules=["o_proj"]).attach(backbone)

        shapes = {name.split(".")[-2]: tuple(p.shape) for name, p in method.trainable_parameters().items()}
        assert shapes == {"q_proj": (48, 1), "o_proj": (1, 48)}


def test_a_second_one_is_refused_until_the_first_is_detached(
    make: Callable[[], InjectedLayers], backbone: Backbone
) -> None:
    first = make().attach(backbone)

    with pytest.raises(BackboneError, match="replaced already; detach the other method first"):
        IA3().attach(backbone)

    first.detach()
    IA3().attach(backbone)


class TestRestore:
    @pytest.fixture
    def bundle(self, make: Callable[[], InjectedLayers], backbone: Backbone, tmp_path: Path) -> Bundle:
        method = make().attach(backbone)
        train(backbone, method, steps=2)
        bundle = export_untasked(method.eval(), backbone, tmp_path / "bundle")
        method.detach()
        return bundle

    def test_text_is_written_by_a_restored_method(self, bundle: Bundle, backbone: Backbone) -> None:
        adaptation = restore(backbone, bundle)
        texts = adaptation.generate(["the cat", "a name : Wildwood"])

        adaptation.detach()

        assert len(texts) == 2
        assert not any("peft" in type(module).__module__ for module in backbone.model.modules())

    @pytest.mark.parametrize("comes_first", [True, False], ids=["first", "second"])
    def test_cannot_share_its_backbone_with_another_bundle(
        self, bundle: Bundle, backbone: Backbone, tmp_path: Path, comes_first: bool
    ) -> None:
        method = PrefixTuning(prefix_length=2, reparam="none").attach(backbone)
        prefix = export_untasked(method, backbone, tmp_path / "prefix")
        method.detach()
        first, second = (bundle, prefix) if comes_first else (prefix, bundle)
        adaptation = restore(backbone, first)

        with pytest.raises(BackboneError, match=rf"Only one .* '{bundle.manifest.method}' bundle"):
            restore(backbone, second)

        adaptation.detach()
        restore(backbone, second).detach()
        assert backbone.attachments == []

    def test_foreign_tensors_are_refused_and_leave_nothing(self, bundle: Bundle, backbone: Backbone) -> None:
        name, tensor = next(iter(bundle.tensors.items()))
        before = numbers_of(backbone.model)
        for tensors in ({**bundle.tensors, name: tensor[None]}, {**bundle.tensors, "another": tensor}, {}):
            with pytest.raises(BundleError, match="must have the settings and tensors of its method"):
                restore(backbone, Bundle(bundle.manifest, tensors))

        assert_close(numbers_of(backbone.model), before, rtol=0, atol=0)
