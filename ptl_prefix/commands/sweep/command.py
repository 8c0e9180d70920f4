"""`ptl-prefix sweep` and `train -m`: estimates, runs, watches, stops and resumes studies.

In: a predefined study of `sweeps/`, or the name of an existing study. Out: the study's trials, a progress table while
they run, and the study's result at the end.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.choose_sweeper import choose_sweeper
from ptl_prefix.commands.sweep.cost_estimate import estimate_sweep, show_estimate
from ptl_prefix.commands.sweep.export_study import export_study, next_command
from ptl_prefix.commands.sweep.fetched_study import fetch_study
from ptl_prefix.commands.sweep.mirrored_study import fetch_missing_results, mirror_definition
from ptl_prefix.commands.sweep.parse_study import parsed_with_server
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.commands.sweep.progress import Progress, state_line, status_table, trial_name
from ptl_prefix.commands.sweep.slurm import several_nodes_problems
from ptl_prefix.commands.sweep.start_workers import make_worker_pool
from ptl_prefix.commands.sweep.study_folder import Study, create_or_open_study, has_other_code, open_study
from ptl_prefix.errors import ConfigError, SweepError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.storage import dashboard_command
from ptl_prefix.sweeping.study_spec import STUDY_FILE
from ptl_prefix.sweeping.study_tracking import log_study
from ptl_prefix.sweeping.summary import summarize
from ptl_prefix.sweeping.sweeper_settings import EXPORTED
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.console import EscapingConsole

_ACTIONS = ("plan", "run", "status", "resume", "stop", "export", "worker")
_STUDIES = Path("outputs/sweeps")
_WATCH_EVERY_S = 2.0


def plan_or_run(words: Sequence[str], overrides: Sequence[str], flags: HydraFlags) -> None:
    """The actions `plan` and `run`, whose overrides change a predefined study.

    Args:
        words: The action and the name of the study.
        overrides: Overrides of the study and its trials.
        flags: Hydra's flags.

    Raises:
        ConfigError: With every mistake, before anything is trained.
    """
    action, *names = words
    if len(names) != 1:
        available = ", ".join(list_studies()) or "none"
        raise ConfigError([f"`sweep {action}` needs one predefined study of {available}, but got {_listed(names)}."])
    verb, overrides = VERBS["train"], (f"sweeps={names[0]}", *overrides)
    multirun = HydraFlags((*flags.given, ("--multirun", None)))
    sweeper = choose_sweeper(verb, overrides, multirun)
    with parsed_with_server(verb, overrides, multirun, sweeper) as (parsed, server):
        if not any(arm.space.dimensions for arm in parsed.spec.arms):
            raise ConfigError(
                [
                    f"`sweeps={names[0]}` must search something, but names no values; list keys and their values as "
                    "`hydra.sweeper.params` in its file, or use `ptl-prefix train` for one run."
                ]
            )
        if action == "run":
            run_parsed_study(parsed, flags, server)
        else:
            console = EscapingConsole(stderr=True)
            _show_notes(parsed, console)
            show_estimate(parsed, estimate_sweep(parsed, flags, console, server), EscapingConsole())


def _show_notes(parsed: ParsedStudy, console: Console) -> None:
    for note in parsed.notes:
        console.print(Text(note, style="yellow"), soft_wrap=True)


def list_studies() -> list[str]:
    """The names of the predefined studies."""
    return [choice.name for choice in catalog.choices("sweeps")]


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """The actions on an existing study.

    Args:
        config: The settings of `conf/sweep.yaml`.
        words: The action, a study, and for `export` the target.
        run_folder: Not used, since a study has a folder of its own.
    """
    action, names = (words[0] if words else ""), words[1:]
    if action not in _ACTIONS:
        raise ConfigError([f"`sweep` needs one of {', '.join(_ACTIONS)}, but got {action!r}."])
    if len(names) != (2 if action == "export" else 1):
        needed = f"a study and one of {', '.join(EXPORTED)}" if action == "export" else "one study"
        raise ConfigError([f"`sweep {action}` needs {needed}, but got {_listed(names)}."])
    study = open_study(_find_folder(names[0]))
    if action == "resume":
        executor = config["executor"] or study.spec.executor
        problems = study.spec.executor_problems(executor) + several_nodes_problems(study.first_config(), executor)
        if problems:
            raise ConfigError(problems)
        work(study, EscapingConsole(stderr=True), num_workers=config["workers"], executor=executor)
    elif action == "worker":
        _join(study, config)
    elif action == "status":
        _show_status(study, watch=config["watch"])
    elif action == "stop":
        study.scheduler().request_stop("now" if config["now"] else "new")
        print(
            "Running trials are stopped with a checkpoint." if config["now"] else "Running trials finish; none starts."
        )
    else:
        EscapingConsole().print(Text(export_study(study, names[1], config)), soft_wrap=True)


def _join(study: Study, config: dict[str, Any]) -> None:
    """Work on a study with workers of this process, beside those of other processes."""
    launcher = shlex.split(config["launcher"] or "")
    work(
        study,
        EscapingConsole(stderr=True),
        num_workers=config["workers"] or 1,
        is_joining=True,
        executor="local",
        launcher=launcher,
    )


def _listed(names: Sequence[str]) -> str:
    return " ".join(names) or "nothing"


def run_parsed_study(parsed: ParsedStudy, flags: HydraFlags, server: TrialServer) -> None:
    """Run a parsed study, or resume it if it exists.

    Args:
        parsed: The parsed study.
        flags: Hydra's flags.
        server: A prepared trial server.

    Raises:
        SweepError: If the existing study has another specification, or if trials failed.
    """
    study, is_new = create_or_open_study(parsed, flags)
    console = EscapingConsole(stderr=True)
    console.print(Text(f"dashboard: {dashboard_command(study.folder, study.storage)}"), soft_wrap=True)
    _show_notes(parsed, console)
    mirror_definition(study, lambda text: console.print(Text(text), soft_wrap=True))
    if not is_new:
        console.print(f"Resuming {study.folder}", highlight=False, soft_wrap=True)
    work(study, console, server=server)


def work(
    study: Study,
    console: Console,
    *,
    num_workers: int | None = None,
    is_joining: bool = False,
    server: TrialServer | None = None,
    executor: str | None = None,
    launcher: Sequence[str] = (),
) -> None:
    """Run a study's trials with workers of its executor until the study is done or stopped.

    Args:
        study: The study.
        console: Where the progress is shown.
        num_workers: Trials that run at once; `None` is the study's own number.
        is_joining: Whether other processes work on the study as well. A joining process respects an earlier stop
            request, and leaves the result to the others.
        server: A prepared trial server; `None` starts one.
        executor: Where the workers run; `None` is the study's own executor.
        launcher: Command that starts the processes of each trial of a local worker; empty to fork each trial.

    Raises:
        SweepError: If trials failed.
    """
    if has_other_code(study):
        console.print("The code has changed since this study was created.", style="yellow", highlight=False)
    server = study.trial_server(server, launcher)
    scheduler = study.scheduler(server)
    if not is_joining:
        scheduler.request_stop(None)
    executor = executor or study.spec.executor
    if executor in EXPORTED and not scheduler.is_done:
        console.print(Text(next_command(study, executor)), soft_wrap=True)
        return
    progress = Progress(scheduler, console)
    pool = make_worker_pool(
        study,
        scheduler,
        progress.notify,
        executor=executor,
        num_workers=num_workers,
        server=server,
        has_launcher=bool(launcher),
    )
    with progress:
        pool.run(lambda: progress.refresh(pool.num_workers))
    if pool.interrupted is not None or scheduler.stop_request is not None:
        resume = printed_command("sweep", "resume", study.folder)
        console.print(Text(f"Stopped. Resume with:\n  {resume}"), soft_wrap=True)
        raise SystemExit(130 if pool.interrupted == "SIGINT" else 143)
    if not is_joining:
        fetch_missing_results(study, scheduler, lambda text: console.print(Text(text), soft_wrap=True))
        # Imported here: it imports scipy and plotly, for which no trial should wait.
        from ptl_prefix.commands.sweep.report import show_result

        # The loggers send while the page is made.
        with log_study(scheduler, _study_tracking(study), lambda text: console.print(Text(text), soft_wrap=True)):
            show_result(scheduler, EscapingConsole(file=sys.stdout))
        _raise_for_failures(scheduler)


def _study_tracking(study: Study) -> Tracking:
    """The loggers of the trials, which log the study too; curves are left to the trials."""
    node = study.first_config()["tracking"]
    changed = {"job_type": "sweep", "csv": False, "tensorboard": False, "group": node["group"] or study.spec.name}
    tracking = build({**node, **changed})
    assert isinstance(tracking, Tracking)
    return tracking


def _raise_for_failures(scheduler: Scheduler) -> None:
    """Make the exit code say whether trials failed."""
    ended = [trial for trial in scheduler.all_trials() if trial.state in ("finished", "pruned", "failed")]
    failed = [trial for trial in ended if trial.state == "failed"]
    if not failed:
        return
    lines = [
        f"\n  {trial.folder(scheduler.folder)}: {trial.label}: {trial.notes.get('failure')}: {trial.notes.get('error')}"
        for trial in failed
    ]
    names = ", ".join(trial_name(trial) for trial in failed)
    raise SweepError(
        f"Every trial of a sweep must finish or be pruned, but {len(failed)} of {len(ended)} failed: "
        f"{names}{''.join(lines)}"
    )


def _show_status(study: Study, *, watch: bool) -> None:
    scheduler, console, spec = study.scheduler(), EscapingConsole(), study.spec
    summary = summarize(scheduler)
    if not watch:
        console.print(status_table(spec, summary, spec.n_jobs))
    else:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(status_table(spec, summary, spec.n_jobs), refresh=True)
                if not any(arm.states["running"] for arm in summary.arms):
                    break
                time.sleep(_WATCH_EVERY_S)
                summary = summarize(scheduler)
    console.print(Text(state_line(scheduler, summary)), soft_wrap=True)
    console.print(Text(f"dashboard: {dashboard_command(study.folder, study.storage)}"), soft_wrap=True)


def _find_folder(name: str) -> Path:
    """The folder of a study, given by its path, its name in `outputs/sweeps`, or the address of its mirror."""
    if is_remote_address(name):
        return fetch_study(name, _STUDIES)
    folder = Path(name)
    return folder if (folder / STUDY_FILE).exists() else _STUDIES / name
