"""The settings of the verbs that read records: what `compare` and `runs` have at the root of their YAML."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """The keys at the root of `conf/compare.yaml`.

    Args:
        out: The folder to write to; `None`: one named by the time, in `outputs/comparisons/`.
        metric: What rows are ordered by, and drawn over; `None`: the first of each task's own.
        include: States of runs that are taken in beside the finished ones.
        examples: Test inputs whose outputs are shown side by side.
    """

    out: str | None
    metric: str | None
    include: Sequence[Literal["stopped", "failed", "pruned", "died"]]
    examples: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class RunsSettings:
    """The keys at the root of `conf/runs.yaml`.

    Args:
        status: Only runs of this state.
        task_name: Only runs of this task.
        backbone_name: Only runs on this backbone.
        method_name: Only runs of this method.
        sort: What the list is ordered by.
        format: How it is printed.
    """

    status: Literal["finished", "stopped", "failed", "pruned", "running", "died", "damaged"] | None
    task_name: str | None
    backbone_name: str | None
    method_name: str | None
    sort: Literal["age", "size", "metric", "status", "task", "method"]
    format: Literal["table", "json"]


@dataclass(frozen=True, kw_only=True)
class SweepActionSettings:
    """The keys at the root of `conf/sweep.yaml`.

    Args:
        now: Stop what runs, too.
        watch: Show the status until nothing runs.
        workers: Trials at once.
        slurm_time: How long a job may take.
        slurm_partition: Where jobs run.
        slurm_mem: A job's memory.
        slurm_extra: Other options of sbatch.
    """

    now: bool
    watch: bool
    workers: Annotated[int, Ge(1)] | None
    slurm_time: str | int | None
    slurm_partition: str | None
    slurm_mem: str | int | None
    slurm_extra: Sequence[str]

    def problems(self) -> list[str]:
        """What would be no option."""
        return [
            f"`slurm_extra` must be options of sbatch, such as --account=nlp, but one is {option!r}."
            for option in self.slurm_extra
            if not option.startswith("-") or "\n" in option
        ]
