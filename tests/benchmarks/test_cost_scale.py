"""The cost of what grows, beside the straight line of theory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cost_scale, scale_axes
from benchmarks.cost_scale import BASE, line
from benchmarks.scale_axes import AXES, Axis, multiplications
from benchmarks.step_builders import Setting


def test_the_line_goes_through_zero_and_the_middle_point() -> None:
    assert line([1.0, 2.0, 4.0], [10.0, 14.0, 20.0]) == [7.0, 14.0, 28.0]


def test_multiplications_grow_with_the_batch_and_with_the_trials_alike() -> None:
    one = multiplications(BASE)

    assert multiplications(replace(BASE, batch_size=2 * BASE.batch_size)) == pytest.approx(2 * one)
    assert multiplications(BASE, num_trials=2) == pytest.approx(2 * one)
    # A longer prefix costs attention's products alone: 3 uses, scores and weighted values, for each token and layer.
    longer = multiplications(replace(BASE, prefix_length=BASE.prefix_length + 100))
    assert longer - one == 3 * 4 * 64 * 12 * 2 * 768 * 100


def test_multiplications_of_grouped_queries_and_a_gated_mlp() -> None:
    setting = replace(BASE, shape="tiny_llama", batch_size=1, source_tokens=1, target_tokens=1, prefix_length=3)

    # 4 layers of width 256: queries and output, keys and values of half the heads, and three matrices of the MLP.
    layers = 2 * 2 * 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
    attention = 3 * 2 * 4 * 2 * 256 * (3 + 2)
    assert multiplications(setting) == layers + attention + 2 * 256 * 8192


@pytest.mark.parametrize(
    ("name", "value"),
    [("prefix length", 10), ("batch", 4), ("text", 64), ("layers", 12), ("width", 768), ("trials", 2)],
)
def test_at_the_value_of_the_base_setting_an_axis_costs_what_the_base_setting_does(name: str, value: int) -> None:
    # Two trials of two rows each are the four rows of the base setting.
    assert AXES[name].cost(BASE, value) == multiplications(BASE)
    assert AXES[name].cost(BASE, AXES[name].values[-1]) > AXES[name].cost(BASE, value)


def test_trials_of_an_axis_share_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Packed:
        def __init__(self, setting: Setting, num_trials: int) -> None:
            done.append((setting.batch_size, num_trials))

        def packed_step(self) -> None:
            done.append("packed step")

    done: list[object] = []
    monkeypatch.setattr(scale_axes, "PackedTrials", Packed)

    AXES["trials"].build(BASE, 2)()

    assert done == [(2, 2), "packed step"]


@pytest.mark.parametrize("name", ["bundles, first scan", "bundles, a batch"])
def test_a_store_serves_all_of_its_bundles(name: str) -> None:
    axis = AXES[name]

    (point,) = cost_scale.measure(replace(axis, values=(8,)), BASE, rounds=1, warmup=0)

    assert point.value == 8
    assert point.step_s == point.line_s > 0


def test_costs_are_the_line_s_and_times_the_steps() -> None:
    axis = Axis((1, 2, 4), lambda base, value: lambda: None, lambda base, value: value, "No reason.")

    points = cost_scale.measure(axis, BASE, rounds=3)

    assert [point.line_s / points[1].line_s for point in points] == pytest.approx([0.5, 1.0, 2.0])
    assert points[1].step_s == points[1].line_s


@pytest.mark.slow
def test_every_axis_is_measured_and_drawn(tmp_path: Path) -> None:
    axes = ("batch", "trials", "layers", "bundles_first_scan")
    words = ["--rounds", "1", "--layers", "1", "--most", "2", "--axes", *axes]

    cost_scale.main([*words, "--out", str(tmp_path / "scale.json")])

    report = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert {name: [point["value"] for point in points] for name, points in report["axes"].items()} == {
        "batch": [1, 2],
        "trials": [1, 2],
        "layers": [1, 2],
        "bundles, first scan": [1],
    }
    assert report["bends"]["batch"].startswith("A frozen weight")
    assert all(point["step_s"] > 0 for points in report["axes"].values() for point in points)
    assert (tmp_path / "scale.svg").read_text(encoding="utf-8").count("line of theory") == 4
