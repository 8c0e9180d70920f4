"""The questions about three real documents: well-formed, balanced, and answered by the text."""

import lzma
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.real_documents import DocumentNotFoundError, RealDocument, real_documents
from ptl_prefix.data.question_file import read_questions

DOCUMENTS = {one.name: one for one in real_documents()}
# Said in other words by the page, or part of a longer name.
REWORDED = {"it is discarded", "the state of the trial", "it is released", "they are pruned"}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_half_of_the_questions_have_choices_and_no_place_is_favoured(document: RealDocument) -> None:
    file = read_questions(document.questions)

    assert len(file.questions) == len({one.question for one in file.questions}) == 30
    choices = [one for one in file.questions if one.choices]
    assert [len(one.choices) for one in choices] == [4] * 15
    assert sorted(Counter(one.correct for one in choices).values()) == [3, 4, 4, 4]
    assert {one.document for one in file.questions} == {document.title or document.path}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_answer_is_in_the_text(document: RealDocument, request: pytest.FixtureRequest) -> None:
    if not document.path:
        request.getfixturevalue("data_folder")
    text = " ".join(document.text().split()).lower()

    for one in read_questions(document.questions).questions:
        answer = one.answers[0].lower()
        for article in ("the ", "a ", "in "):
            answer = answer.removeprefix(article)
        assert answer in text or one.answers[0] in REWORDED, one


def test_an_article_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PTL_PREFIX_DATA", raising=False)
    with pytest.raises(DocumentNotFoundError, match=r"'Sip Canal' is read from .* but the variable is not set"):
        DOCUMENTS["sip_canal"].text()
    monkeypatch.setenv("PTL_PREFIX_DATA", str(tmp_path))
    with pytest.raises(DocumentNotFoundError, match="but there is none"):
        DOCUMENTS["sip_canal"].text()
    corpus = tmp_path / DOCUMENTS["sip_canal"].corpus
    corpus.parent.mkdir()
    corpus.write_bytes(lzma.compress(b'{"title": "Sip Canal", "text": "another version"}\n'))
    with pytest.raises(DocumentNotFoundError, match="has another one"):
        DOCUMENTS["sip_canal"].text()
