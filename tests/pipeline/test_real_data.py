"""The real data sets and models of the optional folder, for a few steps each."""

import json
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_record import RunRecord, read_record

FEW = [
    "trainer.max_steps=5",
    "trainer.val_check_interval=5",
    "trainer.limit_val_batches=1",
    "evaluation.num_examples=2",
    "evaluation.compare_bare=false",
    "data.batch_size=8",
    "data.eval_batch_size=16",
    "generation.max_new_tokens=16",
    "optimizer.warmup_steps=1",
    "optimizer.lr=0.003",
]


@pytest.fixture
def few(command_line: CommandLine) -> list[str]:
    return [*FEW, f"data.cache_dir={command_line.tiny.cache}", "hydra.run.dir=run"]


def finished_record() -> RunRecord:
    record = read_record("run/record.json")
    assert record.status == "finished"
    assert record.cost.steps == 5
    return record


@pytest.mark.slow
def test_e2e_nlg_loads_every_pair_and_trains(data_folder: Path, few: list[str], invoke: Invoke) -> None:
    result = invoke("train", "task=e2e_nlg", f"task.data_dir={data_folder / 'data' / 'e2e'}", *few)

    assert result.exit_code == 0, result.output
    encoded = {event["split"]: event for event in read_events("run/events.jsonl") if event["kind"] == "encoded"}
    assert (encoded["train"]["num_examples"], encoded["train"]["num_pairs"]) == (4862, 42061)
    assert (encoded["validation"]["num_examples"], encoded["validation"]["num_pairs"]) == (547, 4672)
    assert {encoded["train"][key] for key in ("num_truncated_source", "num_truncated_target", "num_dropped")} == {0}
    assert 1 < finished_record().metrics["val/loss"] < 9


def test_a_llama_with_grouped_heads_trains(data_folder: Path, few: list[str], invoke: Invoke) -> None:
    path = data_folder / "models" / "stories260K"

    result = invoke("train", "backbone=local", f"backbone.path={path}", "task.num_train=80", *few)

    assert result.exit_code == 0, result.output
    record = finished_record()
    assert record.backbone == "stories260K"
    # 5 layers of keys and values, 4 of 8 heads, 8 numbers each.
    assert record.parameters.stored == 2 * 5 * 10 * 4 * 8


@pytest.mark.slow
def test_text_pairs_of_abstracts_train_with_what_is_too_long_counted(
    data_folder: Path, few: list[str], invoke: Invoke
) -> None:
    files = {split: next((data_folder / "data" / "scitldr").glob(f"{name}*.jsonl")) for split, name in SCITLDR.items()}
    columns = ["task.source_column=source", "task.target_columns=[target]"]

    result = invoke(
        "train", "task=text_pairs", *columns, *(f"task.{split}_file={file}" for split, file in files.items()), *few
    )

    assert result.exit_code == 0, result.output
    encoded = {event["split"]: event for event in read_events("run/events.jsonl") if event["kind"] == "encoded"}
    assert encoded["train"]["num_examples"] == len(files["train"].read_text(encoding="utf-8").splitlines())
    assert encoded["train"]["num_truncated_source"] > 0
    assert encoded["validation"]["num_pairs"] > encoded["validation"]["num_examples"], "several targets"
    assert json.loads(Path("run/record.json").read_text())["metrics"].keys() >= {"val/loss", "test/exact_match"}
    finished_record()


SCITLDR = {"train": "train", "validation": "dev", "test": "test"}
