"""The demo makes prefixes of three documents, serves them, asks them and ends."""

from pathlib import Path

import pytest

from ptl_prefix.data.question_file import read_questions
from scripts import demo_documents
from scripts.demo_texts import DOCUMENTS

BRIEF = [
    "self_study.num_conversations=6",
    "self_study.general_share=0.2",
    "method.prefix_length=4",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
]


@pytest.mark.slow
def test_the_demo_shows_likelihoods_and_answers_of_three_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    demo_documents.main(["--out", str(tmp_path / "out"), "--requests", "2", *BRIEF])

    printed = capfd.readouterr().out
    for heading in ("no context", "the prefix", "attention matching", "bundle that answered", "reference"):
        assert heading in printed, heading
    for document in DOCUMENTS:
        assert f"in {tmp_path / 'out' / 'bundles' / document.name}" in printed
        fact = document.facts[0]
        assert fact.rest in printed and fact.beginning.split()[-1] in printed
    assert "of 6 questions went to their own document" in printed
    assert "The embedded backbone is too small to answer well" in printed
    assert "the server has ended" in printed


@pytest.mark.parametrize("is_chat", [False, True])
def test_every_sentence_of_a_made_up_document_is_asked_about(tmp_path: Path, is_chat: bool) -> None:
    for asked, document in zip(demo_documents.made_up_documents(tmp_path, is_chat=is_chat), DOCUMENTS, strict=True):
        text, questions = asked.document.read_text(), read_questions(asked.questions).questions

        assert len(questions) == len(document.facts) == 8
        for question in questions:
            assert question.question.endswith("?") == is_chat
            assert (f"{question.question} {question.answers[0]}" in text) != is_chat


def test_real_documents_need_a_backbone_that_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo_documents.main(["--real"])

    assert "--real needs --backbone smollm2" in capsys.readouterr().err
