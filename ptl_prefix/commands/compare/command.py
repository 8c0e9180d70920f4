"""`ptl-prefix compare`: runs become tables, files and one page; nothing is loaded but what they left behind."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.compare.tables import show_table
from ptl_prefix.commands.config.reproduce import command_for
from ptl_prefix.errors import ConfigError, DataError
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare
from ptl_prefix.reporting.page import page
from ptl_prefix.reporting.run_search import find_runs
from ptl_prefix.reporting.table import Row
from ptl_prefix.reporting.text_tables import Commands, as_csv, as_latex, as_markdown

_NAME = "comparison"


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Compare runs.

    Args:
        config: What rows are ordered by, which runs are taken in by force, and where to write.
        words: Run folders, folders above them, or patterns.
        run_folder: Not used; comparing is no run.
    """
    if not words:
        raise ConfigError(["`compare` needs runs, but got none: run folders, a folder above them, or a pattern."])
    # Before anything is shown: a pager that is left early would end this process.
    comparison, paths = write_comparison(
        words, config["include"], config["metric"], _out_folder(config["out"]), config["examples"]
    )
    console = Console()
    for table in comparison.tables:
        show_table(table, console)
    for run_left_out in comparison.left_out:
        console.print(Text(f"left out: {run_left_out.path} {run_left_out.reason}"), soft_wrap=True)
    for path in paths:
        console.print(Text(f"{path.suffix[1:]:>4}: {path}"), soft_wrap=True)


def write_comparison(
    words: Sequence[str], include: Sequence[str], metric: str | None, out: Path, num_examples: int
) -> tuple[Comparison, list[Path]]:
    """Compare the runs that are meant, and write tables and the page.

    Args:
        words: Run folders, folders above them, or patterns.
        include: States of runs that are taken in beside the finished ones.
        metric: What rows are ordered by; `None`: the first of each task's own.
        out: The folder to write to.
        num_examples: Test inputs whose outputs are shown side by side.
    """
    runs, left_out = read_runs(find_runs(words), include)
    comparison = compare(runs, left_out, metric=metric)
    return comparison, _written(comparison, commands_of(comparison), out, num_examples)


def commands_of(comparison: Comparison) -> Commands:
    """What makes each row again, or the reason why nothing does."""
    return {
        (table.task, table.backbone, row.number): _command(row) for table in comparison.tables for row in table.rows
    }


def _command(row: Row) -> str:
    try:
        return command_for([run.record for run in row.runs])
    except ValueError as error:
        return f"# {error} It is at {row.runs[0].folder.config}"


def _out_folder(wanted: str | None) -> Path:
    return Path(wanted) if wanted is not None else Path("outputs/comparisons", f"{datetime.now(UTC):%Y%m%d-%H%M%S}")


def _written(comparison: Comparison, commands: Commands, out: Path, num_examples: int) -> list[Path]:
    files = {
        "csv": as_csv(comparison),
        "md": as_markdown(comparison, commands),
        "tex": as_latex(comparison),
        "html": page(comparison, commands, num_examples=num_examples),
    }
    try:
        for suffix, text in files.items():
            write_atomically(out / f"{_NAME}.{suffix}", text)
    except OSError as error:
        raise DataError(
            f"`out` must be a folder that can be written, but '{out}' cannot ({error.strerror}); name another."
        ) from error
    return [out / f"{_NAME}.{suffix}" for suffix in files]
