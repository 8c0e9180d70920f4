"""The console that all commands print to.

In: whatever `rich` can print. Out: the same on a terminal, but control characters in texts are shown as escapes:
outputs of models, names of files and messages of libraries never reach a terminal raw.
"""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ptl_prefix.artifacts.visible_text import escape_controls


class EscapingConsole(Console):
    """A `rich` console whose texts hold no control characters; its own colours and cursor movements are kept."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object as pieces of text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escape_controls(segment.text))
