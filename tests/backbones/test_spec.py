"""From a name to a backbone: what is refused and in which words, and what a loaded one says of itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_backbones import save_tiny_backbone, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ptl_prefix.backbones import spec as spec_module
from ptl_prefix.backbones.attention_sites import FAMILIES
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.source import EMBEDDED, PretrainedFiles
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import defaults_of


def spec_of(path: Path | str, **settings: Any) -> BackboneSpec:
    """A spec whose other settings are the defaults."""
    return BackboneSpec(**{**defaults_of("backbone/tiny_gpt2"), "path": str(path), **settings})


@pytest.fixture
def folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 that a test may damage."""
    return Path(shutil.copytree(tiny_folders["gpt2"], tmp_path / "copy"))


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _refusal(spec: BackboneSpec) -> str:
    """The one sentence that is found before anything loads, and that loading raises too."""
    (problem,) = spec.problems()
    with pytest.raises(BackboneError) as caught:
        spec.load()
    assert str(caught.value) == problem
    return problem


def test_a_backbone_that_works_has_no_problems(folder: Path) -> None:
    assert spec_of(folder).problems() == []
    assert all(not parameter.requires_grad for parameter in spec_of(folder).load().model.parameters())


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()

    assert "must be a folder with a config.json" in _refusal(spec_of(folder))


def test_a_folder_that_is_not_there_is_refused_and_not_taken_for_a_hub_name(tmp_path: Path) -> None:
    assert "must be a folder with a config.json" in _refusal(spec_of(tmp_path / "nowhere"))


def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    assert "must hold its weights as *.safetensors" in _refusal(spec_of(folder))


def test_a_foreign_family_is_refused_by_name_with_those_that_work(folder: Path) -> None:
    _edit(folder / "config.json", model_type="bert")

    refusal = _refusal(spec_of(folder))

    assert "'bert' is not one" in refusal
    assert all(family in refusal for family in FAMILIES)


@pytest.mark.parametrize("model_type", ["my_model", "gpt2"])
def test_code_that_comes_with_a_model_is_never_run(folder: Path, model_type: str) -> None:
    ran = folder / "ran"
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    _edit(folder / "config.json", model_type=model_type, auto_map=classes)

    if model_type in FAMILIES:
        assert type(spec_of(folder).load().model).__module__.startswith("transformers.")
    else:
        refusal = _refusal(spec_of(folder))
        assert all(family in refusal for family in FAMILIES)

    assert not ran.exists()


def test_a_hub_name_that_cannot_be_reached_is_refused_in_words() -> None:
    with pytest.raises(BackboneError, match="hub name that can be reached, but 'nobody/nothing' is none"):
        load_backbone("nobody/nothing")


def test_truncated_weights_are_refused_in_words(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(BackboneError, match="could not be loaded"):
        load_backbone(str(folder))


def test_weights_that_lack_a_tensor_are_refused_rather_than_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "h.1.attn.c_attn.weight" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )

    with pytest.raises(BackboneError, match=r"c_attn\.weight"):
        load_backbone(str(folder))


def test_weights_of_another_shape_than_the_config_says_are_refused_in_words(folder: Path) -> None:
    _edit(folder / "config.json", n_inner=16)

    with pytest.raises(BackboneError, match="could not be loaded"):
        load_backbone(str(folder))


def test_a_tokenizer_without_an_end_is_refused(folder: Path) -> None:
    nameless = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<bos>")
    nameless.save_pretrained(folder)

    with pytest.raises(BackboneError, match="must have an end-of-text token"):
        load_backbone(str(folder))


def test_mistakes_in_the_settings_are_named_together() -> None:
    with pytest.raises(ValueError, match=r"`backbone\.dtype` must be .*`backbone\.device` must be "):
        spec_of("tiny_gpt2", dtype="int8", device="tpu")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bfloat16_only_where_the_processor_multiplies_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(spec_module, "has_native_bfloat16", lambda device: native)

    backbone = spec_of(folder, dtype="auto").load()

    assert backbone.dtype == expected
    assert {parameter.dtype for parameter in backbone.model.parameters()} == {expected}


@pytest.mark.parametrize(("base_mode", "training"), [("eval", False), ("train", True)])
def test_the_mode_of_the_base_is_what_the_setting_says(folder: Path, base_mode: str, training: bool) -> None:
    backbone = spec_of(folder, base_mode=base_mode).load()

    assert {module.training for module in backbone.model.modules()} == {training}


def test_a_loaded_shape_has_no_weights(folder: Path) -> None:
    whole = spec_of(folder).load()
    (folder / "model.safetensors").unlink()

    sketch = spec_of(folder).load_shape()

    assert sketch.is_shape_only
    assert not whole.is_shape_only
    assert {parameter.device.type for parameter in sketch.model.parameters()} == {"meta"}
    assert (sketch.num_parameters, sketch.geometry) == (whole.num_parameters, whole.geometry)


def test_the_fingerprint_does_not_depend_on_the_dtype_that_weights_are_loaded_in(folder: Path) -> None:
    identities = {load_backbone(str(folder), dtype=dtype).identity for dtype in ("float32", "bfloat16", "float16")}

    assert len(identities) == 1


def test_the_fingerprint_does_not_depend_on_sharding(folder: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1

    assert _prints(load_backbone(str(sharded))) == _prints(load_backbone(str(folder)))


def test_a_changed_weight_changes_the_fingerprint_of_the_weights_alone(folder: Path, tmp_path: Path) -> None:
    other = save_tiny_backbone("gpt2", tmp_path / "other", seed=1)

    changed, first = _prints(load_backbone(str(other))), _prints(load_backbone(str(folder)))

    assert (changed[0] == first[0], changed[1] == first[1]) == (False, True)


def test_a_changed_tokenizer_changes_the_fingerprint_of_the_tokenizer_alone(folder: Path) -> None:
    before = _prints(load_backbone(str(folder)))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    after = _prints(load_backbone(str(folder)))

    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def _prints(backbone: Backbone) -> tuple[str, str]:
    return backbone.identity.weights_fingerprint, backbone.identity.tokenizer_fingerprint


def test_the_embedded_backbone_loads_by_its_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    backbone = load_backbone()

    assert (backbone.name, backbone.family, backbone.path) == ("tiny_gpt2", "gpt2", "tiny_gpt2")
    assert PretrainedFiles("tiny_gpt2").folder == EMBEDDED / "tiny_gpt2"


def test_the_name_of_a_backbone_is_its_folder_s_unless_another_is_given(folder: Path) -> None:
    assert load_backbone(str(folder)).name == "copy"
    assert load_backbone(str(folder), name="mine").name == "mine"


def test_padding_falls_back_to_the_end_of_text(folder: Path) -> None:
    padless = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="<eos>")
    padless.save_pretrained(folder)

    backbone = load_backbone(str(folder))

    assert backbone.pad_id == backbone.tokenizer.eos_token_id
