"""Asynchronous successive halving over the trials of an arm: which trial pauses at a rung, and which one is promoted.

In: the trials of an arm, with the objective at each rung that they reached. Out: a decision; nothing is written.
"""

import math
from collections.abc import Sequence

from ptl_prefix.sweeping.trial import Trial


def is_promoted(value: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Whether a trial is among the best one in `reduction_factor` of the trials that reached its rung.

    Args:
        value: The trial's objective at the rung; less is better.
        others: The objectives of the other trials that reached the rung.
        reduction_factor: One in this many trials is promoted.
    """
    num_promoted = (len(others) + 1) // reduction_factor
    return sum(other < value for other in others) < num_promoted


def next_promoted(trials: Sequence[Trial], reduction_factor: int) -> Trial | None:
    """The first paused trial that is promoted by now: `is_promoted` of its value among those at its rung."""
    paused = [trial for trial in trials if trial.state == "paused"]
    if not paused:
        return None
    values: dict[int, list[float]] = {}
    for trial in trials:
        for rung, value in trial.rungs.items():
            values.setdefault(rung, []).append(value)
    # Once for each rung, not for each paused trial: a long study has thousands of them.
    worst = {rung: _worst_promoted(of_rung, reduction_factor) for rung, of_rung in values.items()}
    return next((trial for trial in paused if trial.rungs[trial.paused_at] <= worst[trial.paused_at]), None)


def _worst_promoted(values: Sequence[float], reduction_factor: int) -> float:
    """The greatest of the values at a rung that is promoted; minus infinity if none is."""
    num_promoted = len(values) // reduction_factor
    finite = sorted(value for value in values if not math.isnan(value))
    return finite[min(num_promoted, len(finite)) - 1] if num_promoted and finite else -math.inf


def best_paused(trials: Sequence[Trial]) -> Trial | None:
    """The best trial at the highest rung, for an arm with too few trials to promote one; `None` if one finished."""
    paused = [trial for trial in trials if trial.state == "paused"]
    if not paused or any(trial.state == "finished" for trial in trials):
        return None
    highest = max(trial.paused_at for trial in paused)
    at_highest = [trial for trial in paused if trial.paused_at == highest]
    return min(at_highest, key=lambda trial: trial.rungs[highest])
