"""Studies without trainings: a scheduler over a real journal, whose jobs are ended by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.pruners import NoPruner, Pruner
from ptl_prefix.sweeping.result_cache import ResultCache
from ptl_prefix.sweeping.samplers import Exhaustive, Sampler
from ptl_prefix.sweeping.scheduler import Freeze, Job, Outcome, Scheduler
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.study_spec import Arm, Budget, StudySpec
from ptl_prefix.sweeping.trial_store import TrialStore

LENGTHS = SearchSpace({"method.prefix_length": Numbers(low=1, high=8, is_int=True)})
RATES = SearchSpace({"optimizer.lr": Numbers(low=1e-4, high=1e-2, log=True)})
WORDS = SearchSpace({"method.reparam": Choice(values=["none", "mlp"], texts=["none", "mlp"])})


def spec(**changes: Any) -> StudySpec:
    """A small one: eight lengths, in an order that is drawn."""
    arms = changes.pop("arms", [Arm(name="", overrides=(), space=changes.pop("space", LENGTHS))])
    values: dict[str, Any] = {
        "name": "small",
        "token": "abc123",
        "config_name": "train",
        "overrides": ["task.num_train=8"],
        "arms": arms,
        "direction": "minimize",
        "objective": "val/loss",
        "budget": Budget(trials=4),
        "confirmation": None,
        "sampler": {},
        "pruner": {},
        "max_failure_rate": 0.5,
        "workers": 1,
        "threads": None,
        "devices": [],
        "warm": True,
        "reuse": False,
        "code": "",
    }
    return StudySpec(**{**values, **changes})


def freeze(overrides: Sequence[str]) -> dict[str, Any]:
    """What composition would do, as far as a scheduler looks into it."""
    settings = dict(text.split("=", 1) for text in overrides)
    return {"settings": settings, "trainer": {"max_steps": 90}, "tracking": {"group": None}}


def freeze_or_clash(overrides: Sequence[str]) -> dict[str, Any]:
    """The same, where one of `WORDS` does not go with the rest."""
    if "method.reparam=mlp" in overrides:
        raise ConfigError(["`a` and `b` clash."])
    return freeze(overrides)


def scheduler(
    folder: Path,
    asked: StudySpec,
    *,
    sampler: Sampler | None = None,
    pruner: Pruner | None = None,
    known: ResultCache | None = None,
    freeze: Freeze = freeze,
) -> Scheduler:
    """One worker's view of a study; another's is another call with the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    store = TrialStore(folder, asked, StudyStorage(folder, None))
    pruner = pruner or NoPruner()
    points = Proposer(store, sampler or Exhaustive(seed=0), pruner, 90)
    return Scheduler(store, points, pruner, freeze, known)


def job_of(one: Scheduler) -> Job:
    """The next job, where there must be one."""
    job = one.next()
    assert isinstance(job, Job), job
    return job


def finish(one: Scheduler, job: Job, value: float, **notes: Any) -> None:
    """End a job well."""
    one.close(job, Outcome("finished", value=value, notes=notes))


def run_all(one: Scheduler, values: Mapping[tuple[str, ...], float] | None = None) -> list[Job]:
    """End every job well; a point's value is its place unless it is given."""
    jobs = []
    while isinstance(job := one.next(), Job):
        jobs.append(job)
        finish(one, job, (values or {}).get(job.trial.overrides, float(len(jobs))), train_s=10.0, tokens=100)
    return jobs
