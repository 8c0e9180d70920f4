"""The likelihood of labels: equal to the training loss of each pair, whatever conditions the prompts."""

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.method_nodes import new_method
from support.tiny_backbones import PAD
from support.toy_batches import random_ids, texts, train
from torch.testing import assert_close

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones import label_likelihood
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.label_likelihood import most_likely_labels
from ptl_prefix.backbones.label_tree import LabelSearch, LabelTree
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.settings import defaults_of

LABELS = [random_ids(length, seed=50 + length) for length in (1, 4, 2, 7)]
FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "bart", "t5"]
METHODS = {
    "none": NoAdaptation,
    "prefix": lambda: new_method("prefix_tuning", prefix_length=4, reparam="none"),
    "infix": lambda: new_method("prefix_tuning", prefix_length=4, reparam="none", position_law="infix"),
    "prompt": lambda: new_method("prompt_tuning", prompt_length=4),
    "lora": lambda: new_method("lora"),
    "adapter": lambda: new_method("adapter", bottleneck_size=4),
}


@pytest.fixture(params=FAMILIES)
def any_kind(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> Backbone:
    """Backbones that differ in positions, windows, scores and stacks."""
    from ptl_prefix.backbones.spec import load_backbone

    return load_backbone(str(tiny_folders[request.param]), dtype="float32")


def written_out(backbone: Backbone, method: Method) -> torch.Tensor:
    """Minus the training loss of each (prompt, label), one pair at a time."""
    start = backbone.prompter(PromptFormat()).decoder_start_ids

    def one(prompt: list[int], label: list[int]) -> float:
        row = EncodedRow(input_ids=[*prompt, *label], num_source_ids=len(prompt), example=0)
        with torch.no_grad():
            return -float(target_loss(backbone, method, collate_training([row], Padding(PAD, start))).nats)

    return torch.tensor([[one(prompt, label) for label in LABELS] for prompt in texts()])


@pytest.mark.parametrize("name", METHODS)
def test_labels_are_as_likely_as_training_finds_them(any_kind: Backbone, name: str) -> None:
    if name == "infix" and any_kind.is_encoder_decoder:
        return
    torch.manual_seed(0)
    method = METHODS[name]().attach(any_kind)
    if name != "none":
        train(any_kind, method, steps=2)
    method.eval()
    batch = prompt_batch(texts(), Padding(PAD, any_kind.prompter(PromptFormat()).decoder_start_ids))

    found = most_likely_labels(any_kind, method.condition(batch), LABELS)
    each = [most_likely_labels(any_kind, method.condition(batch), [label]) for label in LABELS]

    written = written_out(any_kind, method)
    assert [label.place for label in found] == written.argmax(1).tolist()
    assert_close(torch.tensor([[label.log_likelihood for label in of] for of in each]).T, written, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows_at_once", [1, 3, 7])
def test_how_many_beginnings_go_together_changes_nothing(
    backbone: Backbone, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = prompt_batch(texts(), Padding(PAD))
    together = most_likely_labels(backbone, batch, LABELS)

    monkeypatch.setattr(label_likelihood, "_ROWS_AT_ONCE", rows_at_once)

    for one, other in zip(most_likely_labels(backbone, batch, LABELS), together, strict=True):
        assert one == (other.place, pytest.approx(other.log_likelihood, abs=1e-5))


def test_the_backbones_mode_comes_back_and_dropout_stays_off(tiny_folders: dict[str, Path]) -> None:
    from ptl_prefix.backbones.spec import load_backbone

    backbone = load_backbone(str(tiny_folders["gpt2"]), dtype="float32", base_mode="train")
    batch = prompt_batch(texts(), Padding(PAD))

    first, second = (most_likely_labels(backbone, batch, LABELS) for _ in range(2))

    assert backbone.model.training
    assert first == second


TREES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12)
"""Labels that share beginnings, are the beginning of another, or are there twice."""


@given(labels=TREES, seed=st.integers(0, 2**16), most=st.integers(1, 3))
def test_the_search_finds_what_computing_everything_finds(labels: list[list[int]], seed: int, most: int) -> None:
    chance = random.Random(seed)
    tree = LabelTree(labels)
    tables = {ids: {next_id: math.log(chance.random()) for next_id in tree.next_ids[ids]} for ids in tree.next_ids}
    search = LabelSearch(tree)
    asked: list[tuple[int, ...]] = []

    while beginnings := search.next_beginnings(most):
        asked += beginnings
        for ids in beginnings:
            search.learn(ids, tables[ids])

    likelihoods = [sum(tables[tuple(ids[:place])][ids[place]] for place in range(len(ids))) for ids in labels]
    assert search.best == (likelihoods.index(max(likelihoods)), pytest.approx(max(likelihoods)))
    assert len(asked) == len(set(asked))


def test_labels_that_cannot_win_are_not_computed(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.model.get_output_embeddings().weight.mul_(30.0)  # else all ids are about as likely
    batch = prompt_batch(texts(), Padding(PAD))
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 5})
    likely = generate(backbone, batch, decoding, stop_ids=())
    labels = [*likely, *(random_ids(5, seed=seed) for seed in range(64))]
    positions: list[int] = []

    with backbone.model.register_forward_pre_hook(
        lambda _, args, given: positions.append(given["input_ids"].numel()), with_kwargs=True
    ):
        found = most_likely_labels(backbone, batch, labels)

    assert [labels[label.place] for label in found] == likely
    assert sum(positions) < len(labels) * 5
