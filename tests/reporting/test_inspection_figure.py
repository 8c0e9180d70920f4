"""The figure shows the values of the file, with names and units, at any size and without a display."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from support.made_up_inspections import made_up, made_up_site

from ptl_prefix.artifacts.inspection import Inspection
from ptl_prefix.reporting import inspection_figure
from ptl_prefix.reporting.inspection_figure import render_inspection


def panels(found: Inspection) -> list[Axes]:
    """The heatmaps, in reading order."""
    figure = inspection_figure._figure(found)
    figure.draw_without_rendering()
    return [axes for part in figure.subfigs for axes in part.axes if axes.images]


def test_each_heatmap_is_a_table_of_the_file_with_names_and_a_unit() -> None:
    site = made_up_site()

    mass, tokens, keys, values = panels(made_up({"decoder_self": site}))

    shown = [(mass, site.mass), (tokens, site.token_mass), (keys, site.key_norms), (values, site.value_norms)]
    for axes, table in shown:
        np.testing.assert_allclose(axes.images[0].get_array(), table)
        assert axes.get_ylabel() == "layer"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    assert [axes.get_xlabel() for axes, _ in shown] == ["head", *["virtual token"] * 3]
    bars = [axes.images[0].colorbar.ax.get_ylabel() for axes, _ in shown]
    assert bars[:2] == ["share of attention", "share of attention, strongest head"]
    assert bars[2:] == ["relative to the text's norm"] * 2
    assert mass.get_title() == "Attention to the whole prefix (even attention: 0.25)"


def test_the_title_says_which_prefix_on_which_texts() -> None:
    title = inspection_figure._figure(made_up({"decoder_self": made_up_site()}, num_texts=1)).get_suptitle()

    assert title.splitlines() == [
        "prefix_tuning on some_backbone, some_task, prefix length 5",
        "over 1 text from the validation split of some_task",
    ]


def test_dead_tokens_are_marked_where_they_are() -> None:
    tokens = panels(made_up({"decoder_self": made_up_site(dead=(1, 4))}))[1]

    (marks,) = tokens.lines
    assert list(marks.get_xdata()) == [1, 4]
    assert tokens.get_title().endswith("(dead: 2 of 5)")
    assert tokens.get_xlabel() == "virtual token (red mark: dead, below 0.01 in every head)"
    assert tokens.get_xlim() == (-0.5, 4.5)


def test_norms_of_keys_and_values_share_a_scale_with_the_texts_own_in_its_middle() -> None:
    keys, values = panels(made_up({"decoder_self": made_up_site()}))[2:]

    limits = keys.images[0].get_clim()
    assert limits == values.images[0].get_clim()
    assert limits[0] * limits[1] == pytest.approx(1.0)
    bar = keys.images[0].colorbar.ax
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1/2×", "1×", "2×"]


def test_every_site_has_its_own_panels_under_its_name() -> None:
    sites = {"encoder_self": made_up_site(layers=2), "decoder_self": made_up_site(), "decoder_cross": made_up_site()}

    figure = inspection_figure._figure(made_up(sites))

    assert [part.get_suptitle() for part in figure.subfigs] == list(sites)
    assert len(panels(made_up(sites))) == 4 * 3


@pytest.mark.parametrize(("layers", "heads", "tokens"), [(1, 1, 1), (24, 16, 200), (48, 25, 1)])
def test_any_size_is_drawn_as_a_png_with_few_enough_labels(layers: int, heads: int, tokens: int) -> None:
    found = made_up({"decoder_self": made_up_site(layers=layers, heads=heads, tokens=tokens, dead=(0,))})

    png = render_inspection(found)

    assert png.startswith(b"\x89PNG\r\n")
    for axes in panels(found):
        assert max(len(axes.get_xticks()), len(axes.get_yticks())) <= 16


def test_a_norm_of_zero_has_the_lowest_colour() -> None:
    site = dataclasses.replace(made_up_site(), value_norms=((0.0,) * 5,) * 3)

    image = panels(made_up({"decoder_self": site}))[3].images[0]

    np.testing.assert_allclose(image.to_rgba(image.get_array())[0, 0], image.cmap(0.0), atol=0.01)


def test_drawing_needs_neither_a_display_nor_torch() -> None:
    code = (
        "import sys, ptl_prefix.reporting.inspection_figure; "
        "print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.strip() == "[]"
