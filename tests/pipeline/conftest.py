"""Runs to look at, and ways to call the command line."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.command_lines import CommandLine, Finished, Invoke, forking_python, run
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.main import cli


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Settings that make a run short."""
    return CommandLine(TinyRuns(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def real_interpreter() -> None:
    """For tests that look at the processes which a command starts: they are its children."""


@pytest.fixture
def invoke(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call `ptl-prefix` in this process, in an empty working directory; what it starts need not import anything."""
    if "real_interpreter" not in request.fixturenames:
        monkeypatch.setattr(sys, "executable", forking_python())
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="session")
def finished(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A short run of the shipped backbone on the built-in task."""
    work = tmp_path_factory.mktemp("finished")
    process = run("train", *command_line.embedded, "hydra.run.dir=run", cwd=work)
    assert process.returncode == 0, process.stderr
    return Finished(RunFolder(work / "run"), process)


@pytest.fixture(scope="session")
def small_run(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of the tiny backbone, made in this process."""
    folder = tmp_path_factory.mktemp("small") / "run"
    result = CliRunner().invoke(cli, ["train", *command_line.small, f"hydra.run.dir={folder}"])
    assert result.exit_code == 0, result.output
    return RunFolder(folder)
