"""`ptl-prefix compare`: compares runs in tables, files and an HTML page, from their run folders; no model is loaded."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from ptl_prefix.commands.compare.tables import show_table
from ptl_prefix.commands.config.reproduce import command_for
from ptl_prefix.errors import ConfigError
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.comparison_files import write_comparison
from ptl_prefix.training.console import EscapingConsole


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Compare runs.

    Args:
        config: `out`, `metric`, `include` and `examples`.
        words: Run folders, folders above them, or glob patterns.
        run_folder: Not used, because a comparison is not a run.
    """
    # The files are written before anything is printed: closing a pager early ends this process.
    comparison, paths = compare_config(config, words)
    console = EscapingConsole()
    for table in comparison.tables:
        show_table(table, console)
    for excluded in comparison.excluded:
        console.print(Text(f"excluded: {excluded.path} {excluded.reason}"), soft_wrap=True)
    for path in paths:
        console.print(Text(f"{path.suffix[1:]:>4}: {path}"), soft_wrap=True)


def compare_config(config: dict[str, Any], words: Sequence[str]) -> tuple[Comparison, list[Path]]:
    """Compare runs and write the files.

    Args:
        config: Checked config.
        words: Run folders, folders above them, or glob patterns.

    Returns:
        The comparison, and the paths of the files.
    """
    if not words:
        raise ConfigError(["`compare` needs runs, but got none: give run folders, a folder above them, or a pattern."])
    return write_comparison(
        words,
        include=config["include"],
        metric=config["metric"],
        out=_out_folder(config["out"]),
        num_examples=config["examples"],
        command_for=command_for,
    )


def _out_folder(chosen: str | None) -> Path:
    return Path(chosen) if chosen is not None else Path("outputs/comparisons", f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
