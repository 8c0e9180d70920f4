"""The studies behind the comparison go on where they were stopped, and say what is left."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from ptl_prefix.settings import sweeps_dir
from scripts import evidence
from scripts.evidence import Deadline, OutOfTimeError
from scripts.evidence_parts import Part, parts_for

STUDY = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (pathlib.Path("checkpoint").touch(), sys.exit(130)))
pathlib.Path("begun").touch()
time.sleep(60)
"""


def test_every_part_names_a_predefined_study_and_has_a_name_of_its_own() -> None:
    parts = parts_for(Path("data"))

    assert len({part.name for part in parts}) == len(parts)
    assert {part.study for part in parts} <= {path.stem for path in sweeps_dir().glob("*.yaml")}


def test_a_part_that_runs_out_of_time_is_interrupted_and_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    part = Part("one", "?", "study", ())
    monkeypatch.setattr(Part, "command", lambda self: [sys.executable, "-c", STUDY])

    with pytest.raises(OutOfTimeError):
        evidence.carry_out(part, Deadline(time.monotonic() + 2.0))

    assert Path("begun").is_file()
    assert Path("checkpoint").is_file()  # it was interrupted, not killed
    assert part.state == "not begun"
    with pytest.raises(OutOfTimeError):
        Deadline(time.monotonic() - 1).run([sys.executable, "-c", "raise SystemExit(1)"], log=tmp_path / "log")
    assert not (tmp_path / "log").exists()  # the log names only commands that were run


def test_a_finished_part_is_marked_and_a_failed_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    part = Part("one", "Which?", "study", ())
    part.folder.mkdir(parents=True)
    monkeypatch.setattr(Part, "command", lambda self: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(subprocess.CalledProcessError):
        evidence.carry_out(part, Deadline(None))
    assert part.state == "begun"

    monkeypatch.setattr(Part, "command", lambda self: [sys.executable, "-c", ""])
    evidence.carry_out(part, Deadline(None))

    assert part.state == "finished"
    assert json.loads(part.marker.read_text())["question"] == "Which?"


def test_what_is_compared_are_the_confirming_runs_if_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    part = Part("one", "?", "study", ())
    for name in ("arm/0", "arm/1", "arm/1/evaluation/test-x"):
        (part.folder / name).mkdir(parents=True)
        (part.folder / name / "record.json").touch()
    assert [run.name for run in part.runs()] == ["0", "1"]

    (part.folder / "confirm/7").mkdir(parents=True)
    (part.folder / "confirm/7/record.json").touch()

    assert [run.name for run in part.runs()] == ["7"]


def test_the_list_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done, left = Part("done", "?", "study", (), minutes=50), Part("left", "?", "study", (), minutes=70)
    done.folder.mkdir(parents=True)
    done.marker.touch()

    evidence.show([done, left], Console(width=100))
    evidence.show([done, left, Part("new", "?", "study", ())], Console(width=100))

    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("At most")]
    assert first == "At most 1 h 10 min are left on two cores."
    assert second == "At most 1 h 10 min are left on two cores, and parts whose time was never measured: 1."


def test_without_data_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PTL_PREFIX_DATA", raising=False)

    with pytest.raises(SystemExit, match="PTL_PREFIX_DATA"):
        evidence.main(["--list"])


def test_what_is_published_names_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f'"task.data_dir=/some/data/e2e", "{tmp_path}/outputs/sweeps/one/1"'

    assert evidence.portable(text, Path("/some")) == '"task.data_dir=$PTL_PREFIX_DATA/data/e2e", "outputs/sweeps/one/1"'
