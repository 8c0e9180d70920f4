import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptl_prefix.commands import main
from ptl_prefix.commands.shell_completion import SHELLS, candidates, script

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The console script, on the search path of commands."""
    door = tmp_path / "bin/ptl-prefix"
    door.parent.mkdir()
    door.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptl_prefix "$@"\n')
    door.chmod(0o755)
    monkeypatch.setenv("PATH", f"{door.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{os.environ['PYTHONPATH']}")
    return door


def test_verbs_come_first() -> None:
    assert candidates(["t"]) == ["tasks", "train"]
    assert set(candidates([""])) == set(
        "advise backbones compare completion distill evaluate examine experiments export generate import".split()
        + "inspect join methods metrics mirror push route runs score serve sweep sweeps tasks train wandb".split()
    )


def test_shells_flags_and_what_follows_a_flag_are_known() -> None:
    assert candidates(["completion", ""]) == ["bash", "fish", "zsh"]
    assert candidates(["train", "--mul"]) == ["--multirun"]
    assert candidates(["train", "-c", ""]) == ["all", "hydra", "job"]
    assert candidates(["train", "--info", "defaults"]) == ["defaults", "defaults-tree"]


@pytest.mark.usefixtures("small_conf")
def test_groups_choices_and_keys_are_hydras_to_complete() -> None:
    assert candidates(["train", "ta"]) == ["task.", "task="]
    assert candidates(["train", "task="]) == ["task=digits", "task=letters"]
    assert candidates(["train", "task.c"]) == ["task.count="]
    assert candidates(["train", "task=digits", "task.count="]) == ["task.count=10"]
    assert candidates(["train", "-m", "hydra.sweep.d"]) == ["hydra.sweep.dir="]


@pytest.mark.usefixtures("small_conf")
def test_actions_studies_and_paths_are_offered() -> None:
    for path in map(Path, ("outputs/sweeps/mine/study.yaml", "pairs.csv", "runs/a/config.yaml")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert candidates(["sweep", "st"]) == ["status", "stop"]
    assert candidates(["wandb", ""]) == ["dashboard", "sync"]
    assert candidates(["train", "backbone=./ru"]) == ["backbone=./runs/"]
    assert "prefix_length" in candidates(["sweep", "run", ""])
    assert candidates(["sweep", "resume", ""]) == ["mine"]
    assert candidates(["train", "resume="]) == ["resume=outputs/", "resume=pairs.csv", "resume=runs/"]
    assert candidates(["generate", "bundle=runs/"]) == ["bundle=runs/a/"]
    assert candidates(["train", "task.train_file=pa"]) == ["task.train_file=pairs.csv"]


@pytest.mark.usefixtures("small_conf")
def test_nothing_is_offered_where_anything_may_stand() -> None:
    assert candidates(["train", "--", "ta"]) == []
    assert candidates(["tasks", ""]) == []
    assert candidates(["nonsense", ""]) == []
    assert candidates(["train", "nonsense"]) == []


@pytest.mark.usefixtures("small_conf")
def test_a_word_that_hydra_cannot_read_completes_nothing_and_breaks_nothing() -> None:
    assert candidates(["train", "task=(x", "task.c"]) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script_and_the_help_says_where_to_put_it(shell: str) -> None:
    result = CliRunner().invoke(main.cli, ["completion", shell])

    assert result.output == script(shell)
    assert f"ptl-prefix completion {shell}" in CliRunner().invoke(main.cli, ["completion", "--help"]).output


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_is_correct_in_its_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs the shell {shell}")
    (tmp_path / "script").write_text(script(shell))

    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=180)


@pytest.mark.parametrize(
    ("line", "current", "replies"),
    [
        ("ptl-prefix tra", "tra", "train"),
        ("ptl-prefix train generation=", "", "beam\ngreedy\nxsum"),
        ("ptl-prefix train method=prefix_t", "prefix_t", "prefix_tuning"),
        ("ptl-prefix train generation=b", "b", "beam"),
    ],
)
def test_bash_replaces_only_the_piece_behind_the_equal_sign(
    command: Path, line: str, current: str, replies: str
) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs the shell bash")
    code = f"""
        eval "$(ptl-prefix completion bash)"
        compopt() {{ :; }}  # outside of a completion it would complain
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _ptl_prefix ptl-prefix '{current}' ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=180, check=True)

    assert done.stdout == f"{replies}\n", done.stderr
