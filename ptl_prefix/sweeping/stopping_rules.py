"""When the search of an arm ends: its budget is spent, its space is exhausted, or too many trials failed.

In: a study's specification, an arm and the arm's trials. Out: whether the arm starts another trial, and why not where
failures are the reason.
"""

import itertools
from collections.abc import Sequence

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping.study_spec import Arm, StudySpec
from ptl_prefix.sweeping.trial import Trial
from ptl_prefix.sweeping.trial_store import tried_points

_NUM_SAME_ERRORS = 3
"""If this many first trials raise the same exception, the next one would raise it too."""


def needs_new_trial(spec: StudySpec, arm: Arm, trials: Sequence[Trial]) -> bool:
    """Whether an arm's budget and space leave another trial, and its failures do not end the search."""
    if arm.space.size is not None and len(tried_points(trials)) >= arm.space.size:
        return False
    if arm.name != CONFIRM:
        if (limit := spec.max_trials(arm)) is not None and num_counted(trials) >= limit:
            return False
        if spec.budget_s is not None and sum(trial.train_s for trial in trials) >= spec.budget_s:
            return False
        if spec.budget_tokens is not None and sum(trial.tokens for trial in trials) >= spec.budget_tokens:
            return False
    return failure_reason(spec, arm, trials) is None


def failure_reason(spec: StudySpec, arm: Arm, trials: Sequence[Trial]) -> str | None:
    """Why failures end an arm's search; `None` if they do not."""
    failed = [trial for trial in trials if trial.state == "failed"]
    ended = (trial for trial in trials if trial.state in ("finished", "pruned", "failed"))
    first = list(itertools.islice(ended, _NUM_SAME_ERRORS))
    errors = {trial.notes.get("error") for trial in first if trial.state == "failed"}
    if len(first) == _NUM_SAME_ERRORS and len(errors) == 1 and all(trial.state == "failed" for trial in first):
        return f"its first {_NUM_SAME_ERRORS} trials all failed with the same error: {errors.pop()}"
    limit = spec.max_trials(arm) or len(trials)
    if len(failed) > spec.max_failure_rate * limit:
        return f"{len(failed)} of its trials failed, more than `max_failure_rate` allows of {limit}"
    return None


def num_counted(trials: Sequence[Trial]) -> int:
    """The number of trials that count against the budget: those that finished, were pruned, or still may."""
    return sum(trial.state not in ("failed", "discarded") for trial in trials)
