"""A comparison on terminals of several widths."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.made_up_runs import MadeUp, make_run

from ptl_prefix.commands.compare.tables import show_table
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import compare
from ptl_prefix.reporting.table import Table

Shown = Callable[[int], str]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    runs = [MadeUp(seed=seed, bleu=60.0 + seed) for seed in (0, 1, 2)]
    runs += [MadeUp(seed=seed, bleu=40.0 + seed**2, method="lora", settings={}) for seed in (0, 1, 2)]
    return compare(read_runs([make_run(tmp_path / str(n), run) for n, run in enumerate(runs)], ())[0]).tables[0]


@pytest.fixture
def shown(table: Table) -> Shown:
    def show(width: int) -> str:
        console = Console(file=io.StringIO(), width=width)
        show_table(table, console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return show


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_number_is_truncated_and_no_line_is_wider_than_the_terminal(shown: Shown, width: int) -> None:
    text = shown(width)

    assert max(map(len, text.splitlines())) <= width
    words = set(text.replace("│", " ").replace("┃", " ").split())
    assert {"61.00", "±2.48", "41.67", "±5.17", "200.0", "4,000", "prefix_tuning"} <= words


def test_on_a_wide_screen_a_row_is_a_line(shown: Shown) -> None:
    lines = shown(200).splitlines()

    (best,) = (line for line in lines if "61.00" in line)
    assert [cell.strip() for cell in best.strip("│").split("│")][:4] == ["1", "prefix_tuning", "3", "61.00 ±2.48"]
    assert lines[0].strip() == "towns on tiny"


def test_the_legend_and_the_caveats_follow_the_tables(shown: Shown) -> None:
    text = " ".join(shown(200).split())

    assert "not significantly different from the best row" in text
    assert "The bare backbone: val/loss 3.0000, test/bleu 5.00." in text
    assert "- Every row has 3 seeds. - Every row was trained for 40 steps." in text
