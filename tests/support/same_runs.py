"""Asserts that two runs are equal: every number bit for bit, but not times and interruptions.

Or, where the same sums were made in another order, but for their rounding.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

CLOSE = {"rtol": 2e-4, "atol": 2e-4}
"""Tolerance: sums have another order, and Adam divides by numbers close to 0."""


def assert_same_run(folder: RunFolder, whole: RunFolder) -> None:
    """Compare checkpoints, records, logs and bundles of two finished runs."""
    for name in ("last", "best"):
        ours, theirs = (torch.load(getattr(one, name), weights_only=True) for one in (folder, whole))
        assert ours["global_step"] == theirs["global_step"]
        assert all(torch.equal(ours["state_dict"][key], tensor) for key, tensor in theirs["state_dict"].items())
        for index, moments in theirs["optimizer_states"][0]["state"].items():
            assert all(torch.equal(ours["optimizer_states"][0]["state"][index][key], moments[key]) for key in moments)
    ours, theirs = (json.loads(one.record.read_text()) for one in (folder, whole))
    for key in ("status", "metrics", "budget", "parameters"):
        assert ours[key] == theirs[key]
    for key in ("steps", "tokens"):
        assert ours["cost"][key] == theirs["cost"][key]
    assert told(folder) == told(whole)
    bundles = [read_bundle(one.bundle).manifest for one in (folder, whole)]
    assert bundles[0].tensors_sha256 == bundles[1].tensors_sha256
    assert bundles[0].metrics == bundles[1].metrics


def told(folder: RunFolder) -> list[dict[str, Any]]:
    """The events of a run, without times and interruptions."""
    interruptions = ("resumed", "stopped", "error", "failed")
    events = [event for event in read_events(folder.events) if event["kind"] not in interruptions]
    if [event["kind"] for event in events].count("finished") == 2:  # it was evaluated again
        events.pop()
    of_the_moment = ("time_s", "tokens_per_s", "train_s", "selection_s", "computed_s", "environment")
    return [{key: value for key, value in event.items() if key not in of_the_moment} for event in events]


def losses(folder: RunFolder) -> dict[str, list[float]]:
    """Every logged loss of a run by its name."""
    curves: dict[str, list[float]] = {"train/loss": [], "val/loss": [], "train/grad_norm": []}
    for event in read_events(folder.events):
        for name, curve in curves.items():
            if name in event and event["kind"] in ("train", "validation"):
                curve.append(event[name])
    return curves


def assert_equal_but_for_rounding(folder: RunFolder, whole: RunFolder) -> None:
    """Losses at every step, metrics, tokens, outputs and what is exported."""
    ours, theirs = losses(folder), losses(whole)
    for name, curve in theirs.items():
        assert ours[name] == pytest.approx(curve, rel=1e-4), name
    records = [read_record(one.record) for one in (folder, whole)]
    assert records[0].metrics == pytest.approx(records[1].metrics, rel=1e-4)
    assert [record.cost.tokens for record in records] == [records[1].cost.tokens] * 2
    assert [record.cost.steps for record in records] == [12, 12]
    predictions = [next(one.evaluation.glob("*/predictions.jsonl")).read_text() for one in (folder, whole)]
    assert predictions[0] == predictions[1]
    assert_close(*(_without_biases_of_keys(read_bundle(one.bundle).tensors) for one in (folder, whole)), **CLOSE)


def _without_biases_of_keys(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Biases of keys shift all scores of a query: their gradient is rounding, which Adam turns into steps."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(("c_attn.bias", "k_proj.bias"))}
