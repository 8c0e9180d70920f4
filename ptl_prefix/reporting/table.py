"""A comparison's table: one row per method and settings, with its runs, statistics and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.compared_run import ComparedRun
from ptl_prefix.reporting.differing_settings import format_setting
from ptl_prefix.reporting.run_metrics import RunMetrics
from ptl_prefix.reporting.statistics import Summary, Verdict


class RowText:
    """What a row is called: its method and its settings."""

    method: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The method and its settings as text."""
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.formatted_settings.items())])

    @property
    def formatted_settings(self) -> dict[str, str]:
        """The settings as text; the method's own settings without the prefix `method.`."""
        return {key.removeprefix("method."): format_setting(value) for key, value in self.settings.items()}


@dataclass(frozen=True, kw_only=True)
class Row(RowText):
    """A method with its settings, over its seeds.

    Args:
        number: Rank in the table, from 1; row 1 is the best by the main metric.
        method: Name of the method.
        settings: Settings that distinguish this row from the others, by dotted config key.
        runs: One run per seed.
        run_metrics: Metrics of each run, in the order of `runs`.
        summaries: Mean and interval over seeds, by metric; a metric that no run has is absent.
        verdicts: Comparison with the best row, by metric.
    """

    number: int
    method: str
    settings: Mapping[str, Any]
    runs: tuple[ComparedRun, ...]
    run_metrics: tuple[RunMetrics, ...]
    summaries: Mapping[str, Summary]
    verdicts: Mapping[str, Verdict]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.record.seed for run in self.runs)

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders of the runs."""
        return tuple(run.folder.shown for run in self.runs)

    @property
    def cost(self) -> "RowCost":
        """What the runs cost."""
        records = [run.record for run in self.runs]
        peaks = [record.cost.peak_memory_bytes for record in records if record.cost.peak_memory_bytes is not None]
        sizes = [run.bundle_bytes for run in self.runs if run.bundle_bytes is not None]
        return RowCost(
            num_trainable=max(record.parameters.trained for record in records),
            num_stored=max(record.parameters.stored for record in records),
            bundle_bytes=max(sizes, default=None),
            steps=_mean([record.cost.steps for record in records]),
            tokens=_mean([record.cost.tokens for record in records]),
            tokens_per_s=_mean([record.cost.tokens_per_s for record in records]),
            peak_memory_bytes=max(peaks, default=None),
        )


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """A row's cost: the maximum over its runs for parameters, bytes and memory, the mean for everything else.

    Args:
        num_trainable: Number of trainable parameters.
        num_stored: Number of parameters that a bundle stores.
        bundle_bytes: Size of the bundle; `None` if no run has a bundle.
        steps: Optimizer steps.
        tokens: Tokens that were trained on.
        tokens_per_s: Tokens per second of training.
        peak_memory_bytes: Peak memory of training; `None` if no run measured it.
    """

    num_trainable: int
    num_stored: int
    bundle_bytes: int | None
    steps: float
    tokens: float
    tokens_per_s: float
    peak_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Comparable runs of one task and backbone.

    Args:
        task: Name of the task.
        backbone: Name of the backbone.
        rows: Rows, best by the main metric first.
        metrics: Scale and direction of each metric, by `split/name`, in the order of the columns.
        main: Metric that rows are sorted by.
        bare: Metrics of the bare backbone, without any method.
        caveats: Sentences that qualify the results.
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
