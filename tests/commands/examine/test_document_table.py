"""The printed tables of a document's report, and its gate."""

import dataclasses
import io

from rich.console import Console
from support.made_up_reports import COST, made_up_report
from support.made_up_routing import FRUIT, TOOLS, made_up_facts, texts

from ptl_prefix.artifacts.document_report import DocumentReport, RefusedTexts, RelevanceGate
from ptl_prefix.commands.document_gate import measure_gate
from ptl_prefix.commands.document_table import show_report


def printed(report: DocumentReport, width: int = 160) -> str:
    out = io.StringIO()
    show_report(report, Console(file=out, width=width))
    return out.getvalue()


def test_values_differences_memory_and_reasons_are_shown() -> None:
    text = printed(made_up_report())

    assert "manual.txt, 2,449 tokens, on tiny (float32); questions by kind needle: 1, question with choices: 3" in text
    assert "3.50 (3.25, 3.75)" in text and "35.0 (34.8, 35.2)" in text
    differences = text[text.index("differences to long") : text.index("keys and values")]
    assert "+2.00 (+1.75, +2.25)" in differences and "-1.00 (-1.25, -0.75)" in differences
    assert "long" not in differences.removeprefix("differences to long")
    assert "49.20" in text and "2,460" in text
    assert "2.6%" in text and "100.0%" in text  # 64 rows of 2,460
    assert "attention matching, 16 rows is skipped: tiny is an encoder-decoder" in text
    assert "first token" not in text.replace("first 16 tokens", "")
    assert "relevance gate" not in text


def test_times_and_the_gate_are_shown_where_they_were_measured() -> None:
    report = made_up_report()
    timed = dataclasses.replace(report.results[0], cost=COST, retention=4.125)
    gate = RelevanceGate(
        wrong_refusals=0.05, own=RefusedTexts(refused=1, of=30), foreign=RefusedTexts(refused=9, of=10)
    )

    text = printed(made_up_report(results=(timed, *report.results[1:]), gate=gate))

    assert "1.500" in text and "0.250" in text and "12.0" in text and "4.125" in text
    rows = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "relevance gate of a server, at 0.05 wrong refusals" in text
    assert "questions about the document ↓ 1 30 3%" in rows
    assert "foreign questions ↑ 9 10 90%" in rows
    # On a narrow terminal no value is cut.
    assert "…" not in printed(report, 60)


def test_the_gate_refuses_foreign_texts_and_few_of_its_own() -> None:
    facts = made_up_facts(FRUIT)

    gate = measure_gate(facts, texts(FRUIT, 40, seed=7), texts(TOOLS, 20, seed=8), wrong_refusals=0.05)

    assert isinstance(gate, RelevanceGate)
    assert (gate.own.of, gate.foreign.of) == (40, 20)
    assert gate.foreign.refused >= 18
    assert gate.own.refused <= 8
    assert measure_gate(None, ["a"], ["b"], wrong_refusals=0.05) == "was exported without routing"
