"""Ranks by a subset of the validation split are compared with ranks by the whole split."""

import json
import math
from pathlib import Path

import pytest
from support.tiny_runs import TinyRuns

from benchmarks import rung_ranking
from benchmarks.rung_ranking import agreement
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.training.train import train

WHOLE = [2.0, 2.1, 2.3, 2.2, 2.9, 2.5]


def test_equal_orders_agree_wholly() -> None:
    found = agreement([10 * loss for loss in WHOLE], WHOLE, resamples=200)

    assert [found.kendall.value, found.spearman.value] == pytest.approx([1.0, 1.0])
    assert (found.top_1.value, found.regret.value) == (1.0, 0.0)
    assert [found.kendall.low, found.kendall.high, found.top_1.low] == pytest.approx([1.0, 1.0, 1.0])


def test_a_reversed_order_disagrees_wholly() -> None:
    found = agreement([-loss for loss in WHOLE], WHOLE, resamples=200)

    assert [found.kendall.value, found.top_1.value] == pytest.approx([-1.0, 0.0])
    assert found.regret.value == pytest.approx(0.9)


def test_one_swapped_pair_of_six_runs() -> None:
    found = agreement([2.1, 2.0, 2.3, 2.2, 2.9, 2.5], WHOLE, resamples=500)

    assert found.kendall.value == pytest.approx(1 - 2 / 15)
    assert found.spearman.value == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert found.kendall.low < found.kendall.value <= found.kendall.high <= 1.0 + 1e-9
    assert (found.top_1.value, found.regret.value) == (0.0, pytest.approx(0.1))
    assert 0.0 < found.top_1.low < 1.0, "some resamples lack the swapped pair"
    assert agreement([2.1, 2.0, 2.3, 2.2, 2.9, 2.5], WHOLE, resamples=500) == found


def test_equal_losses_have_no_order() -> None:
    assert math.isnan(agreement([1.0] * 6, WHOLE, resamples=20).kendall.value)


def test_two_runs_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="at least three runs"):
        agreement([1.0, 2.0], [1.0, 2.0])


@pytest.mark.slow
def test_losses_are_those_of_the_runs_own_records(tmp_path: Path) -> None:
    runs, settings = TinyRuns(tmp_path / "tiny"), {"training__validation_examples": 3, "trainer__max_steps": 4}
    folders = [RunFolder(tmp_path / str(seed)) for seed in range(3)]
    for seed, folder in enumerate(folders):
        write_config(folder, runs.config(seed=seed, **settings))
        train(runs.plan(seed=seed, **settings), folder)

    words = [*(str(folder.path) for folder in folders), "--sizes", "3", "--resamples", "20"]
    rung_ranking.main([*words, "--out", str(tmp_path / "ranking.json")])

    measured = json.loads((tmp_path / "ranking.json").read_text(encoding="utf-8"))["losses"]
    for folder in folders:
        record = read_record(folder.record)
        assert record.ranking is not None
        assert measured[str(folder.path)]["3"] == pytest.approx(record.ranking.loss, abs=1e-6)
        assert measured[str(folder.path)]["None"] == pytest.approx(record.metrics["val/loss"], abs=1e-6)

    rung_ranking.main([*words, "--whole-examples", "3", "--out", str(tmp_path / "larger.json")])

    for losses in json.loads((tmp_path / "larger.json").read_text(encoding="utf-8"))["losses"].values():
        assert losses["None"] == losses["3"]
