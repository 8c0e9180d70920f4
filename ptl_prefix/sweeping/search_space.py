"""What a sweep may choose from: for each override's key, a list of values or a range of numbers.

In: what was written as `choice(1,2)`, `interval(1e-5,1e-2)`, `range(1,9,2)` or `tag(log,…)`, read by the door that
knows that grammar. Out: Optuna's distributions, the number of points, the points themselves where they can be listed,
and a point as overrides again. All of it is plain data that goes into a study's file and comes back.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_LISTED = 10_000
"""Of more points than these a list would only cost time: no study has as many trials."""

Scalar = bool | int | float | str | None
Point = Mapping[str, Scalar]
"""A value for each key of a space."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Some values, none of them nearer to another.

    Args:
        values: As Optuna keeps them: numbers, words, booleans, null.
        texts: The same in the grammar of overrides.
    """

    values: Sequence[Scalar]
    texts: Sequence[str]

    def distribution(self) -> "BaseDistribution":
        """Optuna's."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(self.values))

    def listed(self) -> list[Scalar]:
        """Every value."""
        return list(self.values)

    def ends(self) -> list[str]:
        """What has to be legal for all of it to be: every text."""
        return list(self.texts)

    def text(self, value: Scalar) -> str:
        """One value in the grammar of overrides. `True` is not 1, nor 1 the same word as 1.0."""
        is_it = [text for one, text in zip(self.values, self.texts, strict=True) if one == value]
        exact = [
            text for one, text in zip(self.values, self.texts, strict=True) if one == value and type(one) is type(value)
        ]
        return (exact or is_it)[0]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A range of numbers, both ends in it.

    Args:
        low: The least.
        high: The greatest.
        step: Between neighbours; `None`: any number between, or for integers 1.
        log: Whether orders of magnitude are drawn alike.
        is_int: Whole numbers only.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    is_int: bool = False

    def distribution(self) -> "BaseDistribution":
        """Optuna's."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_int:
            step = 1 if self.log or self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def listed(self) -> list[Scalar] | None:
        """Every number, if they can be listed: there are steps, and not very many."""
        step = 1 if self.is_int and self.step is None else self.step
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MOST_LISTED:
            return None
        numbers = [self.low + index * step for index in range(count)]
        return [int(number) if self.is_int else float(number) for number in numbers]

    def ends(self) -> list[str]:
        """What has to be legal for all of it to be."""
        return list(dict.fromkeys([self.text(self.low), self.text(self.high)]))

    def text(self, value: Scalar) -> str:
        """One number in the grammar of overrides."""
        assert isinstance(value, (int, float))
        # What is counted up in steps has rounding errors of its own, which must not make another point of it.
        return str(int(value)) if self.is_int else repr(float(value if self.step is None else f"{value:.12g}"))


Dimension = Choice | Numbers


@dataclass(frozen=True)
class SearchSpace:
    """A dimension for each key.

    Args:
        dimensions: By the key of an override, such as `method.prefix_length`.
    """

    dimensions: Mapping[str, Dimension]

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna's, by key."""
        return {key: dimension.distribution() for key, dimension in self.dimensions.items()}

    @property
    def size(self) -> int | None:
        """The number of points; `None` if they cannot be listed."""
        listed = [dimension.listed() for dimension in self.dimensions.values()]
        size = math.prod(len(values) for values in listed if values is not None)
        return None if None in listed or size > MOST_LISTED else size

    def points(self) -> Iterator[Point]:
        """Every point, the last key's values changing fastest; nothing if they cannot be listed."""
        if self.size is None:
            return
        listed = [dimension.listed() for dimension in self.dimensions.values()]
        for values in itertools.product(*(values for values in listed if values is not None)):
            yield dict(zip(self.dimensions, values, strict=True))

    def overrides(self, point: Point) -> tuple[str, ...]:
        """A point as `key=value`, in the order of the space."""
        return tuple(f"{key}={dimension.text(point[key])}" for key, dimension in self.dimensions.items())

    def as_document(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            key: {"choice": list(one.values), "texts": list(one.texts)}
            if isinstance(one, Choice)
            else {"low": one.low, "high": one.high, "step": one.step, "log": one.log, "is_int": one.is_int}
            for key, one in self.dimensions.items()
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SearchSpace":
        """What `as_document` gave."""
        return cls(
            {
                key: Choice(values=one["choice"], texts=one["texts"]) if "choice" in one else Numbers(**one)
                for key, one in document.items()
            }
        )
