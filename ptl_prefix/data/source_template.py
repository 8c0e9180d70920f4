"""A template that renders a source from columns of a row, such as `Summarise: {title}. {body}`.

In: a template, and a row. Out: the source. `{name}` is the text of a column, and `{{` and `}}` are literal braces.
Formats, conversions and attributes are refused: a template is data, and shows nothing but columns.
"""

from collections.abc import Callable
from string import Formatter

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
