"""The demo makes prefixes of three documents, serves them, asks them and ends."""

from pathlib import Path

import pytest
from support.command_lines import forked_command
from support.made_up_reports import made_up_report
from support.made_up_runs import make_run

from ptl_prefix.artifacts.document_report import REPORT_FILE, write_document_report
from ptl_prefix.artifacts.manifest import MANIFEST_FILE
from ptl_prefix.data.question_file import read_questions
from scripts import demo, demo_documents
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
    monkeypatch.setattr(demo, "COMMAND", [forked_command()])
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


def test_a_real_document_has_the_prefix_and_the_report_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = make_run(demo_documents.OUT / "manual/prefix-256", status="finished")
    examination = demo_documents.OUT / "manual/examination"
    examination.mkdir()
    write_document_report(examination / REPORT_FILE, made_up_report())
    asked = demo_documents.Asked("manual", Path("manual.txt"), Path("manual.jsonl"))

    report = demo_documents.distil_real(asked, Path("bundles"))

    assert report == made_up_report()
    assert (Path("bundles/manual") / MANIFEST_FILE).read_bytes() == (trained.bundle / MANIFEST_FILE).read_bytes()


def test_real_documents_need_a_backbone_that_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        demo_documents.main(["--real"])

    assert "--real needs --backbone smollm2" in capsys.readouterr().err
