"""Runs and studies of version 0.1.0 open, resume and compare with the code of today."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.command_lines import Invoke

from ptl_prefix import load_backbone, load_bundle
from ptl_prefix.artifacts.event_log import read_events, validation_losses
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

OLD = Path(__file__).parents[1] / "golden" / "version_0_1"

UNINTERRUPTED = {20: 5.205411551339286, 40: 5.072594866071428, 60: 4.942782854352679}
"""Validation losses by step of a run with the stopped run's config that was never stopped."""


@pytest.fixture
def outputs(invoke: Invoke) -> Path:
    """Copies of the old folders in `outputs/` of the working directory of `invoke`."""
    outputs = Path("outputs").absolute()
    shutil.copytree(OLD, outputs)
    (outputs / "sweeps").mkdir()
    (outputs / "study").rename(outputs / "sweeps/study")
    return outputs


def test_a_record_reads_as_it_was_written(outputs: Path) -> None:
    record = read_record(outputs / "finished" / "record.json")

    assert (record.status, record.method, record.seed, record.cost.steps) == ("finished", "prefix_tuning", 0, 60)
    assert (record.parameters.trained, record.parameters.stored) == (4096, 4096)
    assert record.metrics["val/loss"] == pytest.approx(4.9, abs=0.5)


def test_a_bundle_loads_and_writes_what_it_wrote(outputs: Path) -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    bare = backbone.model(torch.tensor([[5, 6, 7]])).logits

    bundle = load_bundle(outputs / "finished" / "bundle", backbone)
    (text,) = bundle.generate(["name : The Old Mill | kind : pub | city : Rome"])
    bundle.detach()

    assert text.strip()
    assert torch.equal(backbone.model(torch.tensor([[5, 6, 7]])).logits, bare)


def test_a_finished_run_has_nothing_left_to_do(outputs: Path, invoke: Invoke) -> None:
    before = (outputs / "finished/record.json").read_bytes()

    result = invoke("train", "resume=outputs/finished")

    assert result.exit_code == 0, result.output
    assert (outputs / "finished/record.json").read_bytes() == before


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_numbers_of_an_uninterrupted_one(outputs: Path, invoke: Invoke) -> None:
    result = invoke("train", "resume=outputs/stopped")

    assert result.exit_code == 0, result.output
    folder = RunFolder(outputs / "stopped")
    assert read_record(folder.record).status == "finished"
    # Another processor rounds otherwise, so the numbers are not compared bit by bit.
    assert dict(validation_losses(read_events(folder.events))) == pytest.approx(UNINTERRUPTED, rel=1e-3)


def test_old_runs_compare(outputs: Path, invoke: Invoke) -> None:
    result = invoke("compare", "outputs/finished", "outputs/sweeps/study/0", "metric=val/loss", "out=page")

    assert result.exit_code == 0, result.output
    assert "prefix_length=20" in " ".join(Path("page/comparison.md").read_text().split()).replace("`", "")


def test_old_runs_are_listed_with_their_states(outputs: Path, invoke: Invoke) -> None:
    result = invoke("runs", "outputs", "format=json")

    states = {line["path"].rpartition("outputs/")[2]: line["state"] for line in json.loads(result.stdout)}
    in_study = {"sweeps/study/0": "finished", "sweeps/study/1": "stopped"}
    assert states == {"finished": "finished", "stopped": "stopped", **in_study}


def test_an_old_study_shows_its_status(outputs: Path, invoke: Invoke) -> None:
    result = invoke("sweep", "status", "study")

    assert result.exit_code == 0, result.output
    assert "1/4" in result.output


@pytest.mark.slow
def test_an_old_study_resumes_and_keeps_its_finished_trial(outputs: Path, invoke: Invoke) -> None:
    before = (outputs / "sweeps/study/0/record.json").read_bytes()

    result = invoke("sweep", "resume", "study")

    assert result.exit_code == 0, result.output
    assert (outputs / "sweeps/study/0/record.json").read_bytes() == before
    assert read_record(outputs / "sweeps/study/1/record.json").status == "finished"
    records = [read_record(outputs / f"sweeps/study/{number}/record.json") for number in range(4)]
    assert [record.status for record in records] == ["finished"] * 4
    assert len({record.config["method"]["prefix_length"] for record in records}) == 4
