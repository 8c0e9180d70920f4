"""The settings of a sweep: `hydra.sweeper`, with the keys that the stock plugin has, and some more."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from ptl_prefix.artifacts.run_folder import is_name
from ptl_prefix.settings import settings_from
from ptl_prefix.sweeping.storage import without_password
from ptl_prefix.sweeping.study_spec import Direction

Count = Annotated[int, Ge(1)]


class SweeperSettings:
    """See `conf/hydra/sweeper/optuna.yaml`, which says what each key is.

    Args:
        direction: Whether a smaller or a larger objective is better.
        objective: Metric of a run's record that is optimised, such as `val/loss` or `test/bleu`.
        n_trials: Number of trials of each arm that finish or are pruned; `None` sets no limit.
        budget_s: Seconds of training of each arm, added up over its trials; `None` sets no limit.
        budget_tokens: Tokens trained on in each arm, added up over its trials; `None` sets no limit.
        n_jobs: Number of trials at once on this machine.
        threads: CPU threads of each trial; `None` divides the machine's among the trials.
        devices: Indices of accelerators, one for each trial in turn; empty lets every trial see all of them.
        study_name: Name of the study and of its folder in `outputs/sweeps/`; `None` is the time.
        storage: Optuna storage: `sqlite:///PATH` or `postgresql://...`; `None` is a journal in the study's folder.
        max_failure_rate: Share of failed trials above which an arm is given up.
        params: Search space: a mapping of settings to `choice(...)`, `interval(...)`, `range(...)` or `tag(log, ...)`.
        arms: Searches side by side, each with the whole budget: a mapping of names to `overrides` and `params`.
        confirm_top_k: Number of best trials of each arm that are repeated on `confirm_seeds`; 0 repeats none.
        confirm_seeds: Seeds of the repeated trials.
        sampler: Optuna sampler that proposes hyper-parameters; chosen with `hydra/sweeper/sampler=`.
        pruner: Pruner that stops trials early; chosen with `hydra/sweeper/pruner=`.
        warm: Whether trials are forked from a process that has already imported everything.
        reuse: Whether the result of an earlier trial with the same config, code and data is reused.
    """

    @settings_from("hydra/sweeper/optuna")
    def __init__(
        self,
        *,
        direction: Direction,
        objective: str,
        n_trials: Count | None,
        budget_s: Annotated[float, Gt(0)] | None,
        budget_tokens: Annotated[float, Gt(0)] | None,
        n_jobs: Count,
        threads: Count | None,
        devices: Sequence[Annotated[int, Ge(0)]],
        study_name: str | None,
        storage: str | None,
        max_failure_rate: Annotated[float, Ge(0), Le(1)],
        params: Mapping[str, Any],
        arms: Mapping[str, Any],
        confirm_top_k: Annotated[int, Ge(0)],
        confirm_seeds: Sequence[Annotated[int, Ge(0)]],
        sampler: Any,
        pruner: Any,
        warm: bool,
        reuse: bool,
    ) -> None:
        self.direction: Direction = direction
        self.objective = objective
        self.n_trials, self.budget_s, self.budget_tokens = n_trials, budget_s, budget_tokens
        self.n_jobs, self.threads, self.devices = n_jobs, threads, devices
        self.study_name, self.storage = study_name, storage
        self.max_failure_rate = max_failure_rate
        self.params, self.arms = params, arms
        self.confirm_top_k, self.confirm_seeds = confirm_top_k, confirm_seeds
        self.sampler, self.pruner = sampler, pruner
        self.warm, self.reuse = warm, reuse

    def problems(self) -> list[str]:
        """What no single setting shows."""
        problems = []
        if self.study_name is not None and not is_name(self.study_name):
            problems.append(
                f"`hydra.sweeper.study_name` must be a folder's name of the characters A-Z a-z 0-9 . _ -, "
                f"but is {self.study_name!r}."
            )
        scheme = (self.storage or "sqlite:").partition(":")[0]
        if scheme not in ("sqlite", "postgresql"):
            problems.append(
                f"`hydra.sweeper.storage` must be null, sqlite:///PATH or postgresql://..., but is "
                f"{without_password(str(self.storage))!r}."
            )
        if scheme == "postgresql" and importlib.util.find_spec("psycopg") is None:
            problems.append("PostgreSQL needs psycopg, which is not installed; run pip install 'ptl-prefix[postgres]'.")
        for name, arm in self.arms.items():
            problems += _arm_problems(name, arm)
        if self.arms and self.params:
            problems.append("`hydra.sweeper.params` must be empty beside `arms`, which have params of their own.")
        if self.confirm_top_k and not self.confirm_seeds:
            problems.append("`hydra.sweeper.confirm_seeds` must name at least one seed for `confirm_top_k`.")
        return problems


def _arm_problems(name: str, arm: Any) -> list[str]:
    where = f"`hydra.sweeper.arms.{name}`"
    if not is_name(name) or name == "confirm":
        return [f"{where} must have a name that can be a folder's, and not be `confirm`."]
    if not isinstance(arm, Mapping) or set(arm) - {"overrides", "params"}:
        return [f"{where} must be {{overrides: [...], params: {{...}}}}, but is {arm!r}."]
    if not all(isinstance(text, str) for text in arm.get("overrides") or []):
        return [f"{where}.overrides must be a list of key=value."]
    return []
