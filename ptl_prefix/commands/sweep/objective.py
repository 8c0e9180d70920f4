"""The searched metric of a study: its direction, and the reasons why it cannot or should not be searched.

In: the setting `hydra.sweeper.objective`, and a trial's task. Out: the direction in which the metric is better, and
sentences.
"""

from typing import TYPE_CHECKING, Literal

from ptl_prefix.evaluation.metric import metric_info, metric_names
from ptl_prefix.sweeping.sweeper_settings import Direction

if TYPE_CHECKING:
    from ptl_prefix.data.task import Task

VALIDATION_LOSS = "val/loss"


def direction_of(objective: str) -> Direction:
    """The direction in which a metric is better; `minimize` for a name that is no metric, which a check refuses."""
    name = objective.partition("/")[2]
    return metric_info(name).direction if name in metric_names() else "minimize"


def objective_problems(
    objective: str, given: Direction | None, task: "Task", *, select_by: str, prunes: bool
) -> list[str]:
    """Why a study cannot search an objective.

    Args:
        objective: Key of the metric in a run's record.
        given: The setting `hydra.sweeper.direction`.
        task: Task of the trials.
        select_by: Metric that chooses each trial's best checkpoint, which a finished run has, too.
        prunes: Whether the pruner may stop trials.
    """
    problems = []
    if prunes and objective != VALIDATION_LOSS:
        problems.append(
            "`hydra.sweeper.objective` must be val/loss with a pruner, since every validation of a run measures it, "
            f"but is {objective!r}."
        )
    split: Literal["test", "val"] = "test" if "test" in task.splits else "val"
    available = dict.fromkeys([VALIDATION_LOSS, *(f"{split}/{name}" for name in task.metrics), select_by])
    if objective not in available:
        problems.append(
            f"`hydra.sweeper.objective` must be a metric of a finished run ({', '.join(available)}), but is "
            f"{objective!r}{_remedy(objective, task)}."
        )
    elif given is not None and given != direction_of(objective):
        problems.append(
            f"`hydra.sweeper.direction` must be {direction_of(objective)} for {objective}, but is {given}; leave it "
            "out, as the metric decides."
        )
    return problems


def _remedy(objective: str, task: "Task") -> str:
    """How a metric of the validation split, which has no entry in records by itself, can be searched."""
    is_measurable = objective in [f"val/{name}" for name in task.metrics]
    return f"; training.select_by={objective} measures it in every trial" if is_measurable else ""


def objective_notes(objective: str) -> list[str]:
    """What should be known before a study of this objective starts."""
    if not objective.startswith("test/"):
        return []
    return [
        f"`hydra.sweeper.objective` is {objective}: the study chooses settings on the test split, so the best trial's "
        "test score is too good. Search val/loss, and compare the test scores of the chosen settings."
    ]
