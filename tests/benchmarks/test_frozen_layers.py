"""The benchmark of upper layers: cached steps compute the same losses, and all results are written."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import frozen_layers
from benchmarks.shapes import random_backbone

SMALL = {"rows": 6, "batch_size": 2, "eval_batch_size": 4, "source_tokens": 4, "target_tokens": 4, "prefix_length": 3}


def test_cached_steps_have_the_losses_of_plain_ones(tmp_path: Path) -> None:
    arguments = argparse.Namespace(**SMALL)
    backbone = random_backbone("tiny_llama", device="cpu", dtype="float32")
    encoded = frozen_layers.random_rows(tmp_path / "rows", backbone, arguments)

    def built(cache: Path | None) -> frozen_layers.Contender:
        # It seeds the start of the prefix, too.
        backbone = random_backbone("tiny_llama", device="cpu", dtype="float32")
        return frozen_layers.build(backbone, encoded, range(2, 4), cache, arguments)

    plain, cached = built(None), built(tmp_path / "states")

    losses = [[one.training.step() for _ in range(4)] for one in (plain, cached)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][3] != pytest.approx(losses[0][0], rel=1e-3)
    assert plain.computed_s is None
    assert cached.computed_s is not None


def test_every_share_of_layers_is_written(tmp_path: Path) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]

    frozen_layers.main(["--shape", "tiny", "--steps=2", "--warmup=1", *words, f"--json={tmp_path / 'times.json'}"])

    report = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert set(report) == {"environment", "measurements"}
    whole, half, quarter = report["measurements"]
    assert [one["num_layers"] for one in (whole, half, quarter)] == [4, 2, 1]
    assert whole["cached_step_s"] is None
    assert whole["plain_over_all"]["median"] == 1.0
    for one in (half, quarter):
        assert one["computed_s_per_row"] > 0
        assert 0 < one["cached_over_plain"]["low"] <= one["cached_over_plain"]["high"]
