"""`ptl-prefix score` from the command line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke, run
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.artifacts.predictions import write_predictions
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.evaluation.scoring import score


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, random_predictions(25))
    return path


def test_json_is_one_object_of_numbers_and_nothing_else(file: Path, tmp_path: Path) -> None:
    done = run("score", file, "metrics=[bleu,nist,rouge_l,cider]", "format=json", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    values = score(random_predictions(25), ["bleu", "nist", "rouge_l", "cider"]).values
    printed = json.loads(done.stdout)
    groups = printed.pop("groups")
    assert printed == {name: value for name, value in values.items() if "/" not in name}
    assert groups.keys() == {"seen", "unseen"}
    of_groups = {f"{name}/{group}": value for group in groups for name, value in groups[group].items()}
    assert of_groups.items() <= values.items()
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_intervals_follow_their_metrics(file: Path, invoke: Invoke) -> None:
    result = invoke("score", file, "metrics=[bleu]", "format=json", "resamples=50", "seed=7")

    expected = score(random_predictions(25), ["bleu"], resamples=50, seed=7)
    printed = json.loads(result.stdout)
    assert list(printed) == ["bleu", "intervals", "groups"]
    assert printed["intervals"] == {"bleu": list(expected.intervals["bleu"])}
    assert printed["groups"]["unseen"]["intervals"] == {"bleu": list(expected.intervals["bleu/unseen"])}


def test_csv_has_a_line_for_each_metric_with_its_scale(file: Path, invoke: Invoke) -> None:
    result = invoke("score", file, "metrics=[nist,exact_match]", "format=csv", "resamples=20")

    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["metric"], row["group"]) for row in rows][:3] == [("nist", ""), ("nist", "seen"), ("nist", "unseen")]
    assert float(rows[0]["low"]) < float(rows[0]["value"]) < float(rows[0]["high"])
    assert (rows[0]["scale"], rows[0]["direction"]) == ("bits", "maximize")
    assert "sacrebleu" in rows[0]["library"]


def test_the_table_says_which_way_is_better_and_on_what_scale(file: Path, invoke: Invoke) -> None:
    result = invoke("score", file, "metrics=[bleu,exact_match]", "resamples=20")

    low, high = score(random_predictions(25), ["exact_match"], resamples=20).intervals["exact_match"]
    lines = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines()]
    (line,) = (cells for cells in lines if cells[1:3] == ["exact_match", ""])
    assert line[3:7] == ["0.0800", f"{low:.2f} to {high:.2f}", "higher", "0-1"]
    assert result.stdout.startswith("25 predictions of ")


def test_every_mistake_is_reported_at_once_and_before_the_file_is_read(invoke: Invoke) -> None:
    result = invoke("score", "nowhere.jsonl", "metrics=[blue,bleu,nits]", "resamples=-1", "format=xml")

    assert result.exit_code == 2
    assert "The config has 4 mistakes" in result.stderr
    for name in ("blue", "nits"):
        assert "`metrics` must be names of metrics (accuracy, attribute_accuracy, " in result.stderr
        assert f"but one is '{name}'" in result.stderr
    assert "nowhere" not in result.stderr


def test_a_file_that_is_damaged_is_refused_with_its_line(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"id": 1, "source": "s", "references": ["r"], "hypothesis": "h"}\n{"id": 2}\n')

    result = invoke("score", path)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{path}, line 2: a prediction must have" in result.stderr


@pytest.mark.parametrize("words", [[], ["a.jsonl", "b.jsonl"]])
def test_it_takes_one_file(words: list[str], invoke: Invoke) -> None:
    result = invoke("score", *words)

    assert result.exit_code == 2
    assert "`score` needs one predictions file" in result.stderr


def test_a_metric_that_needs_missing_data_is_an_error(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "bare.jsonl"
    write_predictions(path, [prediction("a", "a")])

    result = invoke("score", path, "metrics=[bleu,attribute_accuracy]")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "attribute_accuracy needs `values`" in result.stderr


def test_it_imports_no_torch(file: Path, tmp_path: Path) -> None:
    names = "bleu,nist,rouge_l,cider,exact_match,attribute_accuracy"
    code = (
        "import sys\n"
        "from ptl_prefix.commands.main import cli\n"
        f"cli(['score', {str(file)!r}, 'metrics=[{names}]', 'format=json'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'pytorch_lightning', 'datasets', 'matplotlib'} & set(sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stderr


def test_a_training_with_an_unknown_metric_is_refused_before_it_starts(tmp_path: Path, invoke: Invoke) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"source": "a", "target": "b"}\n' * 4)

    result = invoke("train", "task=text_pairs", f"task.data_file={pairs}", "task.metrics=[blue,bleu]")

    assert result.exit_code == 2
    assert "The config has 1 mistake; nothing was loaded" in result.stderr
    assert "`task.metrics` must be names of metrics (accuracy, " in result.stderr
    assert "but one is 'blue'" in result.stderr


def test_a_skipped_metric_is_named_once_and_absent_from_the_record(
    command_line: CommandLine, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TableToText, "metrics", ("exact_match", "bertscore", "slot_error_rate"))

    result = invoke("train", *command_line.small, "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert said.count("bertscore is skipped:") == 1
    assert said.count("slot_error_rate is skipped:") == 1
    metrics = read_record("run/record.json").metrics
    assert {name for name in metrics if name.startswith("test/")} == {"test/exact_match", "test/exact_match_before"}
