"""The plots show the values of the tables."""

from collections.abc import Callable
from typing import Any

import pytest
from support.made_up_runs import MadeUp

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting import figures
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.figures import Figure, build_figures
from ptl_prefix.reporting.table import Table

Compared = Callable[..., Comparison]


@pytest.fixture
def table(compared: Compared, two_methods: list[MadeUp]) -> Table:
    return compared(*two_methods).tables[0]


def titled(table: Table, title: str) -> Figure:
    return next(figure for figure in build_figures(table) if figure.title == title)


def of_row(figure: Figure, row: int, metric: str) -> list[dict[str, Any]]:
    return [trace for trace in figure.variants[metric]["data"] if trace["meta"].get("row") == row]


def test_a_curve_is_the_mean_of_the_seeds_in_a_band_from_the_least_to_the_greatest(table: Table) -> None:
    band, line = of_row(titled(table, "Learning curves by step"), 1, "")

    assert line["x"] == [0, 20, 40]
    assert line["y"] == pytest.approx([3.0, 2 * (1.0 + 1.1 + 1.25) / 3, (1.0 + 1.1 + 1.25) / 3])
    assert band["x"] == [0, 20, 40, 40, 20, 0]
    assert band["y"] == pytest.approx([3.0, 2.5, 1.25, 1.0, 2.0, 3.0])


def test_a_curve_by_tokens_uses_the_mean_number_of_tokens_per_step(table: Table) -> None:
    *_, line = of_row(titled(table, "Learning curves by tokens"), 1, "")

    assert line["x"] == [0, 2000, 4000]


@pytest.mark.parametrize(("name", "costs"), [("trainable", [1000, 1000, 80]), ("stored", [200, 100, 80])])
def test_quality_is_plotted_over_parameters_on_a_logarithmic_axis(table: Table, name: str, costs: list[int]) -> None:
    figure = titled(table, f"Quality over {name} parameters")

    points = [of_row(figure, row, "test/bleu")[0] for row in (1, 2, 3)]
    assert [point["x"] for point in points] == [[cost] for cost in costs]
    summaries = [row.summaries["test/bleu"] for row in table.rows]
    assert [point["y"] for point in points] == [[summary.mean] for summary in summaries]
    assert [point["error_y"]["array"] for point in points] == [[summary.half_width] for summary in summaries]
    axis = figure.variants["test/bleu"]["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert 10 ** axis["range"][0] < min(costs) <= max(costs) < 10 ** axis["range"][1]


def test_the_pareto_front_depends_on_the_metric(table: Table) -> None:
    figure = titled(table, "Quality over stored parameters")

    for metric in ("test/bleu", "val/loss"):
        (front,) = (trace for trace in figure.variants[metric]["data"] if trace["meta"].get("is_front"))
        assert front["x"] == [80, 100, 200]


def test_the_bare_backbone_is_a_line_unless_it_is_far_off(table: Table) -> None:
    variants = titled(table, "Quality over stored parameters").variants

    shapes = variants["val/loss"]["layout"]["shapes"]
    assert [(shape["y0"], shape["y1"]) for shape in shapes] == [(3.0, 3.0)]
    assert "shapes" not in variants["test/bleu"]["layout"]  # 5, where the rows have 51 to 61


def test_a_differing_numeric_setting_has_a_plot(table: Table) -> None:
    figure = titled(table, "Quality over prefix_length")

    assert [of_row(figure, row, "val/loss")[0]["x"] for row in (1, 2)] == [[20.0], [10.0]]
    assert of_row(figure, 3, "val/loss") == []
    (join,) = (trace for trace in figure.variants["val/loss"]["data"] if trace["meta"].get("is_join"))
    assert join["x"] == [10.0, 20.0]


def test_only_rows_that_differ_in_one_setting_are_joined(compared: Compared) -> None:
    settings = [{"prefix_length": p, "reparam": r} for p in (5, 100) for r in ("mlp", "none")]
    table = compared(*(MadeUp(settings=one, bleu=number) for number, one in enumerate(settings))).tables[0]

    figure = titled(table, "Quality over prefix_length")

    joins = [trace for trace in figure.variants["test/bleu"]["data"] if trace["meta"].get("is_join")]
    assert [join["x"] for join in joins] == [[5.0, 100.0], [5.0, 100.0]]
    axis = figure.variants["test/bleu"]["layout"]["xaxis"]
    assert (axis["type"], axis["tickvals"]) == ("log", [5.0, 100.0])
    assert 10 ** axis["range"][0] < 5 < 100 < 10 ** axis["range"][1]
    assert not any("reparam" in figure.title for figure in build_figures(table))


def test_a_table_without_logs_has_no_curves(compared: Compared, two_methods: list[MadeUp]) -> None:
    table = compared(*two_methods).tables[0]
    for row in table.rows:
        for run in row.runs:
            run.folder.events.unlink()

    assert not any("curves" in figure.title for figure in build_figures(table))


@pytest.mark.parametrize(
    ("scale", "mean", "half", "above", "below"),
    [
        ("0-1", 0.98, 0.05, 0.02, 0.05),
        ("0-1", 0.02, 0.05, 0.05, 0.02),
        ("0-100", 99.0, 4.0, 1.0, 4.0),
        ("0-10", 2.0, 0.5, 0.5, 0.5),
        ("percent", 3.0, 10.0, 10.0, 3.0),
        ("nats per target token", 0.1, 0.3, 0.3, 0.1),
        ("?", 0.0, 2.0, 2.0, 2.0),
    ],
)
def test_error_bars_stay_inside_the_metrics_scale(
    scale: str, mean: float, half: float, above: float, below: float
) -> None:
    info = MetricInfo(scale=scale, direction="maximize", version="1", library="x")

    bar = figures._error_bar(mean, half, info)

    assert bar["array"] == [pytest.approx(above)]
    assert bar.get("arrayminus", bar["array"]) == [pytest.approx(below)]
    assert ("arrayminus" in bar) is (bar.get("symmetric") is False)
