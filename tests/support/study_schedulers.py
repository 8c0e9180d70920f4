"""Schedulers of small studies over real journals. The tests end the jobs themselves, so nothing is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.job import Job, Outcome
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.pruners import NoPruner, Pruner
from ptl_prefix.sweeping.result_cache import ResultCache
from ptl_prefix.sweeping.samplers import Exhaustive, Sampler
from ptl_prefix.sweeping.scheduler import ComposeConfig, Scheduler
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.study_spec import Arm, StudySpec
from ptl_prefix.sweeping.trial_store import TrialStore

LENGTHS = SearchSpace({"method.prefix_length": Numbers(low=1, high=8, is_int=True)})
RATES = SearchSpace({"optimizer.lr": Numbers(low=1e-4, high=1e-2, log=True)})
WORDS = SearchSpace({"method.reparam": Choice(values=["none", "mlp"], texts=["none", "mlp"])})


def spec(**changes: Any) -> StudySpec:
    """The specification of a small study over eight prefix lengths, in random order."""
    arms = changes.pop("arms", [Arm(name="", overrides=(), space=changes.pop("space", LENGTHS))])
    values: dict[str, Any] = {
        "name": "small",
        "token": "abc123",
        "config_name": "train",
        "overrides": ["task.num_train=8"],
        "arms": arms,
        "direction": "minimize",
        "objective": "val/loss",
        "n_trials": 4,
        "budget_s": None,
        "budget_tokens": None,
        "confirm_top_k": 0,
        "confirm_seeds": [],
        "confirm_overrides": [],
        "sampler": {},
        "pruner": {},
        "max_failure_rate": 0.5,
        "n_jobs": 1,
        "pack": 1,
        "threads": None,
        "devices": [],
        "executor": "local",
        "num_cpus": None,
        "num_gpus": None,
        "ray_address": "auto",
        "warm": True,
        "reuse": False,
        "code": "",
    }
    return StudySpec(**{**values, **changes})


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The parts of a config that a scheduler reads."""
    settings = dict(text.split("=", 1) for text in overrides)
    return {"settings": settings, "trainer": {"max_steps": 90}, "tracking": {"group": None}}


def compose_or_raise(overrides: Sequence[str]) -> dict[str, Any]:
    """The same, but one of `WORDS` contradicts other settings."""
    if "method.reparam=mlp" in overrides:
        raise ConfigError(["`a` and `b` clash."])
    return compose(overrides)


def make_store(folder: Path, study: StudySpec, liveness: Liveness | None = None) -> TrialStore:
    """The trials of a study, in a journal in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return TrialStore(folder, study, StudyStorage(folder, None), liveness)


def make_scheduler(
    folder: Path,
    study: StudySpec,
    *,
    sampler: Sampler | None = None,
    pruner: Pruner | None = None,
    cache: ResultCache | None = None,
    compose: ComposeConfig = compose,
    liveness: Liveness | None = None,
) -> Scheduler:
    """The scheduler of one worker; another worker of the study has its own, made with the same folder."""
    store, pruner = make_store(folder, study, liveness), pruner or NoPruner()
    proposer = Proposer(store, sampler or Exhaustive(seed=0), pruner, 90)
    return Scheduler(store, proposer, pruner, compose, cache)


def next_job(scheduler: Scheduler) -> Job:
    """The next job; there must be one."""
    job = scheduler.next_job()
    assert isinstance(job, Job), job
    return job


def finish(scheduler: Scheduler, job: Job, value: float, **notes: Any) -> None:
    """Close a job as finished."""
    scheduler.close(job, Outcome("finished", value=value, notes=notes))


def run_all(scheduler: Scheduler, values: Mapping[tuple[str, ...], float] | None = None) -> list[Job]:
    """Close every job as finished; its objective is its index unless `values` has one for its overrides."""
    jobs = []
    while isinstance(job := scheduler.next_job(), Job):
        jobs.append(job)
        finish(scheduler, job, (values or {}).get(job.trial.overrides, float(len(jobs))), train_s=10.0, tokens=100)
    return jobs
