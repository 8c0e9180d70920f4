"""Prints a comparison on a terminal of any width: metrics, cost and caveats."""

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.grid_table import keep_columns, show_grid
from ptl_prefix.reporting.grids import LEGEND, cost_grid, quality_grid
from ptl_prefix.reporting.table import Table
from ptl_prefix.reporting.text_tables import bare_sentence


def show_table(table: Table, console: Console) -> None:
    """Print a table of a comparison."""
    show_grid(quality_grid(table), console, title=escape_controls(f"{table.task} on {table.backbone}"))
    console.print(Text(escape_controls(f"{LEGEND}{bare_sentence(table)}")))
    # The tables above show the method of each row number.
    show_grid(keep_columns(cost_grid(table), lambda column: column.heading != "method"), console)
    for sentence in table.caveats:
        console.print(Text(escape_controls(f"- {sentence}")))
