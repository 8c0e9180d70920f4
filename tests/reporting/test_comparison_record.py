"""What `comparison.json` holds, and which files are refused."""

import copy
import dataclasses
import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_up_comparisons import LORA, made_up_comparison, made_up_row, made_up_table
from support.made_up_runs import MadeUp, make_run

from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.comparison_files import write_comparison
from ptl_prefix.reporting.comparison_record import read_comparison_record, write_comparison_record
from ptl_prefix.reporting.grids import cost_grid, difference_grid, quality_grid
from ptl_prefix.reporting.recorded_comparison import record_comparison
from ptl_prefix.reporting.text_tables import as_csv, as_latex, as_markdown


def test_every_table_is_written_again_from_the_file_alone(tmp_path: Path, two_methods: list[MadeUp]) -> None:
    """One of the runs has failed, and one has a list in its config."""
    two_methods[0] = dataclasses.replace(two_methods[0], more={"note": {"lengths": [1, 2]}})
    for number, run in enumerate([*two_methods, MadeUp(task="rivers"), MadeUp(status="failed", seed=9)]):
        make_run(tmp_path / "runs" / str(number), run)

    comparison, paths = write_comparison(
        [str(tmp_path / "runs")],
        include=(),
        metric=None,
        out=tmp_path,
        num_examples=0,
        command_for=lambda records: f"train {records[0].method}",
    )

    record = read_comparison_record(paths[-1])
    commands = {(table.task, table.backbone, row.number): row.command for table in record.tables for row in table.rows}
    assert as_csv(record) == (tmp_path / "comparison.csv").read_text()
    assert as_markdown(record, commands) == (tmp_path / "comparison.md").read_text()
    assert as_latex(record) == (tmp_path / "comparison.tex").read_text()
    for table, again in zip(comparison.tables, record.tables, strict=True):
        for grid in (quality_grid, difference_grid, cost_grid):
            assert grid(again) == grid(table)
    (row,) = (row for row in record.tables[1].rows if "note.lengths" in row.config)
    assert row.config["note.lengths"] == [1, 2]
    assert "seed" not in row.config
    assert row.runs[0].metrics["test/bleu"] == 60.0
    assert row.runs[0].environment["cpu"] == "Abacus"
    assert (record.tables[1].backbone_parameters, record.tables[1].num_inputs) == (10**6, 3)


def test_values_that_json_lacks_become_text(compared: Callable[..., Comparison], tmp_path: Path) -> None:
    (table,) = compared(MadeUp()).tables
    run = table.rows[0].runs[0]
    # A run that died has its config from YAML, which has dates and NaN.
    run.record.config["note"] = {"when": datetime.date(2024, 5, 6), "rates": [math.nan]}

    record = record_comparison(Comparison((table,), ()), {("towns", "tiny", 1): "train"})
    write_comparison_record(tmp_path / "comparison.json", record)

    config = read_comparison_record(tmp_path / "comparison.json").tables[0].rows[0].config
    assert (config["note.when"], config["note.rates"]) == ("2024-05-06", ["nan"])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A comparison of two tables, on disk."""
    losses = {"val/loss": {0: 1.0, 1: 1.5}}
    row = made_up_row("prefix_tuning", {0: 60.0, 1: 61.0}, more=losses)
    tables = made_up_table(row, backbone="big"), made_up_table(row, made_up_row("lora", {0: 50.0}, settings=LORA))
    write_comparison_record(tmp_path / "comparison.json", made_up_comparison(*tables))
    return tmp_path / "comparison.json"


def _of_row(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda values: change(values["tables"][1]["rows"][0])


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda values: values.update(schema_version=2), "schema_version 2, and this ptl-prefix reads 1"),
        (lambda values: values.update(more=1), "has the unknown key `more`"),
        (lambda values: values.update(tables=[]), "there is no table"),
        (lambda values: values["tables"].append(copy.deepcopy(values["tables"][0])), "same task and backbone"),
        (lambda values: values["tables"][1].update(main="test/nist"), "sorted by test/nist"),
        (_of_row(lambda row: row.update(number=2)), "not numbered from 1"),
        (_of_row(lambda row: row["runs"].append(row["runs"][0])), "row 1, has two runs of one seed"),
        (_of_row(lambda row: row.update(runs=[])), "row 1, has no run"),
        (_of_row(lambda row: row["summaries"].pop("test/bleu")), "has other metrics than its runs"),
        (_of_row(lambda row: row["runs"][1]["metrics"].update({"test/bleu": 99.0})), "that is not that of its runs"),
        (_of_row(lambda row: row["summaries"]["val/loss"].update(interval=[0.0, 9.0])), "mean or interval of val/loss"),
        (_of_row(lambda row: row["runs"][1].update(steps=-1)), "`tables.1.rows.0.runs.1.steps`"),
        (_of_row(lambda row: row["runs"][1]["metrics"].update({"test/bleu": 1e300})), "less than or equal to"),
    ],
)
def test_a_damaged_file_is_refused_whole(written: Path, change: Callable[[Any], object], fact: str) -> None:
    path = written
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))

    with pytest.raises(ComparisonError, match="comparison's record must") as error:
        read_comparison_record(path)

    assert fact in str(error.value) and str(path) in str(error.value)
    assert str(error.value).endswith("ptl-prefix compare RUN….")


def test_a_file_that_is_cut_off_or_missing_is_refused(written: Path) -> None:
    path = written
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(ComparisonError, match="is not JSON"):
        read_comparison_record(path)
    with pytest.raises(ComparisonError, match="is missing"):
        read_comparison_record(written.with_name("other.json"))
