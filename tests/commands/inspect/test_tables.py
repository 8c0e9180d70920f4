"""The printed tables of an inspection."""

import io

import pytest
from rich.console import Console
from support.made_up_inspections import made_up, made_up_site

from ptl_prefix.artifacts.inspection import Inspection
from ptl_prefix.commands.inspect.tables import show_inspection


def printed(found: Inspection, width: int = 160) -> str:
    out = io.StringIO()
    show_inspection(found, Console(file=out, width=width))
    return out.getvalue()


def test_the_inspected_bundle_and_the_definitions_are_shown() -> None:
    text = printed(made_up({"decoder_self": made_up_site()}))

    assert "prefix_tuning on some_backbone, some_task: run/bundle" in text
    assert "texts: 3 from the validation split of some_task" in text
    assert "vocabulary: 100 of 200 words" in text
    assert "mass: what it is." in text
    assert "dead: what that is." in text


def test_every_head_and_every_token_is_shown() -> None:
    site = made_up_site(dead=(2,))

    text = printed(made_up({"decoder_self": site}))

    for row in site.mass:
        assert " ".join(f"{mass:.2f}" for mass in row) in text
    for mass, layer in site.peaks:
        assert f"{mass:.4f} │" in text and f" {layer} │" in text
    assert text.count("dead") == 3  # the title, one token, the definition
    assert "1 of 5 virtual tokens are dead (below 0.01 in every head): 2" in " ".join(text.split())


def test_words_show_their_leading_space_and_best_cosine() -> None:
    text = printed(made_up({"decoder_self": made_up_site()}))

    assert "␣word3  x" in text
    assert "0.50" in text
    assert "chance 0.31" in text and "chance 0.12" in text


def test_a_long_prefix_is_truncated() -> None:
    text = printed(made_up({"decoder_self": made_up_site(tokens=200)}))

    assert "│    23 │" in text
    assert "│    24 │" not in text
    assert text.count("176 more virtual tokens are in the file") == 2


def test_a_site_without_nearest_words_is_reported() -> None:
    text = printed(made_up({"decoder_cross": made_up_site(words=False)}))

    assert "decoder_cross: no nearest words" in text


@pytest.mark.parametrize("width", [40, 80])
def test_tables_fit_a_narrow_terminal(width: int) -> None:
    assert max(map(len, printed(made_up({"decoder_self": made_up_site()}), width).splitlines()[4:])) <= width
