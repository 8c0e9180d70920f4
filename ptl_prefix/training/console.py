"""The console that all commands print to.

In: whatever `rich` can print. Out: the same on a terminal, but control characters in texts are shown as escapes:
outputs of models, names of files and messages of libraries never reach a terminal raw. In a notebook, plain text.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel
from ptl_prefix.artifacts.visible_text import escape_controls

_NOTEBOOK_WIDTH = 100


class EscapingConsole(Console):
    """A `rich` console whose texts hold no control characters; its own colours and cursor movements are kept.

    Args:
        settings: Arguments of rich's console.
    """

    def __init__(self, **settings: Any) -> None:
        if is_jupyter_kernel():
            # rich would make an output of the cell of every line, notebooks show standard error as errors, and a kernel
            # looks like a terminal, but moves no cursor.
            settings = {"width": _NOTEBOOK_WIDTH, **settings, "stderr": False}
            settings |= {"force_jupyter": False, "force_terminal": False}
        super().__init__(**settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object as pieces of text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape_controls(segment.text))
