"""Control characters of texts are shown as escapes."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.artifacts.visible_text import escape_controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("secret\rshown", r"secret\x0dshown"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),
        ("a\u2028b\x00", r"a\u2028b\x00"),
        ("\udcff", r"\udcff"),
        ("a\tb\nc", "a\tb\nc"),
        ("Café 天 \u200d\N{FAMILY} שלום", "Café 天 \u200d\N{FAMILY} שלום"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


@given(st.text(st.characters()))
def test_no_text_has_a_control_character_afterwards(text: str) -> None:
    shown = escape_controls(text)

    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in shown if char not in "\t\n")
    assert escape_controls(shown) == shown
    shown.encode()
