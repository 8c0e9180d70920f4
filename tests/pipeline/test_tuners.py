"""Tuners of PEFT and retention, from the command line to a comparison."""

import csv
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke

from ptl_prefix.artifacts.run_record import read_record


def test_every_mistake_of_a_tuner_is_told_before_weights_load(invoke: Invoke) -> None:
    settings = ["method.settings.rr=3", "method.settings.r=0", "method.settings.vera_dropout=high"]

    result = invoke("train", "method=peft", "method.peft_type=vera", *settings, "evaluation.retention_file=nowhere")

    assert result.exit_code == 2
    for sentence in (
        "The config has 4 mistakes; nothing was loaded:",
        "`method.settings.rr` is not a setting of VeraConfig; did you mean r?",
        "`method.settings.r` must be >= 1 and <= 65536, but is 0.",
        "`method.settings.vera_dropout` must be float, but is 'high'.",
        "`evaluation.retention_file` must be a text file in UTF-8, but 'nowhere' cannot be read",
    ):
        assert sentence in result.output


def test_a_misspelt_part_of_a_combination_is_still_refused(invoke: Invoke) -> None:
    result = invoke("train", "method=prefix_lora", "method.parts.frist.prefix_length=3")

    assert "`method.parts.frist.prefix_length` is not a setting" in result.output


@pytest.mark.slow
def test_a_comparison_shows_what_each_method_keeps(command_line: CommandLine, invoke: Invoke) -> None:
    small = [word for word in command_line.small if not word.startswith(("method.", "evaluation."))]
    for name, words in {"vera": ["method=peft", "method.settings.r=4"], "layer_norm": ["method=layer_norm"]}.items():
        trained = invoke("train", *small, *words, f"hydra.run.dir=runs/{name}")
        assert trained.exit_code == 0, trained.output
        assert "retention/loss" in trained.output
    records = {name: read_record(Path(f"runs/{name}/record.json")) for name in ("vera", "layer_norm")}

    result = invoke("compare", "runs", "out=mine")
    written = invoke("generate", "runs/vera", "name : The Mill")

    assert result.exit_code == written.exit_code == 0, result.output + written.output
    assert {name: record.method for name, record in records.items()} == {"vera": "vera", "layer_norm": "layer_norm"}
    # Two layers, each with one matrix of queries, keys and values, 24 x 72; five norms of width 24.
    assert records["vera"].parameters.stored == 2 * (4 + 72)
    assert records["layer_norm"].parameters.stored == 5 * 2 * 24
    bare = {record.metrics["retention/loss_before"] for record in records.values()}
    assert len(bare) == 1
    lines = list(csv.DictReader(Path("mine/comparison.csv").read_text().splitlines()))
    kept = {line["method"]: line for line in lines if line["metric"] == "retention/loss"}
    assert {name: float(line["mean"]) for name, line in kept.items()} == {
        name: record.metrics["retention/loss"] for name, record in records.items()
    }
    assert {line["direction"] for line in kept.values()} == {"minimize"}
    heading, _, *rows = [line for line in Path("mine/comparison.md").read_text().splitlines() if "|" in line][:5]
    column = [cell.strip() for cell in heading.split("|")].index("retention/loss ↓")
    (bare_row,) = [row for row in rows if "bare backbone" in row]
    assert bare_row.split("|")[column].strip(" *≈?") == f"{bare.pop():.4f}"
    assert "retention/loss" in Path("mine/comparison.html").read_text()
    assert "++method.settings.r=4" in Path("mine/comparison.md").read_text()
    evaluated = invoke("evaluate", "run=runs/vera", "likelihood=false", "num_examples=2")
    assert f"{records['vera'].metrics['retention/loss']:.4f}" in evaluated.output, evaluated.output
