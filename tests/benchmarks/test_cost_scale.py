"""The cost of a step beside the straight line of theory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cost_scale
from benchmarks.cost_scale import line, multiplications

BASE = cost_scale._BASE


def test_the_line_goes_through_zero_and_the_middle_point() -> None:
    assert line([1.0, 2.0, 4.0], [10.0, 14.0, 20.0]) == [7.0, 14.0, 28.0]


def test_multiplications_grow_with_the_batch_and_with_the_trials_alike() -> None:
    one = multiplications(BASE)

    assert multiplications(replace(BASE, batch_size=2 * BASE.batch_size)) == pytest.approx(2 * one)
    assert multiplications(BASE, num_trials=2) == pytest.approx(2 * one)
    # A longer prefix costs attention's products alone: 3 uses, scores and weighted values, for each token and layer.
    longer = multiplications(replace(BASE, prefix_length=BASE.prefix_length + 100))
    assert longer - one == 3 * 8 * 128 * 12 * 2 * 768 * 100


@pytest.mark.slow
def test_every_axis_is_measured_and_drawn(tmp_path: Path) -> None:
    words = ["--rounds", "1", "--layers", "1", "--most", "2", "--axes", "batch", "trials", "layers"]

    cost_scale.main([*words, "--out", str(tmp_path / "scale.json")])

    report = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert {name: [point["value"] for point in points] for name, points in report["axes"].items()} == {
        "batch": [1, 2],
        "trials": [1, 2],
        "layers": [1, 2],
    }
    assert all(point["step_s"] > 0 for points in report["axes"].values() for point in points)
    assert (tmp_path / "scale.svg").read_text(encoding="utf-8").count("multiplications alone") == 3
