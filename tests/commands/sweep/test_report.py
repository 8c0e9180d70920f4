"""The result of a study."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from support.study_schedulers import make_scheduler, run_all, spec

from ptl_prefix.commands.config.arguments import split_command_line
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.report import show_result
from ptl_prefix.commands.sweep.trial_command import train_command
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.summary import summarize

STUDY = Path(__file__).parents[2] / "golden/version_0_1/study"


def test_the_command_of_a_trial_repeats_the_config_of_its_record() -> None:
    # The study's overrides are not asked: its file may override what neither they nor the trial's point say.
    spec: Any = SimpleNamespace(name="study")
    trial: Any = SimpleNamespace(arm="", overrides=("method.prefix_length=20",), folder=lambda study: study / "0")

    words = shlex.split(train_command(spec, [trial], STUDY))

    assert words[:2] == ["ptl-prefix", "train"]
    assert {"method.prefix_length=20", "method.reparam=none", "trainer.max_steps=40", "tracking=none"} <= set(words)
    assert not any(word.startswith(("tracking.group", "study=", "run_id=", "hydra")) for word in words)


def test_a_trial_without_a_record_has_the_command_of_everything_that_the_study_sets(tmp_path: Path) -> None:
    own = tmp_path / "my study/configs/own/sweeps"
    own.mkdir(parents=True)
    content = {"trainer": {"max_steps": 7}, "task": {"num_train": 8}, "hydra": {"sweeper": {"n_trials": 3}}}
    (own / "rates.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    study: Any = SimpleNamespace(
        config_name="train",
        overrides=("sweeps=rates", "hydra/sweeper=optuna", "seed=3", "hydra.sweeper.n_trials=5"),
        arm=lambda name: SimpleNamespace(overrides=("method=lora",)),
    )
    trial: Any = SimpleNamespace(arm="a", overrides=("method.rank=2",), folder=lambda folder: folder / "0")

    command = train_command(study, [trial], tmp_path / "my study")

    assert shlex.split(command)[:2] == ["ptl-prefix", "train"]
    line = split_command_line(shlex.split(command)[2:])
    config = compose_and_check(VERBS["train"], line.overrides, line.flags).config
    assert (config["trainer"]["max_steps"], config["task"]["num_train"]) == (7, 8)
    assert (config["method"]["name"], config["method"]["rank"], config["seed"]) == ("lora", 2, 3)


SEEDS = SearchSpace(
    {
        "method.prefix_length": Numbers(low=1, high=2, is_int=True),
        "method.reparam": Choice(values=["none", "mlp"], texts=["none", "mlp"]),
        "seed": Choice(values=[0, 1], texts=["0", "1"]),
    }
)
LOSSES = {("1", "0"): 0.1, ("1", "1"): 0.9, ("2", "0"): 0.4, ("2", "1"): 0.3}
"""The best trial has length 1; the best mean over seeds has length 2."""


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_search_over_seeds_reports_means_and_no_importance_of_the_seed(tmp_path: Path, direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    scheduler = make_scheduler(tmp_path, spec(space=SEEDS, n_trials=None, direction=direction))
    losses = {
        (f"method.prefix_length={length}", f"method.reparam={reparam}", f"seed={seed}"): sign * (loss + extra)
        for (length, seed), loss in LOSSES.items()
        for reparam, extra in (("none", 0.0), ("mlp", 0.05))
    }
    run_all(scheduler, losses)

    (arm,) = summarize(scheduler, with_importance=True).arms
    console = Console(record=True, width=200)
    show_result(scheduler, console)
    shown = console.export_text()

    assert arm.best_value == pytest.approx(sign * 0.35)
    assert "seed" not in arm.importance
    assert set(arm.importance) == {"method.prefix_length", "method.reparam"}
    assert f"best setting: mean val/loss {sign * 0.35:.4f} over 2 seed(s)" in shown
    assert "best trial" not in shown
