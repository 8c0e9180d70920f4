"""`ptl-prefix train`: a config becomes a plan, a plan becomes a run folder, and a person sees what came of it."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ptl_prefix.artifacts.run_config import read_config, write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.build_plan import backbone_node, build_plan
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.train.rank_processes import RankProcesses
from ptl_prefix.commands.train.report import show_estimate, show_outcome
from ptl_prefix.errors import ConfigError, RunError
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.plan_problems import plan_problems, start_problems
from ptl_prefix.training.rank_environment import RankEnvironment, find_rank_environment
from ptl_prefix.training.ranks import ONE_RANK, Ranks, process_group
from ptl_prefix.training.run_recorder import record_death
from ptl_prefix.training.train import train


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Train, go on with a training, or show what it would be.

    Args:
        config: A checked config.
        words: None are taken.
        run_folder: Where the run is to lie.
    """
    if words:
        raise ConfigError([f"`train` takes no arguments, but got {' '.join(words)!r}; settings are written key=value."])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or the library warns when a process forks
    console = Console(stderr=True)
    if config["resume"] is not None:
        _resume(RunFolder.open(config["resume"]), console, devices=_given_devices(config))
        return
    plan = build_plan(_grouped(config))
    if config["dry_run"]:
        show_estimate(estimate(plan), dict(plan.config))
        return
    place = find_rank_environment()
    if place is None:
        _start(plan, RunFolder(run_folder), console)
    else:
        _take_part(plan, RunFolder(run_folder), console, place)


def run_frozen(folder: Path) -> None:
    """What a trial of a sweep runs: the config in a folder, from the start or from where it stopped.

    Args:
        folder: A run's folder with a checked config.
    """
    _resume(RunFolder.open(folder), Console(stderr=True), devices=None)


def _grouped(config: dict[str, Any]) -> dict[str, Any]:
    """The config, in which the runs of a foreign sweep belong together; also when one of them is resumed alone."""
    # Here, as a trial of ours knows nothing of Hydra.
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or config["tracking"]["group"] is not None:
        return config
    return {**config, "tracking": {**config["tracking"], "group": Path(hydra.sweep.dir).name}}


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Problems that no node of a config shows by itself.

    Args:
        config: Config as plain values.
        built: Objects of the nodes that have no problem of their own, by the nodes' keys; `trainer` is a mapping.
    """
    return plan_problems(
        trainer=built.get("trainer"),
        backbone=_placed(config, built),
        method=built.get("method"),
        task=built.get("task"),
        decoding=built.get("generation"),
        needs_weights=not config["dry_run"],
    )


def _placed(config: Mapping[str, Any], built: Mapping[str, Any]) -> BackboneSpec | None:
    """The backbone, on the device that `trainer.accelerator` names where `backbone.device` leaves it open."""
    backbone: BackboneSpec | None = built.get("backbone")
    if backbone is None or "trainer" not in built or (node := backbone_node(config)) == config["backbone"]:
        return backbone
    placed: BackboneSpec = build(node)
    return placed


def _given_devices(config: Mapping[str, Any]) -> int | None:
    """How many devices a run is to go on with, where that was said."""
    from hydra.core.hydra_config import HydraConfig

    given = [text.lstrip("+").partition("=")[0] for text in HydraConfig.get().overrides.task]
    return int(config["trainer"]["devices"]) if "trainer.devices" in given else None


def _resume(folder: RunFolder, console: Console, *, devices: int | None) -> None:
    """Go on inside the run's folder, with the config it was started with, on as many devices or on others."""
    place = find_rank_environment()
    if folder.record.exists() and (record := read_record(folder.record)).status == "finished":
        if place is None or place.share.is_rank_zero:
            done = f"This run has finished, after {record.cost.steps} steps; nothing is left to do: {folder.path}"
            console.print(done)
        return
    plan = build_plan(read_config(folder))
    if problems := plan.problems():
        raise ConfigError(problems)
    if place is None:
        _start(plan, folder, console, resume=True, devices=devices)
    else:
        _take_part(plan, folder, console, place, resume=True)


def _start(
    plan: Plan, folder: RunFolder, console: Console, *, resume: bool = False, devices: int | None = None
) -> None:
    """Train in this process, or, on several devices, in a process for each."""
    if not resume:
        _refuse_used(folder)
    number = plan.num_ranks if devices is None else devices
    if number == 1:
        _train(plan, folder, console, resume=resume)
        return
    if problems := start_problems(plan.trainer, plan.backbone, number):
        raise ConfigError(problems)
    if not resume:
        write_config(folder, plan.config)
    ranks = RankProcesses(folder, number)
    ranks.run()
    if ranks.stop is not None:
        raise SystemExit(ranks.stop)
    if ranks.failure is None:
        return
    rank, code = ranks.failure
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed, as it says above"
    if ranks.first_was_killed and not folder.record.exists():
        record_death(plan, folder, f"rank {rank} {ended}")
    raise RunError(
        f"All {number} ranks of a run must work to the end, but rank {rank} {ended}. "
        f"Go on with: ptl-prefix train resume={folder.path}"
    )


def take_part_in_run(folder: str) -> None:
    """Take part, as one of the ranks that `_start` starts, in the run that lies in a folder."""
    place = find_rank_environment()
    assert place is not None, "a rank is told which it is"
    run_folder = RunFolder.open(folder)
    _take_part(build_plan(read_config(run_folder)), run_folder, Console(stderr=True), place, resume=True)


def _take_part(
    plan: Plan, folder: RunFolder, console: Console, place: RankEnvironment, *, resume: bool = False
) -> None:
    """Train as one of several processes, whoever has started them: one folder and one name, the first one's."""
    if not resume and place.share.num_ranks != plan.num_ranks:
        raise ConfigError(
            [
                f"`trainer.devices` times `trainer.num_nodes` must be the number of processes that were started, but "
                f"is {plan.num_ranks}, and there are {place.share.num_ranks}."
            ]
        )
    with process_group(place, plan.backbone.torch_device) as ranks:
        if not resume:
            run_id, path = ranks.from_rank_zero(lambda: (plan.run_id, str(folder.path)))
            plan = dataclasses.replace(plan, run_id=run_id, config={**plan.config, "run_id": run_id})
            folder = RunFolder(path)
            ranks.from_rank_zero(lambda: _refuse_used(folder))
        _train(plan, folder, console, resume=resume, ranks=ranks)


def _refuse_used(folder: RunFolder) -> None:
    if folder.config.exists():
        raise RunError(
            f"A new run must have a folder of its own, but '{folder.path}' holds a run; "
            f"go on with it by resume={folder.path}, or give another hydra.run.dir."
        )


def _train(plan: Plan, folder: RunFolder, console: Console, *, resume: bool, ranks: Ranks = ONE_RANK) -> None:
    outcome = train(plan, folder, resume=resume, console=console, ranks=ranks)
    if outcome.signal is not None:
        if ranks.is_rank_zero:
            console.print(
                f"Stopped at step {outcome.record.cost.steps}. Go on with:\n  ptl-prefix train resume={folder.path}",
                highlight=False,
                soft_wrap=True,
            )
        raise SystemExit(128 + signal.Signals[outcome.signal])
    if ranks.is_rank_zero:
        show_outcome(outcome, folder)
