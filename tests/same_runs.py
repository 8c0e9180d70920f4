"""When two runs are the same: not how long they took or how they were interrupted, but every number, bit by bit."""

import json
from typing import Any

import torch

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder


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
