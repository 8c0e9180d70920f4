"""The files of a comparison: CSV and JSON for programs; Markdown, LaTeX and an HTML page for people.

In: paths of runs, and the function that reproduces a training command from run records. Out: `comparison.csv`, `.json`,
`.md`, `.tex` and `.html` in one folder, and the `Comparison` that they show.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.run_record import RunRecord
from ptl_prefix.errors import DataError
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare
from ptl_prefix.reporting.comparison_record import COMPARISON_FILE, ComparisonRecord, write_comparison_record
from ptl_prefix.reporting.page import render_page
from ptl_prefix.reporting.recorded_comparison import record_comparison
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.reporting.table import Row
from ptl_prefix.reporting.text_tables import Commands, as_csv, as_latex, as_markdown

_NAME = "comparison"

CommandFor = Callable[[Sequence[RunRecord]], str]
"""Returns the command that trains some runs again; raises `ValueError` where this version cannot compose a config."""


def write_comparison(
    paths: Sequence[str],
    *,
    include: Sequence[str],
    metric: str | None,
    out: Path,
    num_examples: int,
    command_for: CommandFor,
) -> tuple[Comparison, list[Path]]:
    """Compare runs and write the five files.

    Args:
        paths: Run folders, folders above them, or glob patterns.
        include: Statuses of runs that are compared besides finished ones.
        metric: Metric that rows are sorted by; `None` means the main metric of each task.
        out: Folder that the files are written to.
        num_examples: Number of test inputs whose outputs the page shows side by side.
        command_for: Returns the command that trains a row's runs again.

    Returns:
        The comparison, and the paths of the files.

    Raises:
        ComparisonError: The runs are not comparable.
        DataError: `out` is not writable.
    """
    runs, excluded = read_runs(find_runs(paths), include)
    comparison = compare(runs, excluded, metric=metric)
    commands: Commands = {
        (table.task, table.backbone, row.number): _command(row, command_for)
        for table in comparison.tables
        for row in table.rows
    }
    texts = {
        "csv": as_csv(comparison),
        "md": as_markdown(comparison, commands),
        "tex": as_latex(comparison),
        "html": render_page(comparison, commands, num_examples=num_examples),
    }
    return comparison, _write(texts, record_comparison(comparison, commands), out)


def _command(row: Row, command_for: CommandFor) -> str:
    """The command that trains a row again, or a shell comment that says why there is none."""
    try:
        return command_for([run.record for run in row.runs])
    except ValueError as error:
        return f"# {error} The config is {row.runs[0].folder.config}"


def _write(texts: dict[str, str], record: ComparisonRecord, out: Path) -> list[Path]:
    paths = {suffix: out / f"{_NAME}.{suffix}" for suffix in texts}
    try:
        for suffix, text in texts.items():
            write_atomically(paths[suffix], text)
        write_comparison_record(out / COMPARISON_FILE, record)
    except OSError as error:
        raise DataError(f"`out` must be a writable folder, but '{out}' is not ({error.strerror}).") from error
    return [*paths.values(), out / COMPARISON_FILE]
