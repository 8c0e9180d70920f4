"""`ptl-prefix distill`: a document becomes a bundle, whatever stops it, and a changed document continues from it."""

import json
import signal
from pathlib import Path

import pytest
import torch
from click.testing import Result
from support.command_lines import CommandLine, Invoke
from support.made_up_studies import sentences
from support.mirrored_folders import contents
from support.object_store import BUCKET, FaultyStore

from ptl_prefix.artifacts.document_text import document_state
from ptl_prefix.artifacts.manifest import read_manifest
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, is_any
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.artifacts.self_study import read_self_study
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.training.module import AdaptationModule

SMALL = [
    "backbone=tiny_gpt2",
    "backbone.device=cpu",
    "self_study.chunk_tokens=64",
    "self_study.num_conversations=10",
    "self_study.max_answer_tokens=16",
    "self_study.max_question_tokens=12",
    "self_study.validation_share=0.3",
    "method.prefix_length=8",
    "data.batch_size=4",
    "trainer.max_steps=6",
    "trainer.val_check_interval=2",
    "evaluation.num_examples=2",
    "evaluation.compare_bare=false",
    "evaluation.retention=false",
    "tracking=none",
]


def write_document(path: Path, *, version: int = 0) -> Path:
    path.write_text("\n".join(sentences(16, version=version)), encoding="utf-8")
    return path


def stopped_at(step: int, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, *words: str) -> Result:
    """Call a command that receives SIGTERM in the middle of its training."""
    usual = AdaptationModule.training_step

    def stopping(module: AdaptationModule, batch: ModelInputs, batch_idx: int) -> torch.Tensor:
        if module.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        return usual(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptationModule, "training_step", stopping)
        return invoke(*words)


def test_all_mistakes_are_told_before_weights_load(invoke: Invoke) -> None:
    result = invoke(
        "distill",
        "document=none.txt",
        "backbone=tiny_gpt2",
        "method.prefix_length=0",
        "optimizer.label_smoothing=0.1",
        "update=nowhere",
    )

    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "The config has 5 mistakes" in told
    for sentence in (
        "`document` must be a file, but 'none.txt' is not one.",
        "`method.prefix_length` must be >= 1, but is 0.",
        "`optimizer.label_smoothing` must be 0 where a teacher is matched",
        "`update`: A run must be a folder with a config.yaml, but nowhere",
        "must fit the 512 positions of tiny_gpt2",
    ):
        assert sentence in told, sentence
    assert "`document` must be given" in invoke("distill", "backbone=tiny_gpt2", "self_study.chunk_tokens=64").stderr


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    document = write_document(tmp_path / "manual.txt")
    words = ["distill", *SMALL, f"document={document}", f"data.cache_dir={tmp_path / 'cache'}", "hydra.run.dir=planned"]

    result = invoke(*words, "dry_run=true", "self_study.general_share=0.2")

    assert result.exit_code == 0, result.output
    shown = [" ".join(line.replace("│", " ").split()) for line in result.stdout.splitlines()]
    assert "Dry run: nothing was loaded, nothing is written" in shown
    for row in (
        "conversations 12 (10 continuation, 2 general), of which 4 are held out",
        "training pairs 8",
        "stored parameters 16,384",
        "trainable parameters 14,336",
        "steps 6 of 4 rows (3.00 epochs)",
        "questions at the end none",
    ):
        assert row in shown, row
    assert any(row.startswith("run ") and row.endswith("planned") for row in shown)
    assert any(row.startswith("tokens generated at most 192;") for row in shown)
    assert "times; below 5, little of it is learned" in result.stdout
    assert "dry_run: true" in shown
    assert not Path("planned").exists()
    assert not (tmp_path / "cache").exists()
    assert "must be >= 1, but is 0" in invoke(*words, "dry_run=true", "method.prefix_length=0").stderr


@pytest.mark.slow
def test_attention_matching_needs_no_training_and_no_generated_text(invoke: Invoke, tmp_path: Path) -> None:
    document = write_document(tmp_path / "manual.txt")
    words = [word for word in SMALL if not word.startswith("trainer.")]

    result = invoke(
        "distill",
        *words,
        f"document={document}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "hydra.run.dir=matched",
        "trainer.max_steps=0",
        "method.init=attention_matching",
        "self_study.passages=true",
    )

    assert result.exit_code == 0, result.output
    assert "nothing is trained, and the bundle holds the start of document_prefix" in result.stderr
    assert "compressed into 7 positions" in result.stderr
    record = read_record("matched/record.json")
    assert (record.status, record.cost.steps, record.learning_rate) == ("finished", 0, None)
    assert record.metrics["val/loss"] < record.metrics["val/loss_before"]
    study = read_self_study(record.config["task"]["self_study"])
    assert {one.kind for one in study.conversations} == {"continuation"}
    text = document.read_text()
    assert all(f"{one.question} {one.answer}" in text for one in study.conversations)
    manifest = read_manifest(RunFolder("matched").bundle)
    assert manifest.settings["prefix_length"] == 8
    assert manifest.routing is not None
    again = invoke("distill", "resume=matched")
    assert again.exit_code == 0 and "already finished after 0 steps" in again.stderr


