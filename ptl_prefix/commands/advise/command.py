"""`ptl-prefix advise`: says what comparisons support, from their `comparison.json`; no run and no model is read."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.markdown import Markdown
from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.commands.grid_table import show_grid
from ptl_prefix.errors import DataError
from ptl_prefix.reporting.advice.advise import Advice, advise
from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.page import render_advice, render_findings, render_title, rows_grid
from ptl_prefix.reporting.comparison_record import COMPARISON_FILE, read_comparison_record
from ptl_prefix.reporting.shipped_comparison import shipped_comparison
from ptl_prefix.training.console import EscapingConsole

_PAGE = "advice.md"
_SHIPPED_OUT = Path("outputs/comparisons/shipped")


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Advise.

    Args:
        config: See `conf/advise.yaml`.
        words: Folders of comparisons, or their `comparison.json`; none is the shipped comparison.
        run_folder: Not used, because advice is not a run.
    """
    # The file is written before anything is printed: closing a pager early ends this process.
    advice, path = advise_config(config, words)
    console = EscapingConsole()
    for one in advice.tables:
        console.print(Markdown(render_title(one, advice.budget)))
        show_grid(rows_grid(one, advice.budget), console)
        console.print(Markdown(render_findings(one)))
    console.print(Text(f"page: {path}"), soft_wrap=True)


def advise_config(config: dict[str, Any], words: Sequence[str]) -> tuple[Advice, Path]:
    """Advise and write the page.

    Args:
        config: Checked config.
        words: Folders of comparisons, or their files; none is the shipped comparison.

    Returns:
        The advice, and the path of the page.
    """
    paths = [_file(Path(word)) for word in words] or [shipped_comparison()]
    out = Path(config["out"]) if config["out"] else (paths[0].parent if words else _SHIPPED_OUT) / _PAGE
    budget = Budget(**{limit.name: config[limit.name] for limit in fields(Budget)})
    advice = advise([read_comparison_record(path) for path in paths], budget, metric=config["metric"])
    try:
        write_atomically(out, render_advice(advice))
    except OSError as error:
        raise DataError(f"`out` must be a file that can be written, but '{out}' is not ({error.strerror}).") from error
    return advice, out


def _file(path: Path) -> Path:
    return path / COMPARISON_FILE if path.is_dir() else path
