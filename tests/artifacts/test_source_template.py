"""Templates of sources: names of columns in braces, and nothing else."""

import pytest

from ptl_prefix.artifacts.source_template import SourceTemplate


def test_columns_are_filled_in_and_doubled_braces_are_literal() -> None:
    template = SourceTemplate("{title}\n{{x}} {the body}: {title}")

    assert template.columns == ("title", "the body")
    # The text of a column is text, whatever braces it has.
    assert template.render({"title": "{A}", "the body": "b {{"}.__getitem__) == "{A}\n{x} b {{: {A}"


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        ("{a.b}", r"must have nothing but names of columns in braces, but has {a\.b}; name columns as {name}"),
        ("{a[0]}", r"but has {a\[0\]}"),
        ("{a!r:>9}", r"but has {a!r:>9}"),
        ("{a:{b}}", r"but has {a:{b}}"),
        ("{}", r"but has {}"),
        ("{a", r"must have matching braces, but expected '}' before end of string; name"),
        ("a}", r"must have matching braces, but "),
        ("a {{b}}", r"must name a column, but is 'a {{b}}', the same for all rows"),
    ],
)
def test_anything_else_is_refused(template: str, mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        SourceTemplate(template)
