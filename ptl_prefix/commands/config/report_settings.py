"""The settings at the root of the YAML of `advise`, `compare`, `runs` and `sweep`, with types and ranges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """The keys at the root of `conf/compare.yaml`.

    Args:
        out: Output folder; `None` is `outputs/comparisons/<time>`.
        metric: Metric that rows are ordered by, such as `test/bleu`; `None` is the first metric of each task.
        include: Statuses of runs that are compared besides the finished ones.
        examples: Number of test inputs whose outputs are shown side by side.
    """

    out: str | None
    metric: str | None
    include: Sequence[Literal["stopped", "failed", "pruned", "died"]]
    examples: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class AdviseSettings:
    """The keys at the root of `conf/advise.yaml`.

    Args:
        out: File for the page, of Markdown; `None` is `advice.md` beside the first comparison.
        metric: Metric that rows are judged by, such as `test/bleu`; `None` is the one that each table is sorted by.
        max_trainable_parameters: Largest number of trainable parameters of a method; `None` is no limit.
        max_stored_parameters: Largest number of parameters that a bundle stores; `None` is no limit.
        max_bundle_bytes: Largest size of a bundle in bytes; `None` is no limit.
        max_steps: Largest number of optimizer steps; `None` is no limit.
        max_tokens: Largest number of tokens to train on; `None` is no limit.
        max_peak_memory_bytes: Largest peak memory of training in bytes; `None` is no limit.
    """

    out: str | None
    metric: str | None
    max_trainable_parameters: Annotated[int, Ge(0)] | None
    max_stored_parameters: Annotated[int, Ge(0)] | None
    max_bundle_bytes: Annotated[int, Ge(0)] | None
    max_steps: Annotated[int, Ge(0)] | None
    max_tokens: Annotated[int, Ge(0)] | None
    max_peak_memory_bytes: Annotated[int, Ge(0)] | None


@dataclass(frozen=True, kw_only=True)
class RunsSettings:
    """The keys at the root of `conf/runs.yaml`.

    Args:
        status: Status of the listed runs; `None` is all.
        task_name: Task of the listed runs; `None` is all.
        backbone_name: Backbone of the listed runs; `None` is all.
        method_name: Method of the listed runs; `None` is all.
        sort: Order of the list: `age` (newest first), `size` (largest first), `metric` (best first) or a name.
        format: Format of the output.
    """

    status: Literal["finished", "stopped", "failed", "pruned", "running", "open", "died", "damaged"] | None
    task_name: str | None
    backbone_name: str | None
    method_name: str | None
    sort: Literal["age", "size", "metric", "status", "task", "method"]
    format: Literal["table", "json"]


@dataclass(frozen=True, kw_only=True)
class SweepActionSettings:
    """The keys at the root of `conf/sweep.yaml`.

    Args:
        now: Whether `stop` also stops running trials, after saving them; `false` lets them finish.
        watch: Whether `status` is shown until no trial runs.
        workers: Trials at once, for `resume` and `worker`; `None` is the study's number, and 1 for `worker`.
        executor: Where `resume` runs the workers; `None` is the study's own executor.
        launcher: Command with which `worker` starts the processes of each trial, such as `srun`, whose job then has
            the ranks of one trial; `None` starts each trial in a process of this machine.
        slurm_time: Time limit of an exported Slurm job, such as 12:00:00; unfinished work is queued again.
        slurm_partition: Partition of an exported Slurm job.
        slurm_mem: Memory of an exported Slurm job, such as 16G.
        slurm_nodes: Nodes of an exported Slurm job; above 1, each trial has ranks on all of them.
        slurm_ntasks_per_node: Ranks of a trial on each node of an exported Slurm job; `None` lets the worker start the
            ranks of a trial itself, on one node.
        slurm_extra: Further options of `sbatch` in an exported job, such as `--account=nlp`.
        kubernetes_image: Container image of an exported Job, with this package installed.
        kubernetes_claim: PersistentVolumeClaim with the working directory in which the study was created; `None` gives
            each pod an empty directory, for a study that is mirrored in an object store.
        kubernetes_mount: Path at which the pods mount it, which is their working directory.
        kubernetes_secret: Secret whose keys become environment variables, such as the URL of the study's storage;
            `None` sets none.
        kubernetes_memory: Memory of a pod, such as 16Gi; `None` asks for none.
        kubernetes_gpu: Name of the resource of GPUs, of which a pod asks for `hydra.sweeper.num_gpus`.
        kubernetes_namespace: Namespace of the Job; `None` is that of `kubectl`.
    """

    now: bool
    watch: bool
    workers: Annotated[int, Ge(1)] | None
    executor: Literal["local", "ray", "slurm", "kubernetes"] | None
    launcher: str | None
    slurm_time: str | int | None
    slurm_partition: str | None
    slurm_mem: str | int | None
    slurm_nodes: Annotated[int, Ge(1)]
    slurm_ntasks_per_node: Annotated[int, Ge(1)] | None
    slurm_extra: Sequence[str]
    kubernetes_image: str | None
    kubernetes_claim: str | None
    kubernetes_mount: str
    kubernetes_secret: str | None
    kubernetes_memory: str | None
    kubernetes_gpu: str
    kubernetes_namespace: str | None

    def problems(self) -> list[str]:
        """Entries of `slurm_extra` that are not options."""
        return [
            f"`slurm_extra` must be options of sbatch, such as --account=nlp, but one is {option!r}."
            for option in self.slurm_extra
            if not option.startswith("-") or "\n" in option
        ]
