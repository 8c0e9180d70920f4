"""The page on three real documents: tables and plots, made from the reports of their questions alone.

    python -m scripts.document_page     # writes docs/explanation/documents.md from docs/evidence/documents/*.json

In: a `DocumentReport` and `DocumentTrainings` for each document. Out: one page of Markdown, and a plot for each
document. No run is needed, and a test makes the page again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.document_report import NO_CONTEXT, WHOLE_DOCUMENT, DocumentReport, read_document_report
from ptl_prefix.reporting.document_figure import lines_of
from ptl_prefix.reporting.document_grids import costs_grid, costs_title, differences_grid, gate_grid, values_grid
from ptl_prefix.reporting.text_tables import markdown_grid
from scripts.document_trainings import DocumentTrainings, counts_sentence, read_trainings, trainings_grid

EVIDENCE = Path("docs/evidence/documents")
PAGE = Path("docs/explanation/documents.md")
_MEASURE = "answer_loss"
_COMMAND = "python -m scripts.document_study"

_INTRODUCTION = """\
# A document as a prefix, measured

How much of a document does a prefix hold, beside the ways that need no training? Two Wikipedia articles and one page of
this documentation became prefixes of SmolLM2-135M-Instruct, and were asked 30 questions each that are kept apart from
training (`benchmarks/documents`): 15 with four choices, 15 that are answered freely.

`python -m scripts.document_study` runs all of it and writes this page again from the reports in
`docs/evidence/documents/`; [how to distil a document](../how-to/distil_a_document.md) tells the steps one by one.

What the sizes cannot tell: 30 questions of one document, one seed, 60 steps of 16 conversations, and a teacher of 135M
parameters that asks and answers its own questions, many of them wrongly. The kind of its questions was chosen on
`sip_canal`, and learning rates were not searched. A choice among four is right by chance in a quarter of cases: read
`answer_loss` (nats per token of the reference answers) first.
"""


def render(evidence: Path) -> str:
    """The page.

    Args:
        evidence: Folder with a report for each document.
    """
    sections = [_section(name, report, _trainings(evidence, name)) for name, report in _reports(evidence)]
    return "\n\n".join([_INTRODUCTION.strip(), *sections]) + "\n"


def _reports(evidence: Path) -> list[tuple[str, DocumentReport]]:
    return [(path.stem, read_document_report(path)) for path in sorted(evidence.glob("*.json"))]


def trainings_file(evidence: Path, name: str) -> Path:
    """The file of the trainings on a document."""
    return evidence / "trainings" / f"{name}.json"


def _trainings(evidence: Path, name: str) -> DocumentTrainings | None:
    file = trainings_file(evidence, name)
    return read_trainings(file) if file.is_file() else None


def _section(name: str, report: DocumentReport, trainings: DocumentTrainings | None) -> str:
    commit = str((report.environment.get("git") or {}).get("commit"))[:10]
    parts = [
        f"## {name}",
        f"{report.num_tokens:,} tokens, on {report.backbone} in {report.dtype}, commit `{commit}`.",
        f"![Loss of the reference answers against the rows in front of them](../evidence/documents/{name}.svg)",
        f"Values, with 95% intervals over the questions (`{_COMMAND}`):",
        markdown_grid(values_grid(report)),
        f"Differences to {report.compared_to}, over the same questions (`{_COMMAND}`):",
        markdown_grid(differences_grid(report)),
        f"{costs_title(report).capitalize()} (`{_COMMAND}`):",
        markdown_grid(costs_grid(report)),
    ]
    if trainings is not None:
        parts += [
            f"What was trained (`{_COMMAND}`). {counts_sentence(trainings)}",
            markdown_grid(trainings_grid(trainings)),
        ]
        parts.append(
            "The first command holds the self-study. Two to four commands shared two cores: seconds are upper bounds."
        )
    if report.gate is not None:
        parts += [
            f"The relevance gate of a server, at {report.gate.wrong_refusals:g} wrong refusals (`{_COMMAND}`):",
            markdown_grid(gate_grid(report.gate)),
        ]
    parts += [f"- {what} is skipped: {reason}" for what, reason in report.skipped.items()]
    return "\n\n".join(parts)


def draw(report: DocumentReport, path: Path) -> None:
    """Draw the loss of the reference answers against the rows, a line for each family of conditions."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for family, conditions in lines_of(report.results, _MEASURE).items():
        values = [one.values[_MEASURE] for one in conditions]
        if family in (NO_CONTEXT, WHOLE_DOCUMENT):
            axes.axhline(values[0].value, linestyle=":" if family == NO_CONTEXT else "--", color="black", label=family)
            continue
        axes.plot([one.num_rows for one in conditions], [value.value for value in values], marker="o", label=family)
    axes.set(xlabel="rows of keys and values", ylabel="loss of the reference answers, nats per token ↓", xscale="log")
    ticks = sorted({one.num_rows for one in report.results if one.family not in (NO_CONTEXT, WHOLE_DOCUMENT)})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def write_page(evidence: Path = EVIDENCE, page: Path = PAGE) -> None:
    """Write the page, and the plot of each document beside its report."""
    for name, report in _reports(evidence):
        draw(report, evidence / f"{name}.svg")
    write_atomically(page, render(evidence))
    print(f"written to {page}")


def main(words: Sequence[str] | None = None) -> None:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidence", type=Path, default=EVIDENCE)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(words)
    write_page(arguments.evidence, arguments.page)


if __name__ == "__main__":
    main()
