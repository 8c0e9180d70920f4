"""Resolvers that a config may use in `${...}`: `run_id`, `study` and `label`.

In: the argument in the YAML. Out: a valid name of a folder.
"""

import os
import secrets
from datetime import UTC, datetime
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.resolvers.oc import env

from ptl_prefix.artifacts.run_folder import as_name

_SHORTEST_SECRET = 6
_run_ids: dict[int | None, str] = {}


_read_variables: dict[str, str] = {}
"""Values of environment variables that configs have read."""


def register_resolvers() -> None:
    """Register `${run_id:}`, `${study:<name>}` and `${label:<path>}`, and watch what `${oc.env:<name>}` reads."""
    OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)
    OmegaConf.register_new_resolver("run_id", _run_id, replace=True)
    OmegaConf.register_new_resolver("study", _study_folder, replace=True)
    OmegaConf.register_new_resolver("label", lambda path: as_name(str(path)), replace=True)


def hide_variables(text: str) -> str:
    """The text with every value that a config has read by `${oc.env:NAME}` replaced by that: it may be a secret."""
    for name, value in sorted(_read_variables.items(), key=lambda item: -len(item[1])):
        for written in dict.fromkeys((value, repr(value)[1:-1])):
            if len(written) >= _SHORTEST_SECRET:
                text = text.replace(written, f"${{oc.env:{name}}}")
            else:  # inside other words it would be replaced by accident
                text = text.replace(f"'{written}'", f"${{oc.env:{name}}}") if written else text
    return text


def _read_variable(name: str, *default: Any) -> Any:
    value = env(name, *default)
    if name in os.environ:
        _read_variables[name] = os.environ[name]
    return value


def forget_run_ids() -> None:
    """Forget the ids of this process: the next config is of another run."""
    _run_ids.clear()


def _study_folder(name: str | None) -> str:
    """The name of a study, or the time, which stays the same within a command."""
    if name is None and -1 not in _run_ids:
        _run_ids[-1] = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return name or _run_ids[-1]


def _run_id() -> str:
    """The time and a random part; stays the same within a job.

    OmegaConf's own cache does not suffice: the config of a job is composed several times, each time with a new cache,
    and the jobs of a sweep share the cache of their parent.
    """
    job = _job_number()
    if job not in _run_ids:
        _run_ids[job] = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return _run_ids[job]


def _job_number() -> int | None:
    """Number of the job in a sweep; `None` outside of a sweep."""
    if not HydraConfig.initialized():
        return None
    job = HydraConfig.get().job
    return None if OmegaConf.is_missing(job, "num") else int(job.num)
