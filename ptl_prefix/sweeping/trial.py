"""A study's trials as they are written down: one vocabulary for those who decide, show and report.

In: Optuna's trials. Out: `Trial`, what one is and what has become of it. Optuna's five states are not enough: a trial
that runs, one that waits for its promotion and one whose worker died are all RUNNING there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.sweeping.liveness import is_alive

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["running", "paused", "interrupted", "finished", "pruned", "failed", "set aside"]
"""interrupted: its worker is gone, or was stopped; it will be gone on with. set aside: a point that was asked twice, or
of which a killed worker had not even written down the point. Such a trial is none."""

FAILURES = {
    "not a number": "a loss or gradient was not finite",
    "out of memory": "the device's memory, or the process's",
    "killed": "its process was ended from outside, and again when it was tried again",
    "config": "its settings clash",
    "no objective": "it ended well, but without the number that is searched",
    "crash": "an exception",
}
"""The kinds of failures, which are told apart."""


@dataclass(frozen=True)
class Trial:
    """One trial.

    Args:
        arm: The arm it belongs to.
        frozen: As Optuna has it.
    """

    arm: str
    frozen: "FrozenTrial"

    @property
    def number(self) -> int:
        """Its number in its arm, never used again."""
        return int(self.frozen.number)

    @property
    def notes(self) -> Mapping[str, Any]:
        """What workers wrote down of it."""
        return dict(self.frozen.user_attrs)

    @property
    def state(self) -> State:
        """What has become of it."""
        notes, name = self.frozen.user_attrs, self.frozen.state.name
        if name in ("COMPLETE", "PRUNED", "FAIL"):
            ended: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
            return "set aside" if "set_aside" in notes else ended[name]
        if notes.get("paused_at") is not None:
            return "paused"
        return "running" if is_alive(notes.get("owner")) else "interrupted"

    @property
    def overrides(self) -> tuple[str, ...]:
        """What makes it differ from the arm's other trials."""
        return tuple(self.frozen.user_attrs.get("overrides", ()))

    @property
    def label(self) -> str:
        """Its point as a person reads it; `overrides` has every digit."""
        return " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in self.frozen.params.items()
        )

    @property
    def is_written(self) -> bool:
        """Whether its worker lived long enough to write down what it is."""
        return "overrides" in self.frozen.user_attrs

    @property
    def value(self) -> float | None:
        """The objective; of a pruned trial the last one seen."""
        return self.frozen.value

    def folder(self, study: Path) -> Path:
        """Where its run is; that of another study, if the result was known."""
        reused = self.frozen.user_attrs.get("reused_from")
        return Path(reused) if reused else trial_folder(study, self.arm, self.number)

    @property
    def train_s(self) -> float:
        """Seconds of training, over all of its attempts."""
        return float(self.frozen.user_attrs.get("train_s", 0.0))

    @property
    def tokens(self) -> float:
        """Tokens trained on."""
        return float(self.frozen.user_attrs.get("tokens", 0.0))

    @property
    def rungs(self) -> dict[int, float]:
        """The objective at each rung that it reached, less being better."""
        prefix = "rung_"
        return {
            int(key.removeprefix(prefix)): value
            for key, value in self.frozen.user_attrs.items()
            if key.startswith(prefix)
        }


def trial_folder(study: Path, arm: str, number: int) -> Path:
    """Where a trial's run lies."""
    return study / arm / str(number)


def best_of(trials: Sequence[Trial], sign: int) -> list[Trial]:
    """Those that finished, the best first.

    Args:
        trials: Any.
        sign: 1 if less is better, -1 if more is.
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.value is not None]
    return sorted(finished, key=lambda trial: sign * (trial.value or 0.0))
