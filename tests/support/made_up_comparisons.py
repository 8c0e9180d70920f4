"""Builds records of comparisons from numbers, without a run."""

from collections.abc import Mapping
from typing import Any

from support.made_up_runs import BLEU, ENVIRONMENT, GREEDY, LOSS

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.comparison_record import ComparisonRecord, RowRecord, SeedRecord, TableRecord
from ptl_prefix.reporting.statistics import Verdict, summarize
from ptl_prefix.reporting.table import RowCost

RETENTION = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")
METRICS = {"test/bleu": BLEU, "val/loss": LOSS, "retention/lambada": RETENTION}
PREFIX, LORA = {"method.prefix_length": 10}, {"method.rank": 4}


def made_up_row(
    method: str,
    bleu: Mapping[int, float],
    *,
    settings: Mapping[str, Any] = PREFIX,
    stored: int = 100,
    bundle_bytes: int | None = 5_000,
    speed: Mapping[int, float] | None = None,
    more: Mapping[str, Mapping[int, float]] | None = None,
    phase: str | None = None,
) -> RowRecord:
    """A row with one value of BLEU for each seed; `more` are other metrics, `speed` the tokens per second."""
    values = {"test/bleu": bleu, **(more or {})}
    environment = ENVIRONMENT if speed else {}
    runs = tuple(
        SeedRecord(
            path=f"runs/{method}/{seed}",
            seed=seed,
            subset_seed=0 if settings.get("task.num_train_examples") else None,
            metrics={name: by_seed[seed] for name, by_seed in values.items() if seed in by_seed},
            num_trainable=stored,
            num_stored=stored,
            bundle_bytes=bundle_bytes,
            train_s=10.0,
            steps=40,
            tokens=4_000,
            tokens_per_s=(speed or {}).get(seed, 400.0),
            peak_memory_bytes=None,
            environment=dict(environment),
        )
        for seed in bleu
    )
    summaries = {name: summarize(list(by_seed.values())) for name, by_seed in values.items()}
    cost = RowCost(
        num_trainable=stored,
        num_stored=stored,
        bundle_bytes=bundle_bytes,
        steps=40.0,
        tokens=4_000.0,
        tokens_per_s=400.0,
        peak_memory_bytes=None,
    )
    return RowRecord(
        number=1,
        method=method,
        settings={**settings, **({} if phase is None else {"phase": phase})},
        config={"optimizer.lr": None, "backbone.name": "tiny", **settings},
        runs=runs,
        summaries=summaries,
        verdicts={name: Verdict("unknown") for name in values},
        cost=cost,
        command=f"ptl-prefix train method={method}",
    )


def made_up_table(*rows: RowRecord, backbone: str = "tiny", parameters: int = 10**6, **changes: Any) -> TableRecord:
    """A table of rows, numbered in their order."""
    numbered = tuple(_replaced(row, number=number) for number, row in enumerate(rows, start=1))
    found: dict[str, Any] = {
        "task": "towns",
        "task_version": "1",
        "backbone": backbone,
        "backbone_parameters": parameters,
        "weights": "a" * 64,
        "tokenizer": "b" * 64,
        "decoding": GREEDY,
        "num_inputs": 3,
        "inputs": "set 01234567",
        "main": "test/bleu",
        "metrics": METRICS,
        "bare": {"test/bleu": 5.0},
        "caveats": (),
        "rows": numbered,
    }
    return TableRecord(**{**found, **changes})


def made_up_comparison(*tables: TableRecord) -> ComparisonRecord:
    """A comparison of tables."""
    return ComparisonRecord(package_version="0.1.0", created="2024-05-06T07:08:09Z", tables=tables, excluded=())


def _replaced(row: RowRecord, **changes: Any) -> RowRecord:
    return RowRecord(**{**vars(row), **changes})
