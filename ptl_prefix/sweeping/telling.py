"""A study as one run of its own, beside those of its trials, for whoever looks at W&B.

In: what is written down of a study. Out: the same stream of events as a training's, with one event: all trials as a
table. It is told when a study ends, and again, in its place, when one that was extended does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping.desk import Desk
from ptl_prefix.sweeping.trials import Trial
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts
from ptl_prefix.tracking.tracking import Tracking

_NOTES = ("parameters_trained", "parameters_stored", "train_s", "tokens", "failure")


@contextmanager
def told(desk: Desk, tracking: Tracking, say: Callable[[str], None]) -> Iterator[None]:
    """Every sink is told of a study's trials, and has heard it at the end of the block.

    Args:
        desk: Of the study.
        tracking: Who is told, besides the disk.
        say: Told in a sentence where it is.
    """
    question, folder = desk.question, RunFolder(desk.register.folder)
    facts = RunFacts(
        run_id=f"{question.name}-{question.token}",
        folder=folder,
        config=_config(desk),
        resumed_step=None,
        say=say,
        request_stop=lambda: None,
    )
    columns, rows = table(desk)
    events = EventStream(DiskSink(), tracking.sinks(), say, tracking.patience_s)
    try:
        events.open(facts)
        events.write("trials", step=len(rows), columns=columns, rows=rows)
        events.write("finished", step=len(rows), **_best(desk))
        yield
    finally:
        events.close(0)


def table(desk: Desk) -> tuple[list[str], list[list[Any]]]:
    """Every trial that is one: names of columns, and a row each."""
    trials = [trial for trial in desk.all_trials() if trial.state != "set aside"]
    keys = list(dict.fromkeys(key for trial in trials for key in trial.frozen.params))
    columns = ["trial", "arm", "state", *keys, desk.question.objective, *_NOTES]
    return columns, [_row(trial, keys) for trial in trials]


def _row(trial: Trial, keys: list[str]) -> list[Any]:
    values = [trial.frozen.params.get(key) for key in keys]
    return [trial.number, trial.arm, trial.state, *values, trial.value, *(trial.notes.get(note) for note in _NOTES)]


def _config(desk: Desk) -> dict[str, Any]:
    question = desk.question
    return {
        "study": question.name,
        "direction": question.direction,
        "objective": question.objective,
        "sampler": question.sampler,
        "pruner": question.pruner,
        "budget": vars(question.budget),
        "overrides": list(question.overrides),
        "arms": {arm.name: arm.space.as_document() for arm in question.arms},
    }


def _best(desk: Desk) -> dict[str, float]:
    """The best value of each arm."""
    found = {arm.name: desk.register.best(arm.name) for arm in desk.question.arms}
    name = desk.question.objective
    return {f"{arm}/{name}" if arm else name: best[0].value or 0.0 for arm, best in found.items() if best}
