"""More steps for a run: the schedule and the steps that are done decide."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.train import resume_changes
from ptl_prefix.commands.train.resume_changes import ResumeChanges
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.start import Start

OLD_RUN = Path(__file__).parents[2] / "golden/version_0_1/finished"


def config(schedule: str = "constant", **trainer: Any) -> dict[str, Any]:
    target = {"_target_": "ptl_prefix.training.optimization.Optimization"}
    return {
        "optimizer": {**target, **defaults_of("optimizer/adamw"), "schedule": schedule},
        "trainer": {"max_steps": 6, **trainer},
    }


@pytest.fixture
def done_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunFolder:
    """A run of six steps."""
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(resume_changes, "find_start", lambda *_, **__: Start(folder=folder, step=6))
    return folder


def test_a_constant_learning_rate_allows_more_steps(done_steps: RunFolder) -> None:
    changed = ResumeChanges(max_steps=12).apply(config(), done_steps)

    assert changed == config(max_steps=12)
    assert ResumeChanges().apply(config(), done_steps) == config()


@pytest.mark.parametrize(
    ("run", "max_steps", "fact"),
    [
        (config("linear"), 12, "`optimizer.schedule` is linear, which was laid out for 6 steps"),
        (config(), 5, "must be at least the 6 steps that the run has made, but is 5"),
        (config(max_epochs=3), 12, "this one has `trainer.max_epochs` 3"),
    ],
)
def test_why_a_run_cannot_have_another_number_of_steps(
    done_steps: RunFolder, run: dict[str, Any], max_steps: int, fact: str
) -> None:
    with pytest.raises(ConfigError, match=fact):
        ResumeChanges(max_steps=max_steps).apply(run, done_steps)


def test_a_run_that_early_stopping_ended_or_that_lost_its_last_checkpoint_cannot_be_prolonged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stopped = Start(folder=RunFolder(tmp_path), step=4, stopped_early=True)
    monkeypatch.setattr(resume_changes, "find_start", lambda *_, **__: stopped)
    with pytest.raises(ConfigError, match="early stopping ended this one after 4 steps"):
        ResumeChanges(max_steps=12).apply(config(), stopped.folder)

    old = RunFolder(tmp_path / "run")
    shutil.copytree(OLD_RUN, old.path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"needs the run's last checkpoint, but there is no .*/last\.ckpt"):
        ResumeChanges(max_steps=120).apply(read_config(old), old)


@pytest.mark.parametrize("given", ["data", ["data"], ("data",)])
def test_the_changes_of_a_command_line_reach_other_processes(given: Any) -> None:
    changes = ResumeChanges.given({"resume_anyway": given, "trainer": {"max_steps": 9}}, ["trainer.max_steps"])

    assert changes == ResumeChanges(anyway=("data",), max_steps=9)
    assert ResumeChanges.from_text(changes.as_text()) == changes
    assert ResumeChanges.given({"trainer": {"max_steps": 9}}, []) == ResumeChanges()
