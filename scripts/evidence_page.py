"""The page of the study: tables, plots and verdicts, made from the comparisons of its parts alone.

    python -m scripts.evidence_page         # writes docs/explanation/evidence.md from docs/evidence/*/comparison.json

In: `comparison.json` of each finished part. Out: one page of Markdown, and a plot for each part. No run is needed: what
the page says can be made again from the files in the repository, and a test does so.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.reporting.comparison_record import (
    COMPARISON_FILE,
    ComparisonRecord,
    RowRecord,
    TableRecord,
    read_comparison_record,
)
from ptl_prefix.reporting.grids import LEGEND, Cell, Column, Grid, arrow, cost_grid, quality_grid
from ptl_prefix.reporting.text_tables import bare_sentence, escape_markdown, markdown_grid
from scripts.evidence_claims import CLAIMS, NOT_TESTABLE, Verdict, verdicts
from scripts.evidence_parts import Part, parts_for

PAGE = Path("docs/explanation/evidence.md")

_INTRODUCTION = """\
# The evidence

Where does a prefix stand, when every method gets the same chance? This page has the answer of one study, on small
backbones: each method was searched with the same number of trials, its learning rate always among what is searched,
and the best setting of each was trained again on seeds that the search has not used. Decoding is the same for all.

`make evidence` runs the study, or resumes it, and writes this page again; the tables are made from the
`comparison.json` of each part in `docs/evidence/`, which also names the command behind each row and the commit.

