"""The search space of an arm: for each config key, a list of values or a range of numbers.

In: parsed `choice(1,2)`, `interval(1e-5,1e-2)`, `range(1,9,2)` or `tag(log,…)` (see `commands/sweep/parse_space.py`).
Out: Optuna's distributions, the number of points, the points themselves where they can be listed, and the overrides of
a point. A search space is plain data, which `study.yaml` stores.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MAX_LISTED = 10_000
"""The most points that are listed; no study has as many trials."""

Scalar = bool | int | float | str | None
Point = Mapping[str, Scalar]
"""A value for each key of a space."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A list of values without an order.

    Args:
        values: The values as Optuna stores them: numbers, strings, booleans, `None`.
        texts: The same values as they are written in overrides.
    """

    values: Sequence[Scalar]
    texts: Sequence[str]

    def distribution(self) -> "BaseDistribution":
        """Optuna's categorical distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(self.values))

    def listed(self) -> list[Scalar]:
        """Every value."""
        return list(self.values)

    def ends(self) -> list[str]:
        """The texts to check so that every value is checked: all of them."""
        return list(self.texts)

    def text(self, value: Scalar) -> str:
        """A value as it is written in an override. `True` is not written as 1, nor 1 as 1.0."""
        equal = [text for one, text in zip(self.values, self.texts, strict=True) if one == value]
        exact = [
            text for one, text in zip(self.values, self.texts, strict=True) if one == value and type(one) is type(value)
        ]
        return (exact or equal)[0]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A range of numbers, including both ends.

    Args:
        low: The smallest number.
        high: The greatest number.
        step: Distance between neighbours; `None` is 1 for integers, and a continuous range otherwise.
        log: Whether the logarithm is sampled uniformly.
        is_int: Whether the numbers are integers.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    is_int: bool = False

    def distribution(self) -> "BaseDistribution":
        """Optuna's integer or float distribution."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_int:
            step = 1 if self.log or self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def listed(self) -> list[Scalar] | None:
        """Every number; `None` if the range is continuous or has more than `MAX_LISTED` numbers."""
        step = 1 if self.is_int and self.step is None else self.step
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if count > MAX_LISTED:
            return None
        numbers = [self.low + index * step for index in range(count)]
        return [int(number) if self.is_int else float(number) for number in numbers]

    def ends(self) -> list[str]:
        """The texts to check so that every number is checked: both ends."""
        return list(dict.fromkeys([self.text(self.low), self.text(self.high)]))

    def text(self, value: Scalar) -> str:
        """A number as it is written in an override."""
        assert isinstance(value, (int, float))
        # A multiple of the step has a rounding error, which must not make it a different point.
        return str(int(value)) if self.is_int else repr(float(value if self.step is None else f"{value:.12g}"))


Dimension = Choice | Numbers


@dataclass(frozen=True)
class SearchSpace:
    """A dimension for each searched key.

    Args:
        dimensions: Dimensions by config key, such as `method.prefix_length`.
    """

    dimensions: Mapping[str, Dimension]

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna's distributions by key."""
        return {key: dimension.distribution() for key, dimension in self.dimensions.items()}

    @property
    def size(self) -> int | None:
        """The number of points; `None` if they cannot be listed."""
        listed = [dimension.listed() for dimension in self.dimensions.values()]
        size = math.prod(len(values) for values in listed if values is not None)
        return None if None in listed or size > MAX_LISTED else size

    def points(self) -> Iterator[Point]:
        """Every point, with the last key's values changing fastest; no point if they cannot be listed."""
        if self.size is None:
            return
        listed = [dimension.listed() for dimension in self.dimensions.values()]
        for values in itertools.product(*(values for values in listed if values is not None)):
            yield dict(zip(self.dimensions, values, strict=True))

    def overrides(self, point: Point) -> tuple[str, ...]:
        """A point as `key=value` overrides, in the order of the keys."""
        return tuple(f"{key}={dimension.text(point[key])}" for key, dimension in self.dimensions.items())

    def as_document(self) -> dict[str, Any]:
        """The space as plain values for `study.yaml`."""
        return {
            key: {"choice": list(one.values), "texts": list(one.texts)}
            if isinstance(one, Choice)
            else {"low": one.low, "high": one.high, "step": one.step, "log": one.log, "is_int": one.is_int}
            for key, one in self.dimensions.items()
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SearchSpace":
        """The space that `as_document` wrote."""
        return cls(
            {
                key: Choice(values=one["choice"], texts=one["texts"]) if "choice" in one else Numbers(**one)
                for key, one in document.items()
            }
        )
