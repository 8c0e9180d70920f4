"""A study as one run of its own, beside those of its trials, for whoever looks at W&B.

In: what is written down of a study. Out: the same stream of events as a training's, with one event: all trials as a
table. It is told when a study ends, and again, in its place, when one that was extended does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts
from ptl_prefix.tracking.tracking import Tracking

_NOTES = ("parameters_trained", "parameters_stored", "train_s", "tokens", "failure")


@contextmanager
def told(scheduler: Scheduler, tracking: Tracking, say: Callable[[str], None]) -> Iterator[None]:
    """Every sink is told of a study's trials, and has heard it at the end of the block.

    Args:
        scheduler: Of the study.
        tracking: Who is told, besides the disk.
        say: Told in a sentence where it is.
    """
    spec, folder = scheduler.spec, RunFolder(scheduler.store.folder)
    facts = RunFacts(
        run_id=f"{spec.name}-{spec.token}",
        folder=folder,
        config=_config(scheduler),
        resumed_step=None,
        notify=say,
        request_stop=lambda: None,
    )
    columns, rows = table(scheduler)
    events = EventStream(DiskSink(), tracking.sinks(), say, tracking.close_timeout_s)
    try:
        events.open(facts)
        events.write("trials", step=len(rows), columns=columns, rows=rows)
        events.write("finished", step=len(rows), **_best(scheduler))
        yield
    finally:
        events.close(0)


def table(scheduler: Scheduler) -> tuple[list[str], list[list[Any]]]:
    """Every trial that is one: names of columns, and a row each."""
    trials = [trial for trial in scheduler.all_trials() if trial.state != "set aside"]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.frozen.params))
    columns = ["trial", "arm", "state", *keys, scheduler.spec.objective, *_NOTES]
    return columns, [_row(trial, keys) for trial in trials]


def _row(trial: Trial, keys: list[str]) -> list[Any]:
    values = [trial.frozen.params.get(key) for key in keys]
    return [trial.number, trial.arm, trial.state, *values, trial.value, *(trial.notes.get(note) for note in _NOTES)]


def _config(scheduler: Scheduler) -> dict[str, Any]:
    spec = scheduler.spec
    return {
        "study": spec.name,
        "direction": spec.direction,
        "objective": spec.objective,
        "sampler": spec.sampler,
        "pruner": spec.pruner,
        "budget": vars(spec.budget),
        "overrides": list(spec.overrides),
        "arms": {arm.name: arm.space.as_document() for arm in spec.arms},
    }


def _best(scheduler: Scheduler) -> dict[str, float]:
    """The best value of each arm."""
    found = {arm.name: scheduler.store.best(arm.name) for arm in scheduler.spec.arms}
    name = scheduler.spec.objective
    return {f"{arm}/{name}" if arm else name: best[0].value or 0.0 for arm, best in found.items() if best}
