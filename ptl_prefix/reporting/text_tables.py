"""A comparison as CSV, Markdown and LaTeX.

In: a `Comparison` or its record, and the command that reproduces each row. Out: the text of a file. CSV has one line
per row and metric, for programs; Markdown and LaTeX have tables per task and backbone, for people.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.comparison_record import AnyRow, AnyTable, ComparisonRecord
from ptl_prefix.reporting.grids import BEST_IS_BOLD, LEGEND, MARKS, Cell, Grid, cost_grid, format_metric, quality_grid

Commands = Mapping[tuple[str, str, int], str]
"""The command that reproduces a row, by task, backbone and row number."""

CSV_COLUMNS = (
    "task,backbone,row,method,settings,metric,mean,low,high,seeds,standing,difference,difference_low,difference_high,"
    "p,paired,scale,direction,version,steps,tokens,trained,stored,bundle_bytes,tokens_per_s,peak_memory_bytes,runs"
).split(",")


def as_csv(comparison: Comparison | ComparisonRecord) -> str:
    """Format as CSV: one line per row and metric; unknown values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in comparison.tables:
        for row in table.rows:
            writer.writerows(_csv_lines(table, row))
    return text.getvalue()


def _csv_lines(table: AnyTable, row: AnyRow) -> Iterator[dict[str, object]]:
    for metric, summary in row.summaries.items():
        info, verdict = table.metrics[metric], row.verdicts[metric]
        low, high = summary.interval or (None, None)
        difference_low, difference_high = verdict.interval or (None, None)
        yield {
            "task": table.task,
            "backbone": table.backbone,
            "row": row.number,
            "method": row.method,
            "settings": json.dumps(row.settings),
            "metric": metric,
            "mean": summary.mean,
            "low": low,
            "high": high,
            "seeds": " ".join(map(str, row.seeds)),
            "standing": verdict.standing,
            "difference": verdict.difference,
            "difference_low": difference_low,
            "difference_high": difference_high,
            "p": verdict.p,
            "paired": str(verdict.paired).lower(),
            "scale": info.scale,
            "direction": info.direction,
            "version": info.version,
            **_csv_cost(row),
            "runs": " ".join(row.paths),
        }


def _csv_cost(row: AnyRow) -> dict[str, object]:
    """The cost columns. Readers of earlier files know the numbers of parameters as `trained` and `stored`."""
    cost = vars(row.cost)
    return {{"num_trainable": "trained", "num_stored": "stored"}.get(name, name): cost[name] for name in cost}


def as_markdown(comparison: Comparison | ComparisonRecord, commands: Commands) -> str:
    """Format as Markdown: a section per table with metrics, cost, caveats, and the command that reproduces each row."""
    sections = [part for table in comparison.tables for part in _markdown_section(table, commands)]
    if comparison.excluded:
        sections.append("## Excluded runs")
        excluded = [(escape_markdown(str(run.path)), escape_markdown(run.reason)) for run in comparison.excluded]
        sections.append("\n".join(f"- {path} {reason}" for path, reason in excluded))
    return "\n\n".join(sections) + "\n"


def _markdown_section(table: AnyTable, commands: Commands) -> list[str]:
    rows = [f"{row.number}. {escape_markdown(row.label)}\n\n{_code(commands[_key(table, row)])}" for row in table.rows]
    return [
        f"## {escape_markdown(table.task)} on {escape_markdown(table.backbone)}",
        markdown_grid(quality_grid(table)),
        f"{LEGEND} {BEST_IS_BOLD}{bare_sentence(table)}",
        markdown_grid(cost_grid(table)),
        "\n".join(f"- {escape_markdown(sentence)}" for sentence in table.caveats),
        "### Commands that reproduce each row",
        *rows,
    ]


def markdown_grid(grid: Grid) -> str:
    """Format a grid as a table of Markdown."""
    lines = [
        [escape_markdown(column.heading) for column in grid.columns],
        ["---" if column.align == "left" else "---:" for column in grid.columns],
        *([_markdown_cell(cell) for cell in row] for row in grid.rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    if cell.standing == "best":
        mean, *spread = text.split(" ")
        return " ".join([f"**{mean}**", *spread])
    return text if cell.standing is None else text + MARKS[cell.standing]


def escape_markdown(text: str) -> str:
    """Escape text, so that Markdown shows it verbatim and within its cell."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", _one_line(text))


def _code(text: str) -> str:
    return "\n".join(f"    {line}" for line in escape_controls(text).split("\n"))


def bare_sentence(table: AnyTable) -> str:
    """A sentence with the metrics of the bare backbone; empty if they were not measured."""
    named = [
        f"{key} {format_metric(value, table.metrics[key])}" for key, value in table.bare.items() if key in table.metrics
    ]
    return f" The bare backbone: {', '.join(named)}." if named else ""


def as_latex(comparison: Comparison | ComparisonRecord) -> str:
    r"""Format as LaTeX: two `tabular`s per table, to be `\input` into a document that loads booktabs."""
    parts = ["% Needs \\usepackage{booktabs}."]
    for table in comparison.tables:
        parts.append(f"% {_one_line(table.task)} on {_one_line(table.backbone)}")
        parts += [_latex_grid(quality_grid(table)), _latex_grid(cost_grid(table))]
        parts += [f"% {_one_line(sentence)}" for sentence in (LEGEND, *table.caveats)]
    return "\n".join(parts) + "\n"


def _latex_grid(grid: Grid) -> str:
    alignment = "".join("l" if column.align == "left" else "r" for column in grid.columns)
    rows = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in grid.rows]
    heading = " & ".join(_tex(column.heading) for column in grid.columns) + r" \\"
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            heading,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    if cell.standing == "best":
        mean, *spread = cell.text.split(" ")
        return " ".join([rf"\textbf{{{_tex(mean)}}}", *map(_tex, spread)])
    return _tex(cell.text + ("" if cell.standing is None else MARKS[cell.standing]))


_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    """A text without line ends, tabs and control characters, so that it stays in its cell or comment."""
    return " ".join(escape_controls(text).split())


def _key(table: AnyTable, row: AnyRow) -> tuple[str, str, int]:
    return table.task, table.backbone, row.number
