"""The figure of a document's report: one line for each family, and two levels."""

import dataclasses

import pytest
from support.made_up_reports import made_up_report

from ptl_prefix.reporting import document_figure
from ptl_prefix.reporting.document_figure import lines_of, render_document


def test_each_measure_has_a_panel_with_a_line_for_each_family_and_the_levels() -> None:
    report = made_up_report()

    figure = document_figure._figure(report)

    loss, accuracy = figure.axes
    assert loss.get_title() == "answer_loss (lower is better)"
    assert accuracy.get_title() == "accuracy (higher is better)"
    lines = {line.get_label(): line for line in loss.lines}
    assert list(lines["no context"].get_ydata()) == [5.0, 5.0]
    assert list(lines["document"].get_ydata()) == [2.0, 2.0]
    prefix, parts = loss.containers
    assert (prefix.get_label(), parts.get_label()) == ("prefix_tuning", "first tokens")
    assert prefix.lines[0].get_xydata().tolist() == [[16, 3.5], [64, 3.0]]  # type: ignore[attr-defined]
    assert parts.lines[0].get_xydata().tolist() == [[22, 4.5]]  # type: ignore[attr-defined]
    (bars,) = prefix.lines[2]  # type: ignore[attr-defined]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[3.25, 3.75], [2.75, 3.25]]
    assert render_document(report).startswith(b"\x89PNG")


def test_conditions_without_a_value_are_not_drawn() -> None:
    report = made_up_report()
    bare = dataclasses.replace(report.results[0], values={})

    assert list(lines_of([bare, *report.results[2:]], "answer_loss")) == ["no context", "first tokens", "document"]
    levels = made_up_report(results=report.results[2:3], compared_to=None)
    assert render_document(levels).startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        report.result("nothing")
