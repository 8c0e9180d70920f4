"""When two runs are the same: not how long they took or how they were interrupted, but every number, bit by bit.

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
"""Sums in another order; Adam divides by what may be almost 0."""


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
    """What a run did, in its log; neither when it did it nor how it was interrupted."""
    interruptions = ("resumed", "stopped", "error")
    events = [event for event in read_events(folder.events) if event["kind"] not in interruptions]
    if [event["kind"] for event in events].count("finished") == 2:  # it was evaluated again
        events.pop()
    of_the_moment = ("time_s", "tokens_per_s", "train_s", "environment")
    return [{key: value for key, value in event.items() if key not in of_the_moment} for event in events]


def losses(folder: RunFolder) -> dict[str, list[float]]:
    """Every loss that a run has logged, by its name."""
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
    """They move every score of a query alike: their gradient is nothing but rounding, of which Adam makes steps."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(("c_attn.bias", "k_proj.bias"))}
