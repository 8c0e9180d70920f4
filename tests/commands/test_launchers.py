"""Other launchers than Hydra's basic one: accepted for grids of one device, refused for several devices."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins

from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.hydra_main import run_with_hydra
from ptl_prefix.commands.sweep.choose_sweeper import choose_sweeper
from ptl_prefix.errors import ConfigError
from ptl_prefix.training import plan_problems

SWEEP = HydraFlags((("--multirun", None),))
SUBMITIT = "hydra_plugins.hydra_submitit_launcher"


def has_submitit() -> bool:
    try:
        return importlib.util.find_spec(SUBMITIT) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(not has_submitit(), reason="needs hydra-submitit-launcher")
def test_slurm_by_hydras_own_launcher_is_composed_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30")

    node = choose_sweeper(VERBS["train"], (*overrides, "seed=0,1"), SWEEP).hydra

    assert node is not None
    assert node.launcher["_target_"] == f"{SUBMITIT}.submitit_launcher.SlurmLauncher"
    assert (node.launcher["partition"], node.launcher["timeout_min"]) == ("gpu", 30)


class Devices:
    """Stands for the trainer."""

    def __init__(self, *, devices: int | str | list[int], num_nodes: int = 1) -> None:
        self.devices = devices


@pytest.fixture
def with_trainer(small_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The checks of training itself do not apply to the stand-in.
    monkeypatch.setattr(plan_problems, "trainer_problems", lambda settings: [])
    monkeypatch.setattr(Devices, "__module__", "ptl_prefix.stand_ins")
    monkeypatch.setattr(sys.modules["ptl_prefix.stand_ins"], "Devices", Devices, raising=False)
    (small_conf / "trainer/default.yaml").write_text(
        "_target_: ptl_prefix.stand_ins.Devices\ndevices: 1\nnum_nodes: 1\n"
    )
    path = small_conf / "train.yaml"
    path.write_text(path.read_text().replace("  - task: letters", "  - task: letters\n  - trainer: default"))


def sweep(verb: Verb, *overrides: str) -> list[dict[str, Any]]:
    """The configs of the jobs that began."""
    configs: list[dict[str, Any]] = []
    words = ("backbone.path=b", "hydra.sweep.dir=s", "task.count=1,2", *overrides)
    run_with_hydra(verb, words, SWEEP, lambda config, folder: configs.append(config))
    return configs


@pytest.mark.usefixtures("with_trainer")
@pytest.mark.parametrize("devices", ["trainer.devices=2", "trainer.devices=[0,1]", "trainer.num_nodes=2"])
@pytest.mark.parametrize("foreign", ["hydra/sweeper=basic", "hydra/launcher=other"])
def test_jobs_of_several_devices_are_refused_with_the_right_command(
    verb: Verb, small_conf: Path, monkeypatch: pytest.MonkeyPatch, foreign: str, devices: str
) -> None:
    other_launcher(small_conf, monkeypatch)

    with pytest.raises(ConfigError) as refusal:
        sweep(verb, foreign, devices)

    (sentence,) = refusal.value.mistakes
    assert "Jobs of a sweep on several devices need the sweeper of ptl_prefix" in sentence
    assert sentence.endswith("ptl-prefix train -m hydra/sweeper=optuna ...")
    assert not Path("s").exists()


@pytest.mark.usefixtures("with_trainer")
@pytest.mark.parametrize("foreign", ["hydra/sweeper=basic", "hydra/launcher=other"])
def test_jobs_of_one_device_are_run_by_whoever_was_asked_to(
    verb: Verb, small_conf: Path, monkeypatch: pytest.MonkeyPatch, foreign: str
) -> None:
    other_launcher(small_conf, monkeypatch)

    assert [config["task"]["count"] for config in sweep(verb, foreign)] == [1, 2]


def other_launcher(small_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's launcher, which does as Hydra's own, where Hydra looks for plugins."""
    module = ModuleType("hydra_plugins.other_launcher")
    module.OtherLauncher = OtherLauncher  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(Plugins.instance().class_name_to_class, f"{module.__name__}.OtherLauncher", OtherLauncher)
    folder = small_conf / "hydra/launcher"
    folder.mkdir()
    (folder / "other.yaml").write_text(f"_target_: {module.__name__}.OtherLauncher\n")


class OtherLauncher(BasicLauncher):
    pass
