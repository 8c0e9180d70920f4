"""Retention: the loss on text that is not the task's, of the same tokens for every method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_backbones import save_tiny_backbone
from support.toy_batches import train

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.evaluation.evaluate import EvaluationSettings
from ptl_prefix.evaluation.retention import (
    RetentionText,
    RetentionUnmeasurableError,
    measure_retention,
    read_retention_text,
)
from ptl_prefix.methods.no_adaptation import NoAdaptation

DOCUMENTS = ("the cat sat on a mat, and the dog " * 20, "a house", "x")
TEXT = RetentionText(DOCUMENTS, version="test")


def windows(backbone: Backbone) -> list[list[int]]:
    """The ids of the documents in windows, without any that has nothing to predict."""
    ids = backbone.prompter(PromptFormat()).tokenize_sources(DOCUMENTS)
    # Half of a short context window; T5 has none.
    width = 32 if backbone.max_positions else 128
    parts = [list(one)[start : start + width] for one in ids for start in range(0, len(one), width)]
    assert len(parts) > 3
    return [part for part in parts if len(part) > 1]


@torch.no_grad()
def test_the_loss_is_that_of_each_window_written_out(backbone: Backbone) -> None:
    start = backbone.prompter(PromptFormat(before="", between="", after="{eos}")).before_ids
    nats, tokens = 0.0, 0
    for ids in windows(backbone):
        model: Any = backbone.model
        logits = model(torch.tensor([[*start, *ids]])).logits[0, len(start) :]
        nats += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))
        tokens += len(ids) - 1

    bare = NoAdaptation().attach(backbone)

    assert measure_retention(backbone, bare, TEXT, batch_size=2) == pytest.approx(nats / tokens, rel=1e-5)


@torch.no_grad()
def test_an_encoder_decoder_predicts_the_second_half_of_each_window(encoder_decoder: Backbone) -> None:
    backbone = encoder_decoder
    prompter = backbone.prompter(PromptFormat(before="", between="", after="{eos}"))
    nats, tokens = 0.0, 0
    for ids in windows(backbone):
        half = len(ids) // 2
        written = [*(prompter.decoder_start_ids or []), *ids[half:]]
        model: Any = backbone.model
        source = torch.tensor([[*prompter.before_ids, *ids[:half], *prompter.between_ids]])
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([written])).logits[0, -len(ids[half:]) - 1 : -1]
        nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[half:]), reduction="sum"))
        tokens += len(ids) - half

    bare = NoAdaptation().attach(backbone)

    assert measure_retention(backbone, bare, TEXT, batch_size=2) == pytest.approx(nats / tokens, rel=1e-5)


def test_a_trained_method_changes_the_loss_and_leaves_no_trace(backbone: Backbone) -> None:
    before = measure_retention(backbone, NoAdaptation().attach(backbone), TEXT, batch_size=4)
    method = PrefixTuning(prefix_length=30, reparam="none").attach(backbone)
    train(backbone, method, steps=5, lr=0.1)

    adapted = measure_retention(backbone, method, TEXT, batch_size=4)

    assert abs(adapted - before) > 1e-3
    assert method.training
    method.detach()
    assert measure_retention(backbone, NoAdaptation().attach(backbone), TEXT, batch_size=4) == before


def test_a_method_that_leaves_too_few_positions_is_told(backbone: Backbone) -> None:
    method = PrefixTuning(prefix_length=40, reparam="none").attach(backbone)

    with pytest.raises(RetentionUnmeasurableError, match=r"a window of 32 tokens must fit .* leaves 24"):
        measure_retention(backbone, method, TEXT, batch_size=4)


def test_paragraphs_are_documents_and_so_are_lines_without_any_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("One\nparagraph.\n\n\nAnother # one.\n", encoding="utf-8")
    paragraphs = read_retention_text(str(file))
    file.write_text("A line.\nAnother.\n", encoding="utf-8")
    lines = read_retention_text(str(file))

    assert paragraphs.documents == ("One paragraph.", "Another # one.")
    assert lines.documents == ("A line.", "Another.")
    assert len({paragraphs.info.version, lines.info.version, read_retention_text(None).info.version}) == 3


def test_the_packages_text_is_plain_sentences_without_its_heading() -> None:
    documents = read_retention_text(None).documents

    assert len(documents) >= 30
    assert all(one.endswith(".") and "#" not in one for one in documents)


def test_a_long_text_is_measured_on_windows_from_all_of_it(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_tiny_backbone("gpt2", tmp_path)), dtype="float32")
    bare = NoAdaptation().attach(backbone)
    quiet = "the cat " * 500
    long = RetentionText((quiet * 3, "qzx vkj " * 4000), version="long")

    ends_otherwise = measure_retention(backbone, bare, long, batch_size=32)

    assert ends_otherwise != pytest.approx(
        measure_retention(backbone, bare, RetentionText((quiet,), version="q"), batch_size=32), rel=1e-3
    )


def test_a_file_is_checked_before_weights_load(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "text").write_text("A cat.", encoding="utf-8")

    def problems(name: str, *, retention: bool = True) -> list[str]:
        return EvaluationSettings(retention=retention, retention_file=str(tmp_path / name)).problems()

    assert problems("text") == []
    assert "is empty" in problems("empty")[0]
    assert "must be a text file in UTF-8" in problems("latin")[0]
    assert "must be a text file in UTF-8" in problems("nowhere")[0]
    assert problems("text", retention=False)[0].startswith(
        "`evaluation.retention_file` must be null unless `evaluation.retention` is true, but is "
    )
