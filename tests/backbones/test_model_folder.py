"""A model folder: only its own weights are loaded, and what does not belong together is refused before they are."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.tiny_backbones import VOCABULARY, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones import choose_source
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.fingerprints import first_fingerprints_of
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.errors import BackboneError, PtlPrefixError
from ptl_prefix.settings import defaults_of

IDS = torch.tensor([[5, 6, 7, 8]])
POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""


def spec_of(path: Path) -> BackboneSpec:
    return BackboneSpec(**{**defaults_of("backbone/tiny_gpt2"), "path": str(path), "dtype": "float32"})


@pytest.fixture
def folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny GPT-2 that a test may damage."""
    return Path(shutil.copytree(tiny_folders["gpt2"], tmp_path / "copy"))


@pytest.fixture(scope="module")
def whole(tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders["gpt2"]), dtype="float32")


def refusal(folder: Path) -> str:
    """The sentence that a dry run says, without weights, and that loading raises too."""
    (problem,) = spec_of(folder).problems()
    with pytest.raises(BackboneError) as caught:
        spec_of(folder).load()
    assert str(caught.value) == problem
    return problem


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**values, **changes}))


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def leave_the_tokenizers_settings(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


def empty_the_vocabulary(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    special = {"<unk>": 0, "<eos>": 1}
    tokenizer = Tokenizer(models.WordLevel(special, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)


def cut_a_layer_off(folder: Path) -> None:
    edit(folder, n_layer=2)


def add_a_foreign_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "score.weight": torch.zeros(2)}, folder / "model.safetensors", metadata={"format": "pt"})


def add_a_layer(folder: Path) -> None:
    edit(folder, n_layer=4)


def widen(folder: Path) -> None:
    edit(folder, n_inner=16)


def add_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))


def name_a_file_outside(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"transformer.wte.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pad_beyond_the_embeddings(folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.save_pretrained(folder)


def nest_deeply(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": ' + "[" * 3000 + "]" * 3000 + "}")


def say_it_is_an_encoder_decoder(folder: Path) -> None:
    edit(folder, is_encoder_decoder=True)


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (remove_tokenizer, "has no tokenizer file"),
        (leave_the_tokenizers_settings, "tokenizer"),
        (empty_the_vocabulary, "must turn ordinary words into ids that are neither special nor unknown"),
        (cut_a_layer_off, "tensors that no layer of its config.json takes, transformer.h.2."),
        (add_a_foreign_tensor, "1 tensors that no layer of its config.json takes, score.weight"),
        (add_a_layer, "lacks 12 tensors, transformer.h.3."),
        (widen, "mlp.c_fc.bias is [128] there, and [16] by the config"),
        (add_an_index, "has both model.safetensors and model.safetensors.index.json"),
        (name_a_file_outside, "must name files of its folder"),
        (pad_beyond_the_embeddings, f"the `pad_token` of '{{folder}}' is {VOCABULARY}"),
        (nest_deeply, "is nested more than"),
        (say_it_is_an_encoder_decoder, "could not be loaded"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_folder_that_is_no_whole_model_is_refused_before_weights_load(
    folder: Path, damage: Callable[[Path], None], fact: str
) -> None:
    damage(folder)

    assert fact.replace("{folder}", str(folder)) in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_file_that_git_lfs_did_not_fetch_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text(POINTER)

    assert f"'{folder / name}' is a Git LFS pointer" in refusal(folder)


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "n_inner", "num_labels"])
@pytest.mark.parametrize("value", [-1, 0, 10**12, 2.5, "3", True])
def test_an_impossible_size_is_refused_before_anything_is_allocated(folder: Path, name: str, value: Any) -> None:
    edit(folder, **{name: value})

    assert f"as `{name}`, but has {value!r}" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("layer_norm_epsilon", -1e-5), ("layer_norm_epsilon", 0), ("attn_pdrop", 1.5), ("initializer_range", math.nan)],
)
def test_an_impossible_number_is_refused(folder: Path, name: str, value: float) -> None:
    edit(folder, **{name: value})

    assert f"as `{name}`, but has {value!r}" in refusal(folder)


