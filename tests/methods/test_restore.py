"""From a bundle to a backbone that can be asked: which bundles are refused, and how several share a backbone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.no_task import export_untasked
from support.tiny_backbones import save_tiny_backbone
from support.toy_batches import text_logits, train, unpadded

from ptl_prefix import PrefixTuning, load_bundle
from ptl_prefix.artifacts.bundle import Bundle, read_bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.restore import method_class, restore

SOURCES = ["the cat", "a pub in the city", "name : Wildwood"]


def exported(backbone: Backbone, folder: Path, *, seed: int = 0, **decoding: Any) -> Path:
    """A bundle of a prefix, trained for three steps; the backbone is given back."""
    torch.manual_seed(seed)
    method = PrefixTuning(prefix_length=2 + seed, reparam="none").attach(backbone)
    train(backbone, method, steps=3)
    export_untasked(method.eval(), backbone, folder, **decoding)
    method.detach()
    return folder


@pytest.fixture
def bundle(backbone: Backbone, tmp_path: Path) -> Bundle:
    """A bundle that fits the backbone."""
    return read_bundle(exported(backbone, tmp_path / "bundle"))


def _with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    import dataclasses

    return Bundle(dataclasses.replace(bundle.manifest, **changes), bundle.tensors)


def test_other_weights_are_refused(bundle: Bundle, backbone: Backbone, tmp_path: Path) -> None:
    other = load_backbone(str(save_tiny_backbone(backbone.family, tmp_path / "other", seed=1)), dtype="float32")

    with pytest.raises(BundleError, match="weights"):
        restore(other, bundle)


def test_another_tokenizer_is_refused(
    bundle: Bundle, backbone: Backbone, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folders[backbone.family], tmp_path / "copy"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    with pytest.raises(BundleError, match="tokenizer"):
        restore(load_backbone(str(folder), dtype="float32"), bundle)


def test_another_family_is_refused(bundle: Bundle, backbone: Backbone, tiny_folders: dict[str, Path]) -> None:
    foreign = "llama" if backbone.family == "gpt2" else "gpt2"

    with pytest.raises(BundleError, match="family"):
        restore(load_backbone(str(tiny_folders[foreign]), dtype="float32"), bundle)


def test_the_same_backbone_from_another_place_in_another_dtype_is_welcome(
    bundle: Bundle, backbone: Backbone, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(tiny_folders[backbone.family], tmp_path / "moved"))

    adaptation = restore(load_backbone(str(moved), name="renamed", dtype="bfloat16"), bundle)

    assert len(adaptation.generate(SOURCES)) == len(SOURCES)


@pytest.mark.parametrize("kind", ["telepathy", "restore", "../method", ""])
def test_an_unknown_method_is_refused(bundle: Bundle, backbone: Backbone, kind: str) -> None:
    with pytest.raises(BundleError, match="must be one of this version, but"):
        restore(backbone, _with_manifest(bundle, method=kind))


@pytest.mark.parametrize("name", ["decoder_self.keys", "decoder_self.values"])
def test_a_bundle_that_lacks_a_tensor_is_refused_and_takes_nothing(
    bundle: Bundle, backbone: Backbone, name: str
) -> None:
    tensors = {key: tensor for key, tensor in bundle.tensors.items() if key != name}

    with pytest.raises(BundleError, match=f"does not: '{name}'"):
        restore(backbone, Bundle(bundle.manifest, tensors))

    assert not any(hasattr(module, "prefix_slot") for module in backbone.model.modules())


def test_a_tensor_of_another_shape_is_refused(bundle: Bundle, backbone: Backbone) -> None:
    cut = {name: tensor[:, :, :1] for name, tensor in bundle.tensors.items()}

    with pytest.raises(BundleError, match="size mismatch"):
        restore(backbone, Bundle(bundle.manifest, cut))


@pytest.mark.parametrize(
    "changes",
    [{"prefix_length": "2"}, {"prefix_length": 0}, {"unknown": 1}, {"sites": ["nowhere"]}, {"layers": [9]}],
    ids=str,
)
def test_settings_that_make_no_method_are_refused(bundle: Bundle, backbone: Backbone, changes: dict[str, Any]) -> None:
    settings = {**bundle.manifest.settings, **changes}

    with pytest.raises(BundleError, match="must have the settings and tensors of its method"):
        restore(backbone, _with_manifest(bundle, settings=settings))

    assert not any(hasattr(module, "prefix_slot") for module in backbone.model.modules())


def test_a_bundle_holds_plain_keys_and_values_however_they_were_made(backbone: Backbone, tmp_path: Path) -> None:
    method = PrefixTuning(prefix_length=3, reparam="mlp", reparam_hidden_size=8).attach(backbone)

    export_untasked(method, backbone, tmp_path / "bundle")

    site = backbone.geometry["decoder_self"]
    tensors = load_file(tmp_path / "bundle" / "tensors.safetensors")
    shape = (site.num_layers, site.num_kv_heads, 3, site.head_dim)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "decoder_self.keys": shape,
        "decoder_self.values": shape,
    }


def test_two_prefix_bundles_on_one_backbone_generate_as_if_each_were_alone(backbone: Backbone, tmp_path: Path) -> None:
    folders = [exported(backbone, tmp_path / f"bundle{seed}", seed=seed) for seed in (0, 1)]
    alone, logits = [], []
    for folder in folders:
        adaptation = load_bundle(folder, backbone)
        alone.append(adaptation.generate(SOURCES))
        logits.append(text_logits(backbone, adaptation.method.condition(unpadded())))
        adaptation.detach()
    first, second = (load_bundle(folder, backbone) for folder in folders)

    for _ in range(2):
        for adaptation, texts, expected in zip((first, second), alone, logits, strict=True):
            assert adaptation.generate(SOURCES) == texts
            torch.testing.assert_close(
                text_logits(backbone, adaptation.method.condition(unpadded())), expected, rtol=0, atol=0
            )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first in, first out", "first in, last out"])
def test_adaptations_may_be_detached_in_any_order(backbone: Backbone, tmp_path: Path, order: tuple[int, int]) -> None:
    bare = text_logits(backbone, unpadded())
    both = [load_bundle(exported(backbone, tmp_path / f"bundle{seed}", seed=seed), backbone) for seed in (0, 1)]
    remaining = both[order[1]]
    answer = remaining.generate(SOURCES)

    both[order[0]].detach()
    assert remaining.generate(SOURCES) == answer
    remaining.detach()

    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, unpadded()), bare, strict=True))
    assert not any(hasattr(module, "prefix_slot") for module in backbone.model.modules())


def test_after_an_answer_the_slots_are_empty(bundle: Bundle, backbone: Backbone) -> None:
    bare = text_logits(backbone, unpadded())
    adaptation = restore(backbone, bundle)
    assert not adaptation.method.training

    adaptation.generate(SOURCES)

    torch.testing.assert_close(text_logits(backbone, unpadded()), bare, rtol=1e-5, atol=1e-5)


def test_a_source_too_long_for_the_positions_is_cut_to_fit_with_the_prefix(bundle: Bundle, backbone: Backbone) -> None:
    adaptation = restore(backbone, bundle)

    (written,) = adaptation.generate(["the cat sat on the mat " * 40])

    assert isinstance(written, str)


def test_decoding_may_be_changed_by_its_own_names(bundle: Bundle, backbone: Backbone) -> None:
    adaptation = restore(backbone, bundle)

    sampled = [adaptation.generate(SOURCES, do_sample=True, temperature=2.0, seed=seed) for seed in (1, 1, 2)]

    assert sampled[0] == sampled[1] != sampled[2]
    with pytest.raises(TypeError, match="beams"):
        adaptation.generate(SOURCES, beams=3)


def test_the_bare_backbone_has_no_bundle(bundle: Bundle, backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="nothing to export"):
        NoAdaptation().export()
    assert method_class("prefix_tuning") is PrefixTuning
