"""A prefix of a document beside its controls."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_report import DocumentReport, read_document_report, write_document_report
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation import answer_cost
from ptl_prefix.evaluation.condition import Condition, control_conditions, document_ids, method_condition
from ptl_prefix.evaluation.evaluate_document import AskSettings, Document, evaluate_document
from ptl_prefix.evaluation.retention import RetentionText
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import defaults_of

DOCUMENT = Document(name="cats", text="the cat sat on the mat in the city")
QUESTIONS = [
    Question(id="1", question="where", answers=("the mat",), kind="needle"),
    Question(id="2", question="who sat", answers=("cat",), choices=("dog", "cat"), correct=1),
]
SETTINGS = AskSettings(
    decoding=Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 4}),
    batch_size=4,
    resamples=20,
    resample_seed=0,
)


def attached(backbone: Backbone) -> Method:
    torch.manual_seed(0)
    return PrefixTuning(prefix_length=5, reparam="none").attach(backbone).eval()


def reported(backbone: Backbone, settings: AskSettings = SETTINGS) -> DocumentReport:
    conditions = [
        method_condition("prefix of 5", attached(backbone)),
        *control_conditions(backbone, DOCUMENT.text, [3]),
        Condition(name="too long", family="document", context="word " * 60),
    ]
    prompter = backbone.prompter(PromptFormat(between=" =>"))
    return evaluate_document(backbone, DOCUMENT, QUESTIONS, conditions, prompter=prompter, settings=settings)


def test_every_condition_is_asked_and_compared_with_the_prefix(backbone: Backbone, tmp_path: Path) -> None:
    report = reported(backbone, dataclasses.replace(SETTINGS, retention=RetentionText(("a cat " * 20,), version="1")))

    names = ["prefix of 5", "no context", "first 3 tokens", "attention matching, 3 rows", "document"]
    assert [one.name for one in report.results] == names
    assert report.compared_to == "prefix of 5"
    assert list(report.skipped) == ["too long"]
    assert "choose a backbone with more positions" in report.skipped["too long"]
    assert report.document_sha256 == hashlib.sha256(DOCUMENT.text.encode()).hexdigest()
    assert report.num_questions == {"needle": 1, "question with choices": 1}

    prefix, *controls = report.results
    assert prefix.differences == {}
    assert (
        prefix.values.keys() == {"answer_loss", "accuracy", "needle_found", "chrf", "rougeL"} == {*report.metric_info}
    )
    for one in controls:
        for name, difference in one.differences.items():
            assert difference.value == pytest.approx(one.values[name].value - prefix.values[name].value)
        assert [answer.id for answer in one.answers] == ["1", "2"]
        assert one.answers[0].chosen is None is one.answers[1].generated
        assert one.retention is not None
    losses = {one.name: one.values["answer_loss"].value for one in report.results}
    assert len(set(losses.values())) == len(losses)

    bytes_of_row = sum(2 * site.num_layers * site.kv_width * 4 for site in backbone.geometry.values())
    rows = {one.name: one.num_rows for one in report.results}
    assert (rows["prefix of 5"], rows["no context"], rows["attention matching, 3 rows"]) == (5, 0, 3)
    assert rows["first 3 tokens"] < rows["document"]
    assert all(one.kv_bytes == one.num_rows * bytes_of_row for one in report.results)
    assert all(one.cost is None for one in report.results)

    write_document_report(tmp_path / "document.json", report)
    assert read_document_report(tmp_path / "document.json") == report
    assert report.result("document") is report.results[-1]


def test_costs_are_measured_on_request_and_all_is_detached_at_the_end(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_cost, "_NUM_NEW_TOKENS", 3)
    backbone_attention = backbone.config._attn_implementation
    report = reported(backbone, dataclasses.replace(SETTINGS, cost_rounds=1))

    for one in report.results:
        assert one.cost is not None
        assert one.cost.tokens_per_s > 0 < one.cost.first_token_s
        is_one_reading = one.cost.first_token_s == one.cost.first_token_cached_s
        assert is_one_reading == (one.family in ("prefix_tuning", "no context"))
    assert backbone.config._attn_implementation != backbone_attention  # the prefix is attached
    assert not any(backbone.slots.filled()["decoder_self"])


def test_an_encoder_decoder_is_asked_without_attention_matching(encoder_decoder: Backbone) -> None:
    report = reported(encoder_decoder)

    assert "attention matching, 3 rows" in report.skipped
    assert {"prefix of 5", "no context", "first 3 tokens", "document"} == {one.name for one in report.results} - {
        "too long"  # T5 has no limit
    }
    document, part = (report.result(name) for name in ("document", "first 3 tokens"))
    assert (document.num_rows, part.num_rows) == (len(document_ids(encoder_decoder, DOCUMENT.text)), 3)
    cross = encoder_decoder.geometry["decoder_cross"]
    assert part.kv_bytes == 3 * 2 * cross.num_layers * cross.kv_width * 4


def test_without_a_prefix_nothing_is_compared_unless_a_name_is_given(backbone: Backbone) -> None:
    prompter = backbone.prompter(PromptFormat(between=" =>"))
    conditions = [one for one in control_conditions(backbone, DOCUMENT.text, []) if one.num_matched is None]

    alone = evaluate_document(backbone, DOCUMENT, QUESTIONS, conditions, prompter=prompter, settings=SETTINGS)
    named = evaluate_document(
        backbone, DOCUMENT, QUESTIONS, conditions, prompter=prompter, settings=SETTINGS, compared_to="no context"
    )

    assert alone.compared_to is None
    assert all(one.differences == {} for one in alone.results)
    assert named.result("document").differences.keys() == named.metric_info.keys()
