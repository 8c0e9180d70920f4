"""Runs a verb through Hydra, which creates the run folder and the jobs of a sweep.

In: a verb, its overrides, Hydra's flags and a function. Out: the function was called with a checked config as plain
values and the run folder, once, or once per job of a sweep. Hydra itself would trim an error's traceback and report one
failure of many; here the error of a single run is raised unchanged, and each error of a sweep is printed at once and
counted at the end.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ptl_prefix import settings
from ptl_prefix.artifacts.atomic import storage_errors
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.config.arguments import HydraFlags, quoted
from ptl_prefix.commands.config.compose import check_overrides, checked_job, compose_and_check
from ptl_prefix.commands.config.hydra_session import VERSION_BASE
from ptl_prefix.commands.config.plain_values import plain_values
from ptl_prefix.commands.config.plugins import register_plugins
from ptl_prefix.commands.config.resolvers import forget_run_ids, hide_variables, register_resolvers
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import ConfigError, PtlPrefixError, RunError, StorageError
from ptl_prefix.training.rank_environment import find_rank_environment, is_nonzero_rank

Body = Callable[[dict[str, Any], Path], Any]
"""Function of a verb, called with its config and run folder."""


def run_with_hydra(verb: Verb, overrides: Sequence[str], flags: HydraFlags, function: Body) -> None:
    """Call `function(config, run_folder)` for every job that the overrides describe.

    Raises:
        ConfigError: With every mistake in the config, before the function is called.
        RunError: If a job of a sweep failed.
        StorageError: If the disk does not take the run folder.
    """
    forget_run_ids()
    if flags.only_show:
        enter_hydra(verb, check_overrides(verb, overrides, flags), flags, lambda config: None)
        return
    if flags.multirun:
        refuse_rank_environment()
    checked = compose_and_check(verb, overrides, flags)
    if flags.multirun:
        _refuse_several_devices(checked.config)
        _sweep(verb, checked.overrides, flags, function)
    else:
        # Hydra creates a folder in each process; ranks other than 0 use the folder of rank 0.
        run_folder = Path.cwd() if is_nonzero_rank() else checked.run_folder
        in_folder = f"hydra.run.dir={quoted(str(run_folder))}"
        with _removed_if_empty(run_folder):
            # Hydra would make the folder, too, but print its own traceback where the disk refuses.
            _make(run_folder)
            _run(verb, (*checked.overrides, in_folder), flags, function)


def _make(folder: Path) -> None:
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except StorageError:
        raise
    except OSError as error:  # as below /proc
        raise RunError(
            f"A run's folder must be one that can be made, but '{folder}' cannot ({error.strerror}); choose another "
            "`hydra.run.dir`."
        ) from error


def refuse_rank_environment() -> None:
    """Refuse `-m` in a process that torchrun or srun started.

    Raises:
        ConfigError: If this process is one of several ranks.
    """
    if find_rank_environment() is not None:
        raise ConfigError(
            ["-m must be started without torchrun or srun: each job of a sweep starts its own processes, one a device."]
        )


def _refuse_several_devices(config: Mapping[str, Any]) -> None:
    """Refuse jobs on several devices by another sweeper or launcher, where each rank would start the sweep again."""
    trainer = config.get("trainer", {})
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if devices in (None, 1, "1", "auto") and nodes in (None, 1):
        return
    raise ConfigError(
        [
            f"Jobs of a sweep on several devices need the sweeper of ptl_prefix, but another sweeper or launcher is "
            f"chosen and `trainer.devices` is {devices}; leave hydra/sweeper and hydra/launcher out, or write: "
            "ptl-prefix train -m hydra/sweeper=optuna ..."
        ]
    )


def print_hydra_completion(verb: Verb, overrides: Sequence[str], unfinished: str) -> None:
    """Print Hydra's completions of an unfinished setting, one per line."""
    # Hydra splits this line at every space, so that values with spaces are left out.
    shown = [override for override in overrides if " " not in override]
    os.environ["COMP_LINE"] = " ".join(["ptl-prefix", *shown, unfinished])
    try:
        enter_hydra(verb, ["query=fish"], HydraFlags((("--shell-completion", None),)), lambda config: None)
    finally:
        del os.environ["COMP_LINE"]


def _run(verb: Verb, overrides: Sequence[str], flags: HydraFlags, function: Body) -> None:
    errors: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            function(plain_values(config).values, _run_folder())
        except Exception as error:
            errors.append(error)  # Hydra would catch it and print less

    enter_hydra(verb, overrides, flags, job)
    if errors:
        raise errors[0]


def _sweep(verb: Verb, overrides: Sequence[str], flags: HydraFlags, function: Body) -> None:
    failed: list[int] = []
    finished: list[int] = []
    this_process = os.getpid()

    def job(config: DictConfig) -> Any:
        number = HydraConfig.get().job.num
        try:
            result = function(checked_job(verb, config, flags), _run_folder())
        except Exception as error:
            _print_failure(number, error)
            if os.getpid() != this_process:
                raise  # in a process of a launcher, whose failures only Hydra can count
            failed.append(number)
            return None
        finished.append(number)
        return result

    enter_hydra(verb, overrides, flags, job)
    if failed:
        total = len(failed) + len(finished)
        numbers = ", ".join(str(number) for number in failed)
        raise RunError(f"Every job of a sweep must succeed, but {len(failed)} of {total} failed: {numbers}. See above.")


def _run_folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)


def _print_failure(number: int, error: Exception) -> None:
    """Print a job's error at once; only unexpected errors have a traceback."""
    overrides = " ".join(HydraConfig.get().overrides.task)
    print(f"Job {number} failed: {overrides}", file=sys.stderr)
    if isinstance(error, PtlPrefixError):
        print(escape_controls(hide_variables(str(error))), file=sys.stderr)
    else:
        traceback.print_exception(error)


def enter_hydra(verb: Verb, overrides: Sequence[str], flags: HydraFlags, job: Callable[[DictConfig], Any]) -> None:
    """Call Hydra's main function, which reads the command line from `sys.argv`."""
    register_plugins()
    main = hydra.main(version_base=VERSION_BASE, config_path=str(settings.conf_dir()), config_name=verb.name)
    register_resolvers()
    original = sys.argv
    sys.argv = ["ptl-prefix", *flags.arguments(), *overrides]
    try:
        main(job)()
    finally:
        sys.argv = original


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the run folder afterwards if it is new and still empty: Hydra creates it before the job."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in absent:
            if not path.is_dir() or any(path.iterdir()):
                break
            path.rmdir()
