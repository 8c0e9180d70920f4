"""The words that a config may use in `${...}`: `run_id`, `study` and `label`.

In: what stands in the YAML. Out: a name that is fit for a folder.
"""

import secrets
from datetime import UTC, datetime

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ptl_prefix.artifacts.run_folder import as_name

_run_ids: dict[int | None, str] = {}


def register_resolvers() -> None:
    """Make `${run_id:}`, `${study:<name>}` and `${label:<path>}` known."""
    OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
    OmegaConf.register_new_resolver("study", _study_folder, replace=True)
    OmegaConf.register_new_resolver("label", lambda path: as_name(str(path)), replace=True)


def forget_run_ids() -> None:
    """Start anew: what follows is another run."""
    _run_ids.clear()


def _study_folder(name: str | None) -> str:
    """A study's name, or the time; that one is always the same within a command, as a run's id is."""
    if name is None and -1 not in _run_ids:
        _run_ids[-1] = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return name or _run_ids[-1]


def _run_id() -> str:
    """The time and a random part; always the same within a job.

    OmegaConf's own cache would not do: a config is composed several times on the way to a job, each time with a new
    cache, and the jobs of a sweep share the cache of their parent.
    """
    job = _job_number()
    if job not in _run_ids:
        _run_ids[job] = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return _run_ids[job]


def _job_number() -> int | None:
    """The job's place in a sweep; `None` outside of one."""
    if not HydraConfig.initialized():
        return None
    job = HydraConfig.get().job
    return None if OmegaConf.is_missing(job, "num") else int(job.num)
