"""`ptl-prefix train`: trains a method, resumes a run, or estimates a training.

In: a checked config. Out: a run folder, and its metrics on the terminal.
"""

import dataclasses
import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.mirror import ReplacedMirrorError
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.build_plan import backbone_node, build_plan, read_run_config
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.train.rank_processes import MIRROR_BEHIND, RankProcesses
from ptl_prefix.commands.train.report import show_estimate, show_outcome
from ptl_prefix.commands.train.resume_changes import ResumeChanges
from ptl_prefix.commands.train.resumed_folder import bring_up_to_date, folder_to_resume
from ptl_prefix.errors import ConfigError, RunError
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.pack import PackMember
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.plan_problems import plan_problems, start_problems
from ptl_prefix.training.rank_environment import RankEnvironment, find_rank_environment
from ptl_prefix.training.ranks import ONE_RANK, Ranks, process_group
from ptl_prefix.training.run_recorder import record_killed_run
from ptl_prefix.training.train import train

_NO_CHANGES = ResumeChanges()
_TAKEOVERS = 3
"""Times that a trial is fetched from its mirror if another process, which is about to end, has written meanwhile."""


def run(config: dict[str, Any], arguments: tuple[str, ...], run_folder: Path) -> None:
    """Train, resume a run, or print the estimate of a dry run.

    Args:
        config: Checked config.
        arguments: Arguments of the command line; must be empty.
        run_folder: Folder of the run.
    """
    if arguments:
        raise ConfigError(
            [f"`train` takes no arguments, but got {' '.join(arguments)!r}; settings are written key=value."]
        )
    train_config(_with_group(config), RunFolder(run_folder), EscapingConsole(stderr=True), given=_given_keys())


