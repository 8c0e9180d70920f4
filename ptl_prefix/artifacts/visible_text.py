"""Text of models, files and users as it may be shown: control characters become visible escapes.

In: any text. Out: the same text, in which no character moves a terminal's cursor, changes its colours or title,
reverses the order of what follows, or cannot be written at all. Tables, pages and whatever prints a text use this.
"""

import re

_CONTROLS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed; a lone CR overwrites its line
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # explicit directions, which show a text in another order than it has
    "\ud800-\udfff"  # halves of characters, which UTF-8 cannot hold
    "]"
)


def escape_controls(text: str) -> str:
    r"""Replace each control character by its escape, such as `\x1b` or `\u202e`; tabs and line feeds stay."""
    return _CONTROLS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
