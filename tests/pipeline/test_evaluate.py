"""`ptl-prefix evaluate` from the command line."""

import shutil
from pathlib import Path

import pytest
from support.command_lines import Invoke
from support.tiny_encoder import write_tiny_encoder
from support.tiny_runs import write_tiny_backbone

from ptl_prefix.artifacts.evaluation_record import read_evaluation_record
from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

TASK = ("task=table_to_text", "task.num_test=4", "task.num_train=40", "task.num_validation=6")


@pytest.fixture
def run_copy(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a run that a test may change."""
    return RunFolder(shutil.copytree(small_run.path, tmp_path / "run"))


def test_a_run_is_evaluated_once(run_copy: RunFolder, invoke: Invoke) -> None:
    (folder,) = run_copy.evaluation.iterdir()
    assert [path.name for path in folder.iterdir()] == ["predictions.jsonl"]

    first = invoke("evaluate", f"run={run_copy.path}", "resamples=20")
    second = invoke("evaluate", f"run={run_copy.path}")

    assert first.exit_code == second.exit_code == 0, first.output + second.output
    record = read_evaluation_record(folder / "metrics.json")
    trained = read_record(run_copy.record)
    shared = record.metrics.keys() & trained.metrics.keys()
    assert "test/exact_match" in shared
    assert {name: record.metrics[name] for name in shared} == {name: trained.metrics[name] for name in shared}
    assert f"predictions: {folder}/predictions.jsonl" in first.stdout
    assert "95% interval" in first.stdout
    assert "all 6 inputs; greedy" in first.stdout
    assert "evaluation exists already" in second.stderr
    assert second.stdout == first.stdout
    assert list(run_copy.evaluation.iterdir()) == [folder]


def test_other_decoding_settings_have_their_own_folder(run_copy: RunFolder, invoke: Invoke) -> None:
    result = invoke("evaluate", f"run={run_copy.path}", "num_beams=3", "max_new_tokens=7", "likelihood=false")

    assert result.exit_code == 0, result.output
    assert len(list(run_copy.evaluation.iterdir())) == 2
    assert "3 beams" in result.stdout
    assert "perplexity" not in result.stdout


def test_a_bundle_without_a_run_needs_a_task_and_is_evaluated_next_to_itself(
    small_run: RunFolder, invoke: Invoke, tmp_path: Path
) -> None:
    alone = Path(shutil.copytree(small_run.bundle, tmp_path / "mine"))

    refused = invoke("evaluate", f"bundle={alone}")
    result = invoke("evaluate", f"bundle={alone}", *TASK, "num_examples=2", "split=validation", "metrics=[exact_match]")

    assert refused.exit_code == 2
    assert "`task` must be set" in refused.stderr
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "mine-evaluation").iterdir()
    record = read_evaluation_record(folder / "metrics.json")
    assert folder.name.startswith("validation-")
    assert "val/exact_match" in record.metrics
    assert "val/attribute_accuracy" not in record.metrics
    assert len(read_predictions(folder / "predictions.jsonl")) == 2


def test_a_bare_backbone_has_a_perplexity(invoke: Invoke, tmp_path: Path) -> None:
    backbone = ("backbone=local", f"backbone.path={write_tiny_backbone(tmp_path / 'bare')}")

    result = invoke("evaluate", *backbone, *TASK, "num_examples=2", "max_new_tokens=3", "dtype=float32")

    assert result.exit_code == 0, result.output
    (folder,) = Path("outputs/table_to_text/bare/none/evaluation").iterdir()
    record = read_evaluation_record(folder / "metrics.json")
    assert record.key.adaptation is None
    assert (record.key.dtype, record.key.decoding.num_beams) == ("float32", 1)
    assert record.metrics["test/perplexity"] > 1
    assert record.metrics["test/bits_per_character"] > 0


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        ([], "`run`, `bundle` and `backbone` must be set"),
        (["run=nowhere", "split=dev"], "`split` must be 'test', 'validation' or 'train', but is 'dev'"),
        (["run=nowhere", "metrics=[blue]"], "but one is 'blue'"),
        (["run=nowhere"], "nowhere is not a folder"),
        (["backbone=tiny_gpt2"], "`task` must be set"),
        (["backbone=tiny_gpt2", "task=table_to_text", "backbone_path=x"], "did you mean backbone"),
        (["run=a", "bundle=b"], "`run` and `bundle` must not both be given"),
        (["run=nowhere", "num_beams=0"], "`num_beams` must be >= 1"),
        (["run=nowhere", "num_beems=2"], "did you mean num_beams"),
    ],
)
def test_mistakes_are_named_before_anything_loads(invoke: Invoke, words: list[str], fact: str) -> None:
    result = invoke("evaluate", *words)

    assert result.exit_code == 2, result.output
    assert fact in result.stderr


def test_bertscore_uses_the_chosen_encoder(run_copy: RunFolder, invoke: Invoke, tmp_path: Path) -> None:
    encoder = write_tiny_encoder(tmp_path / "encoder")

    result = invoke("evaluate", f"run={run_copy.path}", "metrics=[bertscore]", f"bertscore_model={encoder}", "out=mine")

    assert result.exit_code == 0, result.output
    (folder,) = Path("mine").iterdir()
    assert -1 <= read_evaluation_record(folder / "metrics.json").metrics["test/bertscore"] <= 1


def test_an_unused_encoder_is_refused(run_copy: RunFolder, invoke: Invoke) -> None:
    result = invoke("evaluate", f"run={run_copy.path}", "bertscore_model=nowhere")

    assert result.exit_code == 2, result.output
    assert "`bertscore_model` must be a folder" in result.stderr
    assert "`bertscore_model` must be null unless `metrics` contains bertscore" in result.stderr


def test_a_missing_split_is_refused(run_copy: RunFolder, invoke: Invoke, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text('{"source": "a", "target": "b"}\n')
    files = [f"task.{name}_file={tmp_path / name}.jsonl" for name in ("train", "validation")]
    own = ("task=text_pairs", "task.name=mine", *files)

    result = invoke("evaluate", f"bundle={run_copy.bundle}", *own, "split=test")

    assert result.exit_code == 2, result.output
    assert "`split` must be a split of mine" in result.stderr