@pytest.mark.slow
def test_a_document_becomes_a_bundle_through_stops_and_changes(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = write_document(tmp_path / "manual.txt")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "The Alder harbour sells", "answer": "copper."}) + "\n")
    words = ["distill", *SMALL, f"document={document}", f"data.cache_dir={tmp_path / 'cache'}"]

    whole = invoke(*words, f"questions={questions}", "hydra.run.dir=whole")

    assert whole.exit_code == 0, whole.output
    assert "starts from the first 7 tokens of the document" in whole.stderr
    for shown in ("answer_loss", "no context", "first 8 tokens", "bundle:", "self-study:", "document.json"):
        assert shown in whole.stdout, shown
    manifest = read_manifest(RunFolder("whole").bundle)
    assert (document_state(manifest), manifest.document_path) == ("unchanged", str(document))
    record = read_record("whole/record.json")
    assert record.metric_info["val/loss"].scale == "nats per target token, to the teacher"
    assert record.task == manifest.task == "manual.txt"

    stopped = stopped_at(2, invoke, monkeypatch, *words, f"questions={questions}", "hydra.run.dir=stopped")
    resumed = invoke("distill", "resume=stopped")

    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "was generated before" in stopped.stderr
    assert resumed.exit_code == 0, resumed.output
    assert "answer_loss" in resumed.stdout
    assert read_manifest(RunFolder("stopped").bundle).tensors_sha256 == manifest.tensors_sha256

    write_document(document, version=1)
    assert document_state(manifest) == "changed"
    updated = invoke(*words, "update=whole", "hydra.run.dir=updated")

    assert updated.exit_code == 0, updated.output
    assert "whole was made from another version of the document" in updated.stderr
    changed = read_record("updated/record.json")
    assert changed.config["method"]["init"] == "bundle"
    assert changed.config["task"]["replay"] == record.config["task"]["self_study"]
    assert read_manifest(RunFolder("updated").bundle).document_sha256 != manifest.document_sha256


@pytest.mark.slow
def test_a_run_is_mirrored_with_its_answers_and_goes_on_elsewhere(
    store: FaultyStore, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = write_document(tmp_path / "manual.txt")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "The Alder harbour sells", "answer": "copper."}) + "\n")
    url = f"s3://{BUCKET}/outputs"
    words = ["distill", *SMALL, f"document={document}", f"questions={questions}", f"outputs_url={url}", "run_id=one"]
    stopped = stopped_at(2, invoke, monkeypatch, *words, f"data.cache_dir={tmp_path / 'cache'}", "hydra.run.dir=here")
    assert stopped.exit_code == 128 + signal.SIGTERM, stopped.output
    address = f"{url}/manual.txt/tiny_gpt2/document_prefix/one"
    monkeypatch.chdir(tmp_path)

    resumed = invoke("distill", f"resume={address}")

    assert resumed.exit_code == 0, resumed.output
    folder = RunFolder("outputs/manual.txt/tiny_gpt2/document_prefix/one")
    assert read_record(folder.record).cost.steps == 6
    mirrored = contents(fetch_folder(RemoteAddress.parse(address), is_any))
    assert mirrored == {name: one for name, one in contents(folder.path).items() if name in mirrored}
    assert {"distill.json", "checkpoints/last.ckpt", "bundle/manifest.json"} < set(mirrored)
    assert any(name.startswith("examination/") for name in mirrored), "the answers were mirrored, too"
    refused = invoke("distill", *SMALL, f"document={document}", f"update={address}")
    assert f"fetch it with: ptl-prefix mirror {address} 'out=<folder>'" in " ".join(refused.stderr.split())


@pytest.mark.slow
def test_questions_are_asked_though_the_mirror_is_behind(store: FaultyStore, invoke: Invoke, tmp_path: Path) -> None:
    document = write_document(tmp_path / "manual.txt")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "The Alder harbour sells", "answer": "copper."}) + "\n")
    store.fault("error", part="/one/")
    words = [*SMALL, f"document={document}", f"questions={questions}", f"data.cache_dir={tmp_path / 'cache'}"]

    result = invoke("distill", *words, f"outputs_url=s3://{BUCKET}/outputs", "run_id=one", "hydra.run.dir=here")

    assert result.exit_code == 5, result.output
    assert "answer_loss" in result.stdout
    folder = Path("here").absolute()
    assert f"repeat the upload with: ptl-prefix mirror {folder}" in " ".join(result.stderr.split())
    store.heal()
    assert invoke("mirror", folder).exit_code == 0
