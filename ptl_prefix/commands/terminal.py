"""Values as a person reads them on a terminal.

In: seconds, bytes, or a generated text. Out: a short text with its unit, or a line that fits the screen.
"""

from rich.text import Text

from ptl_prefix.artifacts.visible_text import escape_controls

_LONGEST_TEXT = 300
_AGE_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def format_duration(seconds: float) -> str:
    """Seconds as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_age(seconds: float) -> str:
    """Seconds in whole days, hours, minutes or seconds, whichever is the largest unit that fits."""
    for factor, unit in _AGE_UNITS:
        if seconds >= factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_megabytes(num_bytes: int) -> str:
    """Bytes as `1,234.5 MB`, where a megabyte is 10^6 bytes."""
    return f"{num_bytes / 1e6:,.1f} MB"


def format_example(label: str, text: str, style: str) -> Text:
    """One text of a decoded example, cut to 300 characters, without control characters.

    Args:
        label: Name of the line, such as `source` or `reference`.
        text: Text to show.
        style: Style of the text in rich's markup; empty is the terminal's own.
    """
    shown = escape_controls(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …")
    return Text(f"{label:>10}  ").append(shown.replace("\n", "\n" + " " * 12) or "(nothing)", style=style)
