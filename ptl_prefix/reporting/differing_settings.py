"""The settings in which the runs of a table differ.

In: the records of the runs. Out: for each record, the settings in which runs differ. A method's own settings are
compared only between runs of that method: a LoRA run need not state that it has no prefix length.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.artifacts.run_record import RunRecord

_IGNORED_KEYS = {
    "run_id",
    "seed",
    "dry_run",
    "study",
    "trial",
    "resume",
    "resume_anyway",
    "outputs_url",
    "routing",
    "task.subset_seed",  # also a seed
    "method.name",  # shown in every row
    "data.cache_dir",
    "data.max_hidden_state_bytes",
    "evaluation.retention",  # a column of its own, whose version is the text
    "evaluation.retention_file",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
}
_IGNORED_GROUPS = ("tracking.", "hydra.")
"""Prefixes of settings that do not influence results."""

_BY_METHOD = ("backbone.base_mode",)
"""Settings whose default depends on the method; they are compared only between runs of one method, too."""

_ABSENT = "absent"


def differing_settings(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each record, return the settings in which records differ, by dotted key."""
    flat = [dict(leaves(record.config)) for record in records]
    keys = [key for key in dict.fromkeys(key for settings in flat for key in settings) if _may_differ(key)]
    values: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for record, settings in zip(records, flat, strict=True):
        for key in keys:
            values[_scope(key, record), key].add(repr(settings.get(key, _ABSENT)))
    return [
        {key: settings[key] for key in keys if key in settings and len(values[_scope(key, record), key]) > 1}
        for record, settings in zip(records, flat, strict=True)
    ]


def influential_settings(record: RunRecord) -> dict[str, Any]:
    """The settings that may influence a run's result, by dotted key; seeds are not among them."""
    return {key: value for key, value in leaves(record.config) if _may_differ(key)}


def format_setting(value: Any) -> str:
    """Format a value as YAML writes it; floats are shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _may_differ(key: str) -> bool:
    return key not in _IGNORED_KEYS and not key.startswith(_IGNORED_GROUPS)


def _scope(key: str, record: RunRecord) -> str:
    return record.method if key.startswith("method.") or key in _BY_METHOD else ""
