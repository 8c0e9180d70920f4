"""`ptl-prefix examine` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.command_lines import Invoke

from ptl_prefix.artifacts.document_report import read_document_report
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.document_examination import names_of

DOCUMENT = "the cat sat on a mat\n"
QUESTIONS: list[dict[str, Any]] = [
    {"question": "where", "answer": "a mat"},
    {"question": "who", "choices": ["cat", "dog"], "correct": 0},
]
SHORT = ("max_new_tokens=4", "resamples=20", "retention=false")


def write_files() -> tuple[str, str]:
    """The settings of a document and its questions, in the working directory."""
    Path("manual.txt").write_text(DOCUMENT, encoding="utf-8")
    Path("questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS), encoding="utf-8")
    return "document=manual.txt", "questions=questions.jsonl"


def test_a_run_is_examined_beside_its_controls(small_run: RunFolder, invoke: Invoke) -> None:
    files = write_files()
    Path("foreign.txt").write_text("stars and planets\n", encoding="utf-8")

    result = invoke("examine", small_run.path, *files, *SHORT, "foreign=foreign.txt", "out=seen")

    assert result.exit_code == 0, result.output
    report = read_document_report("seen/document.json")
    assert report.compared_to == "run"
    names = ["run", "no context", "first 3 tokens", "attention matching, 3 rows", "document"]
    assert [one.name for one in report.results] == names
    assert report.results[0].num_rows == 3
    assert report.gate is not None
    assert (report.gate.own.of, report.gate.foreign.of) == (len(QUESTIONS), 1)
    assert report.gate.foreign.refused == 1
    assert Path("seen/document.png").read_bytes().startswith(b"\x89PNG")
    assert result.stdout.splitlines()[-2:] == ["numbers: seen/document.json", "figure: seen/document.png"]


@pytest.mark.slow
def test_a_joined_bundle_is_examined_beside_one_alone_and_refuses_foreign_questions(
    small_run: RunFolder, invoke: Invoke
) -> None:
    files = write_files()
    Path("other.jsonl").write_text('{"question": "stars and planets", "answer": "a sky"}\n', encoding="utf-8")
    joined = invoke("join", small_run.path, small_run.path, "out=both", "max_loss_increase=100")
    assert joined.exit_code == 0, joined.output

    result = invoke("examine", small_run.path, "both", *files, *SHORT, "foreign=other.jsonl", "out=seen")

    assert result.exit_code == 0, result.output
    report = read_document_report("seen/document.json")
    assert [(one.name, one.num_rows) for one in report.results[:2]] == [("run", 3), ("both", 6)]
    assert "answer_loss" in report.result("both").differences
    assert report.gate is not None and report.gate.foreign.refused == report.gate.foreign.of == 1
    assert "foreign questions" in result.stdout


@pytest.mark.slow
def test_a_bare_backbone_is_asked_under_the_controls_about_an_article_of_quality(invoke: Invoke) -> None:
    question = {"question": "who", "options": ["cat", "dog"], "gold_label": 1}
    lines = [{"article_id": name, "article": DOCUMENT, "questions": [question]} for name in ("7", "8")]
    Path("quality").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    words = ("examine", "backbone=tiny_gpt2", "document='7'", "questions=quality", "lengths=[2]", *SHORT)
    result = invoke(*words)

    assert result.exit_code == 0, result.output
    report = read_document_report("outputs/examination/document.json")
    assert (report.document, report.compared_to) == ("7", "no context")
    assert report.num_questions == {"question with choices": 1}  # none of the other article
    assert [one.num_rows for one in report.results][2] == 2


def test_bundles_have_the_names_of_their_folders_where_these_differ() -> None:
    assert names_of(["runs/p64", "runs/p256"]) == ["p64", "p256"]
    assert names_of(["a/bundle", "b/bundle"]) == ["a/bundle", "b/bundle"]
    assert names_of(["runs/document"]) == ["runs/document"]


def test_what_cannot_be_asked_is_refused_before_anything_loads(small_run: RunFolder, invoke: Invoke) -> None:
    files = write_files()
    Path("foreign.txt").write_text("stars\n", encoding="utf-8")
    Path("empty.txt").write_text(" \n", encoding="utf-8")
    named = [{**QUESTIONS[0], "document": name} for name in ("manual", "other")]
    Path("named.jsonl").write_text("".join(json.dumps(one) + "\n" for one in named), encoding="utf-8")
    Path("third.txt").write_text(DOCUMENT, encoding="utf-8")
    Path("damaged.jsonl").write_text('{"question": "q"}\n{\n', encoding="utf-8")
    for words, fact in (
        ((*files, "foreign=foreign.txt"), "`foreign` must be null without a bundle"),
        ((small_run.path, "document=missing.txt", files[1]), "`document` must be a text file in UTF-8, but 'missing"),
        ((small_run.path, "document=empty.txt", files[1]), "`document` must hold text, but 'empty.txt' is empty"),
        (("backbone=tiny_gpt2", "document=third.txt", "questions=named.jsonl"), "about manual, other, and none about"),
        ((small_run.path, files[0], "questions=missing", "lengths=[0]"), "`lengths` must be >= 1, but is [0]"),
        ((small_run.path, *files, "foreign=damaged.jsonl"), "have 2 mistakes; correct these lines:"),
        ((small_run.path, files[0], "questions=damaged.jsonl"), "have 2 mistakes; correct these lines:"),
    ):
        result = invoke("examine", *words)
        assert result.exit_code != 0
        assert fact in result.output, result.output
