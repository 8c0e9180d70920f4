"""Whether a comparison can use what a record holds.

In: a record that was read, so that its fields have the stated types. Out: the reason why a run is left out, or `None`.
`config` and `environment` are open: any program may have written into them, and one wrong value must not end the
comparison of all other runs.
"""

from collections.abc import Iterator, Mapping

from ptl_prefix.artifacts.evaluation_record import EvaluationRecord
from ptl_prefix.artifacts.run_record import RunRecord

_LARGEST = 1e100
"""Larger numbers are no measurements, and sums of them are not finite."""


def why_unusable(record: RunRecord) -> str | None:
    """The reason why a run is left out, as the predicate of a sentence; `None` if it can be compared."""
    fact = next(_wrong_values(record), None)
    return None if fact is None else f"has a record that cannot be compared: {fact}"


def is_usable(record: EvaluationRecord) -> bool:
    """Whether the numbers of an evaluation can be compared."""
    return not any(_immoderate(record.metrics))


def _wrong_values(record: RunRecord) -> Iterator[str]:
    config, environment = record.config, record.environment
    groups = {f"config.{key}": config.get(key, {}) for key in ("task", "evaluation", "method")}
    groups |= {f"environment.{key}": environment.get(key) or {} for key in ("git", "libraries")}
    for name, value in groups.items():
        if not isinstance(value, Mapping):
            yield f"`{name}` must be a mapping, but is {value!r:.40}"
    if not isinstance(devices := environment.get("devices") or [], list):
        yield f"`environment.devices` must be a list, but is {devices!r:.40}"
    # Only reached where the groups are mappings: the first fact ends the search.
    for group, key in (("task", "subset_seed"), ("evaluation", "num_examples")):
        value = config.get(group, {}).get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or abs(value) > _LARGEST):
            yield f"`config.{group}.{key}` must be an integer or null, but is {value!r:.40}"
    yield from _immoderate({**record.metrics, "seed": record.seed, "cost.tokens_per_s": record.cost.tokens_per_s})


def _immoderate(numbers: Mapping[str, float]) -> Iterator[str]:
    for name, number in numbers.items():
        if not abs(number) <= _LARGEST:
            yield f"`{name}` must be at most {_LARGEST:g}, but is {number!s:.20}"
