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


def test_a_source_is_the_only_column_or_an_object_of_all() -> None:
    assert SourceTemplate("Say: {a}! {a}").render_source(' {"a": "x"} ') == 'Say: {"a": "x"}! {"a": "x"}'
    several = SourceTemplate("{b}) {a}")
    assert several.render_source('{"a": [" x ", "y", ""], "b": 7, "c": null}') == "7) x y"
    for source, fact in (
        ("x", r"one is not JSON"),
        ("[1]", r"one is \[1\]"),
        ('{"a": "x"}', "one has none as 'b'"),
        ('{"a": "x", "b": {}}', r"one has \{\} as 'b'"),
        ('{"a": " ", "b": 1}', "one has ' ' as 'a'"),
    ):
        with pytest.raises(ValueError, match=rf'must be a JSON object with .* {{"b": "...", "a": "..."}}, but {fact}'):
            several.render_source(source)
