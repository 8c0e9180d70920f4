"""What a metric is, and where it is found.

In: hypotheses and their references. Out: one number. A metric is one file in `metrics/`; its name is the file's.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation import metrics


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One output beside what it is measured against.

    Args:
        example_id: The example's id in its split.
        source: The rendered source.
        references: Every acceptable target.
        hypothesis: What was generated.
        values: What a faithful output mentions word for word; may be empty.
    """

    example_id: str
    source: str
    references: tuple[str, ...]
    hypothesis: str
    values: tuple[str, ...] = ()


class Metric(ABC):
    """A number for a list of outputs."""

    info: ClassVar[MetricInfo]
    """Its scale, direction, version and library, recorded with every value."""

    @abstractmethod
    def score(self, outputs: Sequence[Scored]) -> float:
        """The number for these outputs; there is at least one."""


def metric_named(name: str) -> Metric:
    """The metric that `metrics/<name>.py` defines.

    Raises:
        ValueError: Naming those that there are.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))
    if name not in known:
        raise ValueError(f"A metric must be one of {', '.join(known)}, but is '{name}'.")
    module = importlib.import_module(f"{metrics.__name__}.{name}")
    (metric,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Metric) and member.__module__ == module.__name__
    )
    found: Metric = metric()
    return found