def add_an_adapter(folder: Path) -> None:
    """What transformers would load into the model without a word."""
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["c_attn"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "fan_in_fan_out": True}))
    tensors = {
        f"base_model.model.transformer.h.{layer}.attn.c_attn.lora_{part}.weight": torch.ones(shape)
        for layer in range(3)
        for part, shape in (("A", (2, 32)), ("B", (96, 2)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")


def add_a_second_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, folder / "consolidated.safetensors")


def add_a_variant(folder: Path) -> None:
    add_a_second_file(folder)
    (folder / "consolidated.safetensors").rename(folder / "model.fp16.safetensors")


def point_to_other_weights(folder: Path) -> None:
    add_a_second_file(folder)
    edit(folder, transformers_weights="consolidated.safetensors")


def ask_for_another_attention(folder: Path) -> None:
    edit(folder, _attn_implementation="eager", attn_implementation="eager")


@pytest.mark.parametrize(
    "addition",
    [add_an_adapter, add_a_second_file, add_a_variant, point_to_other_weights, ask_for_another_attention],
    ids=lambda value: value.__name__,
)
def test_what_lies_beside_the_weights_is_not_loaded(
    folder: Path, whole: Backbone, addition: Callable[[Path], None]
) -> None:
    addition(folder)

    backbone = spec_of(folder).load()

    assert torch.equal(backbone.model(IDS).logits, whole.model(IDS).logits)
    assert backbone.config._attn_implementation == whole.config._attn_implementation == "sdpa"
    assert backbone.identity.weights_fingerprint == whole.identity.weights_fingerprint
    assert backbone.identity.config_fingerprint == whole.identity.config_fingerprint
    assert bool(spec_of(folder).notes) == (folder / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"activation_function": "relu"}, False),
        ({"layer_norm_epsilon": 1e-3}, False),
        ({"scale_attn_weights": False}, False),
        ({"scale_attn_by_inverse_layer_idx": True}, False),
        ({"attn_pdrop": 0.5, "use_cache": False, "architectures": None, "initializer_range": 0.5}, True),
    ],
)
def test_the_fingerprint_covers_what_a_forward_pass_depends_on(
    folder: Path, whole: Backbone, changes: dict[str, Any], same: bool
) -> None:
    edit(folder, **changes)

    changed = spec_of(folder).load()

    assert torch.equal(changed.model(IDS).logits, whole.model(IDS).logits) == same
    assert (changed.identity.config_fingerprint == whole.identity.config_fingerprint) == same


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "spiece.model", "vocab.txt"])
def test_the_fingerprint_covers_every_file_of_the_tokenizer(folder: Path, whole: Backbone, name: str) -> None:
    (folder / name).write_text("{}")

    assert load_backbone(str(folder)).identity.tokenizer_fingerprint != whole.identity.tokenizer_fingerprint


def test_a_bundle_without_a_fingerprint_of_the_config_is_compared_by_the_files_of_its_time(
    folder: Path, whole: Backbone
) -> None:
    save_file({"extra": torch.ones(2)}, folder / "extra.safetensors")
    (folder / "special_tokens_map.json").write_text("{}")
    first = first_fingerprints_of(folder)
    old = dataclasses.replace(whole.identity, **first._asdict())

    backbone = load_backbone(str(folder))

    assert backbone.identity_like(old).weights_fingerprint == first.weights_fingerprint
    assert backbone.identity_like(old).tokenizer_fingerprint == first.tokenizer_fingerprint
    assert backbone.identity.weights_fingerprint == whole.identity.weights_fingerprint != first.weights_fingerprint
    assert backbone.identity_like(whole.identity) == backbone.identity


def test_text_whose_ids_are_no_rows_is_refused_when_it_is_encoded(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    prompter = load_backbone(str(folder)).prompter(PromptFormat(between=" ="))

    assert prompter.encode_source("a horse")
    with pytest.raises(BackboneError, match=f"but the tokenizer gives {VOCABULARY}"):
        prompter.encode_target("a zebra")


def test_a_hub_name_is_on_this_machine_only_if_it_was_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_source.fetched_path(str(folder)) == str(folder)
    assert choose_source.fetched_path("tiny_gpt2") == "tiny_gpt2"
    assert choose_source.fetched_path("somebody/model") is None
    assert choose_source.fetched_path("not a name of a hub\n") is None

    monkeypatch.setattr(choose_source, "cached_file", lambda path, name, **_: str(folder / name))
    assert choose_source.fetched_path("somebody/model") == str(folder)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 40)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["gelu", "llama", "bart", "float16", "eager"])
    | st.lists(st.integers(-2, 3), max_size=3)
    | st.dictionaries(st.sampled_from(["type", "rope_type", "factor"]), st.integers(-2, 3) | st.text(max_size=3))
)
GPT2_KEYS = (
    "activation_function add_cross_attention architectures attn_pdrop bos_token_id dtype embd_pdrop eos_token_id "
    "is_decoder is_encoder_decoder layer_norm_epsilon model_type n_embd n_head n_inner n_layer n_positions num_labels "
    "pad_token_id pruned_heads quantization_config reorder_and_upcast_attn resid_pdrop scale_attn_weights "
    "summary_type tie_word_embeddings tokenizer_class torch_dtype use_cache vocab_size"
)
LLAMA_KEYS = (
    "attention_bias head_dim hidden_act hidden_size intermediate_size max_position_embeddings mlp_bias model_type "
    "num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps rope_parameters rope_scaling "
    "rope_theta sliding_window layer_types vocab_size"
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize(("family", "keys"), [("gpt2", GPT2_KEYS), ("llama", LLAMA_KEYS)])
def test_any_value_in_a_config_is_refused_in_words_or_harmless(
    tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, family: str, keys: str, data: st.DataObject
) -> None:
    copy = tmp_path_factory.getbasetemp() / f"any-config-{family}"
    if not copy.exists():
        shutil.copytree(tiny_folders[family], copy)
    shutil.copy(tiny_folders[family] / "config.json", copy / "config.json")
    edit(copy, **{data.draw(st.sampled_from(keys.split())): data.draw(VALUES)})

    try:
        backbone = spec_of(copy).load()
    except PtlPrefixError:
        return
    with torch.no_grad():
        assert backbone.model(IDS).logits.isfinite().all()
