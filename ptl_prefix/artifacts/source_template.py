"""A template that renders a source from columns of a row, such as `Summarise: {title}. {body}`.

In: a template, and a row, or a source of `generate`. Out: the rendered source. `{name}` is the text of a column, and
`{{` and `}}` are literal braces. Formats, conversions and attributes are refused: a template is data, and shows nothing
but columns.
"""

import math
from collections.abc import Callable
from string import Formatter

from ptl_prefix.artifacts.json_document import DocumentError, parse_object

_ADVICE = "name columns as {name}, and write literal braces as {{ and }}"


class SourceTemplate:
    """A checked template.

    Args:
        template: Text with `{name}` for each column.

    Raises:
        ValueError: The template holds anything but columns and text; the message ends a sentence about it.
    """

    def __init__(self, template: str) -> None:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"must have matching braces, but {error}; {_ADVICE}.") from error
        for _, name, form, conversion in parts:
            if name is not None and (form or conversion or not name.strip() or set(name) & set(".[]{}:!")):
                shown = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
                raise ValueError(f"must have nothing but names of columns in braces, but has {shown}; {_ADVICE}.")
        self._parts = [(text, name) for text, name, _, _ in parts]
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        """Names of the columns, each once, in the order of the template."""
        if not self.columns:
            raise ValueError(f"must name a column, but is {template!r:.60}, the same for all rows; {_ADVICE}.")

    def render(self, text_of: Callable[[str], str]) -> str:
        """The source, given the text of each column."""
        return "".join(text if name is None else text + text_of(name) for text, name in self._parts)

    def render_source(self, source: str) -> str:
        """Render a source that is not from a row: the text of the only column, or a JSON object of all columns.

        Raises:
            ValueError: There are several columns, and the source is no JSON object with a text for each.
        """
        if len(self.columns) == 1:
            return self.render(lambda _: source.strip())
        try:
            cells = parse_object(source)
        except DocumentError as error:
            raise ValueError(self._several(str(error))) from error
        texts = {name: cell_texts(cells[name]) for name in self.columns if name in cells}
        for name in self.columns:
            if not texts.get(name):
                found = "has none" if name not in cells else f"has {cells[name]!r:.60}"
                raise ValueError(self._several(f"{found} as '{name}'"))
        return self.render(lambda name: " ".join(texts[name] or ()))

    def _several(self, fact: str) -> str:
        example = ", ".join(f'"{name}": "..."' for name in self.columns)
        return (
            f"Each source must be a JSON object with the columns of the bundle's `prompt_template`, {{{example}}}, but "
            f"one {fact}."
        )


def cell_texts(cell: object) -> list[str] | None:
    """The texts of a cell, or of a list of them, stripped and without empty ones; `None` if it holds anything else.

    Numbers and booleans, such as labels, are their text in JSON: `7`, `0.5`, `true`.
    """
    texts = [_as_text(part) for part in (cell if isinstance(cell, list) else [cell])]
    known = [text.strip() for text in texts if text is not None]
    return [text for text in known if text] if len(known) == len(texts) else None


def _as_text(value: object) -> str | None:
    """A text, number or boolean as text; `None` for anything else, and for text that a UTF-8 file cannot hold."""
    if isinstance(value, str):
        # JSON escapes can spell lone surrogates, which UTF-8 cannot hold, and U+0000, which ends a text in C.
        return None if any("\ud800" <= char <= "\udfff" or char == "\0" for char in value) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else None
