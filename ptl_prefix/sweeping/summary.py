"""Summarises a study for display: numbers of trials, best trials, failures, importance of the searched keys.

In: a study's scheduler. Out: `Summary`. It decides nothing and writes nothing.
"""

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.seed_groups import SeedGroup, searched_settings, seed_groups
from ptl_prefix.sweeping.stopping_rules import failure_reason
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import State, Trial, best_of


@dataclass(frozen=True, kw_only=True)
class ConfirmedTrial:
    """One of the best trials, trained again on the seeds of the confirmation.

    Args:
        candidate: `arm/number` of the trial in the search.
        values: Objective of each seed that has finished.
        mean: Mean of `values`.
        deviation: Standard deviation of `values`; `None` for a single one.
    """

    candidate: str
    values: Sequence[float]
    mean: float
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """The state of one arm.

    Args:
        name: Name of the arm; empty if it is the only one.
        num_planned: Trials that the arm will have; `None` if its budget is not a number of trials.
        states: Number of trials in each state.
        best: Up to ten finished trials, the best first.
        seed_groups: The settings of a search over seeds, the best mean first; empty if no seed is searched.
        failures: Number of failed trials of each failure type.
        failure_reason: Why failures ended the search; `None` if they did not.
        importance: Importance of each searched key for the objective, summing to 1; empty with too few trials.
        train_s: Seconds of training, without reused results.
        tokens: Training tokens, without reused results.
    """

    name: str
    num_planned: int | None
    states: Counter[State]
    best: Sequence[Trial]
    seed_groups: Sequence[SeedGroup]
    failures: Counter[str]
    failure_reason: str | None
    importance: dict[str, float]
    train_s: float
    tokens: float

    @property
    def best_value(self) -> float | None:
        """The best objective: of a search over seeds, the best mean over the seeds of one setting."""
        if self.seed_groups:
            return self.seed_groups[0].mean
        return self.best[0].value if self.best else None

    @property
    def num_done(self) -> int:
        """The number of trials that finished or were pruned."""
        return self.states["finished"] + self.states["pruned"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The state of a study.

    Args:
        arms: The arms in the order of the specification, the confirmation last.
        confirmed: The confirmed trials, the best first.
        num_reused: Trials whose result was reused from an earlier run.
        max_confirmations: The most trials that will confirm the best; 0 once the confirmation is an arm.
    """

    arms: Sequence[ArmSummary]
    confirmed: Sequence[ConfirmedTrial]
    num_reused: int
    max_confirmations: int


def summarize(scheduler: Scheduler, *, with_importance: bool = False) -> Summary:
    """Summarise a study.

    Args:
        scheduler: The study's scheduler.
        with_importance: Whether to compute the importance of the searched keys, which takes a moment.
    """
    spec, confirmation = scheduler.spec, scheduler.confirmation_arms()
    trials = {arm.name: scheduler.trials(arm.name) for arm in (*spec.arms, *confirmation)}
    arms = [
        _summarize_arm(scheduler, arm, trials[arm.name], with_importance=with_importance)
        for arm in (*spec.arms, *confirmation)
    ]
    return Summary(
        arms=arms,
        confirmed=_confirmed(trials[CONFIRM], spec.sign) if confirmation else [],
        num_reused=sum("reused_from" in trial.notes for of_arm in trials.values() for trial in of_arm),
        max_confirmations=spec.max_confirmations if scheduler.is_searching else 0,
    )


def _summarize_arm(scheduler: Scheduler, arm: Arm, trials: Sequence[Trial], *, with_importance: bool) -> ArmSummary:
    spec, is_search = scheduler.spec, arm.name != CONFIRM
    trained = [trial for trial in trials if "reused_from" not in trial.notes]
    return ArmSummary(
        name=arm.name,
        num_planned=spec.max_trials(arm) if is_search else arm.space.size,
        states=Counter(trial.state for trial in trials),
        best=best_of(trials, spec.sign)[:10],
        seed_groups=seed_groups(arm, trials, spec.sign) if is_search else [],
        failures=Counter(str(trial.notes.get("failure")) for trial in trials if trial.state == "failed"),
        failure_reason=failure_reason(spec, arm, trials),
        importance=_importance(scheduler, arm) if with_importance and is_search else {},
        train_s=sum(trial.train_s for trial in trained),
        tokens=sum(trial.tokens for trial in trained),
    )


def best_arm(summary: Summary, sign: int) -> ArmSummary | None:
    """The searched arm with the best objective; `None` before any trial has finished."""
    found = [arm for arm in summary.arms if arm.best and arm.name != CONFIRM]
    return min(found, key=lambda arm: sign * (arm.best_value or 0.0), default=None)


def _confirmed(trials: Sequence[Trial], sign: int) -> list[ConfirmedTrial]:
    values: dict[str, list[float]] = {}
    for trial in trials:
        if trial.state == "finished" and trial.value is not None:
            values.setdefault(str(trial.params["candidate"]), []).append(trial.value)
    confirmed = [
        ConfirmedTrial(
            candidate=candidate,
            values=of_seeds,
            mean=statistics.fmean(of_seeds),
            deviation=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
        )
        for candidate, of_seeds in values.items()
    ]
    return sorted(confirmed, key=lambda one: sign * one.mean)


def _importance(scheduler: Scheduler, arm: Arm) -> dict[str, float]:
    """PED-ANOVA (Watanabe et al., 2023), which needs neither a forest nor the final values of pruned trials."""
    settings = searched_settings(arm)  # a seed's share would be luck
    if len(settings) < 2:
        return {}  # the importance of a single key is always 1
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    study = scheduler.optuna_study(arm.name)
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < 4 or len({trial.value for trial in finished}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importance = optuna.importance.get_param_importances(
                study, evaluator=PedAnovaImportanceEvaluator(), params=settings
            )
        except (ValueError, RuntimeError):  # each key has the same value in every trial
            return {}
    return {} if any(math.isnan(share) for share in importance.values()) else dict(importance)
