"""Which runs a path or a pattern finds."""

from pathlib import Path

import pytest

from ptl_prefix.errors import RunError
from ptl_prefix.reporting.run_search import find_runs


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs, one of which has only a config."""
    monkeypatch.chdir(tmp_path)
    for name in ("towns/tiny/lora/a", "towns/tiny/prefix/b[1]", "sweeps/x/0"):
        folder = tmp_path / "outputs" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
    (tmp_path / "outputs/towns/tiny/lora/a/record.json").touch()
    (tmp_path / "outputs/.hidden").mkdir()
    (tmp_path / "outputs/.hidden/config.yaml").touch()
    return tmp_path / "outputs"


def found(*places: str) -> list[str]:
    return [str(run.path) for run in find_runs(places)]


def test_a_folder_stands_for_the_runs_below_it(outputs: Path) -> None:
    assert found("outputs") == ["outputs/sweeps/x/0", "outputs/towns/tiny/lora/a", "outputs/towns/tiny/prefix/b[1]"]


def test_a_run_stands_for_itself_whatever_its_name(outputs: Path) -> None:
    assert found("outputs/towns/tiny/prefix/b[1]") == ["outputs/towns/tiny/prefix/b[1]"]


def test_a_pattern_stands_for_what_it_matches(outputs: Path) -> None:
    assert found("outputs/*/tiny/l*") == ["outputs/towns/tiny/lora/a"]
    assert found("outputs/**/a") == ["outputs/towns/tiny/lora/a"]


def test_a_run_that_is_named_twice_is_found_once(outputs: Path) -> None:
    assert found("outputs/towns/tiny/lora/a", "outputs/towns", str(outputs)) == [
        "outputs/towns/tiny/lora/a",
        "outputs/towns/tiny/prefix/b[1]",
        str(outputs / "sweeps/x/0"),
    ]


def test_a_run_holds_no_runs(outputs: Path) -> None:
    (outputs / "towns/tiny/lora/a/model").mkdir()
    (outputs / "towns/tiny/lora/a/model/config.yaml").touch()

    assert found("outputs/towns/tiny/lora") == ["outputs/towns/tiny/lora/a"]


def test_all_paths_without_a_run_are_named(outputs: Path) -> None:
    with pytest.raises(RunError, match=r"none at nowhere, outputs/x\*"):
        find_runs(["outputs", "nowhere", "outputs/x*"])
