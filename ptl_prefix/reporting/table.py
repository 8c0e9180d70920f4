"""A comparison's table: one row for each method and its settings, with its runs, statistics and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.differing_settings import format_setting
from ptl_prefix.reporting.run_metrics import RunMetrics
from ptl_prefix.reporting.statistics import Summary, Verdict


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method with its settings, over its seeds.

    Args:
        number: Its place in the table, from 1; the best by the main metric comes first.
        method: The method's name.
        settings: What tells it from the other rows, by the keys of its config.
        runs: One for each seed.
        numbers: What was measured, in the order of the runs.
        summaries: By metric; one that no run has is absent.
        verdicts: By metric; beside the other rows of the table.
    """

    number: int
    method: str
    settings: Mapping[str, Any]
    runs: tuple[ComparedRun, ...]
    numbers: tuple[RunMetrics, ...]
    summaries: Mapping[str, Summary]
    verdicts: Mapping[str, Verdict]

    @property
    def label(self) -> str:
        """The method and its settings, as a person would say them."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.formatted_settings.items())])

    @property
    def formatted_settings(self) -> dict[str, str]:
        """The settings as text; those of the method without their group."""
        return {key.removeprefix("method."): format_setting(value) for key, value in self.settings.items()}

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(run.record.seed for run in self.runs)

    @property
    def cost(self) -> "RowCost":
        """What it takes."""
        records = [run.record for run in self.runs]
        peaks = [record.cost.peak_memory_bytes for record in records if record.cost.peak_memory_bytes is not None]
        sizes = [run.bundle_bytes for run in self.runs if run.bundle_bytes is not None]
        return RowCost(
            trained=max(record.parameters.trained for record in records),
            stored=max(record.parameters.stored for record in records),
            bundle_bytes=max(sizes, default=None),
            steps=_mean([record.cost.steps for record in records]),
            tokens=_mean([record.cost.tokens for record in records]),
            tokens_per_s=_mean([record.cost.tokens_per_s for record in records]),
            peak_memory_bytes=max(peaks, default=None),
        )


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """What a row takes: of its runs the most numbers, bytes and memory; of the rest the mean."""

    trained: int
    stored: int
    bundle_bytes: int | None
    steps: float
    tokens: float
    tokens_per_s: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """What may stand side by side.

    Args:
        task: The task's name.
        backbone: The backbone's name.
        rows: The best by the main metric first.
        metrics: What the numbers mean, by `split/name`, in the order of the columns.
        main: The metric that rows are ordered by.
        bare: The backbone's own numbers without any method.
        caveats: What must be said of the table, a sentence each.
    """

    task: str
    backbone: str
    rows: tuple[Row, ...]
    metrics: Mapping[str, MetricInfo]
    main: str
    bare: Mapping[str, float]
    caveats: tuple[str, ...]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
