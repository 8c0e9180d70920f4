"""Prints a document's report: quality under each condition, its differences to the prefix, memory and times."""

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.document_report import DocumentReport
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.grid_table import show_grid
from ptl_prefix.reporting.document_grids import costs_grid, costs_title, differences_grid, gate_grid, values_grid


def show_report(report: DocumentReport, console: Console) -> None:
    """Print a report."""
    counts = ", ".join(f"{kind}: {number}" for kind, number in report.num_questions.items())
    heading = (
        f"{report.document}, {report.num_tokens:,} tokens, on {report.backbone} ({report.dtype}); questions by kind"
    )
    console.print(Text(escape_controls(f"{heading} {counts}")), soft_wrap=True)
    show_grid(values_grid(report), console, title="values, with 95% intervals over the questions")
    if report.compared_to is not None and len(report.results) > 1:
        show_grid(
            differences_grid(report), console, title=f"differences to {report.compared_to}, over the same questions"
        )
    show_grid(costs_grid(report), console, title=costs_title(report))
    for name, reason in report.skipped.items():
        console.print(Text(escape_controls(f"{name} is skipped: {reason}")), soft_wrap=True)
    if (gate := report.gate) is not None:
        show_grid(
            gate_grid(gate), console, title=f"relevance gate of a server, at {gate.wrong_refusals:g} wrong refusals"
        )
