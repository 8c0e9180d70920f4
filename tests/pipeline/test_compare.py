"""`ptl-prefix compare` and `runs` from the command line."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke, run
from support.made_up_runs import make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Two methods over two seeds, and a run that was stopped."""
    for seed in (0, 1):
        make_run(tmp_path / f"outputs/towns/tiny/prefix_tuning/{seed}", seed=seed, bleu=60 + seed)
        make_run(
            tmp_path / f"outputs/towns/tiny/lora/{seed}", seed=seed, bleu=50 + 3 * seed, method="lora", settings={}
        )
    make_run(tmp_path / "outputs/towns/tiny/lora/2", seed=2, status="stopped", method="lora", settings={})
    return tmp_path / "outputs"


def test_it_prints_tables_and_the_paths_of_five_files(outputs: Path, tmp_path: Path) -> None:
    done = run("compare", "outputs", "out=mine", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "towns on tiny" in done.stdout
    assert "excluded: outputs/towns/tiny/lora/2 was stopped" in done.stdout
    assert done.stdout.splitlines()[-5:] == [
        " csv: mine/comparison.csv",
        "  md: mine/comparison.md",
        " tex: mine/comparison.tex",
        "html: mine/comparison.html",
        "json: mine/comparison.json",
    ]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        f"comparison.{suffix}" for suffix in ("csv", "html", "json", "md", "tex")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "outputs"]


def test_without_out_it_writes_to_a_new_folder(outputs: Path, invoke: Invoke) -> None:
    result = invoke("compare", outputs)

    assert result.exit_code == 0, result.output
    (folder,) = Path("outputs/comparisons").iterdir()
    assert (folder / "comparison.html").is_file()


def test_a_stopped_run_can_be_included(outputs: Path, invoke: Invoke) -> None:
    result = invoke("compare", outputs, "out=mine", "include=[stopped]", "metric=val/loss")

    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader(Path("mine/comparison.csv").read_text().splitlines()))
    assert {line["seeds"] for line in lines if line["method"] == "lora"} == {"0 1 2"}
    assert "excluded" not in result.stdout


def test_runs_that_are_not_comparable_are_refused_and_nothing_is_written(
    outputs: Path, invoke: Invoke, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", task_version="2", seed=5)

    result = invoke("compare", outputs, other.path, "out=mine")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "Runs of towns on tiny must use the same version of the task" in result.stderr
    assert not Path("mine").exists()


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ([], 2, "`compare` needs runs, but got none"),
        (["nowhere"], 1, "none at nowhere"),
        (["nowhere", "include=[running]", "examples=-1", "metrics=x"], 2, "The config has 3 mistakes"),
    ],
)
def test_all_mistakes_are_reported(invoke: Invoke, words: list[str], code: int, fact: str) -> None:
    result = invoke("compare", *words)

    assert result.exit_code == code, result.output
    assert fact in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(outputs: Path, invoke: Invoke) -> None:
    Path("file").touch()

    result = invoke("compare", outputs, "out=file/x")

    assert result.exit_code == 1
    assert "`out` must be a writable folder, but 'file/x'" in result.stderr


def test_the_command_of_a_row_reproduces_its_run(
    small_run: RunFolder, command_line: CommandLine, invoke: Invoke
) -> None:
    result = invoke("compare", small_run.path, "out=mine")

    assert result.exit_code == 0, result.output
    (command,) = (
        line.strip() for line in Path("mine/comparison.md").read_text().splitlines() if "ptl-prefix train" in line
    )
    again = invoke(*shlex.split(command)[1:], "hydra.run.dir=again")
    assert again.exit_code == 0, again.output
    first, second = read_record(small_run.record), read_record("again/record.json")
    assert {**second.config, "run_id": first.run_id} == first.config
    assert second.metrics == first.metrics


def test_it_imports_no_torch(outputs: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from ptl_prefix.commands.main import cli\n"
        "cli(['compare', 'outputs', 'out=mine'], standalone_mode=False)\n"
        "cli(['advise', 'mine'], standalone_mode=False)\n"
        "cli(['runs'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'pytorch_lightning', 'datasets', 'matplotlib'} & set(sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr


def test_runs_are_listed_newest_first(outputs: Path, tmp_path: Path) -> None:
    RunFolder(outputs / "towns/tiny/prefix_tuning/1").record.unlink()

    done = run("runs", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["status", "method", "seed", "step", "metric", "value", "age", "size", "run"]
    assert lines[1].split()[:6] == ["stopped", "lora", "2", "40", "test/bleu", "50.0000"]
    assert lines[1].endswith("outputs/towns/tiny/lora/2")
    assert [line.split()[0] for line in lines[1:-1]].count("died") == 1
    assert lines[-1].startswith("3 finished, 1 stopped, 1 died; ")


def test_runs_are_filtered_sorted_and_printed_as_json(outputs: Path, invoke: Invoke) -> None:
    result = invoke("runs", outputs, "status=finished", "sort=metric", "format=json")

    values = json.loads(result.stdout)
    assert [one["value"] for one in values] == [61.0, 60.0, 53.0, 50.0]
    assert set(values[0]) == (
        set("path state task backbone method seed step metric value direction age_s size_bytes".split())
    )
    of_a_method = invoke("runs", outputs, "method_name=lora", "sort=size", "format=json")
    assert {one["method"] for one in json.loads(of_a_method.stdout)} == {"lora"}


def test_filters_without_a_match_are_not_an_error(outputs: Path, invoke: Invoke) -> None:
    result = invoke("runs", outputs, "status=pruned")

    assert (result.exit_code, result.stdout) == (0, "")
    assert "No run matches" in result.stderr
    assert invoke("runs", outputs, "status=pruned", "format=json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ([], 1, "none at outputs"),
        (["status=dead"], 2, "`status` must be 'finished', 'stopped'"),
        (["method=lora"], 2, "`method` is not a setting; did you mean method_name?"),
    ],
)
def test_mistakes_in_filters_are_reported(invoke: Invoke, words: list[str], code: int, fact: str) -> None:
    result = invoke("runs", *words)

    assert result.exit_code == code, result.output
    assert fact in result.stderr
