"""What a comparison reads from a run folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.made_up_runs import MadeUp, evaluate_run, make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.compared_run import read_outputs, read_runs
from ptl_prefix.reporting.comparison import compare
from ptl_prefix.reporting.figures import build_figures
from ptl_prefix.reporting.text_tables import as_csv, as_markdown

Runs = Callable[..., list[RunFolder]]


def test_the_curve_begins_with_the_bare_backbone(folders: Runs) -> None:
    (run,) = read_runs(folders(MadeUp(loss=1.0)), ())[0]

    assert run.curve == [(0, 3.0), (20, 2.0), (40, 1.0)]


def test_a_run_without_a_log_has_no_curve_and_one_without_a_bundle_no_size(folders: Runs) -> None:
    (folder,) = folders(MadeUp())
    folder.events.unlink()
    for path in folder.bundle.iterdir():
        path.unlink()
    folder.bundle.rmdir()

    (run,) = read_runs([folder], ())[0]

    assert (run.curve, run.bundle_bytes, run.manifest) == ([], None, None)


def test_a_subset_of_the_training_data_has_a_seed_only_where_there_is_one(folders: Runs) -> None:
    runs, _ = read_runs(
        folders(MadeUp(seed=4), MadeUp(seed=4, task_settings={"num_train_examples": 50, "subset_seed": 3})), ()
    )

    assert [run.seed for run in runs] == [(4, None), (4, 3)]


def test_the_outputs_of_training_are_distinguished_from_later_evaluations(folders: Runs) -> None:
    run = MadeUp()
    (folder,) = folders(run)
    evaluate_run(folder, run, bleu=1.0)

    (read,) = read_runs([folder], ())[0]

    assert read.training_outputs == folder.evaluation / "test-0000000000"
    assert len(read_outputs(read.training_outputs)) == 3


def test_ambiguous_outputs_are_not_shown(folders: Runs) -> None:
    (folder,) = folders(MadeUp())
    stray = folder.evaluation / "test-1111111111"
    stray.mkdir()
    (stray / "predictions.jsonl").write_bytes((folder.evaluation / "test-0000000000/predictions.jsonl").read_bytes())

    (read,) = read_runs([folder], ())[0]

    assert read.training_outputs is None
    assert read_outputs(None) == []


def test_a_died_run_is_included_with_the_content_of_its_log(folders: Runs) -> None:
    died, finished = folders(MadeUp(), MadeUp(seed=1))
    died.record.unlink()
    lines = died.events.read_bytes().splitlines(keepends=True)
    died.events.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])

    (ours, theirs), excluded = read_runs([died, finished], ("died",))

    assert excluded == []
    assert ours.record.status == "died" and ours.record.metrics == {"val/loss_before": 3.0, "val/loss": 2.0}
    assert (ours.record.cost.steps, ours.record.cost.tokens, ours.record.cost.tokens_per_s) == (20, 2000, 400.0)
    assert ours.record.parameters == theirs.record.parameters
    (table,) = compare([ours, theirs], metric="val/loss").tables
    assert any("(died)" in caveat for caveat in table.caveats)


def test_a_died_run_with_an_empty_log_is_excluded(folders: Runs) -> None:
    (folder,) = folders(MadeUp())
    folder.record.unlink()
    folder.events.write_text("")

    runs, (left,) = read_runs([folder], ("died",))

    assert runs == [] and "ends before that" in left.reason


@pytest.mark.parametrize("state", ["running", "died", "damaged", "stopped", "failed", "pruned"])
def test_unfinished_runs_are_excluded_with_a_reason(folders: Runs, state: str) -> None:
    (folder,) = folders(MadeUp(status=state if state in ("stopped", "failed", "pruned") else "finished"))
    if state == "died":
        folder.record.unlink()
    if state == "damaged":
        folder.record.write_text("{}")
    if state == "running":
        with folder.held():
            runs, excluded = read_runs([folder], ())
    else:
        runs, excluded = read_runs([folder], ())

    assert runs == []
    words = {"running": "still running", "damaged": "unreadable"}
    assert words.get(state, state) in excluded[0].reason


WRONG: list[dict[str, Any]] = [
    {"config": {"task": "towns"}},
    {"config": {"task": {"subset_seed": [1]}}},
    {"config": {"evaluation": None}},
    {"config": {"evaluation": {"num_examples": "many"}}},
    {"environment": {"git": "abc"}},
    {"environment": {"libraries": [1]}},
    {"environment": {"devices": 7}},
    {"metrics": {"test/bleu": 1e300}},
    {"seed": 10**300},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_run_with_a_wrong_record_is_left_out_with_the_reason(folders: Runs, change: dict[str, Any]) -> None:
    good, bad = folders(MadeUp(), MadeUp(seed=1))
    values = json.loads(bad.record.read_text())
    bad.record.write_text(json.dumps(values | change))

    runs, excluded = read_runs([good, bad], ())

    assert [run.folder for run in runs] == [good]
    (left_out,) = excluded
    assert left_out.path == bad.path
    assert "must be" in left_out.reason
    assert len(compare(runs, excluded).tables[0].rows) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_record_ends_a_comparison(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "run"
    if not folder.exists():
        make_run(folder)
        make_run(tmp_path / "good", MadeUp(seed=1))
        (folder / "record.json").rename(tmp_path / "whole.json")
    values = json.loads((tmp_path / "whole.json").read_text())
    paths = [(key,) for key in values] + [("config", key) for key in values["config"]]
    paths += [("environment", key) for key in ("git", "libraries", "devices", "cores")]
    paths += [("config", "task", "subset_seed"), ("config", "evaluation", "num_examples"), ("metrics", "test/bleu")]
    paths += [("cost", key) for key in values["cost"]] + [("parameters", key) for key in values["parameters"]]
    for *above, last in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2)):
        part: Any = values
        for key in above:
            part = part[key] if isinstance(part, dict) and isinstance(part.get(key), dict) else {}
        part[last] = data.draw(json_values)
    (folder / "record.json").write_text(json.dumps(values))

    runs, excluded = read_runs([RunFolder(folder), RunFolder(tmp_path / "good")], ("stopped", "failed", "pruned"))
    try:
        found = compare(runs, excluded)
    except ComparisonError:
        return

    rows = [(table.task, table.backbone, row.number) for table in found.tables for row in table.rows]
    as_markdown(found, dict.fromkeys(rows, "train"))
    as_csv(found)
    for table in found.tables:
        json.dumps([figure.variants for figure in build_figures(table)], allow_nan=False)
