"""Sweeps whose trials train in packs, through the command line."""

import threading
import time
from pathlib import Path

import psutil
import pytest
from support.command_lines import CommandLine, Invoke

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.training.pack import IN_PACK

STUDY = Path("outputs/sweeps/packed")


def words(command_line: CommandLine, *more: str) -> list[str]:
    settings = ["evaluation.num_examples=2", "evaluation.compare_bare=false", "hydra.sweeper.study_name=packed"]
    return ["train", "-m", *command_line.small, *settings, *more]


@pytest.mark.slow
def test_a_pack_of_which_one_trial_fails_and_one_is_pruned(command_line: CommandLine, invoke: Invoke) -> None:
    pruner = ["hydra/sweeper/pruner=successive_halving", "hydra.sweeper.pruner.min_steps=4"]
    search = ["optimizer.lr=0.05,1e30,1e-8", "hydra.sweeper.pruner.reduction_factor=2", "trainer.max_steps=8"]

    result = invoke(*words(command_line, *pruner, *search, "hydra.sweeper.pack=3", "tracking.csv=true"))

    assert result.exit_code == 1, result.output
    trials = open_study(STUDY).scheduler().trials("")
    by_lr = {trial.params["optimizer.lr"]: trial for trial in trials}
    assert {lr: trial.state for lr, trial in by_lr.items()} == {0.05: "finished", 1e30: "failed", 1e-8: "pruned"}
    assert by_lr[1e30].notes["failure"] == "non-finite loss"
    for lr, trial in by_lr.items():
        folder = RunFolder(trial.folder(STUDY))
        notes = [event["note"] for event in read_events(folder.events) if event["kind"] == "note"]
        assert IN_PACK in notes
        assert read_record(folder.record).status == trial.state
        assert (folder.path / "metrics.csv").exists()
        log = (folder.path / "log.txt").read_text()
        assert ("NonFiniteLossError" in log) == (lr == 1e30), "each has a log of its own"
    finished = read_record(by_lr[0.05].folder(STUDY) / "record.json")
    assert finished.cost.steps == 8 and finished.metrics["val/loss"] == by_lr[0.05].value


@pytest.mark.slow
@pytest.mark.usefixtures("real_interpreter")
def test_a_pack_that_is_killed_is_started_again_and_its_trials_resume(
    command_line: CommandLine, invoke: Invoke
) -> None:
    folders = [RunFolder((STUDY / str(number)).resolve()) for number in range(2)]
    killed: list[int] = []

    def kill_the_pack() -> None:
        while not all(folder.last.exists() for folder in folders):
            time.sleep(0.02)
        # The first fork of the trial server checks configs.
        _, pack = sorted(
            (fork for child in psutil.Process().children() for fork in child.children()), key=lambda fork: fork.pid
        )
        pack.kill()
        killed.append(pack.pid)

    threading.Thread(target=kill_the_pack, daemon=True).start()
    more = ["seed=0,1", "hydra.sweeper.pack=2", "trainer.max_steps=200", "trainer.val_check_interval=20"]

    result = invoke(*words(command_line, *more))

    assert result.exit_code == 0, result.output
    assert killed
    for folder in folders:
        assert read_record(folder.record).cost.steps == 200
        resumed = [event["step"] for event in read_events(folder.events) if event["kind"] == "resumed"]
        assert resumed and resumed[0] > 0


@pytest.mark.slow
def test_what_cannot_be_in_a_pack_is_refused_by_name_before_anything_runs(
    command_line: CommandLine, invoke: Invoke
) -> None:
    any_method = [word for word in words(command_line) if not word.startswith("method.")]

    result = invoke(*any_method, "method=prefix_tuning,lora", "hydra.sweeper.pack=2", "backbone.base_mode=train")

    assert result.exit_code == 2
    assert "`method` must be a prefix or a prompt in a pack" in result.stderr and "lora" in result.stderr
    assert "`backbone.base_mode` must be eval in a pack" in result.stderr
    assert not STUDY.exists()
