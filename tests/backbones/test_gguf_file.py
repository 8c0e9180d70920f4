"""A GGUF file as a backbone: the converted folder holds the file's model, is made once, and whole or not at all."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from support.tiny_backbones import tiny_tokenizer
from support.tiny_gguf import ARCHITECTURES, TEMPLATE, save_tiny_gguf, tiny_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ptl_prefix.backbones import gguf_conversion
from ptl_prefix.backbones.attention_sites import FAMILIES
from ptl_prefix.backbones.choose_source import fetched_path, pretrained_files
from ptl_prefix.backbones.gguf_file import GgufFile
from ptl_prefix.backbones.gguf_header import read_header
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BackboneError, StorageError

IDS = torch.arange(3, 35)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user/ptl_prefix/gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were converted to."""
    usual, done = gguf_conversion._write_model, []

    def write(parts: Any, header: Any, folder: Path, of: str) -> None:
        done.append(folder)
        usual(parts, header, folder, of)

    monkeypatch.setattr(gguf_conversion, "_write_model", write)
    return done


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.float()(IDS).logits
    return found


def dequantised(model: PreTrainedModel, kind: gguf.GGMLQuantizationType) -> PreTrainedModel:
    """The model with the matrices that the file holds, in bfloat16."""
    with torch.no_grad():
        for parameter in model.parameters():
            values = parameter.detach().numpy()
            if values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
                values = gguf.dequantize(gguf.quantize(values, kind), kind)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)).bfloat16())
    return model


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_converted_model_computes_what_the_files_model_does(family: str, tmp_path: Path) -> None:
    file = save_tiny_gguf(tmp_path / "tiny.gguf", family)

    backbone = load_backbone(str(file), dtype="float32")

    assert backbone.path == str(file)
    assert backbone.model.config.model_type in FAMILIES
    assert torch.equal(logits(backbone.model), logits(tiny_model(family)))
    assert backbone.tokenizer("the cat sat é")["input_ids"] == tiny_tokenizer()("the cat sat é")["input_ids"]
    assert backbone.tokenizer.chat_template == TEMPLATE


def test_quantised_weights_become_bfloat16_ones_and_halves_stay(tmp_path: Path) -> None:
    # Qwen's matrices are not permuted, so that rows are quantised as they are here.
    stored = {}
    for kind in ("Q8_0", "BF16", "F16", "F32"):
        files = GgufFile(str(save_tiny_gguf(tmp_path / f"{kind}.gguf", "qwen3", kind=kind)))
        stored[kind] = json.loads((files.folder / "config.json").read_text())["dtype"]
    quantised = load_backbone(str(tmp_path / "Q8_0.gguf"), dtype="float32")

    assert stored == {"Q8_0": "bfloat16", "BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    expected = dequantised(tiny_model("qwen3"), gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(logits(quantised.model), logits(expected))


def test_scaled_rotary_positions_are_kept_or_refused(tmp_path: Path) -> None:
    theta, num = 10000.0, 6
    wavelengths = 2 * np.pi * theta ** (np.arange(num) / num)
    smooth = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    llama3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"original_max_position_embeddings": 8192, "rope_theta": theta}  # type: ignore[dict-item]
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": theta}
    keys = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}

    for rope, extra in ((llama3, {"factors": factors}), (linear, keys)):
        name = str(rope["rope_type"])
        file = save_tiny_gguf(tmp_path / f"{name}.gguf", settings={"rope_parameters": rope}, **extra)  # type: ignore[arg-type]
        found = load_backbone(str(file), dtype="float32").model
        torch.testing.assert_close(logits(found), logits(tiny_model("llama", rope_parameters=rope)))
        assert found.config.rope_parameters["factor"] == rope["factor"]

    other = save_tiny_gguf(tmp_path / "other.gguf", factors=np.linspace(1, 9, num, dtype=np.float32))
    with pytest.raises(BackboneError, match="must hold the factors of Llama 3's scaling"):
        load_backbone(str(other))
    yarn = save_tiny_gguf(tmp_path / "yarn.gguf", llama__rope__scaling__type="yarn")
    (problem,) = GgufFile(str(yarn)).problems()
    assert "scales its rotary positions in a way that is not converted ('yarn')" in problem


def test_plain_transformers_loads_the_folder_which_says_nothing_of_this_machine(file: Path, tmp_path: Path) -> None:
    folder = GgufFile(str(file)).folder

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert torch.equal(logits(model), logits(tiny_model("llama")))
    assert tokenizer("the cat")["input_ids"] == tiny_tokenizer()("the cat")["input_ids"]
    texts = {path.name: path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".jinja")}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= set(texts)
    assert not any(str(tmp_path.parent) in text or "name_or_path" in text or "local" in text for text in texts.values())
    config = json.loads(texts["config.json"])
    assert not {"quantization_config", "_attn_implementation", "attn_implementation"} & set(config)
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (0, 1, 2)
    assert sorted(path.name for path in folder.iterdir() if path.suffix not in (".json", ".jinja")) == [
        "model.safetensors"
    ]


