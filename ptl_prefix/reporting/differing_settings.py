"""What tells the rows of a table apart.

In: the records of its runs. Out: for each the settings in which they differ. A method's own settings are compared with
those of its namesakes alone: that LoRA has no prefix length is no difference worth a column.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.artifacts.run_record import RunRecord

_NO_DIFFERENCE = {
    "run_id",
    "seed",
    "dry_run",
    "study",
    "trial",
    "resume",
    "task.subset_seed",  # a seed, too
    "method.name",  # the row says it
    "data.cache_dir",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
}
_NO_DIFFERENT_GROUPS = ("tracking.", "hydra.")
"""Groups that say who looks on, not what is done."""

_BY_METHOD = ("backbone.base_mode",)
"""Settings that are the method's where a run chooses none: compared among its namesakes, too."""

_ABSENT = "absent"


def differing_settings(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each record, those of its settings that not all have alike, by dotted key."""
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


def spoken(value: Any) -> str:
    """A setting's value as a config writes it, short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _may_differ(key: str) -> bool:
    return key not in _NO_DIFFERENCE and not key.startswith(_NO_DIFFERENT_GROUPS)


def _scope(key: str, record: RunRecord) -> str:
    return record.method if key.startswith("method.") or key in _BY_METHOD else ""
