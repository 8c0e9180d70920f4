"""A run is resumed with the inputs that it was trained with, from a checkpoint that is whole, or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.same_runs import losses
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import ChangedInputsError, RunError
from ptl_prefix.training import start
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.train import train

SHORT: dict[str, Any] = {"trainer__max_steps": 2, "trainer__val_check_interval": 2}


@pytest.fixture(scope="module")
def begun(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("begun") / "run")
    train(tiny_runs.plan(**SHORT), folder)
    return folder


@pytest.fixture
def folder(begun: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(begun.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def with_other_data(runs: TinyRuns, _: Path, __: pytest.MonkeyPatch) -> Plan:
    return runs.plan(**SHORT, task__num_train=44)


def with_other_weights(runs: TinyRuns, work: Path, _: pytest.MonkeyPatch) -> Plan:
    shutil.copytree(runs.backbone_folder, work / "model")
    weights = load_file(work / "model/model.safetensors")
    weights["transformer.ln_f.bias"] = weights["transformer.ln_f.bias"] + 1e-3
    save_file(weights, work / "model/model.safetensors", {"format": "pt"})
    return runs.plan(**SHORT, backbone__path=str(work / "model"))


def with_another_tokenizer(runs: TinyRuns, work: Path, _: pytest.MonkeyPatch) -> Plan:
    shutil.copytree(runs.backbone_folder, work / "model")
    file = work / "model/tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))
    return runs.plan(**SHORT, backbone__path=str(work / "model"))


def with_other_code(runs: TinyRuns, _: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(start, "package_version", lambda: "99.0")
    return runs.plan(**SHORT)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("data", with_other_data),
        ("weights", with_other_weights),
        ("tokenizer", with_another_tokenizer),
        ("code", with_other_code),
    ],
)
def test_other_inputs_stop_a_resume_unless_they_are_accepted(
    tiny_runs: TinyRuns,
    folder: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changed: Callable[[TinyRuns, Path, pytest.MonkeyPatch], Plan],
) -> None:
    plan = changed(tiny_runs, tmp_path, monkeypatch)
    before = {path: path.read_bytes() for path in (folder.record, folder.config, folder.events, folder.last)}

    with pytest.raises(ChangedInputsError, match=rf"these differ: {kind}.*resume_anyway=\[{kind}\]"):
        train(plan, folder, resume=True)
    assert {path: path.read_bytes() for path in before} == before

    record = train(plan, folder, resume=True, resume_anyway=[kind]).record
    assert record.status == "finished"
    assert record.accepted_changes == [kind]
    assert record.fingerprints != read_record_of(before[folder.record])["fingerprints"]

    # What was accepted once is the run's from then on.
    assert train(plan, folder, resume=True).record.accepted_changes == [kind]


def read_record_of(content: bytes) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(content)
    return values


def test_a_record_has_the_fingerprints_from_the_first_step(begun: RunFolder) -> None:
    record = read_record(begun.record)

    assert set(record.fingerprints) == {"data/train", "data/validation", "data/test", "weights", "tokenizer", "code"}
    (event,) = (event for event in read_events(begun.events) if event["kind"] == "inputs")
    assert (event["step"], event["fingerprints"]) == (0, record.fingerprints)


def test_a_run_of_an_earlier_version_has_fingerprints_from_now_on(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    lines = folder.events.read_text().splitlines(keepends=True)
    folder.events.write_text("".join(line for line in lines if '"inputs"' not in line))

    record = train(tiny_runs.plan(**SHORT), folder, resume=True).record

    assert (record.status, record.accepted_changes) == ("finished", [])
    assert record.fingerprints["weights"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    tensor = next(iter(torch.load(path, weights_only=True)["state_dict"].values())).contiguous()
    content[content.index(tensor.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


def test_a_damaged_last_checkpoint_offers_the_newest_whole_one(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    longer = {"trainer__max_steps": 8, "trainer__val_check_interval": 2, "training__keep_last": 3}
    plan, folder = tiny_runs.plan(**longer), RunFolder(tmp_path / "run")
    train(plan, folder)
    before = losses(folder)
    for path in (folder.last, folder.best, folder.kept(6)):
        flip_a_bit(path)

    with pytest.raises(RunError, match=r"The newest whole checkpoint, step-4\.ckpt of step 4, can take its place"):
        train(plan, folder, resume=True)
    assert train(plan, folder, resume=True, resume_anyway=["checkpoint"]).record.status == "finished"

    assert losses(folder) == before
    assert folder.kept_steps() == [4, 6] and read_checkpoint(folder.kept(6))["global_step"] == 6


def test_a_damaged_last_checkpoint_offers_the_best(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(**SHORT)
    flip_a_bit(folder.last)
    before = folder.record.read_bytes()

    with pytest.raises(
        RunError, match=r"last\.ckpt.*checkpoint, best.ckpt of step 2, can take.*resume_anyway=\[checkpoint\]"
    ):
        train(plan, folder, resume=True)
    assert folder.record.read_bytes() == before, "the record is removed only after the checkpoint was read"

    assert train(plan, folder, resume=True, resume_anyway=["checkpoint"]).record.status == "finished"
    flip_a_bit(folder.last)
    flip_a_bit(folder.best)
    with pytest.raises(RunError, match="No checkpoint is left"):
        train(plan, folder, resume=True, resume_anyway=["checkpoint"])


def test_a_run_without_its_log_is_not_resumed(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    folder.events.unlink()

    with pytest.raises(RunError, match="must have an event log"):
        train(tiny_runs.plan(**SHORT), folder, resume=True)
    assert folder.record.exists()


@pytest.mark.parametrize("has_older_checkpoint", [False, True])
def test_a_prolonged_run_equals_one_that_was_as_long_from_the_start(
    tiny_runs: TinyRuns, folder: RunFolder, tmp_path: Path, has_older_checkpoint: bool
) -> None:
    constant = {**SHORT, "optimizer__schedule": "constant"}
    shutil.rmtree(folder.path)
    train(tiny_runs.plan(**constant), folder)
    if has_older_checkpoint:
        checkpoint = torch.load(folder.last, weights_only=True)
        del checkpoint["callbacks"]["Checkpoints"]["ended_at"]
        torch.save(checkpoint, folder.last)
    whole = RunFolder(tmp_path / "whole")
    train(tiny_runs.plan(**{**constant, "trainer__max_steps": 6}), whole)

    record = train(tiny_runs.plan(**{**constant, "trainer__max_steps": 6}), folder, resume=True).record

    assert (record.status, record.cost.steps, record.budget) == ("finished", 6, {"steps": 6})
    assert record.accepted_changes == ["trainer.max_steps"]
    assert losses(folder) == losses(whole)
    assert record.metrics == read_record(whole.record).metrics
