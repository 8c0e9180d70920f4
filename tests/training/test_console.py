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
    assert printed.count(r"a\x1b]0;") >= 4
    assert not set("\x07\x1b\x9b\u202e") & set(re.sub(r"\x1b\[[\d;]*m", "", printed))
    assert "\x1b[31m" in printed
