"""The settings of a sweep: every key of `hydra.sweeper`, with its type, range and meaning.

In: the values of `conf/hydra/sweeper/optuna.yaml`, which holds the defaults. Out: `SweeperSettings`. The part that
describes the study itself is `StudySettings`, which `StudySpec` inherits and keeps in `study.yaml`.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from ptl_prefix.artifacts.run_folder import CONFIRM, is_name
from ptl_prefix.sweeping.storage import without_password

Count = Annotated[int, Ge(1)]
Direction = Literal["minimize", "maximize"]
ExecutorName = Literal["local", "ray", "slurm", "kubernetes"]

EXPORTED = ("slurm", "kubernetes")
"""Executors whose own engine starts the workers, from a file that `ptl-prefix sweep export` writes."""

_MAY_CHANGE = {"may_change": True}
"""Marks the settings with which an existing study may be resumed although it was created with other values."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The settings that a study keeps.

    Args:
        direction: Whether the objective is minimized or maximized; `None` is the metric's own direction.
        objective: Key of the searched metric in a run's record, such as `val/loss`.
        sampler: Config node of the sampler, with its `_target_`.
        pruner: Config node of the pruner, with its `_target_`.
        max_failure_rate: Fraction of an arm's trials that may fail before its search stops.
        executor: Where workers run: `local` is this machine, `ray` a Ray cluster; for `slurm` and `kubernetes` a file
            is exported, from which that engine starts the workers.
        n_jobs: Workers: trials, or packs of trials, that run at once on one machine or on the executor's cluster.
        pack: Trials that train in one process, on one frozen backbone; 1 gives each trial a process of its own.
        threads: CPU threads of each trial or pack; `None` divides the machine's cores by `n_jobs`.
        devices: Accelerators that the workers take in turn; an empty list assigns none.
        num_cpus: CPUs that each worker asks of its cluster; `None` is `threads`, or 1.
        num_gpus: GPUs that each worker asks of its cluster, on Ray also a fraction of one; `None` is 1 if `devices` are
            given, and 0 otherwise.
        ray_address: Address of the Ray cluster: `auto` finds the one that this machine belongs to, `local`
            starts one for the sweep.
        warm: Whether trials are forked from a process that has imported everything.
        reuse: Whether an existing result of the same config, code and data replaces a training.
        n_trials: Trials of each arm that finish or are pruned; `None` sets no limit.
        budget_s: Seconds of training of each arm, summed over its trials; `None` sets no limit.
        budget_tokens: Training tokens of each arm, summed over its trials; `None` sets no limit.
        confirm_top_k: Number of best settings of each arm that are trained again on every one of `confirm_seeds`.
        confirm_seeds: Seeds of these trainings, which the search has not used.
        confirm_overrides: Overrides of these trainings alone, such as `evaluation.num_examples=null`.
    """

    direction: Direction | None
    objective: str
    sampler: Any
    pruner: Any
    max_failure_rate: Annotated[float, Ge(0), Le(1)] = field(metadata=_MAY_CHANGE)
    executor: ExecutorName = field(metadata=_MAY_CHANGE)
    n_jobs: Count = field(metadata=_MAY_CHANGE)
    pack: Count = field(metadata=_MAY_CHANGE)
    threads: Count | None = field(metadata=_MAY_CHANGE)
    devices: Sequence[Annotated[int, Ge(0)]] = field(metadata=_MAY_CHANGE)
    num_cpus: Annotated[float, Gt(0)] | None = field(metadata=_MAY_CHANGE)
    num_gpus: Annotated[float, Ge(0)] | None = field(metadata=_MAY_CHANGE)
    ray_address: str = field(metadata=_MAY_CHANGE)
    warm: bool = field(metadata=_MAY_CHANGE)
    reuse: bool = field(metadata=_MAY_CHANGE)
    n_trials: Count | None = field(metadata=_MAY_CHANGE)
    budget_s: Annotated[float, Gt(0)] | None = field(metadata=_MAY_CHANGE)
    budget_tokens: Annotated[float, Gt(0)] | None = field(metadata=_MAY_CHANGE)
    confirm_top_k: Annotated[int, Ge(0)]
    confirm_seeds: Sequence[Annotated[int, Ge(0)]]
    confirm_overrides: Sequence[str]

    @property
    def cpus_of_worker(self) -> float:
        """CPUs that each worker asks of its cluster."""
        return self.num_cpus or self.threads or 1

    @property
    def gpus_of_worker(self) -> float:
        """GPUs that each worker asks of its cluster."""
        return self.num_gpus if self.num_gpus is not None else float(bool(self.devices))

    def executor_problems(self, executor: ExecutorName) -> list[str]:
        """What keeps an executor from running the study's workers, one sentence each.

        Args:
            executor: The study's executor, or the one that it is resumed or exported with.
        """
        problems = []
        if executor == "ray" and importlib.util.find_spec("ray") is None:
            problems.append(
                "`hydra.sweeper.executor` is ray, which needs the package ray, but it is not installed; run "
                "pip install 'ptl-prefix[ray]'."
            )
        if executor == "ray" and self.devices:
            problems.append(
                "`hydra.sweeper.devices` must be empty with executor=ray, since Ray hands out the devices of its "
                f"nodes, but is {list(self.devices)}; set hydra.sweeper.num_gpus."
            )
        if executor == "ray" and not _is_ray_address(self.ray_address):
            problems.append(
                f"`hydra.sweeper.ray_address` must be auto, local or HOST:PORT, but is {self.ray_address!r}; the "
                "command must run on a node of the cluster."
            )
        if executor in EXPORTED and self.cpus_of_worker % 1:
            problems.append(f"`hydra.sweeper.num_cpus` must be whole with executor={executor}, but is {self.num_cpus}.")
        if self.gpus_of_worker % 1 and (executor != "ray" or self.gpus_of_worker > 1):
            problems.append(
                f"`hydra.sweeper.num_gpus` must be whole, or below 1 with executor=ray, but is {self.num_gpus} with "
                f"executor={executor}."
            )
        return problems

    def study_settings(self) -> dict[str, Any]:
        """The settings of this class by name, without those of a subclass."""
        return {one.name: getattr(self, one.name) for one in fields(StudySettings)}

    def changeable_settings(self) -> dict[str, Any]:
        """The settings that may differ when a study is resumed."""
        return {one.name: getattr(self, one.name) for one in fields(StudySettings) if "may_change" in one.metadata}


@dataclass(frozen=True, kw_only=True)
class SweeperSettings(StudySettings):
    """All settings of `hydra.sweeper`.

    Args:
        study_name: Name of the study and of its folder in `outputs/sweeps/`; `None` uses the current time.
        storage: URL of the database that holds the trials; `None` is a journal in the study's folder.
        params: Search space: `choice(...)`, `interval(...)`, `range(...)` or `tag(log, ...)` for each config key.
        arms: Search spaces that are searched side by side: `{overrides: [...], params: {...}}` by arm name.
    """

    study_name: str | None
    storage: str | None
    params: Mapping[str, Any]
    arms: Mapping[str, Any]

    def problems(self) -> list[str]:
        """What is wrong beyond the type and range of each setting, one sentence each."""
        problems = []
        if self.study_name is not None and not is_name(self.study_name):
            problems.append(
                f"`hydra.sweeper.study_name` must be a folder name of the characters A-Z a-z 0-9 . _ -, "
                f"but is {self.study_name!r}."
            )
        scheme = (self.storage or "sqlite:").partition(":")[0]
        if scheme not in ("sqlite", "postgresql"):
            problems.append(
                f"`hydra.sweeper.storage` must be null, sqlite:///PATH or postgresql://..., but is "
                f"{without_password(str(self.storage))!r}."
            )
        if scheme == "postgresql" and importlib.util.find_spec("psycopg") is None:
            problems.append(
                "`hydra.sweeper.storage` is a PostgreSQL URL, which needs psycopg, but psycopg is not installed; "
                "run pip install 'ptl-prefix[postgres]'."
            )
        problems += self.executor_problems(self.executor)
        for name, arm in self.arms.items():
            problems += _arm_problems(name, arm)
        if self.arms and self.params:
            problems.append(
                "`hydra.sweeper.params` must be empty where `arms` are given, since each arm has its own `params`."
            )
        if self.confirm_top_k and not self.confirm_seeds:
            problems.append(
                f"`hydra.sweeper.confirm_seeds` must hold at least one seed where `confirm_top_k` is above 0, but "
                f"`confirm_top_k` is {self.confirm_top_k}."
            )
        problems += [
            f"`hydra.sweeper.confirm_overrides` must be key=value of the confirming trainings, without `seed` and "
            f"`hydra`, but one is {text!r}."
            for text in self.confirm_overrides
            if "=" not in text or key_of(text).partition(".")[0] in ("seed", "hydra")
        ]
        return problems


def _is_ray_address(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return address in ("auto", "local") or bool(host and port.isdigit())


def key_of(override: str) -> str:
    """The key of an override."""
    return override.lstrip("+").partition("=")[0]


def _arm_problems(name: str, arm: Any) -> list[str]:
    where = f"`hydra.sweeper.arms.{name}`"
    if not is_name(name) or name == CONFIRM:
        return [f"{where} must be named like a folder, and not `{CONFIRM}`."]
    if not isinstance(arm, Mapping) or set(arm) - {"overrides", "params"}:
        return [f"{where} must be {{overrides: [...], params: {{...}}}}, but is {arm!r}."]
    if not all(isinstance(text, str) for text in arm.get("overrides") or []):
        return [f"`hydra.sweeper.arms.{name}.overrides` must be a list of key=value, but is {arm['overrides']!r}."]
    return []
