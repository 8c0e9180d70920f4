import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ptl_prefix.commands import hydra_main, main
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.errors import ConfigError, DataError

CHECKOUT = Path(__file__).parents[2]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main.cli, list(arguments), prog_name="ptl-prefix")


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "ptl_prefix", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=180
    )


class Launched:
    """Takes the place of Hydra, and remembers what was launched."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[tuple[str, tuple[str, ...], HydraFlags]] = []

    def __call__(self, verb: Verb, overrides: tuple[str, ...], flags: HydraFlags, function: Any) -> None:
        self.calls.append((verb.name, overrides, flags))
        if self.error:
            raise self.error


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launched:
    launched = Launched()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hydra_main, "run_with_hydra", launched)
    return launched


def test_help_names_every_verb_with_one_line() -> None:
    result = call("--help")

    assert result.exit_code == 0
    for verb in VERBS.values():
        assert verb.summary in result.output
    for name in ("tasks", "backbones", "methods", "experiments", "metrics", "completion"):
        assert f"\n  {name}" in result.output


HEAVY = {"torch", "hydra", "omegaconf", "transformers", "pytorch_lightning", "datasets", "numpy"}
READERS = {"pydantic", "yaml", "fsspec", "asyncio", "ssl", "importlib.metadata"}
"""What reads configs, checks them, or reaches a store: more than half of the time of a help that imported it."""


@pytest.mark.parametrize(
    ("arguments", "not_imported"),
    [
        (["--help"], HEAVY | READERS),
        (["train", "--help"], HEAVY | READERS - {"yaml"}),
        (["methods"], HEAVY),
        (["experiments"], HEAVY),
        (["metrics"], HEAVY),
        (["completion", "bash"], HEAVY | READERS),
    ],
)
def test_what_only_reads_files_imports_nothing_heavy(
    arguments: list[str], not_imported: set[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from ptl_prefix.commands.main import main\n"
        f"sys.argv = ['ptl-prefix', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"imported = {not_imported!r} & set(sys.modules)\n"
        "assert not imported, imported\n"
    )
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call_for_help", ["--help", "-h"])
def test_the_help_of_a_verb_has_examples_groups_and_settings(call_for_help: str) -> None:
    output = call("train", "seed=1", call_for_help).output

    assert "ptl-prefix train dry_run=true" in output
    assert "method=prefix_tuning" in output
    assert "gpt2_medium" in output
    assert "seed=0" in output
    assert "of initialisation" in output


def test_catalogs_print_one_line_a_choice() -> None:
    lines = call("methods").output.splitlines()

    assert any(line.startswith("lora ") and len(line.split()) > 2 for line in lines)
    assert len({line.split()[0] for line in lines}) == len(lines)


def test_words_settings_and_flags_are_told_apart(launched: Launched) -> None:
    result = call("generate", "bundle", "-m", "resume=a b,c=d/x", "generation=beam", "--", "x=y")

    assert result.exit_code == 0
    ((verb, overrides, flags),) = launched.calls
    assert (verb, flags.multirun) == ("generate", True)
    assert overrides == ("resume=a b,'c=d/x'", "generation=beam")


def test_a_verb_without_arguments_refuses_them(launched: Launched) -> None:
    result = call("train", "gpt2")

    assert result.exit_code == 2
    assert "train takes no arguments, but got 'gpt2'; settings are given as key=value." in result.output
    assert launched.calls == []


def test_an_unknown_verb_or_flag_is_a_mistake_of_usage() -> None:
    assert call("tarin").exit_code == 2
    result = call("train", "--mutlirun")
    assert result.exit_code == 2
    assert "Did you mean --multirun?" in result.output


@pytest.mark.parametrize(
    ("error", "exit_code"), [(ConfigError(["`seed` must be >= 0."]), 2), (DataError("No file."), 1)]
)
def test_an_expected_failure_is_a_message_and_an_exit_code(
    launched: Launched, error: Exception, exit_code: int
) -> None:
    launched.error = error

    result = call("train")

    assert result.exit_code == exit_code
    assert result.stderr == f"{error}\n"
    assert result.stdout == ""


def test_an_unexpected_failure_keeps_its_traceback(launched: Launched) -> None:
    launched.error = ZeroDivisionError("unexpected")

    with pytest.raises(ZeroDivisionError, match="unexpected"):
        main.cli(["train"], prog_name="ptl-prefix")


def test_every_verb_of_the_table_is_a_command() -> None:
    context = click.Context(main.cli)

    assert main.cli.list_commands(context)[: len(VERBS)] == list(VERBS)


def test_the_module_is_the_same_door(tmp_path: Path) -> None:
    done = run_command("train", "sed=1", "--cfg", "job", cwd=tmp_path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert "`sed` is not a setting; did you mean seed?" in done.stderr
    assert "Traceback" not in done.stderr


def test_cfg_job_shows_the_config_of_train(tmp_path: Path) -> None:
    done = run_command("train", "--cfg", "job", "method.prefix_length=7", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "prefix_length: 7" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["train", "evaluate", "sweep", "generate", "export", "compare", "advise", "runs"])
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_verb_says_what_to_do_next_and_has_the_exit_code_of_the_signal(
    launched: Launched, monkeypatch: pytest.MonkeyPatch, verb: str, number: signal.Signals, exit_code: int
) -> None:
    def stop(*_: object) -> None:
        signal.raise_signal(number)
        pytest.fail("the signal was ignored")

    monkeypatch.setattr(hydra_main, "run_with_hydra", stop)
    before = signal.getsignal(signal.SIGTERM)

    result = call(verb)

    assert result.exit_code == exit_code
    assert result.stderr.startswith(f"Stopped by {number.name}: ")
    assert "epeat the command" in result.stderr or "Resume with" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_disk_that_refuses_is_one_sentence(launched: Launched) -> None:
    launched.error = OSError(errno.ENOSPC, "No space left on device", "/full/outputs")

    result = call("train")

    assert result.exit_code == 1
    assert result.stderr.startswith("/full/outputs must be written but the disk is full")
    assert result.stderr.count("\n") == 1
