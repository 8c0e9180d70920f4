"""Nothing that is printed reaches a terminal raw."""

import io
import re

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ptl_prefix.training.console import EscapingConsole

HOSTILE = "a\x1b]0;title\x07\x1b[2Jb\x9b\u202e"


def test_texts_are_escaped_wherever_they_stand_and_styles_are_kept() -> None:
    out = io.StringIO()
    console = EscapingConsole(file=out, force_terminal=True, width=200, color_system="standard")
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))

    console.print(table)
    console.print(HOSTILE, markup=False)
    console.print(Panel(Text(HOSTILE)))

    printed = out.getvalue()
    assert printed.count(r"\x1b]0;title") == 5
    assert not {"\x07", "\x9b", "\u202e"} & set(printed)
    assert not {"\x1b[2J", "\x1b]0"} & set(re.findall("\x1b.(?:..)?", printed))
    assert "\x1b[31m" in printed