What the sizes cannot tell: trainings are short (60 to 200 steps), so that a method which learns slowly is behind one
that ends no better; the larger backbone has 135M parameters; a search has four trials. Two trials ran at once, each on
one core, beside other work: seconds compare methods roughly, and `benchmarks/` has the paired timings.
"""

_PARTS = tuple(parts_for(Path("$PTL_PREFIX_DATA")))
"""The parts, with commands that hold on any machine."""


def render(evidence: Path) -> str:
    """The page.

    Args:
        evidence: Folder with a folder for each finished part.
    """
    found = [
        (part, read_comparison_record(evidence / part.name / COMPARISON_FILE))
        for part in _PARTS
        if _is_there(part, evidence)
    ]
    judged = [verdict for part, record in found for verdict in _judged(part, record)]
    sections = [_section(part, record) for part, record in found]
    missing = [part.name for part in _PARTS if not _is_there(part, evidence)]
    note = [f"Not run yet: {', '.join(f'`{name}`' for name in missing)}."] if missing else []
    return "\n\n".join([_INTRODUCTION.strip(), _claims(judged), *sections, *note]) + "\n"


def _is_there(part: Part, evidence: Path) -> bool:
    return (evidence / part.name / COMPARISON_FILE).is_file()


def _judged(part: Part, record: ComparisonRecord) -> list[Verdict]:
    claims = [claim for claim in CLAIMS if claim.part == part.name]
    return verdicts(claims, record.tables[0]) if claims else []


def _claims(judged: Sequence[Verdict]) -> str:
    """The table of claims."""
    headings = ("claim", "source", "part", "verdict", "difference")
    columns = tuple(Column(heading, "left") for heading in headings)
    rows = tuple(
        tuple(
            Cell(text)
            for text in (
                verdict.claim.sentence,
                verdict.claim.source,
                verdict.claim.part,
                verdict.answer,
                _numbers(verdict),
            )
        )
        for verdict in judged
    )
    table = markdown_grid(Grid(columns, rows)) if rows else "No part has finished yet."
    beyond = "\n".join(f"- {sentence} ({source}): {reason}" for sentence, source, reason in NOT_TESTABLE)
    return f"## What papers claim\n\n{table}\n\nNot testable at this size:\n\n{beyond}"


def _numbers(verdict: Verdict) -> str:
    rows = " against ".join(f"#{number}" for number in verdict.rows)
    metric = f"{verdict.claim.metric}: " if verdict.rows else ""
    return f"{metric}{verdict.numbers}{f' ({rows})' if rows else ''}"


def _section(part: Part, record: ComparisonRecord) -> str:
    table = record.tables[0]
    lines = [
        f"## {part.question}",
        f"{table.task} on {table.backbone}, part `{part.name}`: `{' '.join(('ptl-prefix', *part.command()[3:]))}`.",
        f"![{escape_markdown(part.question)}](../evidence/{part.name}/quality.svg)",
        f"![The same, as a curve](../evidence/{part.name}/curve.svg)" if part.curve else "",
        markdown_grid(quality_grid(table)),
        f"{LEGEND}{bare_sentence(table)}",
        "What the rows cost, as `ptl-prefix compare` has it:",
        markdown_grid(cost_grid(table)),
        "\n".join(f"- {escape_markdown(sentence)}" for sentence in table.caveats),
        f"Commits: {', '.join(_commits(table))}.",
    ]
    return "\n\n".join(line for line in lines if line)


def _commits(table: TableRecord) -> list[str]:
    commits = {str((run.environment.get("git") or {}).get("commit")) for row in table.rows for run in row.runs}
    return [f"`{commit[:10]}`" for commit in sorted(commits)]


def draw(table: TableRecord, path: Path) -> None:
    """Draw each row's main metric with its interval, the best row at the top."""
    figure = Figure(figsize=(8, 0.9 + 0.28 * len(table.rows)), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in table.rows if table.main in row.summaries][::-1]
    for place, row in enumerate(rows):
        summary = row.summaries[table.main]
        width = summary.half_width or 0.0
        axes.errorbar(
            summary.mean, place, xerr=width, fmt="o", color="C0" if "prefix" in row.method else "C7", capsize=2
        )
    if (bare := table.bare.get(table.main)) is not None:
        axes.axvline(bare, linestyle=":", color="black", label="bare backbone")
        axes.legend(fontsize=7)
    axes.set_yticks(range(len(rows)), [f"#{row.number} {row.label}" for row in rows], fontsize=7)
    axes.set(xlabel=f"{table.main} {arrow(table.metrics[table.main])}, mean over seeds and 95% interval")
    axes.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write an SVG whose ids are the same each time."""
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def draw_curve(table: TableRecord, setting: str, path: Path) -> None:
    """Draw the main metric against a setting, a line for each combination of the others."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[RowRecord]] = {}
    for row in table.rows:
        if setting in row.settings and table.main in row.summaries:
            others = [f"{key.rpartition('.')[2]} {value}" for key, value in row.settings.items() if key != setting]
            lines.setdefault(", ".join(others) or row.method, []).append(row)
    for label, rows in sorted(lines.items()):
        rows.sort(key=lambda row: float(row.settings[setting]))
        summaries = [row.summaries[table.main] for row in rows]
        axes.errorbar(
            [row.settings[setting] for row in rows],
            [summary.mean for summary in summaries],
            yerr=[summary.half_width or 0.0 for summary in summaries],
            marker="o",
            capsize=2,
            label=label,
        )
    axes.set(xlabel=setting, ylabel=f"{table.main} {arrow(table.metrics[table.main])}", xscale="log")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    _save(figure, path)


def write_page(evidence: Path, page: Path = PAGE) -> None:
    """Write the page, and the plots of each finished part beside its record."""
    for part in _PARTS:
        if _is_there(part, evidence):
            table = read_comparison_record(evidence / part.name / COMPARISON_FILE).tables[0]
            draw(table, evidence / part.name / "quality.svg")
            if part.curve:
                draw_curve(table, part.curve, evidence / part.name / "curve.svg")
    write_atomically(page, render(evidence))
    print(f"written to {page}")


def main(words: Sequence[str] | None = None) -> None:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidence", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args(words)
    write_page(arguments.evidence, arguments.page)


if __name__ == "__main__":
    main()
