"""The record of a run: `record.json`.

In: a `RunRecord` at the end of a run. Out: the same record, for lists and comparisons of runs. It is written
atomically, and reading refuses unknown keys and wrong types.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.errors import RunError

SCHEMA_VERSION = 1

Status = Literal["finished", "stopped", "failed", "pruned", "died"]
Count = Annotated[int, Ge(0), Le(2**63 - 1)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters.

    Args:
        trained: Number of trainable parameters, a reparametrisation's included.
        stored: Number of parameters in the bundle.
        backbone: Number of parameters of the frozen backbone.
    """

    trained: Count
    stored: Count
    backbone: Count


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a training.

    Args:
        train_s: Seconds of training, over all resumptions.
        steps: Number of optimiser steps.
        tokens: Number of tokens that the backbone processed, of prompts and targets, without padding.
        tokens_per_s: Processed tokens per second of training.
        peak_memory_bytes: Peak memory of the device, or of the process on a CPU; `None` if it was not measured.
        skipped_steps: Number of steps that changed no parameter, as gradients overflowed in float16.
    """

    train_s: Amount
    steps: Count
    tokens: Count
    tokens_per_s: Amount
    peak_memory_bytes: Count | None
    skipped_steps: Count = 0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The choice of the best checkpoint by a metric of generated texts.

    Args:
        metric: Key of the metric, such as `val/bleu`.
        value: Value of the best checkpoint; `None` if no value was finite.
        step: Step of the best checkpoint.
        num_examples: Number of validation inputs that were decoded each time, evenly spread over the split.
        decode_s: Seconds of decoding and computing the metric, over all validations; not part of `cost.train_s`.
    """

    metric: str
    value: float | None
    step: Count
    num_examples: Count
    decode_s: Amount


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The subset of the validation split that has ranked the checkpoints, and the trials of a study.

    `val/loss` is not of these examples but of the whole split.

    Args:
        num_examples: Number of examples of the subset.
        num_in_split: Number of examples of the split that the run measures `val/loss` on.
        examples_sha256: SHA-256 of the indices of the subset's examples: two values are of the same examples if this
            and the fingerprint `data/validation` are the same.
        loss: Loss of the best checkpoint on the subset; `None` if it is not finite.
    """

    num_examples: Count
    num_in_split: Count
    examples_sha256: str
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """The description of a metric's values. Values with different descriptions are never put into one column.

    Args:
        scale: Unit or range, such as `nats/token`, `0-1` or `0-100`.
        direction: Direction of better values, as for an Optuna study.
        version: Version of the metric's definition.
        library: Library that computed the value, with its version.
    """

    scale: str
    direction: Literal["minimize", "maximize"]
    version: str
    library: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of one run.

    Args:
        schema_version: Version of this record's format.
        run_id: Name of the run's folder.
        status: End of the run: `finished`, `stopped` by the user, `failed` with an error, `pruned` by a study, or
            `died`: killed, with a record that was rebuilt from its log.
        task: Name of the task.
        task_version: Version of the task; runs of two versions are never compared.
        backbone: Name of the backbone.
        method: Name of the method.
        seed: Seed of initialisation, batch order and dropout.
        config: Resolved config.
        study: Name of the study that the run is a trial of; `None` for a run by itself.
        trial: Number of the trial in that study; `None` for a run by itself.
        budget: Limit of the run for a comparison, such as `{"steps": 400}` or `{"tokens": 1e6}`; `None`: no limit.
        parameters: Numbers of parameters.
        cost: Time, tokens and memory.
        decoding: Decoding settings of the metrics.
        metrics: Values by `split/name`. A skipped metric has no entry; NaN is never stored.
        metric_info: Descriptions of the values, by the same key or by the name after the slash.
        environment: Machine and software, as from `fingerprint.environment`.
        error: First error of a failed run; `None` for every other run.
        fingerprints: Fingerprints of `data/<split>`, `weights` and `tokenizer`, and the package version as `code`;
            empty for a run that ended before they were computed, or of an earlier version.
        accepted_changes: What the user accepted to differ when the run was resumed: kinds of inputs as in
            `resume_anyway`, and `trainer.max_steps`.
        selection: Choice of the best checkpoint by a metric of generated texts; `None` if `val/loss` chose it.
        ranking: Subset of the validation split that ranked the checkpoints; `None` if the whole split did.
        learning_rate: Peak learning rate that followed from the target tokens of a step; `None` where the config or
            the method's `default_lr` says it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Status
    task: str
    task_version: str
    backbone: str
    method: str
    seed: int
    config: dict[str, Any]
    study: str | None
    trial: int | None
    budget: dict[str, int | float] | None
    parameters: Parameters
    cost: Cost
    decoding: Decoding
    metrics: dict[str, float]
    metric_info: dict[str, MetricInfo]
    environment: dict[str, Any]
    error: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    accepted_changes: list[str] = field(default_factory=list)
    selection: Selection | None = None
    ranking: Ranking | None = None
    learning_rate: Amount | None = None


_FILE = DocumentFile(
    kind=RunRecord,
    version=SCHEMA_VERSION,
    max_bytes=64 * 2**20,
    name="A run's record",
    error=RunError,
    write_advice="leave out what was not computed.",
    read_advice="leave this run out, or repeat it.",
)
write_record, read_record = _FILE.write, _FILE.read
