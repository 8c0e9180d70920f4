"""`ptl-prefix sweep` and `train -m`: a study is planned, run, watched, stopped, gone on with.

In: a spec of `sweeps/`, or the name of a study. Out: its trials, a table while they run, and at the end what they
say.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ptl_prefix import settings
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.cost_estimate import make_plan, show_plan
from ptl_prefix.commands.sweep.parse_study import Asked, ask, sweeper_of
from ptl_prefix.commands.sweep.progress import Progress, status_table, trial_name
from ptl_prefix.commands.sweep.report import show_result
from ptl_prefix.commands.sweep.slurm import write_slurm_script
from ptl_prefix.commands.sweep.study_folder import Study, begin, has_other_code, open_study
from ptl_prefix.errors import ConfigError, SweepError
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import STUDY_FILE
from ptl_prefix.sweeping.study_tracking import told
from ptl_prefix.sweeping.summary import summarize
from ptl_prefix.sweeping.trial_processes import TrialServer, prepared_trial_server
from ptl_prefix.tracking.tracking import Tracking

ASKING = ("plan", "run")
"""The actions whose settings are those of the trials."""

_ACTIONS = (*ASKING, "status", "resume", "stop", "export", "worker")
_STUDIES = Path("outputs/sweeps")
_EVERY_S = 2.0


def run_asking(words: Sequence[str], overrides: Sequence[str], flags: HydraFlags) -> None:
    """`plan` and `run`: what is asked is a file of `sweeps/`, and what else is given changes it.

    Raises:
        ConfigError: With every mistake, before anything is trained.
    """
    action, *names = words
    if len(names) != 1:
        raise ConfigError([f"`sweep {action}` needs one spec: {', '.join(questions()) or 'there is none yet'}."])
    given, swept = (f"sweeps={names[0]}", *overrides), HydraFlags((*flags.given, ("--multirun", None)))
    sweeper = sweeper_of(VERBS["train"], given, swept)
    with prepared_trial_server(warm=sweeper.warm) as host:
        asked = ask(VERBS["train"], given, swept, sweeper)
        if action == "run":
            run_asked(asked, flags, host)
        else:
            show_plan(asked, make_plan(asked, flags, Console(stderr=True), host), Console())


def questions() -> list[str]:
    """What may be asked."""
    return sorted(path.stem for path in settings.sweeps_dir().glob("*.yaml"))


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """The actions on a study that has begun.

    Args:
        config: `now`, `watch`, `workers`.
        words: The action, a study, and what the action needs.
        run_folder: Not used; a study's is its own.
    """
    action, names = (words[0] if words else ""), words[1:]
    if action not in _ACTIONS:
        raise ConfigError([f"`sweep` needs one of {', '.join(_ACTIONS)}, but got {action!r}."])
    wanted = 2 if action == "export" else 1
    if len(names) != wanted:
        behind = "a study and `slurm`" if action == "export" else "one study"
        raise ConfigError([f"`sweep {action}` needs {behind}, but got {' '.join(names) or 'nothing'}."])
    study = open_study(_folder_of(names[0]))
    if action in ("resume", "worker"):
        work(
            study, Console(stderr=True), workers=config["workers"] or (1 if action == "worker" else None), joins=action
        )
    elif action == "status":
        _show_status(study, watch=config["watch"])
    elif action == "stop":
        study.scheduler().store.tell_to_stop("now" if config["now"] else "new")
        print("What runs is stopped and saved." if config["now"] else "What runs is finished, and nothing new begins.")
    elif names[1] == "slurm":
        path = write_slurm_script(study, config)
        Console().print(Text(f"sbatch {path}"), soft_wrap=True)
    else:
        raise ConfigError([f"`sweep export` writes for slurm, but got {names[1]!r}."])


def run_asked(asked: Asked, flags: HydraFlags, host: TrialServer | None = None) -> None:
    """Run a spec's study, or go on with it.

    Args:
        asked: Checked.
        flags: Of Hydra.
        host: One that was prepared.

    Raises:
        SweepError: If it asks something else than before, or did not end as it should.
    """
    study, is_new = begin(asked, flags)
    console = Console(stderr=True)
    if not is_new:
        console.print(f"going on with {study.folder}", highlight=False, soft_wrap=True)
    work(study, console, host=host)


def work(
    study: Study,
    console: Console,
    *,
    workers: int | None = None,
    joins: str = "resume",
    host: TrialServer | None = None,
) -> None:
    """Work at a study with the workers of this process, until it is done or they are stopped.

    Args:
        study: Which.
        console: Where progress is shown.
        workers: How many; `None`: what the spec says.
        joins: `worker`: others are at work, too, and one of them shows the result; a stop holds for all.
        host: One that was prepared.

    Raises:
        SweepError: When trials failed.
    """
    if has_other_code(study):
        console.print("the code is not the one that this study began with", style="yellow", highlight=False)
    scheduler = study.scheduler()
    if joins != "worker":
        scheduler.store.tell_to_stop(None)
    progress = Progress(study, scheduler, console)
    pool = study.pool(scheduler, progress.say, workers, host)
    with progress:
        pool.run(lambda: progress.refresh(pool.workers))
    if pool.interrupted is not None or scheduler.store.stop is not None:
        console.print(Text(f"Stopped. Go on with:\n  ptl-prefix sweep resume {study.folder}"), soft_wrap=True)
        raise SystemExit(130 if pool.interrupted == "SIGINT" else 143)
    if joins != "worker":
        # W&B takes its time, in which the page is made.
        with told(scheduler, _tracking_of(study), lambda text: console.print(Text(text), soft_wrap=True)):
            show_result(study, scheduler, Console(file=sys.stdout))
        _refuse_failures(study, scheduler)


def _tracking_of(study: Study) -> Tracking:
    """Who is told of the study's trials is told of the study; its curves are theirs."""
    node = study.first_config()["tracking"]
    own = {"job_type": "sweep", "csv": False, "tensorboard": False, "group": node["group"] or study.spec.name}
    tracking = build({**node, **own})
    assert isinstance(tracking, Tracking)
    return tracking


def _refuse_failures(study: Study, scheduler: Scheduler) -> None:
    """The exit code says whether every trial ended well."""
    ended = [trial for trial in scheduler.all_trials() if trial.state in ("finished", "pruned", "failed")]
    failed = [trial for trial in ended if trial.state == "failed"]
    if not failed:
        return
    lines = [
        f"\n  {trial.folder(study.folder)}: {trial.label}: {trial.notes.get('failure')}: {trial.notes.get('error')}"
        for trial in failed
    ]
    names = ", ".join(trial_name(trial) for trial in failed)
    raise SweepError(
        f"Every trial of a sweep must end well, but {len(failed)} of {len(ended)} failed: {names}{''.join(lines)}"
    )


def _show_status(study: Study, *, watch: bool) -> None:
    scheduler, console = study.scheduler(), Console()
    if not watch:
        console.print(status_table(study, summarize(scheduler), study.spec.workers))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            summary = summarize(scheduler)
            live.update(status_table(study, summary, study.spec.workers), refresh=True)
            if not any(arm.states["running"] for arm in summary.arms):
                return
            time.sleep(_EVERY_S)


def _folder_of(name: str) -> Path:
    """A study by its folder, or by its name in `outputs/sweeps`."""
    folder = Path(name)
    return folder if (folder / STUDY_FILE).exists() else _STUDIES / name