def test_a_file_is_converted_once_wherever_it_lies(
    file: Path, cache: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert GgufFile(str(file)).problems() == []
    assert conversions == []
    assert not cache.exists()
    first = load_backbone(str(file), dtype="float32")
    said = capsys.readouterr().err
    copy = Path(shutil.copy(file, file.with_name("copy.GGUF")))

    second = load_backbone(str(copy), dtype="float32")

    assert len(conversions) == 1
    assert said.count("\n") == 1
    assert f"Converting {file} once, to a model folder of 0 MB in {cache}" in said
    assert capsys.readouterr().err == ""
    assert GgufFile(str(copy)).is_local
    assert GgufFile(str(copy)).problems() == []
    assert first.identity == dataclasses.replace(second.identity, path=str(file), name=first.name)
    (note,) = GgufFile(str(copy)).notes
    assert "its fingerprint is that of the dequantised weights" in note

    save_tiny_gguf(file, kind="Q8_0")
    third = load_backbone(str(file), dtype="float32")

    assert len(conversions) == 2
    assert third.identity.weights_fingerprint != first.identity.weights_fingerprint


def test_of_two_that_start_at_once_one_converts(
    file: Path, cache: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    header, together, done = read_header(file), threading.Barrier(2), []

    def start() -> None:
        together.wait(60)
        gguf_conversion.convert([file], header, cache / "one", of=str(file))
        done.append((cache / "one/model.safetensors").is_file())

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert done == [True, True]
    assert len(conversions) == 1
    assert capsys.readouterr().err.count("Converting") == 1


def test_a_conversion_that_is_killed_leaves_no_folder_and_is_done_anew(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        # The last step, when every file is written.
        monkeypatch.setattr(gguf_conversion, "PretrainedFiles", lambda path: (tmp_path / "m").touch() or time.sleep(60))
        try:
            GgufFile(str(file)).folder  # noqa: B018
        finally:
            os._exit(1)
    while not (tmp_path / "m").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert not GgufFile(str(file)).is_local
    (left,) = [path for path in cache.iterdir() if path.is_dir()]
    assert (left / "model.safetensors").is_file()

    backbone = load_backbone(str(file), dtype="float32")

    assert torch.equal(logits(backbone.model), logits(tiny_model("llama")))
    assert [path for path in cache.iterdir() if path.is_dir()] == [GgufFile(str(file)).folder]


def test_a_failed_conversion_leaves_nothing_and_is_one_sentence(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = save_tiny_gguf(tmp_path / "extra.gguf", settings={"attention_bias": True})
    with pytest.raises(BackboneError, match=r"a llama, but '.*extra\.gguf' has [\d,]+ weights, not [\d,]+; use"):
        load_backbone(str(extra))
    other = save_tiny_gguf(tmp_path / "other.gguf")
    # As many weights, but others.
    monkeypatch.setattr(gguf_conversion, "_left_out", lambda header: {"vocab_size": 288 * 32, "hidden_size": 1})
    monkeypatch.setattr(gguf_conversion, "build_shape", lambda config, **_: tiny_model("llama"))
    with pytest.raises(BackboneError, match=r"'.*other\.gguf' has \[\d+, 32\] as the shape of .*, not \[\d+, 1\]; use"):
        load_backbone(str(other))
    monkeypatch.setattr(gguf_conversion, "_tokenizer", lambda folder: {}["tokens"])
    with pytest.raises(BackboneError, match=r"other\.gguf' could not be converted: 'tokens'$"):
        load_backbone(str(other))

    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_full_disk_is_a_storage_error_before_and_while_converting(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", refuse)
        with pytest.raises(StorageError, match="is full") as caught:
            load_backbone(str(file))
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(gguf_conversion.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"which needs [\d,]+ bytes, but the disk is full"):
        load_backbone(str(file))

    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_the_form_of_a_path_chooses_its_source(file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()

    assert isinstance(pretrained_files(str(file)), GgufFile)
    assert isinstance(pretrained_files("package:dist/a.gguf"), GgufFile)
    assert not isinstance(pretrained_files(str(tmp_path / "folder.gguf")), GgufFile)
    assert not isinstance(pretrained_files("openai-community/gpt2"), GgufFile)
    assert fetched_path(str(file)) == str(file)
    assert fetched_path("package:dist/a.gguf") == "package:dist/a.gguf"
