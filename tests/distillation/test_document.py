"""A document in tokens: its chunks, the one that a question is about, and how often each part is read."""

import itertools
from pathlib import Path

import pytest

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.token_spans import token_spans
from ptl_prefix.distillation.coverage import coverage_notes, coverage_of, planned_chunks
from ptl_prefix.distillation.document import StudyDocument
from ptl_prefix.errors import BackboneError

SUBJECTS = ["The miller", "A baker", "Ünal's wife", "The city's oldest inn", "A pub — by the river —"]
TEXT = "\n\n".join(f"## Part {n}\n\n{SUBJECTS[n % 5]} has {n} cats. They sleep a lot! Do they?" for n in range(30))


@pytest.fixture(scope="module")
def document(tiny_folders: dict[str, Path]) -> StudyDocument:
    from ptl_prefix.backbones.spec import load_backbone

    return StudyDocument(TEXT, load_backbone(str(tiny_folders["llama"]), name="llama", dtype="float32"))


def test_tokens_lie_where_they_are_said_to(backbone: Backbone) -> None:
    spans = token_spans(backbone.tokenizer, "Café <eos> — ok")

    ids = backbone.tokenizer("Café <eos> — ok", add_special_tokens=False, split_special_tokens=True).input_ids
    assert len(spans) == len(ids)
    assert backbone.tokenizer.eos_token_id not in ids
    assert (
        "".join("Café <eos> — ok"[first:end] for first, end in dict.fromkeys(spans)).replace(" ", "") == "Café<eos>—ok"
    )


def test_a_tokenizer_without_places_is_refused_by_name(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backbone.tokenizer), "is_fast", False)

    with pytest.raises(BackboneError, match=r"Tokenizer.* does not"):
        token_spans(backbone.tokenizer, "text")


def test_chunks_of_one_seed_are_the_same_and_begin_where_sentences_do(document: StudyDocument) -> None:
    chunks = list(itertools.islice(document.chunks(longest=80, shortest=40, seed=0), 60))

    assert chunks == list(itertools.islice(document.chunks(longest=80, shortest=40, seed=0), 60))
    assert chunks != list(itertools.islice(document.chunks(longest=80, shortest=40, seed=1), 60))
    assert all(0 <= first < end <= document.num_tokens and end - first <= 80 for first, end in chunks)
    beginnings = [document.text_of(chunk) for chunk in chunks]
    at_boundary = [text.startswith(("##", *SUBJECTS, "They", "Do")) for text in beginnings]
    assert sum(at_boundary) > 50


def test_long_chunks_are_drawn_more_often(document: StudyDocument) -> None:
    lengths = [end - first for first, end in itertools.islice(document.chunks(longest=100, shortest=20, seed=0), 300)]

    long, short = sum(length > 60 for length in lengths), sum(length <= 60 for length in lengths)
    # Of lengths in proportion to themselves, 2 in 3 are in the upper half; boundaries shorten some.
    assert long > 1.3 * short
    assert min(lengths) < 30


def test_chunks_cover_the_document_evenly(document: StudyDocument) -> None:
    counts = [0] * document.num_tokens
    for first, end in itertools.islice(document.chunks(longest=80, shortest=40, seed=3), 100):
        for place in range(first, end):
            counts[place] += 1

    mean = sum(counts) / len(counts)
    assert min(counts) > 0.3 * mean
    assert max(counts) < 2.5 * mean


def test_a_short_document_is_one_chunk(backbone: Backbone) -> None:
    short = StudyDocument("Two words", backbone)

    assert next(short.chunks(longest=512, shortest=256, seed=0)) == (0, short.num_tokens)
    assert short.best_chunk("Which?", longest=512) == (0, short.num_tokens)
    assert short.text_of((0, short.num_tokens)) == "Two words"


@pytest.mark.parametrize("number", [3, 17, 29])
def test_a_question_finds_its_chunk(document: StudyDocument, number: int) -> None:
    question = f"How many cats are there in part {number}, and who has them?"

    assert f"Part {number}\n" in document.text_of(document.best_chunk(question, longest=60))


def test_a_question_without_words_of_the_document_gets_its_beginning(document: StudyDocument) -> None:
    assert document.best_chunk("xyzzy?", longest=60)[0] == 0


@pytest.mark.parametrize(
    ("coverage", "per_chunk", "number", "expected"), [(5.0, 1, None, 50), (2.0, 2, None, 10), (5.0, 3, 7, 3)]
)
def test_the_coverage_or_the_number_decides_the_chunks(
    coverage: float, per_chunk: int, number: int | None, expected: int
) -> None:
    chunks = planned_chunks(itertools.repeat((0, 10)), 100, coverage=coverage, per_chunk=per_chunk, number=number)

    assert len(chunks) == expected


def test_a_low_coverage_is_told() -> None:
    assert coverage_of([(0, 50), (25, 75)], 200) == 0.5
    assert coverage_notes(5.0, 10, 200) == []
    assert "cover the document of 200 tokens 0.5 times; below 5" in coverage_notes(0.5, 2, 200)[0]
