"""One trial of a study, as it was when it was read.

In: a trial of Optuna's. Out: `Trial`, a frozen snapshot of plain values. Optuna's states are refined: a trial that
runs, one that waits for a promotion and one whose worker died are all RUNNING there.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.sweeping.liveness import Liveness

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["running", "paused", "interrupted", "finished", "pruned", "failed", "discarded"]
"""`interrupted`: the trial's worker died or was stopped, and the trial will be resumed. `discarded`: the trial repeats
the point of another one, or its worker died before it stored the point; such a trial counts nowhere."""

DEPENDS_ON_LIVENESS: tuple[State, ...] = ("running", "interrupted")
"""States that change without a write, when a worker dies."""

FAILURES = {
    "non-finite loss": "a loss or gradient was NaN or infinite",
    "out of memory": "the device or the machine ran out of memory",
    "killed": "its process was killed, and killed again when it was retried",
    "config": "its settings contradict each other",
    "no objective": "it finished, but its record does not have the objective",
    "crash": "it raised an exception",
}
"""The types of failures, and what each means."""

_FAILURES_RENAMED = {"not a number": "non-finite loss"}
"""Failure types of studies that were created by an earlier version."""
_RUNG, _BEAT = "rung_", "beat_"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A snapshot of one trial.

    Args:
        arm: Name of the trial's arm.
        number: Number of the trial in its arm.
        trial_id: Optuna's id of the trial in the storage.
        state: State of the trial when it was read.
        params: The point: a value for each key of the search space.
        intermediate_values: Objective by optimizer step.
        value: Final objective; of a pruned trial, the last one reported.
        notes: User attributes: owner, attempts, cost, failure and the like.
    """

    arm: str
    number: int
    trial_id: int
    state: State
    params: Mapping[str, Any]
    intermediate_values: Mapping[int, float]
    value: float | None
    notes: Mapping[str, Any]

    @functools.cached_property
    def overrides(self) -> tuple[str, ...]:
        """The overrides that distinguish the trial from the others of its arm; empty before they are stored."""
        return tuple(self.notes.get("overrides", ()))

    @property
    def has_point(self) -> bool:
        """Whether the trial's worker lived long enough to store the overrides of its point."""
        return "overrides" in self.notes

    @property
    def label(self) -> str:
        """The point in a short form; `overrides` has every digit."""
        return " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.params.items()
        )

    def folder(self, study: Path) -> Path:
        """The folder of the trial's run; that of the reused run, if its result was reused and was not fetched."""
        own, reused = trial_folder(study, self.arm, self.number), self.notes.get("reused_from")
        return Path(reused) if reused and not own.is_dir() else own

    @property
    def train_s(self) -> float:
        """Seconds of training over all attempts."""
        return float(self.notes.get("train_s", 0.0))

    @property
    def tokens(self) -> float:
        """Training tokens over all attempts."""
        return float(self.notes.get("tokens", 0.0))

    @functools.cached_property
    def rungs(self) -> Mapping[int, float]:
        """The objective at each rung that the trial reached, times the study's sign: less is better."""
        return {int(key.removeprefix(_RUNG)): one for key, one in self.notes.items() if key.startswith(_RUNG)}

    @functools.cached_property
    def paused_at(self) -> int:
        """The rung at which the trial is paused; only of a paused trial."""
        return int(self.notes["paused_at"])

    @property
    def lease(self) -> str | None:
        """The lease of the worker that has the trial: a new one each time a worker takes it. `None` if none has it."""
        return lease_of(self.notes)

    def as_of_now(self, liveness: Liveness) -> "Trial":
        """The trial with the state of now, which must be one of `DEPENDS_ON_LIVENESS`; nothing was stored since."""
        state = _state_of_open(self.notes, liveness)
        return self if state == self.state else replace(self, state=state)


def read_trial(arm: str, frozen: "FrozenTrial", liveness: Liveness) -> Trial:
    """A snapshot of a trial of Optuna's. Whether its worker is alive is checked once, now."""
    notes = dict(frozen.user_attrs)
    if "failure" in notes:
        notes["failure"] = _FAILURES_RENAMED.get(notes["failure"], notes["failure"])
    return Trial(
        arm=arm,
        number=int(frozen.number),
        trial_id=int(frozen._trial_id),
        state=_state(frozen.state.name, notes, liveness),
        params=dict(frozen.params),
        intermediate_values=dict(frozen.intermediate_values),
        value=frozen.value,
        notes=notes,
    )


def _state(name: str, notes: Mapping[str, Any], liveness: Liveness) -> State:
    ended: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    if name in ended:
        return "discarded" if "set_aside" in notes else ended[name]
    return _state_of_open(notes, liveness)


def _state_of_open(notes: Mapping[str, Any], liveness: Liveness) -> State:
    if notes.get("paused_at") is not None:
        return "paused"
    return "running" if liveness.is_alive(notes.get("owner"), notes.get(beat_key(lease_of(notes)))) else "interrupted"


def lease_of(notes: Mapping[str, Any]) -> str | None:
    """The lease in a trial's user attributes; `None` if no worker has the trial."""
    lease: str | None = (notes.get("owner") or {}).get("lease")
    return lease


def beat_key(lease: str | None) -> str:
    """The user attribute that holds the time of the last heartbeat under a lease.

    Each lease has one of its own: the write of a worker that lost its trial may arrive late, and must not make the
    next worker look dead.
    """
    return f"{_BEAT}{lease}"


def rung_notes(rungs: Mapping[int, float]) -> dict[str, float]:
    """The user attributes from which `Trial.rungs` is read."""
    return {f"{_RUNG}{rung}": value for rung, value in rungs.items()}


def trial_folder(study: Path, arm: str, number: int) -> Path:
    """The folder of a trial's run."""
    return study / arm / str(number)


def best_of(trials: Sequence[Trial], sign: int) -> list[Trial]:
    """The finished trials, the best first.

    Args:
        trials: Trials in any state.
        sign: 1 if a smaller objective is better, -1 if a greater one is.
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    return sorted(finished, key=lambda trial: sign * (trial.value or 0.0))
