"""What a worker receives from the scheduler, and what it returns.

In: a chosen trial. Out: `Job`, the trial with its run folder; and `Outcome`, how the worker's part of it ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping.trial import Trial

Origin = Literal["new", "interrupted", "promoted"]
EarlyStop = Literal["paused", "pruned", "lost"]
"""`lost`: the worker was silent for so long that another one took the trial; its own process must stop."""


@dataclass(frozen=True)
class TakenTrial:
    """A trial that a worker has taken, before the worker looks for its run folder.

    Args:
        trial: The trial, with the worker's lease.
        origin: `new`, `interrupted` or `promoted`, as in `Job`.
    """

    trial: Trial
    origin: Origin


@dataclass(frozen=True)
class Job:
    """The next piece of work of one worker.

    Args:
        trial: The trial to run.
        folder: The run folder of the trial, which holds its frozen config.
        max_steps: Optimizer steps of the whole training; 10^9 if the config has no limit.
        origin: `new`, `interrupted` (resumed after its worker died or was stopped) or `promoted` (resumed at a rung).
    """

    trial: Trial
    folder: RunFolder
    max_steps: int
    origin: Origin


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        kind: `finished`; `paused` at a rung; `pruned`; `interrupted`: stopped on request, to be resumed; `killed`:
            to be resumed, but only a few times; `failed`.
        value: The objective of a finished trial.
        failure: Type of the failure, one of `FAILURES`.
        error: The exception in one line.
        notes: User attributes to store with it: seconds, tokens, parameters.
    """

    kind: Literal["finished", "paused", "pruned", "interrupted", "killed", "failed"]
    value: float | None = None
    failure: str | None = None
    error: str | None = None
    notes: Mapping[str, Any] | None = None
