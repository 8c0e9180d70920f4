"""Adapters on released models have equal logits in PEFT and here, whichever of the two trained them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from support.released_models import released_model
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.peft_folder import read_peft, write_peft
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.gguf_file import GgufFile
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.peft_format import from_peft, to_peft

pytestmark = [
    pytest.mark.slow,
    # PEFT 0.21 asks transformers by a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

TEXT = "name : The Golden Mill | kind : pub ## The Golden Mill is a pub."
THEIRS: dict[str, Callable[[], Any]] = {
    "prefix": lambda: PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=32
    ),
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
}
OURS: dict[str, Callable[[], Method]] = {
    "prefix": lambda: PrefixTuning(prefix_length=5, reparam="mlp", reparam_hidden_size=32),
    "lora": lambda: LoRA(rank=4, alpha=8.0),
}
CLOSE = {"rtol": 1e-5, "atol": 1e-4}
"""The logits of these models are tens: their last bit in float32 is some 1e-6."""
LEARNS = {"prefix": 1e-2, "lora": 1e-3}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with released_model("smollm2", "run `make smollm2`", tmp_path_factory) as path:
        yield path


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    advice = "read its terms, see conf/backbone/gemma3_270m.yaml"
    with released_model("gemma3_270m", advice, tmp_path_factory) as path:
        yield path


def ids_of(backbone: Backbone) -> list[int]:
    ids: list[int] = backbone.tokenizer(TEXT).input_ids
    return ids


@torch.no_grad()
def our_logits(backbone: Backbone, method: Method) -> Tensor:
    return backbone.logits(method.condition(prompt_batch([ids_of(backbone)], Padding(0))))


@torch.no_grad()
def their_logits(theirs: Any, ids: list[int]) -> Tensor:
    logits: Tensor = theirs(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
    return logits


def their_training(folder: Path, kind: str, ids: list[int], out: Path) -> Any:
    """A few steps as somebody writes them who only knows PEFT and transformers."""
    torch.manual_seed(0)
    theirs: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), THEIRS[kind]())
    optimizer = torch.optim.AdamW([one for one in theirs.parameters() if one.requires_grad], lr=LEARNS[kind])
    rows = torch.tensor([ids])
    losses = []
    for _ in range(4):
        loss = theirs(input_ids=rows, attention_mask=torch.ones_like(rows), labels=rows).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    theirs.eval().save_pretrained(out)
    return theirs


def check_theirs_here(path: str, kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(path, dtype="float32", device="cpu")
    bare = their_logits(backbone.model, ids_of(backbone))
    theirs = their_training(GgufFile(path).folder, kind, ids_of(backbone), tmp_path)

    ours = our_logits(backbone, from_peft(read_peft(tmp_path), backbone))

    expected = their_logits(theirs, ids_of(backbone))
    assert_close(ours, expected, **CLOSE)
    assert (expected - bare).abs().max() > 0.1


def check_ours_there(path: str, kind: str, tmp_path: Path) -> None:
    backbone = load_backbone(path, dtype="float32", device="cpu")
    bare = their_logits(backbone.model, ids_of(backbone))
    torch.manual_seed(0)
    method = OURS[kind]().attach(backbone)
    optimizer = torch.optim.AdamW(list(method.trainable_parameters().values()), lr=LEARNS[kind])
    targets = torch.tensor(ids_of(backbone)[1:])
    for _ in range(3):
        logits = backbone.logits(method.condition(prompt_batch([ids_of(backbone)], Padding(0))))
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    write_peft(tmp_path / "adapter", to_peft(method.eval()))
    expected = our_logits(backbone, method)

    model = AutoModelForCausalLM.from_pretrained(GgufFile(path).folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()

    assert_close(their_logits(theirs, ids_of(backbone)), expected, **CLOSE)
    assert (expected - bare).abs().max() > 0.1


@pytest.mark.parametrize("kind", THEIRS)
def test_what_peft_trained_on_smollm2_computes_the_same_here(kind: str, smollm2: str, tmp_path: Path) -> None:
    check_theirs_here(smollm2, kind, tmp_path)


@pytest.mark.parametrize("kind", OURS)
def test_what_we_trained_on_smollm2_computes_the_same_in_peft(kind: str, smollm2: str, tmp_path: Path) -> None:
    check_ours_there(smollm2, kind, tmp_path)


def test_lora_on_gemma_computes_the_same_here_and_in_peft(gemma: str, tmp_path: Path) -> None:
    check_theirs_here(gemma, "lora", tmp_path / "theirs")
    check_ours_there(gemma, "lora", tmp_path / "ours")


def test_gemma_answers_and_its_windows_refuse_a_prefix_for_peft(gemma: str) -> None:
    backbone = load_backbone(gemma, dtype="float32", device="cpu")
    ids = backbone.tokenizer("The capital of France is", return_tensors="pt").input_ids

    written = backbone.model.generate(ids, max_new_tokens=3, do_sample=False)

    assert "Paris" in backbone.tokenizer.decode(written[0, ids.shape[1] :])
    with pytest.raises(ValueError, match="fall out of the attention windows"):
        to_peft(OURS["prefix"]().attach(backbone))
