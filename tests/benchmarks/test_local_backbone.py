"""Commands that benchmarks run: their errors are told, and they have bytecode."""

import os
from pathlib import Path

import pytest

from benchmarks.bytecode import with_bytecode
from benchmarks.local_backbone import TrainCommand


def test_what_a_command_says_of_its_failure_is_told(tmp_path: Path) -> None:
    command = TrainCommand(["seeed=1"], tmp_path)

    with pytest.raises(RuntimeError, match=r"(?s)must exit with code 0, but exited with 2: .*`seeed` is not a setting"):
        command.wait()
    assert not command.is_running


def test_bytecode_is_kept_though_python_was_told_to_write_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.chdir(tmp_path)

    given = with_bytecode(Path("scratch"))

    assert "PYTHONDONTWRITEBYTECODE" not in given
    assert given["PYTHONPYCACHEPREFIX"] == str(tmp_path / "scratch" / "bytecode")
    assert given["PATH"] == os.environ["PATH"]


def test_bytecode_stays_where_it_is_kept_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", "/elsewhere")

    assert with_bytecode(tmp_path)["PYTHONPYCACHEPREFIX"] == "/elsewhere"