def train_config(config: dict[str, Any], folder: RunFolder, console: Console, *, given: Collection[str]) -> None:
    """Train, resume a run, or print the estimate of a dry run.

    Args:
        config: Checked config.
        folder: Folder of a new run.
        console: Console for progress; if it is quiet, no table is printed either.
        given: Keys of the settings that were given, of which some change a run that is resumed.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise the library warns when a process forks
    if config["resume"] is not None:
        devices = int(config["trainer"]["devices"]) if "trainer.devices" in given else None
        folder = folder_to_resume(config["resume"])
        resume_run(folder, console, ResumeChanges.given(config, given), devices=devices)
        return
    plan = build_plan(config)
    if config["dry_run"]:
        show_estimate(estimate(plan), dict(plan.config))
        return
    environment = find_rank_environment()
    if environment is None:
        _start(plan, folder, console)
    else:
        _train_as_rank(plan, folder, console, environment)


def run_frozen(folder: Path, member: PackMember | None = None) -> None:
    """Start or resume the run whose config is in a folder; trials of a study start here.

    Args:
        folder: Run folder with a checked config.
        member: The run's place in a pack; `None` for a run that has the process to itself.
    """
    console = EscapingConsole(stderr=True)
    for attempt in range(_TAKEOVERS):
        bring_up_to_date(RunFolder.open(folder), console)
        try:
            resume_run(RunFolder.open(folder), console, member=member)
        except ReplacedMirrorError:  # another process of the trial wrote before this one began
            if attempt == _TAKEOVERS - 1:
                raise
        else:
            return


def _with_group(config: dict[str, Any]) -> dict[str, Any]:
    """The config; in a sweep of another sweeper than ours, `tracking.group` is set to the sweep's name."""
    # Imported here: trials of our own sweeper do not import Hydra.
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
        built: Objects of the nodes that have no problem of their own, by the nodes' keys.
    """
    return plan_problems(
        trainer=target_values(config["trainer"]) if "trainer" in built else None,
        backbone=_placed(config, built),
        method=built.get("method"),
        task=built.get("task"),
        data=built.get("data"),
        decoding=built.get("generation"),
        training=built.get("training"),
        optimization=built.get("optimizer"),
        needs_weights=not config["dry_run"],
        routing=config.get("routing", "none"),
    )


def _placed(config: Mapping[str, Any], built: Mapping[str, Any]) -> BackboneSpec | None:
    """The backbone, on the device that `trainer.accelerator` names where `backbone.device` leaves it open."""
    backbone: BackboneSpec | None = built.get("backbone")
    if not {"backbone", "method", "trainer"} <= built.keys() or (node := backbone_node(config)) == config["backbone"]:
        return backbone
    placed: BackboneSpec = build(node)
    return placed


def _given_keys() -> list[str]:
    """The keys of the settings on the command line."""
    from hydra.core.hydra_config import HydraConfig

    return [text.lstrip("+").partition("=")[0] for text in HydraConfig.get().overrides.task]


def resume_run(
    folder: RunFolder,
    console: Console,
    changes: ResumeChanges = _NO_CHANGES,
    *,
    devices: int | None = None,
    member: PackMember | None = None,
) -> None:
    """Resume a run with its own config.

    Args:
        folder: Run folder.
        console: Console for progress.
        changes: What may differ from the run as it began.
        devices: Number of devices; `None` is that of the run's config.
        member: The run's place in a pack; `None` for a run that has the process to itself.
    """
    environment = find_rank_environment()
    config = read_run_config(folder)
    record = read_record(folder.record) if folder.record.exists() else None
    if record is not None and record.status == "finished" and not changes.prolongs(config):
        if environment is None or environment.share.is_rank_zero:
            console.print(f"This run has already finished after {record.cost.steps} steps: {folder.path}")
        return
    plan = build_plan(changes.apply(config, folder))
    if problems := plan.problems():
        raise ConfigError(problems)
    if member is not None:
        _train(plan, folder, console, resume=changes, member=member)
    elif environment is None:
        _start(plan, folder, console, resume=changes, devices=devices)
    else:
        _train_as_rank(plan, folder, console, environment, resume=changes)


def _start(
    plan: Plan,
    folder: RunFolder,
    console: Console,
    *,
    resume: ResumeChanges | None = None,
    devices: int | None = None,
) -> None:
    """Train in this process, or on several devices in one process per device."""
    if resume is None:
        _require_new(folder)
    num_ranks = plan.num_ranks if devices is None else devices
    if num_ranks == 1:
        _train(plan, folder, console, resume=resume)
        return
    if problems := start_problems(plan.trainer, plan.backbone, num_ranks):
        raise ConfigError(problems)
    if resume is None:
        write_config(folder, plan.config)
    ranks = RankProcesses(folder, num_ranks, (resume or ResumeChanges()).as_text())
    ranks.run()
    if ranks.stop is not None:
        raise SystemExit(ranks.stop)
    if ranks.mirror_is_behind:
        raise SystemExit(MIRROR_BEHIND)
    if ranks.failure is None:
        return
    rank, code = ranks.failure
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed (its error is above)"
    if ranks.rank_zero_was_killed and not folder.record.exists():
        record_killed_run(plan, folder, f"rank {rank} {ended}")
    raise RunError(
        f"All {num_ranks} ranks of a run must finish, but rank {rank} {ended}. Resume with: {_resume_command(folder)}"
    )


def train_as_started_rank(folder: str, changes_text: str) -> None:
    """Train as one of the ranks that `_start` started.

    Args:
        folder: Run folder with a checked config.
        changes_text: What may differ from the run as it began, as `ResumeChanges.as_text` wrote it.
    """
    environment = find_rank_environment()
    assert environment is not None, "`RankProcesses` sets the variables of a rank"
    run_folder, changes = RunFolder.open(folder), ResumeChanges.from_text(changes_text)
    plan = build_plan(changes.apply(read_run_config(run_folder), run_folder))
    _train_as_rank(plan, run_folder, EscapingConsole(stderr=True), environment, resume=changes)


def _train_as_rank(
    plan: Plan,
    folder: RunFolder,
    console: Console,
    environment: RankEnvironment,
    *,
    resume: ResumeChanges | None = None,
) -> None:
    """Train as one of several ranks; all of them use the run folder and the run's name of rank 0."""
    if resume is None and environment.share.num_ranks != plan.num_ranks:
        raise ConfigError(
            [
                f"`trainer.devices` times `trainer.num_nodes` must be the number of started processes, but is "
                f"{plan.num_ranks}, and there are {environment.share.num_ranks}."
            ]
        )
    with process_group(environment, plan.backbone.torch_device) as ranks:
        if resume is None:
            run_id, path = ranks.from_rank_zero(lambda: (plan.run_id, str(folder.path)))
            plan = dataclasses.replace(plan, run_id=run_id, config={**plan.config, "run_id": run_id})
            folder = RunFolder(path)
            ranks.from_rank_zero(lambda: _require_new(folder))
        _train(plan, folder, console, resume=resume, ranks=ranks)


def _resume_command(folder: RunFolder) -> str:
    return printed_command("train", f"resume={folder.path}")


def _require_new(folder: RunFolder) -> None:
    if folder.config.exists():
        raise RunError(
            f"A new run must have a folder of its own, but '{folder.path}' holds a run; "
            f"resume it with resume={folder.path}, or choose another `hydra.run.dir`."
        )


def _train(
    plan: Plan,
    folder: RunFolder,
    console: Console,
    *,
    resume: ResumeChanges | None,
    ranks: Ranks = ONE_RANK,
    member: PackMember | None = None,
) -> None:
    anyway = () if resume is None else resume.anyway
    is_resumed = resume is not None
    outcome = train(plan, folder, resume=is_resumed, resume_anyway=anyway, console=console, ranks=ranks, member=member)
    if outcome.signal is not None:
        if ranks.is_rank_zero:
            console.print(
                f"Stopped at step {outcome.record.cost.steps}. Resume with:\n  {_resume_command(folder)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        raise SystemExit(128 + signal.Signals[outcome.signal])
    if ranks.is_rank_zero and not console.quiet:
        show_outcome(outcome, folder)
    if outcome.mirror_problem is not None and plan.config.get("study") is None:
        raise SystemExit(MIRROR_BEHIND)
