"""What a study has come to: counted, ordered and put into a few numbers, for whoever shows it.

In: a scheduler. Out: `Summary`. Nothing is decided here, and nothing is changed.
"""

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import State, Trial, best_of


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One of the best, on the seeds of the confirmation.

    Args:
        candidate: `arm/number` of the trial that found it.
        values: One for each seed that has finished.
        mean: Of those.
        deviation: Their standard deviation; `None` of a single one.
    """

    candidate: str
    values: Sequence[float]
    mean: float
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """One arm.

    Args:
        name: Empty if it is the only one.
        wanted: Trials that it shall have; `None` if its budget is no number of trials.
        states: How many trials are in which state.
        best: The best finished ones, the best first.
        failures: How many failed of which kind.
        surrender: Why its search was given up, if it was.
        importance: Of each key for the objective, adding up to 1; empty before there is enough to tell.
        train_s: Seconds of training.
        tokens: Tokens trained on.
    """

    name: str
    wanted: int | None
    states: Counter[State]
    best: Sequence[Trial]
    failures: Counter[str]
    surrender: str | None
    importance: dict[str, float]
    train_s: float
    tokens: float

    @property
    def num_done(self) -> int:
        """Trials that count."""
        return self.states["finished"] + self.states["pruned"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A whole study.

    Args:
        arms: In the order of the spec, the confirmation's last.
        confirmed: The confirmed ones, the best first.
        reused: Trials whose result was known.
        to_confirm: Trials at most that follow when the search has ended; then they are an arm.
    """

    arms: Sequence[ArmSummary]
    confirmed: Sequence[Confirmed]
    reused: int
    to_confirm: int


def summarize(scheduler: Scheduler, *, with_importance: bool = False) -> Summary:
    """What a study has come to by now.

    Args:
        scheduler: Of the study.
        with_importance: Whether the keys' importance is computed, which takes a moment.
    """
    confirming = scheduler.confirming()
    arms = [*scheduler.spec.arms, *confirming]
    parts = []
    trials_of = {arm.name: scheduler.store.trials(arm.name) for arm in arms}
    for arm in arms:
        trials = trials_of[arm.name]
        failed = [trial for trial in trials if trial.state == "failed"]
        parts.append(
            ArmSummary(
                name=arm.name,
                wanted=arm.space.size if arm.name == CONFIRM else scheduler.spec.trials_of(arm),
                states=Counter(trial.state for trial in trials),
                best=best_of(trials, scheduler.spec.sign)[:10],
                failures=Counter(str(trial.notes.get("failure")) for trial in failed),
                surrender=scheduler.surrender(arm, trials),
                importance=_importance(scheduler, arm) if with_importance and arm.name != CONFIRM else {},
                train_s=sum(trial.train_s for trial in trials if "reused_from" not in trial.notes),
                tokens=sum(trial.tokens for trial in trials if "reused_from" not in trial.notes),
            )
        )
    reused = sum("reused_from" in trial.notes for trials in trials_of.values() for trial in trials)
    confirmed = _confirmed(trials_of[CONFIRM], scheduler.spec.sign) if confirming else []
    to_confirm = scheduler.spec.most_confirmed if scheduler.is_searching else 0
    return Summary(arms=parts, confirmed=confirmed, reused=reused, to_confirm=to_confirm)


def best_of_arms(summary: Summary, sign: int) -> list[Trial]:
    """The best of each arm, the best first."""
    found = [arm.best[0] for arm in summary.arms if arm.best and arm.name != CONFIRM]
    return sorted(found, key=lambda trial: sign * (trial.value or 0.0))


def _confirmed(trials: Sequence[Trial], sign: int) -> list[Confirmed]:
    values: dict[str, list[float]] = {}
    for trial in trials:
        if trial.state == "finished" and trial.value is not None:
            values.setdefault(str(trial.frozen.params["candidate"]), []).append(trial.value)
    found = [
        Confirmed(
            candidate=candidate,
            values=of_seeds,
            mean=statistics.fmean(of_seeds),
            deviation=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        )
        for candidate, of_seeds in values.items()
    ]
    return sorted(found, key=lambda one: sign * one.mean)


def _importance(scheduler: Scheduler, arm: Arm) -> dict[str, float]:
    """PED-ANOVA (Watanabe et al., 2023), which needs neither a forest nor the pruned trials' ends."""
    if len(arm.space.dimensions) < 2:
        return {}  # of one key it would be all
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    study = scheduler.store.study(arm.name)
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < 4 or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        except (ValueError, RuntimeError):  # every trial has the same value of each key
            return {}
    return {} if any(math.isnan(share) for share in found.values()) else dict(found)
