"""The result of a study."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ptl_prefix.commands.sweep.report import train_command

STUDY = Path(__file__).parents[2] / "golden/version_0_1/study"


def test_the_command_of_a_trial_repeats_the_config_of_its_record() -> None:
    # The study's overrides are not asked: its file may override what neither they nor the trial's point say.
    spec: Any = SimpleNamespace(name="study")
    trial: Any = SimpleNamespace(arm="", overrides=("method.prefix_length=20",), folder=lambda study: study / "0")

    words = shlex.split(train_command(spec, trial, STUDY))

    assert words[:2] == ["ptl-prefix", "train"]
    assert {"method.prefix_length=20", "method.reparam=none", "trainer.max_steps=40", "tracking=none"} <= set(words)
    assert not any(word.startswith(("tracking.group", "study=", "run_id=", "hydra")) for word in words)


def test_a_trial_without_a_record_has_the_command_of_its_overrides(tmp_path: Path) -> None:
    spec: Any = SimpleNamespace(overrides=("sweeps=rates", "seed=3"), arm=lambda name: SimpleNamespace(overrides=()))
    trial: Any = SimpleNamespace(arm="", overrides=("optimizer.lr=0.1",), folder=lambda study: study / "0")

    assert train_command(spec, trial, tmp_path) == "ptl-prefix train seed=3 optimizer.lr=0.1"
