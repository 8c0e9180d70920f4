"""What a run says of itself: `record.json`.

In: a `RunRecord` when the run ends. Out: the same record for whoever lists or compares runs. It is written by an atomic
rename, and refused on reading unless every key is known and of its type.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.errors import RunError

SCHEMA_VERSION = 1

Status = Literal["finished", "stopped", "failed", "pruned", "died"]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many numbers the method needed.

    Args:
        trained: Those the optimiser changed, a reparametrisation's included.
        stored: Those the bundle holds.
        backbone: Those of the frozen backbone.
    """

    trained: Count
    stored: Count
    backbone: Count


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training took.

    Args:
        train_s: Seconds of training, over all resumptions.
        steps: Optimiser steps.
        tokens: Tokens that went through the backbone, prompt and target, padding excluded.
        tokens_per_s: Their rate.
        peak_memory_bytes: Of the device, or of the process on a CPU; `None` if it was not measured.
        skipped_steps: Those of the steps that moved nothing, as gradients overflowed in float16.
    """

    train_s: Amount
    steps: Count
    tokens: Count
    tokens_per_s: Amount
    peak_memory_bytes: Count | None
    skipped_steps: Count = 0


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric's number means, so that no two meanings are ever put in one column.

    Args:
        scale: The unit or range: `nats/token`, `0-1`, `0-100`.
        direction: Which way is better, in the words of a study.
        version: Of the metric's definition.
        library: What computed it, with its version.
    """

    scale: str
    direction: Literal["minimize", "maximize"]
    version: str
    library: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One training, in full.

    Args:
        schema_version: Of this record's shape.
        run_id: The name of the run's folder.
        status: How it ended: by itself, by the user, by an error, by a study that saw no point in going on; or it
            was killed, and this was rebuilt from its log.
        task: The task's name.
        task_version: Its version; runs of two versions are never compared.
        backbone: The backbone's name.
        method: The method's name.
        seed: Of initialisation, batch order and dropout.
        config: The resolved config.
        study: The sweep that this run is a trial of, if any.
        trial: Its number in that study.
        budget: What the run was given, if it was limited for a comparison: `{"steps": 400}`, `{"tokens": 1e6}`.
        parameters: Trained, stored and frozen.
        cost: Time, tokens, memory.
        decoding: How text was generated for the metrics.
        metrics: Values by `split/name`. One that was not computed is absent: there is no NaN.
        metric_info: What those values mean, by the same key or by the name after the slash.
        environment: See `fingerprint.environment`.
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
