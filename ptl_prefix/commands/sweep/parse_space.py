"""Parses an override with several values into a dimension of a search space, with Hydra's grammar.

In: `key=choice(...)`, `key=interval(...)`, `key=range(...)`, each also tagged `log`, `key=a,b` or `key=glob(*)`. Out: a
`Dimension`, or a sentence that says why the override cannot be searched.
"""

import math
from collections import Counter
from collections.abc import Sequence

from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
)

from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted
from ptl_prefix.commands.config.override_errors import parsed_override
from ptl_prefix.sweeping.search_space import Choice, Dimension, Numbers, Scalar

_NOT_SEARCHABLE = ("run_id", "study", "trial", "resume", "resume_anyway", "dry_run", "sweeps", "outputs_url")
"""Keys that identify a run, or that a study sets itself."""


_SAME_FOR_ALL = ("training.validation_examples",)
"""Settings that decide on which examples the trials are ranked."""


def is_swept(text: str) -> bool:
    """Whether an override has several values."""
    parsed = parsed_override(text)
    return parsed is not None and parsed.is_sweep_override()


def parse_dimension(text: str, mistakes: list[str], config_dir: str | None = None) -> tuple[str, Dimension | None]:
    """The key of an override with several values, and their dimension; `None` after a mistake.

    Args:
        text: The override.
        mistakes: A sentence is added if the override cannot be searched.
        config_dir: The user's own folder of configs; `None` without one.
    """
    parsed = parsed_override(text)
    assert parsed is not None
    key = parsed.key_or_group
    value: object = parsed._value
    try:
        if parsed.is_delete() or key in _NOT_SEARCHABLE or key.startswith("hydra"):
            mistakes.append(f"`{key}` is not a setting of a trial, so a study cannot search it.")
            return key, None
        if key in _SAME_FOR_ALL:
            mistakes.append(
                f"`{key}` must be the same for all trials of a study, as losses of other examples cannot be compared, "
                "but is searched; give it one value."
            )
            return key, None
        if isinstance(value, IntervalSweep):
            return key, _interval(value)
        if isinstance(value, Glob):
            names = value.filter([choice.name for choice in catalog.choices(key, config_dir)])
            return key, _choice(names, names, text)
        assert isinstance(value, (ChoiceSweep, RangeSweep))
        if value.shuffle:
            raise ValueError(
                "shuffle is not supported in a study; leave it out and add hydra/sweeper/sampler=exhaustive."
            )
        if isinstance(value, RangeSweep):
            return key, _range(value, text)
        return key, _listed(parsed, value, text)
    except ValueError as error:
        mistakes.append(f"`{key}`: {error}")
        return key, None


def as_choice(text: str, config_dir: str | None = None) -> str:
    """The override with the values to check as a list; unchanged if it cannot be searched."""
    key, dimension = parse_dimension(text, [], config_dir)
    return text if dimension is None else f"{key}=choice({','.join(dimension.ends())})"


def _is_log(value: IntervalSweep | ChoiceSweep | RangeSweep) -> bool:
    if unknown := value.tags - {"log"}:
        raise ValueError(f"the only tag is log, but the tag is {', '.join(sorted(unknown))}.")
    return bool(value.tags)


def _interval(value: IntervalSweep) -> Numbers:
    assert value.start is not None and value.end is not None
    is_int = isinstance(value.start, int) and isinstance(value.end, int)
    return _numbers(value.start, value.end, None, _is_log(value), is_int)


def _range(value: RangeSweep, text: str) -> Numbers:
    assert value.stop is not None
    # Hydra sums floats up. The end is not part of a range, but a sum may come out just below it by a rounding error.
    numbers = [one for one in value.range() if abs(value.stop - one) > 1e-9 * abs(value.step)]
    if not numbers:
        raise ValueError(f"a range must have at least one number, but {text} is empty.")
    is_int = all(isinstance(number, int) for number in numbers)
    is_log = _is_log(value)
    if is_log and not (is_int and abs(value.step) == 1):
        raise ValueError("log cannot be combined with the steps of a range; write an interval.")
    # Sums of floats may miss the last step by a rounding error, and Optuna would then leave it out.
    low, high = (one if is_int else float(f"{one:.12g}") for one in (min(numbers), max(numbers)))
    return _numbers(low, high, None if is_log else abs(value.step), is_log, is_int)


def _numbers(low: float, high: float, step: float | None, log: bool, is_int: bool) -> Numbers:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a range must have finite ends, but they are {low} and {high}.")
    if low > high:
        raise ValueError(f"a range must not start above its end, but goes from {low} to {high}.")
    if log and low <= 0:
        raise ValueError(f"log needs numbers above 0, but the smallest is {low}.")
    return Numbers(low=low, high=high, step=step, log=log, is_int=is_int)


def _listed(parsed: Override, value: ChoiceSweep, text: str) -> Choice:
    if _is_log(value):
        raise ValueError("log must tag interval(...) or range(...), but tags a list of values.")
    listed = [*parsed.sweep_iterator()]
    return _choice([_scalar(one) for one in listed], [_text(one) for one in listed], text)


def _text(value: object) -> str:
    """One value as it is written in an override. Hydra's own text loses quotes, which turns '1' into a number."""
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(Override._get_value_element_as_str(value))  # type: ignore[arg-type]
    parsed = parsed_override(f"key={value}")
    is_itself = parsed is not None and not parsed.is_sweep_override() and parsed.value() == value
    return value if is_itself else quoted(value)


def _scalar(value: object) -> Scalar:
    """One value as Optuna stores it; a list or dictionary becomes its text."""
    if isinstance(value, QuotedString):
        return str(value.text)
    return value if isinstance(value, (bool, int, float, str)) or value is None else _text(value)


def _choice(values: Sequence[Scalar], texts: Sequence[str], text: str) -> Choice:
    if not values:
        raise ValueError(f"there must be at least one value, but {text} matches none.")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError(f"numbers must be finite, but {text} has one that is not.")
    # Optuna treats 1, 1.0 and true as the same value, and would return the first for all of them.
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        same = " and ".join(one for one, value in zip(texts, values, strict=True) if value == repeated[0])
        raise ValueError(f"the values must differ, but {same} are the same.")
    return Choice(values=values, texts=texts)
