"""Logs a finished study to W&B as a run of its own, beside the runs of its trials.

In: a study's trials. Out: a stream of events like a training's, with one table of all trials. A study that is extended
later logs again, to the same run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.summary import summarize
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts
from ptl_prefix.tracking.tracking import Tracking

_NOTES = ("parameters_trained", "parameters_stored", "train_s", "tokens", "failure")


@contextmanager
def log_study(scheduler: Scheduler, tracking: Tracking, notify: Callable[[str], None]) -> Iterator[None]:
    """Log a study's trials while the block runs; at its end every logger has received them.

    Args:
        scheduler: The study's scheduler.
        tracking: The loggers besides the run folder.
        notify: Called with a status line, for example with the address of the run.
    """
    spec = scheduler.spec
    facts = RunFacts(
        run_id=f"{spec.name}-{spec.token}",
        folder=RunFolder(scheduler.folder),
        config=_config(spec),
        resumed_step=None,
        notify=notify,
        request_stop=lambda: None,
    )
    columns, rows = trial_table(scheduler)
    events = EventStream(DiskSink(), tracking.sinks(), notify, tracking.close_timeout_s)
    try:
        events.open(facts)
        events.write("trials", step=len(rows), columns=columns, rows=rows)
        events.write("finished", step=len(rows), **_best_values(scheduler))
        yield
    finally:
        events.close(0)


def trial_table(scheduler: Scheduler) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and a row for each trial that was not discarded."""
    trials = [trial for trial in scheduler.all_trials() if trial.state != "discarded"]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    columns = ["trial", "arm", "state", *keys, scheduler.spec.objective, *_NOTES]
    return columns, [_row(trial, keys) for trial in trials]


def _row(trial: Trial, keys: list[str]) -> list[Any]:
    values = [trial.params.get(key) for key in keys]
    return [trial.number, trial.arm, trial.state, *values, trial.value, *(trial.notes.get(note) for note in _NOTES)]


def _config(spec: StudySpec) -> dict[str, Any]:
    return {
        "study": spec.name,
        "direction": spec.direction,
        "objective": spec.objective,
        "sampler": spec.sampler,
        "pruner": spec.pruner,
        "budget": spec.as_document()["budget"],
        "overrides": list(spec.overrides),
        "arms": {arm.name: arm.space.as_document() for arm in spec.arms},
    }


def _best_values(scheduler: Scheduler) -> dict[str, float]:
    """The best objective of each arm, by metric name; over several seeds, the best mean."""
    best = {arm.name: arm.best_value for arm in summarize(scheduler).arms if arm.name != CONFIRM}
    name = scheduler.spec.objective
    return {f"{arm}/{name}" if arm else name: value for arm, value in best.items() if value is not None}
