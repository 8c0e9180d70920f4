from pathlib import Path

import pytest
import torch
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.training.train import train


def test_the_same_sources_are_decoded_at_every_validation(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    train(tiny_runs.plan(tracking__num_samples=2), folder)

    first, second = (event for event in read_events(folder.events) if event["kind"] == "samples")
    assert (first["step"], second["step"]) == (3, 6)
    assert len(first["samples"]) == 2
    assert [one["source"] for one in first["samples"]] == [one["source"] for one in second["samples"]]
    assert first["samples"][0].keys() == {"source", "reference", "hypothesis"}
    assert first["samples"][0]["source"] != first["samples"][1]["source"]


@pytest.mark.parametrize("decoding", [{}, {"generation__num_beams": 2}, {"generation__do_sample": True}])
def test_samples_do_not_change_the_training(
    dropping_runs: TinyRuns, tmp_path: Path, decoding: dict[str, object]
) -> None:
    states = []
    for num_samples in (0, 2):
        folder = RunFolder(tmp_path / str(num_samples))
        plan = dropping_runs.plan(
            tracking__num_samples=num_samples, method__prefix_dropout=0.3, backbone__base_mode="train", **decoding
        )
        train(plan, folder)
        states.append(torch.load(folder.last, weights_only=True)["state_dict"])

    without, with_samples = states
    assert all(torch.equal(with_samples[name], tensor) for name, tensor in without.items())


def test_a_run_with_num_samples_0_decodes_none(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    train(tiny_runs.plan(tracking__num_samples=0), folder)

    assert "samples" not in {event["kind"] for event in read_events(folder.events)}


def test_samples_are_decoded_greedily_whatever_the_run_uses(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    written = []
    for name, decoding in (("greedy", {}), ("drawn", {"generation__do_sample": True, "generation__temperature": 5.0})):
        folder = RunFolder(tmp_path / name)
        train(tiny_runs.plan(tracking__num_samples=2, **decoding), folder)
        written.append([event["samples"] for event in read_events(folder.events) if event["kind"] == "samples"])

    assert written[0] == written[1]
