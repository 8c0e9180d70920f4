"""Numbers that a generated text has, and its source has not."""

import pytest

from ptl_prefix.distillation.numbers import unsupported_numbers


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        # The same value, written in another way.
        ("It takes 1,000 steps.", "1000 steps", []),
        ("1 000 people", "1000 people", []),
        ("1\u202f000 people", "1,000 people", []),
        ("1,000.50 euros", "1000.5 euros", []),
        ("1.000,50 euros", "1000.5 euros", []),
        ("1.000 steps", "1000 steps", []),
        ("1.000 mm", "1 mm", []),
        ("2,5 kg", "2.5 kg", []),
        ("0,125 l", "0.125 l", []),
        ("agent 007", "agent 7", []),
        ("3.0", "3", []),
        ("-5 degrees", "minus 5 degrees", []),
        ("$5", "5 dollars", []),
        ("50%", "50 percent", []),
        # Another value.
        ("in 1990", "in 1991", ["1990"]),
        ("60,000", "60", ["60,000"]),
        ("1,2", "12", ["1,2"]),
        ("about 3.1", "3.14", ["3.1"]),
        ("100", "10 and 0", ["100"]),
        ("1 and 2 and 1", "", ["1", "2"]),
        # Words with digits.
        ("Use GPT-2.", "gpt-2 is small", []),
        ("Use GPT-3.", "GPT-2, and 3 more", ["GPT-3"]),
        ("int8", "int16 and 8", ["int8"]),
        ("version 1.2.4", "version 1.2.3", ["1.2.4"]),
        ("v1.2.3", "v1.2.3", []),
        ("10km", "10 km", []),
        ("the 5th", "5 of them", []),
        ("the 1990s", "from 1990", []),
        ("1e-3", "0.001", ["1e-3"]),
        # Ranges, dates and times: each part must be there.
        ("10-20", "from 10 to 20", []),
        ("10-30", "from 10 to 20", ["10-30"]),
        ("2024-01-05", "1 May 2024, and 5 more", []),
        ("12:30", "at 12:45", ["12:30"]),
        # Numbers in letters support digits, and are not looked for.
        ("3 ways", "three ways", []),
        ("25 of them", "twenty-five of them", []),
        ("five ways", "", []),
        # Numbers of items are none of the text.
        ("1. Open it.\n2) Close it.\n - 3. Wait.", "", []),
        ("It has 3.", "", ["3"]),
        ("x² is a square", "", []),
        ("no number", "1", []),
    ],
)
def test_numbers_are_compared_by_value(text: str, source: str, expected: list[str]) -> None:
    assert unsupported_numbers(text, [source]) == expected


def test_any_of_the_sources_supports_a_number() -> None:
    assert unsupported_numbers("7 of 12, not 13", ["7", "12"]) == ["13"]
